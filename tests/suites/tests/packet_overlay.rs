//! What peers send: nobody but a peer, each only for the addresses that live on it, each frame in our format; on the loaded from_overlay.

use mesh_common::parse::{ETHERTYPE_ECHO, protocol};
use mesh_common::schema::Echo;
use mesh_common::verdict::DropReason;
use mesh_common::wire::{mac, vni};
use mesh_packet::{Frame, eth};
use mesh_tests::rig::{Action, HERE, PEER_2, PEER_3, ROUTER_MAC, Rig, Task};

const VIP: &str = "10.0.16.2";
const CLIENT: &str = "198.51.100.9";

/// A task here whose service publishes TCP 8080 → 80.
fn published() -> Option<(Rig, Task)> {
    let mut rig = Rig::new()?;
    let backend = rig.task_here("10.0.16.4");
    let service = rig.service(VIP, &[&backend]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    Some((rig, backend))
}

/// A request that names this endpoint, to this address and port.
fn request(number: u32, to: [u8; 4], port: u16) -> Frame {
    eth(ROUTER_MAC, mac::of(mac::KIND_ENDPOINT, number)).ipv4(CLIENT, to).tcp(40000, port).syn()
}

#[test]
fn a_packet_of_a_network_reaches_its_task() {
    let Some(mut rig) = Rig::new() else { return };
    let (here, there) = (rig.task_here("10.0.16.4"), rig.task_there(2, "10.0.16.5"));
    let inner = eth(mac::GATEWAY, here.mac).ipv4(there.addr, here.addr).udp(1, 2).payload(b"x");
    rig.from_overlay(PEER_2, 4_097, &inner).sent(&here.gets("10.0.16.5").udp(1, 2).payload(b"x"));
}

#[test]
fn a_stranger_is_not_heard() {
    let Some((mut rig, backend)) = published() else { return };
    let there = rig.task_there(2, "10.0.16.5");
    let inner = eth(mac::GATEWAY, backend.mac).ipv4(there.addr, backend.addr).udp(1, 2);
    for stranger in [[192, 0, 2, 77], HERE, [127, 0, 0, 1], [0, 0, 0, 0]] {
        rig.from_overlay(stranger, 4_097, &inner).dropped(DropReason::UnknownPeer);
        rig.from_overlay(stranger, vni::REQUEST_WIRE, request(backend.number, HERE, 8080))
            .dropped(DropReason::UnknownPeer);
    }
}

#[test]
fn a_stranger_who_tunnels_over_ipv6_is_not_heard() {
    let Some((mut rig, backend)) = published() else { return };
    let there = rig.task_there(2, "10.0.16.5");
    let inner = eth(mac::GATEWAY, backend.mac).ipv4(there.addr, backend.addr).udp(1, 2);
    rig.from_overlay_over_ipv6("2001:db8:1::2", 4_097, &inner).dropped(DropReason::UnknownPeer);
}

#[test]
fn what_came_through_no_tunnel_is_left_to_the_stack() {
    let Some((mut rig, _)) = published() else { return };
    rig.from_overlay_without_tunnel(eth(mac::GATEWAY, mac::HOST).ipv4("10.0.16.3", HERE).udp(1, 53)).left_alone();
}

#[test]
fn nothing_from_the_tunnel_passes_before_the_node_is_configured() {
    let Some((mut rig, backend)) = published() else { return };
    rig.configure(|config| config.mesh0 = 0);
    rig.from_overlay(PEER_2, vni::REQUEST_WIRE, request(backend.number, HERE, 8080)).dropped(DropReason::NotConfigured);
}

#[test]
fn a_source_that_does_not_live_on_the_peer_is_dropped() {
    let Some(mut rig) = Rig::new() else { return };
    let (here, there, other) =
        (rig.task_here("10.0.16.4"), rig.task_there(2, "10.0.16.5"), rig.task_there(2, "10.0.32.5"));
    let inner = |src: [u8; 4]| eth(mac::GATEWAY, here.mac).ipv4(src, here.addr).udp(1, 2).payload(b"x");
    rig.from_overlay(PEER_3, 4_097, inner(there.addr)).dropped(DropReason::WrongPeer);
    // Its own tasks' addresses, the gateway's, nobody's, one of another network, an address outside.
    for src in [here.addr, [10, 0, 16, 1], [10, 0, 16, 99], other.addr, [198, 51, 100, 9]] {
        rig.from_overlay(PEER_2, 4_097, inner(src)).dropped(DropReason::WrongPeer);
    }
}

#[test]
fn a_task_of_another_network_or_of_nobody_is_not_reached() {
    let Some(mut rig) = Rig::new() else { return };
    let there = rig.task_there(2, "10.0.16.5");
    rig.task_here("10.0.32.4");
    rig.task_there(3, "10.0.16.6");
    let inner =
        |dst: &str| eth(mac::SECOND_CHANCE, mac::of(mac::KIND_TASK, 1)).ipv4(there.addr, dst).udp(1, 2).payload(b"x");
    for dst in ["10.0.32.4", "10.0.16.6", "10.0.16.99", "10.0.16.1", "192.0.2.1", "198.51.100.9"] {
        let outcome = rig.from_overlay(PEER_2, 4_097, inner(dst));
        assert_eq!(outcome.action, Action::Shot, "{dst}: {:?}", outcome.drops);
        assert_eq!(outcome.drops.len(), 1, "{dst}");
    }
    rig.from_overlay(PEER_2, 4_097, inner("10.0.16.99")).dropped(DropReason::NoEndpoint);
}

#[test]
fn a_member_that_lies_reaches_no_other_network_by_requests() {
    let Some(mut rig) = Rig::new() else { return };
    let (here, there) = (rig.task_here("10.0.16.4"), rig.task_there(2, "10.0.32.5"));
    let neighbour = rig.task_there(2, "10.0.16.5");
    let service = rig.service("10.0.16.2", &[&here]);
    rig.publish(&service, protocol::UDP, 8080, 80);
    let asks = |kind, number, src: [u8; 4], dst: &str, port| {
        eth(mac::of(kind, number), mac::of(mac::KIND_ENDPOINT, here.number)).ipv4(src, dst).udp(1, port).payload(b"?")
    };
    // Its tasks have a way to those of their own network, which is not this one; at a published port they are anybody.
    for task in [&there, &neighbour] {
        for kind in [mac::KIND_CLIENT, mac::KIND_HOST] {
            for dst in ["10.0.16.4", "10.0.16.2"] {
                let lie = asks(kind, task.number, task.addr, dst, 80);
                rig.from_overlay(PEER_2, vni::REQUEST_NODE, lie).dropped(DropReason::NotPublished);
            }
        }
        let call = asks(mac::KIND_CLIENT, task.number, task.addr, "192.0.2.2", 8080);
        rig.from_overlay(PEER_2, vni::REQUEST_NODE, call).sent(&here.gets(&task.ip()).udp(1, 80).payload(b"?"));
    }
    // Its host may call any task, by its own addresses, which only it knows all of.
    for src in [PEER_2, [203, 0, 113, 9]] {
        let call = asks(mac::KIND_HOST, 0, src, "10.0.16.4", 80);
        let src = std::net::Ipv4Addr::from(src).to_string();
        rig.from_overlay(PEER_2, vni::REQUEST_NODE, call).sent(&here.gets(&src).udp(1, 80).payload(b"?"));
    }
    let lie = asks(mac::KIND_HOST, 0, PEER_3, "10.0.16.4", 80);
    rig.from_overlay(PEER_2, vni::REQUEST_NODE, lie).dropped(DropReason::WrongPeer);
}

#[test]
fn datagrams_follow_the_ingress_nodes_choice_and_connections_stay() {
    let Some(mut rig) = Rig::new() else { return };
    let tasks = [rig.task_here("10.0.16.4"), rig.task_here("10.0.16.5")];
    let service = rig.service("10.0.16.2", &[&tasks[0], &tasks[1]]);
    for number in [protocol::UDP, protocol::TCP] {
        rig.publish(&service, number, 8080, 80);
    }
    let names = |task: &Task| eth(ROUTER_MAC, mac::of(mac::KIND_ENDPOINT, task.number)).ipv4(CLIENT, "192.0.2.2");
    for turn in [0, 0, 1, 1, 0] {
        let task = &tasks[turn];
        let outcome = rig.from_overlay(PEER_2, vni::REQUEST_WIRE, names(task).udp(40_000, 8080).payload(b"?"));
        outcome.sent(&task.gets(CLIENT).udp(40_000, 80).payload(b"?"));
        // Answers of either find back, so that none is lost that was on its way.
        for answers in &tasks[..=turn] {
            let answer = answers.to(CLIENT).udp(80, 40_000).payload(b"!");
            let inner = eth(mac::GATEWAY, ROUTER_MAC).ipv4("192.0.2.2", CLIENT).udp(8080, 40_000).payload(b"!");
            rig.from_task(answers, answer).tunnelled(&inner);
        }
    }
    rig.from_overlay(PEER_2, vni::REQUEST_WIRE, names(&tasks[0]).tcp(40_000, 8080).syn());
    // An ingress node that forgot whom it had goes by the ring, which may name another one.
    let data = |head: Frame, port| head.tcp(40_000, port).seq(1).ack(1).payload(b"more");
    rig.from_overlay(PEER_2, vni::REQUEST_WIRE, data(names(&tasks[1]), 8080)).sent(&data(tasks[0].gets(CLIENT), 80));
}

#[test]
fn a_vni_without_meaning_is_dropped() {
    let Some((mut rig, backend)) = published() else { return };
    for id in [0, 1, 2047, 2057, 2063, 2064, 2065, 2066, 4095] {
        rig.from_overlay(PEER_2, id, request(backend.number, HERE, 8080)).dropped(DropReason::UnknownVni);
    }
}

#[test]
fn a_request_in_another_version_or_of_another_kind_is_dropped() {
    let Some((mut rig, backend)) = published() else { return };
    let named = |dst: [u8; 6]| eth(ROUTER_MAC, dst).ipv4(CLIENT, HERE).tcp(40000, 8080).syn();
    let mut next_version = mac::of(mac::KIND_ENDPOINT, backend.number);
    next_version[1] += 0x10;
    for dst in [next_version, mac::of(mac::KIND_TASK, backend.number), mac::GATEWAY, [2, 0x42, 0, 0, 0, 1], [0xff; 6]] {
        for id in [vni::REQUEST_WIRE, vni::SECOND_CHANCE_WIRE, vni::REQUEST_NODE, vni::SECOND_CHANCE_NODE] {
            rig.from_overlay(PEER_2, id, named(dst)).dropped(DropReason::WireFormat);
        }
    }
    // From a node's host or task the last hop is one of our MACs too.
    let request = request(backend.number, HERE, 8080);
    rig.from_overlay(PEER_2, vni::REQUEST_NODE, &request).dropped(DropReason::WireFormat);
    let reply = eth(mac::GATEWAY, ROUTER_MAC).ipv4(PEER_2, HERE).tcp(8080, 1).ack(1);
    rig.from_overlay(PEER_2, vni::REPLY_NODE, &reply).dropped(DropReason::WireFormat);
}

#[test]
fn a_request_for_a_task_that_is_not_here_is_dropped_not_reset() {
    let Some((mut rig, _)) = published() else { return };
    let elsewhere = rig.task_there(3, "10.0.16.6");
    for number in [0, 999, elsewhere.number] {
        // Its second choice: the first would be turned back (packet_again.rs).
        rig.from_overlay(PEER_2, vni::SECOND_CHANCE_WIRE, request(number, HERE, 8080))
            .dropped(DropReason::EndpointGone);
    }
    let reply = eth(mac::GATEWAY, mac::of(mac::KIND_CLIENT, 999)).ipv4(HERE, "10.0.16.9").tcp(8080, 1).ack(1);
    rig.from_overlay(PEER_2, vni::REPLY_NODE, &reply).dropped(DropReason::EndpointGone);
}

#[test]
fn a_request_for_what_the_tasks_service_does_not_publish_is_dropped() {
    let Some((mut rig, backend)) = published() else { return };
    let bystander = rig.task_here("10.0.16.6");
    let other = rig.service("10.0.16.7", &[&bystander]);
    rig.publish(&other, protocol::TCP, 9090, 90);
    for (number, to, port) in [
        (backend.number, HERE, 22),
        (backend.number, HERE, 9090),
        (bystander.number, HERE, 8080),
        // Its VIP and its own address are for nodes' hosts and tasks, never for the wire.
        (backend.number, [10, 0, 16, 2], 80),
        (backend.number, backend.addr, 80),
    ] {
        rig.from_overlay(PEER_2, vni::REQUEST_WIRE, request(number, to, port)).dropped(DropReason::NotPublished);
    }
}

#[test]
fn a_request_from_a_nodes_host_may_name_the_vip_or_the_task() {
    let Some((mut rig, backend)) = published() else { return };
    for (port, to) in [(40000, VIP), (40001, "10.0.16.4")] {
        let request = eth(mac::HOST, mac::of(mac::KIND_ENDPOINT, backend.number)).ipv4(PEER_2, to).tcp(port, 80).syn();
        rig.from_overlay(PEER_2, vni::REQUEST_NODE, &request).sent(&backend.gets("192.0.2.2").tcp(port, 80).syn());
        let reply = backend.to("192.0.2.2").tcp(80, port).syn().ack(1);
        let inner = eth(mac::GATEWAY, mac::HOST).ipv4(to, PEER_2).tcp(80, port).syn().ack(1);
        rig.from_task(&backend, &reply).tunnelled(&inner);
    }
}

#[test]
fn a_second_chance_is_served_as_a_request() {
    let Some((mut rig, backend)) = published() else { return };
    rig.from_overlay(PEER_2, vni::SECOND_CHANCE_WIRE, request(backend.number, PEER_2, 8080))
        .sent(&backend.gets(CLIENT).tcp(40000, 80).syn());
}

#[test]
fn a_later_fragment_of_a_request_is_dropped() {
    let Some((mut rig, backend)) = published() else { return };
    let endpoint = mac::of(mac::KIND_ENDPOINT, backend.number);
    let whole = eth(mac::HOST, endpoint).ipv4(PEER_2, VIP).udp(40000, 53).payload_of(2_000);
    let cuts = mesh_tests::rig::cut(&whole, 1_400);
    rig.from_overlay(PEER_2, vni::REQUEST_NODE, &cuts[1]).dropped(DropReason::Fragment);
}

#[test]
fn only_ip_and_the_echo_come_through_the_tunnel() {
    let Some((mut rig, backend)) = published() else { return };
    let arp = eth(mac::GATEWAY, "ff:ff:ff:ff:ff:ff").arp_request(mac::GATEWAY, "10.0.16.5", "10.0.16.4");
    rig.from_overlay(PEER_2, 4_097, &arp).dropped(DropReason::Unsupported);
    // An address that no task of the peer has, in either family.
    let stranger = eth(mac::GATEWAY, backend.mac).ipv6("fe80::1", "fe80::2").udp(1, 2);
    rig.from_overlay(PEER_2, 4_097, &stranger).dropped(DropReason::WrongPeer);
}

/// A reachability frame with this sequence number.
fn echo(dst: [u8; 6], sequence: u64) -> Vec<u8> {
    let kind = ETHERTYPE_ECHO.to_be_bytes();
    [&dst[..], &mac::HOST, &kind, &sequence.to_be_bytes(), &[0; 38]].concat()
}

#[test]
fn the_reachability_echo_is_answered_by_the_program() {
    let Some(mut rig) = Rig::new() else { return };
    let ask = echo(mac::of(mac::KIND_ECHO, 1), 7);
    let outcome = rig.from_overlay(PEER_2, vni::ECHO, &ask);
    assert_eq!((outcome.action, outcome.is_keyed, &outcome.frame), (Action::Redirect, true, &ask));
}

#[test]
fn the_answer_to_the_echo_is_noted_for_the_peer_that_sent_it() {
    let Some(mut rig) = Rig::new() else { return };
    for sequence in [7, 8] {
        rig.from_overlay(PEER_3, vni::ECHO_REPLY, &echo(mac::of(mac::KIND_ECHO, 3), sequence)).ignored();
        let noted = rig.read::<u32, Echo>("ECHOES").get(&3, 0).unwrap();
        assert!(noted.sequence == sequence && noted.answered_ns > 0, "{noted:?}");
    }
    assert!(rig.read::<u32, Echo>("ECHOES").get(&2, 0).is_err());
}

#[test]
fn the_echo_asks_even_an_unreachable_peer_and_only_peers() {
    let Some(mut rig) = Rig::new() else { return };
    rig.unreachable(2, PEER_2);
    let ask = echo(mac::of(mac::KIND_ECHO, 2), 1);
    let outcome = rig.from_host(&ask);
    assert_eq!((outcome.action, &outcome.frame), (Action::Ok, &ask));
    rig.from_host(&echo(mac::of(mac::KIND_ECHO, 9), 1)).dropped(DropReason::NotConfigured);
    rig.from_host(&echo(mac::HOST, 1)).dropped(DropReason::WireFormat);
}
