//! A task's way to the outside and back: source address and port become the node's; on the loaded programs, with real routes.

use mesh_common::parse::protocol;
use mesh_common::schema::{FlowKey, deliver, rewrite};
use mesh_common::snat;
use mesh_common::verdict::DropReason;
use mesh_packet::{any, eth};
use mesh_tests::rig::{Family, HERE, ROUTER_MAC, Rig, clamped_mss, flow_hash, ip};

const SERVER: &str = "198.51.100.9";
const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

#[test]
fn a_connection_to_the_outside_leaves_as_the_nodes_and_its_answer_comes_back() {
    let Some(mut rig) = Rig::new() else { return };
    let task = rig.task_here("10.0.16.3");
    let syn = task.to(SERVER).tcp(40000, 443).syn().mss(clamped_mss());
    let outcome = rig.from_task(&task, &syn);
    let forward = outcome.new_flows.iter().find(|(_, flow)| flow.rewrite == rewrite::SOURCE).unwrap().1;
    assert_eq!((forward.deliver, forward.ifindex, forward.addr), (deliver::OUTSIDE, rig.devices().uplink, HERE));
    assert!(forward.port >= snat::FIRST_PORT, "out of the ephemeral range");
    // The neighbour table writes the MACs when it is sent.
    outcome.sent(&eth(any(), any()).ipv4(HERE, SERVER).ttl(63).tcp(forward.port, 443).syn().mss(clamped_mss()));

    let answer = eth(ROUTER_MAC, UPLINK_MAC).ipv4(SERVER, HERE).tcp(443, forward.port).syn().ack(1).mss(1460);
    rig.from_uplink(&answer).sent(&task.gets(SERVER).tcp(443, 40000).syn().ack(1).mss(clamped_mss()));
}

#[test]
fn an_echo_to_the_outside_comes_back() {
    let Some(mut rig) = Rig::new() else { return };
    let task = rig.task_here("10.0.16.3");
    let outcome = rig.from_task(&task, task.to(SERVER).icmp_echo(77, 1).payload_of(56));
    let id = outcome.new_flows.iter().find(|(_, flow)| flow.rewrite == rewrite::SOURCE).unwrap().1.port;
    outcome.sent(&eth(any(), any()).ipv4(HERE, SERVER).ttl(63).icmp_echo(id, 1).payload_of(56));
    let answer = eth(ROUTER_MAC, UPLINK_MAC).ipv4(SERVER, HERE).icmp_echo_reply(id, 1).payload_of(56);
    rig.from_uplink(&answer).sent(&task.gets(SERVER).icmp_echo_reply(77, 1).payload_of(56));
}

#[test]
fn datagrams_of_two_tasks_from_one_port_get_ports_of_their_own() {
    let Some(mut rig) = Rig::new() else { return };
    let tasks = [rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4")];
    let ports = tasks.map(|task| {
        let outcome = rig.from_task(&task, task.to(SERVER).udp(40000, 53).payload(b"?"));
        outcome.new_flows.iter().find(|(_, flow)| flow.rewrite == rewrite::SOURCE).unwrap().1.port
    });
    assert_ne!(ports[0], ports[1]);
}

#[test]
fn an_internal_network_has_no_way_out() {
    let Some(mut rig) = Rig::new() else { return };
    let task = rig.internal_task_here("10.0.16.3");
    for dst in [SERVER, "192.0.2.1", "192.0.2.2", "192.0.2.254"] {
        rig.from_task(&task, task.to(dst).tcp(40000, 443).syn()).dropped(DropReason::Internal);
    }
}

#[test]
fn a_destination_without_a_route_is_refused() {
    let Some(mut rig) = Rig::new() else { return };
    let task = rig.task_here("10.0.16.3");
    let broadcast = (Family::of_this_test() == Family::V4).then_some("192.0.2.255");
    for dst in ["203.0.113.7", "127.0.0.1"].into_iter().chain(broadcast) {
        let rst = task.gets(dst).dont_fragment().tcp(443, 40000).rst().ack(1).window(any());
        rig.from_task(&task, task.to(dst).tcp(40000, 443).syn()).refused(DropReason::NoRoute, &rst);
    }
}

#[test]
fn a_destination_for_which_no_port_is_left_is_dropped() {
    let Some(mut rig) = Rig::new() else { return };
    let task = rig.task_here("10.0.16.3");
    let flow = {
        let other = rig.task_here("10.0.16.4");
        rig.from_task(&other, other.to(SERVER).udp(1, 1).payload(b"x")).new_flow().1
    };
    let hash = flow_hash(&FlowKey::new(task.addr, ip(SERVER), 40000, 53, protocol::UDP));
    for attempt in 0..snat::TRIES {
        let dport = snat::candidate(hash, attempt);
        let key = FlowKey::new(ip(SERVER), HERE, 53u16, dport, protocol::UDP);
        rig.put_flow(key, flow);
    }
    rig.from_task(&task, task.to(SERVER).udp(40000, 53).payload(b"?")).dropped(DropReason::NoSnatPort);
}

#[test]
fn what_has_no_port_to_translate_does_not_leave() {
    let Some(mut rig) = Rig::new() else { return };
    let task = rig.task_here("10.0.16.3");
    rig.from_task(&task, task.to(SERVER).protocol(47).payload_of(20)).dropped(DropReason::Unsupported);
    rig.from_task(&task, task.to(SERVER).icmp_error(3, 3, 0).payload_of(28)).dropped(DropReason::IcmpError);
    let whole = task.to(SERVER).udp(40000, 53).payload_of(2_000);
    rig.from_task(&task, &mesh_tests::rig::cut(&whole, 1_400)[1]).ignored();
}

#[test]
fn an_answer_that_nobody_asked_for_is_left_to_the_host() {
    let Some(mut rig) = Rig::new() else { return };
    rig.task_here("10.0.16.3");
    rig.from_uplink(eth(ROUTER_MAC, UPLINK_MAC).ipv4(SERVER, HERE).tcp(443, 61_234).syn().ack(1)).left_alone();
}
