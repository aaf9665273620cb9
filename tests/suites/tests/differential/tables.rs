//! Between the model's facts and the programs' maps: what a world says is written, what the programs remember is read back.

use std::collections::BTreeMap;

use mesh_common::schema::{self, address_flag, algorithm, backend_state, deliver, endpoint, endpoint_flag, flow_flag};
use mesh_common::schema::{
    AffinityKey, AllowPrefix, FlowKey, FrontendKey, Peer, RingSlot, frontend_flag, origin, peer_flag, rewrite,
};
use mesh_tests::rig::Rig;
use mesh_userspace::kernel::bpf::clock;

use super::model::{self, Algorithm, Change, Flags, Flow, Ip, Kept, Key, Origin, Seen, Side, Way, World};

/// Seconds that a client stays, and how long ago something was that is too long ago.
const STAYS_S: u16 = 60;
const STALE_S: u32 = 1_000;

fn mapped(a: Ip) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a[0], a[1], a[2], a[3]]
}

/// Makes a rig's maps say what the world says, and nothing else.
pub fn write(world: &World, rig: &mut Rig) {
    rig.empty();
    rig.configure(|config| {
        config.node = world.node;
        config.mesh0 = if world.is_set_up { world.mesh0 } else { 0 };
        config.mesh0_mac = world.mesh0_mac;
        config.tunnel_addr4 = world.tunnel_addr;
        config.data_port = world.data_port;
        config.mss4 = world.mss;
    });
    for (addr, it) in &world.addresses {
        let flag = |is: bool, flag: u8| if is { flag } else { 0 };
        let flags = flag(it.is_own, address_flag::OWN)
            | flag(it.is_peer, address_flag::TUNNEL)
            | flag(it.by_mesh0, address_flag::BY_MESH0);
        rig.put("ADDRESSES4", *addr, schema::Address { node: it.node, ifindex: it.link, flags, pad: [0; 3] });
    }
    for node in 2..=3 {
        let peer = world.peers.get(&node).map_or(Peer::NONE, |it| Peer {
            addr: mapped(it.addr),
            ifindex: it.link,
            next_hop: it.next_hop,
            link_mac: it.link_mac,
            mtu: it.mtu,
            flags: if it.is_unreachable { peer_flag::UNREACHABLE } else { 0 },
            ..Peer::NONE
        });
        rig.set("PEERS", node, peer);
    }
    if !world.uplinks.contains_key(&world.way_out) {
        rig.delete::<u32, schema::Uplink>("UPLINKS", world.way_out);
    }
    for (link, it) in &world.uplinks {
        rig.put("UPLINKS", *link, schema::Uplink { addr4: it.addr, mac: it.mac, pad: [0; 2], addr6: [0; 16] });
    }
    for (addr, it) in &world.endpoints {
        let kind = if it.is_gateway { endpoint::GATEWAY } else { endpoint::TASK };
        let flags = if it.is_internal { endpoint_flag::INTERNAL } else { 0 };
        let (vni, number, node, ifindex, prefix_len) = (it.vni, it.number, it.node, it.link, it.prefix_len);
        let (gateway, mac) = (it.gateway, it.mac);
        let endpoint =
            schema::Endpoint { vni, number, node, ifindex, gateway, mac, kind, flags, prefix_len, pad: [0; 3] };
        rig.put("ENDPOINTS4", *addr, endpoint);
    }
    for (number, it) in &world.backends {
        let state = if it.is_ready { backend_state::READY } else { backend_state::DRAINING };
        let (addr4, vni, pool, node, ifindex, mac) = (it.addr, it.vni, it.pool, it.node, it.link, it.mac);
        rig.put(
            "BACKENDS",
            *number,
            schema::Backend { addr6: [0; 16], addr4, vni, pool, node, ifindex, mac, state, pad: 0 },
        );
    }
    let mut lists = BTreeMap::new();
    for (addr, it) in &world.vips {
        let frontend = frontend(it, rig, &mut lists);
        rig.put("FRONTENDS4", FrontendKey::vip(*addr), frontend);
    }
    for ((port, protocol), it) in &world.published {
        let mut frontend = frontend(it, rig, &mut lists);
        if let Some(callers) = &it.allow {
            // A number for each port, and none is 0.
            frontend.allow = u32::from(*port) << 8 | u32::from(*protocol);
            for (addr, bits) in callers {
                rig.allow(AllowPrefix::new(it.pool, frontend.allow, *addr, *bits));
            }
        }
        rig.put("FRONTENDS4", FrontendKey::<Ip>::published(*port, *protocol), frontend);
    }
    for (pool, turn) in &world.turns {
        rig.set("TURNS", *pool, *turn);
    }
    for ((addr, pool), kept) in &world.kept {
        let ago_s = if kept.is_fresh { 5 } else { STALE_S };
        let kept = schema::Affinity { backend: kept.backend, last_new_s: clock::now_s().saturating_sub(ago_s) };
        rig.put("AFFINITY4", AffinityKey { addr: *addr, pool: *pool }, kept);
    }
    for (key, flow) in &world.flows {
        plant(*key, flow, rig);
    }
}

/// A frontend with its lists, which those of one pool share.
fn frontend(it: &model::Frontend, rig: &mut Rig, lists: &mut BTreeMap<u32, (u32, u32)>) -> schema::Frontend<Ip> {
    let first = 1 + lists.len() as u32 * 64;
    let (turns_at, ring_at) = *lists.entry(it.pool).or_insert_with(|| {
        let ring_at = first + it.turns.len() as u32;
        for (slot, (backend, node)) in (first..).zip(it.turns.iter().chain(&it.ring)) {
            rig.set("RINGS", slot, RingSlot { backend: *backend, node: *node });
        }
        (first, ring_at)
    });
    schema::Frontend {
        pool: it.pool,
        vni: it.vni,
        turns_at,
        turns_len: it.turns.len() as u32,
        ring_at,
        ring_len: it.ring.len() as u32,
        vip: it.vip,
        target_port: it.target_port,
        algorithm: match it.algorithm {
            Algorithm::RoundRobin => algorithm::ROUND_ROBIN,
            Algorithm::Maglev => algorithm::MAGLEV,
            Algorithm::Random => algorithm::RANDOM,
            Algorithm::MaglevOfAllowed => algorithm::MAGLEV_OF_ALLOWED,
            Algorithm::Client => algorithm::CLIENT,
        },
        flags: if it.not_taken { frontend_flag::NOT_TAKEN } else { 0 },
        affinity_s: if it.algorithm == Algorithm::Client { STAYS_S.into() } else { 0 },
        generation: 1,
        allow: 0,
    }
}

fn key_of(key: Key) -> FlowKey<Ip> {
    FlowKey::new(key.src, key.dst, key.sport, key.dport, key.protocol)
}

/// Writes an entry of the flow table.
pub fn plant(key: Key, flow: &Flow, rig: &mut Rig) {
    let bit = |is: bool, bit: u8| if is { bit } else { 0 };
    let Flags { dead, hairpin, keep_mac, reply, from_host, from_client, port_changed } = flow.flags;
    let entry = schema::Flow {
        addr: flow.addr,
        from: match flow.from {
            Origin::Link(link) => link,
            Origin::Peer(node) => origin::peer(node),
            Origin::World => origin::WIRE,
            Origin::Stack => origin::HOST,
        },
        ifindex: flow.link,
        vni: flow.vni,
        backend: flow.backend,
        port: flow.port,
        other_port: flow.other_port,
        node: flow.node as u16,
        mac: flow.mac,
        rewrite: match flow.rewrite {
            Side::None => rewrite::NONE,
            Side::Source => rewrite::SOURCE,
            Side::Destination => rewrite::DESTINATION,
        },
        deliver: match flow.way {
            Way::Task => deliver::TASK,
            Way::Tunnel => deliver::TUNNEL,
            Way::Uplink => deliver::UPLINK,
            Way::Host => deliver::HOST,
            Way::Outside => deliver::OUTSIDE,
        },
        seen: bit(flow.seen.ack, 1) | bit(flow.seen.fin, 2) | bit(flow.seen.rst, 4),
        flags: bit(dead, flow_flag::DEAD)
            | bit(hairpin, flow_flag::HAIRPIN)
            | bit(keep_mac, flow_flag::KEEP_MAC)
            | bit(reply, flow_flag::REVERSE)
            | bit(from_host, flow_flag::FROM_HOST)
            | bit(from_client, flow_flag::FROM_CLIENT)
            | bit(port_changed, flow_flag::PORT_CHANGED),
        last_seen_s: clock::now_s(),
        packets: flow.packets,
        bytes: flow.bytes,
    };
    rig.put("FLOWS4", key_of(key), entry);
}

fn entry_of(entry: &schema::Flow<Ip>) -> Flow {
    let has = |flag: u8| entry.flags & flag != 0;
    Flow {
        from: match entry.from {
            origin::WIRE => Origin::World,
            origin::HOST => Origin::Stack,
            peer if peer & origin::PEER != 0 => Origin::Peer(peer & !origin::PEER),
            link => Origin::Link(link),
        },
        rewrite: match entry.rewrite {
            rewrite::NONE => Side::None,
            rewrite::SOURCE => Side::Source,
            _ => Side::Destination,
        },
        addr: entry.addr,
        port: entry.port,
        other_port: entry.other_port,
        way: match entry.deliver {
            deliver::TASK => Way::Task,
            deliver::TUNNEL => Way::Tunnel,
            deliver::UPLINK => Way::Uplink,
            deliver::HOST => Way::Host,
            _ => Way::Outside,
        },
        link: entry.ifindex,
        node: entry.node.into(),
        vni: entry.vni,
        backend: entry.backend,
        mac: entry.mac,
        seen: Seen { ack: entry.seen & 1 != 0, fin: entry.seen & 2 != 0, rst: entry.seen & 4 != 0 },
        flags: Flags {
            dead: has(flow_flag::DEAD),
            hairpin: has(flow_flag::HAIRPIN),
            keep_mac: has(flow_flag::KEEP_MAC),
            reply: has(flow_flag::REVERSE),
            from_host: has(flow_flag::FROM_HOST),
            from_client: has(flow_flag::FROM_CLIENT),
            port_changed: has(flow_flag::PORT_CHANGED),
        },
        packets: entry.packets,
        bytes: entry.bytes,
    }
}

/// The flow table has what a change of it says.
pub fn holds(change: &Change, rig: &Rig) -> bool {
    match change {
        Change::Flow(key, flow) => rig.flow(&key_of(*key)).map(|entry| entry_of(&entry)) == *flow,
        _ => true,
    }
}

/// How the maps differ from what the world says by now, in words.
pub fn differences(world: &World, rig: &Rig) -> Vec<String> {
    let mut found = Vec::new();
    let read = |key: FlowKey<Ip>| Key {
        src: key.src,
        dst: key.dst,
        sport: key.sport,
        dport: key.dport,
        protocol: key.protocol,
    };
    let flows: BTreeMap<Key, Flow> = rig.flows().iter().map(|(key, entry)| (read(*key), entry_of(entry))).collect();
    for (key, flow) in &world.flows {
        match flows.get(key) {
            Some(entry) if entry == flow => {}
            other => found.push(format!("{key:?}:\n  model    {flow:?}\n  programs {other:?}")),
        }
    }
    let more = flows.iter().filter(|(key, _)| !world.flows.contains_key(key));
    found.extend(more.map(|(key, entry)| format!("{key:?}:\n  model    None\n  programs {entry:?}")));
    let turns: BTreeMap<u32, u64> = world.turns.keys().map(|pool| (*pool, rig.get("TURNS", *pool))).collect();
    if turns != world.turns {
        found.push(format!("turns: model {:?}, programs {turns:?}", world.turns));
    }
    let kept = rig.read::<AffinityKey<Ip>, schema::Affinity>("AFFINITY4");
    let kept: BTreeMap<(Ip, u32), Kept> = kept
        .iter()
        .map(|entry| {
            let (key, kept) = entry.expect("affinities can be read");
            let is_fresh = kept.last_new_s + u32::from(STAYS_S) > clock::now_s();
            ((key.addr, key.pool), Kept { backend: kept.backend, is_fresh })
        })
        .collect();
    if kept != world.kept {
        found.push(format!("clients: model {:?}, programs {kept:?}", world.kept));
    }
    found
}
