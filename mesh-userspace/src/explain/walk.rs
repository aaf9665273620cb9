//! A walk in progress: every question to a map is asked through it, and written down with its answer.

use mesh_common::family::Family;
use mesh_common::flow::{SILENT_S, is_closing, twin};
use mesh_common::parse::{Packet, protocol};
use mesh_common::schema::{
    Address, Backend, Config, Endpoint, Flow, FlowKey, Frontend, FrontendKey, Peer, RingSlot, address_flag, algorithm,
    endpoint, flow_flag, frontend_flag, origin, peer_flag, rewrite,
};
use mesh_common::verdict::DropReason;

use super::tables::Tables;
use super::trace::{Names, Trace, ip, tuple};
use super::{Question, Way};

/// Why a walk ends before an entry carries the packet on: `Stop` of the programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Drop(DropReason),
    /// Dropped, and the sender is told.
    Refuse(DropReason),
    /// Left to the host as it came.
    Pass,
    /// Dropped without a count.
    Ignore,
    /// Decided when the first fragment of its datagram comes.
    Wait,
    /// On its way without an entry.
    Sent(Way),
}

/// A packet that goes by a flow entry.
pub struct Going<A> {
    pub flow: Flow<A>,
    /// The answers' entry, where one is written here.
    pub reply: Option<(FlowKey<A>, Flow<A>)>,
    /// What a task that reaches itself sees as its caller.
    pub gateway: A,
    /// Endpoint number of the task that sent it; 0: not a task's.
    pub sender: u32,
    pub is_new: bool,
}

pub struct Walk<'a, F: Family, T> {
    pub tables: &'a T,
    pub names: &'a Names,
    pub question: &'a Question<F>,
    pub trace: Trace,
    /// The packet's own entry was one of a task that is gone: the programs have removed it by now.
    pub has_removed: bool,
}

impl<'a, F: Family, T: Tables<F>> Walk<'a, F, T> {
    pub fn packet(&self) -> &'a Packet<F> {
        &self.question.packet
    }

    /// This node's facts, once they are there.
    pub fn config(&mut self) -> Option<Config> {
        let config = self.tables.config().filter(|config| config.mesh0 != 0);
        if config.is_none() {
            self.trace.note("CONFIG", "not written yet: the agent is setting up");
        }
        config
    }

    pub fn address(&mut self, addr: F::Addr) -> Option<Address> {
        let found = self.tables.address(addr);
        let word = match &found {
            None => "no address of a node".to_string(),
            Some(address) => {
                let own = if address.flags & address_flag::OWN != 0 { " (this node)" } else { "" };
                let tunnel = if address.flags & address_flag::TUNNEL != 0 { ", its data path address" } else { "" };
                format!("an address of {}{own}{tunnel}", self.names.node(address.node))
            }
        };
        self.trace.note(format!("ADDRESSES[{}]", ip::<F>(addr)), word);
        found
    }

    pub fn endpoint(&mut self, addr: F::Addr) -> Option<Endpoint<F::Addr>> {
        let found = self.tables.endpoint(addr);
        let word = match &found {
            None => "no task or gateway".to_string(),
            Some(it) if it.kind == endpoint::GATEWAY => format!("the gateway of {}", self.names.network(it.vni)),
            Some(it) => {
                let place = if it.ifindex != 0 { "here".into() } else { format!("on {}", self.names.node(it.node)) };
                format!("{} {place}, network {}", self.names.task(it.number), self.names.network(it.vni))
            }
        };
        self.trace.note(format!("ENDPOINTS[{}]", ip::<F>(addr)), word);
        found
    }

    /// The service behind a VIP.
    pub fn vip(&mut self, addr: F::Addr) -> Option<Frontend<F::Addr>> {
        let found = self.tables.frontend(FrontendKey::vip(addr));
        let word = match &found {
            None => "no VIP".to_string(),
            Some(it) => format!("{}, {}", self.frontend(it), self.names.network(it.vni)),
        };
        self.trace.note(format!("FRONTENDS[{}]", ip::<F>(addr)), word);
        found
    }

    /// The service behind a published port of a node's address.
    pub fn published(&mut self, addr: F::Addr, port: u16, protocol: u8) -> Option<Frontend<F::Addr>> {
        if port == 0 {
            return None;
        }
        let (found, at) = published(self.tables, addr, port, protocol);
        let word = match &found {
            None => "not published".to_string(),
            Some(it) => {
                let taken =
                    if it.flags & frontend_flag::NOT_TAKEN != 0 { "; the host itself uses it here" } else { "" };
                format!("{}, target port {}{taken}", self.frontend(it), it.target_port)
            }
        };
        self.trace.note(format!("FRONTENDS[{at}]"), word);
        found
    }

    /// How many tasks a list names: with weights they stand there more than once, but first each once, ascending.
    fn ready(&self, it: &Frontend<F::Addr>) -> usize {
        let named = (0..it.turns_len).map_while(|at| self.tables.slot(it.turns_at + at)).map(|slot| slot.backend);
        let mut last = 0;
        named.take_while(|backend| std::mem::replace(&mut last, *backend) < *backend).count()
    }

    fn frontend(&self, it: &Frontend<F::Addr>) -> String {
        let ready = match self.ready(it) {
            1 => "1 ready task".to_string(),
            many => format!("{many} ready tasks"),
        };
        let word = match it.algorithm {
            algorithm::MAGLEV | algorithm::MAGLEV_OF_ALLOWED => "maglev",
            algorithm::RANDOM => "random",
            algorithm::CLIENT => "affinity by client",
            _ => "round-robin",
        };
        format!("service {}, {ready}, {word}", self.names.service(it.pool))
    }

    pub fn backend(&mut self, number: u32) -> Option<Backend> {
        let found = self.tables.backend(number);
        let word = match &found {
            None => "no such task (any more)".to_string(),
            Some(it) => {
                let addr = ip::<F>(super::fields::backend_addr::<F>(it));
                let place = if it.ifindex != 0 { "here".into() } else { format!("on {}", self.names.node(it.node)) };
                format!("{} at {addr} {place}", self.names.task(number))
            }
        };
        self.trace.note(format!("BACKENDS[{number}]"), word);
        found
    }

    /// Who stands in a slot of a list or ring, if anybody does.
    pub fn slot(&mut self, at: u32) -> Option<RingSlot> {
        let found = self.tables.slot(at).filter(|slot| slot.backend != 0);
        let word = found.map_or("nobody".to_string(), |slot| self.names.task(slot.backend));
        self.trace.note(format!("RINGS[{at}]"), word);
        found
    }

    /// The peer with this number, if it answers.
    pub fn reachable(&mut self, node: u32) -> Result<Peer, End> {
        let found = self.tables.peer(node).filter(|peer| peer.mtu != 0);
        let asked = format!("PEERS[{node}]");
        match found {
            None => {
                self.trace.note(asked, "no such node");
                Err(End::Drop(DropReason::NotConfigured))
            }
            Some(peer) if peer.flags & peer_flag::UNREACHABLE != 0 => {
                self.trace.note(asked, format!("{} does not answer", self.names.node(node)));
                Err(End::Refuse(DropReason::PeerUnreachable))
            }
            Some(peer) => {
                let addr = std::net::Ipv6Addr::from(peer.addr).to_canonical();
                let way = if peer.link() != 0 { self.names.link(peer.link()) } else { "mesh0".to_string() };
                self.trace.note(asked, format!("{} at {addr} by {way}, path MTU {}", self.names.node(node), peer.mtu));
                Ok(peer)
            }
        }
    }

    /// An entry, as it is by now.
    pub fn flow(&self, key: FlowKey<F::Addr>) -> Option<Flow<F::Addr>> {
        self.tables.flow(key).filter(|_| !(self.has_removed && key == self.packet().tuple))
    }

    /// The flow entry of the packet, for packets from `from`: `flow::lookup` of the programs.
    pub fn lookup(&mut self, from: u32) -> Result<Option<Flow<F::Addr>>, End> {
        let packet = self.packet();
        let asked = format!("FLOWS[{}]", tuple::<F>(&packet.tuple));
        let Some(flow) = self.tables.flow(packet.tuple) else {
            self.trace.note(asked, "none: decided anew");
            return Ok(None);
        };
        if flow.from != from {
            self.trace.note(asked, format!("one of packets from {}: decided anew", self.place(flow.from)));
            return Ok(None);
        }
        if flow.flags & flow_flag::DEAD != 0 {
            self.trace.note(asked, format!("its task {} is gone", self.names.task(flow.backend)));
            self.has_removed = true;
            return if packet.may_open() { Ok(None) } else { Err(End::Refuse(DropReason::BackendGone)) };
        }
        if packet.protocol == protocol::TCP && packet.may_open() && is_closing(flow.seen) {
            self.trace.note(asked, "one that ends: a SYN begins anew");
            return Ok(None);
        }
        if self.has_lost_answers(&flow) {
            self.trace.note(asked, "one whose answers' entry is lost: decided again, for the same task");
            return Ok(None);
        }
        self.trace.note(asked, self.entry(&flow));
        Ok(Some(flow))
    }

    /// `flow::has_lost_answers` of the programs, which look after some silence.
    pub fn has_lost_answers(&self, flow: &Flow<F::Addr>) -> bool {
        let packet = self.packet();
        packet.protocol == protocol::TCP
            && !packet.may_open()
            && flow.rewrite == rewrite::DESTINATION
            && flow.addr != packet.dst
            && flow.flags & (flow_flag::REVERSE | flow_flag::HAIRPIN) == 0
            && self.tables.now_s().saturating_sub(flow.last_seen_s) >= SILENT_S
            && twin(&packet.tuple, flow).is_some_and(|answers| self.flow(answers).is_none())
    }

    /// A flow entry in words.
    pub fn entry(&self, flow: &Flow<F::Addr>) -> String {
        let side = match flow.rewrite {
            rewrite::SOURCE => format!("source becomes {}", super::trace::socket::<F>(flow.addr, flow.port)),
            rewrite::DESTINATION => format!("destination becomes {}", super::trace::socket::<F>(flow.addr, flow.port)),
            _ => "nothing is rewritten".to_string(),
        };
        let task = if flow.backend != 0 { format!(" ({})", self.names.task(flow.backend)) } else { String::new() };
        format!("an entry of {} packets: {side}{task}", flow.packets)
    }

    /// Where packets of an entry come from, in words.
    pub fn place(&self, from: u32) -> String {
        match from {
            origin::WIRE => "the world".to_string(),
            origin::HOST => "this host".to_string(),
            peer if origin::is_peer(peer) => self.names.node(origin::number(peer)),
            link => self.names.link(link),
        }
    }
}

/// The service behind a published port of a node's address: `balance::published` of the programs; and what was asked in the end.
pub fn published<F: Family>(
    tables: &impl Tables<F>,
    addr: F::Addr,
    port: u16,
    protocol: u8,
) -> (Option<Frontend<F::Addr>>, String) {
    let word = super::trace::protocol(protocol);
    let found = tables.frontend(FrontendKey::published(port, protocol));
    if found.is_none_or(|it| it.flags & frontend_flag::BY_ADDRESS == 0) {
        return (found, format!("port {port} {word}"));
    }
    let at = super::trace::socket::<F>(addr, port);
    (tables.frontend(FrontendKey::published_at(addr, port, protocol)), format!("{at} {word}"))
}
