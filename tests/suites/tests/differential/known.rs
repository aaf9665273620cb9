//! Frames that the flow table knows something of: a flow's next packet, what comes back of it, and a call in whose way everything stands.

use super::frames::{Frame, Speakers, pick};
use super::model::read::{SYN, TCP, UDP};
use super::model::sums::{hash, port_of_ours};
use super::model::{Entrance, Flow, Key, Origin, Way, mac, vni};
use super::packet::Said;
use super::worlds::{CALLERS, NEIGHBOUR, address_of, ip, six};

impl Speakers<'_> {
    /// A packet of a flow that is remembered, from where it is expected, or an answer to it.
    pub fn of_a_flow(&mut self) -> Option<Frame> {
        let world = self.world;
        let from = self.random.below(self.known.len());
        let mut later = self.known.iter().skip(from).filter_map(|key| Some((*key, world.flows.get(key)?)));
        // What this node's own stack called is rarest.
        if self.random.one_in(30)
            && let Some((answers, _)) = later.clone().find(|(_, flow)| flow.flags.reply && flow.way == Way::Host)
            && let Some(frame) = self.direct(answers)
        {
            return Some(frame);
        }
        // So is what has a published port of its own that a task may call as well.
        if self.random.one_in(8)
            && let Some(frame) = later.clone().find_map(|(answers, flow)| self.by_another_way(answers, flow))
        {
            return Some(frame);
        }
        let (key, flow) = later.next()?;
        // What goes to other nodes is rarer, and has more ways to come back.
        let (key, flow) = match later.find(|(_, flow)| flow.way == Way::Tunnel) {
            Some(there) if self.random.one_in(3) => there,
            _ => (key, flow),
        };
        if flow.flags.reply
            && self.random.one_in(6)
            && let Some(frame) = self.direct(key)
        {
            return Some(frame);
        }
        let mut packet = self.packet(key.src, key.dst);
        (packet.key, packet.stays) = (key, true);
        (packet.quotes, packet.kind) = (None, if key.dport == 0 { 8 } else { 0 });
        (packet.offset, packet.more) = match self.random.below(4) {
            0 => (185, self.random.one_in(2)),
            1 => (0, true),
            _ => (0, false),
        };
        if self.random.one_in(4)
            && let Some(frame) = self.turned_back(packet.clone(), flow)
        {
            return Some(frame);
        }
        if self.random.one_in(6) {
            self.object(&mut packet);
        }
        match flow.from {
            Origin::World => Some(self.at_uplink(&packet)),
            Origin::Stack => Some(self.of_host(&packet)),
            Origin::Peer(node) => {
                let macs = (mac::of(mac::KIND_ENDPOINT, flow.backend), self.random.of(&[mac::GATEWAY, mac::HOST]));
                let id = self.random.of(&[4_097, 4_098, vni::REQUEST_WIRE, vni::REQUEST_NODE]);
                Some(self.tunnelled(&packet, macs, address_of(node), id))
            }
            Origin::Link(link) => {
                let (_, task) = world.endpoints.iter().find(|(_, it)| it.link == link)?;
                let mac = if self.random.one_in(30) { mac::of(1, 77) } else { task.mac };
                Some(self.frame(&packet, mac::GATEWAY, mac, Entrance::Task { link }))
            }
        }
    }

    /// A call to the task itself whose answers would have this tuple, which others have.
    fn direct(&mut self, answers: Key) -> Option<Frame> {
        let task = self.world.endpoints.get(&answers.src)?;
        let mut packet = self.packet(answers.dst, answers.src);
        (packet.key, packet.stays, packet.quotes) = (answers.turned(), true, None);
        (packet.offset, packet.more, packet.flags) = (0, false, self.random.of(&[SYN, SYN, SYN, 0x10]));
        if self.world.addresses.get(&answers.dst).is_some_and(|it| it.is_own) {
            return Some(self.of_host(&packet));
        }
        let caller = self.world.endpoints.get(&answers.dst)?;
        if caller.link != 0 {
            return Some(self.frame(&packet, mac::GATEWAY, caller.mac, Entrance::Task { link: caller.link }));
        }
        Some(self.tunnelled(&packet, (task.mac, mac::GATEWAY), address_of(caller.node), caller.vni))
    }

    /// A task's call to a published port of a task elsewhere, whose answers would have this tuple there: of a call that it made by another way.
    fn by_another_way(&mut self, answers: Key, flow: &Flow) -> Option<Frame> {
        let world = self.world;
        let caller = world.endpoints.get(&answers.dst).filter(|it| it.link != 0)?;
        if !flow.flags.reply || world.backends.get(&flow.backend)?.link != 0 {
            return None;
        }
        let ((_, port, _), _) = world.published.iter().find(|((addr, port, protocol), it)| {
            let target = if it.target_port == 0 { *port } else { it.target_port };
            (addr.is_ipv4(), target, *protocol) == (answers.dst.is_ipv4(), answers.sport, answers.protocol)
                && it.turns.iter().any(|(number, _)| *number == flow.backend)
        })?;
        let node = address_of(self.random.of(&[1, 2, 3]));
        let mut packet = self.packet(answers.dst, if answers.dst.is_ipv4() { node } else { six(node) });
        (packet.key.sport, packet.key.dport, packet.key.protocol) = (answers.dport, *port, answers.protocol);
        (packet.stays, packet.quotes, packet.offset, packet.more) = (true, None, 0, false);
        packet.flags = self.random.of(&[SYN, SYN, SYN, 0x10]);
        Some(self.frame(&packet, mac::GATEWAY, caller.mac, Entrance::Task { link: caller.link }))
    }

    /// The node that a flow went to sends its packet back, or sends an answer.
    fn turned_back(&mut self, mut packet: Said, flow: &Flow) -> Option<Frame> {
        if flow.way != Way::Tunnel {
            return None;
        }
        let key = packet.key;
        packet.flags = self.random.of(&[SYN, SYN, SYN, 0x10]);
        let remote = address_of(flow.node);
        if packet.is_piece() && !self.random.one_in(4) {
            (packet.offset, packet.more) = (0, false);
        }
        if flow.vni >= vni::INGRESS {
            // Of a VIP: the packet has the task's address by now.
            let port = |new: u16, old: u16| if new == 0 { old } else { new };
            packet.key = Key {
                dst: flow.addr,
                sport: port(flow.other_port, key.sport),
                dport: port(flow.port, key.dport),
                ..key
            };
            let answers = self.random.one_in(2);
            let id = if answers { flow.vni } else { vni::TURNED_BACK_TASK };
            if answers {
                packet.key = packet.key.turned();
                if self.random.one_in(3) {
                    self.object(&mut packet);
                }
            }
            return Some(self.tunnelled(&packet, (flow.mac, mac::GATEWAY), remote, id));
        }
        if self.random.one_in(2) {
            packet.key = key.turned();
            packet.flags = 0x12;
            if self.random.one_in(3) {
                self.object(&mut packet);
            }
            let id = flow.vni + vni::REPLY_WIRE - vni::REQUEST_WIRE;
            return Some(self.tunnelled(&packet, (NEIGHBOUR, mac::GATEWAY), remote, id));
        }
        let sender = match flow.from {
            Origin::Link(link) => self.world.endpoints.values().find(|it| it.link == link).map_or(0, |it| it.number),
            _ => 0,
        };
        let src = if flow.flags.from_client { mac::of(mac::KIND_CLIENT, sender) } else { NEIGHBOUR };
        let id = if flow.vni == vni::REQUEST_WIRE { vni::TURNED_BACK_WIRE } else { vni::TURNED_BACK_NODE };
        Some(self.tunnelled(&packet, (flow.mac, src), remote, id))
    }

    /// A call that finds everything taken that it could be told apart by: the entries that are in its way, and its first packet.
    pub fn crowd(&mut self) -> Option<(Vec<(Key, Flow)>, Frame)> {
        let world = self.world;
        let (addr, task) =
            pick(self.random, world.endpoints.iter().filter(|(addr, it)| addr.is_ipv4() && it.link != 0));
        let kind = self.random.below(3);
        let (src, dst) = match kind {
            0 => (*addr, self.random.of(&CALLERS)),
            1 => (
                *addr,
                *world.vips.iter().find(|(addr, it)| addr.is_ipv4() && it.vni == task.vni && !it.turns.is_empty())?.0,
            ),
            _ => (self.random.of(&CALLERS), address_of(1)),
        };
        let mut packet = self.packet(src, dst);
        (packet.offset, packet.more, packet.flags, packet.quotes, packet.stays) = (0, false, SYN, None, true);
        packet.key.protocol = self.random.of(&[TCP, UDP]);
        let key = packet.key;
        let ours =
            |key: Key, hash: u32, tries: u32| (0..tries).map(move |at| Key { dport: port_of_ours(hash, at), ..key });
        let hash = hash(&key);
        let mut taken = Vec::new();
        let (frontend, target) = match kind {
            0 => {
                let answered = Key { dst: address_of(1), ..key.turned() };
                taken.extend(ours(answered, hash, 16));
                (None, 0)
            }
            1 => (world.vips.get(&dst), 0),
            _ => {
                let it = world
                    .published
                    .get(&(ip(0, 0, 0, 0), key.dport, key.protocol))
                    .filter(|it| !it.not_taken && !it.by_address)?;
                (Some(it), it.target_port)
            }
        };
        for (number, _) in frontend.iter().flat_map(|it| &it.turns) {
            let Some(backend) = world.backends.get(number) else { continue };
            let answered = Key { src: backend.addrs[0], ..key.turned() };
            let answered = if target == 0 { answered } else { Key { sport: target, ..answered } };
            taken.push(answered);
            taken.extend(ours(answered, hash, 4));
        }
        taken.retain(|key| !world.flows.contains_key(key));
        // Of somebody else, and alive.
        let addr = if key.src.is_ipv4() { ip(192, 0, 2, 200) } else { six(ip(192, 0, 2, 200)) };
        let other = Flow { addr, ..Flow::new(Origin::World, Way::Task) };
        let frame = if kind == 2 {
            self.at_uplink(&packet)
        } else {
            self.frame(&packet, mac::GATEWAY, task.mac, Entrance::Task { link: task.link })
        };
        Some((taken.into_iter().map(|key| (key, other.clone())).collect(), frame))
    }
}
