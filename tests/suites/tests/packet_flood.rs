//! Past a rate of new flows they are kept apart, chosen by the ring, and come into the table once they prove themselves; on the loaded programs.

use mesh_common::flow::order;
use mesh_common::parse::protocol;
use mesh_common::schema::{Address, address_flag, flow_flag};
use mesh_common::wire::mac;
use mesh_packet::{Frame, eth};
use mesh_tests::rig::{HERE, Outcome, PEER_2, ROUTER_MAC, Rig, Task, UPLINK_MAC};

const VIP: &str = "10.0.16.2";
/// The client outside, behind the router.
const CLIENT: &str = "198.51.100.9";

/// A client and two backends here, and the service in front of them.
fn two_behind_a_vip() -> Option<(Rig, Task, [Task; 2])> {
    let mut rig = Rig::new()?;
    let client = rig.task_here("10.0.16.3");
    let backends = [rig.task_here("10.0.16.4"), rig.task_here("10.0.16.5")];
    rig.service(VIP, &[&backends[0], &backends[1]]);
    Some((rig, client, backends))
}

/// The one of these that a frame is addressed to.
fn receiver(outcome: &Outcome, backends: &[Task; 2]) -> usize {
    backends.iter().position(|task| outcome.frame[..6] == task.mac).expect("one of the backends")
}

/// Opens a connection to the VIP; where it went.
fn open(rig: &mut Rig, client: &Task, backends: &[Task; 2], port: u16) -> usize {
    let outcome = rig.from_task(client, client.to(VIP).tcp(port, 8000).syn());
    let at = receiver(&outcome, backends);
    outcome.sent(&backends[at].gets("10.0.16.3").tcp(port, 8000).syn());
    at
}

/// The task's answer to the handshake's first packet, from the VIP.
fn answer(rig: &mut Rig, client: &Task, backend: &Task, port: u16) {
    rig.from_task(backend, backend.to("10.0.16.3").tcp(8000, port).syn().ack(1))
        .sent(&client.gets(VIP).tcp(8000, port).syn().ack(1));
}

/// The client goes on, to the same backend.
fn go_on(rig: &mut Rig, client: &Task, backend: &Task, port: u16) {
    rig.from_task(client, client.to(VIP).tcp(port, 8000).seq(1).ack(1))
        .sent(&backend.gets("10.0.16.3").tcp(port, 8000).seq(1).ack(1));
}

/// The head of a frame from the client outside to this node.
fn call() -> Frame {
    eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE)
}

#[test]
fn below_the_threshold_nothing_is_apart_and_turns_are_strict() {
    let Some((mut rig, client, backends)) = two_behind_a_vip() else { return };
    rig.flood_is_over();
    let went: Vec<usize> = (40_000..40_064).map(|port| open(&mut rig, &client, &backends, port)).collect();
    assert!(went.windows(2).all(|pair| pair[0] != pair[1]), "{went:?}");
    assert_eq!((rig.flows().len(), rig.beside().len(), rig.spilled_and_promoted()), (128, 0, (0, 0)));
}

#[test]
fn without_a_threshold_there_is_no_flood() {
    let Some((mut rig, client, backends)) = two_behind_a_vip() else { return };
    rig.flood_is_on();
    rig.configure(|config| config.flood_threshold = 0);
    (40_000..40_020).for_each(|port| _ = open(&mut rig, &client, &backends, port));
    assert_eq!((rig.flows().len(), rig.beside().len()), (40, 0));
}

#[test]
fn a_flood_does_not_fill_the_table_and_is_answered_all_the_same() {
    let Some((mut rig, client, backends)) = two_behind_a_vip() else { return };
    let old = open(&mut rig, &client, &backends, 39_999);
    let before = rig.flows();
    let mut went = [0; 2];
    for port in 40_000..40_040 {
        rig.flood_is_on();
        let at = open(&mut rig, &client, &backends, port);
        went[at] += 1;
        answer(&mut rig, &client, &backends[at], port);
    }
    assert_eq!(rig.flows().keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>());
    assert_eq!((rig.beside().len(), rig.spilled_and_promoted()), (80, (80, 0)));
    assert!(rig.beside().values().all(|flow| flow.flags & flow_flag::SPILLED != 0));
    assert!(went[0] > 4 && went[1] > 4, "the ring spreads them: {went:?}");

    answer(&mut rig, &client, &backends[old], 39_999);
    go_on(&mut rig, &client, &backends[old], 39_999);
    assert_eq!(rig.flows().len(), 2, "who was there before needs no proof");
}

#[test]
fn the_programs_count_by_themselves() {
    let Some((mut rig, client, backends)) = two_behind_a_vip() else { return };
    rig.configure(|config| config.flood_threshold = 3);
    // How many a second a test sends is not known, but it is more; and each CPU counts for itself.
    let port = (20_000..40_000).find(|port| {
        open(&mut rig, &client, &backends, *port);
        !rig.beside().is_empty()
    });
    assert!(port.is_some_and(|port| port >= 20_003), "{port:?}");
}

#[test]
fn a_flow_that_proves_itself_comes_into_the_table_and_stays() {
    let Some((mut rig, client, backends)) = two_behind_a_vip() else { return };
    rig.flood_is_on();
    let at = open(&mut rig, &client, &backends, 40_000);
    rig.from_task(&client, client.to(VIP).tcp(40_000, 8000).seq(1).ack(1));
    assert_eq!(rig.flows().len(), 0, "an ACK that nothing was answered before proves nothing");
    answer(&mut rig, &client, &backends[at], 40_000);
    assert_eq!(rig.flows().len(), 0, "nor does the answer alone");
    go_on(&mut rig, &client, &backends[at], 40_000);
    let kept = rig.flows();
    assert_eq!((kept.len(), rig.spilled_and_promoted()), (2, (2, 2)));
    assert!(kept.values().all(|flow| flow.flags & flow_flag::SPILLED == 0), "{kept:#?}");

    // What others crowd out beside the table is a copy; the sweeper takes it away.
    assert_eq!(rig.beside().len(), 2);
    let key = *kept.keys().next().unwrap();
    assert_eq!((rig.sweep(&key, order::TIDY, 0), rig.sweep(&key, order::TIDY, 0)), (1, 0));
    assert!(rig.flows().contains_key(&key) && !rig.beside().contains_key(&key));
    answer(&mut rig, &client, &backends[at], 40_000);
    go_on(&mut rig, &client, &backends[at], 40_000);
}

#[test]
fn what_did_not_prove_itself_is_no_copy() {
    let Some((mut rig, client, backends)) = two_behind_a_vip() else { return };
    rig.flood_is_on();
    open(&mut rig, &client, &backends, 40_000);
    let key = *rig.beside().keys().next().unwrap();
    assert_eq!(rig.sweep(&key, order::TIDY, 0), 0);
    assert!(rig.beside().contains_key(&key));
}

#[test]
fn datagrams_prove_themselves_by_the_second_after_an_answer() {
    let Some((mut rig, client, backends)) = two_behind_a_vip() else { return };
    rig.flood_is_on();
    let ask = || client.to(VIP).udp(40_000, 53).payload(b"?");
    let at = receiver(&rig.from_task(&client, ask()), &backends);
    rig.from_task(&client, ask());
    assert_eq!(rig.flows().len(), 0, "saying it twice proves nothing");
    rig.from_task(&backends[at], backends[at].to("10.0.16.3").udp(53, 40_000).payload(b"!"))
        .sent(&client.gets(VIP).udp(53, 40_000).payload(b"!"));
    rig.from_task(&client, ask()).sent(&backends[at].gets("10.0.16.3").udp(40_000, 53).payload(b"?"));
    assert_eq!(rig.flows().len(), 2);
}

#[test]
fn an_entry_that_was_crowded_out_is_found_again_by_the_ring() {
    let Some((mut rig, client, backends)) = two_behind_a_vip() else { return };
    for port in 40_000..40_016 {
        rig.flood_is_on();
        let at = open(&mut rig, &client, &backends, port);
        for key in rig.beside().into_keys() {
            rig.forget_beside(key);
        }
        go_on(&mut rig, &client, &backends[at], port);
        answer(&mut rig, &client, &backends[at], port);
    }
}

#[test]
fn after_a_flood_new_flows_take_turns_in_the_table_again() {
    let Some((mut rig, client, backends)) = two_behind_a_vip() else { return };
    rig.flood_is_on();
    let at = open(&mut rig, &client, &backends, 40_000);
    rig.flood_is_over();
    let went: Vec<usize> = (40_001..40_009).map(|port| open(&mut rig, &client, &backends, port)).collect();
    assert!(went.windows(2).all(|pair| pair[0] != pair[1]), "{went:?}");
    assert_eq!((rig.flows().len(), rig.beside().len()), (16, 2));
    answer(&mut rig, &client, &backends[at], 40_000);
    go_on(&mut rig, &client, &backends[at], 40_000);
    assert_eq!(rig.flows().len(), 18, "who came in it can still prove himself");
}

#[test]
fn a_closed_connections_tuple_opens_anew_in_its_place() {
    let Some((mut rig, client, backends)) = two_behind_a_vip() else { return };
    let at = open(&mut rig, &client, &backends, 40_000);
    answer(&mut rig, &client, &backends[at], 40_000);
    rig.from_task(&client, client.to(VIP).tcp(40_000, 8000).rst());
    rig.flood_is_on();
    let at = open(&mut rig, &client, &backends, 40_000);
    answer(&mut rig, &client, &backends[at], 40_000);
    go_on(&mut rig, &client, &backends[at], 40_000);
}

#[test]
fn a_way_out_in_a_flood_is_found_back() {
    let Some((mut rig, client, _)) = two_behind_a_vip() else { return };
    rig.flood_is_on();
    let sent = client.to(CLIENT).udp(40_000, 53).payload(b"?");
    let (_, flow) = match rig.from_task(&client, &sent) {
        _ if rig.beside().len() == 2 => rig.beside().into_iter().find(|(key, _)| key.src == client.addr).unwrap(),
        outcome => panic!("two entries apart: {outcome:?}"),
    };
    assert_eq!(rig.flows().len(), 0);
    rig.from_uplink(call().udp(53, flow.port).payload(b"!")).sent(&client.gets(CLIENT).udp(53, 40_000).payload(b"!"));
}

/// Two tasks on node 2 behind port 8080.
fn two_elsewhere(rig: &mut Rig) -> [Task; 2] {
    let backends = [rig.task_there(2, "10.0.16.4"), rig.task_there(2, "10.0.16.5")];
    let service = rig.service(VIP, &[&backends[0], &backends[1]]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    rig.publish(&service, protocol::UDP, 8080, 80);
    rig.next_hop(2, PEER_2, 1_500);
    backends
}

/// The task that a frame in the tunnel names.
fn named(outcome: &Outcome, backends: &[Task; 2]) -> usize {
    let names = |task: &Task| mac::of(mac::KIND_ENDPOINT, task.number);
    // By mesh0 the frame is as it will be inside; past it, 50 bytes of outer headers come first.
    let is_named = |task: &Task| outcome.frame[..6] == names(task) || outcome.frame[50..56] == names(task);
    backends.iter().position(is_named).expect("one of the backends")
}

fn an_ingress_node_needs_no_entries(rig: &mut Rig, comes: fn(&mut Rig, Frame) -> Outcome) {
    let backends = two_elsewhere(rig);
    comes(rig, call().tcp(39_999, 8080).syn());
    let before = rig.flows().len();
    assert_eq!(before, 1);
    for port in 40_000..40_016 {
        rig.flood_is_on();
        let first = named(&comes(rig, call().tcp(port, 8080).syn()), &backends);
        assert_eq!((rig.flows().len(), rig.beside().len()), (before, 0), "a SYN leaves no trace");
        rig.flood_is_over();
        assert_eq!(named(&comes(rig, call().tcp(port, 8080).seq(1).ack(1)), &backends), first);
        let key = *rig.flows().keys().find(|key| key.sport == port).expect("a connection that goes on is remembered");
        rig.forget(key);
    }
    rig.flood_is_on();
    let segment = || call().tcp(41_000, 8080).seq(1).ack(1);
    let first = named(&comes(rig, segment()), &backends);
    assert_eq!((rig.flows().len(), rig.beside().len()), (before, 1), "what nobody can tell from real is apart");
    assert_eq!(named(&comes(rig, segment()), &backends), first);
    assert_eq!(rig.flows().len(), before + 1, "and stays when it goes on");
    // Datagrams have no handshake: each would count as a flow.
    comes(rig, call().udp(40_000, 8080).payload(b"?"));
    assert_eq!(rig.beside().len(), 2);
}

#[test]
fn an_ingress_node_needs_no_entries_in_a_flood() {
    let Some(mut rig) = Rig::new() else { return };
    an_ingress_node_needs_no_entries(&mut rig, |rig, frame| rig.from_uplink(frame));
}

#[test]
fn neither_does_its_driver() {
    let Some(mut rig) = Rig::with_xdp() else { return };
    an_ingress_node_needs_no_entries(&mut rig, |rig, frame| rig.xdp_uplink(&frame));
}

#[test]
fn an_answer_that_must_leave_by_another_link_keeps_its_entry() {
    let Some(mut rig) = Rig::new() else { return };
    two_elsewhere(&mut rig);
    rig.put_address(HERE, Address { node: 1, ifindex: 0, flags: address_flag::OWN, pad: [0; 3] });
    rig.flood_is_on();
    rig.from_uplink(call().tcp(40_000, 8080).syn());
    assert_eq!((rig.flows().len(), rig.beside().len()), (0, 1));
}

#[test]
fn a_port_used_again_in_a_flood_does_not_find_the_old_backend() {
    let Some(mut rig) = Rig::new() else { return };
    let backends = two_elsewhere(&mut rig);
    let mut moved = 0;
    for port in 40_000..40_016 {
        rig.flood_is_over();
        let old = named(&rig.from_uplink(call().tcp(port, 8080).syn()), &backends);
        rig.from_uplink(call().tcp(port, 8080).seq(1).ack(1).fin());
        rig.flood_is_on();
        let new = named(&rig.from_uplink(call().tcp(port, 8080).syn()), &backends);
        let next = named(&rig.from_uplink(call().tcp(port, 8080).seq(1).ack(1)), &backends);
        assert_eq!(next, new, "port {port}");
        moved += usize::from(new != old);
    }
    assert!(moved > 0, "turns and ring never differed: it shows nothing");
}
