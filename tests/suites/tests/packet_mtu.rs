//! Packet sizes and hops: what does not fit the path to its peer, segments that are clamped to it, and a time to live that ends here.

use mesh_common::parse::protocol;
use mesh_common::schema::{Peer, rewrite};
use mesh_common::verdict::{DropReason, Hook};
use mesh_common::wire::{mac, vni};
use mesh_packet::{Frame, any, eth};
use mesh_tests::rig::{
    Action, HERE, MESH0_MAC, PEER_2, ROUTER_MAC, Rig, RunOptions, Task, UPLINK_MAC, header_len, of_ipv4_alone, spoken,
};

const VIP: &str = "10.0.16.2";
const CLIENT: &str = "198.51.100.9";

/// A datagram whose IP packet has this size.
fn sized(head: Frame, size: usize) -> Frame {
    head.udp(40000, 80).payload_of(size - header_len() - 8)
}

/// "Fragmentation needed, and don't fragment set" (RFC 1191) about a packet.
fn needed(head: Frame, mtu: u16, packet: &Frame) -> Frame {
    head.dont_fragment().icmp_error(3, 4, mtu).about(packet)
}

/// The path to node 2 takes 1400 bytes outside, 1350 inside. A client here, a backend there, a service that it publishes as 80.
fn narrow() -> Option<(Rig, Task, Task)> {
    Rig::new().map(narrow_of)
}

fn narrow_of(mut rig: Rig) -> (Rig, Task, Task) {
    let (client, there) = (rig.task_here("10.0.16.3"), rig.task_there(2, "10.0.16.4"));
    let service = rig.service(VIP, &[&there]);
    rig.publish(&service, protocol::UDP, 80, 80);
    rig.publish(&service, protocol::TCP, 80, 80);
    rig.path(2, PEER_2, 1_400);
    (rig, client, there)
}

/// The largest TCP segment in an IP packet of this size.
fn mss(size: u16) -> u16 {
    size - header_len() as u16 - 20
}

#[test]
fn a_task_is_told_how_large_a_packet_may_be_by_whom_it_called() {
    let Some((mut rig, client, there)) = narrow() else { return };
    // The task itself first: nothing is remembered of that, so the next has the same port.
    for dst in ["10.0.16.4", VIP] {
        let fits = sized(client.to(dst).dont_fragment(), 1_350);
        let inner = sized(there.gets("10.0.16.3").dont_fragment(), 1_350);
        rig.from_task(&client, &fits).tunnelled(&inner);
        let large = sized(client.to(dst).dont_fragment(), 1_351);
        rig.from_task(&client, &large).refused(DropReason::TooBig, &needed(client.gets(dst), 1_350, &large));
    }
}

#[test]
fn a_backends_large_answer_is_told_to_the_backend() {
    let Some((mut rig, _, _)) = narrow() else { return };
    let here = rig.task_here("10.0.16.5");
    let service = rig.service("10.0.16.7", &[&here]);
    rig.publish(&service, protocol::UDP, 8080, 80);
    let endpoint = mac::of(mac::KIND_ENDPOINT, here.number);
    let call = eth(ROUTER_MAC, endpoint).ipv4(CLIENT, PEER_2).udp(40000, 8080).payload(b"?");
    rig.from_overlay(PEER_2, vni::REQUEST_WIRE, &call);
    let large = here.to(CLIENT).dont_fragment().udp(80, 40000).payload_of(1_400);
    rig.from_task(&here, &large).refused(DropReason::TooBig, &needed(here.gets(CLIENT), 1_350, &large));
}

#[test]
fn a_caller_outside_and_the_host_are_told_too() {
    let Some((mut rig, _, _)) = narrow() else { return };
    let large = sized(eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE).dont_fragment(), 1_500);
    let back = eth(UPLINK_MAC, ROUTER_MAC).ipv4(HERE, CLIENT);
    rig.from_uplink(&large).refused(DropReason::TooBig, &needed(back, 1_350, &large));
    let large = sized(eth(MESH0_MAC, MESH0_MAC).ipv4(HERE, VIP).dont_fragment(), 1_400);
    let back = eth(MESH0_MAC, MESH0_MAC).ipv4(VIP, HERE);
    rig.from_host(&large).refused(DropReason::TooBig, &needed(back, 1_350, &large));
}

#[test]
fn what_may_be_fragmented_goes_in_pieces_through_mesh0() {
    let Some(rig) = of_ipv4_alone("nobody but its sender makes pieces of an IPv6 packet") else { return };
    let (mut rig, client, there) = narrow_of(rig);
    let outcome = rig.from_task(&client, sized(client.to(VIP), 1_400));
    assert!(outcome.is_keyed, "the kernel cuts the outer packet: {outcome:?}");
    outcome.tunnelled(&sized(there.gets("10.0.16.3"), 1_400));
}

#[test]
fn an_error_is_never_told_about_an_error_or_a_later_fragment() {
    let Some((mut rig, client, _)) = narrow() else { return };
    let error = client.to("10.0.16.4").dont_fragment().icmp_error(3, 3, 0).payload_of(1_400);
    rig.from_task(&client, &error).dropped(DropReason::TooBig);
    let fragment = client.to("10.0.16.4").dont_fragment().fragment(1_480, false).protocol(17).payload_of(1_400);
    rig.from_task(&client, &fragment).dropped(DropReason::TooBig);
}

#[test]
fn segments_count_one_by_one() {
    let Some((mut rig, client, _)) = narrow() else { return };
    // A test run makes packets of several segments of no kind, for which the kernel makes no room: through mesh0, then.
    rig.set("PEERS", 2u32, Peer { ifindex: 0, ..rig.peer(2) });
    // 1350 inside are 1310 of data in a segment without options (1290 over IPv6), 12 less with timestamps.
    let timestamps = &[1, 1, 8, 10, 1, 2, 3, 4, 0, 0, 0, 0][..];
    for (option, fits) in [(&[][..], mss(1_350).into()), (timestamps, u32::from(mss(1_350)) - 12)] {
        let data = client
            .to(VIP)
            .dont_fragment()
            .tcp(40000, 80)
            .seq(1)
            .ack(1)
            .tcp_option(option)
            .payload_of(2 * fits as usize);
        let run = |rig: &mut Rig, gso_size| {
            let options = RunOptions { ifindex: client.ifindex, gso_size, ..RunOptions::default() };
            rig.run(Hook::FromTask, &data, options)
        };
        run(&mut rig, fits).acted_as(Action::Redirect);
        let error = needed(client.gets(VIP), 1_350, &data);
        run(&mut rig, fits + 1).refused(DropReason::TooBig, &error);
        run(&mut rig, 0).refused(DropReason::TooBig, &error);
    }
}

#[test]
fn both_syns_are_clamped_to_the_path() {
    let Some((mut rig, client, there)) = narrow() else { return };
    // A SYN goes as it is: the node that it comes to clamps it, which sends the answers.
    let syn = client.to(VIP).tcp(40000, 80).syn().mss(mss(1_450));
    rig.from_task(&client, &syn).tunnelled(&there.gets("10.0.16.3").tcp(40000, 80).syn().mss(mss(1_450)));
    let syn_ack =
        eth(mac::GATEWAY, client.mac).ipv4(there.addr, client.addr).tcp(80, 40000).syn().ack(1).mss(mss(1_450));
    rig.from_overlay(PEER_2, 4_097, &syn_ack).sent(&client.gets(VIP).tcp(80, 40000).syn().ack(1).mss(mss(1_350)));
    // A direct call from there; and what is smaller stays.
    for (asked, clamped) in [(mss(1_450), mss(1_350)), (536, 536)] {
        let syn = eth(mac::GATEWAY, client.mac).ipv4(there.addr, client.addr).tcp(40001, 80).syn().mss(asked);
        let wanted = client.gets("10.0.16.4").tcp(40001, 80).syn().mss(clamped);
        rig.from_overlay(PEER_2, 4_097, &syn).sent(&wanted);
    }
}

#[test]
fn a_call_from_outside_is_clamped_to_the_owners_path_and_its_answer_to_the_ingress_nodes() {
    let Some((mut rig, _, there)) = narrow() else { return };
    let syn = eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE).tcp(40000, 80).syn().mss(1_460);
    let inner = eth(ROUTER_MAC, mac::of(mac::KIND_ENDPOINT, there.number)).ipv4(CLIENT, HERE);
    rig.from_uplink(&syn).tunnelled(&inner.tcp(40000, 80).syn().mss(mss(1_450)));
    let answer = eth(mac::GATEWAY, ROUTER_MAC).ipv4(HERE, CLIENT).tcp(80, 40000).syn().ack(1).mss(mss(1_450));
    rig.from_overlay(PEER_2, vni::REPLY_WIRE, &answer)
        .sent(&eth(UPLINK_MAC, ROUTER_MAC).ipv4(HERE, CLIENT).tcp(80, 40000).syn().ack(1).mss(mss(1_350)));

    let here = rig.task_here("10.0.16.5");
    let service = rig.service("10.0.16.7", &[&here]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    let endpoint = mac::of(mac::KIND_ENDPOINT, here.number);
    let call = eth(ROUTER_MAC, endpoint).ipv4(CLIENT, PEER_2).tcp(40000, 8080).syn().mss(1_460);
    rig.from_overlay(PEER_2, vni::REQUEST_WIRE, &call).sent(&here.gets(CLIENT).tcp(40000, 80).syn().mss(mss(1_350)));
    let answer = here.to(CLIENT).tcp(80, 40000).syn().ack(1).mss(mss(1_450));
    let inner = eth(mac::GATEWAY, ROUTER_MAC).ipv4(PEER_2, CLIENT).tcp(8080, 40000).syn().ack(1);
    rig.from_task(&here, &answer).tunnelled(&inner.mss(mss(1_450)));
}

#[test]
fn the_way_out_is_a_hop() {
    let Some(mut rig) = Rig::new() else { return };
    let task = rig.task_here("10.0.16.3");
    for ttl in [2, 64, 255] {
        let sent = task.to(CLIENT).ttl(ttl).udp(40000, 33_434).payload(b"?");
        let wanted = eth(any(), any()).ipv4(HERE, CLIENT).ttl(ttl - 1).udp(any(), 33_434).payload(b"?");
        let mut outcome = rig.from_task(&task, &sent);
        // The checksum goes with the port.
        spoken(&wanted).assert_matches(&outcome.frame);
        outcome.frame.clear();
        outcome.acted_as(Action::Redirect);
    }
}

#[test]
fn a_time_to_live_that_ends_here_is_told_by_the_gateway() {
    let Some(mut rig) = Rig::new() else { return };
    let task = rig.task_here("10.0.16.3");
    for ttl in [1, 0] {
        for sent in [
            task.to(CLIENT).ttl(ttl).udp(40000, 33_434).payload(b"a probe"),
            task.to(CLIENT).ttl(ttl).icmp_echo(7, 1).payload_of(56),
            task.to(CLIENT).ttl(ttl).tcp(40000, 443).syn(),
        ] {
            let told = task.gets("10.0.16.1").dont_fragment().icmp_error(11, 0, 0).about(&sent);
            let outcome = rig.from_task(&task, &sent);
            assert!(outcome.new_flows.is_empty(), "a probe that ends here takes no port: {:?}", outcome.new_flows);
            outcome.refused(DropReason::HopLimit, &told);
        }
    }
}

#[test]
fn an_error_that_leaves_is_a_hop_too_and_ends_in_silence() {
    let Some(mut rig) = Rig::new() else { return };
    let task = rig.task_here("10.0.16.3");
    let asked = rig.from_task(&task, task.to(CLIENT).udp(40000, 53).payload(b"?"));
    let port = asked.new_flows.iter().find(|(_, flow)| flow.rewrite == rewrite::SOURCE).unwrap().1.port;
    rig.from_uplink(eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE).udp(53, port).payload(b"!"));
    let error = |ttl| {
        let met = task.gets(CLIENT).udp(53, 40000).payload(b"!");
        task.to(CLIENT).ttl(ttl).icmp_error(3, 3, 0).quoting(&met, 8)
    };
    let outcome = rig.from_task(&task, error(9)).acted_as(Action::Redirect);
    let at = if header_len() == 20 { 22 } else { 21 };
    assert_eq!(outcome.frame[at], 8, "time to live");
    rig.from_task(&task, error(1)).dropped(DropReason::HopLimit);
}

#[test]
fn inside_the_overlay_and_at_a_published_port_nothing_is_a_hop() {
    let Some(mut rig) = Rig::new() else { return };
    let (client, here, there) =
        (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"), rig.task_there(2, "10.0.16.5"));
    let service = rig.service(VIP, &[&here]);
    rig.publish(&service, protocol::UDP, 8080, 80);
    let probe = |head: Frame| head.ttl(1).udp(40000, 80).payload(b"a probe");
    rig.from_task(&client, probe(client.to(VIP))).sent(&probe(here.gets("10.0.16.3")));
    rig.from_task(&client, probe(client.to("10.0.16.5"))).tunnelled(&probe(there.gets("10.0.16.3")));
    let call = eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE).ttl(1).udp(40000, 8080).payload(b"a probe");
    rig.from_uplink(&call).sent(&probe(here.gets(CLIENT)));
}
