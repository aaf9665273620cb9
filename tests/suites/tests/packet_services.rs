//! Calls from tasks to VIPs (east–west): the client's node chooses, rewrites and remembers; on the loaded programs.

use mesh_common::flow::{is_closing, order};
use mesh_common::parse::protocol;
use mesh_common::schema::{Flow, FlowKey, algorithm, deliver, flow_flag, rewrite};
use mesh_common::snat;
use mesh_common::verdict::DropReason;
use mesh_common::wire::mac;
use mesh_packet::any;
use mesh_tests::rig::{FlowEntry, HERE, Outcome, PEER_2, Rig, Task, flow_hash, of_ipv4_alone};
use mesh_userspace::kernel::bpf::clock;

const VIP: &str = "10.0.16.2";

/// A client and two backends here, and the service in front of them.
fn three_here() -> Option<(Rig, Task, Task, Task)> {
    let mut rig = Rig::new()?;
    let client = rig.task_here("10.0.16.3");
    let (one, other) = (rig.task_here("10.0.16.4"), rig.task_here("10.0.16.5"));
    rig.service(VIP, &[&one, &other]);
    Some((rig, client, one, other))
}

/// Endpoint number of the task that a frame is addressed to.
fn receiver(outcome: &Outcome) -> u32 {
    let mac: [u8; 6] = outcome.frame[..6].try_into().unwrap();
    mac::split(mac).expect("a MAC of ours").1
}

#[test]
fn a_call_to_a_vip_reaches_a_backend_here_and_its_reply_comes_from_the_vip() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    rig.service(VIP, &[&backend]);
    let syn = client.to(VIP).tcp(40000, 8000).syn().mss(1460);
    let outcome = rig.from_task(&client, &syn).sent(&backend.gets("10.0.16.3").tcp(40000, 8000).syn().mss(1460));
    let (_, flow) = outcome.new_flow();
    assert_eq!((flow.deliver, flow.rewrite, flow.ifindex), (deliver::TASK, rewrite::DESTINATION, backend.ifindex));
    assert_eq!(outcome.new_flows.len(), 2, "an entry a direction");

    let reply = backend.to("10.0.16.3").tcp(8000, 40000).syn().ack(1);
    let outcome = rig.from_task(&backend, &reply).sent(&client.gets(VIP).tcp(8000, 40000).syn().ack(1));
    assert!(outcome.new_flows.is_empty());
    let more = client.to(VIP).tcp(40000, 8000).seq(1).ack(1).psh().payload(b"GET /");
    rig.from_task(&client, &more)
        .sent(&backend.gets("10.0.16.3").tcp(40000, 8000).seq(1).ack(1).psh().payload(b"GET /"));
}

#[test]
fn a_call_to_a_vip_reaches_a_backend_elsewhere_through_the_tunnel() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_there(2, "10.0.16.4"));
    rig.service(VIP, &[&backend]);
    let syn = client.to(VIP).udp(40000, 53).payload(b"?");
    let outcome = rig.from_task(&client, &syn).tunnelled(&backend.gets("10.0.16.3").udp(40000, 53).payload(b"?"));
    let (_, flow) = outcome.new_flow();
    assert_eq!((flow.deliver, flow.node, flow.vni, flow.mac), (deliver::TUNNEL, 2, 4_097, backend.mac));

    let reply = backend.to("10.0.16.3").udp(53, 40000).payload(b"!");
    rig.from_overlay(PEER_2, 4_097, &reply).sent(&client.gets(VIP).udp(53, 40000).payload(b"!"));
}

#[test]
fn new_connections_take_strict_turns() {
    let Some((mut rig, client, one, other)) = three_here() else { return };
    let seen: Vec<u32> =
        (0..10u16).map(|n| receiver(&rig.from_task(&client, client.to(VIP).tcp(40000 + n, 8000).syn()))).collect();
    assert_eq!(seen, [one.number, other.number].repeat(5));
}

#[test]
fn datagrams_of_one_socket_keep_their_backend_and_new_sockets_take_turns() {
    let Some((mut rig, client, one, other)) = three_here() else { return };
    let mut ask = |port| receiver(&rig.from_task(&client, client.to(VIP).udp(port, 53).payload(b"?")));
    assert_eq!([ask(1), ask(1), ask(2), ask(1), ask(2)], [1, 1, 2, 1, 2].map(|n| [one.number, other.number][n - 1]));
}

#[test]
fn a_retransmitted_syn_keeps_its_backend() {
    let Some((mut rig, client, _, _)) = three_here() else { return };
    let first = rig.from_task(&client, client.to(VIP).tcp(40000, 8000).syn());
    let again = rig.from_task(&client, client.to(VIP).tcp(40000, 8000).syn());
    assert_eq!(first.frame, again.frame);
    assert!(again.new_flows.is_empty());
}

#[test]
fn a_syn_on_a_closed_connection_takes_the_next_turn() {
    let Some((mut rig, client, one, other)) = three_here() else { return };
    let first = rig.from_task(&client, client.to(VIP).tcp(40000, 8000).syn());
    rig.from_task(&client, client.to(VIP).tcp(40000, 8000).fin().ack(1));
    let again = rig.from_task(&client, client.to(VIP).tcp(40000, 8000).syn().seq(9));
    assert_eq!((receiver(&first), receiver(&again)), (one.number, other.number));
}

#[test]
fn a_refused_call_that_is_tried_again_on_the_same_ports_is_not_taken_for_closed() {
    let Some((mut rig, client, one, _)) = three_here() else { return };
    rig.from_task(&client, client.to(VIP).tcp(40000, 8000).syn());
    rig.from_task(&one, one.to(&client.ip()).tcp(8000, 40000).rst().ack(1));
    let seen_of_reply = |rig: &Rig| {
        rig.flows().into_values().find(|flow| flow.rewrite == rewrite::SOURCE).expect("the reply's entry").seen
    };
    assert!(is_closing(seen_of_reply(&rig)), "the backend refused");
    rig.from_task(&client, client.to(VIP).tcp(40000, 8000).syn().seq(9));
    rig.from_task(&one, one.to(&client.ip()).tcp(8000, 40000).syn().ack(10));
    assert!(!is_closing(seen_of_reply(&rig)), "now it has taken the call");
}

#[test]
fn a_segment_without_a_flow_goes_where_the_ring_says() {
    let Some((mut rig, client, _, _)) = three_here() else { return };
    let segment = client.to(VIP).tcp(40000, 8000).seq(5).ack(6).payload(b"x");
    let first = receiver(&rig.from_task(&client, &segment));
    for (key, _) in rig.flows() {
        rig.forget(key);
    }
    assert_eq!(receiver(&rig.from_task(&client, &segment)), first);
}

#[test]
fn maglev_sends_a_tuple_to_the_same_backend_every_time() {
    let Some((mut rig, client, one, other)) = three_here() else { return };
    let mut service = rig.service("10.0.16.6", &[&one, &other]);
    service.frontend.algorithm = algorithm::MAGLEV;
    let key = mesh_common::schema::FrontendKey::vip([10, 0, 16, 6]);
    rig.put_frontend(key, service.frontend);
    let mut ask = |n: u16| receiver(&rig.from_task(&client, client.to("10.0.16.6").tcp(41000 + n, 80).syn()));
    let first: Vec<u32> = (0..16).map(&mut ask).collect();
    assert!(first.contains(&one.number) && first.contains(&other.number), "{first:?}");
    for (key, _) in rig.flows() {
        rig.forget(key);
    }
    let mut ask = |n: u16| receiver(&rig.from_task(&client, client.to("10.0.16.6").tcp(41000 + n, 80).syn()));
    assert_eq!((0..16).map(&mut ask).collect::<Vec<u32>>(), first);
}

#[test]
fn random_sends_calls_to_all_and_keeps_each_where_it_is() {
    let Some((mut rig, client, one, other)) = three_here() else { return };
    let mut service = rig.service("10.0.16.6", &[&one, &other]);
    service.frontend.algorithm = algorithm::RANDOM;
    rig.put_frontend(mesh_common::schema::FrontendKey::vip([10, 0, 16, 6]), service.frontend);
    let ask = |rig: &mut Rig, port| receiver(&rig.from_task(&client, client.to("10.0.16.6").tcp(port, 80).syn()));
    let first: Vec<u32> = (41_000..41_064).map(|port| ask(&mut rig, port)).collect();
    // Chance fails these once in 2^60 runs.
    assert!(first.contains(&one.number) && first.contains(&other.number), "{first:?}");
    assert!(first.windows(2).any(|pair| pair[0] == pair[1]), "these are turns: {first:?}");
    let again: Vec<u32> = (41_000..41_064).map(|port| ask(&mut rig, port)).collect();
    assert_eq!(again, first, "a known flow is not chosen for again");
}

#[test]
fn a_task_that_calls_its_own_service_gets_another_task() {
    let Some((mut rig, _, one, other)) = three_here() else { return };
    for port in 40000..40004 {
        let outcome = rig.from_task(&one, one.to(VIP).tcp(port, 8000).syn());
        assert_eq!(receiver(&outcome), other.number);
    }
}

#[test]
fn a_task_alone_reaches_itself_and_sees_the_gateway() {
    let Some(mut rig) = Rig::new() else { return };
    let task = rig.task_here("10.0.16.3");
    rig.service(VIP, &[&task]);
    let syn = task.to(VIP).tcp(40000, 8000).syn();
    let outcome = rig.from_task(&task, &syn).sent(&task.gets("10.0.16.1").tcp(40000, 8000).syn());
    assert!(outcome.new_flow().1.flags & flow_flag::HAIRPIN != 0);
    let reply = task.to("10.0.16.1").tcp(8000, 40000).syn().ack(1);
    rig.from_task(&task, &reply).sent(&task.gets(VIP).tcp(8000, 40000).syn().ack(1));
}

#[test]
fn a_service_without_tasks_refuses_connections_with_a_reset() {
    let Some(mut rig) = Rig::new() else { return };
    let client = rig.task_here("10.0.16.3");
    rig.service(VIP, &[]);
    // RFC 9293, 3.10.7.1: to a SYN the RST acknowledges it, to a segment with ACK it takes its number.
    let to_syn = client.gets(VIP).dont_fragment().tcp(8000, 40000).rst().ack(1_001).window(any());
    rig.from_task(&client, client.to(VIP).tcp(40000, 8000).syn().seq(1_000).mss(1460))
        .refused(DropReason::NoBackend, &to_syn);
    let to_data = client.gets(VIP).dont_fragment().tcp(8000, 40000).rst().seq(77).window(any());
    rig.from_task(&client, client.to(VIP).tcp(40000, 8000).seq(5).ack(77).payload_of(100))
        .refused(DropReason::NoBackend, &to_data);
    let to_fin = client.gets(VIP).dont_fragment().tcp(8000, 40000).rst().ack(5 + 10 + 1).window(any());
    rig.from_task(&client, client.to(VIP).tcp(40000, 8000).seq(5).fin().payload_of(10))
        .refused(DropReason::NoBackend, &to_fin);
}

#[test]
fn a_reset_is_never_answered() {
    let Some(mut rig) = Rig::new() else { return };
    let client = rig.task_here("10.0.16.3");
    rig.service(VIP, &[]);
    rig.from_task(&client, client.to(VIP).tcp(40000, 8000).rst()).dropped(DropReason::NoBackend);
}

#[test]
fn a_service_without_tasks_has_no_open_port_and_no_echo() {
    let Some(mut rig) = Rig::new() else { return };
    let client = rig.task_here("10.0.16.3");
    rig.service(VIP, &[]);
    for size in [0, 1, 600] {
        let udp = client.to(VIP).udp(40000, 53).payload_of(size);
        let answer = client.gets(VIP).dont_fragment().icmp_error(3, 3, 0).about(&udp);
        rig.from_task(&client, &udp).refused(DropReason::NoBackend, &answer);
    }
    let echo = client.to(VIP).icmp_echo(7, 1).payload_of(56);
    let answer = client.gets(VIP).dont_fragment().icmp_error(3, 1, 0).about(&echo);
    rig.from_task(&client, &echo).refused(DropReason::NoBackend, &answer);
}

#[test]
fn an_unfinished_segment_is_refused_with_an_unfinished_reset() {
    let Some(mut rig) = Rig::new() else { return };
    let client = rig.task_here("10.0.16.3");
    rig.service(VIP, &[]);
    let rst = client.gets(VIP).dont_fragment().tcp(8000, 40000).rst().ack(1).window(any()).unfinished_checksum();
    rig.from_task(&client, client.to(VIP).tcp(40000, 8000).syn().unfinished_checksum())
        .refused(DropReason::NoBackend, &rst);
}

#[test]
fn a_flow_whose_backend_is_gone_is_reset_and_forgotten() {
    let Some((mut rig, client, one, other)) = three_here() else { return };
    let (key, flow) = rig.from_task(&client, client.to(VIP).tcp(40000, 8000).syn()).new_flow();
    assert_eq!(rig.sweep(&key, order::KILL, 0), 1);
    let rst = client.gets(VIP).dont_fragment().tcp(8000, 40000).rst().seq(9).window(any());
    let outcome = rig
        .from_task(&client, client.to(VIP).tcp(40000, 8000).seq(1).ack(9).payload(b"x"))
        .refused(DropReason::BackendGone, &rst);
    assert_eq!(outcome.lost_flows, [key]);
    // A new connection on the same tuple is served by another.
    let again = rig.from_task(&client, client.to(VIP).tcp(40000, 8000).syn());
    assert_eq!((flow.backend, receiver(&again)), (one.number, other.number));
}

#[test]
fn a_flow_to_an_unreachable_node_is_reset_by_the_address_that_was_called() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_there(2, "10.0.16.4"));
    rig.service(VIP, &[&backend]);
    rig.from_task(&client, client.to(VIP).tcp(40000, 8000).syn());
    rig.unreachable(2, PEER_2);
    let rst = client.gets(VIP).dont_fragment().tcp(8000, 40000).rst().seq(9).window(any());
    rig.from_task(&client, client.to(VIP).tcp(40000, 8000).seq(1).ack(9).payload(b"x"))
        .refused(DropReason::PeerUnreachable, &rst);
    let rst = client.gets("10.0.16.4").dont_fragment().tcp(80, 40000).rst().ack(1).window(any());
    rig.from_task(&client, client.to("10.0.16.4").tcp(40000, 80).syn()).refused(DropReason::PeerUnreachable, &rst);
}

#[test]
fn an_icmp_error_to_a_vip_about_nothing_is_dropped() {
    let Some((mut rig, client, _, _)) = three_here() else { return };
    let error = client.to(VIP).icmp_error(3, 3, 0).payload_of(28);
    rig.from_task(&client, &error).dropped(DropReason::IcmpError);
}

#[test]
fn a_service_reaches_its_tasks_by_any_protocol() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    rig.service(VIP, &[&backend]);
    // SCTP's checksum covers no address: it stays. So does what has no ports.
    for number in [protocol::SCTP, 47] {
        let packet = client.to(VIP).protocol(number).payload_of(40);
        rig.from_task(&client, &packet).sent(&backend.gets("10.0.16.3").protocol(number).payload_of(40));
    }
}

#[test]
fn ip_options_change_nothing() {
    let Some(mut rig) = of_ipv4_alone("IPv6 has extension headers, of which packet_ipv6 is") else { return };
    let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    rig.service(VIP, &[&backend]);
    let options = [0x94, 4, 0, 0]; // router alert, RFC 2113
    rig.from_task(&client, client.to(VIP).ip_options(&options).tcp(40000, 8000).syn())
        .sent(&backend.gets("10.0.16.3").ip_options(&options).tcp(40000, 8000).syn());
}

#[test]
fn a_tuple_that_is_taken_gets_another_source_port() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    let service = rig.service(VIP, &[&backend]);
    rig.publish(&service, protocol::TCP, 8080, 8000);
    rig.from_task(&client, client.to(VIP).tcp(40000, 8000).syn());
    // The same task port is also this frontend's target: its reply would be the same tuple.
    let outcome = rig.from_task(&client, client.to("192.0.2.1").tcp(40000, 8080).syn());
    let (_, flow) = outcome.new_flow();
    assert!(flow.flags & flow_flag::PORT_CHANGED != 0 && flow.other_port >= 61_000, "{flow:?}");
    let outcome = outcome.sent(&backend.gets("10.0.16.3").tcp(flow.other_port, 8000).syn());
    assert_eq!(outcome.new_flows.len(), 2);

    let reply = backend.to("10.0.16.3").tcp(8000, flow.other_port).syn().ack(1);
    rig.from_task(&backend, &reply).sent(&client.gets("192.0.2.1").tcp(8080, 40000).syn().ack(1));
    let first = backend.to("10.0.16.3").tcp(8000, 40000).syn().ack(1);
    rig.from_task(&backend, &first).sent(&client.gets(VIP).tcp(8000, 40000).syn().ack(1));
}

#[test]
fn a_full_table_keeps_its_flows_and_turns_no_new_one_away() {
    let Some(mut rig) = Rig::with_flow_table(2) else { return };
    let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    rig.service(VIP, &[&backend]);
    // A hash map keeps a few spare entries a CPU: 64 flows are far more than fit.
    for port in 40_000..40_064 {
        rig.from_task(&client, client.to(VIP).tcp(port, 8000).syn())
            .sent(&backend.gets("10.0.16.3").tcp(port, 8000).syn());
    }
    let kept = rig.flows().len();
    assert!((2..64).contains(&kept), "{kept} entries in the table, the others beside it");
    for port in 40_000..40_064 {
        let answer = backend.to("10.0.16.3").tcp(8000, port).syn().ack(1);
        rig.from_task(&backend, answer).sent(&client.gets(VIP).tcp(8000, port).syn().ack(1));
        let data = client.to(VIP).tcp(port, 8000).seq(1).ack(1);
        rig.from_task(&client, data).sent(&backend.gets("10.0.16.3").tcp(port, 8000).seq(1).ack(1));
    }
    assert_eq!(rig.flows().len(), kept);

    // The sweeper's hand reaches them too.
    let spilled = |rig: &Rig| -> Vec<FlowEntry> { rig.beside().into_iter().collect() };
    let before = spilled(&rig);
    assert_eq!(before.len(), 128 - kept, "both directions of every flow are somewhere");
    let (key, flow) = before[0];
    assert_ne!(rig.sweep(&key, order::GIVE_UP, flow.last_seen_s), 0);
    assert!(!spilled(&rig).iter().any(|(other, _)| *other == key));
}

#[test]
fn a_flow_whose_reply_tuple_is_anothers_by_now_ends_alone() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    rig.service(VIP, &[&backend]);
    rig.service("10.0.16.6", &[&backend]);
    rig.from_task(&client, client.to(VIP).tcp(40000, 8000).syn());
    let first = rig.flows();
    let (calling, answering): (Vec<_>, Vec<_>) = first.keys().copied().partition(|key| key.src == client.addr);
    // As the overflow evicts: one direction alone. Then the same port calls another service of the same task.
    rig.forget(answering[0]);
    rig.from_task(&client, client.to("10.0.16.6").tcp(40000, 8000).syn());
    assert_eq!(rig.flows().len(), 3);
    assert_eq!(rig.sweep(&calling[0], order::EXPIRE, first[&calling[0]].last_seen_s + 1_000), 1);
    let left = rig.flows();
    assert!(left.contains_key(&answering[0]) && !left.contains_key(&calling[0]) && left.len() == 2, "{left:?}");
}

#[test]
fn a_flow_is_stamped_with_the_time_that_the_sweeper_compares_with() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    rig.service(VIP, &[&backend]);
    let before = clock::now_s();
    rig.from_task(&client, client.to(VIP).tcp(40000, 8000).syn());
    let after = clock::now_s();
    for (_, flow) in rig.flows() {
        // The kernel counts its ticks from boot, up to a second after its clock began.
        assert!((before - 1..=after).contains(&flow.last_seen_s), "{} is not in {before}..={after}", flow.last_seen_s);
    }
}

#[test]
fn a_caller_for_whom_every_source_port_is_taken_is_counted() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    let service = rig.service(VIP, &[&backend]);
    rig.publish(&service, protocol::TCP, 8080, 8000);
    let by_vip = rig.from_task(&client, client.to(VIP).tcp(40000, 8000).syn());
    let (key, flow) = by_vip.new_flows.iter().find(|(key, _)| key.src == backend.addr).copied().expect("the answer's");
    let call = || client.to("192.0.2.1").tcp(40000, 8080).syn();
    let hash = flow_hash(&FlowKey::new(client.addr, HERE, 40000, 8080, protocol::TCP));
    for attempt in 0..4 {
        rig.put_flow(FlowKey { dport: snat::candidate(hash, attempt), ..key }, flow);
    }
    rig.from_task(&client, call()).dropped(DropReason::TableFull);
}

#[test]
fn the_sweeper_deletes_what_slept_and_keeps_what_woke_up() {
    let Some((mut rig, client, _, _)) = three_here() else { return };
    let (key, flow) = rig.from_task(&client, client.to(VIP).udp(40000, 53).payload(b"?")).new_flow();
    assert_eq!(rig.sweep(&key, order::GIVE_UP, flow.last_seen_s.wrapping_sub(1)), 0, "seen since");
    // An unanswered datagram's flow may be silent for half a minute.
    assert_eq!(rig.sweep(&key, order::EXPIRE, flow.last_seen_s + 30), 0, "not for too long yet");
    assert!(rig.flows().contains_key(&key));
    assert_eq!(rig.sweep(&key, order::EXPIRE, flow.last_seen_s + 31), 2, "a flow goes with both its entries");
    assert!(rig.flows().is_empty());
    assert_eq!(rig.sweep(&key, order::EXPIRE, flow.last_seen_s + 31), 0, "gone already");
    assert_eq!(rig.sweep(&key, order::KILL, 0), 0, "gone already");
}

#[test]
fn a_flow_lives_while_either_of_its_directions_does() {
    let Some((mut rig, client, _, _)) = three_here() else { return };
    let (key, flow) = rig.from_task(&client, client.to(VIP).tcp(40000, 8000).syn()).new_flow();
    let (reply, reverse) = rig.flows().into_iter().find(|(other, _)| *other != key).expect("both directions are there");
    // The answers went on for an hour, the calls did not.
    rig.put_flow(reply, Flow { last_seen_s: flow.last_seen_s + 3_600, packets: 9, ..reverse });
    for (order, second) in [(order::EXPIRE, flow.last_seen_s + 3_605), (order::GIVE_UP, flow.last_seen_s + 3_599)] {
        assert_eq!(rig.sweep(&key, order, second), 0, "by the calling side");
        assert_eq!(rig.sweep(&reply, order, second), 0, "by the answering side");
    }
    assert_eq!(rig.sweep(&reply, order::EXPIRE, flow.last_seen_s + 3_661), 2, "a handshake that was never finished");
}

#[test]
fn many_flows_are_swept_by_one_run() {
    let Some((mut rig, client, _, _)) = three_here() else { return };
    let mut orders = Vec::new();
    for port in 40_000..40_000 + order::MOST as u16 {
        let (key, flow) = rig.from_task(&client, client.to(VIP).udp(port, 53).payload(b"?")).new_flow();
        orders.push((key, order::EXPIRE, flow.last_seen_s + 31));
    }
    assert_eq!(rig.sweep_all(&orders), 2 * order::MOST as i32);
    assert!(rig.flows().is_empty());
}

#[test]
fn a_flow_counts_its_packets_and_bytes() {
    let Some((mut rig, client, _, _)) = three_here() else { return };
    let datagram = client.to(VIP).udp(40000, 53).payload_of(58);
    for _ in 0..3 {
        rig.from_task(&client, &datagram);
    }
    let forward = rig.flows().into_values().find(|flow| flow.rewrite == rewrite::DESTINATION).unwrap();
    assert_eq!(forward.packets, 3);
}
