//! Random worlds: tasks, services, published ports and peers, some of it not as it should be.

use mesh_tests::rig::{Devices, HERE, PEER_2, PEER_3, ROUTER_MAC, UPLINK_MAC};

use super::model::{Address, Algorithm, Backend, Endpoint, Frontend, Ip, Kept, Peer, Slot, Uplink, World, mac};
use super::random::Random;

/// Ports that services publish, and one more.
pub const PORTS: [u16; 5] = [8_000, 8_001, 8_002, 53, 9_000];
/// An address of this node that another link has.
pub const HERE_TOO: Ip = [192, 0, 2, 9];
/// Callers of the world: few, so that they meet again.
pub const CALLERS: [Ip; 4] = [[198, 51, 100, 0], [198, 51, 100, 1], [198, 51, 100, 2], [198, 51, 100, 3]];
/// Nobody has a route there.
pub const NOWHERE: Ip = [203, 0, 113, 9];
pub const NETWORKS: [(u8, u32); 2] = [(16, 4_097), (32, 4_098)];

pub fn address_of(node: u32) -> Ip {
    match node {
        1 => HERE,
        2 => PEER_2,
        _ => PEER_3,
    }
}

pub fn any(random: &mut Random, devices: &Devices) -> World {
    let mut world = World {
        is_set_up: !random.one_in(25),
        node: 1,
        mesh0: devices.mesh0,
        mesh0_mac: mac::of(2, 1),
        tunnel_addr: HERE,
        data_port: 4_789,
        mss: random.of(&[1_410, 1_410, 1_410, 536, 0]),
        // A route of the rig's says so; this host; the link's broadcast.
        unrouted: vec![vec![203, 0, 113], vec![127], vec![192, 0, 2, 255]],
        way_out: devices.uplink,
        ..World::default()
    };
    let address = |node, link, is_own, is_peer, by_mesh0| Address { node, link, is_own, is_peer, by_mesh0 };
    world.addresses.insert(HERE, address(1, devices.uplink, true, false, false));
    // What is remembered of a call by the uplink may be asked for by another link.
    world.addresses.insert(HERE_TOO, address(1, devices.mesh0, true, false, false));
    for node in 2..=3 {
        let (is_peer, by_mesh0) = (!random.one_in(10), random.one_in(10));
        world.addresses.insert(address_of(node), address(node, 0, false, is_peer, by_mesh0));
        peer(random, &mut world, node);
    }
    if !random.one_in(12) {
        world.uplinks.insert(devices.uplink, Uplink { addr: HERE, mac: UPLINK_MAC });
    }
    people(random, &mut world, devices);
    (0..4).for_each(|number| service(random, &mut world, number));
    world
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
        let addr = [10, 0, third, 1];
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
        let (addr, mac) = ([10, 0, third, last], mac::of(1, number));
        let endpoint = Endpoint {
            vni,
            number,
            node,
            link,
            gateway: [10, 0, third, 1],
            mac,
            is_gateway: false,
            is_internal: random.one_in(5),
            prefix_len: 20,
        };
        world.endpoints.insert(addr, endpoint);
        let is_ready = !random.one_in(6);
        world.backends.insert(number, Backend { addr, vni, pool: 0, node, link, mac, is_ready });
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
    let vip = [10, 0, third, 200 + number];
    world.turns.insert(pool, random.next() >> (1 + random.below(63)));
    let frontend = Frontend { pool, vni, vip, algorithm, turns, ring, target_port: 0, not_taken: false, allow: None };
    for port in PORTS {
        if random.one_in(2) {
            let target_port = random.of(&[0, port, 9_000]);
            let mut published = Frontend { target_port, not_taken: random.one_in(6), ..frontend.clone() };
            if random.one_in(3) {
                let prefixes = [
                    ([10, 0, 0, 0], 8),
                    ([10, 0, third, 0], 20),
                    ([198, 51, 100, 0], 31),
                    ([198, 51, 100, 2], 32),
                    (HERE, 32),
                ];
                published.allow = Some(prefixes.into_iter().filter(|_| random.one_in(2)).collect());
                if published.algorithm == Algorithm::Maglev {
                    published.algorithm = Algorithm::MaglevOfAllowed;
                }
            }
            world.published.insert((port, random.of(&[6, 6, 17, 17, 132])), published);
        }
    }
    let first = frontend.turns.first().copied();
    world.vips.insert(vip, frontend);
    if let Some((number, _)) = first.filter(|_| random.one_in(6)) {
        // It has ended, and the lists don't know yet.
        world.backends.remove(&number);
    }
}

/// Whom a frame of the world comes from.
pub const NEIGHBOUR: [u8; 6] = ROUTER_MAC;
