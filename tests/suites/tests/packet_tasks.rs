//! What tasks send, to each other and to what answers without a stack: packet in, packet out, on the loaded from_task.

use mesh_common::verdict::DropReason;
use mesh_common::wire::mac;
use mesh_packet::{any, eth};
use mesh_tests::rig::{HERE, Rig, of_ipv4_alone};

/// The gateway of the network that most tests use.
const GATEWAY: &str = "10.0.16.1";

#[test]
fn arp_for_any_address_is_answered_with_the_gateways_mac() {
    let Some(mut rig) = of_ipv4_alone("ARP is IPv4's") else { return };
    let task = rig.task_here("10.0.16.3");
    for target in [GATEWAY, "10.0.16.2", "10.0.16.9"] {
        let ask = eth(task.mac, "ff:ff:ff:ff:ff:ff").arp_request(task.mac, task.addr, target);
        let answer = eth(mac::GATEWAY, task.mac).arp_reply(mac::GATEWAY, target, task.mac, task.addr);
        rig.from_task(&task, &ask).sent(&answer);
    }
}

#[test]
fn arp_with_anothers_address_or_mac_is_dropped() {
    let Some(mut rig) = of_ipv4_alone("ARP is IPv4's") else { return };
    let (task, other) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    let ask = |ether: [u8; 6], sender: [u8; 6], addr: [u8; 4]| {
        eth(ether, "ff:ff:ff:ff:ff:ff").arp_request(sender, addr, GATEWAY)
    };
    rig.from_task(&task, ask(task.mac, task.mac, other.addr)).dropped(DropReason::SpoofedSource);
    rig.from_task(&task, ask(task.mac, task.mac, [10, 0, 16, 99])).dropped(DropReason::SpoofedSource);
    rig.from_task(&task, ask(other.mac, other.mac, task.addr)).dropped(DropReason::SpoofedMac);
    rig.from_task(&task, ask(task.mac, other.mac, task.addr)).dropped(DropReason::SpoofedMac);
}

#[test]
fn arp_that_asks_nothing_of_us_is_ignored() {
    let Some(mut rig) = of_ipv4_alone("ARP is IPv4's") else { return };
    let task = rig.task_here("10.0.16.3");
    // Probes and announcements of its own address (RFC 5227), and answers.
    rig.from_task(&task, eth(task.mac, "ff:ff:ff:ff:ff:ff").arp_request(task.mac, task.addr, task.addr)).ignored();
    rig.from_task(&task, eth(task.mac, "ff:ff:ff:ff:ff:ff").arp_request(task.mac, "0.0.0.0", task.addr)).ignored();
    rig.from_task(&task, eth(task.mac, mac::GATEWAY).arp_reply(task.mac, task.addr, mac::GATEWAY, GATEWAY)).ignored();
}

#[test]
fn arp_of_another_hardware_or_cut_short_is_malformed() {
    let Some(mut rig) = of_ipv4_alone("ARP is IPv4's") else { return };
    let task = rig.task_here("10.0.16.3");
    let whole = eth(task.mac, "ff:ff:ff:ff:ff:ff").arp_request(task.mac, task.addr, GATEWAY).bytes();
    let mut infiniband = whole.clone();
    infiniband[15] = 32;
    rig.from_task(&task, &infiniband).dropped(DropReason::Malformed);
    rig.from_task(&task, &whole[..40]).dropped(DropReason::Malformed);
}

#[test]
fn echo_to_the_gateway_is_answered() {
    let Some(mut rig) = Rig::new() else { return };
    let task = rig.task_here("10.0.16.3");
    let ask = task.to(GATEWAY).icmp_echo(7, 1).payload_of(56);
    rig.from_task(&task, &ask).sent(&task.gets(GATEWAY).icmp_echo_reply(7, 1).payload_of(56));
}

#[test]
fn echo_to_a_vip_is_answered_and_remembers_nothing() {
    let Some(mut rig) = Rig::new() else { return };
    let task = rig.task_here("10.0.16.3");
    let there = rig.task_there(2, "10.0.16.5");
    rig.service("10.0.16.2", &[&there]);
    let ask = task.to("10.0.16.2").icmp_echo(7, 1).payload_of(9);
    let outcome = rig.from_task(&task, &ask).sent(&task.gets("10.0.16.2").icmp_echo_reply(7, 1).payload_of(9));
    assert!(outcome.new_flows.is_empty());
}

#[test]
fn a_task_of_the_same_network_here_gets_the_packet_unchanged() {
    let Some(mut rig) = Rig::new() else { return };
    let (one, other) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    let outcome = rig
        .from_task(&one, one.to("10.0.16.4").tcp(40000, 80).syn())
        .sent(&other.gets("10.0.16.3").tcp(40000, 80).syn());
    assert!(outcome.new_flows.is_empty() && !outcome.is_keyed);
}

#[test]
fn a_task_of_the_same_network_elsewhere_is_reached_through_the_tunnel() {
    let Some(mut rig) = Rig::new() else { return };
    let (one, other) = (rig.task_here("10.0.16.3"), rig.task_there(2, "10.0.16.5"));
    let udp = one.to("10.0.16.5").udp(40000, 53).payload(b"hello");
    rig.from_task(&one, &udp).tunnelled(&other.gets("10.0.16.3").udp(40000, 53).payload(b"hello"));
}

#[test]
fn a_fragment_between_tasks_goes_its_way() {
    let Some(mut rig) = Rig::new() else { return };
    let (one, other) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    let whole = one.to("10.0.16.4").udp(40000, 53).payload_of(2_000);
    let wanted = other.gets("10.0.16.3").udp(40000, 53).payload_of(2_000);
    for (cut, want) in mesh_tests::rig::cut(&whole, 1_400).iter().zip(mesh_tests::rig::cut(&wanted, 1_400)) {
        let outcome = rig.from_task(&one, cut);
        assert_eq!(outcome.frame, want);
        assert!(outcome.drops.is_empty());
    }
}

#[test]
fn another_network_is_refused_with_a_reset() {
    let Some(mut rig) = Rig::new() else { return };
    let task = rig.task_here("10.0.16.3");
    let other = rig.task_here("10.0.32.3");
    rig.service("10.0.32.2", &[&other]);
    for dst in ["10.0.32.3", "10.0.32.2", "10.0.32.1"] {
        let rst = task.gets(dst).dont_fragment().tcp(80, 40000).rst().ack(8).window(any());
        rig.from_task(&task, task.to(dst).tcp(40000, 80).syn().seq(7)).refused(DropReason::OtherNetwork, &rst);
    }
}

#[test]
fn another_network_is_unreachable_for_datagrams() {
    let Some(mut rig) = Rig::new() else { return };
    let task = rig.task_here("10.0.16.3");
    rig.task_here("10.0.32.3");
    let udp = task.to("10.0.32.3").udp(40000, 53).payload_of(40);
    let answer = task.gets("10.0.32.3").dont_fragment().icmp_error(3, 3, 0).about(&udp);
    rig.from_task(&task, &udp).refused(DropReason::OtherNetwork, &answer);
}

#[test]
fn a_source_that_is_not_its_own_is_dropped() {
    let Some(mut rig) = Rig::new() else { return };
    let (task, other) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    for source in ["10.0.16.4", "10.0.16.99", "10.0.16.1", "192.0.2.1", "198.51.100.9"] {
        let forged = eth(task.mac, mac::GATEWAY).ipv4(source, other.addr).udp(1, 2).payload(b"x");
        rig.from_task(&task, &forged).dropped(DropReason::SpoofedSource);
    }
}

#[test]
fn a_mac_that_is_not_its_own_is_dropped() {
    let Some(mut rig) = Rig::new() else { return };
    let (task, other) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    let forged = eth(other.mac, mac::GATEWAY).ipv4(task.addr, other.addr).udp(1, 2).payload(b"x");
    rig.from_task(&task, &forged).dropped(DropReason::SpoofedMac);
}

#[test]
fn multicast_and_broadcast_are_dropped() {
    let Some(mut rig) = Rig::new() else { return };
    let task = rig.task_here("10.0.16.3");
    for dst in ["224.0.0.251", "239.1.2.3", "255.255.255.255"] {
        rig.from_task(&task, task.to(dst).udp(5353, 5353).payload(b"x")).dropped(DropReason::Multicast);
    }
}

#[test]
fn what_is_neither_ip_nor_arp_is_unsupported() {
    let Some(mut rig) = Rig::new() else { return };
    let task = rig.task_here("10.0.16.3");
    // MPLS (RFC 3032).
    let mut other = task.to("10.0.16.4").udp(1, 2).payload(b"x").bytes();
    (other[12], other[13]) = (0x88, 0x47);
    rig.from_task(&task, &other).dropped(DropReason::Unsupported);
}

#[test]
fn an_overlay_address_that_nobody_has_is_refused() {
    let Some(mut rig) = Rig::new() else { return };
    let task = rig.task_here("10.0.16.3");
    let rst = task.gets("10.0.16.77").dont_fragment().tcp(80, 40000).rst().ack(1).window(any());
    rig.from_task(&task, task.to("10.0.16.77").tcp(40000, 80).syn()).refused(DropReason::NoEndpoint, &rst);
}

#[test]
fn the_gateway_serves_dns_and_refuses_other_ports() {
    let Some(mut rig) = Rig::new() else { return };
    let task = rig.task_here("10.0.16.3");
    let dns = task.to(GATEWAY).udp(40000, 53).payload(b"?");
    let up = eth(mac::GATEWAY, mac::of(mac::KIND_MESH0, 1)).ipv4(task.addr, GATEWAY).udp(40000, 53).payload(b"?");
    rig.from_task(&task, &dns).sent(&up);
    let rst = task.gets(GATEWAY).dont_fragment().tcp(22, 40000).rst().ack(1).window(any());
    rig.from_task(&task, task.to(GATEWAY).tcp(40000, 22).syn()).refused(DropReason::ClosedPort, &rst);
    rig.from_task(&task, task.to(GATEWAY).protocol(47).payload_of(20)).dropped(DropReason::Unsupported);
}

#[test]
fn the_data_port_of_no_node_can_be_reached() {
    let Some(mut rig) = of_ipv4_alone("the tunnel is") else { return };
    let task = rig.task_here("10.0.16.3");
    for node in ["192.0.2.1", "192.0.2.2", "192.0.2.3"] {
        let tunnel =
            task.to(node).udp(40000, 4789).vxlan(4097).eth(task.mac, mac::GATEWAY).ipv4("10.0.16.5", "10.0.16.3");
        rig.from_task(&task, &tunnel).dropped(DropReason::DataPort);
    }
}

#[test]
fn the_nodes_own_services_are_reached_through_its_stack() {
    let Some(mut rig) = Rig::new() else { return };
    let task = rig.task_here("10.0.16.3");
    let up = eth(mac::GATEWAY, mac::of(mac::KIND_MESH0, 1)).ipv4(task.addr, HERE).tcp(40000, 22).syn();
    rig.from_task(&task, task.to("192.0.2.1").tcp(40000, 22).syn()).sent(&up);
}

#[test]
fn nothing_is_let_through_before_the_node_is_configured() {
    let Some(mut rig) = Rig::new() else { return };
    let (task, other) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    rig.configure(|config| config.mesh0 = 0);
    let udp = eth(task.mac, mac::GATEWAY).ipv4(task.addr, other.addr).udp(1, 2).payload(b"x");
    rig.from_task(&task, &udp).dropped(DropReason::NotConfigured);
}
