//! Fragments through every hook: a datagram of 4 KB cut by its sender arrives in pieces that fit together again, from whom it should come.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use mesh_common::parse::protocol;
use mesh_common::schema::rewrite;
use mesh_common::verdict::DropReason;
use mesh_common::wire::{mac, vni};
use mesh_lab::{Capture, eventually};
use mesh_packet::{Frame, any, eth};
use mesh_tests::rig::{self, Action, HERE, MESH0_MAC, Outcome, PEER_2, ROUTER_MAC, Rig, Service, Task, UPLINK_MAC};

const VIP: &str = "10.0.16.2";
const CLIENT: &str = "198.51.100.9";
/// What senders cut to.
const MTU: usize = 1_400;

/// A datagram of 4 KB, each with an identification of its own.
fn large(head: Frame, id: u16, sport: u16, dport: u16) -> Frame {
    head.id(id).udp(sport, dport).payload_of(4_000)
}

/// Its pieces as their sender makes them.
fn cut(whole: &Frame) -> Vec<Vec<u8>> {
    rig::cut(whole, MTU)
}

fn published(rig: &mut Rig, task: &Task) -> Service {
    let service = rig.service(VIP, &[task]);
    rig.publish(&service, protocol::UDP, 8080, 80);
    service
}

/// Runs every piece of one datagram in order; each must leave as the same piece of the other.
#[track_caller]
fn pieces(rig: &mut Rig, sent: &Frame, wanted: &Frame, run: impl Fn(&mut Rig, &Vec<u8>) -> Outcome, is_inside: bool) {
    for (n, (piece, wanted)) in cut(sent).iter().zip(cut(wanted)).enumerate() {
        let outcome = run(rig, piece);
        assert_eq!((&outcome.action, &outcome.drops), (&Action::Redirect, &vec![]), "piece {n}");
        // Behind the outer headers, where the programs wrote them.
        let from = if is_inside && !outcome.is_keyed && outcome.frame.len() == wanted.len() + 50 { 50 } else { 0 };
        assert_eq!(outcome.frame[from..], wanted[..], "piece {n}");
    }
}

#[test]
fn between_tasks_here_and_back() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    rig.service(VIP, &[&backend]);
    let (sent, wanted) = (large(client.to(VIP), 7, 40000, 80), large(backend.gets("10.0.16.3"), 7, 40000, 80));
    pieces(&mut rig, &sent, &wanted, |rig, piece| rig.from_task(&client, piece), false);
    let (sent, wanted) = (large(backend.to("10.0.16.3"), 9, 80, 40000), large(client.gets(VIP), 9, 80, 40000));
    pieces(&mut rig, &sent, &wanted, |rig, piece| rig.from_task(&backend, piece), false);
}

#[test]
fn between_nodes_and_back() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_there(2, "10.0.16.4"));
    rig.service(VIP, &[&backend]);
    let (sent, wanted) = (large(client.to(VIP), 7, 40000, 80), large(backend.gets("10.0.16.3"), 7, 40000, 80));
    pieces(&mut rig, &sent, &wanted, |rig, piece| rig.from_task(&client, piece), true);
    let back = eth(mac::GATEWAY, client.mac).ipv4(backend.addr, client.addr);
    let (sent, wanted) = (large(back, 9, 80, 40000), large(client.gets(VIP), 9, 80, 40000));
    pieces(&mut rig, &sent, &wanted, |rig, piece| rig.from_overlay(PEER_2, 4_097, piece), false);
}

#[test]
fn from_outside_to_a_published_port_and_back() {
    let Some(mut rig) = Rig::new() else { return };
    let backend = rig.task_here("10.0.16.4");
    published(&mut rig, &backend);
    let inward = eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE);
    let (sent, wanted) = (large(inward, 7, 40000, 8080), large(backend.gets(CLIENT), 7, 40000, 80));
    pieces(&mut rig, &sent, &wanted, |rig, piece| rig.from_uplink(piece), false);
    let outward = eth(UPLINK_MAC, ROUTER_MAC).ipv4(HERE, CLIENT);
    let (sent, wanted) = (large(backend.to(CLIENT), 9, 80, 40000), large(outward, 9, 8080, 40000));
    pieces(&mut rig, &sent, &wanted, |rig, piece| rig.from_task(&backend, piece), false);
}

#[test]
fn by_the_ingress_node_to_the_owner_and_back() {
    let Some(mut rig) = Rig::new() else { return };
    let there = rig.task_there(2, "10.0.16.4");
    published(&mut rig, &there);
    let inward = eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE);
    let request = eth(ROUTER_MAC, mac::of(mac::KIND_ENDPOINT, there.number)).ipv4(CLIENT, HERE);
    let (sent, wanted) = (large(inward, 7, 40000, 8080), large(request, 7, 40000, 8080));
    pieces(&mut rig, &sent, &wanted, |rig, piece| rig.from_uplink(piece), true);
    let reply = eth(mac::GATEWAY, ROUTER_MAC).ipv4(HERE, CLIENT);
    let outward = eth(UPLINK_MAC, ROUTER_MAC).ipv4(HERE, CLIENT);
    let (sent, wanted) = (large(reply, 9, 8080, 40000), large(outward, 9, 8080, 40000));
    pieces(&mut rig, &sent, &wanted, |rig, piece| rig.from_overlay(PEER_2, vni::REPLY_WIRE, piece), false);
}

#[test]
fn at_the_owner_and_back() {
    let Some(mut rig) = Rig::new() else { return };
    let backend = rig.task_here("10.0.16.4");
    published(&mut rig, &backend);
    let request = eth(ROUTER_MAC, mac::of(mac::KIND_ENDPOINT, backend.number)).ipv4(CLIENT, PEER_2);
    let (sent, wanted) = (large(request, 7, 40000, 8080), large(backend.gets(CLIENT), 7, 40000, 80));
    pieces(&mut rig, &sent, &wanted, |rig, piece| rig.from_overlay(PEER_2, vni::REQUEST_WIRE, piece), false);
    let reply = eth(mac::GATEWAY, ROUTER_MAC).ipv4(PEER_2, CLIENT);
    let (sent, wanted) = (large(backend.to(CLIENT), 9, 80, 40000), large(reply, 9, 8080, 40000));
    pieces(&mut rig, &sent, &wanted, |rig, piece| rig.from_task(&backend, piece), true);
}

#[test]
fn of_the_host_to_a_vip() {
    let Some(mut rig) = Rig::new() else { return };
    let backend = rig.task_here("10.0.16.4");
    rig.service(VIP, &[&backend]);
    let (sent, wanted) = (
        large(eth(MESH0_MAC, MESH0_MAC).ipv4(HERE, VIP), 7, 40000, 80),
        large(backend.gets("192.0.2.1"), 7, 40000, 80),
    );
    pieces(&mut rig, &sent, &wanted, |rig, piece| rig.from_host(piece), false);
}

#[test]
fn to_the_outside_and_back() {
    let Some(mut rig) = Rig::new() else { return };
    let task = rig.task_here("10.0.16.3");
    let sent = large(task.to(CLIENT), 7, 40000, 53);
    let first = rig.from_task(&task, &cut(&sent)[0]);
    let port = first.new_flows.iter().find(|(_, flow)| flow.rewrite == rewrite::SOURCE).unwrap().1.port;
    let wanted = cut(&large(eth(any(), any()).ipv4(HERE, CLIENT).ttl(63), 7, port, 53));
    assert_eq!(first.frame[14..], wanted[0][14..]);
    for (piece, wanted) in cut(&sent).iter().zip(&wanted).skip(1) {
        let outcome = rig.from_task(&task, piece);
        assert_eq!((&outcome.drops, &outcome.frame[14..]), (&vec![], &wanted[14..]));
    }
    let inward = eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE);
    let (sent, wanted) = (large(inward, 9, 53, port), large(task.gets(CLIENT), 9, 53, 40000));
    pieces(&mut rig, &sent, &wanted, |rig, piece| rig.from_uplink(piece), false);
}

#[test]
fn a_long_echo_to_a_vip_and_a_gateway_is_answered_piece_by_piece() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, there) = (rig.task_here("10.0.16.3"), rig.task_there(2, "10.0.16.4"));
    rig.service(VIP, &[&there]);
    for (id, dst) in [(7, VIP), (8, "10.0.16.1")] {
        let ask = client.to(dst).id(id).icmp_echo(5, 1).payload_of(4_000);
        let answer = client.gets(dst).id(id).icmp_echo_reply(5, 1).payload_of(4_000);
        pieces(&mut rig, &ask, &answer, |rig, piece| rig.from_task(&client, piece), false);
    }
    let ask = eth(MESH0_MAC, MESH0_MAC).ipv4(HERE, VIP).id(9).icmp_echo(5, 1).payload_of(4_000);
    let answer = eth(MESH0_MAC, MESH0_MAC).ipv4(VIP, HERE).id(9).icmp_echo_reply(5, 1).payload_of(4_000);
    pieces(&mut rig, &ask, &answer, |rig, piece| rig.from_host(piece), false);
}

#[test]
fn a_long_echo_to_the_outside_comes_back() {
    let Some(mut rig) = Rig::new() else { return };
    let task = rig.task_here("10.0.16.3");
    let sent = task.to(CLIENT).id(7).icmp_echo(0, 1).payload_of(4_000);
    let outcome = rig.from_task(&task, &cut(&sent)[0]);
    let id = outcome.new_flows.iter().find(|(_, flow)| flow.rewrite == rewrite::SOURCE).unwrap().1.port;
    assert!(rig.from_task(&task, &cut(&sent)[1]).drops.is_empty());
    let inward = eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE).id(9).icmp_echo_reply(id, 1).payload_of(4_000);
    let wanted = task.gets(CLIENT).id(9).icmp_echo_reply(0, 1).payload_of(4_000);
    pieces(&mut rig, &inward, &wanted, |rig, piece| rig.from_uplink(piece), false);
}

#[test]
fn pieces_of_two_datagrams_may_mingle() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, backends) = (rig.task_here("10.0.16.3"), [rig.task_here("10.0.16.4"), rig.task_here("10.0.16.5")]);
    rig.service(VIP, &[&backends[0], &backends[1]]);
    let sent = [(7, 40000), (8, 40001)].map(|(id, port)| cut(&large(client.to(VIP), id, port, 80)));
    let (one, other) = (&sent[0], &sent[1]);
    for (n, (one, other)) in one.iter().zip(other).enumerate() {
        for (piece, backend) in [(one, &backends[0]), (other, &backends[1])] {
            assert_eq!(rig.from_task(&client, piece).frame[..6], backend.mac, "piece {n}");
        }
    }
}

/// Frames that arrive at a device of the rig from now on.
fn arrivals(device: &str) -> Capture {
    Capture::start(device, Path::new("/dev/null")).expect("the rig's devices can be listened to")
}

/// Until just these have arrived, in this order; what the kernel says of itself there does not count.
#[track_caller]
fn arrive(capture: &Capture, wanted: &[&Vec<u8>]) {
    let is_ours = |frame: &mesh_lab::Frame| !frame.outgoing && frame.bytes.len() > 500;
    eventually(Duration::from_secs(5), "those that waited", || {
        let seen: Vec<_> = capture.frames().into_iter().filter(is_ours).map(|frame| frame.bytes).collect();
        ensure!(seen.iter().eq(wanted.iter().copied()), "{} frames, not {}: {seen:02x?}", seen.len(), wanted.len());
        Ok(())
    })
    .unwrap();
}

/// Runs the pieces from the last one to the first, which brings along all that wait for it: it goes itself, they arrive at its link once more,
/// in the order in which they came, and go as they would have behind it.
#[track_caller]
fn turned(rig: &mut Rig, device: &str, sent: &Frame, wanted: &Frame, run: impl Fn(&mut Rig, &Vec<u8>) -> Outcome) {
    let (sent, wanted) = (cut(sent), cut(wanted));
    for early in sent[1..].iter().rev() {
        let outcome = run(rig, early);
        assert_eq!((&outcome.action, &outcome.drops), (&Action::Shot, &vec![]), "it waits");
    }
    let capture = arrivals(device);
    for (n, (piece, wanted)) in sent.iter().zip(&wanted).enumerate() {
        let outcome = run(rig, piece);
        assert_eq!(
            (&outcome.action, &outcome.drops, &outcome.frame),
            (&Action::Redirect, &vec![], wanted),
            "piece {n}"
        );
        assert_eq!(outcome.new_flows.is_empty(), n > 0, "the first one is judged before those that waited");
    }
    arrive(&capture, &sent[1..].iter().rev().collect::<Vec<_>>());
}

#[test]
fn pieces_before_the_first_one_wait_for_it() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    published(&mut rig, &backend);
    let (sent, wanted) = (large(client.to(VIP), 7, 40000, 80), large(backend.gets("10.0.16.3"), 7, 40000, 80));
    turned(&mut rig, "mv1", &sent, &wanted, |rig, piece| rig.from_task(&client, piece));
    let by_port = large(client.to("192.0.2.1"), 8, 40001, 8080);
    let wanted = large(backend.gets("10.0.16.3"), 8, 40001, 80);
    turned(&mut rig, "mv1", &by_port, &wanted, |rig, piece| rig.from_task(&client, piece));
    let inward = large(eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE), 9, 40000, 8080);
    let wanted = large(backend.gets(CLIENT), 9, 40000, 80);
    turned(&mut rig, "up0", &inward, &wanted, |rig, piece| rig.from_uplink(piece));
}

/// What is not published is the host's, all of it; and what belongs to no flow does not wait for one.
#[test]
fn the_hosts_own_pieces_reach_it() {
    let Some(mut rig) = Rig::new() else { return };
    let backend = rig.task_here("10.0.16.4");
    published(&mut rig, &backend);
    let from_outside = || eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE);
    let sent = cut(&large(from_outside(), 7, 40000, 9999));
    rig.from_uplink(&sent[1]).ignored();
    let capture = arrivals("up0");
    for piece in &sent {
        rig.from_uplink(piece).left_alone();
    }
    arrive(&capture, &[&sent[1]]);
    for of in [47, 50] {
        rig.from_uplink(from_outside().id(8).fragment(1_376, false).protocol(of).payload_of(600)).left_alone();
    }
}

/// By whichever link they came: there they are what they were.
#[test]
fn who_waited_arrives_at_its_own_link() {
    let Some(mut rig) = Rig::new() else { return };
    let backend = rig.task_here("10.0.16.4");
    published(&mut rig, &backend);
    let sent = cut(&large(eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE), 7, 40000, 8080));
    rig.from_uplink(&sent[1]).ignored();
    rig.from_other_uplink(rig.devices().tasks[3], &sent[2]).ignored();
    let captures = [arrivals("up0"), arrivals("mv4")];
    assert_eq!(rig.from_uplink(&sent[0]).action, Action::Redirect);
    for (capture, piece) in captures.iter().zip(&sent[1..]) {
        arrive(capture, &[piece]);
    }
}

/// It can't be put aside while it brings others: it goes ahead of them, around by its own link.
#[test]
fn a_first_piece_beyond_the_room_brings_them_too() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    published(&mut rig, &backend);
    let whole = client.to(VIP).id(7).udp(40000, 80).payload_of(4_000);
    let sent = rig::cut(&whole, 3_000);
    rig.from_task(&client, &sent[1]).ignored();
    let capture = arrivals("mv1");
    rig.from_task(&client, &sent[0]).ignored();
    arrive(&capture, &[&sent[0], &sent[1]]);
    for piece in &sent {
        assert_eq!(rig.from_task(&client, piece).frame[..6], backend.mac);
    }
    arrive(&capture, &[&sent[0], &sent[1]]);
}

/// Its identification may have come again: what is left of another datagram has nothing to do with this one.
#[test]
fn pieces_meet_only_those_of_their_own_time() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    published(&mut rig, &backend);
    let [old, new] = [40000, 40001].map(|port| cut(&large(client.to(VIP), 7, port, 80)));
    rig.from_task(&client, &old[2]).ignored();
    rig.fragments_came_earlier(11);
    let capture = arrivals("mv1");
    assert_eq!(rig.from_task(&client, &old[0]).action, Action::Redirect);
    arrive(&capture, &[]);
    assert_eq!(rig.waiting(), 0, "nor does it wait any longer");

    assert_eq!(rig.from_task(&client, &old[1]).action, Action::Redirect, "its ports are known");
    rig.fragments_came_earlier(11);
    rig.from_task(&client, &new[1]).ignored();
    assert_eq!(rig.waiting(), 1, "those of long ago are not its own");
    assert_eq!(rig.from_task(&client, &new[0]).action, Action::Redirect);
    arrive(&capture, &[&new[1]]);
}

/// On another CPU, while this one was put where it waits.
#[test]
fn a_piece_whose_first_one_came_meanwhile_comes_again() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    published(&mut rig, &backend);
    let sent = cut(&large(client.to(VIP), 7, 40000, 80));
    rig.out_of_order(&client, &sent[1]).ignored();
    assert_eq!(rig.waiting(), 1);
    rig.nobody_waits();
    assert_eq!(rig.from_task(&client, &sent[0]).frame[..6], backend.mac);
    let outcome = rig.out_of_order(&client, &sent[1]);
    assert_eq!((&outcome.action, &outcome.drops, &outcome.frame), (&Action::Redirect, &vec![], &sent[1]));
    assert_eq!(rig.waiting(), 0);
}

#[test]
fn four_pieces_wait_and_a_fifth_is_dropped_or_left_to_the_host() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    published(&mut rig, &backend);
    let sent = cut(&client.to(VIP).id(7).udp(40000, 80).payload_of(8_000));
    for piece in &sent[1..5] {
        rig.from_task(&client, piece).ignored();
    }
    rig.from_task(&client, &sent[5]).dropped(DropReason::Fragment);
    let sent = cut(&eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE).id(7).udp(40000, 8080).payload_of(8_000));
    for piece in &sent[1..5] {
        rig.from_uplink(piece).ignored();
    }
    rig.from_uplink(&sent[5]).left_alone();
}

/// Out of the tunnel they keep their order.
#[test]
fn a_piece_before_the_first_one_out_of_the_tunnel_is_dropped() {
    let Some(mut rig) = Rig::new() else { return };
    let backend = rig.task_here("10.0.16.4");
    published(&mut rig, &backend);
    let endpoint = mac::of(mac::KIND_ENDPOINT, backend.number);
    let sent = cut(&large(eth(ROUTER_MAC, endpoint).ipv4(CLIENT, PEER_2), 7, 40000, 8080));
    rig.from_overlay(PEER_2, vni::REQUEST_WIRE, &sent[2]).dropped(DropReason::Fragment);
    for piece in [&sent[0], &sent[2], &sent[1]] {
        let outcome = rig.from_overlay(PEER_2, vni::REQUEST_WIRE, piece);
        assert_eq!(outcome.action, Action::Redirect, "in any order behind the first");
    }
}

#[test]
fn a_piece_from_elsewhere_does_not_get_the_ports() {
    let Some(mut rig) = Rig::new() else { return };
    let (there, backend) = (rig.task_there(2, "10.0.16.9"), rig.task_here("10.0.16.4"));
    published(&mut rig, &backend);
    let endpoint = mac::of(mac::KIND_ENDPOINT, backend.number);
    let request = eth(mac::of(mac::KIND_CLIENT, there.number), endpoint).ipv4(there.addr, "192.0.2.2");
    let sent = cut(&large(request, 7, 40000, 8080));
    assert!(rig.from_overlay(PEER_2, vni::REQUEST_NODE, &sent[0]).drops.is_empty());
    rig.from_overlay([192, 0, 2, 3], vni::REQUEST_NODE, &sent[1]).dropped(DropReason::Fragment);
    assert!(rig.from_overlay(PEER_2, vni::REQUEST_NODE, &sent[1]).drops.is_empty());
}

#[test]
fn the_drivers_hook_leaves_pieces_to_tc() {
    let Some(mut rig) = Rig::with_xdp() else { return };
    let there = rig.task_there(2, "10.0.16.4");
    published(&mut rig, &there);
    rig.next_hop(2, PEER_2, 1_500);
    let call = large(eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE), 7, 40000, 8080);
    for piece in cut(&call) {
        rig.xdp_uplink(&piece).left_alone();
    }
    let inner = large(eth(mac::GATEWAY, ROUTER_MAC).ipv4(HERE, CLIENT), 9, 8080, 40000);
    for piece in cut(&inner) {
        let outer = eth(ROUTER_MAC, UPLINK_MAC).ipv4(PEER_2, HERE).udp(50_000, 4789).no_checksum();
        let frame = outer.vxlan(vni::REPLY_WIRE).payload(&piece);
        rig.xdp_uplink(&frame).left_alone();
    }
}
