//! Between the model's facts and the programs' maps: what a world says is written, what the programs remember is read back.

use std::collections::BTreeMap;

use aya::Pod;
use mesh_common::family::Bytes;
use mesh_common::schema::{self, address_flag, algorithm, backend_state, deliver, endpoint, endpoint_flag, flow_flag};
use mesh_common::schema::{
    AffinityKey, AllowPrefix, FlowKey, FragmentKey, Fragmented, FrontendKey, Peer, RingSlot, frontend_flag, origin,
    peer_flag, rewrite,
};
use mesh_tests::rig::Rig;
use mesh_userspace::kernel::bpf::clock;

use super::model::{self, Algorithm, Change, Datagram, Flags, Flow, Ip, Kept, Key, Origin, Seen, Side, Way, World};

/// Seconds that a client stays, and how long ago something was that is too long ago.
const STAYS_S: u16 = 60;
const STALE_S: u32 = 100;

/// In 16 bytes, IPv4 as ::ffff:a.b.c.d.
fn to_16(addr: Ip) -> [u8; 16] {
    match addr {
        Ip::V4(addr) => addr.to_ipv6_mapped().octets(),
        Ip::V6(addr) => addr.octets(),
    }
}

/// As the maps of this family have it; None: of the other one.
fn bytes<A: Bytes>(addr: Ip) -> Option<A> {
    if addr.is_ipv4() == (size_of::<A>() == 4) { A::of_16(to_16(addr)) } else { None }
}

/// Of IPv4.
pub fn ip4(addr: Ip) -> [u8; 4] {
    bytes(addr).expect("an address of IPv4")
}

fn ip<A: Bytes>(bytes: A) -> Ip {
    let addr = Ip::from(bytes.to_16());
    if size_of::<A>() == 4 { addr.to_canonical() } else { addr }
}

/// The map of a family.
fn of<A: Bytes>(name: &str) -> String {
    format!("{name}{}", if size_of::<A>() == 4 { 4 } else { 6 })
}

/// Makes a rig's maps say what the world says, and nothing else.
pub fn write(world: &World, rig: &mut Rig) {
    rig.empty();
    rig.configure(|config| {
        config.node = world.node;
        config.mesh0 = if world.is_set_up { world.mesh0 } else { 0 };
        config.mesh0_mac = world.mesh0_mac;
        config.tunnel_addr4 = world.tunnel_addr.and_then(bytes).expect("tunnels are IPv4");
        config.data_port = world.data_port;
        config.mss4 = world.mss4;
        config.mss6 = world.mss6;
    });
    for node in 2..=3 {
        let peer = world.peers.get(&node).map_or(Peer::NONE, |it| Peer {
            addr: to_16(it.addr),
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
        let [addr4, addr6] = it.addrs;
        let (addr4, addr6) = (ip4(addr4), to_16(addr6));
        rig.put("UPLINKS", *link, schema::Uplink { addr4, mac: it.mac, pad: [0; 2], addr6 });
    }
    for (number, it) in &world.backends {
        let state = if it.is_ready { backend_state::READY } else { backend_state::DRAINING };
        let (addr4, addr6) = (ip4(it.addrs[0]), to_16(it.addrs[1]));
        let (vni, pool, node, ifindex, mac) = (it.vni, it.pool, it.node, it.link, it.mac);
        rig.put("BACKENDS", *number, schema::Backend { addr6, addr4, vni, pool, node, ifindex, mac, state, pad: 0 });
    }
    for (pool, turn) in &world.turns {
        rig.set("TURNS", *pool, *turn);
    }
    let mut lists = BTreeMap::new();
    write_family::<[u8; 4]>(world, rig, &mut lists);
    write_family::<[u8; 16]>(world, rig, &mut lists);
    for (key, flow) in &world.flows {
        plant(*key, flow, rig);
    }
}

/// What has an address in its key.
fn write_family<A: Bytes + Pod>(world: &World, rig: &mut Rig, lists: &mut Lists) {
    for (addr, it) in world.addresses.iter().filter_map(|(addr, it)| Some((bytes::<A>(*addr)?, it))) {
        let flag = |is: bool, flag: u8| if is { flag } else { 0 };
        let flags = flag(it.is_own, address_flag::OWN)
            | flag(it.is_peer, address_flag::TUNNEL)
            | flag(it.by_mesh0, address_flag::BY_MESH0);
        rig.put(&of::<A>("ADDRESSES"), addr, schema::Address { node: it.node, ifindex: it.link, flags, pad: [0; 3] });
    }
    for (addr, it) in world.endpoints.iter().filter_map(|(addr, it)| Some((bytes::<A>(*addr)?, it))) {
        let kind = if it.is_gateway { endpoint::GATEWAY } else { endpoint::TASK };
        let flags = if it.is_internal { endpoint_flag::INTERNAL } else { 0 };
        let (vni, number, node, ifindex, prefix_len) = (it.vni, it.number, it.node, it.link, it.prefix_len);
        let (gateway, mac) = (bytes::<A>(it.gateway).expect("of its family"), it.mac);
        let endpoint =
            schema::Endpoint { vni, number, node, ifindex, gateway, mac, kind, flags, prefix_len, pad: [0; 3] };
        rig.put(&of::<A>("ENDPOINTS"), addr, endpoint);
    }
    for (addr, it) in world.vips.iter().filter_map(|(addr, it)| Some((bytes::<A>(*addr)?, it))) {
        let frontend = frontend::<A>(it, rig, lists);
        rig.put(&of::<A>("FRONTENDS"), FrontendKey::vip(addr), frontend);
    }
    for ((addr, port, protocol), it) in &world.published {
        let Some(addr) = bytes::<A>(*addr) else { continue };
        let mut frontend = frontend::<A>(it, rig, lists);
        if let Some(callers) = &it.allow {
            // A number for each port, and none is 0.
            frontend.allow = u32::from(*port) << 8 | u32::from(*protocol);
            for (addr, bits) in callers {
                match addr {
                    Ip::V4(addr) => rig.allow(AllowPrefix::new(it.pool, frontend.allow, addr.octets(), *bits)),
                    Ip::V6(addr) => rig.allow6(AllowPrefix::new(it.pool, frontend.allow, addr.octets(), *bits)),
                }
            }
        }
        rig.put(&of::<A>("FRONTENDS"), FrontendKey::published_at(addr, *port, *protocol), frontend);
    }
    for ((addr, pool), kept) in &world.kept {
        let Some(addr) = bytes::<A>(*addr) else { continue };
        let ago_s = if kept.is_fresh { 5 } else { STALE_S };
        let kept = schema::Affinity { backend: kept.backend, last_new_s: clock::now_s().saturating_sub(ago_s) };
        rig.put(&of::<A>("AFFINITY"), AffinityKey { addr, pool: *pool }, kept);
    }
}

/// Where the lists of each pool begin.
type Lists = BTreeMap<u32, (u32, u32)>;

/// A frontend with its lists, which those of one pool share.
fn frontend<A: Bytes>(it: &model::Frontend, rig: &mut Rig, lists: &mut Lists) -> schema::Frontend<A> {
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
        vip: bytes(it.vip).expect("of its family"),
        target_port: it.target_port,
        algorithm: match it.algorithm {
            Algorithm::RoundRobin => algorithm::ROUND_ROBIN,
            Algorithm::Maglev => algorithm::MAGLEV,
            Algorithm::Random => algorithm::RANDOM,
            Algorithm::MaglevOfAllowed => algorithm::MAGLEV_OF_ALLOWED,
            Algorithm::Client => algorithm::CLIENT,
        },
        flags: if it.not_taken { frontend_flag::NOT_TAKEN } else { 0 }
            | if it.by_address { frontend_flag::BY_ADDRESS } else { 0 },
        affinity_s: if it.algorithm == Algorithm::Client { STAYS_S.into() } else { 0 },
        generation: 1,
        allow: 0,
    }
}

fn key_of<A: Bytes>(key: Key) -> FlowKey<A> {
    let addr = |addr| bytes(addr).expect("of its family");
    FlowKey::new(addr(key.src), addr(key.dst), key.sport, key.dport, key.protocol)
}

fn read_key<A: Bytes>(key: FlowKey<A>) -> Key {
    Key { src: ip(key.src), dst: ip(key.dst), sport: key.sport, dport: key.dport, protocol: key.protocol }
}

/// Writes an entry of the flow table.
pub fn plant(key: Key, flow: &Flow, rig: &mut Rig) {
    if key.src.is_ipv4() { plant_in::<[u8; 4]>(key, flow, rig) } else { plant_in::<[u8; 16]>(key, flow, rig) }
}

fn plant_in<A: Bytes + Pod>(key: Key, flow: &Flow, rig: &mut Rig) {
    let bit = |is: bool, bit: u8| if is { bit } else { 0 };
    let Flags { dead, hairpin, keep_mac, reply, from_host, from_client, port_changed } = flow.flags;
    let entry = schema::Flow {
        addr: bytes::<A>(flow.addr).expect("of its family"),
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
        // However long the world lasts, no connection in it is silent for long (`flow::SILENT_S`).
        last_seen_s: clock::now_s() + 3_600,
        packets: flow.packets,
        bytes: flow.bytes,
    };
    rig.put(&of::<A>("FLOWS"), key_of::<A>(key), entry);
}

fn entry_of<A: Bytes>(entry: &schema::Flow<A>) -> Flow {
    let has = |flag: u8| entry.flags & flag != 0;
    Flow {
        from: origin_of(entry.from),
        rewrite: match entry.rewrite {
            rewrite::NONE => Side::None,
            rewrite::SOURCE => Side::Source,
            _ => Side::Destination,
        },
        addr: ip(entry.addr),
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
        Change::Flow(key, flow) if key.src.is_ipv4() => there::<[u8; 4]>(*key, rig) == *flow,
        Change::Flow(key, flow) => there::<[u8; 16]>(*key, rig) == *flow,
        _ => true,
    }
}

/// An entry of the flow table.
fn there<A: Bytes + Pod>(key: Key, rig: &Rig) -> Option<Flow> {
    let flows = rig.read::<FlowKey<A>, schema::Flow<A>>(&of::<A>("FLOWS"));
    flows.get(&key_of::<A>(key), 0).ok().map(|entry| entry_of(&entry))
}

/// How the maps differ from what the world says by now, in words.
pub fn differences(world: &World, rig: &Rig) -> Vec<String> {
    let mut found = Vec::new();
    let flows: BTreeMap<Key, Flow> = flows_of::<[u8; 4]>(rig).chain(flows_of::<[u8; 16]>(rig)).collect();
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
    let kept: BTreeMap<(Ip, u32), Kept> = kept_of::<[u8; 4]>(rig).chain(kept_of::<[u8; 16]>(rig)).collect();
    if kept != world.kept {
        found.push(format!("clients: model {:?}, programs {kept:?}", world.kept));
    }
    let datagrams: BTreeMap<Datagram, (u16, u16)> =
        datagrams_of::<[u8; 4]>(rig).chain(datagrams_of::<[u8; 16]>(rig)).collect();
    if datagrams != world.datagrams {
        found.push(format!("datagrams: model {:?}, programs {datagrams:?}", world.datagrams));
    }
    let early = early_of(rig);
    if early != world.early {
        found.push(format!("those that wait: model {:02x?}, programs {early:02x?}", world.early));
    }
    found
}

fn early_of(rig: &Rig) -> BTreeMap<Datagram, Vec<Vec<u8>>> {
    let waiting = rig.read::<schema::EarlyKey, schema::Early>("EARLY");
    let waiting: Vec<_> = waiting.iter().map(|entry| entry.expect("those that wait can be read")).collect();
    let mut waiting: Vec<_> = waiting.into_iter().collect();
    waiting.sort_by_key(|(key, _)| *key);
    let mut early = BTreeMap::<Datagram, Vec<Vec<u8>>>::new();
    for (key, there) in waiting {
        let addr = |bytes: [u8; 16]| Ip::from(bytes).to_canonical();
        let frame: Vec<u8> = there.frame.iter().flat_map(|word| word.to_ne_bytes()).take(there.len as usize).collect();
        let datagram = (addr(key.src), addr(key.dst), key.id, key.protocol, origin_of(key.from));
        early.entry(datagram).or_default().push(frame);
    }
    early
}

fn flows_of<A: Bytes + Pod>(rig: &Rig) -> impl Iterator<Item = (Key, Flow)> {
    let flows = rig.read::<FlowKey<A>, schema::Flow<A>>(&of::<A>("FLOWS"));
    let flows: Vec<_> = flows.iter().map(|entry| entry.expect("the flow table can be read")).collect();
    flows.into_iter().map(|(key, entry)| (read_key(key), entry_of(&entry)))
}

fn kept_of<A: Bytes + Pod>(rig: &Rig) -> impl Iterator<Item = ((Ip, u32), Kept)> {
    let kept = rig.read::<AffinityKey<A>, schema::Affinity>(&of::<A>("AFFINITY"));
    let kept: Vec<_> = kept.iter().map(|entry| entry.expect("affinities can be read")).collect();
    kept.into_iter().map(|(key, kept)| {
        let is_fresh = kept.last_new_s + u32::from(STAYS_S) > clock::now_s();
        ((ip(key.addr), key.pool), Kept { backend: kept.backend, is_fresh })
    })
}

fn datagrams_of<A: Bytes + Pod>(rig: &Rig) -> impl Iterator<Item = (Datagram, (u16, u16))> {
    let known = rig.read::<FragmentKey<A>, Fragmented>(&of::<A>("FRAGMENTS"));
    let known: Vec<_> = known.iter().map(|entry| entry.expect("fragments can be read")).collect();
    known.into_iter().map(|(key, ports)| {
        ((ip(key.src), ip(key.dst), key.id, key.protocol, origin_of(key.from)), (ports.sport, ports.dport))
    })
}

fn origin_of(from: u32) -> Origin {
    match from {
        origin::WIRE => Origin::World,
        origin::HOST => Origin::Stack,
        peer if origin::is_peer(peer) => Origin::Peer(origin::number(peer)),
        link => Origin::Link(link),
    }
}
