//! The uplink's driver hook: what it sends on by itself, byte by byte, and what it leaves to TC, untouched and uncounted.

use mesh_common::parse::protocol;
use mesh_common::schema::{Address, Flow, FlowKey, address_flag, algorithm, flow_flag, frontend_flag};
use mesh_common::verdict::DropReason;
use mesh_common::wire::{mac, vni};
use mesh_packet::{Frame, any, eth};
use mesh_tests::rig::{
    Action, HERE, Outcome, PEER_2, PEER_3, ROUTER_MAC, Rig, Service, Task, UPLINK_MAC, next_hop_mac,
};

#[path = "packet_ingress.rs"]
mod with_tc_behind;

const VIP: &str = "10.0.16.2";
/// The client outside, behind the router.
const CLIENT: &str = "198.51.100.9";
/// The client's packets' identification: outside it is the same.
const ID: u16 = 0x1234;

/// The head of a frame from the client outside to this node.
fn call() -> Frame {
    eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE).id(ID)
}

/// The outer headers of what goes to a node, and the inner frame's head: the choice in its destination MAC.
fn to(node: u32, addr: [u8; 4], task: &Task) -> Frame {
    let outer = eth(UPLINK_MAC, next_hop_mac(node)).ipv4(HERE, addr).id(ID);
    let inner = outer.udp(any(), 4789).no_checksum().vxlan(vni::REQUEST_WIRE);
    inner.eth(ROUTER_MAC, mac::of(mac::KIND_ENDPOINT, task.number)).ipv4(CLIENT, HERE).id(ID)
}

/// The outer headers of what node 2 sends back, and the inner frame's MACs.
fn from_2(id: u32) -> Frame {
    let outer = eth(next_hop_mac(2), UPLINK_MAC).ipv4(PEER_2, HERE);
    outer.udp(50_000, 4789).no_checksum().vxlan(id).eth(mac::GATEWAY, ROUTER_MAC)
}

/// A service with one task on node 2, published as 8080.
fn published(rig: &mut Rig) -> (Service, Task) {
    let task = rig.task_there(2, "10.0.16.4");
    let service = rig.service(VIP, &[&task]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    rig.publish(&service, protocol::UDP, 8080, 80);
    rig.next_hop(2, PEER_2, 1_500);
    (service, task)
}

fn the_flow(rig: &Rig) -> (FlowKey<[u8; 4]>, Flow<[u8; 4]>) {
    let flows = rig.flows();
    assert_eq!(flows.len(), 1, "one entry: {flows:#?}");
    flows.into_iter().next().expect("just counted")
}

#[track_caller]
fn no_entries(outcome: Outcome) -> Outcome {
    assert_eq!((&outcome.new_flows, &outcome.lost_flows), (&vec![], &vec![]));
    outcome
}

#[test]
fn a_call_to_a_task_elsewhere_is_wrapped_and_sent() {
    let Some(mut rig) = Rig::new() else { return };
    let (_, task) = published(&mut rig);
    let outcome = rig.xdp_uplink(call().udp(40000, 8080).payload(b"?"));
    let outcome = outcome.sent(&to(2, PEER_2, &task).udp(40000, 8080).payload(b"?"));
    let (_, flow) = outcome.new_flow();
    assert_eq!((outcome.new_flows.len(), flow.node, flow.vni, flow.packets), (1, 2, vni::REQUEST_WIRE, 1));
    let sport = u16::from_be_bytes([outcome.frame[34], outcome.frame[35]]);
    assert!(sport >= 49_152, "RFC 7348 recommends the dynamic ports: {sport}");
}

#[test]
fn later_packets_go_by_the_entry_and_are_counted_once() {
    let Some(mut rig) = Rig::new() else { return };
    let (_, task) = published(&mut rig);
    rig.xdp_uplink(call().tcp(40000, 8080).syn());
    let data = call().tcp(40000, 8080).seq(1).ack(1).payload(b"GET /");
    let wanted = to(2, PEER_2, &task).tcp(40000, 8080).seq(1).ack(1).payload(b"GET /");
    let first = no_entries(rig.xdp_uplink(&data).sent(&wanted));
    let second = rig.xdp_uplink(&data).sent(&wanted);
    assert_eq!(first.frame[34..36], second.frame[34..36], "a flow has one source port outside");
    let (_, flow) = the_flow(&rig);
    assert_eq!((flow.packets, flow.bytes), (3, 2 * data.bytes().len() as u64));
}

#[test]
fn congestion_marks_are_told_outside() {
    let Some(mut rig) = Rig::new() else { return };
    let (_, task) = published(&mut rig);
    let inner = |frame: Frame| frame.tos(0xb9).udp(40000, 8080).payload(b"?");
    let outer = eth(UPLINK_MAC, next_hop_mac(2)).ipv4(HERE, PEER_2).id(ID).tos(1).udp(any(), 4789).no_checksum();
    let head = outer.vxlan(vni::REQUEST_WIRE).eth(ROUTER_MAC, mac::of(mac::KIND_ENDPOINT, task.number));
    rig.xdp_uplink(inner(call())).sent(&inner(head.ipv4(CLIENT, HERE).id(ID)));
}

#[test]
fn a_syn_is_clamped_with_a_right_checksum_wherever_the_option_stands() {
    let Some(mut rig) = Rig::new() else { return };
    let (_, task) = published(&mut rig);
    let options: [&[u8]; 4] = [&[], &[1], &[3, 3, 7], &[8, 10, 1, 2, 3, 4, 0, 0, 0, 0]];
    for (n, before) in options.into_iter().enumerate() {
        let port = 40000 + n as u16;
        let syn = |frame: Frame, mss| frame.tcp(port, 8080).syn().tcp_option(before).mss(mss);
        rig.xdp_uplink(syn(call(), 1460)).sent(&syn(to(2, PEER_2, &task), 1410));
    }
    let small = |frame: Frame| frame.tcp(40010, 8080).syn().mss(536);
    rig.xdp_uplink(small(call())).sent(&small(to(2, PEER_2, &task)));
}

#[test]
fn a_first_call_to_an_address_of_another_link_is_left_alone() {
    let Some(mut rig) = Rig::new() else { return };
    published(&mut rig);
    let syn = call().tcp(40000, 8080).syn().mss(1460);
    // CONFIG knows the link of the data path address, or ADDRESSES4 does.
    let other_link = Address { node: 1, ifindex: 1, flags: address_flag::OWN, pad: [0; 3] };
    for (config, known) in [(1, false), (0, true)] {
        rig.configure(|config_at| config_at.tunnel_link4 = config);
        if known {
            rig.put("ADDRESSES4", [192u8, 0, 2, 1], other_link);
        }
        no_entries(rig.xdp_uplink(&syn).left_alone());
    }
}

#[test]
fn what_is_not_plainly_a_call_is_left_alone() {
    let Some(mut rig) = Rig::new() else { return };
    published(&mut rig);
    let other_link = Address { node: 1, ifindex: 1, flags: address_flag::OWN, pad: [0; 3] };
    rig.put("ADDRESSES4", [192u8, 0, 2, 100], other_link);
    let syn = |frame: Frame| frame.tcp(40000, 8080).syn().mss(1460);
    let to_us = eth(ROUTER_MAC, UPLINK_MAC);
    let mut longer_than_itself = syn(call()).bytes();
    longer_than_itself[17] += 1;
    let whole = call().udp(40000, 8080).payload_of(2_000).bytes();
    let mut frames = vec![
        call().tcp(40000, 22).syn().bytes(),
        call().icmp_echo(1, 1).payload_of(56).bytes(),
        call().icmp_error(3, 4, 1400).payload_of(28).bytes(),
        call().protocol(47).payload_of(20).bytes(),
        syn(call().ip_options(&[1, 1, 1, 1])).bytes(),
        syn(to_us.clone().ipv4(CLIENT, "198.51.100.77")).bytes(),
        syn(to_us.clone().ipv4(CLIENT, PEER_2)).bytes(),
        syn(to_us.clone().ipv4(CLIENT, "192.0.2.100")).bytes(),
        syn(to_us.clone().ipv4(CLIENT, "10.0.16.4")).bytes(),
        syn(to_us.clone().vlan(5).ipv4(CLIENT, HERE)).bytes(),
        syn(to_us.clone().ipv6("2001:db8::9", "2001:db8::1")).bytes(),
        eth(ROUTER_MAC, "ff:ff:ff:ff:ff:ff").arp_request(ROUTER_MAC, "192.0.2.254", HERE).bytes(),
        syn(call()).bytes()[..40].to_vec(),
        longer_than_itself,
    ];
    frames.extend(mesh_packet::fragments(&whole, 1_400));
    for frame in &frames {
        no_entries(rig.xdp_uplink(frame).left_alone());
    }
    rig.xdp_uplink(syn(call())).acted_as(Action::Redirect);
    rig.configure(|config| config.mesh0 = 0);
    rig.xdp_uplink(syn(call())).left_alone();
}

#[test]
fn a_port_of_the_hosts_own_and_one_without_tasks_are_left_to_tc() {
    let Some(mut rig) = Rig::new() else { return };
    let (mut service, _) = published(&mut rig);
    let empty = rig.service("10.0.16.9", &[]);
    rig.publish(&empty, protocol::TCP, 9090, 80);
    service.frontend.flags = frontend_flag::NOT_TAKEN;
    rig.publish(&service, protocol::TCP, 8081, 80);
    for port in [9090, 8081] {
        no_entries(rig.xdp_uplink(call().tcp(40000, port).syn()).left_alone());
    }
}

#[test]
fn an_unreachable_node_is_refused_by_tc() {
    let Some(mut rig) = Rig::new() else { return };
    published(&mut rig);
    rig.unreachable(2, PEER_2);
    let (outcome, by_xdp) = rig.from_wire_with_xdp(call().tcp(40000, 8080).syn());
    let rst = eth(UPLINK_MAC, ROUTER_MAC).ipv4(HERE, CLIENT).dont_fragment();
    outcome.refused(DropReason::PeerUnreachable, &rst.tcp(8080, 40000).rst().ack(1).window(any()));
    assert!(!by_xdp);
}

#[test]
fn a_node_without_a_next_hop_on_this_link_is_reached_by_tc_and_the_packet_counted_once() {
    for ifindex in [0, 1] {
        let Some(mut rig) = Rig::new() else { return };
        published(&mut rig);
        let peer = mesh_common::schema::Peer { ifindex, ..rig.peer(2) };
        rig.set("PEERS", 2, peer);
        for packets in [1, 2] {
            let (outcome, by_xdp) = rig.from_wire_with_xdp(call().udp(40000, 8080).payload(b"?"));
            outcome.acted_as(Action::Redirect);
            assert_eq!((by_xdp, the_flow(&rig).1.packets), (false, packets));
        }
    }
}

#[test]
fn what_does_not_fit_the_path_is_left_to_tc() {
    let Some(mut rig) = Rig::new() else { return };
    published(&mut rig);
    // 1500 less the outer 36 (IP, UDP, VXLAN) and the inner 14 and 28.
    let fits = call().udp(40000, 8080).payload_of(1_500 - 36 - 14 - 28);
    let too_long = call().udp(40000, 8080).payload_of(1_500 - 36 - 14 - 27);
    assert!(rig.from_wire_with_xdp(&fits).1);
    assert_eq!(the_flow(&rig).1.packets, 1);
    let (outcome, by_xdp) = rig.from_wire_with_xdp(&too_long);
    outcome.acted_as(Action::Redirect);
    assert_eq!((by_xdp, the_flow(&rig).1.packets), (false, 2));
}

#[test]
fn a_jumbo_frame_in_several_buffers_is_wrapped_whole() {
    let Some(mut rig) = Rig::new() else { return };
    let (_, task) = published(&mut rig);
    rig.next_hop(2, PEER_2, 9_000);
    let long = |frame: Frame| frame.udp(40000, 8080).payload_of(8_000);
    rig.xdp_uplink(long(call())).sent(&long(to(2, PEER_2, &task)));
}

#[test]
fn a_task_here_is_served_by_tc_and_its_packets_counted_once() {
    let Some(mut rig) = Rig::new() else { return };
    let task = rig.task_here("10.0.16.4");
    let service = rig.service(VIP, &[&task]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    let (outcome, by_xdp) = rig.from_wire_with_xdp(call().tcp(40000, 8080).syn().mss(1410));
    let outcome = outcome.sent(&task.gets(CLIENT).id(ID).tcp(40000, 80).syn().mss(1410));
    assert!(!by_xdp);
    let (key, _) = outcome.new_flow();
    assert_eq!(rig.flows()[&key].packets, 1);
    let data = |frame: Frame, port| frame.id(ID).tcp(40000, port).seq(1).ack(1).payload(b"GET /");
    let (outcome, _) = rig.from_wire_with_xdp(data(call(), 8080));
    outcome.sent(&data(task.gets(CLIENT), 80));
    assert_eq!(rig.flows()[&key].packets, 2);
}

#[test]
fn turns_are_taken_strictly_by_both_hooks_together() {
    let Some(mut rig) = Rig::new() else { return };
    let tasks = [rig.task_there(2, "10.0.16.4"), rig.task_here("10.0.16.5"), rig.task_there(3, "10.0.16.6")];
    let service = rig.service(VIP, &tasks.each_ref());
    rig.publish(&service, protocol::TCP, 8080, 80);
    rig.next_hop(2, PEER_2, 1_500);
    rig.next_hop(3, PEER_3, 1_500);
    let mut chosen = Vec::new();
    for n in 0..12u16 {
        let syn = call().tcp(40000 + n, 8080).syn();
        let outcome = if n % 5 == 4 { rig.from_uplink(&syn) } else { rig.from_wire_with_xdp(&syn).0 };
        chosen.push(outcome.new_flow().1.backend);
    }
    let in_turn: Vec<u32> = tasks.iter().map(|task| task.number).cycle().take(12).collect();
    assert_eq!(chosen, in_turn);
}

#[test]
fn maglev_needs_no_entry_and_chooses_as_tc_does() {
    let Some(mut rig) = Rig::new() else { return };
    let tasks = [rig.task_there(2, "10.0.16.4"), rig.task_there(3, "10.0.16.6"), rig.task_here("10.0.16.5")];
    let mut service = rig.service(VIP, &tasks.each_ref());
    service.frontend.algorithm = algorithm::MAGLEV;
    rig.publish(&service, protocol::TCP, 8080, 80);
    rig.next_hop(2, PEER_2, 1_500);
    rig.next_hop(3, PEER_3, 1_500);
    let mut served = [0; 3];
    for port in 40000..40040 {
        let syn = call().tcp(port, 8080).syn();
        let data = call().tcp(port, 8080).seq(1).ack(1).payload(b"GET /");
        let (by_xdp, later) = (no_entries(rig.xdp_uplink(&syn)), no_entries(rig.xdp_uplink(&data)));
        let (_, flow) = rig.from_uplink(&syn).new_flow();
        let at = tasks.iter().position(|task| task.number == flow.backend).expect("one of the tasks");
        served[at] += 1;
        match at {
            0 => by_xdp.sent(&to(2, PEER_2, &tasks[0]).tcp(port, 8080).syn()),
            1 => by_xdp.sent(&to(3, PEER_3, &tasks[1]).tcp(port, 8080).syn()),
            _ => by_xdp.left_alone(),
        };
        later.acted_as(if at == 2 { Action::Next } else { Action::Redirect });
    }
    assert!(served.iter().all(|n| *n > 0), "each task has a part of the ring: {served:?}");
}

#[test]
fn a_flow_whose_task_is_gone_is_refused_by_tc() {
    let Some(mut rig) = Rig::new() else { return };
    published(&mut rig);
    rig.xdp_uplink(call().tcp(40000, 8080).syn());
    let (key, flow) = the_flow(&rig);
    rig.put("FLOWS4", key, Flow { flags: flow.flags | flow_flag::DEAD, ..flow });
    let (outcome, by_xdp) = rig.from_wire_with_xdp(call().tcp(40000, 8080).seq(1).ack(1));
    let rst = eth(UPLINK_MAC, ROUTER_MAC).ipv4(HERE, CLIENT).dont_fragment().tcp(8080, 40000).seq(1).rst();
    outcome.refused(DropReason::BackendGone, &rst.window(any()));
    assert!(!by_xdp);
}

#[test]
fn a_closing_tuple_opens_again_with_another_turn() {
    let Some(mut rig) = Rig::new() else { return };
    let tasks = [rig.task_there(2, "10.0.16.4"), rig.task_there(3, "10.0.16.6")];
    let service = rig.service(VIP, &tasks.each_ref());
    rig.publish(&service, protocol::TCP, 8080, 80);
    rig.next_hop(2, PEER_2, 1_500);
    rig.next_hop(3, PEER_3, 1_500);
    let syn = |frame: Frame| frame.tcp(40000, 8080).syn();
    rig.xdp_uplink(syn(call())).sent(&syn(to(2, PEER_2, &tasks[0])));
    rig.xdp_uplink(call().tcp(40000, 8080).seq(1).ack(1).rst()).acted_as(Action::Redirect);
    rig.xdp_uplink(syn(call())).sent(&syn(to(3, PEER_3, &tasks[1])));
}

#[test]
fn an_answer_is_unwrapped_and_sent_to_the_neighbour_it_names() {
    let Some(mut rig) = Rig::new() else { return };
    published(&mut rig);
    let answer = |frame: Frame| frame.ipv4(HERE, CLIENT).tcp(8080, 40000).syn().ack(1).mss(1410);
    let outcome = rig.xdp_uplink(answer(from_2(vni::REPLY_WIRE)));
    no_entries(outcome.sent(&answer(eth(UPLINK_MAC, ROUTER_MAC))));
    rig.xdp_uplink(call().tcp(40000, 8080).syn());
    rig.xdp_uplink(answer(from_2(vni::REPLY_WIRE))).sent(&answer(eth(UPLINK_MAC, ROUTER_MAC)));
    assert_eq!(the_flow(&rig).1.packets, 1, "the call's entry counts calls");
}

#[test]
fn a_jumbo_answer_is_unwrapped_whole() {
    let Some(mut rig) = Rig::new() else { return };
    published(&mut rig);
    let answer = |frame: Frame| frame.ipv4(HERE, CLIENT).udp(8080, 40000).payload_of(8_000);
    rig.xdp_uplink(answer(from_2(vni::REPLY_WIRE))).sent(&answer(eth(UPLINK_MAC, ROUTER_MAC)));
}

#[test]
fn what_is_not_plainly_an_answer_is_left_to_tc() {
    let Some(mut rig) = Rig::new() else { return };
    published(&mut rig);
    let good = |frame: Frame| frame.ipv4(HERE, CLIENT).tcp(8080, 40000).ack(1);
    let reply = || from_2(vni::REPLY_WIRE);
    let outer = |src: [u8; 4], dst: [u8; 4]| eth(next_hop_mac(2), UPLINK_MAC).ipv4(src, dst);
    let inside =
        |outer: Frame| good(outer.udp(50_000, 4789).no_checksum().vxlan(vni::REPLY_WIRE).eth(mac::GATEWAY, ROUTER_MAC));
    let mut more_than_a_vni = good(reply()).bytes();
    more_than_a_vni[42] |= 0x80;
    for frame in [
        reply().ipv4(HERE, CLIENT).tcp(22, 40000).ack(1).bytes(),
        reply().ipv4(PEER_2, CLIENT).tcp(8080, 40000).ack(1).bytes(),
        reply().ipv4("10.0.16.4", CLIENT).tcp(8080, 40000).ack(1).bytes(),
        reply().ipv4(HERE, CLIENT).icmp_echo_reply(1, 1).bytes(),
        reply().ipv6("2001:db8::1", "2001:db8::9").tcp(8080, 40000).ack(1).bytes(),
        good(from_2(vni::REPLY_NODE)).bytes(),
        good(from_2(vni::REQUEST_WIRE)).bytes(),
        good(from_2(4_097)).bytes(),
        inside(outer([192, 0, 2, 77], HERE)).bytes(),
        inside(outer(PEER_2, [192, 0, 2, 100])).bytes(),
        inside(outer(PEER_2, HERE).tos(3)).bytes(),
        more_than_a_vni,
        good(reply()).bytes()[..80].to_vec(),
    ] {
        no_entries(rig.xdp_uplink(&frame).left_alone());
    }
    rig.xdp_uplink(inside(outer(PEER_2, HERE))).acted_as(Action::Redirect);
    // A peer whose packets the host's stack has to judge first.
    let flags = address_flag::TUNNEL | address_flag::BY_MESH0;
    rig.put("ADDRESSES4", PEER_2, Address { node: 2, ifindex: 0, flags, pad: [0; 3] });
    rig.xdp_uplink(inside(outer(PEER_2, HERE))).left_alone();
}

#[test]
fn an_answer_whose_call_came_by_another_link_leaves_by_tc() {
    let Some(mut rig) = Rig::new() else { return };
    published(&mut rig);
    rig.xdp_uplink(call().tcp(40000, 8080).syn());
    let (key, flow) = the_flow(&rig);
    rig.put("FLOWS4", key, Flow { ifindex: 1, ..flow });
    let answer = from_2(vni::REPLY_WIRE).ipv4(HERE, CLIENT).tcp(8080, 40000).syn().ack(1);
    rig.xdp_uplink(&answer).left_alone();
    rig.xdp_uplink(call().tcp(40000, 8080).seq(1).ack(1)).left_alone();
    assert_eq!(the_flow(&rig).1.packets, 1);
}
