//! Sentences that fill the maps: who is there, and what serves what.

use aya::maps::{LpmTrie, MapData};
use mesh_common::maglev;
use mesh_common::schema::*;
use mesh_common::wire::mac;
use mesh_packet::{Frame, eth, over_ipv6};

use super::devices::HERE;
use super::way::{MESH0_MAC, UPLINK_MAC};
use super::{Family, Rig};

/// The peer with number 2.
pub const PEER_2: [u8; 4] = [192, 0, 2, 2];
/// The peer with number 3.
pub const PEER_3: [u8; 4] = [192, 0, 2, 3];

/// MAC of the next hop towards a node.
pub fn next_hop_mac(node: u32) -> [u8; 6] {
    [2, 0, 0, 0, 1, node as u8]
}

/// A task, as endpoint and backend.
#[derive(Clone, Debug)]
pub struct Task {
    pub number: u32,
    pub addr: [u8; 4],
    pub mac: [u8; 6],
    pub vni: u32,
    pub node: u32,
    /// 0 where it is on another node.
    pub ifindex: u32,
}

impl Task {
    /// The head of a frame that it sends.
    pub fn to(&self, dst: &str) -> Frame {
        eth(self.mac, mac::GATEWAY).ipv4(self.addr, dst)
    }

    /// The head of a frame that reaches it.
    pub fn gets(&self, src: &str) -> Frame {
        eth(mac::GATEWAY, self.mac).ipv4(src, self.addr)
    }

    /// Its address as text.
    pub fn ip(&self) -> String {
        std::net::Ipv4Addr::from(self.addr).to_string()
    }
}

/// A service on a network.
#[derive(Clone, Debug)]
pub struct Service {
    pub pool: u32,
    pub frontend: Frontend<[u8; 4]>,
}

/// IPv4 as ::ffff:a.b.c.d.
pub fn mapped(a: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a[0], a[1], a[2], a[3]]
}

/// An address from text; a text that is none is a mistake in the test.
pub fn ip(text: &str) -> [u8; 4] {
    text.parse::<std::net::Ipv4Addr>().unwrap_or_else(|_| panic!("not an IPv4 address: {text}")).octets()
}

/// The network that an address of the world is on, and its gateway.
fn network_of(addr: [u8; 4]) -> (u32, [u8; 4]) {
    match addr {
        [10, 0, 16..=31, _] => (4_097, [10, 0, 16, 1]),
        [10, 0, 32..=47, _] => (4_098, [10, 0, 32, 1]),
        _ => panic!("no network of the rig's world has {addr:?}"),
    }
}

impl Rig {
    /// The world that every rig begins with.
    pub(super) fn furnish(&mut self) {
        let uplink = self.devices().uplink;
        let addr6 = if self.family == Family::V6 { over_ipv6(HERE) } else { [0; 16] };
        self.put("UPLINKS", uplink, Uplink { addr4: HERE, mac: UPLINK_MAC, pad: [0; 2], addr6 });
        let own = Address { node: 1, ifindex: uplink, flags: address_flag::OWN, pad: [0; 3] };
        self.put("ADDRESSES4", HERE, own);
        self.put_address(HERE, own);
        self.configure(|_| {});
        for (node, addr) in [(2u32, PEER_2), (3, PEER_3)] {
            self.set("PEERS", node, self.way.peer(mapped(addr), 0, uplink));
            let tunnel = Address { node, ifindex: 0, flags: address_flag::TUNNEL, pad: [0; 3] };
            // Of IPv6 none is one.
            self.put_address(addr, Address { flags: 0, ..tunnel });
            self.put("ADDRESSES4", addr, tunnel);
        }
        for gateway in [[10, 0, 16, 1], [10, 0, 32, 1]] {
            let (vni, gateway) = network_of(gateway);
            let endpoint = Endpoint {
                vni,
                number: 0,
                node: 1,
                ifindex: 0,
                gateway,
                mac: mac::GATEWAY,
                kind: endpoint::GATEWAY,
                flags: 0,
                prefix_len: 20,
                pad: [0; 3],
            };
            self.put_endpoint(gateway, endpoint);
        }
    }

    /// Back to the world that every rig begins with: nobody there, no flow.
    pub fn empty(&mut self) {
        self.wipe(&["ENDPOINTS4", "FRONTENDS4", "BACKENDS", "AFFINITY4", "ALLOW4", "FLOWS4", "FRAGMENTS4", "EARLY"]);
        self.unmirror();
        (self.numbers, self.slots, self.links) = (0, 1, 0);
        self.furnish();
    }

    /// Leaves maps as if they had just been made.
    pub(super) fn wipe(&mut self, names: &[&str]) {
        for name in names {
            let map = self.ebpf.map_mut(name).expect("the object has this map");
            super::batch::wipe(map).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
    }

    /// A task as a backend of a pool.
    pub fn put_backend(&mut self, task: &Task, pool: u32) {
        let of = backend(task, pool);
        let of = match self.family {
            Family::V4 => of,
            Family::V6 => Backend { addr4: [0; 4], addr6: over_ipv6(of.addr4), ..of },
        };
        self.put("BACKENDS", task.number, of);
    }

    /// Writes the node's facts, changed by `change`.
    pub fn configure(&mut self, change: impl FnOnce(&mut Config)) {
        // The address's link as the world has it, like plan.
        let link = self.read::<[u8; 4], Address>("ADDRESSES4").get(&HERE, 0).map_or(0, |address| address.ifindex);
        let mut config = Config {
            netns_cookie: 1,
            node: 1,
            mesh0: self.devices().mesh0,
            tunnel_addr4: HERE,
            mesh0_mac: MESH0_MAC,
            data_port: 4_789,
            mss4: 1_410,
            mss6: 1_390,
            tunnel_link: link,
            ..Config::NONE
        };
        change(&mut config);
        self.set("CONFIG", 0, config);
    }

    /// A task of this node, on the network that its address belongs to.
    pub fn task_here(&mut self, addr: &str) -> Task {
        let ifindex = *self.devices().tasks.get(self.links).expect("the rig has a device for each of four tasks");
        self.links += 1;
        self.task(addr, 1, ifindex, 0)
    }

    /// A task of this node all of whose networks are internal.
    pub fn internal_task_here(&mut self, addr: &str) -> Task {
        let ifindex = *self.devices().tasks.get(self.links).expect("the rig has a device for each of four tasks");
        self.links += 1;
        self.task(addr, 1, ifindex, endpoint_flag::INTERNAL)
    }

    /// A task of another node.
    pub fn task_there(&mut self, node: u32, addr: &str) -> Task {
        self.task(addr, node, 0, 0)
    }

    fn task(&mut self, addr: &str, node: u32, ifindex: u32, flags: u8) -> Task {
        self.numbers += 1;
        let number = self.numbers;
        let addr = ip(addr);
        let (vni, gateway) = network_of(addr);
        let task = Task { number, addr, mac: mac::of(mac::KIND_TASK, number), vni, node, ifindex };
        let endpoint = Endpoint {
            vni,
            number,
            node,
            ifindex,
            gateway,
            mac: task.mac,
            kind: endpoint::TASK,
            flags,
            prefix_len: 20,
            pad: [0; 3],
        };
        self.put_endpoint(addr, endpoint);
        self.put_backend(&task, 0);
        task
    }

    /// The task has ended, as this node sees it.
    pub fn ended(&mut self, task: &Task) {
        self.delete::<u32, Backend>("BACKENDS", task.number);
        self.delete_endpoint(task);
    }

    /// A service with a VIP, round robin over these tasks.
    pub fn service(&mut self, vip: &str, tasks: &[&Task]) -> Service {
        self.numbers += 1;
        let pool = self.numbers;
        self.set("TURNS", pool, 0u64);
        let vip = ip(vip);
        let frontend = Frontend { pool, vni: network_of(vip).0, generation: 1, ..Frontend::none(vip) };
        let service = self.staffed(&Service { pool, frontend }, tasks);
        self.put_frontend(FrontendKey::vip(vip), service.frontend);
        service
    }

    /// The same service over these tasks, with lists of their own; its frontends are yet to be written.
    pub fn staffed(&mut self, service: &Service, tasks: &[&Task]) -> Service {
        let pool = service.pool;
        let list: Vec<RingSlot> = tasks.iter().map(|task| RingSlot { backend: task.number, node: task.node }).collect();
        let ring_len = if tasks.is_empty() { 0 } else { maglev::length_for(tasks.len(), maglev::FINE) };
        let mut ring = vec![RingSlot::default(); ring_len as usize];
        maglev::fill(&mut ring, &list, &mut vec![0; list.len()]);
        let turns_at = self.slots;
        let ring_at = turns_at + list.len() as u32;
        self.slots = ring_at + ring.len() as u32;
        for (slot, backend) in (turns_at..).zip(list.iter().chain(&ring)) {
            self.set("RINGS", slot, *backend);
        }
        for task in tasks {
            self.put_backend(task, pool);
        }
        let (turns_len, ring_len) = (list.len() as u32, ring.len() as u32);
        Service { pool, frontend: Frontend { turns_at, turns_len, ring_at, ring_len, ..service.frontend } }
    }

    /// Publishes a port of a service.
    pub fn publish(&mut self, service: &Service, protocol: u8, port: u16, target_port: u16) {
        let frontend = Frontend { target_port, ..service.frontend };
        self.put_frontend(FrontendKey::<[u8; 4]>::published(port, protocol), frontend);
    }

    /// The same at one address of a node alone.
    pub fn publish_at(&mut self, service: &Service, addr: [u8; 4], protocol: u8, port: u16, target_port: u16) {
        let frontend = Frontend { target_port, ..service.frontend };
        self.put_frontend(FrontendKey::published_at(addr, port, protocol), frontend);
        let ask = Frontend { flags: frontend_flag::BY_ADDRESS, ..Frontend::none([0; 4]) };
        self.put_frontend(FrontendKey::<[u8; 4]>::published(port, protocol), ask);
    }

    /// This node has another address, on its uplink.
    pub fn own_address(&mut self, addr: [u8; 4]) {
        let ifindex = self.devices().uplink;
        self.put_address(addr, Address { node: 1, ifindex, flags: address_flag::OWN, pad: [0; 3] });
    }

    /// Lists of allowed callers over IPv4.
    pub(super) fn lists(&mut self) -> LpmTrie<&mut MapData, AllowKey<[u8; 4]>, u32> {
        LpmTrie::try_from(self.ebpf.map_mut("ALLOW4").expect("the object has this map")).expect("its key and value fit")
    }

    /// A next hop towards this node stands on the uplink: tunnel packets can be sent without mesh0.
    pub fn next_hop(&mut self, node: u32, addr: [u8; 4], mtu: u16) {
        let (ifindex, link_mac) = (self.devices().uplink, UPLINK_MAC);
        self.set(
            "PEERS",
            node,
            Peer { addr: mapped(addr), ifindex, next_hop: next_hop_mac(node), link_mac, mtu, ..Peer::NONE },
        );
    }

    /// The path to a peer takes packets of this size outside.
    pub fn path(&mut self, node: u32, addr: [u8; 4], mtu: u16) {
        let peer = Peer { mtu, ..self.way.peer(mapped(addr), 0, self.devices().uplink) };
        self.set("PEERS", node, peer);
    }

    /// What this node knows of another.
    pub fn peer(&self, node: u32) -> Peer {
        self.get("PEERS", node)
    }

    /// The echo of this node stays unanswered.
    pub fn unreachable(&mut self, node: u32, addr: [u8; 4]) {
        let flags = peer_flag::UNREACHABLE;
        self.set("PEERS", node, self.way.peer(mapped(addr), flags, self.devices().uplink));
    }
}

fn backend(task: &Task, pool: u32) -> Backend {
    Backend {
        addr6: [0; 16],
        addr4: task.addr,
        vni: task.vni,
        pool,
        node: task.node,
        ifindex: task.ifindex,
        mac: task.mac,
        state: backend_state::READY,
        pad: 0,
    }
}
