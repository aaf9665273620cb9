//! Connections in all that happens to them: lost entries, ports used again, closing from both sides, SYNs out of place, backends that are gone.

use mesh_common::flow::order;
use mesh_common::parse::protocol;
use mesh_common::schema::{Flow, FlowKey, Frontend, FrontendKey, algorithm, flow_flag};
use mesh_common::verdict::DropReason;
use mesh_common::wire::{mac, vni};
use mesh_packet::{Frame, any, eth};
use mesh_tests::rig::{HERE, Outcome, PEER_2, ROUTER_MAC, Rig, Task, UPLINK_MAC, header_len};

const VIP: &str = "10.0.16.2";
const CLIENT: &str = "198.51.100.9";

type Entry = Flow<[u8; 4]>;

/// A client here, and three backends, one of them elsewhere; a service that publishes 8080.
fn three() -> Option<(Rig, Task, [Task; 3])> {
    let mut rig = Rig::new()?;
    let client = rig.task_here("10.0.16.3");
    let backends = [rig.task_here("10.0.16.4"), rig.task_here("10.0.16.5"), rig.task_there(2, "10.0.16.6")];
    let service = rig.service(VIP, &[&backends[0], &backends[1], &backends[2]]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    rig.publish(&service, protocol::UDP, 8080, 80);
    Some((rig, client, backends))
}

/// Whom a frame is delivered to, through the tunnel or here: what of its connection stays the same.
fn whom(outcome: &Outcome) -> Vec<u8> {
    assert!(outcome.drops.is_empty(), "{outcome:?}");
    let inner = if outcome.frame.len() > 100 && !outcome.is_keyed { &outcome.frame[50..] } else { &outcome.frame[..] };
    inner[..6].to_vec()
}

/// Deletes the entries of one direction, as an LRU may.
fn evict(rig: &mut Rig, is_reverse: bool) {
    let of_direction = |flow: &Entry| (flow.flags & flow_flag::REVERSE != 0) == is_reverse;
    for (key, _) in rig.flows().into_iter().filter(|(_, flow)| of_direction(flow)) {
        rig.forget(key);
    }
}

#[test]
fn a_connection_goes_on_when_its_calling_entry_is_lost() {
    let Some((mut rig, client, backends)) = three() else { return };
    let data = |port| client.to(VIP).tcp(port, 80).seq(1).ack(1).payload(b"more");
    let before: Vec<_> = (40_000..40_012)
        .map(|port| {
            rig.from_task(&client, client.to(VIP).tcp(port, 80).syn());
            whom(&rig.from_task(&client, data(port)))
        })
        .collect();
    assert!(backends.iter().all(|task| before.contains(&task.mac.to_vec())), "all take turns");
    evict(&mut rig, false);
    let after: Vec<_> = (40_000..40_012).map(|port| whom(&rig.from_task(&client, data(port)))).collect();
    assert_eq!(before, after);
    let answer = backends[0].to("10.0.16.3").tcp(80, 40_000).seq(1).ack(5);
    rig.from_task(&backends[0], &answer).sent(&client.gets(VIP).tcp(80, 40_000).seq(1).ack(5));
}

#[test]
fn a_call_from_outside_goes_on_when_its_calling_entry_is_lost() {
    let Some(mut rig) = Rig::new() else { return };
    let backends = [rig.task_here("10.0.16.4"), rig.task_here("10.0.16.5"), rig.task_here("10.0.16.6")];
    let service = rig.service(VIP, &[&backends[0], &backends[1], &backends[2]]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    let call = |port| eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE).tcp(port, 8080);
    let before: Vec<_> = (40_000..40_012).map(|port| whom(&rig.from_uplink(call(port).syn()))).collect();
    evict(&mut rig, false);
    let after: Vec<_> = (40_000..40_012).map(|port| whom(&rig.from_uplink(call(port).seq(1).ack(1)))).collect();
    assert_eq!(before, after);
}

#[test]
fn under_maglev_a_connection_goes_on_when_all_its_entries_are_lost() {
    let Some((mut rig, client, _)) = three() else { return };
    let key = FrontendKey::<[u8; 4]>::vip([10, 0, 16, 2]);
    let frontend = rig.frontend(&key);
    rig.put_frontend(key, Frontend { algorithm: algorithm::MAGLEV, ..frontend });
    let before: Vec<_> =
        (40_000..40_012).map(|port| whom(&rig.from_task(&client, client.to(VIP).tcp(port, 80).syn()))).collect();
    evict(&mut rig, false);
    evict(&mut rig, true);
    let data = |port| client.to(VIP).tcp(port, 80).seq(1).ack(1);
    let after: Vec<_> = (40_000..40_012).map(|port| whom(&rig.from_task(&client, data(port)))).collect();
    assert_eq!(before, after);
}

#[test]
fn somebody_elses_entry_is_no_twin() {
    let Some((mut rig, client, backends)) = three() else { return };
    // A call of a published port has the same tuple at the backend as one to the VIP would have.
    rig.from_task(&client, client.to("192.0.2.1").tcp(40_000, 8080).syn());
    let data = client.to(VIP).tcp(40_000, 80).seq(1).ack(1);
    let by_ring = whom(&rig.from_task(&client, &data));
    assert!(backends.iter().any(|task| task.mac.to_vec() == by_ring));
    let again = client.to("192.0.2.1").tcp(40_000, 8080).seq(1).ack(1);
    assert_eq!(whom(&rig.from_task(&client, &again)), backends[0].mac, "its own connection goes on");
}

#[test]
fn a_syn_on_a_live_connection_changes_nothing() {
    let Some((mut rig, client, backends)) = three() else { return };
    let call = || client.to(VIP).tcp(40_000, 80);
    rig.from_task(&client, call().syn());
    rig.from_task(&backends[0], backends[0].to("10.0.16.3").tcp(80, 40_000).syn().ack(1));
    rig.from_task(&client, call().seq(1).ack(1));
    // Out of the window, or forged: the backend itself answers it with a challenge (RFC 5961, 4.2).
    let outcome = rig.from_task(&client, call().syn().seq(77_777));
    assert_eq!((whom(&outcome), outcome.new_flows.len(), outcome.lost_flows.len()), (backends[0].mac.to_vec(), 0, 0));
    assert_eq!(whom(&rig.from_task(&client, call().seq(1).ack(1).payload(b"on"))), backends[0].mac);
}

#[test]
fn both_sides_may_close_at_once_and_the_port_is_used_again() {
    let Some((mut rig, client, backends)) = three() else { return };
    let call = || client.to(VIP).tcp(40_000, 80);
    let answer = || backends[0].to("10.0.16.3").tcp(80, 40_000);
    rig.from_task(&client, call().syn());
    rig.from_task(&backends[0], answer().syn().ack(1));
    // The FINs cross; each is acknowledged behind the other's.
    rig.from_task(&client, call().seq(1).fin().ack(1));
    let fin = answer().seq(1).fin().ack(1);
    rig.from_task(&backends[0], &fin).sent(&client.gets(VIP).tcp(80, 40_000).seq(1).fin().ack(1));
    assert_eq!(whom(&rig.from_task(&client, call().seq(2).ack(2))), backends[0].mac);
    let last = answer().seq(2).ack(2);
    rig.from_task(&backends[0], &last).sent(&client.gets(VIP).tcp(80, 40_000).seq(2).ack(2));
    // TIME_WAIT or not: a SYN is a new connection, and takes the next turn.
    assert_eq!(whom(&rig.from_task(&client, call().syn().seq(9_000))), backends[1].mac);
    let taken = backends[1].to("10.0.16.3").tcp(80, 40_000).syn().ack(9_001);
    rig.from_task(&backends[1], &taken).sent(&client.gets(VIP).tcp(80, 40_000).syn().ack(9_001));
}

#[test]
fn a_half_open_connection_keeps_its_backend_while_it_is_tried() {
    let Some((mut rig, client, backends)) = three() else { return };
    for _ in 0..3 {
        assert_eq!(whom(&rig.from_task(&client, client.to(VIP).tcp(40_000, 80).syn())), backends[0].mac);
    }
    let reset = client.to(VIP).tcp(40_000, 80).rst().seq(1);
    assert_eq!(whom(&rig.from_task(&client, &reset)), backends[0].mac, "the caller gives up");
    assert_eq!(whom(&rig.from_task(&client, client.to(VIP).tcp(40_000, 80).syn().seq(5))), backends[1].mac);
}

/// The sweeper's mark on all entries of a backend that is gone.
fn gone(rig: &mut Rig, task: &Task) {
    for (key, flow) in rig.flows().into_iter().filter(|(_, flow)| flow.backend == task.number) {
        rig.put_flow(key, Entry { flags: flow.flags | flow_flag::DEAD, ..flow });
    }
}

#[test]
fn a_connection_whose_backend_is_gone_is_reset_both_ways() {
    let Some((mut rig, client, backends)) = three() else { return };
    rig.from_task(&client, client.to(VIP).tcp(40_000, 80).syn());
    gone(&mut rig, &backends[0]);
    let data = client.to(VIP).tcp(40_000, 80).seq(1).ack(77).payload(b"x");
    let rst = client.gets(VIP).dont_fragment().tcp(80, 40_000).rst().seq(77).window(any());
    rig.from_task(&client, &data).refused(DropReason::BackendGone, &rst);
    // It was not gone after all, or its last words are late.
    let answer = backends[0].to("10.0.16.3").tcp(80, 40_000).seq(5).ack(88).payload(b"y");
    let rst = backends[0].gets("10.0.16.3").dont_fragment().tcp(40_000, 80).rst().seq(88).window(any());
    rig.from_task(&backends[0], &answer).refused(DropReason::BackendGone, &rst);
}

#[test]
fn datagrams_whose_backend_is_gone_choose_again_with_the_next() {
    let Some((mut rig, client, backends)) = three() else { return };
    let ask = |head: Frame| head.udp(40_000, 53).payload(b"?");
    assert_eq!(whom(&rig.from_task(&client, ask(client.to(VIP)))), backends[0].mac);
    gone(&mut rig, &backends[0]);
    for _ in 0..2 {
        assert_eq!(whom(&rig.from_task(&client, ask(client.to(VIP)))), backends[1].mac);
    }
    let call = || eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE).udp(40_000, 8080).payload(b"?");
    let of_call = |(key, flow): &(FlowKey<[u8; 4]>, Entry)| key.dport == 8080 && flow.flags & flow_flag::REVERSE == 0;
    let serves = |rig: &mut Rig| {
        assert!(rig.from_uplink(call()).drops.is_empty());
        rig.flows().into_iter().find(of_call).expect("the call is remembered").1.backend
    };
    let first = serves(&mut rig);
    assert_eq!(serves(&mut rig), first);
    let task = backends.iter().find(|task| task.number == first).unwrap().clone();
    gone(&mut rig, &task);
    let second = serves(&mut rig);
    assert_ne!(first, second);
}

#[test]
fn one_socket_asks_many_and_each_keeps_its_own() {
    let Some((mut rig, client, backends)) = three() else { return };
    rig.service("10.0.16.9", &[&backends[2]]);
    let ask = |dst: &str, port| client.to(dst).udp(40_000, port).payload(b"?");
    // Two VIPs, another port, a task itself, and the outside: one source port, five flows.
    for _ in 0..3 {
        assert_eq!(whom(&rig.from_task(&client, ask(VIP, 53))), backends[0].mac);
        assert_eq!(whom(&rig.from_task(&client, ask(VIP, 54))), backends[1].mac);
        rig.from_task(&client, ask("10.0.16.9", 53))
            .tunnelled(&backends[2].gets("10.0.16.3").udp(40_000, 53).payload(b"?"));
        rig.from_task(&client, ask("10.0.16.5", 55)).sent(&backends[1].gets("10.0.16.3").udp(40_000, 55).payload(b"?"));
        assert!(rig.from_task(&client, ask(CLIENT, 53)).drops.is_empty());
    }
    let answer = |task: &Task, port| task.to("10.0.16.3").udp(port, 40_000).payload(b"!");
    rig.from_task(&backends[0], answer(&backends[0], 53)).sent(&client.gets(VIP).udp(53, 40_000).payload(b"!"));
    rig.from_task(&backends[1], answer(&backends[1], 54)).sent(&client.gets(VIP).udp(54, 40_000).payload(b"!"));
    rig.from_task(&backends[1], answer(&backends[1], 55)).sent(&client.gets("10.0.16.5").udp(55, 40_000).payload(b"!"));
    rig.from_overlay(PEER_2, 4_097, answer(&backends[2], 53))
        .sent(&client.gets("10.0.16.9").udp(53, 40_000).payload(b"!"));
}

#[test]
fn every_packet_counts_from_the_first_on() {
    let Some((mut rig, client, _)) = three() else { return };
    let bytes_of = |rig: &Rig, src: [u8; 4]| -> Vec<(u32, u64)> {
        let of = |(key, flow): (FlowKey<[u8; 4]>, Entry)| {
            (key.src == src && flow.packets != 0).then_some((flow.packets, flow.bytes))
        };
        rig.flows().into_iter().filter_map(of).collect()
    };
    let head = 14 + header_len() as u64 + 8;
    // A VIP, a published port, the outside: a datagram of 100 bytes, then one of 500.
    for (dst, port) in [(VIP, 53), ("192.0.2.1", 8080), (CLIENT, 53)] {
        let datagram = |size| client.to(dst).udp(40_000, port).payload_of(size);
        rig.from_task(&client, datagram(100));
        assert_eq!(bytes_of(&rig, client.addr), [(1, 100 + head)], "to {dst}");
        rig.from_task(&client, datagram(500));
        assert_eq!(bytes_of(&rig, client.addr), [(2, 600 + 2 * head)], "to {dst}");
        for (key, _) in rig.flows() {
            rig.forget(key);
        }
    }
    // From outside, for a task here and for one elsewhere: with XDP first, the driver's hook decides and TC counts.
    for port in 40_000..40_003 {
        let call = || eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE).udp(port, 8080).payload_of(100);
        rig.from_uplink(call());
        rig.from_uplink(call());
    }
    assert_eq!(bytes_of(&rig, [198, 51, 100, 9]), [(2, 200 + 2 * head); 3]);
}

/// All entries are as if nothing had come for a month.
fn a_month_passes(rig: &mut Rig) {
    for (key, flow) in rig.flows() {
        rig.put_flow(key, Entry { last_seen_s: flow.last_seen_s.saturating_sub(30 * 86_400), ..flow });
    }
}

#[test]
fn an_idle_connection_goes_on_whichever_of_its_entries_is_lost() {
    for is_reverse in [false, true] {
        let Some((mut rig, client, backends)) = three() else { return };
        let call =
            |dst: &str, ports: [u16; 2]| client.to(dst).tcp(ports[0], ports[1]).seq(1).ack(1).payload(b"still there?");
        for (dst, called, target, first_port) in [(VIP, 80, 80, 40_000), ("192.0.2.1", 8080, 80, 41_000)] {
            for port in first_port..first_port + 3 {
                let first = whom(&rig.from_task(&client, client.to(dst).tcp(port, called).syn()));
                let Some(backend) = backends[..2].iter().find(|task| task.mac.to_vec() == first) else { continue };
                let answer = || backend.to("10.0.16.3").tcp(target, port);
                rig.from_task(backend, answer().syn().ack(1));
                rig.from_task(&client, call(dst, [port, called]));
                a_month_passes(&mut rig);
                evict(&mut rig, is_reverse);
                assert_eq!(whom(&rig.from_task(&client, call(dst, [port, called]))), first, "{dst}:{called}");
                let wanted = client.gets(dst).tcp(called, port).seq(9).ack(13).payload(b"yes");
                rig.from_task(backend, answer().seq(9).ack(13).payload(b"yes")).sent(&wanted);
            }
        }
    }
}

#[test]
fn an_idle_connection_between_nodes_goes_on_whichever_of_its_entries_is_lost() {
    for is_reverse in [false, true] {
        let Some((mut rig, client, backends)) = three() else { return };
        let there = &backends[2];
        let call = |port| client.to(VIP).tcp(port, 80);
        let from_there = |port| eth(mac::GATEWAY, client.mac).ipv4(there.addr, client.addr).tcp(80, port);
        let mut port = 40_000;
        while whom(&rig.from_task(&client, call(port).syn())) != there.mac {
            port += 1;
        }
        rig.from_overlay(PEER_2, 4_097, from_there(port).syn().ack(1));
        rig.from_task(&client, call(port).seq(1).ack(1));
        a_month_passes(&mut rig);
        evict(&mut rig, is_reverse);
        assert_eq!(whom(&rig.from_task(&client, call(port).seq(1).ack(1).payload(b"still there?"))), there.mac);
        rig.from_overlay(PEER_2, 4_097, from_there(port).seq(9).ack(13))
            .sent(&client.gets(VIP).tcp(80, port).seq(9).ack(13));
    }
}

#[test]
fn an_idle_connection_from_outside_goes_on_whichever_of_its_entries_is_lost() {
    for (is_reverse, by_peer) in [(false, false), (true, false), (false, true), (true, true)] {
        let Some(mut rig) = Rig::new() else { return };
        let backends = [rig.task_here("10.0.16.4"), rig.task_here("10.0.16.5")];
        let service = rig.service(VIP, &[&backends[0], &backends[1]]);
        rig.publish(&service, protocol::TCP, 8080, 80);
        // The second turn's. At the owner the ingress node names it: after a loss of its own perhaps another one.
        let (named, task) = (|at: usize| mac::of(mac::KIND_ENDPOINT, backends[at].number), &backends[1]);
        let call = |port, at| match by_peer {
            true => eth(ROUTER_MAC, named(at)).ipv4(CLIENT, PEER_2).tcp(port, 8080),
            false => eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE).tcp(port, 8080),
        };
        let arrives = |rig: &mut Rig, frame: Frame| match by_peer {
            true => rig.from_overlay(PEER_2, vni::REQUEST_WIRE, frame),
            false => rig.from_uplink(frame),
        };
        arrives(&mut rig, call(39_999, 0).syn());
        assert_eq!(whom(&arrives(&mut rig, call(40_000, 1).syn())), task.mac);
        let answer = || task.to(CLIENT).tcp(80, 40_000);
        rig.from_task(task, answer().syn().ack(1));
        arrives(&mut rig, call(40_000, 1).seq(1).ack(1));
        a_month_passes(&mut rig);
        evict(&mut rig, is_reverse);
        let more = call(40_000, 1).seq(1).ack(1).payload(b"still there?");
        assert_eq!(whom(&arrives(&mut rig, more)), task.mac, "lost: answers' {is_reverse}, by a peer {by_peer}");
        let outcome = rig.from_task(task, answer().seq(9).ack(13).payload(b"yes"));
        if by_peer {
            let inner = eth(mac::GATEWAY, ROUTER_MAC).ipv4(PEER_2, CLIENT).tcp(8080, 40_000).seq(9).ack(13);
            outcome.tunnelled(&inner.payload(b"yes"));
        } else {
            let wanted = eth(UPLINK_MAC, ROUTER_MAC).ipv4(HERE, CLIENT).tcp(8080, 40_000).seq(9).ack(13);
            outcome.sent(&wanted.payload(b"yes"));
        }
    }
}

#[test]
fn an_ingress_node_keeps_its_entry_until_an_answer_ends_the_connection() {
    for ends in [false, true] {
        let Some(mut rig) = Rig::new() else { return };
        let there = rig.task_there(2, "10.0.16.6");
        let service = rig.service(VIP, &[&there]);
        rig.publish(&service, protocol::TCP, 8080, 80);
        let call = || eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE).tcp(40_000, 8080);
        let answer = || eth(mac::GATEWAY, ROUTER_MAC).ipv4(HERE, CLIENT).tcp(8080, 40_000);
        rig.from_uplink(call().syn());
        rig.from_overlay(PEER_2, vni::REPLY_WIRE, answer().syn().ack(1));
        rig.from_uplink(call().seq(1).ack(1));
        let last = if ends { answer().seq(1).rst().ack(1) } else { answer().seq(1).ack(1) };
        rig.from_overlay(PEER_2, vni::REPLY_WIRE, last);
        let (key, flow) = rig.flows().into_iter().next().expect("one entry");
        let swept = rig.sweep(&key, order::EXPIRE, flow.last_seen_s + 30 * 86_400);
        assert_eq!(swept, i32::from(ends), "after a month of silence");
    }
}
