//! Calls, answers and what is remembered of them, over either family: the table that the tests of an uplink's driver play for both.

use std::collections::BTreeSet;

use mesh_common::family::Bytes;
use mesh_common::parse::protocol;
use mesh_common::schema::{Address, Flow, FlowKey, address_flag};
use mesh_common::wire::{mac, vni};
use mesh_packet::{Frame, any, eth};
use mesh_tests::rig::{
    Dual, HERE, HERE6, Outcome, PEER_2, PEER_3, ROUTER_MAC, Rig, Service, UPLINK_MAC, ip6, next_hop_mac,
};

pub const VIP: &str = "10.0.16.2";
pub const VIP6: &str = "fd00:16::2";
/// The client outside, behind the router.
pub const CLIENT: &str = "198.51.100.9";
pub const CLIENT6: &str = "2001:db8:9::9";
/// The client's packets' identification: outside it is the same.
pub const ID: u16 = 0x1234;

/// What a caller and the published port's addresses are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    V4,
    V6,
}
pub use Over::{V4, V6};

pub const BOTH: [Over; 2] = [V4, V6];

impl Over {
    /// An IP header with these addresses.
    pub fn between(self, head: Frame, (src, dst): (&str, &str)) -> Frame {
        match self {
            V4 => head.ipv4(src, dst).id(ID),
            V6 => head.ipv6(src, dst),
        }
    }

    pub fn client(self) -> &'static str {
        if self == V4 { CLIENT } else { CLIENT6 }
    }

    pub fn here(self) -> &'static str {
        if self == V4 { "192.0.2.1" } else { HERE6 }
    }

    /// The head of a frame from the client outside to this node.
    pub fn call(self) -> Frame {
        self.asks(eth(ROUTER_MAC, UPLINK_MAC))
    }

    pub fn asks(self, head: Frame) -> Frame {
        self.between(head, (self.client(), self.here()))
    }

    pub fn answers(self, head: Frame) -> Frame {
        self.between(head, (self.here(), self.client()))
    }

    /// The outer headers of what goes to a node, and the inner frame's head: the choice in its destination MAC.
    pub fn to(self, node: u32, addr: [u8; 4], task: &Dual) -> Frame {
        let outer = eth(UPLINK_MAC, next_hop_mac(node)).ipv4(HERE, addr);
        // A packet of IPv6 has none of its own.
        let outer = if self == V4 { outer.id(ID) } else { outer.id(any()) };
        let inner = outer.udp(any(), 4789).no_checksum().vxlan(vni::REQUEST_WIRE);
        self.asks(inner.eth(ROUTER_MAC, mac::of(mac::KIND_ENDPOINT, task.task.number)))
    }

    /// What a task here gets.
    pub fn gets(self, task: &Dual) -> Frame {
        match self {
            V4 => task.task.gets(CLIENT).id(ID),
            V6 => task.gets(CLIENT6),
        }
    }

    /// The largest segment that fits the tunnel.
    pub fn mss(self) -> u16 {
        if self == V4 { 1_410 } else { 1_390 }
    }

    /// What the rig's flow table of this family has.
    pub fn entries(self, rig: &Rig) -> Vec<Entry> {
        match self {
            V4 => rig.flows().values().map(Entry::of).collect(),
            V6 => rig.flows6().iter().map(|(_, flow)| Entry::of(flow)).collect(),
        }
    }

    /// Its one entry.
    #[track_caller]
    pub fn entry(self, rig: &Rig) -> Entry {
        let entries = self.entries(rig);
        assert_eq!(entries.len(), 1, "one entry: {entries:#?}");
        entries[0]
    }

    /// The backend that a call from this port was sent to.
    pub fn entry_of(self, rig: &Rig, port: u16) -> u32 {
        let of_4 = rig.flows().into_iter().map(|(key, flow)| (key.sport, flow.backend));
        let of_6 = rig.flows6().into_iter().map(|(key, flow)| (key.sport, flow.backend));
        let entries: Vec<(u16, u32)> = if self == V4 { of_4.collect() } else { of_6.collect() };
        entries.iter().find(|(sport, _)| *sport == port).expect("TC writes one").1
    }

    /// Changes its one entry.
    pub fn change(self, rig: &mut Rig, what: impl Fn(&mut u8, &mut u32)) {
        fn changed<A: Bytes>(flow: Flow<A>, what: impl Fn(&mut u8, &mut u32)) -> Flow<A> {
            let mut flow = flow;
            what(&mut flow.flags, &mut flow.ifindex);
            flow
        }
        self.entry(rig);
        match self {
            V4 => rig.flows().into_iter().for_each(|(key, flow)| rig.put("FLOWS4", key, changed(flow, &what))),
            V6 => rig.flows6().into_iter().for_each(|(key, flow)| rig.put("FLOWS6", key, changed(flow, &what))),
        }
    }

    /// Says whose an address is.
    pub fn put_address(self, rig: &mut Rig, addr: &str, address: Address) {
        match self {
            V4 => rig.put("ADDRESSES4", mesh_tests::rig::ip(addr), address),
            V6 => rig.put("ADDRESSES6", ip6(addr), address),
        }
    }
}

/// What a flow's entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub node: u16,
    pub vni: u32,
    pub backend: u32,
    pub packets: u32,
    pub bytes: u64,
}

impl Entry {
    pub fn of<A: Bytes>(flow: &Flow<A>) -> Entry {
        let Flow { node, vni, backend, packets, bytes, .. } = *flow;
        Entry { node, vni, backend, packets, bytes }
    }
}

/// Another link of this node has the address.
pub const OTHER_LINK: Address = Address { node: 1, ifindex: 1, flags: address_flag::OWN, pad: [0; 3] };

/// The outer headers of what node 2 sends back, and the inner frame's MACs.
pub fn from_2(id: u32) -> Frame {
    let outer = eth(next_hop_mac(2), UPLINK_MAC).ipv4(PEER_2, HERE);
    outer.udp(50_000, 4789).no_checksum().vxlan(id).eth(mac::GATEWAY, ROUTER_MAC)
}

/// A service with these tasks, published as 8080 over both families.
pub fn publish(rig: &mut Rig, tasks: &[&Dual], change: impl Fn(&mut Service)) -> Service {
    let mut service = rig.service(VIP, &tasks.iter().map(|task| &task.task).collect::<Vec<_>>());
    change(&mut service);
    for task in tasks {
        // The service's lists wrote them anew.
        let backend = rig.read("BACKENDS").get(&task.task.number, 0).expect("every task is one");
        rig.put("BACKENDS", task.task.number, mesh_common::schema::Backend { addr6: ip6(task.addr), ..backend });
    }
    rig.vip6(&service, VIP6);
    for number in [protocol::TCP, protocol::UDP] {
        rig.publish(&service, number, 8080, 80);
        rig.publish6(&service, number, 8080, 80);
    }
    rig.next_hop(2, PEER_2, 1_500);
    rig.next_hop(3, PEER_3, 1_500);
    service
}

pub fn there(rig: &mut Rig, node: u32, addr: &str, addr6: &'static str) -> Dual {
    let task = rig.task_there(node, addr);
    rig.dual(task, addr6)
}

pub fn here(rig: &mut Rig, addr: &str, addr6: &'static str) -> Dual {
    let task = rig.task_here(addr);
    rig.dual(task, addr6)
}

/// A service with one task on node 2, published as 8080.
pub fn published(rig: &mut Rig) -> (Service, Dual) {
    let task = there(rig, 2, "10.0.16.4", "fd00:16::4");
    (publish(rig, &[&task], |_| {}), task)
}

/// Tuples of all flows.
pub type Keys = (BTreeSet<FlowKey<[u8; 4]>>, BTreeSet<FlowKey<[u8; 16]>>);

pub fn keys(rig: &Rig) -> Keys {
    (rig.flows().into_keys().collect(), rig.flows6().into_iter().map(|(key, _)| key).collect())
}

/// Runs the hook, which is to write no entry and to take none away.
#[track_caller]
pub fn without_entries(rig: &mut Rig, frame: impl mesh_tests::rig::Packet) -> Outcome {
    let before = keys(rig);
    let outcome = rig.xdp_uplink(frame);
    assert_eq!(keys(rig), before);
    outcome
}

/// Plays a test for both families, each with a rig of its own.
pub fn both(play: impl Fn(&mut Rig, Over)) {
    for over in BOTH {
        let Some(mut rig) = Rig::new() else { return };
        println!("over IP{over:?}");
        play(&mut rig, over);
    }
}
