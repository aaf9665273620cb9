//! Connections in all that happens to them: lost entries, ports used again, closing from both sides, SYNs out of place, backends that are gone.

use mesh_common::parse::protocol;
use mesh_common::schema::{Flow, FlowKey, Frontend, FrontendKey, algorithm, flow_flag};
use mesh_common::verdict::DropReason;
use mesh_packet::{Frame, any, eth};
use mesh_tests::rig::{HERE, Outcome, PEER_2, ROUTER_MAC, Rig, Task, UPLINK_MAC};

const VIP: &str = "10.0.16.2";
const CLIENT: &str = "198.51.100.9";

type Key = FlowKey<[u8; 4]>;
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
        rig.delete::<Key, Entry>("FLOWS4", key);
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
    let frontend = rig.read::<FrontendKey<[u8; 4]>, Frontend<[u8; 4]>>("FRONTENDS4").get(&key, 0).unwrap();
    rig.put("FRONTENDS4", key, Frontend { algorithm: algorithm::MAGLEV, ..frontend });
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
        rig.put("FLOWS4", key, Entry { flags: flow.flags | flow_flag::DEAD, ..flow });
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
    let of_call = |(key, flow): &(Key, Entry)| key.dport == 8080 && flow.flags & flow_flag::REVERSE == 0;
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
