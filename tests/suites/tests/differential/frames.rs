//! Random frames for a world: most of them meant well, each kind of mistake often enough; then some are cut short, and of some a few bytes are turned over.

use mesh_packet::checksum;

use super::model::read::{FIN, ICMP, SCTP, SYN, TCP, UDP};
use super::model::sums::{fold, hash, port_of_ours, pseudo, sum};
use super::model::{Entrance, Flow, Ip, Key, Mac, Origin, Way, World, mac, vni};
use super::random::Random;
use super::worlds::{CALLERS, HERE_TOO, NEIGHBOUR, NOWHERE, PORTS, address_of};

/// The kernel runs no test on less of an IPv4 frame than Ethernet and IP header, and on less of any other than an Ethernet header.
const SHORTEST: [usize; 2] = [34, 14];

/// A frame, and how it comes.
#[derive(Clone, Debug)]
pub struct Frame {
    pub bytes: Vec<u8>,
    pub entrance: Entrance,
    /// As it was meant to be, with every checksum complete.
    pub is_sound: bool,
}

/// An IPv4 packet, said field by field.
#[derive(Clone, Copy, Debug)]
pub struct Ip4 {
    pub key: Key,
    /// TCP's.
    pub flags: u8,
    /// ICMP's type.
    pub kind: u8,
    /// In eights of bytes.
    pub offset: u16,
    pub more: bool,
}

/// Who speaks next: from the world's point of view, and what has been remembered of it.
pub struct Speakers<'a> {
    pub random: &'a mut Random,
    pub world: &'a World,
    /// Keys of entries in the order in which they came.
    pub known: &'a [Key],
}

impl Speakers<'_> {
    pub fn any(&mut self) -> Frame {
        loop {
            let frame = self.any_at_all();
            if is_modelled(&frame.bytes) {
                return frame;
            }
        }
    }

    fn any_at_all(&mut self) -> Frame {
        let known = self.random.one_in(3).then(|| self.of_a_flow()).flatten();
        let frame = known.unwrap_or_else(|| match self.random.below(20) {
            0 => self.odd(),
            1..9 => self.task_speaks(),
            9..13 => self.world_speaks(),
            _ => self.peer_speaks(),
        });
        self.damaged(frame)
    }

    /// Ports of callers: few, so that they meet again.
    fn sport(&mut self) -> u16 {
        self.random.of(&[40_000, 40_001, 40_002, 8_000, 9_000, 53])
    }

    fn packet(&mut self, src: Ip, dst: Ip) -> Ip4 {
        let protocol = self.random.of(&[TCP, TCP, TCP, TCP, UDP, UDP, UDP, SCTP, ICMP, ICMP, 47]);
        let (sport, mut dport) = (self.sport(), self.random.of(&PORTS));
        if self.random.one_in(20) {
            dport = 4_789;
        }
        Ip4 {
            key: Key { src, dst, sport, dport, protocol },
            flags: self.random.of(&[SYN, SYN, SYN, 0x10, 0x18, 0x12, 0x10 | FIN, 0x04, 0x14]),
            kind: self.random.of(&[8, 8, 8, 0, 3, 11]),
            offset: if self.random.one_in(20) { self.random.of(&[2, 185]) } else { 0 },
            more: self.random.one_in(20),
        }
    }

    /// An address that means something to somebody.
    fn address(&mut self) -> Ip {
        let world = self.world;
        match self.random.below(16) {
            0..4 => *pick(self.random, world.vips.keys()),
            4..8 => *pick(self.random, world.endpoints.keys()),
            8 | 9 => address_of(1),
            10 => HERE_TOO,
            11 => address_of(self.random.of(&[2, 3])),
            12 => [10, 0, self.random.of(&[16, 17, 32]), 99],
            13 => self.random.of(&[[198, 51, 100, 7], NOWHERE, [239, 1, 2, 3], [255, 255, 255, 255]]),
            _ => self.random.of(&CALLERS),
        }
    }

    fn task_speaks(&mut self) -> Frame {
        let here = self.world.endpoints.iter().filter(|(_, it)| it.link != 0);
        let (addr, task) = pick(self.random, here);
        let src = if self.random.one_in(25) { self.address() } else { *addr };
        let dst = self.address();
        let packet = self.packet(src, dst);
        let mac = if self.random.one_in(30) { mac::of(1, 77) } else { task.mac };
        self.frame(&packet, mac::GATEWAY, mac, Entrance::Task { link: task.link })
    }

    fn world_speaks(&mut self) -> Frame {
        let src = if self.random.one_in(12) { self.address() } else { self.random.of(&CALLERS) };
        let dst = if self.random.one_in(4) {
            self.address()
        } else {
            self.random.of(&[address_of(1), address_of(1), HERE_TOO])
        };
        let packet = self.packet(src, dst);
        self.at_uplink(&packet)
    }

    fn at_uplink(&mut self, packet: &Ip4) -> Frame {
        let link = self.world.way_out;
        self.frame(packet, [2, 0, 0, 0, 0, 1], NEIGHBOUR, Entrance::Uplink { link })
    }

    fn peer_speaks(&mut self) -> Frame {
        let node = self.random.of(&[2, 3]);
        let id = self.random.of(&[
            4_097,
            4_097,
            4_098,
            vni::REQUEST_WIRE,
            vni::REQUEST_WIRE,
            vni::REQUEST_NODE,
            vni::SECOND_CHANCE_WIRE,
            vni::SECOND_CHANCE_NODE,
            vni::REPLY_WIRE,
            vni::REPLY_NODE,
            vni::TURNED_BACK_WIRE,
            vni::TURNED_BACK_NODE,
            vni::TURNED_BACK_TASK,
            9,
        ]);
        let world = self.world;
        let there: Vec<Ip> = world.endpoints.iter().filter(|(_, it)| it.node == node).map(|(addr, _)| *addr).collect();
        let (of_peer, here) =
            (self.random.of(&there), *pick(self.random, world.endpoints.iter().filter(|(_, it)| it.link != 0)).0);
        let number = 1 + self.random.below(world.backends.len() + 2) as u32;
        let vip = *pick(self.random, world.vips.keys());
        let caller = self.random.of(&CALLERS);
        let (src, dst) = match id {
            vni::REPLY_WIRE => (self.random.of(&[address_of(1), address_of(1), HERE_TOO]), caller),
            vni::REPLY_NODE => (self.random.of(&[address_of(1), vip, of_peer]), self.random.of(&[address_of(1), here])),
            vni::REQUEST_WIRE | vni::SECOND_CHANCE_WIRE => (caller, address_of(node)),
            vni::REQUEST_NODE | vni::SECOND_CHANCE_NODE => {
                (self.random.of(&[address_of(node), of_peer]), self.address())
            }
            _ => (of_peer, self.random.of(&[here, here, [10, 0, 16, 99]])),
        };
        let (src, dst) = match self.random.below(14) {
            0 => (self.address(), dst),
            1 => (src, self.address()),
            _ => (src, dst),
        };
        let mut packet = self.packet(src, dst);
        if id == vni::REPLY_WIRE || id == vni::REPLY_NODE {
            packet.key = Key { sport: packet.key.dport, dport: packet.key.sport, ..packet.key };
        }
        let macs = self.macs(id, number);
        let remote = if self.random.one_in(20) { [192, 0, 2, 77] } else { address_of(node) };
        self.tunnelled(&packet, macs, remote, id)
    }

    fn macs(&mut self, id: u32, number: u32) -> (Mac, Mac) {
        let dst = match self.random.below(14) {
            0 => NEIGHBOUR,
            1 => mac::HOST,
            2 => mac::of(mac::KIND_CLIENT, number),
            _ if id == vni::REPLY_NODE => self.random.of(&[mac::HOST, mac::of(mac::KIND_CLIENT, number)]),
            _ if id == vni::REPLY_WIRE => NEIGHBOUR,
            _ => mac::of(mac::KIND_ENDPOINT, number),
        };
        let src = match self.random.below(6) {
            0 => mac::HOST,
            1 => mac::of(mac::KIND_CLIENT, number),
            2 => mac::SECOND_CHANCE,
            3 => NEIGHBOUR,
            _ => mac::GATEWAY,
        };
        (dst, src)
    }

    /// In the tunnel: as mesh0 gives it, or as it comes in by the uplink.
    fn tunnelled(&mut self, packet: &Ip4, (dst, src): (Mac, Mac), remote: Ip, id: u32) -> Frame {
        let mut frame = self.frame(packet, dst, src, Entrance::Overlay { remote, vni: id });
        if self.random.one_in(2) {
            frame.bytes = self.wrapped(&frame.bytes, remote, id);
            frame.entrance = Entrance::Uplink { link: self.world.way_out };
        }
        frame
    }

    fn wrapped(&mut self, inner: &[u8], remote: Ip, id: u32) -> Vec<u8> {
        let len = inner.len() as u16 + 36;
        let mut ip = vec![0x45, if self.random.one_in(30) { 3 } else { 0 }];
        ip.extend(len.to_be_bytes());
        ip.extend([0, 9, if self.random.one_in(30) { 0x20 } else { 0 }, 0, 64, UDP, 0, 0]);
        ip.extend(remote);
        ip.extend(address_of(1));
        let checksum = !fold(sum(&ip));
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        let mut bytes = [&[2, 0, 0, 0, 0, 1][..], &NEIGHBOUR, &[8, 0], &ip, &[0xc0, 1, 0x12, 0xb5]].concat();
        bytes.extend((len - 20).to_be_bytes());
        bytes.extend([0, 0, 8, 0, 0, 0]);
        bytes.extend((id << 8).to_be_bytes());
        bytes.extend(inner);
        bytes
    }

    /// A packet of a flow that is remembered, from where it is expected, or an answer to it.
    fn of_a_flow(&mut self) -> Option<Frame> {
        let world = self.world;
        let from = self.random.below(self.known.len());
        let mut later = self.known.iter().skip(from).filter_map(|key| Some((*key, world.flows.get(key)?)));
        let (key, flow) = later.next()?;
        // What goes to other nodes is rarer, and has more ways to come back.
        let (key, flow) = match later.find(|(_, flow)| flow.way == Way::Tunnel) {
            Some(there) if self.random.one_in(3) => there,
            _ => (key, flow),
        };
        let mut packet = self.packet(key.src, key.dst);
        packet.key = key;
        (packet.offset, packet.kind) = (0, if key.dport == 0 { 8 } else { 0 });
        if self.random.one_in(4)
            && let Some(frame) = self.turned_back(packet, flow)
        {
            return Some(frame);
        }
        match flow.from {
            Origin::World => Some(self.at_uplink(&packet)),
            Origin::Stack => None,
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

    /// The node that a flow went to sends its packet back, or sends an answer.
    fn turned_back(&mut self, mut packet: Ip4, flow: &Flow) -> Option<Frame> {
        if flow.way != Way::Tunnel {
            return None;
        }
        let key = packet.key;
        packet.flags = self.random.of(&[SYN, SYN, SYN, 0x10]);
        let remote = address_of(flow.node);
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
            }
            return Some(self.tunnelled(&packet, (flow.mac, mac::GATEWAY), remote, id));
        }
        if self.random.one_in(3) {
            packet.key = key.turned();
            packet.flags = 0x12;
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
        let (addr, task) = pick(self.random, world.endpoints.iter().filter(|(_, it)| it.link != 0));
        let kind = self.random.below(3);
        let (src, dst) = match kind {
            0 => (*addr, self.random.of(&CALLERS)),
            1 => (*addr, *world.vips.iter().find(|(_, it)| it.vni == task.vni && !it.turns.is_empty())?.0),
            _ => (self.random.of(&CALLERS), address_of(1)),
        };
        let mut packet = self.packet(src, dst);
        (packet.offset, packet.more, packet.flags) = (0, false, SYN);
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
                let it = world.published.get(&(key.dport, key.protocol)).filter(|it| !it.not_taken)?;
                (Some(it), it.target_port)
            }
        };
        for (number, _) in frontend.iter().flat_map(|it| &it.turns) {
            let Some(backend) = world.backends.get(number) else { continue };
            let answered = Key { src: backend.addr, ..key.turned() };
            let answered = if target == 0 { answered } else { Key { sport: target, ..answered } };
            taken.push(answered);
            taken.extend(ours(answered, hash, 4));
        }
        taken.retain(|key| !world.flows.contains_key(key));
        // Of somebody else, and alive.
        let other = Flow { addr: [192, 0, 2, 200], ..Flow::new(Origin::World, Way::Task) };
        let frame = if kind == 2 {
            self.at_uplink(&packet)
        } else {
            self.frame(&packet, mac::GATEWAY, task.mac, Entrance::Task { link: task.link })
        };
        Some((taken.into_iter().map(|key| (key, other.clone())).collect(), frame))
    }

    /// ARP, echoes between nodes, other EtherTypes.
    fn odd(&mut self) -> Frame {
        let world = self.world;
        let (addr, task) = pick(self.random, world.endpoints.iter().filter(|(_, it)| it.link != 0));
        let (addr, link, mac) = (*addr, task.link, if self.random.one_in(6) { mac::of(1, 77) } else { task.mac });
        let (bytes, entrance) = match self.random.below(4) {
            0 | 1 => {
                let src = if self.random.one_in(8) { self.address() } else { addr };
                let target = if self.random.one_in(8) { src } else { self.address() };
                let ask = if self.random.one_in(8) { 2 } else { 1 };
                let body = [&[0, 1, 8, 0, 6, 4, 0, ask][..], &mac, &src, &[0; 6], &target].concat();
                ([&[0xff; 6][..], &task.mac, &[8, 6], &body].concat(), Entrance::Task { link })
            }
            2 => {
                let (number, id) = (self.random.below(4) as u32, self.random.of(&[vni::ECHO, vni::ECHO_REPLY, 4_097]));
                let echo = mac::of(6, number);
                let body: Vec<u8> = (0..46).map(|at| at as u8).collect();
                let remote = address_of(self.random.of(&[2, 3]));
                ([&echo[..], &echo, &[0x88, 0xb5], &body].concat(), Entrance::Overlay { remote, vni: id })
            }
            _ => {
                // IPv6 has tables of its own, which these worlds don't have: packet_ipv6.
                let ethertype = self.random.of(&[[0x88u8, 0x47], [0x81, 0], [0x88, 0xb5], [0x90, 0]]);
                let body: Vec<u8> = (0..60).map(|_| self.random.next() as u8).collect();
                let entrance = match self.random.below(3) {
                    0 => Entrance::Task { link },
                    1 => Entrance::Uplink { link: world.way_out },
                    _ => Entrance::Overlay { remote: address_of(2), vni: 4_097 },
                };
                ([&mac::GATEWAY[..], &mac, &ethertype, &body].concat(), entrance)
            }
        };
        Frame { bytes, entrance, is_sound: false }
    }

    fn frame(&mut self, packet: &Ip4, dst: Mac, src: Mac, entrance: Entrance) -> Frame {
        let random = &mut *self.random;
        let payload = random.of(&[0, 1, 8, 40, 120]);
        let payload = if random.one_in(40) { 1_400 } else { payload };
        let options = if random.one_in(12) { random.of(&[4, 8, 40]) } else { 0 };
        let tcp_options = if packet.key.protocol == TCP { tcp_options(random) } else { Vec::new() };
        let mut bytes = packet.bytes(dst, src, options, &tcp_options, payload, random);
        let is_whole = packet.offset == 0 && !packet.more;
        let has_sum = matches!(packet.key.protocol, TCP | UDP) && is_whole;
        // Of other protocols etherparse would read headers that nobody wrote: IPsec's, for one.
        let mut is_sound = is_whole && matches!(packet.key.protocol, TCP | UDP | ICMP);
        if has_sum && random.one_in(6) {
            bytes = checksum::unfinish(&bytes);
            is_sound = false;
        } else if packet.key.protocol == UDP && is_whole && random.one_in(10) {
            let at = 34 + options + 6;
            bytes[at..at + 2].fill(0);
        }
        Frame { bytes, entrance, is_sound }
    }

    /// Some frames are cut short, of some a few bytes are turned over, some are longer than they say.
    fn damaged(&mut self, mut frame: Frame) -> Frame {
        let random = &mut *self.random;
        let kind = random.below(20);
        if kind < 13 {
            return frame;
        }
        frame.is_sound = false;
        let bytes = &mut frame.bytes;
        match kind {
            13 | 14 => bytes.truncate(SHORTEST[1] + random.below(bytes.len() - SHORTEST[1])),
            15 => (0..random.below(60)).for_each(|_| bytes.push(random.next() as u8)),
            16 => {
                // All behind a plausible start.
                let from = SHORTEST[0] + random.below(bytes.len().max(SHORTEST[0] + 1) - SHORTEST[0]);
                bytes.iter_mut().skip(from).for_each(|byte| *byte = random.next() as u8);
            }
            _ => {
                for _ in 0..1 + random.below(3) {
                    // Addresses, mostly right, lead further than random ones.
                    let at = 12 + random.below(bytes.len().min(100) - 12);
                    bytes[at] = if random.one_in(2) { random.next() as u8 } else { bytes[at] ^ (1 << random.below(8)) };
                }
            }
        }
        let shortest = match bytes[12..14] {
            [8, 0] => SHORTEST[0],
            [0x86, 0xdd] => 54,
            _ => SHORTEST[1],
        };
        bytes.resize(bytes.len().max(shortest), 0);
        frame
    }
}

/// The model has no chapter for it yet: ICMP errors about flows, first fragments and the later ones behind them, SCTP and its CRC, what is too big and must stay whole,
/// a time to live that ends. So nothing of that is sent here, neither as it is nor in the tunnel; packet_icmp, packet_fragments, packet_sctp and packet_mtu
/// have tests of each.
fn is_modelled(frame: &[u8]) -> bool {
    [0, 50].into_iter().all(|at| {
        let Some(ip) = frame.get(at + 14..at + 34).filter(|_| frame[at + 12..at + 14] == [8, 0]) else { return true };
        let (flags, offset) = (ip[6] >> 5, u16::from_be_bytes([ip[6] & 0x1f, ip[7]]));
        let kind = frame.get(at + 14 + usize::from(ip[0] & 15) * 4);
        let is_error = ip[9] == ICMP && offset == 0 && kind.is_some_and(|kind| *kind != 0 && *kind != 8);
        flags & 2 == 0 && (flags & 1 == 0 || offset != 0) && ip[8] > 1 && ip[9] != SCTP && !is_error
    })
}

/// Any of these.
pub fn pick<T>(random: &mut Random, of: impl Iterator<Item = T> + Clone) -> T {
    let at = random.below(of.clone().count());
    of.into_iter().nth(at).expect("there is one at least")
}

/// Options of TCP: none, a segment size at an even or odd place, or a few others before it.
fn tcp_options(random: &mut Random) -> Vec<u8> {
    let mss = [2, 4, random.of(&[1, 5]), random.next() as u8];
    match random.below(6) {
        0 => mss.to_vec(),
        1 => [&[1][..], &mss, &[1, 1, 0]].concat(),
        2 => [&[4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8][..], &mss].concat(),
        3 => [&[1; 8][..], &mss].concat(),
        _ => Vec::new(),
    }
}

impl Ip4 {
    pub fn bytes(
        &self,
        dst: Mac,
        src: Mac,
        options: usize,
        tcp_options: &[u8],
        payload: usize,
        random: &mut Random,
    ) -> Vec<u8> {
        let key = self.key;
        let header = match key.protocol {
            TCP => 20 + tcp_options.len(),
            SCTP => 12,
            _ => 8,
        };
        let mut l4 = vec![0; header + payload];
        l4[header..].iter_mut().for_each(|byte| *byte = random.next() as u8);
        if key.protocol == ICMP {
            l4[0] = self.kind;
            l4[4..6].copy_from_slice(&(key.sport | key.dport).to_be_bytes());
        } else {
            l4[..2].copy_from_slice(&key.sport.to_be_bytes());
            l4[2..4].copy_from_slice(&key.dport.to_be_bytes());
        }
        let len = l4.len() as u16;
        let of_addresses = pseudo(key.src, key.dst, key.protocol, len);
        let (at, seed) = match key.protocol {
            TCP => {
                l4[4..12].iter_mut().for_each(|byte| *byte = random.next() as u8);
                (l4[12], l4[13]) = ((header as u8 / 4) << 4, self.flags);
                l4[20..header].copy_from_slice(tcp_options);
                (16, of_addresses)
            }
            UDP => {
                l4[4..6].copy_from_slice(&len.to_be_bytes());
                (6, of_addresses)
            }
            ICMP => (2, 0),
            _ => (0, 0),
        };
        if at != 0 {
            let checksum = match !fold(seed + sum(&l4)) {
                0 if key.protocol == UDP => 0xffff,
                checksum => checksum,
            };
            l4[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        }
        let mut ip = vec![0x45 + options as u8 / 4, random.of(&[0, 0, 0, 1, 0xb8])];
        ip.extend((20 + options as u16 + len).to_be_bytes());
        ip.extend((random.next() as u16).to_be_bytes());
        ip.extend((self.offset | u16::from(self.more) << 13).to_be_bytes());
        ip.extend([64, key.protocol, 0, 0]);
        ip.extend(key.src);
        ip.extend(key.dst);
        ip.resize(20 + options, 1);
        let checksum = !fold(sum(&ip));
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        [&dst[..], &src, &[8, 0], &ip, &l4].concat()
    }
}
