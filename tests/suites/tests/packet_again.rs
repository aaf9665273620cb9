//! A first packet whose task is gone comes back from its node and goes to another task, once; nothing else is taken back.

use mesh_common::parse::protocol;
use mesh_common::schema::{deliver, flow_flag};
use mesh_common::verdict::DropReason;
use mesh_common::wire::{mac, vni};
use mesh_packet::{Frame, eth};
use mesh_tests::rig::{HERE, MESH0_MAC, PEER_2, PEER_3, ROUTER_MAC, Rig, Service, Task};

const VIP: &str = "10.0.16.2";
const CLIENT: &str = "198.51.100.9";
const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

fn named(src: [u8; 6], task: &Task) -> Frame {
    eth(src, mac::of(mac::KIND_ENDPOINT, task.number))
}

/// A service of these tasks with UDP and TCP 8080 → 80.
fn publish(rig: &mut Rig, tasks: &[&Task]) -> Service {
    let service = rig.service(VIP, tasks);
    rig.publish(&service, protocol::TCP, 8080, 80);
    rig.publish(&service, protocol::UDP, 8080, 80);
    service
}

#[test]
fn a_first_packet_for_a_task_that_is_gone_goes_back_as_it_came() {
    let Some(mut rig) = Rig::new() else { return };
    let gone = rig.task_here("10.0.16.4");
    publish(&mut rig, &[&gone]);
    rig.ended(&gone);
    let syn = named(ROUTER_MAC, &gone).ipv4(CLIENT, PEER_2).tcp(40000, 8080).syn();
    rig.from_overlay(PEER_2, vni::REQUEST_WIRE, &syn).tunnelled(&syn);
    let datagram = named(mac::HOST, &gone).ipv4(PEER_2, VIP).udp(40000, 80).payload(b"?");
    rig.from_overlay(PEER_2, vni::REQUEST_NODE, &datagram).tunnelled(&datagram);
    let caller = rig.task_there(2, "10.0.16.9");
    let inner = eth(mac::GATEWAY, gone.mac).ipv4(caller.addr, gone.addr).tcp(40000, 80).syn();
    rig.from_overlay(PEER_2, gone.vni, &inner).tunnelled(&inner);
    assert!(rig.flows().is_empty(), "nothing is remembered of it");
}

#[test]
fn what_is_no_first_packet_or_a_second_choice_is_not_turned_back() {
    let Some(mut rig) = Rig::new() else { return };
    let gone = rig.task_here("10.0.16.4");
    publish(&mut rig, &[&gone]);
    rig.ended(&gone);
    let head = || named(ROUTER_MAC, &gone).ipv4(CLIENT, PEER_2);
    rig.from_overlay(PEER_2, vni::REQUEST_WIRE, head().tcp(40000, 8080).ack(1)).dropped(DropReason::EndpointGone);
    rig.from_overlay(PEER_2, vni::SECOND_CHANCE_WIRE, head().tcp(40000, 8080).syn()).dropped(DropReason::EndpointGone);
    let caller = rig.task_there(2, "10.0.16.9");
    let inner = |src: [u8; 6]| eth(src, gone.mac).ipv4(caller.addr, gone.addr).tcp(40000, 80);
    rig.from_overlay(PEER_2, gone.vni, inner(mac::GATEWAY).ack(1)).dropped(DropReason::NoEndpoint);
    rig.from_overlay(PEER_2, gone.vni, inner(mac::SECOND_CHANCE).syn()).dropped(DropReason::NoEndpoint);
}

#[test]
fn a_call_that_came_back_goes_to_another_task_here() {
    let Some(mut rig) = Rig::new() else { return };
    let (gone, here) = (rig.task_there(2, "10.0.16.4"), rig.task_here("10.0.16.5"));
    publish(&mut rig, &[&gone, &here]);
    let call = || eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE).tcp(40000, 8080).syn();
    let sent = named(ROUTER_MAC, &gone).ipv4(CLIENT, HERE).tcp(40000, 8080).syn();
    rig.from_uplink(call()).tunnelled(&sent);
    let outcome = rig.from_overlay(PEER_2, vni::TURNED_BACK_WIRE, &sent);
    let outcome = outcome.sent(&here.gets(CLIENT).tcp(40000, 80).syn());
    assert_eq!(outcome.lost_flows.len(), 0, "the choice is replaced: {:?}", outcome.lost_flows);
    let answer = eth(UPLINK_MAC, ROUTER_MAC).ipv4(HERE, CLIENT).tcp(8080, 40000).syn().ack(1);
    rig.from_task(&here, here.to(CLIENT).tcp(80, 40000).syn().ack(1)).sent(&answer);
    let data = eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE).tcp(40000, 8080).seq(1).ack(1);
    rig.from_uplink(&data).sent(&here.gets(CLIENT).tcp(40000, 80).seq(1).ack(1));
}

#[test]
fn a_call_that_came_back_goes_to_another_node_as_a_second_choice() {
    let Some(mut rig) = Rig::new() else { return };
    let (gone, there) = (rig.task_there(2, "10.0.16.4"), rig.task_there(3, "10.0.16.5"));
    publish(&mut rig, &[&gone, &there]);
    let head = |to: &Task| named(ROUTER_MAC, to).ipv4(CLIENT, HERE).udp(40000, 8080).payload(b"?");
    let call = || eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE).udp(40000, 8080).payload(b"?");
    rig.from_uplink(call()).tunnelled(&head(&gone));
    rig.from_uplink(call()).tunnelled(&head(&gone));
    rig.from_overlay(PEER_2, vni::TURNED_BACK_WIRE, head(&gone)).tunnelled(&head(&there));
    let flow = |rig: &Rig| rig.flows().into_values().next().expect("the choice");
    assert_eq!((flow(&rig).deliver, flow(&rig).node, flow(&rig).backend), (deliver::TUNNEL, 3, there.number));
    assert_eq!(flow(&rig).vni, vni::REQUEST_WIRE, "later packets are ordinary requests");
    // The second datagram was on its way already: it follows the first.
    rig.from_overlay(PEER_2, vni::TURNED_BACK_WIRE, head(&gone)).tunnelled(&head(&there));
    rig.from_uplink(call()).tunnelled(&head(&there));
    assert_eq!(rig.flows().len(), 1);
}

#[test]
fn a_call_of_the_host_that_came_back_goes_to_another_task() {
    let Some(mut rig) = Rig::new() else { return };
    let (gone, here) = (rig.task_there(2, "10.0.16.4"), rig.task_here("10.0.16.5"));
    publish(&mut rig, &[&gone, &here]);
    let sent = named(mac::HOST, &gone).ipv4(HERE, VIP).tcp(40000, 80).syn();
    rig.from_host(eth(MESH0_MAC, mac::GATEWAY).ipv4(HERE, VIP).tcp(40000, 80).syn()).tunnelled(&sent);
    rig.from_overlay(PEER_2, vni::TURNED_BACK_NODE, &sent).sent(&here.gets("192.0.2.1").tcp(40000, 80).syn());
    let answer = eth(mac::GATEWAY, MESH0_MAC).ipv4(VIP, HERE).tcp(80, 40000).syn().ack(1);
    rig.from_task(&here, here.to("192.0.2.1").tcp(80, 40000).syn().ack(1)).sent(&answer);
}

#[test]
fn a_tasks_call_of_a_published_port_that_came_back_goes_to_another_task() {
    let Some(mut rig) = Rig::new() else { return };
    let (gone, there) = (rig.task_there(2, "10.0.16.4"), rig.task_there(3, "10.0.16.5"));
    let client = rig.task_here("10.0.16.9");
    publish(&mut rig, &[&gone, &there]);
    let source = mac::of(mac::KIND_CLIENT, client.number);
    let head = |to: &Task| named(source, to).ipv4(client.addr, HERE).tcp(40000, 8080).syn();
    rig.from_task(&client, client.to("192.0.2.1").tcp(40000, 8080).syn()).tunnelled(&head(&gone));
    rig.from_overlay(PEER_2, vni::TURNED_BACK_NODE, head(&gone)).tunnelled(&head(&there));
}

/// Kept apart from its task's call by the VIP, it was translated here.
#[test]
fn one_that_was_translated_by_the_tasks_own_node_does_so_too() {
    let Some(mut rig) = Rig::new() else { return };
    let (gone, there) = (rig.task_there(2, "10.0.16.4"), rig.task_there(3, "10.0.16.5"));
    let client = rig.task_here("10.0.16.9");
    publish(&mut rig, &[&gone]);
    rig.from_task(&client, client.to(VIP).tcp(40000, 80).syn());
    let sent = rig.from_task(&client, client.to("192.0.2.2").tcp(40000, 8080).syn());
    let forward = sent.new_flows.iter().find(|(_, flow)| flow.flags & flow_flag::PORT_CHANGED != 0);
    let port = forward.expect("it has a port of its own").1.other_port;
    publish(&mut rig, &[&gone, &there]);
    let to = |to: &Task, src: [u8; 6], port| eth(src, to.mac).ipv4(client.addr, to.addr).tcp(port, 80).syn();
    rig.from_overlay(PEER_2, vni::TURNED_BACK_TASK, to(&gone, mac::GATEWAY, port)).tunnelled(&to(
        &there,
        mac::SECOND_CHANCE,
        40000,
    ));
    rig.from_overlay(PEER_3, there.vni, there.to(&client.ip()).tcp(80, 40000).syn().ack(1))
        .sent(&eth(mac::GATEWAY, client.mac).ipv4("192.0.2.2", client.addr).tcp(8080, 40000).syn().ack(1));
}

#[test]
fn a_call_to_a_vip_that_came_back_goes_to_another_task() {
    let Some(mut rig) = Rig::new() else { return };
    let (gone, here) = (rig.task_there(2, "10.0.16.4"), rig.task_here("10.0.16.5"));
    let there = rig.task_there(3, "10.0.16.6");
    let client = rig.task_here("10.0.16.9");
    for (port, next) in [(40000, &here), (40001, &there)] {
        rig.service(VIP, &[&gone, next]);
        let sent = |to: &Task, src: [u8; 6]| eth(src, to.mac).ipv4(client.addr, to.addr).tcp(port, 80).syn();
        rig.from_task(&client, client.to(VIP).tcp(port, 80).syn()).tunnelled(&sent(&gone, mac::GATEWAY));
        let outcome = rig.from_overlay(PEER_2, vni::TURNED_BACK_TASK, sent(&gone, mac::GATEWAY));
        if next.ifindex != 0 {
            outcome.sent(&sent(next, mac::GATEWAY));
        } else {
            outcome.tunnelled(&sent(next, mac::SECOND_CHANCE));
        }
        // The answer of the second is the VIP's; what follows goes to it by the ordinary way.
        let answer = || eth(mac::GATEWAY, client.mac).ipv4(VIP, client.addr).tcp(80, port).syn().ack(1);
        let said = next.to(&client.ip()).tcp(80, port).syn().ack(1);
        let outcome =
            if next.ifindex != 0 { rig.from_task(next, said) } else { rig.from_overlay(PEER_3, next.vni, said) };
        outcome.sent(&answer());
        let data = rig.from_task(&client, client.to(VIP).tcp(port, 80).seq(1).ack(1));
        let wanted = eth(mac::GATEWAY, next.mac).ipv4(client.addr, next.addr).tcp(port, 80).seq(1).ack(1);
        if next.ifindex != 0 {
            data.sent(&wanted)
        } else {
            data.tunnelled(&wanted)
        };
    }
}

#[test]
fn datagrams_to_a_vip_that_came_back_late_follow_the_first() {
    let Some(mut rig) = Rig::new() else { return };
    let (gone, there) = (rig.task_there(2, "10.0.16.4"), rig.task_there(3, "10.0.16.6"));
    let client = rig.task_here("10.0.16.9");
    rig.service(VIP, &[&gone, &there]);
    let sent = |to: &Task, src: [u8; 6]| eth(src, to.mac).ipv4(client.addr, to.addr).udp(40000, 53).payload(b"?");
    for _ in 0..2 {
        rig.from_task(&client, client.to(VIP).udp(40000, 53).payload(b"?")).tunnelled(&sent(&gone, mac::GATEWAY));
    }
    let back = sent(&gone, mac::GATEWAY);
    rig.from_overlay(PEER_2, vni::TURNED_BACK_TASK, &back).tunnelled(&sent(&there, mac::SECOND_CHANCE));
    rig.from_overlay(PEER_2, vni::TURNED_BACK_TASK, &back).tunnelled(&sent(&there, mac::GATEWAY));
}

#[test]
fn without_another_task_a_call_that_came_back_is_dropped() {
    let Some(mut rig) = Rig::new() else { return };
    let gone = rig.task_there(2, "10.0.16.4");
    let client = rig.task_here("10.0.16.9");
    publish(&mut rig, &[&gone]);
    let sent = named(ROUTER_MAC, &gone).ipv4(CLIENT, HERE).tcp(40000, 8080).syn();
    rig.from_uplink(eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE).tcp(40000, 8080).syn()).tunnelled(&sent);
    rig.from_overlay(PEER_2, vni::TURNED_BACK_WIRE, &sent).dropped(DropReason::EndpointGone);
    let sent = eth(mac::GATEWAY, gone.mac).ipv4(client.addr, gone.addr).tcp(40000, 80).syn();
    rig.from_task(&client, client.to(VIP).tcp(40000, 80).syn()).tunnelled(&sent);
    rig.from_overlay(PEER_2, vni::TURNED_BACK_TASK, &sent).dropped(DropReason::EndpointGone);
}

#[test]
fn nothing_is_taken_back_that_was_not_sent() {
    let Some(mut rig) = Rig::new() else { return };
    let (there, here) = (rig.task_there(2, "10.0.16.4"), rig.task_here("10.0.16.5"));
    let client = rig.task_here("10.0.16.9");
    publish(&mut rig, &[&there, &here]);
    // No call stands for it.
    let call = named(ROUTER_MAC, &there).ipv4(CLIENT, HERE).tcp(40000, 8080).syn();
    for id in [vni::TURNED_BACK_WIRE, vni::TURNED_BACK_NODE] {
        let src = if id == vni::TURNED_BACK_WIRE { ROUTER_MAC } else { mac::HOST };
        let frame = named(src, &there).ipv4(CLIENT, HERE).tcp(40000, 8080).syn();
        rig.from_overlay(PEER_2, id, &frame).dropped(DropReason::ForgedReply);
    }
    let direct = |to: [u8; 4], from: [u8; 4]| eth(mac::GATEWAY, there.mac).ipv4(from, to).tcp(40000, 80).syn();
    rig.from_overlay(PEER_2, vni::TURNED_BACK_TASK, direct(there.addr, client.addr)).dropped(DropReason::NoEndpoint);
    // It went to another node than the one that hands it back.
    rig.from_uplink(eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE).tcp(40000, 8080).syn()).tunnelled(&call);
    rig.from_overlay(PEER_3, vni::TURNED_BACK_WIRE, &call).dropped(DropReason::ForgedReply);
    let sent = direct(there.addr, client.addr);
    rig.from_overlay(PEER_3, vni::TURNED_BACK_TASK, &sent).dropped(DropReason::NoEndpoint);
    // Not in our format.
    let frame = eth(ROUTER_MAC, mac::GATEWAY).ipv4(CLIENT, HERE).tcp(40000, 8080).syn();
    rig.from_overlay(PEER_2, vni::TURNED_BACK_WIRE, &frame).dropped(DropReason::WireFormat);
    rig.from_overlay(PEER_2, vni::TURNED_BACK_NODE, &call).dropped(DropReason::WireFormat);
}
