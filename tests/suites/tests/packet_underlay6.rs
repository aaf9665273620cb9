//! Between nodes whose own addresses are IPv6: tunnel packets of IPv6 with packets of either family in them, written and read by the programs, and
//! left to mesh0 where they can't. Byte by byte through an independent decoder.

use mesh_common::parse::protocol;
use mesh_common::schema::{Address, Peer, address_flag};
use mesh_common::verdict::{DropReason, Hook};
use mesh_common::wire::{mac, vni};
use mesh_packet::{Frame, any, eth};
use mesh_tests::rig::kernel::CHECKSUM_COMPLETE;
use mesh_tests::rig::{Dual, HERE6, ROUTER_MAC, Rig, RunOptions, Service, UPLINK_MAC, ip6};

/// Data path address of node 2.
const PEER: &str = "2001:db8:1::2";
const STRANGER: &str = "2001:db8:1::77";
const VNI: u32 = 4_097;
const CLIENT: &str = "198.51.100.9";
const CLIENT6: &str = "2001:db8:9::9";
/// What 1500 bytes outside leave inside: 40 IPv6, 8 UDP, 8 VXLAN, 14 Ethernet.
const INSIDE: usize = 1_430;

/// A world whose tunnels are IPv6. With a next hop packets go past mesh0.
fn world(has_next_hop: bool) -> Option<(Rig, Dual, Dual)> {
    let mut rig = Rig::new()?;
    let uplink = rig.devices().uplink;
    rig.configure(|config| (config.tunnel_addr4, config.tunnel_addr6) = ([0; 4], ip6(HERE6)));
    rig.own_address6(HERE6);
    rig.put("ADDRESSES6", ip6(PEER), Address { node: 2, ifindex: 0, flags: address_flag::TUNNEL, pad: [0; 3] });
    let ifindex6 = if has_next_hop { uplink } else { 0 };
    // Told less what an IPv6 header has more than IPv4's.
    let peer = Peer { addr: ip6(PEER), next_hop: ROUTER_MAC, link_mac: UPLINK_MAC, mtu: 1_480, ifindex6, ..Peer::NONE };
    rig.set("PEERS", 2, peer);
    let (here, there) = (rig.task_here("10.0.16.3"), rig.task_there(2, "10.0.16.4"));
    let (here, there) = (rig.dual(here, "fd00:16::3"), rig.dual(there, "fd00:16::4"));
    Some((rig, here, there))
}

/// Outer headers of a frame that leaves, or arrives.
fn outside(tos: u8, id: u32) -> Frame {
    let head = eth(UPLINK_MAC, ROUTER_MAC).ipv6(HERE6, PEER).ttl(64).tos(tos);
    head.udp(any(), 4_789).no_checksum().vxlan(id)
}

fn arrives(src: &str, tos: u8, id: u32) -> Frame {
    eth(ROUTER_MAC, UPLINK_MAC).ipv6(src, HERE6).tos(tos).udp(50_000, 4_789).no_checksum().vxlan(id)
}

/// A packet of each family from one task to the other: as sent, and as it is delivered.
fn between(here: &Dual, there: &Dual, of: impl Fn(Frame) -> Frame) -> [(Frame, Frame); 2] {
    [
        (of(here.task.to(&there.task.ip())), of(there.task.gets(&here.task.ip()))),
        (of(here.to(there.addr)), of(there.gets(here.addr))),
    ]
}

#[test]
fn the_outer_headers_name_the_network_the_flow_and_the_inner_packet() {
    let Some((mut rig, here, there)) = world(true) else { return };
    for (sent, inner) in between(&here, &there, |head| head.tos(0x03).tcp(40000, 80).syn()) {
        let first = rig.from_task(&here.task, &sent).sent(&outside(0x03, VNI).carrying(&inner));
        let second = rig.from_task(&here.task, &sent).sent(&outside(0x03, VNI).carrying(&inner));
        assert_eq!(first.frame[54..56], second.frame[54..56], "a flow has one source port");
    }
}

#[test]
fn without_a_next_hop_mesh0_carries_it() {
    let Some((mut rig, here, there)) = world(false) else { return };
    for (sent, inner) in between(&here, &there, |head| head.tcp(40000, 80).syn()) {
        rig.from_task(&here.task, &sent).tunnelled(&inner);
    }
}

/// Over IPv6 the kernel's tunnel cuts nothing: also of what says that it may be cut the sender is told.
#[test]
fn who_sends_what_does_not_fit_the_path_is_told_whether_it_may_be_cut_or_not() {
    for has_next_hop in [true, false] {
        let Some((mut rig, here, there)) = world(has_next_hop) else { return };
        let fits = here.task.to("10.0.16.4").udp(40000, 80).payload_of(INSIDE - 28);
        assert_eq!(rig.from_task(&here.task, &fits).is_keyed, !has_next_hop);
        let head = |frame: Frame| frame.dont_fragment().icmp_error(3, 4, INSIDE as u16);
        let from = |frame: Frame| frame.udp(40000, 80).payload_of(INSIDE - 27);
        for large in [from(here.task.to("10.0.16.4")), from(here.task.to("10.0.16.4").dont_fragment())] {
            let told = head(here.task.gets("10.0.16.4")).about(&large);
            rig.from_task(&here.task, &large).refused(DropReason::TooBig, &told);
        }
        let large = here.to(there.addr).udp(40000, 80).payload_of(INSIDE - 47);
        let told = here.gets(there.addr).icmp_error(2, 0, INSIDE as u16).about(&large);
        rig.from_task(&here.task, &large).refused(DropReason::TooBig, &told);

        // Bulk: each of its segments fits, or none. Of a test run they are of no kind, so the kernel makes no room for them.
        let bulk = here.task.to("10.0.16.4").tcp(40000, 80).ack(1).payload_of(3_000);
        let of =
            |size: usize| RunOptions { ifindex: here.task.ifindex, gso_size: size as u32, ..RunOptions::default() };
        assert_eq!(rig.run(Hook::FromTask, &bulk, of(INSIDE - 40)).is_keyed, !has_next_hop);
        let told = rig.run(Hook::FromTask, &bulk, of(INSIDE - 39));
        told.refused(DropReason::TooBig, &head(here.task.gets("10.0.16.4")).about(&bulk));
    }
}

/// A datagram of the world that is several fragments: no stack marks those as not to be cut.
#[test]
fn who_sends_fragments_from_outside_that_do_not_fit_is_told_by_the_first() {
    let Some((mut rig, _, there)) = world(true) else { return };
    publish(&mut rig, &there);
    let [(call, ..), _] = calls(&there);
    let first = call.clone().id(7).fragment(0, true).udp(40000, 8080).payload_of(1_472);
    let told = eth(UPLINK_MAC, ROUTER_MAC).ipv4("192.0.2.1", CLIENT).dont_fragment().icmp_error(3, 4, INSIDE as u16);
    rig.from_uplink(&first).refused(DropReason::TooBig, &told.about(&first));
    let later = call.id(7).fragment(1_480, false).protocol(17).payload_of(1_480);
    rig.from_uplink(&later).dropped(DropReason::TooBig);
}

#[test]
fn what_comes_out_of_mesh0_is_judged_by_the_outer_address() {
    let Some((mut rig, here, there)) = world(true) else { return };
    for (sent, inner) in between(&there, &here, |head| head.udp(1, 2)).map(|(_, inner)| (inner.clone(), inner)) {
        rig.from_overlay_over_ipv6(PEER, VNI, &sent).sent(&inner);
        rig.from_overlay_over_ipv6(STRANGER, VNI, &sent).dropped(DropReason::UnknownPeer);
        rig.from_overlay_over_ipv6(PEER, VNI + 1, &sent).dropped(DropReason::WrongPeer);
    }
}

#[test]
fn the_programs_take_the_headers_off_again() {
    let Some((mut rig, here, there)) = world(true) else { return };
    let sums: &[u32] = if rig.knows_complete_sums() { &[0, CHECKSUM_COMPLETE] } else { &[0] };
    let families = families();
    for flags in sums {
        for (_, inner) in between(&there, &here, |head| head.tcp(80, 40000).syn().mss(1_300)).iter().skip(families) {
            let options = RunOptions { ifindex: rig.devices().uplink, flags: *flags, ..RunOptions::default() };
            rig.run(Hook::FromUplink, arrives(PEER, 0, VNI).carrying(inner), options).sent(inner);
        }
    }
    for (_, inner) in between(&there, &here, |head| head.tcp(80, 40000).ack(1)).into_iter().skip(families) {
        for (what, frame) in [
            ("congestion that must be told inside", arrives(PEER, 3, VNI).carrying(&inner)),
            ("a stranger", arrives(STRANGER, 0, VNI).carrying(&inner)),
        ] {
            println!("{what}");
            rig.from_uplink(frame).left_alone();
        }
        println!("a peer whose packets the host's stack has to judge first");
        let of = |flags| Address { node: 2, ifindex: 0, flags, pad: [0; 3] };
        rig.put("ADDRESSES6", ip6(PEER), of(address_flag::TUNNEL | address_flag::BY_MESH0));
        rig.from_uplink(arrives(PEER, 0, VNI).carrying(&inner)).left_alone();
        rig.put("ADDRESSES6", ip6(PEER), of(address_flag::TUNNEL));
        let mut outcome = rig.from_uplink(arrives(PEER, 0, vni::ECHO).carrying(&inner));
        outcome.hook = Hook::FromOverlay;
        outcome.dropped(DropReason::UnknownVni);
    }
    let arp = eth(mac::GATEWAY, here.task.mac).arp_request(mac::GATEWAY, there.task.addr, here.task.addr);
    rig.from_uplink(arrives(PEER, 0, VNI).carrying(&arp)).left_alone();
}

/// How many of the two families to leave out: IPv4, where programs can't take it out of IPv6.
fn families() -> usize {
    usize::from(!Rig::new().is_some_and(|mut rig| rig.crosses_families()))
}

/// A service with the task of node 2, published as 8080 over both families.
fn publish(rig: &mut Rig, there: &Dual) -> Service {
    let service = rig.service("10.0.16.2", &[&there.task]);
    rig.dual(there.task.clone(), there.addr);
    rig.vip6(&service, "fd00:16::2");
    for number in [protocol::TCP, protocol::UDP] {
        rig.publish(&service, number, 8080, 80);
        rig.publish6(&service, number, 8080, 80);
    }
    service
}

/// A call from outside, of each family: its frame's head, its inner head towards node 2, and that of the answer.
fn calls(there: &Dual) -> [(Frame, Frame, Frame); 2] {
    let inside = || eth(ROUTER_MAC, mac::of(mac::KIND_ENDPOINT, there.task.number));
    let back = || eth(mac::GATEWAY, ROUTER_MAC);
    let call = || eth(ROUTER_MAC, UPLINK_MAC);
    [
        (call().ipv4(CLIENT, "192.0.2.1"), inside().ipv4(CLIENT, "192.0.2.1"), back().ipv4("192.0.2.1", CLIENT)),
        (call().ipv6(CLIENT6, HERE6), inside().ipv6(CLIENT6, HERE6), back().ipv6(HERE6, CLIENT6)),
    ]
}

#[test]
fn published_ports_of_either_family_go_by_tc_and_by_xdp() {
    for by_xdp in [false, true] {
        let Some((mut rig, _, there)) = world(true) else { return };
        publish(&mut rig, &there);
        // The driver's hook has no such bounds.
        let left_out = if by_xdp { 0 } else { families() };
        for (call, inner, answer) in calls(&there).into_iter().skip(left_out) {
            let play = |rig: &mut Rig, frame: Frame| {
                if by_xdp { rig.xdp_uplink(frame) } else { rig.from_uplink(frame) }
            };
            let datagram = |head: Frame| head.udp(40000, 8080).payload(b"?");
            for _ in 0..2 {
                play(&mut rig, datagram(call.clone()))
                    .sent(&outside(0, vni::REQUEST_WIRE).carrying(&datagram(inner.clone())));
            }
            let reply = |head: Frame| head.udp(8080, 40000).payload(b"!");
            let arrived = arrives(PEER, 0, vni::REPLY_WIRE).carrying(&reply(answer.clone()));
            let leaves = eth(UPLINK_MAC, ROUTER_MAC);
            let leaves =
                if answer.bytes()[12] == 8 { leaves.ipv4("192.0.2.1", CLIENT) } else { leaves.ipv6(HERE6, CLIENT6) };
            play(&mut rig, arrived).sent(&reply(leaves));
        }
    }
}

#[test]
fn what_the_driver_does_not_take_is_left_to_tc() {
    let Some((mut rig, _, there)) = world(true) else { return };
    publish(&mut rig, &there);
    for (_, _, answer) in calls(&there) {
        let reply = answer.udp(8080, 40000).payload(b"!");
        for frame in [
            arrives(PEER, 3, vni::REPLY_WIRE).carrying(&reply),
            arrives(STRANGER, 0, vni::REPLY_WIRE).carrying(&reply),
            arrives(PEER, 0, vni::REPLY_NODE).carrying(&reply),
            eth(ROUTER_MAC, UPLINK_MAC)
                .ipv6(PEER, "2001:db8:1::99")
                .udp(50_000, 4_789)
                .no_checksum()
                .vxlan(vni::REPLY_WIRE)
                .carrying(&reply),
        ] {
            rig.xdp_uplink(frame).left_alone();
        }
    }
}
