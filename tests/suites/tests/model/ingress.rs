//! A call to a frontend, at the ingress node and at the owner: docs/packet-walk.md, "Outside → published port, and back"; docs/reference/wire.md.

use super::read::Packet;
use super::{Backend, Case, Flow, Frontend, Ip, Key, Mac, Origin, Side, Step, Stop, Way, mac, vni};

/// Where a call came into the cluster.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    Wire,
    Host,
    Client,
}

/// How the answer gets back.
#[derive(Clone, Copy)]
pub struct Back {
    pub way: Way,
    pub link: u32,
    pub node: u32,
    pub vni: u32,
    pub mac: Mac,
}

/// A call as it came in.
pub struct Call {
    pub entry: Entry,
    pub from: Origin,
    /// 0: the packet's own.
    pub target_port: u16,
    pub back: Back,
    /// Whom a task sees that reaches itself.
    pub gateway: Ip,
    /// Endpoint that is not to be chosen; 0: none.
    pub gone: u32,
}

impl Case<'_> {
    pub fn enter(&mut self, packet: &Packet, frontend: &Frontend, call: &Call) -> Step<Flow> {
        let begins = |prefix: &(Ip, u32)| {
            let differing = u32::from_be_bytes(prefix.0) ^ u32::from_be_bytes(packet.key.src);
            differing.leading_zeros() >= prefix.1
        };
        if frontend.allow.as_ref().is_some_and(|callers| !callers.iter().any(begins)) {
            return Err(Stop::Refuse("not-allowed"));
        }
        let (number, node) = self.choose(frontend, packet, call.gone)?;
        if node == self.world.node {
            let backend = self.world.backends.get(&number).ok_or(Stop::Drop("not-configured"))?;
            return self.accept(packet, number, backend, call.target_port, call.from, call.back, call.gateway);
        }
        let mut flow = Flow::new(call.from, Way::Tunnel);
        (flow.node, flow.link, flow.backend) = (node, call.back.link, number);
        flow.mac = mac::of(mac::KIND_ENDPOINT, number);
        flow.vni = if call.entry == Entry::Wire { vni::REQUEST_WIRE } else { vni::REQUEST_NODE };
        match call.entry {
            Entry::Wire => flow.flags.keep_mac = true,
            Entry::Host => flow.flags.from_host = true,
            Entry::Client => flow.flags.from_client = true,
        }
        flow.packets = 1;
        flow.note(packet.flags);
        self.put(packet.key, flow.clone());
        Ok(flow)
    }

    /// The owner's part: both directions are remembered.
    #[expect(clippy::too_many_arguments, reason = "a call has as many sides")]
    pub fn accept(
        &mut self,
        packet: &Packet,
        number: u32,
        backend: &Backend,
        target_port: u16,
        from: Origin,
        back: Back,
        gateway: Ip,
    ) -> Step<Flow> {
        let key = packet.key;
        let port = if target_port == 0 { key.dport } else { target_port };
        let is_hairpin = back.way == Way::Task && back.link == backend.link;
        let mut call = Flow::new(from, Way::Task);
        (call.rewrite, call.addr, call.port) = (Side::Destination, backend.addr, port);
        (call.link, call.backend, call.mac, call.flags.hairpin) = (backend.link, number, backend.mac, is_hairpin);
        let mut answer = Flow::new(Origin::Link(backend.link), back.way);
        (answer.rewrite, answer.addr, answer.port) = (Side::Source, key.dst, key.dport);
        (answer.link, answer.node, answer.vni) = (back.link, back.node, back.vni);
        (answer.backend, answer.mac, answer.flags.hairpin) = (number, back.mac, is_hairpin);
        let caller = if is_hairpin { gateway } else { key.src };
        let answered = Key { src: backend.addr, dst: caller, sport: port, dport: key.sport, protocol: key.protocol };
        self.remember_pair(packet, &mut call, answered, answer)?;
        Ok(call)
    }

    pub fn published(&self, port: u16, protocol: u8) -> Option<Frontend> {
        self.world.published.get(&(port, protocol)).filter(|_| port != 0).cloned()
    }
}
