//! Every packet test once more, with packets that go between nodes past mesh0 (`rig::Way`).

#[path = "packet_again.rs"]
mod again;
#[path = "packet_checksums.rs"]
mod checksums;
#[path = "packet_connections.rs"]
mod connections;
#[path = "packet_flood.rs"]
mod flood;
#[path = "packet_fragments.rs"]
mod fragments;
#[path = "packet_icmp.rs"]
mod icmp;
#[path = "packet_ingress.rs"]
mod ingress;
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
use mesh_common::wire::{mac, vni};
use mesh_packet::{any, eth};
use mesh_tests::rig::{HERE, PEER_2, ROUTER_MAC, Rig};

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
fn what_does_not_fit_the_path_is_left_to_mesh0() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, _there) = (rig.task_here("10.0.16.3"), rig.task_there(2, "10.0.16.4"));
    // 1500 outside are 1450 inside: 20 IPv4, 8 UDP.
    let datagram = |size: usize| client.to("10.0.16.4").udp(40000, 80).payload_of(size);
    assert!(!rig.from_task(&client, datagram(1_422)).is_keyed);
    assert!(rig.from_task(&client, datagram(1_423)).is_keyed);
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
    let v6 = eth(mac::GATEWAY, here.mac).ipv6([0x20; 16], [0x21; 16]).tcp(40000, 80).syn();
    let tunnelled = |frame: mesh_packet::Frame| frame.udp(50_000, 4789).no_checksum().vxlan(4097);
    rig.from_uplink(tunnelled(outer()).carrying(&inner)).sent(&inner);
    for (what, frame) in [
        ("congestion that must be told inside", tunnelled(outer().tos(0x03)).carrying(&inner)),
        ("another family", tunnelled(outer()).carrying(&v6)),
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
    outcome.hook = mesh_common::verdict::Hook::FromOverlay;
    outcome.dropped(mesh_common::verdict::DropReason::UnknownVni);
}
