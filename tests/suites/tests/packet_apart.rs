//! What must not meet: calls of one task to itself, one client's port by two ways to one task, and whoever is on another network or on none.

use mesh_common::parse::protocol;
use mesh_common::schema::{Flow, flow_flag};
use mesh_common::verdict::DropReason;
use mesh_common::wire::{mac, vni};
use mesh_packet::{Frame, eth};
use mesh_tests::rig::{HERE, PEER_2, PEER_3, ROUTER_MAC, Rig, UPLINK_MAC, of_ipv4_alone};

const VIP: &str = "10.0.16.2";
const CLIENT: &str = "198.51.100.9";

/// The head of a frame from the client outside to this node.
fn call() -> Frame {
    eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE)
}

/// The call's entry among those that a packet made.
fn forward(flows: &[mesh_tests::rig::FlowEntry]) -> Flow<[u8; 4]> {
    flows.iter().find(|(_, flow)| flow.flags & flow_flag::REVERSE == 0).expect("a call's entry").1
}

#[test]
fn a_task_that_reaches_itself_by_its_vip_and_by_its_port_from_one_source_port_has_two_connections() {
    let Some(mut rig) = Rig::new() else { return };
    let task = rig.task_here("10.0.16.3");
    let service = rig.service(VIP, &[&task]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    rig.from_task(&task, task.to(VIP).tcp(40_000, 80).syn()).sent(&task.gets("10.0.16.1").tcp(40_000, 80).syn());
    // By its own tuple this answer would be the first one's: the source port tells them apart.
    let by_port = rig.from_task(&task, task.to("192.0.2.1").tcp(40_000, 8080).syn());
    let flow = forward(&by_port.new_flows);
    assert!(flow.flags & flow_flag::PORT_CHANGED != 0, "{flow:?}");
    by_port.sent(&task.gets("10.0.16.1").tcp(flow.other_port, 80).syn());
    rig.from_task(&task, task.to("10.0.16.1").tcp(80, 40_000).syn().ack(1))
        .sent(&task.gets(VIP).tcp(80, 40_000).syn().ack(1));
    rig.from_task(&task, task.to("10.0.16.1").tcp(80, flow.other_port).syn().ack(1))
        .sent(&task.gets("192.0.2.1").tcp(8080, 40_000).syn().ack(1));
}

#[test]
fn a_task_of_several_reaches_all_of_them_by_its_own_port_and_itself_as_the_gateway() {
    let Some(mut rig) = Rig::new() else { return };
    let (task, other) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    let service = rig.service(VIP, &[&task, &other]);
    rig.publish(&service, protocol::UDP, 8080, 80);
    // Turns: itself, then the other.
    rig.from_task(&task, task.to("192.0.2.1").udp(40_000, 8080)).sent(&task.gets("10.0.16.1").udp(40_000, 80));
    rig.from_task(&task, task.to("192.0.2.1").udp(40_001, 8080)).sent(&other.gets("10.0.16.3").udp(40_001, 80));
    rig.from_task(&task, task.to("10.0.16.1").udp(80, 40_000)).sent(&task.gets("192.0.2.1").udp(8080, 40_000));
    rig.from_task(&other, other.to("10.0.16.3").udp(80, 40_001)).sent(&task.gets("192.0.2.1").udp(8080, 40_001));
}

#[test]
fn one_client_port_by_two_ingress_nodes_at_one_task_is_two_connections() {
    let Some(mut rig) = Rig::new() else { return };
    let backend = rig.task_here("10.0.16.4");
    let service = rig.service(VIP, &[&backend]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    rig.from_uplink(call().tcp(40_000, 8080).syn()).sent(&backend.gets(CLIENT).tcp(40_000, 80).syn());
    let endpoint = mac::of(mac::KIND_ENDPOINT, backend.number);
    let mut ports = vec![(40_000, HERE)];
    for peer in [PEER_2, PEER_3] {
        let request = eth(ROUTER_MAC, endpoint).ipv4(CLIENT, peer).tcp(40_000, 8080).syn();
        let by_peer = rig.from_overlay(peer, vni::REQUEST_WIRE, &request);
        let flow = forward(&by_peer.new_flows);
        assert!(flow.flags & flow_flag::PORT_CHANGED != 0 && !ports.contains(&(flow.other_port, peer)), "{flow:?}");
        by_peer.sent(&backend.gets(CLIENT).tcp(flow.other_port, 80).syn());
        ports.push((flow.other_port, peer));
        // What follows goes the same way.
        let more = eth(ROUTER_MAC, endpoint).ipv4(CLIENT, peer).tcp(40_000, 8080).seq(1).ack(1);
        rig.from_overlay(peer, vni::REQUEST_WIRE, &more)
            .sent(&backend.gets(CLIENT).tcp(flow.other_port, 80).seq(1).ack(1));
    }
    // Each answer leaves as the address that was called, to the client's own port.
    let answer = |port| backend.to(CLIENT).tcp(80, port).syn().ack(1);
    rig.from_task(&backend, answer(40_000))
        .sent(&eth(UPLINK_MAC, ROUTER_MAC).ipv4(HERE, CLIENT).tcp(8080, 40_000).syn().ack(1));
    for (port, peer) in &ports[1..] {
        let inner = eth(mac::GATEWAY, ROUTER_MAC).ipv4(*peer, CLIENT).tcp(8080, 40_000).syn().ack(1);
        rig.from_task(&backend, answer(*port)).tunnelled(&inner);
    }
}

#[test]
fn one_client_port_at_two_published_ports_of_one_task_is_two_connections() {
    let Some(mut rig) = Rig::new() else { return };
    let backend = rig.task_here("10.0.16.4");
    let service = rig.service(VIP, &[&backend]);
    rig.publish(&service, protocol::UDP, 8080, 80);
    rig.publish(&service, protocol::UDP, 9090, 80);
    rig.from_uplink(call().udp(40_000, 8080)).sent(&backend.gets(CLIENT).udp(40_000, 80));
    let other = rig.from_uplink(call().udp(40_000, 9090));
    let port = forward(&other.new_flows).other_port;
    other.sent(&backend.gets(CLIENT).udp(port, 80));
    let answer = |published| eth(UPLINK_MAC, ROUTER_MAC).ipv4(HERE, CLIENT).udp(published, 40_000);
    rig.from_task(&backend, backend.to(CLIENT).udp(80, 40_000)).sent(&answer(8080));
    rig.from_task(&backend, backend.to(CLIENT).udp(80, port)).sent(&answer(9090));
}

#[test]
fn ip_options_reach_the_task_by_a_published_port_too() {
    let Some(mut rig) = of_ipv4_alone("IPv6 has extension headers, of which packet_ipv6 is") else { return };
    let backend = rig.task_here("10.0.16.4");
    let service = rig.service(VIP, &[&backend]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    let options = [0x94, 4, 0, 0]; // router alert, RFC 2113
    rig.from_uplink(call().ip_options(&options).tcp(40_000, 8080).syn())
        .sent(&backend.gets(CLIENT).ip_options(&options).tcp(40_000, 80).syn());
    rig.from_task(&backend, backend.to(CLIENT).ip_options(&options).tcp(80, 40_000).syn().ack(1))
        .sent(&eth(UPLINK_MAC, ROUTER_MAC).ipv4(HERE, CLIENT).ip_options(&options).tcp(8080, 40_000).syn().ack(1));
}

#[test]
fn nothing_of_another_network_is_reached_by_any_protocol() {
    let Some(mut rig) = Rig::new() else { return };
    let task = rig.task_here("10.0.16.3");
    let (here, there) = (rig.task_here("10.0.32.3"), rig.task_there(2, "10.0.32.4"));
    rig.service("10.0.32.2", &[&here, &there]);
    for dst in ["10.0.32.1", "10.0.32.2", "10.0.32.3", "10.0.32.4"] {
        let head = || task.to(dst);
        let packets = [
            head().tcp(40_000, 80).syn(),
            head().tcp(40_000, 80).seq(1).ack(1).payload(b"x"),
            head().udp(40_000, 53).payload(b"?"),
            head().icmp_echo(7, 1).payload_of(8),
            head().protocol(protocol::SCTP).payload_of(40),
            head().protocol(47).payload_of(40),
        ];
        for packet in packets {
            let outcome = rig.from_task(&task, &packet);
            let [(_, reason, 1)] = outcome.drops[..] else { panic!("{dst}: it is counted once: {:?}", outcome.drops) };
            assert_eq!(reason, DropReason::OtherNetwork as u8, "{dst}");
            assert!(outcome.new_flows.is_empty(), "{dst}: nothing is kept");
        }
    }
    assert!(rig.flows().is_empty());
}

#[test]
fn a_peer_can_bring_nothing_from_one_network_into_another() {
    let Some(mut rig) = Rig::new() else { return };
    let (source, target) = (rig.task_there(2, "10.0.16.4"), rig.task_here("10.0.32.3"));
    // By the sender's network, by the target's, and by one that neither is on.
    let cases = [(4_097, DropReason::NoEndpoint), (4_098, DropReason::WrongPeer), (4_099, DropReason::WrongPeer)];
    for (id, reason) in cases {
        let frame = eth([2, 9, 9, 9, 9, 9], target.mac).ipv4(source.addr, target.addr).tcp(40_000, 80).syn();
        rig.from_overlay(PEER_2, id, &frame).dropped(reason);
    }
}

#[test]
fn a_task_of_an_internal_network_reaches_no_published_port() {
    let Some(mut rig) = Rig::new() else { return };
    let inner = rig.internal_task_here("10.0.16.3");
    let (here, there) = (rig.task_here("10.0.32.3"), rig.task_there(2, "10.0.32.4"));
    let service = rig.service("10.0.32.2", &[&here, &there]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    for node in ["192.0.2.1", "192.0.2.2"] {
        for packet in [inner.to(node).tcp(40_000, 8080).syn(), inner.to(node).tcp(40_000, 8080).seq(1).ack(1)] {
            rig.from_task(&inner, &packet).dropped(DropReason::Internal);
        }
    }
    assert!(rig.flows().is_empty());
}

#[test]
fn a_published_port_of_an_internal_service_reaches_that_port_and_nothing_else_of_it() {
    let Some(mut rig) = Rig::new() else { return };
    let inner = rig.internal_task_here("10.0.16.3");
    let service = rig.service(VIP, &[&inner]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    rig.from_uplink(call().tcp(40_000, 8080).syn()).sent(&inner.gets(CLIENT).tcp(40_000, 80).syn());
    for other in [call().tcp(40_000, 80).syn(), call().udp(40_000, 8080), call().tcp(40_000, 8081).syn()] {
        assert_eq!(rig.from_uplink(&other).left_alone().new_flows, []);
    }
    // Its answer goes out; a call of its own does not.
    rig.from_task(&inner, inner.to(CLIENT).tcp(80, 40_000).syn().ack(1))
        .sent(&eth(UPLINK_MAC, ROUTER_MAC).ipv4(HERE, CLIENT).tcp(8080, 40_000).syn().ack(1));
    rig.from_task(&inner, inner.to(CLIENT).tcp(80, 40_001).syn()).dropped(DropReason::Internal);
}

#[test]
fn nobody_that_this_host_forwards_for_reaches_the_data_port_of_a_peer() {
    let Some(mut rig) = Rig::new() else { return };
    let frame = |src: &str, dst: [u8; 4]| eth(ROUTER_MAC, UPLINK_MAC).ipv4(src, dst).udp(50_000, 4_789).vxlan(4_097);
    // A container behind a bridge, whose packets this host would masquerade as its own.
    rig.from_uplink(frame("172.17.0.2", PEER_2)).dropped(DropReason::DataPort);
    // Peers whose way to each other leads through this host, other ports, and other hosts go on.
    rig.from_uplink(frame("192.0.2.3", PEER_2)).left_alone();
    rig.from_uplink(eth(ROUTER_MAC, UPLINK_MAC).ipv4("172.17.0.2", PEER_2).udp(50_000, 53)).left_alone();
    rig.from_uplink(frame("172.17.0.2", [203, 0, 113, 9])).left_alone();
    rig.from_uplink(frame("172.17.0.2", PEER_3)).dropped(DropReason::DataPort);
}
