//! The walks that are measured: for each hook its usual packets, in one small cluster as this node sees it.
//!
//! A walk says which packets arrive where, what opened their flows, what the hook must say of them, and which bare program does the same
//! lookups and rewrites by the shortest way. Invariant: flow `n` of a walk is another for every `n` below half a million.

use mesh_common::parse::protocol;
use mesh_common::schema::{Address, Frontend, FrontendKey, Peer, Uplink, address_flag, algorithm};
use mesh_common::wire::{mac, vni};
use mesh_packet::eth;

use super::frames::{Template, Tuple};
use super::programs::Kind;
use crate::bench::Target;
use crate::rig::{HERE, PEER_2, ROUTER_MAC, Rig, Task, UPLINK_MAC};

/// Most flows that walks can tell apart.
pub const MOST_FLOWS: u32 = 500_000;
/// Ports published: of a task here, of one elsewhere, of one elsewhere by the ring, of one that XDP forwards to; and the host's
/// own, which is not.
const PUBLISHED: [u16; 4] = [8080, 8081, 8082, 8083];
const HOSTS_OWN: u16 = 22;
const VIP_HERE: [u8; 4] = [10, 0, 16, 2];
const VIP_THERE: [u8; 4] = [10, 0, 16, 6];
const VIP_RING: [u8; 4] = [10, 0, 16, 7];
/// What the bare programs find a service by: every port and address that walks call.
pub const BY_PORT: [u16; 5] = [PUBLISHED[0], PUBLISHED[1], PUBLISHED[2], PUBLISHED[3], HOSTS_OWN];
pub const BY_ADDRESS: [[u8; 4]; 4] = [VIP_HERE, VIP_THERE, HERE, PEER_2];
/// The device that a test run of XDP arrives at.
const LOOPBACK: u32 = 1;

/// Verdicts of TC …
const REDIRECT: i32 = 7;
const OK: i32 = 0;
const NEXT: i32 = -1;
/// … and of XDP: to the wire it came from, or to a device.
const XDP_SENT: &[i32] = &[3, 4];

/// The tasks of the cluster.
#[derive(Clone, Debug)]
pub struct World {
    client: Task,
    here: Task,
    there: Task,
    uplink: u32,
    mesh0: u32,
}

impl World {
    /// Fills a rig.
    pub fn furnish(rig: &mut Rig) -> World {
        let (client, here) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
        let there = rig.task_there(2, "10.0.16.5");
        for (vip, task, port) in [("10.0.16.2", &here, PUBLISHED[0]), ("10.0.16.6", &there, PUBLISHED[1])] {
            let service = rig.service(vip, &[task]);
            rig.publish(&service, protocol::TCP, port, 80);
        }
        // What XDP forwards goes to a node with a next hop, on the link that test runs arrive at; TC goes through mesh0, for a packet that has
        // been made longer by TC once can't be again.
        let beyond = rig.task_there(3, "10.0.16.8");
        let next_hop = Peer { ifindex: LOOPBACK, next_hop: ROUTER_MAC, link_mac: UPLINK_MAC, ..rig.peer(3) };
        rig.set("PEERS", 3, next_hop);
        rig.put("ADDRESSES4", HERE, Address { node: 1, ifindex: LOOPBACK, flags: address_flag::OWN, pad: [0; 3] });
        rig.configure(|_| {});
        let forwarded = rig.service("10.0.16.9", &[&beyond]);
        rig.publish(&forwarded, protocol::TCP, PUBLISHED[3], 80);
        let mut ring = rig.service("10.0.16.7", &[&beyond]);
        ring.frontend.algorithm = algorithm::MAGLEV;
        let frontend: Frontend<[u8; 4]> = ring.frontend;
        rig.put("FRONTENDS4", FrontendKey::vip(VIP_RING), frontend);
        rig.publish(&ring, protocol::TCP, PUBLISHED[2], 80);
        rig.put("UPLINKS", LOOPBACK, Uplink { addr4: HERE, mac: UPLINK_MAC, pad: [0; 2], addr6: [0; 16] });
        let (uplink, mesh0) = (rig.devices().uplink, rig.devices().mesh0);
        World { client, here, there, uplink, mesh0 }
    }

    /// The host side of the called task's veth.
    pub fn task_ifindex(&self) -> u32 {
        self.here.ifindex
    }

    /// A device that bare programs may name in a redirect.
    pub fn client_ifindex(&self) -> u32 {
        self.client.ifindex
    }
}

/// Packets that arrive somewhere.
#[derive(Clone)]
pub struct Stream {
    /// The hook's program.
    pub program: &'static str,
    pub kind: Kind,
    /// Device the packets arrive at.
    pub ifindex: u32,
    /// Source and destination.
    macs: [[u8; 6]; 2],
    tuple: fn(&World, u32) -> Tuple,
    /// What the hook may say of each packet.
    pub verdicts: &'static [i32],
}

impl Stream {
    /// Flow `n`.
    pub fn tuple(&self, world: &World, n: u32) -> Tuple {
        (self.tuple)(world, n)
    }

    /// A segment that opens; its 10 bytes of data nobody minds.
    pub fn syn(&self) -> Template {
        Template::new(&eth(self.macs[0], self.macs[1]).ipv4([0; 4], [0; 4]).tcp(0, 0).syn().payload_of(10))
    }

    /// A segment of an established connection.
    pub fn data(&self) -> Template {
        Template::new(&eth(self.macs[0], self.macs[1]).ipv4([0; 4], [0; 4]).tcp(0, 0).seq(1).ack(1).payload_of(10))
    }
}

/// What was there before the packets measured.
#[derive(Clone)]
pub enum Opener {
    /// Nothing: the hook remembers nothing of them.
    None,
    /// Their own SYNs; so new flows are measured too.
    Own,
    /// Those of the other direction.
    Other(Stream),
}

/// See the module.
#[derive(Clone)]
pub struct Walk {
    pub name: &'static str,
    /// What its packets are: "established", "reply", "pass-through".
    pub sort: &'static str,
    pub stream: Stream,
    pub opener: Opener,
    /// Flow entries that opening one leaves.
    pub entries: usize,
    /// The bare program to compare with, and that for new flows.
    pub bare: &'static str,
    pub bare_new: &'static str,
    target: fn(u32) -> Option<Target>,
    target_new: fn(u32) -> Option<Target>,
}

impl Walk {
    pub fn row_name(&self, sort: &str, flows: u32) -> String {
        format!("{}: {}: {sort}, {}", self.stream.program, self.name, flows_in_words(flows))
    }

    /// Its own SYNs open its flows, so that new flows can be measured.
    pub fn is_opened_by_its_own(&self) -> bool {
        matches!(self.opener, Opener::Own)
    }

    /// Its packets become longer by a header that the program writes itself.
    pub fn makes_room(&self) -> bool {
        self.stream.kind == Kind::Xdp && self.sort != "pass-through"
    }

    /// What was aimed at with so many flows.
    pub fn target(&self, flows: u32) -> Option<Target> {
        (self.target)(flows)
    }

    pub fn target_new(&self, flows: u32) -> Option<Target> {
        (self.target_new)(flows)
    }
}

/// "10k flows"
pub fn flows_in_words(flows: u32) -> String {
    match flows {
        1 => "1 flow".to_owned(),
        _ if flows.is_multiple_of(1_000) => format!("{}k flows", flows / 1_000),
        _ => format!("{flows} flows"),
    }
}

/// The ports of flow `n` between one client and one service or task.
fn ports(n: u32) -> (u16, u16) {
    (10_000 + (n % 50_000) as u16, 8_000 + (n / 50_000) as u16)
}

fn between(src: [u8; 4], dst: [u8; 4], n: u32) -> Tuple {
    let (sport, dport) = ports(n);
    Tuple { src, dst, sport, dport }
}

/// Flow `n` from outside: of 65,536 callers in turn, in no order of ports that a hash table could profit from.
fn outside(n: u32, dst: [u8; 4], dport: u16) -> Tuple {
    let mixed = n.wrapping_mul(0x9e37_79b1).rotate_left(7).wrapping_mul(0x85eb_ca6b) % 5_000;
    let sport = 1_024 + ((n >> 16) * 5_000 + mixed) as u16;
    Tuple { src: [198, 18, (n >> 8) as u8, n as u8], dst, sport, dport }
}

fn no_target(_: u32) -> Option<Target> {
    None
}

/// Its calls leave by the tunnel and their replies find their way without an entry here.
fn one_entry(walk: Walk) -> Walk {
    let bare_new = if walk.stream.kind == Kind::Xdp { "xdp_new" } else { "tc_new_one" };
    Walk { entries: 1, bare_new, ..walk }
}

/// Everything but its packets and what is aimed at.
fn walk(name: &'static str, sort: &'static str, bare: &'static str, stream: Stream, opener: Opener) -> Walk {
    let entries = if matches!(opener, Opener::None) { 0 } else { 2 };
    Walk { name, sort, stream, opener, entries, bare, bare_new: "tc_new", target: no_target, target_new: no_target }
}

/// All of them.
pub fn walks(world: &World) -> Vec<Walk> {
    [of_tasks(world), of_the_overlay(world), of_the_host(world), of_the_uplink(world)].concat()
}

fn from_task(task: &Task, tuple: fn(&World, u32) -> Tuple) -> Stream {
    let macs = [task.mac, mac::GATEWAY];
    Stream { program: "from_task", kind: Kind::Tc, ifindex: task.ifindex, macs, tuple, verdicts: &[REDIRECT] }
}

fn from_overlay(world: &World, vni: u32, macs: [[u8; 6]; 2], tuple: fn(&World, u32) -> Tuple) -> Stream {
    let kind = Kind::Tunnel(PEER_2, vni);
    Stream { program: "from_overlay", kind, ifindex: world.mesh0, macs, tuple, verdicts: &[REDIRECT] }
}

fn from_host(world: &World, tuple: fn(&World, u32) -> Tuple, verdicts: &'static [i32]) -> Stream {
    let mesh0 = mac::of(mac::KIND_MESH0, 1);
    Stream { program: "from_host", kind: Kind::Tc, ifindex: world.mesh0, macs: [mesh0, mesh0], tuple, verdicts }
}

fn from_uplink(world: &World, tuple: fn(&World, u32) -> Tuple, verdicts: &'static [i32]) -> Stream {
    let macs = [ROUTER_MAC, [2, 0, 0, 0, 0, 1]];
    Stream { program: "from_uplink", kind: Kind::Tc, ifindex: world.uplink, macs, tuple, verdicts }
}

/// A request for a published port as the ingress node sends it to the owner of its task.
fn at_the_owner(world: &World) -> Stream {
    let macs = [ROUTER_MAC, mac::of(mac::KIND_ENDPOINT, world.here.number)];
    from_overlay(world, vni::REQUEST_WIRE, macs, |_, n| outside(n, PEER_2, PUBLISHED[0]))
}

fn of_tasks(world: &World) -> Vec<Walk> {
    let vip_here = from_task(&world.client, |w, n| between(w.client.addr, VIP_HERE, n));
    let vip_there = from_task(&world.client, |w, n| between(w.client.addr, VIP_THERE, n));
    let reply = from_task(&world.here, |w, n| between(w.client.addr, w.here.addr, n).turned());
    let direct = from_task(&world.client, |w, n| between(w.client.addr, w.there.addr, n));
    let wire = from_task(&world.here, |w, n| outside(n, w.here.addr, 80).turned());
    let host = from_task(&world.here, |w, n| between(HERE, w.here.addr, n).turned());
    let host_calls = from_host(world, |_, n| between(HERE, VIP_HERE, n), &[REDIRECT]);
    let calls = from_uplink(world, |_, n| outside(n, HERE, PUBLISHED[0]), &[REDIRECT]);
    let owner = at_the_owner(world);
    vec![
        Walk {
            target: |flows| (flows == 10_000).then_some(Target::RatioAtMost(1.4)),
            ..walk("VIP, task here", "established", "tc_dnat", vip_here.clone(), Opener::Own)
        },
        walk("VIP, task elsewhere", "established", "tc_dnat_tunnel", vip_there, Opener::Own),
        walk("to a caller here, un-NAT", "reply", "tc_dnat", reply, Opener::Other(vip_here)),
        walk("task elsewhere, by address", "pass-through", "tc_tunnel", direct, Opener::None),
        walk("to a caller outside, by this node", "reply", "tc_dnat", wire.clone(), Opener::Other(calls)),
        walk("to a caller outside, by the ingress node", "reply", "tc_dnat_tunnel", wire, Opener::Other(owner)),
        walk("to this host, un-NAT", "reply", "tc_dnat", host, Opener::Other(host_calls)),
    ]
}

fn of_the_overlay(world: &World) -> Vec<Walk> {
    let (client, here) = (&world.client, &world.here);
    let calls = from_task(client, |w, n| between(w.client.addr, VIP_THERE, n));
    let reply =
        from_overlay(world, 4_097, [mac::GATEWAY, client.mac], |w, n| between(w.client.addr, w.there.addr, n).turned());
    let direct = from_overlay(world, 4_097, [mac::GATEWAY, here.mac], |w, n| between(w.there.addr, w.here.addr, n));
    let ingress = from_overlay(world, vni::REPLY_WIRE, [mac::GATEWAY, ROUTER_MAC], |_, n| {
        outside(n, HERE, PUBLISHED[1]).turned()
    });
    vec![
        walk("request, at the owner of the task", "established", "tc_dnat", at_the_owner(world), Opener::Own),
        walk("to a caller here, un-NAT", "reply", "tc_dnat", reply, Opener::Other(calls)),
        walk("task here, by address", "pass-through", "tc_hash", direct, Opener::None),
        walk("to the wire, at the ingress node", "reply", "tc_hash", ingress, Opener::None),
    ]
}

fn of_the_host(world: &World) -> Vec<Walk> {
    let here = from_host(world, |_, n| between(HERE, VIP_HERE, n), &[REDIRECT]);
    let there = from_host(world, |_, n| between(HERE, VIP_THERE, n), &[OK]);
    vec![
        walk("VIP, task here", "established", "tc_dnat", here, Opener::Own),
        one_entry(walk("VIP, task elsewhere", "established", "tc_dnat_tunnel", there, Opener::Own)),
    ]
}

fn of_the_uplink(world: &World) -> Vec<Walk> {
    let here = from_uplink(world, |_, n| outside(n, HERE, PUBLISHED[0]), &[REDIRECT]);
    let there = from_uplink(world, |_, n| outside(n, HERE, PUBLISHED[1]), &[REDIRECT]);
    let own = from_uplink(world, |_, n| outside(n, HERE, HOSTS_OWN), &[NEXT]);
    let xdp =
        |tuple, verdicts| Stream { program: "xdp_uplink", kind: Kind::Xdp, ..from_uplink(world, tuple, verdicts) };
    let forward = xdp(|_, n| outside(n, HERE, PUBLISHED[3]), XDP_SENT);
    let ring = xdp(|_, n| outside(n, HERE, PUBLISHED[2]), XDP_SENT);
    let passed = xdp(|_, n| outside(n, HERE, HOSTS_OWN), &[2]);
    vec![
        walk("published, task here", "established", "tc_dnat", here, Opener::Own),
        one_entry(walk("published, task elsewhere", "established", "tc_dnat_tunnel", there, Opener::Own)),
        walk("the host's own port", "pass-through", "tc_hash", own, Opener::None),
        Walk {
            target: |flows| match flows {
                10_000 => Some(Target::RatioAtMost(1.25)),
                500_000 => Some(Target::RatioAtMost(1.15)),
                _ => None,
            },
            target_new: |flows| (flows == 500_000).then_some(Target::ValueAtMost(400.0)),
            ..one_entry(walk("published, task elsewhere", "established", "xdp_forward", forward, Opener::Own))
        },
        Walk {
            entries: 0,
            target: |flows| (flows >= 10_000).then_some(Target::ValueAtMost(60.0)),
            ..walk("published, task elsewhere, by the ring", "established", "xdp_ring_vxlan", ring, Opener::None)
        },
        walk("the host's own port", "pass-through", "xdp_hash", passed, Opener::None),
    ]
}
