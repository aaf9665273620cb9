//! What the programs tell of packets while somebody listens, and that they tell nothing else: drops with their reason, each Nth verdict, a bounded
//! number a second.

use mesh_common::parse::protocol;
use mesh_common::schema::{Config, EVENTS_A_SECOND, Event, algorithm, deliver};
use mesh_common::verdict::{DropReason, Hook};
use mesh_common::wire::{mac, vni};
use mesh_packet::eth;
use mesh_tests::rig::{Action, HERE, PEER_2, ROUTER_MAC, Rig, RunOptions, Task, UPLINK_MAC, address_16, spoken};
use mesh_userspace::kernel::bpf::{Events, clock};

const VIP: &str = "10.0.16.2";
/// Outside, behind the router.
const CLIENT: &str = "198.51.100.9";

/// A client here, a backend on node 2, the service between them, and the reading end.
fn watched() -> Option<(Rig, Task, Task, Events)> {
    let mut rig = Rig::new()?;
    let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_there(2, "10.0.16.4"));
    rig.service(VIP, &[&backend]);
    let events = Events::open(|name| rig.map_data(name)).expect("the maps are there");
    Some((rig, client, backend, events))
}

fn listen(rig: &mut Rig, sample: u32, for_s: u32) {
    rig.configure(|config| (config.watch_sample, config.watch_until_s) = (sample, clock::now_s() + for_s));
}

fn taken(events: &mut Events) -> Vec<Event> {
    let mut told = Vec::new();
    events.take(|event| told.push(event));
    told
}

#[test]
fn nobody_listens_and_nothing_is_told() {
    let Some((mut rig, client, _, mut events)) = watched() else { return };
    rig.from_task(&client, client.to("239.1.2.3").udp(40_000, 80)).dropped(DropReason::Multicast);
    rig.from_task(&client, client.to(VIP).tcp(40_000, 80).syn());
    assert_eq!(taken(&mut events), []);
}

#[test]
fn a_drop_is_told_with_its_reason_and_its_packet() {
    let Some((mut rig, client, _, mut events)) = watched() else { return };
    listen(&mut rig, 0, 60);
    let frame = client.to("239.1.2.3").udp(40_000, 80);
    rig.from_task(&client, &frame).dropped(DropReason::Multicast);
    rig.from_task(&client, client.to(VIP).tcp(40_000, 80).syn());
    let told = taken(&mut events);
    let [event] = told[..] else { panic!("one drop, and no verdict was asked for: {told:?}") };
    assert_eq!((event.hook, event.reason), (Hook::FromTask as u8, DropReason::Multicast as u8));
    assert_eq!((event.src, event.dst), (address_16(client.addr), address_16([239, 1, 2, 3])));
    assert_eq!((event.sport, event.dport, event.protocol), (40_000, 80, 17));
    assert_eq!((event.len as usize, event.ifindex), (spoken(&frame).bytes().len(), client.ifindex));
    assert!(event.at_ns != 0 && event.backend == 0);
}

#[test]
fn a_refusal_is_told_by_the_address_that_was_called() {
    let Some((mut rig, client, _, mut events)) = watched() else { return };
    rig.service("10.0.16.9", &[]);
    listen(&mut rig, 0, 60);
    rig.from_task(&client, client.to("10.0.16.9").tcp(40_000, 80).syn());
    let told = taken(&mut events);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].reason, told[0].dst), (DropReason::NoBackend as u8, address_16([10, 0, 16, 9])));
}

#[test]
fn each_nth_verdict_is_told_as_the_packet_came() {
    let Some((mut rig, client, backend, mut events)) = watched() else { return };
    listen(&mut rig, 1, 60);
    rig.from_task(&client, client.to(VIP).tcp(40_000, 80).syn());
    let told = taken(&mut events);
    let [event] = told[..] else { panic!("one verdict: {told:?}") };
    assert_eq!((event.src, event.dst), (address_16(client.addr), address_16([10, 0, 16, 2])));
    assert_eq!((event.reason, event.deliver, event.node), (0, deliver::TUNNEL, 2));
    assert_eq!((event.backend, event.tcp_flags), (backend.number, 2));

    rig.from_task(&client, client.to("10.0.16.4").udp(40_000, 80));
    let told = taken(&mut events);
    assert_eq!(told.len(), 1, "a task called by its own address, too: {told:?}");
    assert_eq!((told[0].backend, told[0].deliver, told[0].node), (backend.number, deliver::TUNNEL, 2));

    listen(&mut rig, 10, 60);
    for _ in 0..200 {
        rig.from_task(&client, client.to(VIP).tcp(40_000, 80).ack(1));
    }
    let told = taken(&mut events);
    // The test may change processors in its midst, and each counts by itself.
    assert!((15..=25).contains(&told.len()), "{} of 200", told.len());
    assert!(told.iter().all(|event| event.reason == 0 && event.backend == backend.number), "{told:?}");
}

#[test]
fn past_the_deadline_the_programs_fall_silent_by_themselves() {
    let Some((mut rig, client, _, mut events)) = watched() else { return };
    rig.configure(|config| (config.watch_sample, config.watch_until_s) = (1, clock::now_s().saturating_sub(2)));
    rig.from_task(&client, client.to(VIP).tcp(40_000, 80).syn());
    rig.from_task(&client, client.to("239.1.2.3").udp(40_000, 80)).dropped(DropReason::Multicast);
    assert_eq!(taken(&mut events), []);
    let config: Config = rig.get("CONFIG", 0);
    assert_eq!((config.watch_sample, config.watch_until_s), (0, 0), "nothing is left to be paid for");
}

#[test]
fn a_flood_of_drops_is_told_in_part_and_counted_whole() {
    const DROPS: u32 = 3 * EVENTS_A_SECOND;
    let Some((mut rig, client, _, mut events)) = watched() else { return };
    listen(&mut rig, 0, 60);
    let frame = client.to("239.1.2.3").udp(40_000, 80);
    let options = RunOptions { ifindex: client.ifindex, repeat: DROPS, ..RunOptions::default() };
    rig.run(Hook::FromTask, &frame, options);
    let (told, lost) = (taken(&mut events).len() as u64, events.lost().expect("it can be read"));
    assert_eq!(told + lost, u64::from(DROPS), "told {told}, lost {lost}");
    assert!(lost != 0 && told >= u64::from(EVENTS_A_SECOND) / 2, "told {told}, lost {lost}");
}

/// A node that calls from outside enter by, the task at the peer.
fn ingress() -> Option<(Rig, Task, Events)> {
    let mut rig = Rig::new()?;
    let backend = rig.task_there(2, "10.0.16.4");
    rig.next_hop(2, PEER_2, 1_500);
    let service = rig.service(VIP, &[&backend]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    let events = Events::open(|name| rig.map_data(name)).expect("the maps are there");
    Some((rig, backend, events))
}

#[test]
fn each_nth_packet_that_the_driver_would_send_on_is_told_by_tc() {
    let Some((mut rig, backend, mut events)) = ingress() else { return };
    let call = || eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE).tcp(40_000, 8080);
    assert!(rig.from_wire_with_xdp(call().syn()).1, "nobody listens");
    listen(&mut rig, 1, 60);
    assert!(!rig.from_wire_with_xdp(call().ack(1)).1, "each is asked for");
    let told = taken(&mut events);
    let [event] = told[..] else { panic!("one verdict: {told:?}") };
    assert_eq!((event.hook, event.deliver, event.node), (Hook::FromUplink as u8, deliver::TUNNEL, 2));
    assert_eq!((event.backend, event.dport), (backend.number, 8080));

    listen(&mut rig, 10, 60);
    let sent_on = (0..200).filter(|_| rig.from_wire_with_xdp(call().ack(1)).1).count();
    let told = taken(&mut events).len();
    // As above: between the two hooks it may change processors, too.
    assert!((195..=200).contains(&(sent_on + told)), "{sent_on} sent on, {told} told");
    assert!((15..=25).contains(&told), "{told} of 200");

    rig.configure(|config| (config.watch_sample, config.watch_until_s) = (1, clock::now_s().saturating_sub(2)));
    assert!(rig.from_wire_with_xdp(call().ack(1)).1, "who listened went without a word");
    let config: Config = rig.get("CONFIG", 0);
    assert_eq!((config.watch_sample, config.watch_until_s), (0, 0));
}

#[test]
fn answers_that_leave_by_an_ingress_node_are_told() {
    let Some((mut rig, _, mut events)) = ingress() else { return };
    let client = rig.task_here("10.0.16.3");
    listen(&mut rig, 1, 60);
    for (vni, last_hop, to, way, number) in [
        (vni::REPLY_WIRE, ROUTER_MAC, CLIENT, deliver::UPLINK, 0),
        (vni::REPLY_NODE, mac::of(mac::KIND_CLIENT, client.number), "10.0.16.3", deliver::TASK, client.number),
        (vni::REPLY_NODE, mac::HOST, "192.0.2.1", deliver::HOST, 0),
    ] {
        let answer = eth(mac::GATEWAY, last_hop).ipv4(HERE, to).tcp(8080, 40_000).ack(1);
        let outcome = rig.from_overlay(PEER_2, vni, answer);
        assert!(outcome.drops.is_empty(), "{outcome:?}");
        let told = taken(&mut events);
        let [event] = told[..] else { panic!("one verdict: {told:?}") };
        assert_eq!((event.hook, event.deliver, event.backend), (Hook::FromOverlay as u8, way, number));
        assert_eq!((event.src, event.sport, event.node), (address_16(HERE), 8080, 0));
    }
}

/// By TC it would leave an entry, and where the ring changes the next one would go elsewhere.
#[test]
fn what_the_driver_sends_by_the_ring_goes_on_whoever_listens() {
    let Some(mut rig) = Rig::new() else { return };
    let backend = rig.task_there(2, "10.0.16.4");
    rig.next_hop(2, PEER_2, 1_500);
    let mut service = rig.service(VIP, &[&backend]);
    service.frontend.algorithm = algorithm::MAGLEV;
    rig.publish(&service, protocol::TCP, 8080, 80);
    listen(&mut rig, 1, 60);
    let (outcome, is_sent_on) =
        rig.from_wire_with_xdp(eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE).tcp(40_000, 8080));
    assert!(is_sent_on && outcome.new_flows.is_empty(), "{outcome:?}");
}

#[test]
fn an_error_that_is_carried_is_no_answer() {
    let Some((mut rig, backend, mut events)) = ingress() else { return };
    rig.from_uplink(eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE).tcp(40_000, 8080).syn());
    listen(&mut rig, 1, 60);
    let call = eth(mac::GATEWAY, backend.mac).ipv4(CLIENT, HERE).tcp(40_000, 8080).seq(1);
    let error = eth(mac::GATEWAY, ROUTER_MAC).ipv4(HERE, CLIENT).icmp_error(3, 1, 0).about(&call);
    let outcome = rig.from_overlay(PEER_2, vni::REPLY_WIRE, error);
    assert_eq!((outcome.action, outcome.drops.len()), (Action::Redirect, 0), "{outcome:?}");
    assert_eq!(taken(&mut events), []);
}
