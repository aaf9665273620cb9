//! Random worlds: tasks, services, published ports and peers, some of it not as it should be.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use mesh_tests::rig::mirror as mirrored;
use mesh_tests::rig::{Devices, HERE, PEER_2, PEER_3, ROUTER_MAC, UPLINK_MAC};

use super::model::{Address, Algorithm, Backend, Endpoint, Frontend, Ip, Kept, Peer, Slot, Uplink, World, mac};
use super::random::Random;

/// Ports that services publish, and one more.
pub const PORTS: [u16; 5] = [8_000, 8_001, 8_002, 53, 9_000];
/// An address of this node that another link has.
pub const HERE_TOO: Ip = ip(192, 0, 2, 9);
/// Callers of the world: few, so that they meet again.
pub const CALLERS: [Ip; 4] = [ip(198, 51, 100, 0), ip(198, 51, 100, 1), ip(198, 51, 100, 2), ip(198, 51, 100, 3)];
/// Nobody has a route there.
pub const NOWHERE: Ip = ip(203, 0, 113, 9);
pub const NETWORKS: [(u8, u32); 2] = [(16, 4_097), (32, 4_098)];

pub const fn ip(a: u8, b: u8, c: u8, d: u8) -> Ip {
    Ip::V4(Ipv4Addr::new(a, b, c, d))
}

pub fn address_of(node: u32) -> Ip {
    Ip::from(match node {
        1 => HERE,
        2 => PEER_2,
        _ => PEER_3,
    })
}

/// Whether this kernel's version is this one or a later one.
fn is_at_least(wanted: [u32; 2]) -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("every kernel says its release");
    let version: Vec<u32> = release.split(|c: char| !c.is_ascii_digit()).map_while(|part| part.parse().ok()).collect();
    version >= wanted.to_vec()
}

pub fn any(random: &mut Random, devices: &Devices) -> World {
    let mut world = World {
        is_set_up: !random.one_in(25),
        crosses_families: is_at_least([6, 3]),
        node: 1,
        mesh0: devices.mesh0,
        mesh0_mac: mac::of(2, 1),
        tunnel_addr: Some(HERE.into()),
        data_port: 4_789,
        mss4: random.of(&[1_410, 1_410, 1_410, 536, 0]),
        mss6: random.of(&[1_390, 1_390, 1_390, 536, 0]),
        // A route of the rig's says so; this host; the link's broadcast.
        unrouted: vec![
            (ip(203, 0, 113, 0), 24),
            (ip(127, 0, 0, 0), 8),
            (ip(192, 0, 2, 255), 32),
            (six(NOWHERE), 120),
            // Of a link and of no other.
            (Ip::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0)), 10),
        ],
        way_out: devices.uplink,
        ..World::default()
    };
    let address = |node, link, is_own, is_peer, by_mesh0| Address { node, link, is_own, is_peer, by_mesh0 };
    world.addresses.insert(HERE.into(), address(1, devices.uplink, true, false, false));
    // What is remembered of a call by the uplink may be asked for by another link.
    world.addresses.insert(HERE_TOO, address(1, devices.mesh0, true, false, false));
    for node in 2..=3 {
        let (is_peer, by_mesh0) = (!random.one_in(10), random.one_in(10));
        world.addresses.insert(address_of(node), address(node, 0, false, is_peer, by_mesh0));
        peer(random, &mut world, node);
    }
    if !random.one_in(12) {
        world.uplinks.insert(devices.uplink, Uplink { addrs: both(HERE.into()), mac: UPLINK_MAC });
    }
    people(random, &mut world, devices);
    (0..4).for_each(|number| service(random, &mut world, number));
    mirror(&mut world);
    world
}

/// Whoever has an IPv4 address has the IPv6 address that mirrors it (`rig::mirror`), and is there what it is here; but for the tunnel's outer ends.
fn mirror(world: &mut World) {
    fn six_of<V: Clone>(table: &BTreeMap<Ip, V>, change: impl Fn(&mut V)) -> Vec<(Ip, V)> {
        let changed = |(addr, value): (&Ip, &V)| {
            let mut value = value.clone();
            change(&mut value);
            (six(*addr), value)
        };
        table.iter().map(changed).collect()
    }
    let addresses = six_of(&world.addresses, |_| {});
    world.addresses.extend(addresses);
    let endpoints = six_of(&world.endpoints, |it| {
        (it.gateway, it.prefix_len) = (six(it.gateway), it.prefix_len + 96);
    });
    world.endpoints.extend(endpoints);
    let frontend = |it: &mut Frontend| {
        it.vip = six(it.vip);
        let callers = it.allow.iter_mut().flatten();
        callers.for_each(|(addr, bits)| (*addr, *bits) = (six(*addr), *bits + 96));
    };
    let vips = six_of(&world.vips, frontend);
    world.vips.extend(vips);
    let published = world.published.iter().map(|((addr, port, protocol), it)| {
        let mut it = it.clone();
        frontend(&mut it);
        ((six(*addr), *port, *protocol), it)
    });
    let published: Vec<_> = published.collect();
    world.published.extend(published);
    let kept: Vec<_> = world.kept.iter().map(|((addr, pool), kept)| ((six(*addr), *pool), *kept)).collect();
    world.kept.extend(kept);
}

/// The mirrored address.
pub fn six(addr: Ip) -> Ip {
    match addr {
        Ip::V4(addr) => mirrored::six(addr.octets()).into(),
        six => six,
    }
}

fn both(addr: Ip) -> [Ip; 2] {
    [addr, six(addr)]
}

fn peer(random: &mut Random, world: &mut World, node: u32) {
    if random.one_in(10) {
        return;
    }
    let (addr, mtu) = (address_of(node), random.of(&[1_500, 1_500, 9_000, 150]));
    let mut peer = Peer { addr, link: 0, next_hop: [0; 6], link_mac: [0; 6], mtu, is_unreachable: random.one_in(10) };
    if random.one_in(2) {
        // The last byte tells nodes apart.
        let next_hop = [2, 0, 0, 0, 1, node as u8];
        (peer.link, peer.next_hop, peer.link_mac) = (world.way_out, next_hop, UPLINK_MAC);
    }
    world.peers.insert(node, peer);
}

fn people(random: &mut Random, world: &mut World, devices: &Devices) {
    for (third, vni) in NETWORKS {
        let addr = ip(10, 0, third, 1);
        let gateway = Endpoint {
            vni,
            number: 0,
            node: 1,
            link: 0,
            gateway: addr,
            mac: mac::GATEWAY,
            is_gateway: true,
            is_internal: false,
            prefix_len: 20,
        };
        world.endpoints.insert(addr, gateway);
    }
    let here = devices.tasks.iter().enumerate().map(|(at, link)| (10 + at as u8, 1, *link));
    let there = (0..6u8).map(|at| (20 + at, 2 + u32::from(at % 2), 0));
    for (number, (last, node, link)) in (1..).zip(here.chain(there)) {
        let (third, vni) = random.of(&[NETWORKS[0], NETWORKS[0], NETWORKS[1]]);
        let (addr, mac) = (ip(10, 0, third, last), mac::of(1, number));
        let endpoint = Endpoint {
            vni,
            number,
            node,
            link,
            gateway: ip(10, 0, third, 1),
            mac,
            is_gateway: false,
            is_internal: random.one_in(5),
            prefix_len: 20,
        };
        world.endpoints.insert(addr, endpoint);
        let is_ready = !random.one_in(6);
        world.backends.insert(number, Backend { addrs: both(addr), vni, pool: 0, node, link, mac, is_ready });
    }
}

/// A service over tasks of a network, perhaps none, perhaps one that has ended.
fn service(random: &mut Random, world: &mut World, number: u8) {
    let (third, vni) = random.of(&[NETWORKS[0], NETWORKS[0], NETWORKS[1]]);
    let pool = 100 + u32::from(number);
    let of_network: Vec<Slot> =
        world.backends.iter().filter(|(_, it)| it.vni == vni).map(|(number, it)| (*number, it.node)).collect();
    let mut turns: Vec<Slot> = of_network.into_iter().filter(|_| !random.one_in(3)).collect();
    if random.one_in(8) {
        turns.clear();
    }
    let ring: Vec<Slot> = if turns.is_empty() { Vec::new() } else { (0..13).map(|_| random.of(&turns)).collect() };
    for (number, _) in &turns {
        world.backends.get_mut(number).expect("it was listed").pool = pool;
    }
    let algorithm = random.of(&[Algorithm::RoundRobin, Algorithm::Maglev, Algorithm::Random, Algorithm::Client]);
    if algorithm == Algorithm::Client {
        let tasks = world.endpoints.iter().filter(|(_, it)| !it.is_gateway).map(|(addr, _)| *addr);
        let clients: Vec<Ip> = tasks.chain(CALLERS).filter(|_| random.one_in(2)).collect();
        for client in clients {
            let kept = Kept { backend: random.below(world.backends.len()) as u32 + 1, is_fresh: random.one_in(2) };
            world.kept.insert((client, pool), kept);
        }
    }
    let vip = ip(10, 0, third, 200 + number);
    world.turns.insert(pool, random.next() >> (1 + random.below(63)));
    let (target_port, not_taken, by_address, allow) = (0, false, false, None);
    let frontend = Frontend { pool, vni, vip, algorithm, turns, ring, target_port, not_taken, by_address, allow };
    for port in PORTS {
        if random.one_in(2) {
            let target_port = random.of(&[0, port, 9_000]);
            let mut published = Frontend { target_port, not_taken: random.one_in(6), ..frontend.clone() };
            if random.one_in(3) {
                let prefixes = [
                    (ip(10, 0, 0, 0), 8),
                    (ip(10, 0, third, 0), 20),
                    (ip(198, 51, 100, 0), 31),
                    (ip(198, 51, 100, 2), 32),
                    (HERE.into(), 32),
                ];
                published.allow = Some(prefixes.into_iter().filter(|_| random.one_in(2)).collect());
                if published.algorithm == Algorithm::Maglev {
                    published.algorithm = Algorithm::MaglevOfAllowed;
                }
            }
            let protocol = random.of(&[6, 6, 17, 17, 132]);
            publish(random, world, (port, protocol), published);
        }
    }
    let first = frontend.turns.first().copied();
    world.vips.insert(vip, frontend);
    if let Some((number, _)) = first.filter(|_| random.one_in(6)) {
        // It has ended, and the lists don't know yet.
        world.backends.remove(&number);
    }
}

/// Publishes a port: at every address, or at some while it is nobody's at all of them.
fn publish(random: &mut Random, world: &mut World, (port, protocol): (u16, u8), frontend: Frontend) {
    let all = ip(0, 0, 0, 0);
    let is_by_address = world.published.get(&(all, port, protocol)).map(|it| it.by_address);
    if !is_by_address.unwrap_or(random.one_in(3)) {
        world.published.insert((all, port, protocol), frontend);
        return;
    }
    let nobody = Frontend {
        pool: 0,
        vni: 0,
        vip: all,
        algorithm: Algorithm::RoundRobin,
        turns: Vec::new(),
        ring: Vec::new(),
        target_port: 0,
        not_taken: false,
        by_address: true,
        allow: None,
    };
    world.published.insert((all, port, protocol), nobody);
    for addr in [address_of(1), HERE_TOO, address_of(2), address_of(3)] {
        if random.one_in(2) {
            world.published.insert((addr, port, protocol), frontend.clone());
        }
    }
}

/// Whom a frame of the world comes from.
pub const NEIGHBOUR: [u8; 6] = ROUTER_MAC;
