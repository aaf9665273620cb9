//! IPv6: packet in, packet out, on the loaded programs. Inside a network, here and between nodes; published ports; this host's own calls.

use mesh_common::parse::protocol;
use mesh_common::schema::{Frontend, FrontendKey, algorithm};
use mesh_common::verdict::DropReason;
use mesh_common::wire::{mac, vni};
use mesh_packet::{Frame, eth};
use mesh_tests::rig::{
    Dual, GATEWAY6 as GATEWAY, HERE6 as HERE, PEER_2, PEER_3, ROUTER_MAC, Rig, Task, UPLINK_MAC, ip6,
};

const VIP: &str = "fd00:16::2";
const VNI: u32 = 4_097;
/// Somebody outside.
const OUTSIDE: &str = "2001:db8:9::9";
const ROUTERS: &str = "33:33:00:00:00:02";

/// A client and two tasks of a service with VIPs of both families, all here.
fn world() -> Option<(Rig, Dual, Dual, Dual)> {
    let mut rig = Rig::new()?;
    let tasks = ["10.0.16.3", "10.0.16.4", "10.0.16.5"].map(|addr| rig.task_here(addr));
    served(rig, tasks)
}

fn served(mut rig: Rig, tasks: [Task; 3]) -> Option<(Rig, Dual, Dual, Dual)> {
    let service = rig.service("10.0.16.2", &[&tasks[1], &tasks[2]]);
    let [client, one, other] = tasks;
    let client = rig.dual(client, "fd00:16::3");
    let (one, other) = (rig.dual(one, "fd00:16::4"), rig.dual(other, "fd00:16::5"));
    assert_eq!(service.frontend.algorithm, algorithm::ROUND_ROBIN);
    rig.vip6(&service, VIP);
    Some((rig, client, one, other))
}

/// A neighbour message (RFC 4861, 4.3 and 4.4) of this type, about `target`, with an option that names `named`.
fn neighbour(head: Frame, kind: u8, target: &str, option: u8, named: Option<[u8; 6]>) -> Frame {
    let mut body = ip6(target).to_vec();
    if let Some(named) = named {
        body.extend_from_slice(&[option, 1]);
        body.extend_from_slice(&named);
    }
    head.ttl(255).icmp_error(kind, 0, 0).payload(body)
}

/// Who asks for `target`.
fn asks(from: &Dual, src: &str, target: &str) -> Frame {
    neighbour(eth(from.task.mac, "33:33:ff:00:00:01").ipv6(src, "ff02::1:ff00:1"), 135, target, 1, Some(from.task.mac))
}

/// The bytes of its answer: solicited and override.
fn answer(to: &Dual, dst: &str, target: &str) -> Frame {
    let mut body = ip6(target).to_vec();
    body.extend_from_slice(&[2, 1]);
    body.extend_from_slice(&mac::GATEWAY);
    eth(mac::GATEWAY, to.task.mac).ipv6(target, dst).ttl(255).icmp_message(136, 0, [0x6000, 0]).payload(body)
}

#[test]
fn a_neighbour_solicitation_for_any_address_is_answered_with_the_gateways_mac() {
    let Some((mut rig, client, ..)) = world() else { return };
    for target in [GATEWAY, VIP, "fd00:16::99", "fe80::1"] {
        rig.from_task(&client.task, asks(&client, client.addr, target)).sent(&answer(&client, client.addr, target));
    }
    // The stack looks whether a neighbour is still there: from its link's own address, to the neighbour's MAC, without naming itself.
    let probe = neighbour(eth(client.task.mac, mac::GATEWAY).ipv6("fe80::77", GATEWAY), 135, GATEWAY, 1, None);
    rig.from_task(&client.task, &probe).sent(&answer(&client, "fe80::77", GATEWAY));
}

#[test]
fn a_solicitation_with_anothers_address_or_mac_is_dropped() {
    let Some((mut rig, client, other, _)) = world() else { return };
    rig.from_task(&client.task, asks(&client, other.addr, GATEWAY)).dropped(DropReason::SpoofedSource);
    rig.from_task(&client.task, asks(&client, "fd00:16::99", GATEWAY)).dropped(DropReason::SpoofedSource);
    rig.from_task(&client.task, asks(&other, client.addr, GATEWAY)).dropped(DropReason::SpoofedMac);
    let head = eth(client.task.mac, mac::GATEWAY).ipv6(client.addr, GATEWAY);
    let named = neighbour(head, 135, GATEWAY, 1, Some(other.task.mac));
    rig.from_task(&client.task, &named).dropped(DropReason::SpoofedMac);
}

#[test]
fn what_keeps_a_link_going_and_asks_nothing_of_us_is_ignored() {
    let Some((mut rig, client, ..)) = world() else { return };
    // Is this address free (RFC 4862, 5.4.2)?
    let dad =
        neighbour(eth(client.task.mac, "33:33:ff:00:00:03").ipv6("::", "ff02::1:ff00:3"), 135, client.addr, 1, None);
    rig.from_task(&client.task, &dad).ignored();
    let head = || eth(client.task.mac, ROUTERS).ipv6("fe80::77", "ff02::2").ttl(255);
    rig.from_task(&client.task, head().icmp_error(133, 0, 0)).ignored();
    rig.from_task(&client.task, neighbour(head(), 136, client.addr, 2, Some(client.task.mac))).ignored();
    // A report of groups, behind the hop-by-hop option that routers look for (RFC 3810, section 5).
    let mut report = head().protocol(0).payload([58, 0, 5, 2, 0, 0, 1, 0, 143, 0, 0, 0, 0, 0, 0, 0]).bytes();
    report[21] = 1;
    rig.from_task(&client.task, &report).ignored();
}

#[test]
fn a_task_is_no_router_and_a_solicitation_comes_from_the_link() {
    let Some((mut rig, client, ..)) = world() else { return };
    let head = || eth(client.task.mac, "33:33:00:00:00:01").ipv6("fe80::77", "ff02::1").ttl(255);
    for kind in [134, 137] {
        rig.from_task(&client.task, head().icmp_error(kind, 0, 0)).dropped(DropReason::Unsupported);
    }
    let routed = asks(&client, client.addr, GATEWAY).ttl(254);
    rig.from_task(&client.task, &routed).dropped(DropReason::Malformed);
    rig.from_task(&client.task, &asks(&client, client.addr, GATEWAY).bytes()[..70]).dropped(DropReason::Malformed);
}

#[test]
fn echo_to_gateway_and_vip_is_answered_and_remembers_nothing() {
    let Some((mut rig, client, ..)) = world() else { return };
    for addr in [GATEWAY, VIP] {
        let ask = client.to(addr).icmp_echo(7, 1).payload_of(57);
        rig.from_task(&client.task, &ask).sent(&client.gets(addr).icmp_echo_reply(7, 1).payload_of(57));
    }
    assert!(rig.flows6().is_empty());
}

#[test]
fn a_task_of_the_same_network_gets_the_packet_unchanged() {
    let Some((mut rig, client, one, _)) = world() else { return };
    for sent in [client.to(one.addr).tcp(40000, 80).syn(), client.to(one.addr).icmp_echo(7, 1).payload_of(8)] {
        let outcome = rig.from_task(&client.task, &sent);
        let mut wanted = sent.bytes();
        wanted[..6].copy_from_slice(&one.task.mac);
        wanted[6..12].copy_from_slice(&mac::GATEWAY);
        assert_eq!(outcome.frame, wanted);
    }
    assert!(rig.flows6().is_empty());
}

#[test]
fn a_task_sends_from_its_own_address_and_mac_only() {
    let Some((mut rig, client, one, _)) = world() else { return };
    for src in [one.addr, "fd00:16::99", "fe80::77", "::1", GATEWAY] {
        let forged = eth(client.task.mac, mac::GATEWAY).ipv6(src, one.addr).udp(1, 2);
        rig.from_task(&client.task, &forged).dropped(DropReason::SpoofedSource);
    }
    let forged = eth(one.task.mac, mac::GATEWAY).ipv6(client.addr, one.addr).udp(1, 2);
    rig.from_task(&client.task, &forged).dropped(DropReason::SpoofedMac);
    rig.from_task(&client.task, client.to("ff02::fb").udp(5353, 5353)).dropped(DropReason::Multicast);
    for nowhere in ["2001:db8::9", "fe80::9"] {
        let sent = client.to(nowhere).udp(1, 53).payload_of(1_300);
        // As much of it as leaves the error 1280 bytes (RFC 4443, 2.4).
        let told = client.gets(nowhere).icmp_error(1, 4, 0).about(&sent);
        assert_eq!(told.bytes().len(), 14 + 1_280);
        rig.from_task(&client.task, &sent).refused(DropReason::NoRoute, &told);
    }
}

#[test]
fn another_networks_task_is_out_of_reach() {
    let Some((mut rig, client, ..)) = world() else { return };
    let task = rig.task_here("10.0.32.3");
    let stranger = rig.dual(task, "fd00:32::3");
    for (there, reason) in [(stranger.addr, DropReason::OtherNetwork), ("fd00:16::99", DropReason::NoEndpoint)] {
        let rst = client.gets(there).tcp(2, 1).rst().ack(1).window(0);
        rig.from_task(&client.task, client.to(there).tcp(1, 2).syn()).refused(reason, &rst);
    }
}

#[test]
fn calls_to_a_vip_reach_a_task_and_its_answers_come_from_the_vip() {
    let Some((mut rig, client, one, other)) = world() else { return };
    rig.from_task(&client.task, client.to(VIP).tcp(40000, 80).syn()).sent(&one.gets(client.addr).tcp(40000, 80).syn());
    let answer = one.to(client.addr).tcp(80, 40000).syn().ack(1);
    rig.from_task(&one.task, &answer).sent(&client.gets(VIP).tcp(80, 40000).syn().ack(1));
    let data = |frame: Frame| frame.tcp(40000, 80).seq(1).ack(1).psh().payload_of(700);
    rig.from_task(&client.task, data(client.to(VIP))).sent(&data(one.gets(client.addr)));
    let datagram = |frame: Frame| frame.udp(40000, 53).payload_of(33);
    rig.from_task(&client.task, datagram(client.to(VIP))).sent(&datagram(other.gets(client.addr)));
    assert_eq!(rig.flows6().len(), 4);
}

#[test]
fn both_families_of_a_service_take_turns_together() {
    let Some((mut rig, client, one, other)) = world() else { return };
    let by_4 = |port: u16| client.task.to("10.0.16.2").tcp(port, 80).syn();
    let by_6 = |port: u16| client.to(VIP).tcp(port, 80).syn();
    rig.from_task(&client.task, by_4(1)).sent(&one.task.gets("10.0.16.3").tcp(1, 80).syn());
    rig.from_task(&client.task, by_6(2)).sent(&other.gets(client.addr).tcp(2, 80).syn());
    rig.from_task(&client.task, by_6(3)).sent(&one.gets(client.addr).tcp(3, 80).syn());
    rig.from_task(&client.task, by_4(4)).sent(&other.task.gets("10.0.16.3").tcp(4, 80).syn());
}

#[test]
fn a_call_goes_through_the_tunnel_and_its_answer_comes_back() {
    let Some(mut rig) = Rig::new() else { return };
    let tasks = [rig.task_here("10.0.16.3"), rig.task_there(2, "10.0.16.4"), rig.task_there(2, "10.0.16.5")];
    let Some((mut rig, client, there, _)) = served(rig, tasks) else { return };
    let call = client.to(VIP).tcp(40000, 80).syn();
    rig.from_task(&client.task, &call).tunnelled(&there.gets(client.addr).tcp(40000, 80).syn());
    let answer = |frame: Frame| frame.tcp(80, 40000).syn().ack(1);
    let back = eth(mac::GATEWAY, client.task.mac).ipv6(there.addr, client.addr);
    rig.from_overlay(PEER_2, VNI, answer(back.clone())).sent(&answer(client.gets(VIP)));
    // By its own address, to and fro: nothing is remembered.
    let direct = client.to(there.addr).udp(1, 2);
    rig.from_task(&client.task, &direct).tunnelled(&there.gets(client.addr).udp(1, 2));
    rig.from_overlay(PEER_2, VNI, back.clone().udp(2, 1)).sent(&client.gets(there.addr).udp(2, 1));
    assert_eq!(rig.flows6().len(), 2);
    // It lives on node 2 and nowhere else, and on this network.
    rig.from_overlay(PEER_3, VNI, back.clone().udp(2, 1)).dropped(DropReason::WrongPeer);
    rig.from_overlay(PEER_2, VNI + 1, back.udp(2, 1)).dropped(DropReason::WrongPeer);
    let gone = eth(mac::GATEWAY, client.task.mac).ipv6(there.addr, "fd00:16::99");
    rig.from_overlay(PEER_2, VNI, gone.clone().tcp(1, 2).ack(1)).dropped(DropReason::NoEndpoint);
    // Who opens something chooses again.
    assert!(rig.from_overlay(PEER_2, VNI, gone.tcp(1, 2).syn()).is_keyed);
}

/// A frame with a header of destination options (RFC 8200, 4.6) before the transport's.
fn with_options(frame: &Frame) -> Vec<u8> {
    let mut bytes = frame.bytes();
    let next = std::mem::replace(&mut bytes[20], 60);
    let len = u16::from_be_bytes([bytes[18], bytes[19]]) + 8;
    bytes[18..20].copy_from_slice(&len.to_be_bytes());
    bytes.splice(54..54, [next, 0, 1, 4, 0, 0, 0, 0]);
    bytes
}

#[test]
fn extension_headers_are_carried_up_to_a_bound() {
    let Some((mut rig, client, one, _)) = world() else { return };
    let call = |frame: Frame| frame.tcp(40000, 80).syn();
    let outcome = rig.from_task(&client.task, &with_options(&call(client.to(VIP))));
    assert_eq!(outcome.frame, with_options(&call(one.gets(client.addr))));
    let endless = client.to(VIP).protocol(60).payload([60, 0, 1, 4, 0, 0, 0, 0].repeat(6));
    rig.from_task(&client.task, &endless).dropped(DropReason::Malformed);
    // Places are left to go to: the destination is not where it ends.
    let on_its_way = client.to(VIP).protocol(43).payload([[17, 2, 4, 1, 0, 0, 0, 0]; 3].concat());
    rig.from_task(&client.task, &on_its_way).dropped(DropReason::Malformed);
}

/// The service answers at port 8080 of any node, by its tasks' port 80.
fn publish(rig: &mut Rig) {
    let frontends = rig.read::<FrontendKey<[u8; 16]>, Frontend<[u8; 16]>>("FRONTENDS6");
    let vip = frontends.get(&FrontendKey::vip(ip6(VIP)), 0).expect("the service has a VIP");
    for protocol in [protocol::TCP, protocol::UDP] {
        let key = FrontendKey::<[u8; 16]>::published(8080, protocol);
        rig.put("FRONTENDS6", key, Frontend { target_port: 80, ..vip });
    }
    rig.own_address6(HERE);
}

#[test]
fn a_published_port_reaches_a_task_here_which_sees_the_caller() {
    let Some((mut rig, _, one, _)) = world() else { return };
    publish(&mut rig);
    let call = || eth(ROUTER_MAC, UPLINK_MAC).ipv6(OUTSIDE, HERE);
    rig.from_uplink(call().tcp(40000, 8080).syn()).sent(&one.gets(OUTSIDE).tcp(40000, 80).syn());
    let reply = one.to(OUTSIDE).tcp(80, 40000).syn().ack(1);
    let answer = eth(UPLINK_MAC, ROUTER_MAC).ipv6(HERE, OUTSIDE);
    rig.from_task(&one.task, &reply).sent(&answer.tcp(8080, 40000).syn().ack(1));
    let data = |frame: Frame, port: u16| frame.tcp(40000, port).seq(1).ack(1).payload(b"GET /");
    rig.from_uplink(data(call(), 8080)).sent(&data(one.gets(OUTSIDE), 80));
    // Nobody outside has business with the overlay's addresses.
    let inside = eth(ROUTER_MAC, UPLINK_MAC).ipv6(OUTSIDE, VIP);
    rig.from_uplink(inside.tcp(40000, 80).syn()).dropped(DropReason::FromOutside);
}

#[test]
fn a_published_port_reaches_a_task_elsewhere_and_its_answer_leaves_by_the_uplink() {
    let Some(mut rig) = Rig::new() else { return };
    let tasks = [rig.task_here("10.0.16.3"), rig.task_there(2, "10.0.16.4"), rig.task_there(2, "10.0.16.5")];
    let Some((mut rig, _, there, _)) = served(rig, tasks) else { return };
    publish(&mut rig);
    let call = eth(ROUTER_MAC, UPLINK_MAC).ipv6(OUTSIDE, HERE).udp(40000, 8080).payload(b"?");
    let inner = eth(ROUTER_MAC, mac::of(mac::KIND_ENDPOINT, there.task.number)).ipv6(OUTSIDE, HERE);
    rig.from_uplink(&call).tunnelled(&inner.udp(40000, 8080).payload(b"?"));
    assert_eq!(rig.flows6().len(), 1, "only the choice is kept");
    let back = |src, dst| eth(src, dst).ipv6(HERE, OUTSIDE).udp(8080, 40000).payload(b"!");
    let arrived = back(mac::GATEWAY, ROUTER_MAC);
    rig.from_overlay(PEER_2, vni::REPLY_WIRE, &arrived).sent(&back(UPLINK_MAC, ROUTER_MAC));
}

#[test]
fn the_owner_rewrites_and_answers_through_the_ingress_node() {
    let Some((mut rig, _, one, _)) = world() else { return };
    publish(&mut rig);
    let named = eth(ROUTER_MAC, mac::of(mac::KIND_ENDPOINT, one.task.number)).ipv6(OUTSIDE, "2001:db8:1::2");
    let arrived = named.tcp(40000, 8080).syn();
    rig.from_overlay(PEER_2, vni::REQUEST_WIRE, &arrived).sent(&one.gets(OUTSIDE).tcp(40000, 80).syn());
    let reply = one.to(OUTSIDE).tcp(80, 40000).syn().ack(1);
    let answer = eth(mac::GATEWAY, ROUTER_MAC).ipv6("2001:db8:1::2", OUTSIDE);
    rig.from_task(&one.task, &reply).tunnelled(&answer.tcp(8080, 40000).syn().ack(1));
}

#[test]
fn this_hosts_own_call_to_a_vip_is_balanced_and_its_answer_goes_up_the_stack() {
    let Some((mut rig, _, one, _)) = world() else { return };
    publish(&mut rig);
    let mesh0 = mac::of(mac::KIND_MESH0, 1);
    let call = eth(mesh0, mesh0).ipv6(HERE, VIP).tcp(40000, 80).syn();
    rig.from_host(&call).sent(&one.gets(HERE).tcp(40000, 80).syn());
    let reply = one.to(HERE).tcp(80, 40000).syn().ack(1);
    let up = eth(mac::GATEWAY, mesh0).ipv6(VIP, HERE).tcp(80, 40000).syn().ack(1);
    rig.from_task(&one.task, &reply).sent(&up);
    let forwarded = eth(mesh0, mesh0).ipv6(OUTSIDE, VIP).tcp(40000, 80).syn();
    rig.from_host(&forwarded).dropped(DropReason::FromOutside);
}

#[test]
fn a_task_alone_reaches_itself_and_sees_the_gateway() {
    let Some(mut rig) = Rig::new() else { return };
    let task = rig.task_here("10.0.16.4");
    let service = rig.service("10.0.16.2", &[&task]);
    let one = rig.dual(task, "fd00:16::4");
    rig.vip6(&service, VIP);
    let call = |head: Frame| head.tcp(40000, 80).syn();
    rig.from_task(&one.task, call(one.to(VIP))).sent(&call(one.gets(GATEWAY)));
    let answer = |head: Frame| head.tcp(80, 40000).syn().ack(1);
    rig.from_task(&one.task, answer(one.to(GATEWAY))).sent(&answer(one.gets(VIP)));
}
