//! Every packet test once more, with packets that go between nodes past mesh0 (`rig::Way`).

#[path = "packet_again.rs"]
mod again;
#[path = "packet_apart.rs"]
mod apart;
#[path = "packet_checksums.rs"]
mod checksums;
#[path = "packet_connections.rs"]
mod connections;
#[path = "packet_direct.rs"]
mod direct;
#[path = "packet_flood.rs"]
mod flood;
#[path = "packet_fragments.rs"]
mod fragments;
#[path = "packet_icmp.rs"]
mod icmp;
#[path = "packet_icmp_forged.rs"]
mod icmp_forged;
#[path = "packet_ingress.rs"]
mod ingress;
#[path = "packet_ipv6.rs"]
mod ipv6;
#[path = "packet_malformed.rs"]
mod malformed;
#[path = "packet_mtu.rs"]
mod mtu;
#[path = "packet_outside.rs"]
mod outside;
#[path = "packet_overlay.rs"]
mod overlay;
#[path = "packet_sctp.rs"]
mod sctp;
#[path = "packet_services.rs"]
mod services;
#[path = "packet_tasks.rs"]
mod tasks;

use mesh_common::schema::{Address, address_flag};
use mesh_common::verdict::{DropReason, Hook};
use mesh_common::wire::{mac, vni};
use mesh_packet::{Frame, any, eth, fragments};
use mesh_tests::rig::kernel::CHECKSUM_COMPLETE;
use mesh_tests::rig::{Dual, HERE, PEER_2, ROUTER_MAC, Rig, RunOptions};

const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A frame of the peer as it is on the wire, up to the UDP header.
fn outer() -> mesh_packet::Frame {
    eth(ROUTER_MAC, UPLINK_MAC).ipv4(PEER_2, HERE)
}

#[test]
fn the_outer_headers_name_the_network_the_flow_and_the_inner_packet() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, there) = (rig.task_here("10.0.16.3"), rig.task_there(2, "10.0.16.4"));
    let sent = client.to("10.0.16.4").id(0x1234).tos(0x03).tcp(40000, 80).syn();
    let outcome = rig.from_task(&client, &sent);
    let inner = eth(mac::GATEWAY, there.mac).ipv4("10.0.16.3", "10.0.16.4").id(0x1234).tos(0x03).tcp(40000, 80).syn();
    let headers = eth(UPLINK_MAC, ROUTER_MAC).ipv4(HERE, PEER_2).ttl(64).id(0x1234).tos(0x03);
    headers.udp(any(), 4789).no_checksum().vxlan(4097).carrying(&inner).assert_matches(&outcome.frame);
}

#[test]
fn the_outer_headers_of_ipv6_have_an_identification_each() {
    let Some((mut rig, client, there)) = over_ipv6() else { return };
    let sent = || client.to(there.addr).tos(0x03).tcp(40000, 80).syn();
    let inner = there.gets(client.addr).tos(0x03).tcp(40000, 80).syn();
    let headers = eth(UPLINK_MAC, ROUTER_MAC).ipv4(HERE, PEER_2).ttl(64).id(any()).tos(0x03);
    let wanted = headers.udp(any(), 4789).no_checksum().vxlan(4097).carrying(&inner);
    let [one, other] = [sent(), sent()].map(|sent| rig.from_task(&client.task, &sent).sent(&wanted).frame);
    assert_eq!(one[34..36], other[34..36], "a flow has one source port");
    // By chance the same once in 65,536 pairs.
    let identifications: std::collections::BTreeSet<[u8; 2]> = (0..16)
        .map(|_| rig.from_task(&client.task, sent()).frame)
        .chain([one, other])
        .map(|frame| [frame[18], frame[19]])
        .collect();
    assert!(identifications.len() > 2, "{identifications:02x?}");
}

/// A task here and one on node 2, with addresses of IPv6.
fn over_ipv6() -> Option<(Rig, Dual, Dual)> {
    let mut rig = Rig::new()?;
    let (client, there) = (rig.task_here("10.0.16.3"), rig.task_there(2, "10.0.16.4"));
    let (client, there) = (rig.dual(client, "fd00:16::3"), rig.dual(there, "fd00:16::4"));
    Some((rig, client, there))
}

#[test]
fn what_does_not_fit_the_path_is_left_to_mesh0() {
    let Some((mut rig, client, there)) = over_ipv6() else { return };
    // 1500 outside are 1450 inside: 20 or 40 of IP, 8 UDP.
    let datagram = |size: usize| client.task.to("10.0.16.4").udp(40000, 80).payload_of(size);
    assert!(!rig.from_task(&client.task, datagram(1_422)).is_keyed);
    assert!(rig.from_task(&client.task, datagram(1_423)).is_keyed);
    let datagram = |size: usize| client.to(there.addr).udp(40000, 80).payload_of(size);
    assert!(!rig.from_task(&client.task, datagram(1_402)).is_keyed);
    // Over IPv6 nothing is cut on its way: who sends it is told.
    let told = client.gets(there.addr).icmp_error(2, 0, 1_450).about(&datagram(1_403));
    rig.from_task(&client.task, datagram(1_403)).refused(DropReason::TooBig, &told);
}

/// Those of one datagram that are too long go by mesh0: by the fast way the short last one would overtake them.
#[test]
fn pieces_of_any_size_are_left_to_mesh0_at_both_ends() {
    let Some((mut rig, client, there)) = over_ipv6() else { return };
    let whole = [client.task.to("10.0.16.4"), client.to(there.addr)].map(|head| head.id(7).udp(40000, 80));
    for whole in whole.map(|head| head.payload_of(1_600)) {
        for piece in fragments(&whole, 1_400) {
            let outcome = rig.from_task(&client.task, &piece);
            assert!(outcome.is_keyed, "{} bytes", piece.len());
            assert!(rig.from_wire(PEER_2, 4_097, &piece).is_none());
        }
    }
}

#[test]
fn several_segments_go_by_the_length_of_one() {
    let Some((mut rig, client, there)) = over_ipv6() else { return };
    let options = |gso_size| RunOptions { ifindex: client.task.ifindex, gso_size, ..RunOptions::default() };
    // Behind an IP header of 20 or 40 and a TCP header of 20 (with an option 24).
    let v4 = |option: &[u8]| client.task.to("10.0.16.4").tcp(40000, 80).ack(1).tcp_option(option).payload_of(3_000);
    let v6 = |option: &[u8]| client.to(there.addr).tcp(40000, 80).ack(1).tcp_option(option).payload_of(3_000);
    for (frame, most) in [(v4(&[]), 1_410), (v4(&[1, 1, 1, 1]), 1_406), (v6(&[]), 1_390), (v6(&[1, 1, 1, 1]), 1_386)] {
        // Segments of a test run are of no kind, so the kernel makes no room for them; which way they were to go is seen.
        let outcome = rig.run(Hook::FromTask, &frame, options(most));
        assert!(!outcome.is_keyed, "{most} fit");
    }
    for (frame, most) in [(v4(&[]), 1_410), (v4(&[1, 1, 1, 1]), 1_406)] {
        assert!(rig.run(Hook::FromTask, &frame, options(most + 1)).is_keyed, "more than {most}");
    }
    for (frame, most) in [(v6(&[]), 1_390), (v6(&[1, 1, 1, 1]), 1_386)] {
        let told = client.gets(there.addr).icmp_error(2, 0, 1_450).about(&frame);
        rig.run(Hook::FromTask, &frame, options(most + 1)).refused(DropReason::TooBig, &told);
    }
}

#[test]
fn a_packet_of_ipv6_with_next_to_nothing_in_it_arrives() {
    let Some((mut rig, client, there)) = over_ipv6() else { return };
    for len in 0..6 {
        let (sent, payload) = (client.to(there.addr).protocol(47), vec![1; len]);
        let outcome = rig.from_task(&client.task, sent.payload(payload.clone()));
        assert_eq!(outcome.is_keyed, len < 4, "{len} bytes behind the IP header");
        outcome.tunnelled(&there.gets(client.addr).protocol(47).payload(payload));
    }
    if !rig.crosses_families() {
        return;
    }
    let inner = eth(mac::GATEWAY, client.task.mac).ipv6(there.addr, client.addr).protocol(47).bytes();
    assert!(rig.from_wire(PEER_2, 4_097, &inner[..53]).is_none());
    let outcome = rig.from_wire(PEER_2, 4_097, &inner).expect("the fast way takes it");
    outcome.sent(&client.gets(there.addr).protocol(47));
}

#[test]
fn what_comes_by_wire_is_ipv6_again() {
    let Some((mut rig, client, there)) = over_ipv6() else { return };
    if !rig.crosses_families() {
        return;
    }
    let sums: &[u32] = if rig.knows_complete_sums() { &[0, CHECKSUM_COMPLETE] } else { &[0] };
    let datagram = |head: Frame| head.udp(1, 2).payload(b"?");
    let segment = |head: Frame| head.tcp(1, 2).syn().mss(1_300);
    for of in [&datagram as &dyn Fn(Frame) -> Frame, &segment] {
        let inner = of(eth(mac::GATEWAY, client.task.mac).ipv6(there.addr, client.addr));
        let frame = outer().udp(50_000, 4789).no_checksum().vxlan(4097).carrying(&inner);
        for flags in sums {
            let options = RunOptions { ifindex: rig.devices().uplink, flags: *flags, ..RunOptions::default() };
            rig.run(Hook::FromUplink, &frame, options).sent(&of(client.gets(there.addr)));
        }
    }
}

#[test]
fn a_packet_with_next_to_nothing_in_it_arrives() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, there) = (rig.task_here("10.0.16.3"), rig.task_there(2, "10.0.16.4"));
    for len in 0..6 {
        let (sent, payload) = (client.to("10.0.16.4").protocol(47), vec![1; len]);
        let outcome = rig.from_task(&client, sent.payload(payload.clone()));
        let is_short = len < 4;
        assert_eq!(outcome.is_keyed, is_short, "{len} bytes behind the IP header");
        outcome.tunnelled(&there.gets("10.0.16.3").protocol(47).payload(payload));
    }
    // What comes without an IP header is mesh0's to bring, and is counted there.
    let inner = eth(mac::GATEWAY, client.mac).ipv4(there.addr, client.addr).protocol(47).bytes();
    assert!(rig.from_wire(PEER_2, 4_097, &inner[..33]).is_none());
    rig.from_wire(PEER_2, 4_097, &inner).expect("the fast way takes it").sent(&client.gets("10.0.16.4").protocol(47));
}

#[test]
fn what_the_programs_do_not_read_themselves_is_left_to_mesh0() {
    let Some(mut rig) = Rig::new() else { return };
    let (here, caller) = (rig.task_here("10.0.16.3"), rig.task_there(2, "10.0.16.4"));
    let inner = eth(mac::GATEWAY, here.mac).ipv4(caller.addr, here.addr).tcp(40000, 80).syn();
    let arp = eth(mac::GATEWAY, here.mac).arp_request(mac::GATEWAY, caller.addr, here.addr);
    let tunnelled = |frame: mesh_packet::Frame| frame.udp(50_000, 4789).no_checksum().vxlan(4097);
    rig.from_uplink(tunnelled(outer()).carrying(&inner)).sent(&inner);
    for (what, frame) in [
        ("congestion that must be told inside", tunnelled(outer().tos(0x03)).carrying(&inner)),
        ("no packet of either family", tunnelled(outer()).carrying(&arp)),
        ("IP options", tunnelled(outer().ip_options(&[1, 1, 1, 1])).carrying(&inner)),
        ("a stranger", tunnelled(eth(ROUTER_MAC, UPLINK_MAC).ipv4("192.0.2.77", HERE)).carrying(&inner)),
        ("another port", outer().udp(50_000, 4790).no_checksum().payload([0; 80])),
    ] {
        println!("{what}");
        rig.from_uplink(frame).left_alone();
    }
    println!("a peer whose packets the host's stack has to judge first");
    let flags = address_flag::TUNNEL | address_flag::BY_MESH0;
    rig.put("ADDRESSES4", PEER_2, Address { node: 2, ifindex: 0, flags, pad: [0; 3] });
    rig.from_uplink(tunnelled(outer()).carrying(&inner)).left_alone();
    rig.from_overlay(PEER_2, 4_097, &inner).sent(&inner);
}

#[test]
fn an_unknown_vni_is_dropped_as_out_of_mesh0() {
    let Some(mut rig) = Rig::new() else { return };
    let here = rig.task_here("10.0.16.3");
    let inner = eth(mac::GATEWAY, here.mac).ipv4("10.0.16.4", here.addr).tcp(40000, 80).syn();
    let mut outcome = rig.from_uplink(outer().udp(50_000, 4789).no_checksum().vxlan(vni::ECHO).carrying(&inner));
    outcome.hook = Hook::FromOverlay;
    outcome.dropped(mesh_common::verdict::DropReason::UnknownVni);
}
