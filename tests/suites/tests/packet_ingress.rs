//! Calls from outside, from the host and from tasks to published ports (north–south): the ingress node chooses, the owner rewrites.

use mesh_common::parse::protocol;
use mesh_common::schema::{FrontendKey, address_flag, deliver, frontend_flag};
use mesh_common::verdict::DropReason;
use mesh_common::wire::{mac, vni};
use mesh_packet::{Frame, any, eth};
use mesh_tests::rig::{HERE, MESH0_MAC, PEER_2, ROUTER_MAC, Rig, clamped_mss};

const VIP: &str = "10.0.16.2";
/// The client outside, behind the router.
const CLIENT: &str = "198.51.100.9";
const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// These tests run twice: packet_xdp has them too, with the driver's hook before TC.
fn rig() -> Option<Rig> {
    if module_path!().starts_with("packet_xdp") { Rig::with_xdp() } else { Rig::new() }
}

/// The head of a frame from the client outside to this node.
fn call() -> Frame {
    eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE)
}

/// The head of a frame from this node to the client outside.
fn answer() -> Frame {
    eth(UPLINK_MAC, ROUTER_MAC).ipv4(HERE, CLIENT)
}

#[test]
fn a_published_port_reaches_a_task_here_which_sees_the_caller() {
    let Some(mut rig) = rig() else { return };
    let backend = rig.task_here("10.0.16.4");
    let service = rig.service(VIP, &[&backend]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    rig.from_uplink(call().tcp(40000, 8080).syn().mss(clamped_mss()))
        .sent(&backend.gets(CLIENT).tcp(40000, 80).syn().mss(clamped_mss()));
    let reply = backend.to(CLIENT).tcp(80, 40000).syn().ack(1);
    rig.from_task(&backend, &reply).sent(&answer().tcp(8080, 40000).syn().ack(1));
    let data = call().tcp(40000, 8080).seq(1).ack(1).payload(b"GET /");
    rig.from_uplink(&data).sent(&backend.gets(CLIENT).tcp(40000, 80).seq(1).ack(1).payload(b"GET /"));
}

#[test]
fn a_published_port_reaches_a_task_elsewhere_unmodified_with_the_choice_in_the_macs() {
    let Some(mut rig) = rig() else { return };
    let backend = rig.task_there(2, "10.0.16.4");
    let service = rig.service(VIP, &[&backend]);
    rig.publish(&service, protocol::UDP, 8080, 80);
    let inner = eth(ROUTER_MAC, mac::of(mac::KIND_ENDPOINT, backend.number)).ipv4(CLIENT, HERE);
    let outcome =
        rig.from_uplink(call().udp(40000, 8080).payload(b"?")).tunnelled(&inner.udp(40000, 8080).payload(b"?"));
    let (_, flow) = outcome.new_flow();
    assert_eq!((flow.deliver, flow.node, flow.vni), (deliver::TUNNEL, 2, vni::REQUEST_WIRE));
    assert_eq!(outcome.new_flows.len(), 1, "only the choice is kept");
}

#[test]
fn the_owner_rewrites_and_answers_through_the_ingress_node_to_the_last_hop() {
    let Some(mut rig) = rig() else { return };
    let backend = rig.task_here("10.0.16.4");
    let service = rig.service(VIP, &[&backend]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    let endpoint = mac::of(mac::KIND_ENDPOINT, backend.number);
    let request = eth(ROUTER_MAC, endpoint).ipv4(CLIENT, PEER_2).tcp(40000, 8080).syn();
    rig.from_overlay(PEER_2, vni::REQUEST_WIRE, &request).sent(&backend.gets(CLIENT).tcp(40000, 80).syn());
    let reply = backend.to(CLIENT).tcp(80, 40000).syn().ack(1);
    let inner = eth(mac::GATEWAY, ROUTER_MAC).ipv4(PEER_2, CLIENT).tcp(8080, 40000).syn().ack(1);
    rig.from_task(&backend, &reply).tunnelled(&inner);
    let key = rig.flows().into_iter().find(|(key, _)| key.src == backend.addr).unwrap();
    assert_eq!((key.1.node, key.1.vni, key.1.mac), (2, vni::REPLY_WIRE, ROUTER_MAC));
}

#[test]
fn the_ingress_node_sends_a_reply_to_the_neighbour_it_names() {
    let Some(mut rig) = rig() else { return };
    let backend = rig.task_there(2, "10.0.16.4");
    let service = rig.service(VIP, &[&backend]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    let reply = eth(mac::GATEWAY, ROUTER_MAC).ipv4(HERE, CLIENT).tcp(8080, 40000).syn().ack(1);
    rig.from_overlay(PEER_2, vni::REPLY_WIRE, &reply).sent(&answer().tcp(8080, 40000).syn().ack(1));
}

#[test]
fn a_connection_outlives_the_publishing_of_its_port() {
    let Some(mut rig) = rig() else { return };
    let backend = rig.task_there(2, "10.0.16.4");
    let service = rig.service(VIP, &[&backend]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    rig.from_uplink(call().tcp(40000, 8080).syn());
    rig.delete_frontend(FrontendKey::published(8080, protocol::TCP));
    let reply = |port: u16| eth(mac::GATEWAY, ROUTER_MAC).ipv4(HERE, CLIENT).tcp(8080, port).ack(1);
    rig.from_overlay(PEER_2, vni::REPLY_WIRE, reply(40000)).sent(&answer().tcp(8080, 40000).ack(1));
    rig.from_overlay(PEER_2, vni::REPLY_WIRE, reply(40001)).dropped(DropReason::ForgedReply);
}

#[test]
fn a_reply_from_what_is_no_frontend_of_ours_is_forged() {
    let Some(mut rig) = rig() else { return };
    let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_there(2, "10.0.16.4"));
    let service = rig.service(VIP, &[&backend]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    let forged = |src: [u8; 4], sport: u16| eth(mac::GATEWAY, ROUTER_MAC).ipv4(src, CLIENT).tcp(sport, 1).ack(1);
    for (src, sport) in [(HERE, 22), (PEER_2, 8080), ([10, 0, 16, 4], 8080), ([203, 0, 113, 1], 8080)] {
        rig.from_overlay(PEER_2, vni::REPLY_WIRE, forged(src, sport)).dropped(DropReason::ForgedReply);
    }
    let to_task = eth(mac::GATEWAY, mac::of(mac::KIND_CLIENT, client.number)).ipv4(CLIENT, client.addr).udp(1, 2);
    rig.from_overlay(PEER_2, vni::REPLY_NODE, &to_task).dropped(DropReason::ForgedReply);
    let to_host = eth(mac::GATEWAY, mac::HOST).ipv4(PEER_2, "203.0.113.1").tcp(8080, 1).ack(1);
    rig.from_overlay(PEER_2, vni::REPLY_NODE, &to_host).dropped(DropReason::ForgedReply);
}

#[test]
fn a_syn_from_outside_is_clamped_to_what_fits_the_tunnel() {
    let Some(mut rig) = rig() else { return };
    let backend = rig.task_here("10.0.16.4");
    let service = rig.service(VIP, &[&backend]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    rig.from_uplink(call().tcp(40000, 8080).syn().mss(1460))
        .sent(&backend.gets(CLIENT).tcp(40000, 80).syn().mss(clamped_mss()));
    rig.from_uplink(call().tcp(40001, 8080).syn().mss(536)).sent(&backend.gets(CLIENT).tcp(40001, 80).syn().mss(536));
    rig.from_uplink(call().tcp(40002, 8080).syn()).sent(&backend.gets(CLIENT).tcp(40002, 80).syn());
}

#[test]
fn the_mss_is_clamped_wherever_it_stands_among_the_options() {
    let Some(mut rig) = rig() else { return };
    let backend = rig.task_here("10.0.16.4");
    let service = rig.service(VIP, &[&backend]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    let (nop, scale, timestamps) = (&[1][..], &[3, 3, 7][..], &[8, 10, 1, 2, 3, 4, 0, 0, 0, 0][..]);
    for (n, before) in [nop, scale, timestamps].iter().enumerate() {
        let port = 40000 + n as u16;
        let syn = call().tcp(port, 8080).syn().tcp_option(before).mss(1460);
        let wanted = backend.gets(CLIENT).tcp(port, 80).syn().tcp_option(before).mss(clamped_mss());
        rig.from_uplink(&syn).sent(&wanted);
    }
}

#[test]
fn the_payload_of_a_syn_is_no_option() {
    let Some(mut rig) = rig() else { return };
    let backend = rig.task_here("10.0.16.4");
    let service = rig.service(VIP, &[&backend]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    let payload = [2, 4, 0xff, 0xff, 1, 1];
    rig.from_uplink(call().tcp(40000, 8080).syn().payload(payload))
        .sent(&backend.gets(CLIENT).tcp(40000, 80).syn().payload(payload));
}

#[test]
fn a_published_port_without_tasks_refuses_the_caller_outside() {
    let Some(mut rig) = rig() else { return };
    let service = rig.service(VIP, &[]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    rig.publish(&service, protocol::UDP, 8080, 80);
    let rst = answer().dont_fragment().tcp(8080, 40000).rst().ack(1).window(any());
    rig.from_uplink(call().tcp(40000, 8080).syn().mss(1460)).refused(DropReason::NoBackend, &rst);
    let udp = call().udp(40000, 8080).payload_of(50);
    let unreachable = answer().dont_fragment().icmp_error(3, 3, 0).about(&udp);
    rig.from_uplink(&udp).refused(DropReason::NoBackend, &unreachable);
}

#[test]
fn nobody_is_told_who_is_not_one() {
    let Some(mut rig) = rig() else { return };
    let service = rig.service(VIP, &[]);
    rig.publish(&service, protocol::UDP, 8080, 80);
    // To a group of the link, from a group, from nobody (RFC 1122, 3.2.2; RFC 4443, 2.4).
    for head in [
        eth(ROUTER_MAC, "01:00:5e:00:00:01").ipv4(CLIENT, HERE),
        eth(ROUTER_MAC, UPLINK_MAC).ipv4("239.1.2.3", HERE),
        eth(ROUTER_MAC, UPLINK_MAC).ipv4("0.0.0.0", HERE),
    ] {
        rig.from_uplink(head.udp(40000, 8080).payload(b"?")).dropped(DropReason::NoBackend);
    }
}

#[test]
fn a_call_whose_node_is_unreachable_is_refused_to_the_caller_outside() {
    let Some(mut rig) = rig() else { return };
    let backend = rig.task_there(2, "10.0.16.4");
    let service = rig.service(VIP, &[&backend]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    rig.unreachable(2, PEER_2);
    let rst = answer().dont_fragment().tcp(8080, 40000).rst().ack(1).window(any());
    rig.from_uplink(call().tcp(40000, 8080).syn()).refused(DropReason::PeerUnreachable, &rst);
}

#[test]
fn what_is_not_ours_is_left_to_the_host() {
    let Some(mut rig) = rig() else { return };
    let backend = rig.task_here("10.0.16.4");
    let service = rig.service(VIP, &[&backend]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    let tunnel = call().udp(40000, 4789).vxlan(4097).eth(ROUTER_MAC, UPLINK_MAC).ipv4("10.0.16.5", "10.0.16.3");
    for frame in [
        call().tcp(40000, 22).syn(),
        call().udp(40000, 8080).payload(b"the port is published for TCP only"),
        call().icmp_echo(1, 1).payload_of(56),
        call().icmp_error(3, 4, 1400).payload_of(28),
        call().protocol(47).payload_of(20),
        tunnel,
        eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, "198.51.100.77").tcp(40000, 8080).syn(),
        eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, PEER_2).tcp(40000, 8080).syn(),
        eth(ROUTER_MAC, UPLINK_MAC).ipv6("2001:db8::9", "2001:db8::1").tcp(40000, 8080).syn(),
        eth(ROUTER_MAC, "ff:ff:ff:ff:ff:ff").arp_request(ROUTER_MAC, "192.0.2.254", HERE),
    ] {
        rig.from_uplink(&frame).left_alone();
    }
    let whole = call().udp(40000, 8080).payload_of(2_000);
    for cut in mesh_tests::rig::cut(&whole, 1_400) {
        rig.from_uplink(&cut).left_alone();
    }
    let syn = call().tcp(40000, 8080).syn().bytes();
    rig.from_uplink(&syn[..40]).left_alone();
}

#[test]
fn a_node_in_no_cluster_leaves_everything_to_the_host() {
    let Some(mut rig) = rig() else { return };
    let backend = rig.task_here("10.0.16.4");
    let service = rig.service(VIP, &[&backend]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    rig.configure(|config| config.mesh0 = 0);
    rig.from_uplink(call().tcp(40000, 8080).syn()).left_alone();
}

#[test]
fn nobody_outside_reaches_an_overlay_address() {
    let Some(mut rig) = rig() else { return };
    let task = rig.task_here("10.0.16.4");
    rig.service(VIP, &[&task]);
    for dst in ["10.0.16.4", VIP, "10.0.16.1"] {
        let forged = eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, dst).tcp(40000, 80).syn();
        rig.from_uplink(&forged).dropped(DropReason::FromOutside);
    }
}

#[test]
fn a_task_reaches_a_published_port_of_any_node() {
    let Some(mut rig) = rig() else { return };
    let (client, here) = (rig.task_here("10.0.32.3"), rig.task_here("10.0.16.4"));
    let service = rig.service(VIP, &[&here]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    for (port, node) in [(40000, "192.0.2.1"), (40001, "192.0.2.2")] {
        rig.from_task(&client, client.to(node).tcp(port, 8080).syn()).sent(&here.gets("10.0.32.3").tcp(port, 80).syn());
        let reply = here.to("10.0.32.3").tcp(80, port).syn().ack(1);
        rig.from_task(&here, &reply).sent(&client.gets(node).tcp(8080, port).syn().ack(1));
    }
}

#[test]
fn a_task_reaches_itself_by_a_published_port_and_sees_the_gateway() {
    let Some(mut rig) = rig() else { return };
    let task = rig.task_here("10.0.16.4");
    let service = rig.service(VIP, &[&task]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    let syn = task.to("192.0.2.1").tcp(40000, 8080).syn();
    rig.from_task(&task, &syn).sent(&task.gets("10.0.16.1").tcp(40000, 80).syn());
    let reply = task.to("10.0.16.1").tcp(80, 40000).syn().ack(1);
    rig.from_task(&task, &reply).sent(&task.gets("192.0.2.1").tcp(8080, 40000).syn().ack(1));
}

#[test]
fn a_port_that_the_host_itself_uses_stays_the_hosts_but_serves_calls_from_elsewhere() {
    let Some(mut rig) = rig() else { return };
    let (client, backend) = (rig.task_here("10.0.32.3"), rig.task_here("10.0.16.4"));
    let mut service = rig.service(VIP, &[&backend]);
    service.frontend.flags = frontend_flag::NOT_TAKEN;
    rig.publish(&service, protocol::TCP, 8080, 80);
    rig.from_uplink(call().tcp(40000, 8080).syn()).left_alone();
    let up = eth(mac::GATEWAY, MESH0_MAC).ipv4(client.addr, HERE).tcp(40000, 8080).syn();
    rig.from_task(&client, client.to("192.0.2.1").tcp(40000, 8080).syn()).sent(&up);
    rig.from_task(&client, client.to("192.0.2.2").tcp(40000, 8080).syn())
        .sent(&backend.gets("10.0.32.3").tcp(40000, 80).syn());
    let endpoint = mac::of(mac::KIND_ENDPOINT, backend.number);
    let request = eth(ROUTER_MAC, endpoint).ipv4(CLIENT, PEER_2).tcp(40000, 8080).syn();
    rig.from_overlay(PEER_2, vni::REQUEST_WIRE, &request).sent(&backend.gets(CLIENT).tcp(40000, 80).syn());
}

#[test]
fn a_tasks_call_to_a_published_port_goes_to_the_owner_with_the_task_as_last_hop() {
    let Some(mut rig) = rig() else { return };
    let (client, there) = (rig.task_here("10.0.32.3"), rig.task_there(2, "10.0.16.4"));
    let service = rig.service(VIP, &[&there]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    let last_hop = mac::of(mac::KIND_CLIENT, client.number);
    let inner = eth(last_hop, mac::of(mac::KIND_ENDPOINT, there.number)).ipv4(client.addr, HERE);
    let outcome =
        rig.from_task(&client, client.to("192.0.2.1").tcp(40000, 8080).syn()).tunnelled(&inner.tcp(40000, 8080).syn());
    assert_eq!(outcome.new_flow().1.vni, vni::REQUEST_NODE);

    let reply = eth(mac::GATEWAY, last_hop).ipv4(HERE, client.addr).tcp(8080, 40000).syn().ack(1);
    rig.from_overlay(PEER_2, vni::REPLY_NODE, &reply).sent(&client.gets("192.0.2.1").tcp(8080, 40000).syn().ack(1));
}

#[test]
fn the_hosts_call_to_a_vip_reaches_a_task_here_and_the_reply_goes_up_the_stack() {
    let Some(mut rig) = rig() else { return };
    let backend = rig.task_here("10.0.16.4");
    rig.service(VIP, &[&backend]);
    let syn = eth(MESH0_MAC, MESH0_MAC).ipv4(HERE, VIP).tcp(40000, 80).syn();
    rig.from_host(&syn).sent(&backend.gets("192.0.2.1").tcp(40000, 80).syn());
    let reply = backend.to("192.0.2.1").tcp(80, 40000).syn().ack(1);
    let up = eth(mac::GATEWAY, MESH0_MAC).ipv4(VIP, HERE).tcp(80, 40000).syn().ack(1);
    rig.from_task(&backend, &reply).sent(&up);
}

#[test]
fn the_hosts_call_to_a_vip_elsewhere_names_the_host_as_last_hop() {
    let Some(mut rig) = rig() else { return };
    let backend = rig.task_there(2, "10.0.16.4");
    rig.service(VIP, &[&backend]);
    let syn = eth(MESH0_MAC, MESH0_MAC).ipv4(HERE, VIP).tcp(40000, 80).syn();
    let inner = eth(mac::HOST, mac::of(mac::KIND_ENDPOINT, backend.number)).ipv4(HERE, VIP).tcp(40000, 80).syn();
    let outcome = rig.from_host(&syn).tunnelled(&inner);
    assert_eq!(outcome.new_flow().1.vni, vni::REQUEST_NODE);

    let reply = eth(mac::GATEWAY, mac::HOST).ipv4(VIP, HERE).tcp(80, 40000).syn().ack(1);
    let up = eth(mac::GATEWAY, MESH0_MAC).ipv4(VIP, HERE).tcp(80, 40000).syn().ack(1);
    rig.from_overlay(PEER_2, vni::REPLY_NODE, &reply).passed(&up);
}

#[test]
fn the_host_reaches_tasks_by_their_own_addresses() {
    let Some(mut rig) = rig() else { return };
    let (here, there) = (rig.task_here("10.0.16.4"), rig.task_there(3, "10.0.16.5"));
    let to = |dst: &str| eth(MESH0_MAC, MESH0_MAC).ipv4(HERE, dst).udp(40000, 53).payload(b"?");
    rig.from_host(to("10.0.16.4")).sent(&here.gets("192.0.2.1").udp(40000, 53).payload(b"?"));
    let inner = eth(mac::HOST, mac::of(mac::KIND_ENDPOINT, there.number)).ipv4(HERE, "10.0.16.5");
    rig.from_host(to("10.0.16.5")).tunnelled(&inner.udp(40000, 53).payload(b"?"));
}

#[test]
fn the_hosts_echo_to_a_vip_is_answered() {
    let Some(mut rig) = rig() else { return };
    let there = rig.task_there(2, "10.0.16.4");
    rig.service(VIP, &[&there]);
    let ask = eth(MESH0_MAC, MESH0_MAC).ipv4(HERE, VIP).icmp_echo(7, 1).payload_of(56);
    rig.from_host(&ask).sent(&eth(MESH0_MAC, MESH0_MAC).ipv4(VIP, HERE).icmp_echo_reply(7, 1).payload_of(56));
}

#[test]
fn the_host_is_refused_what_nobody_serves() {
    let Some(mut rig) = rig() else { return };
    rig.service(VIP, &[]);
    for (dst, reason) in [(VIP, DropReason::NoBackend), ("10.0.16.77", DropReason::NoEndpoint)] {
        let syn = eth(MESH0_MAC, MESH0_MAC).ipv4(HERE, dst).tcp(40000, 80).syn();
        let rst = eth(MESH0_MAC, MESH0_MAC).ipv4(dst, HERE).dont_fragment().tcp(80, 40000).rst().ack(1).window(any());
        rig.from_host(&syn).refused(reason, &rst);
    }
    let own = eth(MESH0_MAC, MESH0_MAC).ipv4(HERE, "10.0.16.1").udp(1, 2).payload(b"x");
    rig.from_host(&own).dropped(DropReason::NoEndpoint);
}

#[test]
fn a_later_fragment_of_the_host_to_a_vip_is_dropped() {
    let Some(mut rig) = rig() else { return };
    let backends = [rig.task_there(2, "10.0.16.4"), rig.task_there(3, "10.0.16.5")];
    rig.service(VIP, &[&backends[0], &backends[1]]);
    let whole = eth(MESH0_MAC, MESH0_MAC).ipv4(HERE, VIP).udp(40000, 53).payload_of(2_000);
    let cuts = mesh_tests::rig::cut(&whole, 1_400);
    rig.from_host(&cuts[1]).dropped(DropReason::Fragment);
}

#[test]
fn the_hosts_chatter_on_mesh0_ends_there() {
    let Some(mut rig) = rig() else { return };
    rig.from_host(eth(MESH0_MAC, "33:33:00:00:00:02").ipv6("fe80::1", "ff02::2").udp(1, 2)).ignored();
    rig.from_host(eth(MESH0_MAC, "01:00:5e:00:00:16").ipv4(HERE, "224.0.0.22").udp(1, 2)).ignored();
    rig.from_host(eth(MESH0_MAC, "ff:ff:ff:ff:ff:ff").arp_request(MESH0_MAC, HERE, VIP)).ignored();
}

#[test]
fn a_second_uplink_address_is_served_too_and_answers_by_its_own_link() {
    let Some(mut rig) = rig() else { return };
    let backend = rig.task_there(2, "10.0.16.4");
    let service = rig.service(VIP, &[&backend]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    let ifindex = rig.devices().uplink;
    let own = mesh_common::schema::Address { node: 1, ifindex, flags: address_flag::OWN, pad: [0; 3] };
    rig.put_address([192, 0, 2, 100], own);
    let reply = eth(mac::GATEWAY, ROUTER_MAC).ipv4("192.0.2.100", CLIENT).tcp(8080, 1).ack(1);
    rig.from_overlay(PEER_2, vni::REPLY_WIRE, &reply)
        .sent(&eth(UPLINK_MAC, ROUTER_MAC).ipv4("192.0.2.100", CLIENT).tcp(8080, 1).ack(1));
}
