//! Random packets for a world: most of them meant well, each kind of mistake often enough. What is said over IPv4 is said over IPv6 as often, by the addresses
//! that mirror those (`rig::mirror`).

use mesh_common::family::{V4, V6};
use mesh_common::flow::twin;
use mesh_common::hash;
use mesh_common::schema::{Address, Flow, FlowKey, address_flag, flow_flag, origin, rewrite};
use mesh_common::snat;
use mesh_common::wire::{mac, vni};
use mesh_tests::rig::mirror::{four, six};
use mesh_tests::rig::{HERE, PEER_2, PEER_3, ROUTER_MAC, Task, UPLINK_MAC};
use mesh_userspace::explain::{Entrance, Frame};

use super::random::Random;
use super::world::{PORTS, World};

/// A frame, and how it comes.
#[derive(Debug)]
pub struct Packet {
    pub bytes: Vec<u8>,
    pub entrance: Entrance,
    /// Outer source.
    pub remote: [u8; 4],
}

impl Packet {
    pub fn is_ipv6(&self) -> bool {
        self.bytes[14] >> 4 == 6
    }

    pub fn is_whole(&self) -> bool {
        self.is_ipv6() || self.bytes[20] & 0x40 != 0
    }

    pub fn ttl(&self) -> u8 {
        if self.is_ipv6() { self.bytes[21] } else { self.bytes[22] }
    }

    /// The destination, or what it mirrors.
    pub fn dst(&self) -> [u8; 4] {
        let at = if self.is_ipv6() { 50 } else { 30 };
        [self.bytes[at], self.bytes[at + 1], self.bytes[at + 2], self.bytes[at + 3]]
    }
}

/// A packet, said field by field.
#[derive(Clone, Copy, Debug)]
struct Ip {
    /// The addresses mirror these.
    is_ipv6: bool,
    src: [u8; 4],
    dst: [u8; 4],
    protocol: u8,
    sport: u16,
    dport: u16,
    flags: u8,
    /// ICMP type.
    kind: u8,
    is_fragment: bool,
    /// "Don't fragment".
    is_whole: bool,
    ttl: u8,
}

impl Ip {
    fn frame(&self, frame: Frame, payload: usize) -> Vec<u8> {
        let l4 = match self.protocol {
            6 => 20,
            132 => 12,
            _ => 8,
        } + payload;
        let mut bytes = Vec::with_capacity(62 + l4);
        bytes.extend(frame.dst);
        bytes.extend(frame.src);
        if self.is_ipv6 {
            self.ipv6(&mut bytes, l4 as u16)
        } else {
            self.ipv4(&mut bytes, l4 as u16)
        }
        let at = bytes.len();
        bytes.resize(at + l4, 0);
        let header = &mut bytes[at..];
        if self.protocol == 1 {
            // Echoes of ICMPv6 are 128 and 129.
            header[0] = if self.is_ipv6 { 129 - self.kind / 8 } else { self.kind };
            header[4..6].copy_from_slice(&(self.sport | self.dport).to_be_bytes());
        } else {
            header[..2].copy_from_slice(&self.sport.to_be_bytes());
            header[2..4].copy_from_slice(&self.dport.to_be_bytes());
        }
        if self.protocol == 6 {
            (header[12], header[13], header[16]) = (0x50, self.flags, 0x77);
        }
        bytes
    }

    fn ipv4(&self, bytes: &mut Vec<u8>, len: u16) {
        bytes.extend([0x08, 0x00, 0x45, 0]);
        bytes.extend((20 + len).to_be_bytes());
        let flags = if self.is_whole { 0x40 } else { 0 };
        bytes.extend([0, 1, flags, if self.is_fragment { 16 } else { 0 }, self.ttl, self.protocol, 0x12, 0x34]);
        bytes.extend(self.src);
        bytes.extend(self.dst);
    }

    fn ipv6(&self, bytes: &mut Vec<u8>, len: u16) {
        let protocol = if self.protocol == 1 { 58 } else { self.protocol };
        // A later fragment (RFC 8200, 4.5), 128 bytes on.
        let fragment = [protocol, 0, 0, 128, 0, 0, 0, 1];
        let extension = if self.is_fragment { &fragment[..] } else { &[] };
        bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
        bytes.extend((len + extension.len() as u16).to_be_bytes());
        bytes.extend([if self.is_fragment { 44 } else { protocol }, self.ttl]);
        bytes.extend(six(self.src));
        bytes.extend(six(self.dst));
        bytes.extend(extension);
    }
}

/// Ports of callers: few, so that they meet again.
const SPORTS: [u16; 6] = [40_000, 40_001, 40_002, 8_000, 9_000, 53];

fn any_ip(random: &mut Random, src: [u8; 4], dst: [u8; 4]) -> Ip {
    let protocol = random.of(&[6, 6, 6, 6, 17, 17, 17, 132, 1, 1, 47]);
    let dport =
        if random.one_in(20) { 4_789 } else { random.of(&[PORTS[0], PORTS[1], PORTS[2], PORTS[3], 9_000, 40_001]) };
    Ip {
        is_ipv6: random.one_in(2),
        src,
        dst,
        protocol,
        sport: random.of(&SPORTS),
        dport,
        flags: random.of(&[0x02, 0x02, 0x02, 0x10, 0x18, 0x12, 0x11, 0x04]),
        // No errors: they go by what they quote, which a tuple does not say.
        kind: random.of(&[8, 8, 0]),
        is_fragment: random.one_in(25),
        is_whole: random.one_in(2),
        ttl: random.of(&[64, 64, 64, 2, 1, 0]),
    }
}

/// An address that means something to somebody.
fn any_address(random: &mut Random, world: &World) -> [u8; 4] {
    match random.below(14) {
        0..4 => random.of(&world.vips),
        4..7 => world.tasks[random.below(world.tasks.len())].addr,
        7 => [10, 0, 16, 1],
        8 | 9 => HERE,
        10 => random.of(&[PEER_2, PEER_3]),
        11 => [10, 0, random.of(&[16, 17, 32]), 99],
        12 => random.of(&[[198, 51, 100, 7], [203, 0, 113, 9], [239, 1, 2, 3]]),
        _ => [198, 51, 100, random.below(4) as u8],
    }
}

pub fn any(random: &mut Random, world: &mut World) -> Packet {
    if random.one_in(4)
        && let Some(packet) = known(random, world)
    {
        return packet;
    }
    match random.below(10) {
        0..4 => from_task(random, world),
        4 | 5 => from_uplink(random, world),
        6 | 7 => from_host(random, world),
        _ => from_overlay(random, world),
    }
}

fn payload(random: &mut Random) -> usize {
    // The last one does not fit the tunnel.
    random.of(&[0, 0, 40, 1_400, 1_440])
}

fn task_here(random: &mut Random, world: &World) -> Task {
    let here: Vec<&Task> = world.tasks.iter().filter(|task| task.ifindex != 0).collect();
    here[random.below(here.len())].clone()
}

fn from_task(random: &mut Random, world: &mut World) -> Packet {
    let task = task_here(random, world);
    let src = if random.one_in(25) { any_address(random, world) } else { task.addr };
    let dst = any_address(random, world);
    let ip = any_ip(random, src, dst);
    let source = if random.one_in(30) { mac::of(mac::KIND_TASK, 77) } else { task.mac };
    if dst[0] == 198 && random.one_in(4) {
        // Every port that would be tried is somebody's.
        let hash = if ip.is_ipv6 {
            hash::tuple::<V6>(six(src).into(), six(dst).into(), ip.sport, ip.dport, ip.protocol)
        } else {
            hash::tuple::<V4>(src.into(), dst.into(), ip.sport, ip.dport, ip.protocol)
        };
        for attempt in 0..snat::TRIES {
            let key = FlowKey::new(dst, HERE, ip.dport, snat::candidate(hash, attempt), ip.protocol);
            let flow = Flow { from: origin::WIRE, deliver: 1, ..Flow::default() };
            plant(world, ip.is_ipv6, key, flow);
        }
    } else if [HERE, PEER_2, PEER_3].contains(&dst) && random.one_in(4) {
        // The task has called each of the others by another way, from this port.
        let there: Vec<Task> = world.tasks.iter().filter(|task| task.ifindex == 0).cloned().collect();
        for (other, port) in there.iter().flat_map(|it| [(it, ip.dport), (it, 9_000)]) {
            let key = FlowKey::new(other.addr, src, port, ip.sport, ip.protocol);
            let from = origin::peer(other.node);
            plant(
                world,
                ip.is_ipv6,
                key,
                Flow { from, flags: flow_flag::REVERSE, rewrite: rewrite::SOURCE, ..Flow::default() },
            );
        }
    }
    send_from_task(random, &ip, &task, source)
}

/// A task calls itself from the port that it calls, so that the call and its answers have one tuple, whose entry is a gone task's.
pub fn to_itself(random: &mut Random, world: &mut World) -> Packet {
    let task = task_here(random, world);
    let mut ip = any_ip(random, task.addr, task.addr);
    (ip.is_ipv6, ip.is_fragment, ip.protocol) = (false, false, 6);
    (ip.sport, ip.dport, ip.flags, ip.ttl) = (9_000, 9_000, 0x02, 64);
    let key = FlowKey::new(task.addr, task.addr, 9_000, 9_000, 6);
    let flags = flow_flag::DEAD | flow_flag::REVERSE;
    plant(world, false, key, Flow { from: task.ifindex, backend: task.number, flags, ..Flow::default() });
    send_from_task(random, &ip, &task, task.mac)
}

/// Writes an entry.
fn plant(world: &mut World, is_ipv6: bool, key: FlowKey<[u8; 4]>, flow: Flow<[u8; 4]>) {
    if is_ipv6 {
        world.rig.put("FLOWS6", key.with(six), flow.with(six));
    } else {
        world.rig.put("FLOWS4", key, flow);
    }
}

fn send_from_task(random: &mut Random, ip: &Ip, task: &Task, source: [u8; 6]) -> Packet {
    let frame = Frame { dst: mac::GATEWAY, src: source };
    Packet {
        bytes: ip.frame(frame, payload(random)),
        entrance: Entrance::Task { ifindex: task.ifindex, mac: source },
        remote: [0; 4],
    }
}

fn from_uplink(random: &mut Random, world: &World) -> Packet {
    let src = if random.one_in(12) { any_address(random, world) } else { [198, 51, 100, random.below(4) as u8] };
    let dst = if random.one_in(3) { any_address(random, world) } else { HERE };
    let ip = any_ip(random, src, dst);
    send_from_uplink(random, &ip, world)
}

fn send_from_uplink(random: &mut Random, ip: &Ip, world: &World) -> Packet {
    let frame = Frame { dst: UPLINK_MAC, src: ROUTER_MAC };
    Packet {
        bytes: ip.frame(frame, payload(random)),
        entrance: Entrance::Uplink { ifindex: world.rig.devices().uplink, mac: ROUTER_MAC },
        remote: [0; 4],
    }
}

fn from_host(random: &mut Random, world: &World) -> Packet {
    let src = if random.one_in(8) { any_address(random, world) } else { random.of(&[HERE, HERE, [10, 0, 16, 1]]) };
    let dst = any_address(random, world);
    let ip = any_ip(random, src, dst);
    send_from_host(random, &ip)
}

fn send_from_host(random: &mut Random, ip: &Ip) -> Packet {
    let frame = Frame { dst: mac::GATEWAY, src: mac::of(mac::KIND_MESH0, 1) };
    Packet { bytes: ip.frame(frame, payload(random)), entrance: Entrance::Host, remote: [0; 4] }
}

fn from_overlay(random: &mut Random, world: &World) -> Packet {
    let node = random.of(&[2, 3]);
    let remote = if random.one_in(20) { [192, 0, 2, 77] } else { super::world::address_of(node) };
    let there: Vec<&Task> = world.tasks.iter().filter(|task| task.node == node).collect();
    let of_peer = if there.is_empty() { [10, 0, 16, 99] } else { there[random.below(there.len())].addr };
    let id = random.of(&[
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
        9,
    ]);
    let number = random.below(world.tasks.len() + 1) as u32 + 1;
    let frame = Frame {
        dst: match random.below(12) {
            0 => ROUTER_MAC,
            1 => mac::HOST,
            2 => mac::of(mac::KIND_CLIENT, number),
            _ if id == vni::REPLY_NODE => random.of(&[mac::HOST, mac::of(mac::KIND_CLIENT, number)]),
            _ if id == vni::REPLY_WIRE => ROUTER_MAC,
            _ => mac::of(mac::KIND_ENDPOINT, number),
        },
        src: match random.below(6) {
            0 => mac::HOST,
            1 => mac::of(mac::KIND_CLIENT, number),
            2 => mac::SECOND_CHANCE,
            3 => ROUTER_MAC,
            _ => mac::GATEWAY,
        },
    };
    let (vip, caller) = (random.of(&world.vips), task_here(random, world).addr);
    let (src, dst) = match id {
        vni::REPLY_WIRE => (HERE, [198, 51, 100, random.below(4) as u8]),
        vni::REPLY_NODE => (random.of(&[HERE, vip, of_peer]), random.of(&[HERE, caller])),
        vni::REQUEST_WIRE | vni::SECOND_CHANCE_WIRE => {
            ([198, 51, 100, random.below(4) as u8], super::world::address_of(node))
        }
        vni::REQUEST_NODE | vni::SECOND_CHANCE_NODE => {
            (random.of(&[super::world::address_of(node), of_peer]), any_address(random, world))
        }
        _ => (of_peer, world.tasks[random.below(world.tasks.len())].addr),
    };
    let (src, dst) = match random.below(12) {
        0 => (any_address(random, world), dst),
        1 => (src, any_address(random, world)),
        _ => (src, dst),
    };
    let mut ip = any_ip(random, src, dst);
    if id == vni::REPLY_WIRE || id == vni::REPLY_NODE {
        std::mem::swap(&mut ip.sport, &mut ip.dport);
    }
    send_from_overlay(random, &ip, remote, id, frame)
}

fn send_from_overlay(random: &mut Random, ip: &Ip, remote: [u8; 4], vni: u32, frame: Frame) -> Packet {
    let peer = [(2, PEER_2), (3, PEER_3)].into_iter().find(|(_, addr)| *addr == remote);
    let peer = peer.map(|(node, _)| Address { node, ifindex: 0, flags: address_flag::TUNNEL, pad: [0; 3] });
    Packet { bytes: ip.frame(frame, payload(random)), entrance: Entrance::Overlay { peer, vni, frame }, remote }
}

/// A packet of a flow that exists, or its answer; some of those flows have lost their task.
fn known(random: &mut Random, world: &mut World) -> Option<Packet> {
    if world.known.is_empty() {
        return None;
    }
    let (key, is_ipv6) = world.known[random.below(world.known.len())];
    let is_turned = random.one_in(2);
    if is_ipv6 {
        let table = world.rig.read::<FlowKey<[u8; 16]>, Flow<[u8; 16]>>("FLOWS6");
        let key = key.with(six);
        let flow = table.get(&key, 0).ok()?;
        let found = match twin(&key, &flow).filter(|_| is_turned) {
            Some(other) => Some((other, table.get(&other, 0).ok()?)),
            None => None,
        };
        let (key, flow) = found.unwrap_or_else(|| (key, with_lost_task(random, flow)));
        world.rig.put("FLOWS6", key, flow);
        return of_flow(random, world, key.with(four), &flow.with(four), true);
    }
    let flow = world.rig.flow(&key)?;
    let found = match twin(&key, &flow).filter(|_| is_turned) {
        Some(other) => Some((other, world.rig.flow(&other)?)),
        None => None,
    };
    let (key, flow) = found.unwrap_or_else(|| (key, with_lost_task(random, flow)));
    world.rig.put("FLOWS4", key, flow);
    of_flow(random, world, key, &flow, false)
}

fn with_lost_task<A>(random: &mut Random, flow: Flow<A>) -> Flow<A> {
    let dead = if random.one_in(8) { flow_flag::DEAD } else { 0 };
    Flow { flags: flow.flags | dead, ..flow }
}

fn of_flow(
    random: &mut Random,
    world: &mut World,
    key: FlowKey<[u8; 4]>,
    flow: &Flow<[u8; 4]>,
    is_ipv6: bool,
) -> Option<Packet> {
    let protocol = if key.protocol == 58 { 1 } else { key.protocol };
    let mut ip = any_ip(random, key.src, key.dst);
    (ip.protocol, ip.sport, ip.dport, ip.is_fragment) = (protocol, key.sport, key.dport, false);
    ip.is_ipv6 = is_ipv6;
    if ip.protocol == 1 {
        ip.kind = if key.dport == 0 { 8 } else { 0 };
    }
    Some(match flow.from {
        origin::WIRE => send_from_uplink(random, &ip, world),
        origin::HOST => send_from_host(random, &ip),
        peer if origin::is_peer(peer) => {
            let remote = super::world::address_of(origin::number(peer));
            let frame = Frame {
                dst: mac::of(mac::KIND_ENDPOINT, flow.backend.max(1)),
                src: random.of(&[mac::GATEWAY, mac::HOST]),
            };
            let id = random.of(&[4_097, 4_098, vni::REQUEST_WIRE, vni::REQUEST_NODE]);
            send_from_overlay(random, &ip, remote, id, frame)
        }
        link => {
            let task = world.tasks.iter().find(|task| task.ifindex == link)?.clone();
            send_from_task(random, &ip, &task, task.mac)
        }
    })
}
