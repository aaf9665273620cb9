//! Calls to a task by its own address beside calls that a service brings to the same task from the same source port: each gets its own answers; on the
//! loaded programs.

use mesh_common::flow::order;
use mesh_common::parse::protocol;
use mesh_common::schema::{Flow, flow_flag};
use mesh_common::wire::{mac, vni};
use mesh_packet::{Frame, eth};
use mesh_tests::rig::{HERE, MESH0_MAC, Outcome, PEER_2, Rig, Task};

const VIP: &str = "10.0.16.2";
const CLIENT: &str = "10.0.16.3";
const BACKEND: &str = "10.0.16.4";
const NETWORK: u32 = vni::FIRST_NETWORK;

/// Plays with a client here and its service's one task, which is here, and then at the peer.
fn here_and_there(play: impl Fn(&mut Rig, &Task, &Task)) {
    for is_here in [true, false] {
        let Some(mut rig) = Rig::new() else { return };
        let client = rig.task_here(CLIENT);
        let backend = if is_here { rig.task_here(BACKEND) } else { rig.task_there(2, BACKEND) };
        rig.service(VIP, &[&backend]);
        play(&mut rig, &client, &backend);
    }
}

/// What the backend sends, by its own link or its node's tunnel.
fn answers(rig: &mut Rig, backend: &Task, answer: &Frame) -> Outcome {
    if backend.ifindex == 0 { rig.from_overlay(PEER_2, NETWORK, answer) } else { rig.from_task(backend, answer) }
}

/// The call reaches the backend as this.
fn reaches(outcome: Outcome, backend: &Task, frame: &Frame) {
    if backend.ifindex == 0 {
        outcome.tunnelled(frame);
    } else {
        outcome.sent(frame);
    }
}

/// The source port that the backend sees, which is not the caller's.
fn another_port(outcome: &Outcome) -> u16 {
    let call =
        outcome.new_flows.iter().find(|(_, flow)| flow.flags & flow_flag::REVERSE == 0).expect("it is remembered");
    assert!(call.1.flags & flow_flag::PORT_CHANGED != 0, "{call:?}");
    call.1.other_port
}

#[test]
fn nothing_is_remembered_of_a_call_that_meets_no_other() {
    here_and_there(|rig, client, backend| {
        for call in [client.to(BACKEND).tcp(40_000, 80).syn(), client.to(BACKEND).udp(40_000, 80)] {
            let outcome = rig.from_task(client, &call);
            assert!(outcome.new_flows.is_empty(), "{outcome:?}");
        }
        // A datagram of one protocol is nothing to a connection of another.
        rig.from_task(client, client.to(VIP).tcp(40_000, 80).syn());
        let datagram = rig.from_task(client, client.to(BACKEND).udp(40_000, 80));
        assert!(datagram.new_flows.is_empty());
        reaches(datagram, backend, &backend.gets(CLIENT).udp(40_000, 80));
    });
}

/// The client's port is used again: for the task itself, and for the service.
fn the_port_is_used_again(rig: &mut Rig, client: &Task, backend: &Task) {
    let call = rig.from_task(client, client.to(BACKEND).tcp(40_000, 80).syn().seq(9_000));
    let port = another_port(&call);
    reaches(call, backend, &backend.gets(CLIENT).tcp(port, 80).syn().seq(9_000));
    answers(rig, backend, &backend.to(CLIENT).tcp(80, port).syn().ack(9_001))
        .sent(&client.gets(BACKEND).tcp(80, 40_000).syn().ack(9_001));
    let call = rig.from_task(client, client.to(VIP).tcp(40_000, 80).syn().seq(20_000));
    reaches(call, backend, &backend.gets(CLIENT).tcp(40_000, 80).syn().seq(20_000));
    answers(rig, backend, &backend.to(CLIENT).tcp(80, 40_000).syn().ack(20_001))
        .sent(&client.gets(VIP).tcp(80, 40_000).syn().ack(20_001));
}

#[test]
fn a_connection_by_the_service_that_has_ended_keeps_its_answers_from_the_next_to_the_task_itself() {
    here_and_there(|rig, client, backend| {
        rig.from_task(client, client.to(VIP).tcp(40_000, 80).syn());
        answers(rig, backend, &backend.to(CLIENT).tcp(80, 40_000).syn().ack(1));
        rig.from_task(client, client.to(VIP).tcp(40_000, 80).seq(1).ack(1));
        answers(rig, backend, &backend.to(CLIENT).tcp(80, 40_000).seq(1).fin().ack(1));
        rig.from_task(client, client.to(VIP).tcp(40_000, 80).seq(1).fin().ack(2));
        // Its last words may come again.
        the_port_is_used_again(rig, client, backend);
    });
}

/// The entry of the call says nothing of an end that the backend made alone.
#[test]
fn so_does_one_that_was_refused_or_reset() {
    here_and_there(|rig, client, backend| {
        rig.from_task(client, client.to(VIP).tcp(40_000, 80).syn());
        answers(rig, backend, &backend.to(CLIENT).tcp(80, 40_000).rst().ack(1))
            .sent(&client.gets(VIP).tcp(80, 40_000).rst().ack(1));
        the_port_is_used_again(rig, client, backend);
    });
}

#[test]
fn a_direct_call_that_is_made_again_and_again_takes_no_more_ports() {
    here_and_there(|rig, client, backend| {
        rig.from_task(client, client.to(VIP).tcp(40_000, 80).syn());
        let mut ports = std::collections::BTreeSet::new();
        for turn in 1..=6 {
            let call = rig.from_task(client, client.to(BACKEND).tcp(40_000, 80).syn().seq(turn * 1_000));
            let entry = rig.flows().into_iter().find(|(_, flow)| flow.flags & flow_flag::PORT_CHANGED != 0);
            let port = entry.expect("it is remembered").1.other_port;
            reaches(call, backend, &backend.gets(CLIENT).tcp(port, 80).syn().seq(turn * 1_000));
            rig.from_task(client, client.to(BACKEND).tcp(40_000, 80).rst().seq(turn * 1_000 + 1));
            ports.insert(port);
        }
        assert_eq!((ports.len(), rig.flows().len()), (1, 4), "{ports:?}");
    });
}

#[test]
fn beside_a_connection_by_the_service_that_lives_one_to_the_task_itself_has_a_port_of_its_own() {
    here_and_there(|rig, client, backend| {
        rig.from_task(client, client.to(VIP).tcp(40_000, 80).syn());
        let call = rig.from_task(client, client.to(BACKEND).tcp(40_000, 80).syn());
        let port = another_port(&call);
        reaches(call, backend, &backend.gets(CLIENT).tcp(port, 80).syn());
        // Asked once more, it is the same one.
        let more = rig.from_task(client, client.to(BACKEND).tcp(40_000, 80).syn());
        reaches(more, backend, &backend.gets(CLIENT).tcp(port, 80).syn());
        answers(rig, backend, &backend.to(CLIENT).tcp(80, port).syn().ack(1))
            .sent(&client.gets(BACKEND).tcp(80, 40_000).syn().ack(1));
        answers(rig, backend, &backend.to(CLIENT).tcp(80, 40_000).syn().ack(1))
            .sent(&client.gets(VIP).tcp(80, 40_000).syn().ack(1));
    });
}

#[test]
fn one_socket_sends_datagrams_to_the_service_and_to_its_task_and_hears_from_both() {
    here_and_there(|rig, client, backend| {
        rig.from_task(client, client.to(VIP).udp(40_000, 80).payload(b"?"));
        let datagram = rig.from_task(client, client.to(BACKEND).udp(40_000, 80).payload(b"?"));
        let port = another_port(&datagram);
        reaches(datagram, backend, &backend.gets(CLIENT).udp(port, 80).payload(b"?"));
        answers(rig, backend, &backend.to(CLIENT).udp(80, port).payload(b"!"))
            .sent(&client.gets(BACKEND).udp(80, 40_000).payload(b"!"));
        answers(rig, backend, &backend.to(CLIENT).udp(80, 40_000).payload(b"!"))
            .sent(&client.gets(VIP).udp(80, 40_000).payload(b"!"));
    });
}

/// A task of the peer calls a port that is published, from a port by which it also calls a task of this node within their network.
#[test]
fn calls_of_a_peers_task_by_a_published_port_and_within_the_network_are_two_connections() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, backend) = (rig.task_there(2, CLIENT), rig.task_here(BACKEND));
    let service = rig.service(VIP, &[&backend]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    let last_hop = mac::of(mac::KIND_CLIENT, client.number);
    let request = eth(last_hop, mac::of(mac::KIND_ENDPOINT, backend.number)).ipv4(CLIENT, "192.0.2.2");
    rig.from_overlay(PEER_2, vni::REQUEST_NODE, request.tcp(40_000, 8080).syn())
        .sent(&backend.gets(CLIENT).tcp(40_000, 80).syn());
    // By its VIP, or by its own address: its node has translated already.
    let within = || eth(mac::GATEWAY, backend.mac).ipv4(CLIENT, BACKEND).tcp(40_000, 80);
    let call = rig.from_overlay(PEER_2, NETWORK, within().syn());
    let port = another_port(&call);
    call.sent(&backend.gets(CLIENT).tcp(port, 80).syn());
    rig.from_overlay(PEER_2, NETWORK, within().seq(1).ack(1)).sent(&backend.gets(CLIENT).tcp(port, 80).seq(1).ack(1));
    let answer = |port| backend.to(CLIENT).tcp(80, port).syn().ack(1);
    rig.from_task(&backend, answer(port))
        .tunnelled(&eth(mac::GATEWAY, client.mac).ipv4(BACKEND, CLIENT).tcp(80, 40_000).syn().ack(1));
    rig.from_task(&backend, answer(40_000))
        .tunnelled(&eth(mac::GATEWAY, last_hop).ipv4("192.0.2.2", CLIENT).tcp(8080, 40_000).syn().ack(1));
    // Both end; the next within the network has that port again.
    for port in [40_000, port] {
        rig.from_task(&backend, backend.to(CLIENT).tcp(80, port).rst().seq(1));
    }
    rig.from_overlay(PEER_2, NETWORK, within().rst().seq(1));
    rig.from_overlay(PEER_2, NETWORK, within().syn().seq(9_000))
        .sent(&backend.gets(CLIENT).tcp(port, 80).syn().seq(9_000));
}

/// The caller's node alone knows of the call by the VIP, and the backend's alone of one by a published port: it is translated here like the other one.
#[test]
fn calls_by_a_vip_and_by_another_nodes_published_port_from_one_port_are_two_connections() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, backend) = (rig.task_here(CLIENT), rig.task_there(2, BACKEND));
    let service = rig.service(VIP, &[&backend]);
    let published = "192.0.2.2";
    for (number, port) in [(protocol::TCP, 8080), (protocol::UDP, 8081), (protocol::TCP, 9090)] {
        rig.publish(&service, number, port, 80);
    }
    // One that meets no other is its owner's to translate.
    let alone = client.to(published).tcp(40_001, 8080).syn();
    let request = eth(mac::of(mac::KIND_CLIENT, client.number), mac::of(mac::KIND_ENDPOINT, backend.number));
    rig.from_task(&client, alone).tunnelled(&request.ipv4(CLIENT, published).tcp(40_001, 8080).syn());

    rig.from_task(&client, client.to(VIP).tcp(40_000, 80).syn());
    let mut ports = vec![(VIP, 80, 40_000)];
    for port in [8080, 9090] {
        let call = rig.from_task(&client, client.to(published).tcp(40_000, port).syn());
        let changed = another_port(&call);
        assert!(call.new_flows.iter().any(|(_, flow)| flow.vni == NETWORK), "{call:?}");
        call.tunnelled(&backend.gets(CLIENT).tcp(changed, 80).syn());
        // Its SYN once more, and what follows, go the same way.
        rig.from_task(&client, client.to(published).tcp(40_000, port).syn())
            .tunnelled(&backend.gets(CLIENT).tcp(changed, 80).syn());
        rig.from_task(&client, client.to(published).tcp(40_000, port).seq(1).ack(1))
            .tunnelled(&backend.gets(CLIENT).tcp(changed, 80).seq(1).ack(1));
        ports.push((published, port, changed));
    }
    for (called, port, seen) in ports {
        answers(&mut rig, &backend, &backend.to(CLIENT).tcp(80, seen).syn().ack(1))
            .sent(&client.gets(called).tcp(port, 40_000).syn().ack(1));
    }

    rig.from_task(&client, client.to(VIP).udp(40_000, 80));
    let datagram = rig.from_task(&client, client.to(published).udp(40_000, 8081));
    let changed = another_port(&datagram);
    datagram.tunnelled(&backend.gets(CLIENT).udp(changed, 80));
    answers(&mut rig, &backend, &backend.to(CLIENT).udp(80, changed)).sent(&client.gets(published).udp(8081, 40_000));
}

/// Of the call by the published port that was there first, its owner knows; what goes on of it is not another's.
#[test]
fn a_published_ports_connection_goes_on_beside_a_later_one_by_the_vip() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, backend) = (rig.task_here(CLIENT), rig.task_there(2, BACKEND));
    let service = rig.service(VIP, &[&backend]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    let call = || client.to("192.0.2.2").tcp(40_000, 8080);
    let key = rig.from_task(&client, call().syn()).new_flows[0].0;
    rig.from_task(&client, client.to(VIP).tcp(40_000, 80).syn());
    let request = eth(mac::of(mac::KIND_CLIENT, client.number), mac::of(mac::KIND_ENDPOINT, backend.number));
    let goes_on = request.ipv4(CLIENT, "192.0.2.2").tcp(40_000, 8080).seq(1).ack(1);
    rig.from_task(&client, call().seq(1).ack(1)).tunnelled(&goes_on);
    rig.forget(key);
    rig.from_task(&client, call().seq(1).ack(1)).tunnelled(&goes_on);
}

/// The call by the VIP has its answers' tuple all the while: whichever entry is lost, the other call keeps its port.
#[test]
fn a_published_ports_call_that_is_kept_apart_goes_on_whichever_of_its_entries_is_lost() {
    for is_reverse in [false, true] {
        let Some(mut rig) = Rig::new() else { return };
        let (client, backend) = (rig.task_here(CLIENT), rig.task_there(2, BACKEND));
        let service = rig.service(VIP, &[&backend]);
        rig.publish(&service, protocol::TCP, 8080, 80);
        rig.from_task(&client, client.to(VIP).tcp(40_000, 80).syn());
        let call = || client.to("192.0.2.2").tcp(40_000, 8080);
        let first = rig.from_task(&client, call().syn());
        let port = another_port(&first);
        let answer = || backend.to(CLIENT).tcp(80, port);
        answers(&mut rig, &backend, &answer().syn().ack(1));
        let lost = first.new_flows.iter().find(|(_, flow)| (flow.flags & flow_flag::REVERSE != 0) == is_reverse);
        rig.forget(lost.expect("both are remembered").0);
        // Silence, after which a caller's packet looks for the answers' entry.
        for (key, flow) in rig.flows() {
            rig.put_flow(key, Flow { last_seen_s: flow.last_seen_s.saturating_sub(3_600), ..flow });
        }
        rig.from_task(&client, call().seq(1).ack(1)).tunnelled(&backend.gets(CLIENT).tcp(port, 80).seq(1).ack(1));
        answers(&mut rig, &backend, &answer().seq(1).ack(2))
            .sent(&client.gets("192.0.2.2").tcp(8080, 40_000).seq(1).ack(2));
    }
}

/// An older call's answers, under the port that it was given, lead to the tuple of a newer one that is another node's to translate: those are no two.
#[test]
fn what_is_left_of_a_call_that_was_kept_apart_takes_no_later_one_along() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, backend) = (rig.task_here(CLIENT), rig.task_there(2, BACKEND));
    let service = rig.service(VIP, &[&backend]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    let by_vip = rig.from_task(&client, client.to(VIP).tcp(40_000, 80).syn());
    let apart = rig.from_task(&client, client.to("192.0.2.2").tcp(40_000, 8080).syn());
    let [(older, flow)] =
        apart.new_flows.iter().filter(|(_, flow)| flow.flags & flow_flag::REVERSE != 0).collect::<Vec<_>>()[..]
    else {
        panic!("its answers are remembered: {apart:?}");
    };
    let (older, last_seen_s) = (*older, flow.last_seen_s);
    for (key, _) in by_vip.new_flows.iter().chain(&apart.new_flows).filter(|(key, _)| *key != older) {
        rig.forget(*key);
    }
    let later = rig.from_task(&client, client.to("192.0.2.2").tcp(40_000, 8080).syn()).new_flow().0;
    assert_eq!(rig.sweep(&older, order::EXPIRE, last_seen_s + 86_400), 1, "the older one's alone");
    assert!(rig.flow(&later).is_some() && rig.flow(&older).is_none());
}

/// A process of the node's own calls as a task does: of its calls to tasks elsewhere their nodes take care.
#[test]
fn the_hosts_calls_to_the_service_and_to_its_task_from_one_port_are_two_connections() {
    let Some(mut rig) = Rig::new() else { return };
    let backend = rig.task_here(BACKEND);
    rig.service(VIP, &[&backend]);
    let call = |to: &str| eth(MESH0_MAC, MESH0_MAC).ipv4(HERE, to).tcp(40_000, 80);
    let gets = |port| backend.gets("192.0.2.1").tcp(port, 80);
    assert!(rig.from_host(call(BACKEND).syn()).sent(&gets(40_000).syn()).new_flows.is_empty(), "it meets no other");
    rig.from_host(call(VIP).syn()).sent(&gets(40_000).syn());
    let direct = rig.from_host(call(BACKEND).syn());
    let port = another_port(&direct);
    direct.sent(&gets(port).syn());
    rig.from_host(call(BACKEND).seq(1).ack(1)).sent(&gets(port).seq(1).ack(1));
    for (from, port) in [(BACKEND, port), (VIP, 40_000)] {
        rig.from_task(&backend, backend.to("192.0.2.1").tcp(80, port).syn().ack(1))
            .sent(&eth(mac::GATEWAY, MESH0_MAC).ipv4(from, HERE).tcp(80, 40_000).syn().ack(1));
    }
}
