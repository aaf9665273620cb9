//! Lists of allowed callers: who is not on a published port's list is refused, by every way in, and told so; on the loaded programs.

use std::net::IpAddr;

use aya::maps::{Map, MapData, PerCpuArray};
use mesh_common::parse::protocol;
use mesh_common::schema::{AllowPrefix, Frontend, FrontendKey, algorithm};
use mesh_common::verdict::{DropReason, Hook, drop_index};
use mesh_common::wire::{mac, vni};
use mesh_packet::{Frame, any, eth};
use mesh_tests::rig::beside::{self, Beside};
use mesh_tests::rig::{HERE, PEER_2, ROUTER_MAC, Rig, Service, UPLINK_MAC, address};
use mesh_userspace::plan::maps::{Entry, Key, MapOp};

const VIP: &str = "10.0.16.2";
const FRIEND: &str = "198.51.100.9";
const STRANGER: &str = "203.0.113.9";
/// The number of the rig's one list.
const LIST: u32 = 77;

/// The head of a frame from outside to this node.
fn call(from: &str) -> Frame {
    eth(ROUTER_MAC, UPLINK_MAC).ipv4(from, HERE)
}

/// What a caller outside is told when a TCP call is refused.
fn reset(to: &str) -> Frame {
    eth(UPLINK_MAC, ROUTER_MAC).ipv4(HERE, to).dont_fragment().tcp(8080, 40_000).rst().ack(1).window(any())
}

/// The uplink by TC, and with the driver's hook before it.
fn both_ways() -> impl Iterator<Item = Rig> {
    [Rig::new as fn() -> Option<Rig>, Rig::with_xdp].into_iter().filter_map(|rig| rig())
}

/// Publishes 8080 for these callers only.
fn publish_for(rig: &mut Rig, service: &Service, algorithm: u8, callers: &[([u8; 4], u32)]) {
    let frontend = Frontend { allow: LIST, algorithm, ..service.frontend };
    let service = Service { frontend, ..service.clone() };
    rig.publish(&service, protocol::TCP, 8080, 80);
    rig.publish(&service, protocol::UDP, 8080, 80);
    for (addr, bits) in callers {
        rig.allow(AllowPrefix::new(service.pool, LIST, *addr, *bits));
    }
}

#[test]
fn only_callers_on_the_list_reach_the_port_and_others_are_told() {
    for mut rig in both_ways() {
        let backend = rig.task_here("10.0.16.4");
        let service = rig.service(VIP, &[&backend]);
        publish_for(&mut rig, &service, algorithm::ROUND_ROBIN, &[([198, 51, 100, 0], 24), ([192, 0, 2, 7], 32)]);
        rig.from_uplink(call(FRIEND).tcp(40_000, 8080).syn()).sent(&backend.gets(FRIEND).tcp(40_000, 80).syn());
        rig.from_uplink(call("192.0.2.7").udp(1, 8080)).sent(&backend.gets("192.0.2.7").udp(1, 80));
        for stranger in [STRANGER, "198.51.101.9", "192.0.2.6"] {
            let syn = call(stranger).tcp(40_000, 8080).syn();
            let outcome = rig.from_uplink(&syn).refused(DropReason::NotAllowed, &reset(stranger));
            assert!(outcome.new_flows.is_empty(), "nothing is kept of it");
        }
        let datagram = call(STRANGER).udp(40_000, 8080).payload(b"?");
        let told = eth(UPLINK_MAC, ROUTER_MAC).ipv4(HERE, STRANGER).dont_fragment().icmp_error(3, 3, 0);
        rig.from_uplink(&datagram).refused(DropReason::NotAllowed, &told.about(&datagram));
    }
}

#[test]
fn a_list_is_one_ports_and_no_other_ones() {
    let Some(mut rig) = Rig::new() else { return };
    let backend = rig.task_here("10.0.16.4");
    let service = rig.service(VIP, &[&backend]);
    publish_for(&mut rig, &service, algorithm::ROUND_ROBIN, &[]);
    // Of another list of this service, and of another service by the same number.
    rig.allow(AllowPrefix::new(service.pool, LIST + 1, [0; 4], 0));
    rig.allow(AllowPrefix::new(service.pool + 1, LIST, [0; 4], 0));
    rig.from_uplink(call(FRIEND).tcp(40_000, 8080).syn()).refused(DropReason::NotAllowed, &reset(FRIEND));
    rig.publish(&service, protocol::TCP, 8081, 80);
    rig.from_uplink(call(STRANGER).tcp(40_000, 8081).syn()).sent(&backend.gets(STRANGER).tcp(40_000, 80).syn());
    // Everybody, in the words of a list.
    rig.allow(AllowPrefix::new(service.pool, LIST, [0; 4], 0));
    rig.from_uplink(call(STRANGER).tcp(40_001, 8080).syn()).sent(&backend.gets(STRANGER).tcp(40_001, 80).syn());
}

#[test]
fn a_connection_that_was_let_in_goes_on_when_the_list_changes() {
    for mut rig in both_ways() {
        let backend = rig.task_there(2, "10.0.16.4");
        let service = rig.service(VIP, &[&backend]);
        let friends = ([198, 51, 100, 0], 24);
        publish_for(&mut rig, &service, algorithm::ROUND_ROBIN, &[friends]);
        let inner = eth(ROUTER_MAC, mac::of(mac::KIND_ENDPOINT, backend.number)).ipv4(FRIEND, HERE);
        rig.from_uplink(call(FRIEND).tcp(40_000, 8080).syn()).tunnelled(&inner.clone().tcp(40_000, 8080).syn());
        rig.disallow(AllowPrefix::new(service.pool, LIST, friends.0, friends.1));
        let data = call(FRIEND).tcp(40_000, 8080).seq(1).ack(1).payload(b"x");
        rig.from_uplink(&data).tunnelled(&inner.tcp(40_000, 8080).seq(1).ack(1).payload(b"x"));
        let again = call(FRIEND).tcp(40_001, 8080).syn();
        let told = eth(UPLINK_MAC, ROUTER_MAC).ipv4(HERE, FRIEND).dont_fragment().tcp(8080, 40_001).rst().ack(1);
        rig.from_uplink(&again).refused(DropReason::NotAllowed, &told.window(any()));
    }
}

#[test]
fn the_drivers_hook_lets_no_stranger_by_whatever_the_algorithm() {
    for algorithm in [algorithm::ROUND_ROBIN, algorithm::MAGLEV_OF_ALLOWED, algorithm::RANDOM, algorithm::CLIENT] {
        let Some(mut rig) = Rig::new() else { return };
        let backend = rig.task_there(2, "10.0.16.4");
        let service = rig.service(VIP, &[&backend]);
        rig.next_hop(2, PEER_2, 1_500);
        publish_for(&mut rig, &service, algorithm, &[([198, 51, 100, 0], 24)]);
        let (_, is_sent) = rig.from_wire_with_xdp(call(FRIEND).tcp(40_000, 8080).syn());
        assert!(is_sent, "algorithm {algorithm}: a friend's call leaves the driver");
        for packet in [call(STRANGER).tcp(40_000, 8080).syn(), call(STRANGER).tcp(40_000, 8080).seq(1).ack(1)] {
            rig.xdp_uplink(&packet).left_alone();
            let outcome = rig.from_uplink(&packet);
            assert_eq!(outcome.drops, [(Hook::FromUplink as u8, DropReason::NotAllowed as u8, 1)]);
        }
    }
}

#[test]
fn tasks_are_callers_by_their_own_address_and_a_vip_has_no_list() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    let service = rig.service(VIP, &[&backend]);
    publish_for(&mut rig, &service, algorithm::ROUND_ROBIN, &[([198, 51, 100, 0], 24)]);
    let told = client.gets("192.0.2.1").dont_fragment().tcp(8080, 40_000).rst().ack(1).window(any());
    let syn = client.to("192.0.2.1").tcp(40_000, 8080).syn();
    rig.from_task(&client, &syn).refused(DropReason::NotAllowed, &told);
    rig.from_task(&client, client.to(VIP).tcp(40_000, 80).syn()).sent(&backend.gets("10.0.16.3").tcp(40_000, 80).syn());
    rig.allow(AllowPrefix::new(service.pool, LIST, [10, 0, 16, 0], 20));
    rig.from_task(&client, client.to("192.0.2.1").tcp(40_001, 8080).syn())
        .sent(&backend.gets("10.0.16.3").tcp(40_001, 80).syn());
}

#[test]
fn the_owner_takes_what_the_ingress_node_let_in() {
    let Some(mut rig) = Rig::new() else { return };
    let backend = rig.task_here("10.0.16.4");
    let service = rig.service(VIP, &[&backend]);
    publish_for(&mut rig, &service, algorithm::ROUND_ROBIN, &[]);
    let endpoint = mac::of(mac::KIND_ENDPOINT, backend.number);
    let request = eth(ROUTER_MAC, endpoint).ipv4(FRIEND, PEER_2).tcp(40_000, 8080).syn();
    rig.from_overlay(PEER_2, vni::REQUEST_WIRE, &request).sent(&backend.gets(FRIEND).tcp(40_000, 80).syn());
}

#[test]
fn lists_are_written_read_back_and_taken_away() {
    if let Some(reason) = mesh_lab::cannot_run() {
        return mesh_lab::skip("lists of allowed callers in the kernel", reason);
    }
    let (_beside, mut dataplane) = Beside::in_a_namespace("lists");
    let [everybody, a_net, of_ipv6] = ["0.0.0.0", "10.0.0.0", "2001:db8::"].map(|addr| addr.parse::<IpAddr>().unwrap());
    let wanted =
        [AllowPrefix::new(3, 9, a_net, 8), AllowPrefix::new(3, 9, everybody, 0), AllowPrefix::new(3, 9, of_ipv6, 32)];
    for prefix in wanted {
        dataplane.apply(&MapOp::Put(Entry::Allow(prefix))).expect("it is written");
    }
    assert_eq!(dataplane.tables().expect("the tables").allowed, wanted.into());
    for _ in 0..2 {
        dataplane.apply(&MapOp::Delete(Key::Allow(wanted[0]))).expect("gone already is as good");
    }
    assert_eq!(dataplane.tables().expect("the tables").allowed, wanted[1..].iter().copied().collect());
}

#[test]
fn processes_of_the_host_are_callers_by_the_address_that_they_call() {
    if let Some(reason) = mesh_lab::cannot_run() {
        return mesh_lab::skip("calls of host processes", reason);
    }
    let (beside, mut dataplane) = Beside::in_a_namespace("callers");
    let frontend = Frontend { allow: LIST, ..beside::frontend([10, 0, 16, 2]) };
    let key = FrontendKey::<[u8; 4]>::published(8_080, protocol::TCP).with(address);
    for op in [MapOp::Put(Entry::Frontend(key, frontend)), MapOp::Config(Some(beside::config()))] {
        dataplane.apply(&op).expect("it is written");
    }
    // "Every address" is this host, for connect(2) on Linux.
    for addr in ["127.0.0.1", "0.0.0.0"] {
        let told = beside.call(addr);
        assert!(told.contains("Operation not permitted"), "{addr}: {told}");
    }
    let counter = drop_index(Hook::FromHost, DropReason::NotAllowed);
    let drops = MapData::from_pin(dataplane.dir().join("maps/DROPS")).expect("the counters");
    let drops = PerCpuArray::<MapData, u64>::try_from(Map::PerCpuArray(drops)).expect("their type");
    assert_eq!(drops.get(&counter, 0).expect("a counter").iter().sum::<u64>(), 2, "each refusal is counted");

    let this_host = address([127, 0, 0, 1]);
    let whole = if this_host.is_ipv4() { 32 } else { 128 };
    dataplane.apply(&MapOp::Put(Entry::Allow(AllowPrefix::new(3, LIST, this_host, whole)))).expect("it is written");
    // Let in, the call is on its way to the VIP, whose network this namespace has no route to.
    for addr in ["127.0.0.1", "0.0.0.0"] {
        let told = beside.call(addr);
        assert!(told.contains("Network is unreachable"), "{addr}: {told}");
    }
}
