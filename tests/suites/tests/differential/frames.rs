//! Random frames for a world: most of them meant well, each kind of mistake often enough; then some are cut short, and of some a few bytes are turned over.

use mesh_packet::checksum;

use super::model::read::{FIN, ICMP, ICMPV6, SCTP, SYN, TCP, UDP, icmp_of};
use super::model::sums::{fold, sum};
use super::model::{Entrance, Ip, Key, Mac, World, mac, octets, vni};
use super::packet::{Quote, Said, tcp_options};
use super::random::Random;
use super::worlds::{CALLERS, HERE_TOO, NEIGHBOUR, NOWHERE, PORTS, address_of, ip};

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
        let frame = known.unwrap_or_else(|| match self.random.below(22) {
            0 => self.odd(),
            1..9 => self.task_speaks(),
            9..13 => self.world_speaks(),
            13..16 => self.host_speaks(),
            _ => self.peer_speaks(),
        });
        self.damaged(frame)
    }

    /// Ports of callers: few, so that they meet again.
    fn sport(&mut self) -> u16 {
        self.random.of(&[40_000, 40_001, 40_002, 8_000, 9_000, 53])
    }

    pub fn packet(&mut self, src: Ip, dst: Ip) -> Said {
        let protocol = self.random.of(&[TCP, TCP, TCP, TCP, UDP, UDP, UDP, SCTP, ICMP, ICMP, 47]);
        let (sport, mut dport) = (self.sport(), self.random.of(&PORTS));
        if self.random.one_in(20) {
            dport = 4_789;
        }
        let mut said = Said {
            key: Key { src, dst, sport, dport, protocol },
            flags: self.random.of(&[SYN, SYN, SYN, 0x10, 0x18, 0x12, 0x10 | FIN, 0x04, 0x14]),
            kind: self.random.of(&[8, 8, 8, 0, 3, 11, 5]),
            offset: if self.random.one_in(20) { self.random.of(&[2, 185]) } else { 0 },
            more: self.random.one_in(20),
            is_whole: self.random.one_in(3),
            ttl: self.random.of(&[64, 64, 64, 64, 64, 64, 255, 2, 1, 0]),
            quotes: None,
            stays: false,
        };
        if said.is_error() && !self.random.one_in(6) {
            let protocol = self.random.of(&[TCP, UDP, UDP, SCTP, ICMP]);
            let about = Key { src: dst, dst: src, sport: said.key.dport, dport: said.key.sport, protocol };
            said.quotes = Some(self.quote(about));
        }
        said
    }

    /// The beginning of a packet with this tuple, as an error quotes it.
    fn quote(&mut self, key: Key) -> Quote {
        let mut said = Said { flags: self.random.of(&[SYN, 0x10]), ttl: 63, ..Said::new(key) };
        if key.protocol == icmp_of(key.src) {
            said.kind = if key.dport == 0 { 8 } else { self.random.of(&[0, 0, 0, 0, 0, 0, 3]) };
        }
        if self.random.one_in(30) {
            (said.offset, said.more) = (self.random.of(&[0, 2]), true);
        }
        Quote {
            said: Box::new(said),
            options: if self.random.one_in(12) { 8 } else { 0 },
            payload: self.random.of(&[0, 8, 40]),
            is_unfinished: self.random.one_in(6) && matches!(key.protocol, TCP | UDP),
            is_bare: key.protocol == UDP && self.random.one_in(10),
            most: self.random.of(&[28, 28, 28, 36, 40, 128, 24]),
        }
    }

    /// Makes a packet the error about an answer to it: what comes from where it came from.
    pub fn object(&mut self, said: &mut Said) {
        let about = said.key.turned();
        said.quotes = Some(self.quote(about));
        said.kind = self.random.of(&[3, 3, 3, 11, 12]);
        let id = if self.random.one_in(2) { 1_400 } else { 0 };
        said.key = Key { protocol: icmp_of(said.key.src), sport: 0, dport: id, ..said.key };
        said.stays = true;
        match self.random.below(16) {
            0 | 1 => said.key.src = self.address(),
            2 => said.key.dst = self.address(),
            _ => {}
        }
    }

    /// An address that means something to somebody.
    fn address(&mut self) -> Ip {
        let world = self.world;
        match self.random.below(16) {
            0..4 => *pick(self.random, world.vips.keys().filter(|addr| addr.is_ipv4())),
            4..8 => *pick(self.random, world.endpoints.keys().filter(|addr| addr.is_ipv4())),
            8 | 9 => address_of(1),
            10 => HERE_TOO,
            11 => address_of(self.random.of(&[2, 3])),
            12 => ip(10, 0, self.random.of(&[16, 17, 32]), 99),
            13 => self.random.of(&[ip(198, 51, 100, 7), NOWHERE, ip(239, 1, 2, 3), ip(255, 255, 255, 255)]),
            _ => self.random.of(&CALLERS),
        }
    }

    fn task_speaks(&mut self) -> Frame {
        let here = self.world.endpoints.iter().filter(|(addr, it)| addr.is_ipv4() && it.link != 0);
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

    fn host_speaks(&mut self) -> Frame {
        let gateway =
            self.world.endpoints.iter().find(|(_, it)| it.is_gateway).map_or(address_of(1), |(addr, _)| *addr);
        let src =
            if self.random.one_in(8) { self.address() } else { self.random.of(&[address_of(1), HERE_TOO, gateway]) };
        let dst = self.address();
        let packet = self.packet(src, dst);
        self.of_host(&packet)
    }

    pub fn of_host(&mut self, packet: &Said) -> Frame {
        self.frame(packet, mac::GATEWAY, self.world.mesh0_mac, Entrance::Host)
    }

    pub fn at_uplink(&mut self, packet: &Said) -> Frame {
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
            vni::REPLY_WIRE,
            vni::REPLY_WIRE,
            vni::REPLY_NODE,
            vni::REPLY_NODE,
            vni::TURNED_BACK_WIRE,
            vni::TURNED_BACK_NODE,
            vni::TURNED_BACK_TASK,
            9,
        ]);
        let world = self.world;
        let there: Vec<Ip> = world
            .endpoints
            .iter()
            .filter(|(addr, it)| addr.is_ipv4() && it.node == node)
            .map(|(addr, _)| *addr)
            .collect();
        let (of_peer, here) = (
            self.random.of(&there),
            *pick(self.random, world.endpoints.iter().filter(|(addr, it)| addr.is_ipv4() && it.link != 0)).0,
        );
        let number = 1 + self.random.below(world.backends.len() + 2) as u32;
        let vip = *pick(self.random, world.vips.keys().filter(|addr| addr.is_ipv4()));
        let caller = self.random.of(&CALLERS);
        let (src, dst) = match id {
            vni::REPLY_WIRE => (self.random.of(&[address_of(1), address_of(1), HERE_TOO]), caller),
            vni::REPLY_NODE => (self.random.of(&[address_of(1), vip, of_peer]), self.random.of(&[address_of(1), here])),
            vni::REQUEST_WIRE | vni::SECOND_CHANCE_WIRE => (caller, address_of(node)),
            vni::REQUEST_NODE | vni::SECOND_CHANCE_NODE => {
                (self.random.of(&[address_of(node), of_peer]), self.address())
            }
            _ => (of_peer, self.random.of(&[here, here, ip(10, 0, 16, 99)])),
        };
        let (src, dst) = match self.random.below(14) {
            0 => (self.address(), dst),
            1 => (src, self.address()),
            _ => (src, dst),
        };
        let mut packet = self.packet(src, dst);
        if id == vni::REPLY_WIRE || id == vni::REPLY_NODE {
            if !self.random.one_in(4) {
                packet.key.protocol = self.random.of(&[TCP, UDP]);
                packet.quotes = None;
            }
            packet.key = Key { sport: packet.key.dport, dport: packet.key.sport, ..packet.key };
        }
        let macs = self.macs(id, number);
        let remote = if self.random.one_in(20) { ip(192, 0, 2, 77) } else { address_of(node) };
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
    pub fn tunnelled(&mut self, packet: &Said, (dst, src): (Mac, Mac), remote: Ip, id: u32) -> Frame {
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
        ip.extend(octets(remote));
        ip.extend(octets(address_of(1)));
        let checksum = !fold(sum(&ip));
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        let mut bytes = [&[2, 0, 0, 0, 0, 1][..], &NEIGHBOUR, &[8, 0], &ip, &[0xc0, 1, 0x12, 0xb5]].concat();
        bytes.extend((len - 20).to_be_bytes());
        bytes.extend([0, 0, 8, 0, 0, 0]);
        bytes.extend((id << 8).to_be_bytes());
        bytes.extend(inner);
        bytes
    }

    /// ARP, echoes between nodes, other EtherTypes.
    fn odd(&mut self) -> Frame {
        let world = self.world;
        let (addr, task) =
            pick(self.random, world.endpoints.iter().filter(|(addr, it)| addr.is_ipv4() && it.link != 0));
        let (addr, link, mac) = (*addr, task.link, if self.random.one_in(6) { mac::of(1, 77) } else { task.mac });
        let (bytes, entrance) = match self.random.below(4) {
            0 | 1 => {
                let src = if self.random.one_in(8) { self.address() } else { addr };
                let target = if self.random.one_in(8) { src } else { self.address() };
                let ask = if self.random.one_in(8) { 2 } else { 1 };
                let body = [&[0, 1, 8, 0, 6, 4, 0, ask][..], &mac, &octets(src), &[0; 6], &octets(target)].concat();
                ([&[0xff; 6][..], &task.mac, &[8, 6], &body].concat(), Entrance::Task { link })
            }
            2 if self.random.one_in(3) => {
                let (kind, number) = (self.random.of(&[6, 6, 6, 5]), self.random.below(4) as u32);
                let echo = mac::of(kind, number);
                ([&echo[..], &echo, &[0x88, 0xb5], &[0; 46]].concat(), Entrance::Host)
            }
            2 => {
                let (number, id) = (self.random.below(4) as u32, self.random.of(&[vni::ECHO, vni::ECHO_REPLY, 4_097]));
                let echo = mac::of(6, number);
                let body: Vec<u8> = (0..46).map(|at| at as u8).collect();
                let remote = address_of(self.random.of(&[2, 3]));
                ([&echo[..], &echo, &[0x88, 0xb5], &body].concat(), Entrance::Overlay { remote, vni: id })
            }
            _ => {
                let ethertype = self.random.of(&[[0x88u8, 0x47], [0x81, 0], [0x88, 0xb5], [0x90, 0]]);
                let body: Vec<u8> = (0..60).map(|_| self.random.next() as u8).collect();
                let entrance = match self.random.below(4) {
                    0 => Entrance::Task { link },
                    1 => Entrance::Host,
                    2 => Entrance::Uplink { link: world.way_out },
                    _ => Entrance::Overlay { remote: address_of(2), vni: 4_097 },
                };
                ([&mac::GATEWAY[..], &mac, &ethertype, &body].concat(), entrance)
            }
        };
        Frame { bytes, entrance, is_sound: false }
    }

    pub fn frame(&mut self, packet: &Said, dst: Mac, src: Mac, entrance: Entrance) -> Frame {
        let random = &mut *self.random;
        let is_mixed = packet.key.src.is_ipv4() != packet.key.dst.is_ipv4();
        let mirrored = (is_mixed || (!packet.stays && random.one_in(3))).then(|| packet.mirrored());
        let packet = mirrored.unwrap_or_else(|| packet.clone());
        let is_ipv4 = packet.key.src.is_ipv4();
        let payload = random.of(&[0, 1, 8, 40, 120]);
        let payload = if random.one_in(40) { random.of(&[1_400, 1_410, 1_430]) } else { payload };
        let options = if random.one_in(12) { random.of(&[4, 8, 40]) } else { 0 };
        let tcp_options = if packet.key.protocol == TCP { tcp_options(random) } else { Vec::new() };
        let mut bytes = packet.bytes([dst, src], options, &tcp_options, payload, random);
        let is_whole = !packet.is_piece();
        let has_sum = matches!(packet.key.protocol, TCP | UDP) && is_whole && (is_ipv4 || options == 0);
        // Of other protocols etherparse would read headers that nobody wrote: IPsec's, for one.
        let is_known = matches!(packet.key.protocol, TCP | UDP | ICMP | ICMPV6 | SCTP);
        let mut is_sound = is_whole && is_known && !packet.is_error();
        if has_sum && random.one_in(6) {
            bytes = checksum::unfinish(&bytes);
            is_sound = false;
        } else if packet.key.protocol == UDP && is_whole && is_ipv4 && random.one_in(10) {
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

/// The model has no chapter for it yet: neighbour discovery and who listens to which groups (RFC 4861, RFC 3810), and hop-by-hop options, behind which the latter
/// stands. So nothing of that is sent here, neither as it is nor in the tunnel; packet_ipv6 has tests of it.
fn is_modelled(frame: &[u8]) -> bool {
    [0, 50].into_iter().all(|at| {
        let Some(frame) = frame.get(at..).filter(|frame| frame.get(12..14) == Some(&[0x86, 0xdd])) else { return true };
        let first = [frame.get(20), frame.get(54)].map(|byte| byte.copied().unwrap_or(0));
        first[0] != 0 && !matches!(first, [ICMPV6, 130..=137 | 143])
    })
}

/// Any of these.
pub fn pick<T>(random: &mut Random, of: impl Iterator<Item = T> + Clone) -> T {
    let at = random.below(of.clone().count());
    of.into_iter().nth(at).expect("there is one at least")
}
