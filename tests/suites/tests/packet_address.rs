//! Ports that are published at one address of a node: one number is different services' on different addresses, by every way in; on the loaded programs.

use mesh_common::parse::protocol;
use mesh_common::schema::{Address, Frontend, address_flag, algorithm, frontend_flag};
use mesh_common::verdict::DropReason;
use mesh_common::wire::{mac, outer, vni};
use mesh_packet::{Frame, eth};
use mesh_tests::rig::beside::{self, Beside};
use mesh_tests::rig::{HERE, PEER_2, ROUTER_MAC, Rig, UPLINK_MAC, address};
use mesh_userspace::plan::maps::{Entry, MapOp, published_key};

const CLIENT: &str = "198.51.100.9";
/// Further addresses of this node.
const SECOND: [u8; 4] = [192, 0, 2, 9];
const THIRD: [u8; 4] = [192, 0, 2, 10];

/// The head of a frame from the client outside to an address of this node.
fn call(to: [u8; 4]) -> Frame {
    eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, to)
}

#[test]
fn one_number_is_two_services_ports_on_two_addresses_and_the_hosts_on_a_third() {
    for mut rig in [Rig::new as fn() -> Option<Rig>, Rig::with_xdp].into_iter().filter_map(|rig| rig()) {
        let (one, other) = (rig.task_here("10.0.16.4"), rig.task_here("10.0.16.5"));
        rig.own_address(SECOND);
        rig.own_address(THIRD);
        for (vip, task, addr) in [("10.0.16.2", &one, HERE), ("10.0.16.6", &other, SECOND)] {
            let service = rig.service(vip, &[task]);
            rig.publish_at(&service, addr, protocol::TCP, 8080, 80);
        }
        for (addr, task, port) in [(HERE, &one, 40_000), (SECOND, &other, 40_000), (SECOND, &other, 40_001)] {
            rig.from_uplink(call(addr).tcp(port, 8080).syn()).sent(&task.gets(CLIENT).tcp(port, 80).syn());
            let answer = eth(UPLINK_MAC, ROUTER_MAC).ipv4(addr, CLIENT).tcp(8080, port).syn().ack(1);
            rig.from_task(task, task.to(CLIENT).tcp(80, port).syn().ack(1)).sent(&answer);
        }
        assert_eq!(rig.from_uplink(call(THIRD).tcp(40_000, 8080).syn()).left_alone().new_flows, []);
        assert_eq!(rig.from_uplink(call(HERE).udp(40_000, 8080)).left_alone().new_flows, [], "another protocol");
    }
}

#[test]
fn the_drivers_hook_tells_addresses_apart_by_every_algorithm() {
    for algorithm in [algorithm::ROUND_ROBIN, algorithm::MAGLEV] {
        let Some(mut rig) = Rig::new() else { return };
        let (one, other) = (rig.task_there(2, "10.0.16.4"), rig.task_there(2, "10.0.16.5"));
        rig.next_hop(2, PEER_2, 1_500);
        rig.own_address(SECOND);
        rig.own_address(THIRD);
        for (vip, task, addr) in [("10.0.16.2", &one, HERE), ("10.0.16.6", &other, SECOND)] {
            let mut service = rig.service(vip, &[task]);
            service.frontend.algorithm = algorithm;
            rig.publish_at(&service, addr, protocol::TCP, 8080, 80);
        }
        for (addr, task) in [(HERE, &one), (SECOND, &other)] {
            let (outcome, is_sent) = rig.from_wire_with_xdp(call(addr).tcp(40_000, 8080).syn());
            assert!(is_sent, "algorithm {algorithm}: the call leaves the driver");
            let endpoint = mac::of(mac::KIND_ENDPOINT, task.number);
            assert_eq!(
                outcome.frame[outer::LEN..][..6],
                endpoint,
                "algorithm {algorithm}: it is for the address' task"
            );
        }
        rig.xdp_uplink(call(THIRD).tcp(40_000, 8080).syn()).left_alone();
    }
}

#[test]
fn the_owner_takes_calls_of_the_address_alone_and_an_answer_is_of_it() {
    let Some(mut rig) = Rig::new() else { return };
    let (backend, far) = (rig.task_here("10.0.16.4"), rig.task_there(2, "10.0.16.5"));
    let service = rig.service("10.0.16.2", &[&backend, &far]);
    rig.publish_at(&service, PEER_2, protocol::TCP, 8080, 80);
    let request = |to: [u8; 4], port| {
        eth(ROUTER_MAC, mac::of(mac::KIND_ENDPOINT, backend.number)).ipv4(CLIENT, to).tcp(port, 8080).syn()
    };
    rig.from_overlay(PEER_2, vni::REQUEST_WIRE, request(PEER_2, 1)).sent(&backend.gets(CLIENT).tcp(1, 80).syn());
    rig.from_overlay(PEER_2, vni::REQUEST_WIRE, request(SECOND, 2)).dropped(DropReason::NotPublished);
    // At this node's own addresses as an answer's source: what is published is one's, and not the other's.
    rig.own_address(SECOND);
    rig.publish_at(&service, SECOND, protocol::TCP, 8080, 80);
    let reply = |from: [u8; 4]| eth(mac::GATEWAY, ROUTER_MAC).ipv4(from, CLIENT).tcp(8080, 40_000).ack(1);
    rig.from_overlay(PEER_2, vni::REPLY_WIRE, reply(HERE)).dropped(DropReason::ForgedReply);
    rig.from_overlay(PEER_2, vni::REPLY_WIRE, reply(SECOND))
        .sent(&eth(UPLINK_MAC, ROUTER_MAC).ipv4(SECOND, CLIENT).tcp(8080, 40_000).ack(1));
}

#[test]
fn tasks_call_it_at_that_address_of_any_node() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    let service = rig.service("10.0.16.2", &[&backend]);
    rig.publish_at(&service, PEER_2, protocol::TCP, 8080, 80);
    let syn = |to: &str| client.to(to).tcp(40_000, 8080).syn();
    rig.from_task(&client, syn("192.0.2.2")).sent(&backend.gets("10.0.16.3").tcp(40_000, 80).syn());
    // An own address goes up the host's stack: the port there is the host's.
    assert_eq!(rig.from_task(&client, syn("192.0.2.1")).new_flows, []);
}

#[test]
fn processes_of_the_host_call_the_service_of_the_address_that_they_name() {
    if let Some(reason) = mesh_lab::cannot_run() {
        return mesh_lab::skip("calls of host processes by address", reason);
    }
    let (beside, mut dataplane) = Beside::in_a_namespace("addresses");
    let port = |addr: [u8; 4]| published_key(address(addr), 8_080, protocol::TCP);
    let ask = Frontend { flags: frontend_flag::BY_ADDRESS, ..Frontend::none(address([0; 4])) };
    let frontend = beside::frontend([10, 0, 16, 2]);
    for (key, frontend) in [(port([0; 4]), ask), (port([127, 0, 0, 1]), frontend)] {
        dataplane.apply(&MapOp::Put(Entry::Frontend(key, frontend))).expect("it is written");
    }
    beside.own_address(SECOND);
    let own = Address { node: 1, ifindex: 1, flags: address_flag::OWN, pad: [0; 3] };
    dataplane.apply(&MapOp::Put(Entry::Address(address(SECOND), own))).expect("it is written");
    dataplane.apply(&MapOp::Config(Some(beside::config()))).expect("it is written");
    // Pointed at the VIP, whose network this namespace has no route to. "Every address" is the loopback's, for connect(2) on Linux.
    for addr in ["127.0.0.1", "0.0.0.0"] {
        let told = beside.call(addr);
        assert!(told.contains("Network is unreachable"), "{addr}: {told}");
    }
    // At another of its addresses the port is the host's, who does not listen.
    let told = beside.call("192.0.2.9");
    assert!(told.contains("Connection refused"), "{told}");
}
