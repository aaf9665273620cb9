//! Decides a new flow to a service: `stage/balance.rs`, `vip.rs`, `direct.rs`, `ingress.rs`, `owner.rs` and `flow::remember_pair` of the programs.
//!
//! Invariant: the same arithmetic over the same slots, so that the task named is the one that the next packet gets.

use mesh_common::family::Family;
use mesh_common::flow::{MOST_TWINS, note};
use mesh_common::parse::{Form, Packet, protocol};
use mesh_common::schema::{
    AffinityKey, Backend, Config, Endpoint, Flow, FlowKey, Frontend, RingSlot, algorithm, backend_state, deliver,
    flow_flag, origin, rewrite,
};
use mesh_common::snat;
use mesh_common::verdict::DropReason;
use mesh_common::wire::{mac, vni};
use mesh_common::{affinity, hash};

use super::fields::backend_addr;
use super::tables::Tables;
use super::trace::{ip, tuple};
use super::walk::{End, Going, Walk};

/// How the reply gets back to the caller: `WayBack` of the programs.
#[derive(Clone, Copy)]
pub struct WayBack {
    pub deliver: u8,
    pub ifindex: u32,
    pub node: u32,
    pub vni: u32,
    pub mac: [u8; 6],
}

impl WayBack {
    /// To a task of this node.
    pub fn to_task<A>(caller: &Endpoint<A>) -> WayBack {
        WayBack { deliver: deliver::TASK, ifindex: caller.ifindex, node: 0, vni: 0, mac: caller.mac }
    }

    /// To this node's own stack.
    pub fn to_host(config: &Config) -> WayBack {
        WayBack { deliver: deliver::HOST, ifindex: 0, node: 0, vni: 0, mac: config.mesh0_mac }
    }

    /// Through the tunnel to the peer with this number.
    pub fn to_peer(node: u32, vni: u32, mac: [u8; 6]) -> WayBack {
        WayBack { deliver: deliver::TUNNEL, ifindex: 0, node, vni, mac }
    }
}

/// Where a call came into the cluster.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    Wire,
    Host,
    Client,
}

/// A call to a frontend as it came in.
pub struct Call<A> {
    pub entry: Entry,
    pub from: u32,
    pub target_port: u16,
    pub node: u32,
    pub back: WayBack,
    pub gateway: A,
    pub sender: u32,
}

/// A call's entry, and the answers' with its key.
type Pair<A> = (Flow<A>, (FlowKey<A>, Flow<A>));

impl<F: Family, T: Tables<F>> Walk<'_, F, T> {
    fn choose(&mut self, frontend: &Frontend<F::Addr>, from: u32) -> Result<RingSlot, End> {
        let packet = self.packet();
        if frontend.turns_len == 0 {
            return Err(End::Refuse(DropReason::NoBackend));
        }
        if frontend.algorithm == algorithm::CLIENT {
            return self.client_keeps(frontend);
        }
        if !packet.may_open()
            && !self.tables.in_flood()
            && let Some(chosen) = self.by_own(frontend, from).or_else(|| self.by_twin(frontend))
        {
            return Ok(chosen);
        }
        let is_maglev = [algorithm::MAGLEV, algorithm::MAGLEV_OF_ALLOWED].contains(&frontend.algorithm);
        let len = frontend.turns_len;
        let slot = if self.tables.in_flood() || !packet.may_open() || is_maglev {
            let hash = packet.hash();
            let at = hash::slot(hash, frontend.ring_len);
            let why = if is_maglev {
                "maglev"
            } else if packet.may_open() {
                "a flood is on, so the ring chooses"
            } else {
                "no first packet, so the ring chooses"
            };
            self.trace.note("hash", format!("{why}: {hash:08x} of the tuple is slot {at} of {}", frontend.ring_len));
            frontend.ring_at + at
        } else if frontend.algorithm == algorithm::RANDOM {
            let at = hash::slot(self.question.chance, len);
            self.trace.note("chance", format!("any of {len}; shown as if it said {at}"));
            frontend.turns_at + at
        } else {
            let turn = self.tables.turn(frontend.pool).unwrap_or(0);
            let at = (turn % u64::from(len)) as u32;
            self.trace.note(format!("TURNS[{}]", frontend.pool), format!("turn {turn}: place {at} of {len}"));
            frontend.turns_at + at
        };
        self.slot(slot).ok_or(End::Refuse(DropReason::NoBackend))
    }

    /// The backend of a call whose entry would not be decided again if that of its answers were there.
    fn by_own(&mut self, frontend: &Frontend<F::Addr>, from: u32) -> Option<RingSlot> {
        let own = self.flow(self.packet().tuple)?;
        let is_call = own.from == from && own.rewrite == rewrite::DESTINATION && own.flags & flow_flag::DEAD == 0;
        let node = self.tables.backend(own.backend).filter(|it| is_call && it.pool == frontend.pool)?.node;
        self.trace.note("the entry", format!("{} has this connection", self.names.task(own.backend)));
        Some(RingSlot { backend: own.backend, node })
    }

    /// The backend whose answers to this connection are remembered, though the call is not.
    fn by_twin(&mut self, frontend: &Frontend<F::Addr>) -> Option<RingSlot> {
        let packet = self.packet();
        let port = if frontend.target_port == 0 { packet.dport } else { frontend.target_port };
        for turn in 0..frontend.turns_len.min(MOST_TWINS) {
            let chosen = self.tables.slot(frontend.turns_at + turn).filter(|slot| slot.backend != 0)?;
            let Some(backend) = self.tables.backend(chosen.backend) else { continue };
            let answer = FlowKey::new(backend_addr::<F>(&backend), packet.src, port, packet.sport, packet.protocol);
            if self.flow(answer).is_some_and(|twin| answers_call(&twin, packet)) {
                self.trace.note("twin", format!("{} answers this connection", self.names.task(chosen.backend)));
                return Some(chosen);
            }
        }
        None
    }

    /// The answers to the call stand under the port that it is given first where this tuple of theirs is taken.
    fn has_another_port(&self, answer: FlowKey<F::Addr>) -> bool {
        let packet = self.packet();
        let given = FlowKey { dport: snat::candidate(packet.hash(), 0), ..answer };
        self.flow(given).is_some_and(|it| answers_call(&it, packet) && it.other_port == packet.sport)
    }

    /// A service with affinity: what the client keeps, else the ring by its address alone.
    fn client_keeps(&mut self, frontend: &Frontend<F::Addr>) -> Result<RingSlot, End> {
        let packet = self.packet();
        let key = AffinityKey { addr: packet.src, pool: frontend.pool };
        let asked = format!("AFFINITY[{}, {}]", ip::<F>(packet.src), frontend.pool);
        let kept = self.tables.kept(key);
        let number = match kept {
            Some(kept)
                if affinity::holds(&kept, self.tables.now_s(), frontend.affinity_s, packet.may_open())
                    && self.is_ready(frontend, kept.backend) =>
            {
                self.trace.note(asked, format!("keeps {}", self.names.task(kept.backend)));
                kept.backend
            }
            kept => {
                let word = if kept.is_some() { "kept one that is gone, or too long ago" } else { "keeps nobody yet" };
                self.trace.note(asked, word);
                let hash = hash::client::<F>(packet.src);
                let at = hash::slot(hash, frontend.ring_len);
                self.trace.note("hash", format!("{hash:08x} of the client is slot {at} of {}", frontend.ring_len));
                self.slot(frontend.ring_at + at).ok_or(End::Refuse(DropReason::NoBackend))?.backend
            }
        };
        let Some(backend) = self.backend(number) else { return Err(End::Drop(DropReason::NotConfigured)) };
        Ok(RingSlot { backend: number, node: backend.node })
    }

    /// The backend is one of the service's that takes new flows.
    fn is_ready(&self, frontend: &Frontend<F::Addr>, number: u32) -> bool {
        self.tables.backend(number).is_some_and(|it| it.pool == frontend.pool && it.state == backend_state::READY)
    }

    /// A ready backend other than this one, if there is one.
    fn another(&mut self, frontend: &Frontend<F::Addr>, than: RingSlot) -> RingSlot {
        let first = self.slot(frontend.turns_at).unwrap_or(than);
        if first.backend != than.backend || frontend.turns_len < 2 {
            first
        } else {
            self.slot(frontend.turns_at + 1).unwrap_or(than)
        }
    }

    /// East–west: a task's call to a VIP.
    pub fn vip_flow(
        &mut self,
        source: &Endpoint<F::Addr>,
        frontend: &Frontend<F::Addr>,
    ) -> Result<Going<F::Addr>, End> {
        let packet = self.packet();
        match packet.form {
            Form::Fragment => return Err(End::Drop(DropReason::Fragment)),
            Form::IcmpError | Form::EchoReply => return Err(End::Drop(DropReason::IcmpError)),
            _ => {}
        }
        let mut chosen = self.choose(frontend, source.ifindex)?;
        if chosen.backend == source.number && frontend.turns_len > 1 {
            self.trace.note("the caller itself", "another one, since there is one");
            chosen = self.another(frontend, chosen);
        }
        let number = chosen.backend;
        let Some(backend) = self.backend(number) else { return Err(End::Drop(DropReason::NotConfigured)) };
        let back = WayBack::to_task(source);
        self.accept(number, &backend, 0, source.ifindex, &back, source.gateway, source.number)
    }

    /// A call to a task by its own address: its flow, where its answers would be taken for another's; else it goes as it is.
    pub fn direct_flow(
        &mut self,
        target: &Endpoint<F::Addr>,
        from: u32,
        back: &WayBack,
        gateway: F::Addr,
        sender: u32,
    ) -> Result<Option<Going<F::Addr>>, End> {
        let packet = self.packet();
        if packet.form != Form::Ports || !packet.may_open() {
            return Ok(None);
        }
        let answers = packet.tuple.turned();
        let meets_another = match self.flow(answers) {
            Some(other) => other.flags & flow_flag::REVERSE != 0,
            None => packet.protocol == protocol::TCP && self.flow(packet.tuple).is_some(),
        };
        let Some(backend) = self.backend(target.number).filter(|_| meets_another) else { return Ok(None) };
        self.trace
            .note(format!("FLOWS[{}]", tuple::<F>(&answers)), "there was a call on these ports: kept apart from it");
        self.accept(target.number, &backend, 0, from, back, gateway, sender).map(Some)
    }

    /// North–south: a call to a frontend, at the node that it entered.
    pub fn enter(&mut self, frontend: &Frontend<F::Addr>, call: &Call<F::Addr>) -> Result<Going<F::Addr>, End> {
        if frontend.allow != 0 {
            let packet = self.packet();
            let is_allowed = self.tables.is_allowed(frontend.pool, frontend.allow, packet.src);
            let asked = format!("ALLOW[{}, {}]", self.names.service(frontend.pool), ip::<F>(packet.src));
            self.trace.note(asked, if is_allowed { "may call" } else { "is on no prefix of the list" });
            if !is_allowed {
                return Err(End::Refuse(DropReason::NotAllowed));
            }
        }
        let RingSlot { backend: number, node } = self.choose(frontend, call.from)?;
        if node == call.node || call.entry == Entry::Client && self.meets_another(number, call.from, call.target_port) {
            let Some(backend) = self.backend(number) else { return Err(End::Drop(DropReason::NotConfigured)) };
            return self.accept(number, &backend, call.target_port, call.from, &call.back, call.gateway, call.sender);
        }
        let flow = self.to_owner(number, node, call.entry, call.from, call.back.ifindex);
        Ok(Going { flow, reply: None, gateway: call.gateway, sender: call.sender, is_new: true })
    }

    /// A task's call to a backend elsewhere that is translated here: this node alone knows of the other call whose answers have its answers' tuple.
    fn meets_another(&mut self, number: u32, from: u32, target_port: u16) -> bool {
        let packet = self.packet();
        if !packet.may_open()
            && let Some(own) = self.flow(packet.tuple)
        {
            let is_of_this = own.from == from && own.backend == number && own.flags & flow_flag::DEAD == 0;
            return is_of_this && own.rewrite == rewrite::DESTINATION;
        }
        let Some(backend) = self.tables.backend(number) else { return false };
        let port = if target_port == 0 { packet.dport } else { target_port };
        let answers = FlowKey::new(backend_addr::<F>(&backend), packet.src, port, packet.sport, packet.protocol);
        let is_taken = self.flow(answers).is_some_and(|other| other.flags & flow_flag::REVERSE != 0);
        let meets = is_taken && (packet.may_open() || self.has_another_port(answers));
        if meets {
            let asked = format!("FLOWS[{}]", tuple::<F>(&answers));
            self.trace.note(asked, "the task has called the same port of this backend by another way: translated here");
        }
        meets
    }

    /// How a call goes to the node of its task, unchanged.
    pub fn to_owner(&mut self, number: u32, node: u32, entry: Entry, from: u32, came_by: u32) -> Flow<F::Addr> {
        let (vni, flags) = match entry {
            Entry::Wire => (vni::REQUEST_WIRE, flow_flag::KEEP_MAC),
            Entry::Host => (vni::REQUEST_NODE, flow_flag::FROM_HOST),
            Entry::Client => (vni::REQUEST_NODE, flow_flag::FROM_CLIENT),
        };
        Flow {
            deliver: deliver::TUNNEL,
            from,
            node: node as u16,
            ifindex: came_by,
            backend: number,
            mac: mac::of(mac::KIND_ENDPOINT, number),
            vni,
            flags,
            packets: 1,
            seen: note(0, self.packet().tcp_flags),
            ..blank()
        }
    }

    /// The owner's part: who rewrites remembers the way back.
    #[expect(clippy::too_many_arguments, reason = "as the programs' own, whose order this keeps")]
    pub fn accept(
        &mut self,
        number: u32,
        backend: &Backend,
        target_port: u16,
        from: u32,
        back: &WayBack,
        gateway: F::Addr,
        sender: u32,
    ) -> Result<Going<F::Addr>, End> {
        let packet = self.packet();
        let addr = backend_addr::<F>(backend);
        let port = if target_port == 0 { packet.dport } else { target_port };
        let is_hairpin = back.deliver == deliver::TASK && packet.src == addr;
        let flags = if is_hairpin { flow_flag::HAIRPIN } else { 0 };
        let is_here = backend.ifindex != 0;
        let mut forward = Flow {
            addr,
            from,
            port,
            rewrite: rewrite::DESTINATION,
            deliver: deliver::TASK,
            ifindex: backend.ifindex,
            backend: number,
            mac: backend.mac,
            flags,
            ..blank()
        };
        if !is_here {
            (forward.deliver, forward.node, forward.vni) = (deliver::TUNNEL, backend.node as u16, backend.vni);
        }
        let reverse = Flow {
            addr: packet.dst,
            from: if is_here { backend.ifindex } else { origin::peer(backend.node) },
            port: packet.dport,
            rewrite: rewrite::SOURCE,
            deliver: back.deliver,
            ifindex: back.ifindex,
            node: back.node as u16,
            vni: back.vni,
            backend: number,
            mac: back.mac,
            flags,
            ..blank()
        };
        let caller = if is_hairpin { gateway } else { packet.src };
        let reply = FlowKey::new(addr, caller, port, packet.sport, packet.protocol);
        let (flow, reply) = self.pair(forward, reply, reverse)?;
        Ok(Going { flow, reply: Some(reply), gateway, sender, is_new: true })
    }

    /// Both entries of a new flow; the source port changes where another flow has the answer's tuple.
    fn pair(
        &mut self,
        mut forward: Flow<F::Addr>,
        mut reply: FlowKey<F::Addr>,
        mut reverse: Flow<F::Addr>,
    ) -> Result<Pair<F::Addr>, End> {
        let packet = self.packet();
        forward.packets = 1;
        forward.seen = note(0, packet.tcp_flags);
        reverse.flags |= flow_flag::REVERSE;
        if let Some(other) = self.flow(reply)
            && !is_of_the_same(&other, &reverse)
        {
            let taken = format!("FLOWS[{}]", tuple::<F>(&reply));
            reverse.other_port = packet.sport;
            let hash = packet.hash();
            let free = (0..4).map(|attempt| snat::candidate(hash, attempt)).find(|port| {
                let key = FlowKey::new(reply.src, reply.dst, reply.sport, *port, reply.protocol);
                self.flow(key).is_none_or(|other| is_of_the_same(&other, &reverse))
            });
            let Some(port) = free else {
                self.trace.note(taken, "another flow has the answer's tuple, and four more ports are taken");
                return Err(End::Drop(DropReason::TableFull));
            };
            self.trace.note(taken, format!("another flow has the answer's tuple: source port {port} instead"));
            reply = FlowKey::new(reply.src, reply.dst, reply.sport, port, reply.protocol);
            // What has no port keeps none.
            if packet.sport != 0 {
                forward.other_port = port;
                forward.flags |= flow_flag::PORT_CHANGED;
            }
        }
        Ok((forward, (reply, reverse)))
    }
}

/// The entry is that of live answers to what is called here.
fn answers_call<F: Family>(flow: &Flow<F::Addr>, packet: &Packet<F>) -> bool {
    flow.flags & (flow_flag::REVERSE | flow_flag::DEAD) == flow_flag::REVERSE
        && flow.rewrite == rewrite::SOURCE
        && flow.addr == packet.dst
        && flow.port == packet.dport
}

/// An entry is an older one of the same call's answers.
fn is_of_the_same<A: PartialEq>(other: &Flow<A>, call: &Flow<A>) -> bool {
    let what = |flow: &Flow<A>| (flow.port, flow.rewrite, flow.other_port);
    other.addr == call.addr && what(other) == what(call)
}

/// A flow entry that does nothing yet.
pub fn blank<A: Default>() -> Flow<A> {
    Flow { deliver: deliver::TASK, ..Flow::default() }
}
