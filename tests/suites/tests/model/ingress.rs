//! A call to a frontend, at the ingress node and at the owner: docs/packet-walk.md, "Outside → published port, and back"; docs/reference/wire.md.

use super::read::{Packet, mac_at};
use super::{
    Backend, Case, Endpoint, Flow, Frontend, Ip, Key, Mac, Origin, Side, Slot, Step, Stop, Way, World, mac, none_like,
    of_family, share, vni,
};

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

impl Back {
    /// To a task of this node.
    pub fn to_task(caller: &Endpoint) -> Back {
        Back { way: Way::Task, link: caller.link, node: 0, vni: 0, mac: caller.mac }
    }

    pub fn to_host(world: &World) -> Back {
        Back { way: Way::Host, link: 0, node: 0, vni: 0, mac: world.mesh0_mac }
    }
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
    /// A call that a neighbour on the wire hands to this node.
    pub fn enter_from_wire(&mut self, packet: &Packet, frontend: &Frontend) -> Step<Flow> {
        let call = Call {
            entry: Entry::Wire,
            from: Origin::World,
            target_port: frontend.target_port,
            back: Back { way: Way::Uplink, link: self.link, node: 0, vni: 0, mac: mac_at(&self.frame, 6) },
            gateway: none_like(packet.key.src),
            gone: 0,
        };
        self.enter(packet, frontend, &call)
    }

    pub fn enter(&mut self, packet: &Packet, frontend: &Frontend, call: &Call) -> Step<Flow> {
        let src = packet.key.src;
        if frontend.allow.as_ref().is_some_and(|callers| !callers.iter().any(|(addr, bits)| share(*addr, src, *bits))) {
            return Err(Stop::Refuse("not-allowed"));
        }
        let (number, node) = self.choose(frontend, packet, call.gone)?;
        if node == self.world.node
            || call.entry == Entry::Client && call.gone == 0 && self.meets_own(packet, number, call)
        {
            let backend = self.world.backends.get(&number).ok_or(Stop::Drop("not-configured"))?;
            return self.accept(packet, number, backend, call.target_port, call.from, call.back, call.gateway);
        }
        Ok(self.hand_to_owner(packet, (number, node), call.entry, call.from, call.back.link))
    }

    /// A task's own other call, by a VIP or directly, has this one's ports at a backend elsewhere (docs/decisions/0038).
    fn meets_own(&self, packet: &Packet, number: u32, call: &Call) -> bool {
        let key = packet.key;
        if !packet.opens()
            && let Some(own) = self.flow(&key)
        {
            return own.rewrite == Side::Destination
                && own.backend == number
                && own.from == call.from
                && !own.flags.dead;
        }
        let Some(backend) = self.world.backends.get(&number) else { return false };
        let port = if call.target_port == 0 { key.dport } else { call.target_port };
        let addr = of_family(backend.addrs, key.dst);
        let answers = Key { src: addr, dst: key.src, sport: port, dport: key.sport, protocol: key.protocol };
        let is_taken = self.flow(&answers).is_some_and(|other| other.flags.reply);
        is_taken && (packet.opens() || self.has_another_port(packet, answers))
    }

    /// To the node that has the task. The call's direction alone is remembered.
    pub fn hand_to_owner(
        &mut self,
        packet: &Packet,
        (number, node): Slot,
        entry: Entry,
        from: Origin,
        link: u32,
    ) -> Flow {
        let mut flow = Flow::new(from, Way::Tunnel);
        flow.addr = none_like(packet.key.src);
        (flow.node, flow.link, flow.backend) = (node, link, number);
        flow.mac = mac::of(mac::KIND_ENDPOINT, number);
        flow.vni = if entry == Entry::Wire { vni::REQUEST_WIRE } else { vni::REQUEST_NODE };
        match entry {
            Entry::Wire => flow.flags.keep_mac = true,
            Entry::Host => flow.flags.from_host = true,
            Entry::Client => flow.flags.from_client = true,
        }
        flow.count_first(packet);
        self.put(packet.key, flow.clone());
        flow
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
        let addr = of_family(backend.addrs, key.dst);
        let is_hairpin = back.way == Way::Task && key.src == addr;
        let is_here = backend.node == self.world.node;
        let mut call = Flow::new(from, if is_here { Way::Task } else { Way::Tunnel });
        (call.rewrite, call.addr, call.port) = (Side::Destination, addr, port);
        (call.link, call.backend, call.mac, call.flags.hairpin) = (backend.link, number, backend.mac, is_hairpin);
        if !is_here {
            (call.node, call.vni) = (backend.node, backend.vni);
        }
        let answers_from = if is_here { Origin::Link(backend.link) } else { Origin::Peer(backend.node) };
        let mut answer = Flow::new(answers_from, back.way);
        (answer.rewrite, answer.addr, answer.port) = (Side::Source, key.dst, key.dport);
        (answer.link, answer.node, answer.vni) = (back.link, back.node, back.vni);
        (answer.backend, answer.mac, answer.flags.hairpin) = (number, back.mac, is_hairpin);
        let caller = if is_hairpin { gateway } else { key.src };
        let answered = Key { src: addr, dst: caller, sport: port, dport: key.sport, protocol: key.protocol };
        self.remember_pair(packet, &mut call, answered, answer)?;
        Ok(call)
    }

    /// Who has this port of this address: of all addresses, or of that one where the port is published so (docs/decisions/0031).
    pub fn published(&self, addr: Ip, port: u16, protocol: u8) -> Option<Frontend> {
        let all = self.world.published.get(&(none_like(addr), port, protocol)).filter(|_| port != 0)?;
        let found = if all.by_address { self.world.published.get(&(addr, port, protocol))? } else { all };
        Some(found.clone())
    }
}
