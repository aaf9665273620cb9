//! The checksum table (decision 2), as far as test runs reach: every walk that rewrites × TCP, UDP, UDP without checksum × a packet as it
//! comes off a plain device, or with the device's sum over it (CHECKSUM_COMPLETE), which the kernel proves true afterwards.
//!
//! Unfinished checksums need real devices: lab_checksums.rs.

use mesh_common::parse::protocol;
use mesh_common::schema::rewrite;
use mesh_common::verdict::{DropReason, Hook};
use mesh_common::wire::{mac, vni};
use mesh_packet::{Frame, any, eth};
use mesh_tests::rig::kernel::CHECKSUM_COMPLETE;
use mesh_tests::rig::{HERE, MESH0_MAC, Outcome, PEER_2, ROUTER_MAC, Rig, RunOptions, Task};

const VIP: &str = "10.0.16.2";
const CLIENT: &str = "198.51.100.9";
const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// What the frames carry, behind an IP header.
#[derive(Clone, Copy, Debug)]
enum Carried {
    Tcp,
    Udp,
    UdpWithoutChecksum,
}

impl Carried {
    const ALL: [Carried; 3] = [Carried::Tcp, Carried::Udp, Carried::UdpWithoutChecksum];

    fn over(self, head: Frame, sport: u16, dport: u16) -> Frame {
        match self {
            Carried::Tcp => head.tcp(sport, dport).syn().mss(1200).payload(b"seven b"),
            Carried::Udp => head.udp(sport, dport).payload(b"seven b"),
            Carried::UdpWithoutChecksum => head.udp(sport, dport).no_checksum().payload(b"seven b"),
        }
    }
}

/// A world and what packets in it come as.
struct Table {
    rig: Rig,
    flags: u32,
    client: Task,
    backend: Task,
    there: Task,
}

impl Table {
    fn new(flags: u32) -> Option<Table> {
        let mut rig = Rig::new()?;
        let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
        let there = rig.task_there(2, "10.0.16.5");
        let service = rig.service(VIP, &[&backend]);
        for number in [protocol::TCP, protocol::UDP] {
            rig.publish(&service, number, 8080, 80);
        }
        Some(Table { rig, flags, client, backend, there })
    }

    fn options(&self, ifindex: u32) -> RunOptions {
        RunOptions { ifindex, flags: self.flags, ..RunOptions::default() }
    }

    #[track_caller]
    fn task(&mut self, task: &Task, frame: Frame) -> Outcome {
        self.rig.run(Hook::FromTask, frame, self.options(task.ifindex))
    }

    #[track_caller]
    fn uplink(&mut self, frame: Frame) -> Outcome {
        self.rig.run(Hook::FromUplink, frame, self.options(self.rig.devices().uplink))
    }

    #[track_caller]
    fn host(&mut self, frame: Frame) -> Outcome {
        self.rig.run(Hook::FromHost, frame, self.options(self.rig.devices().mesh0))
    }

    #[track_caller]
    fn overlay(&mut self, id: u32, frame: Frame) -> Outcome {
        let options = self.options(self.rig.devices().mesh0);
        self.rig.run_tunnelled(PEER_2, id, frame, options)
    }
}

/// Plays `walk` for all that can be carried, plain and with the device's sum where this kernel can test that.
fn every(walk: impl Fn(&mut Table, &dyn Fn(Frame, u16, u16) -> Frame)) {
    for carried in Carried::ALL {
        for flags in [0, CHECKSUM_COMPLETE] {
            let Some(mut table) = Table::new(flags) else { return };
            if flags != 0 && !table.rig.knows_complete_sums() {
                continue;
            }
            eprintln!("{carried:?}, flags {flags}");
            walk(&mut table, &|head, sport, dport| carried.over(head, sport, dport));
        }
    }
}

#[test]
fn a_vip_and_its_reply() {
    every(|t, over| {
        let (client, backend) = (t.client.clone(), t.backend.clone());
        t.task(&client, over(client.to(VIP), 40000, 80)).sent(&over(backend.gets("10.0.16.3"), 40000, 80));
        t.task(&backend, over(backend.to("10.0.16.3"), 80, 40000)).sent(&over(client.gets(VIP), 80, 40000));
    });
}

#[test]
fn a_vip_elsewhere_and_its_reply_from_the_tunnel() {
    every(|t, over| {
        let (client, there) = (t.client.clone(), t.there.clone());
        t.rig.service("10.0.16.6", &[&there]);
        t.task(&client, over(client.to("10.0.16.6"), 40000, 80)).tunnelled(&over(there.gets("10.0.16.3"), 40000, 80));
        t.overlay(4_097, over(there.to("10.0.16.3"), 80, 40000)).sent(&over(client.gets("10.0.16.6"), 80, 40000));
    });
}

#[test]
fn a_published_port_from_the_uplink_and_its_reply() {
    every(|t, over| {
        let backend = t.backend.clone();
        let call = eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE);
        t.uplink(over(call, 40000, 8080)).sent(&over(backend.gets(CLIENT), 40000, 80));
        let answer = eth(UPLINK_MAC, ROUTER_MAC).ipv4(HERE, CLIENT);
        t.task(&backend, over(backend.to(CLIENT), 80, 40000)).sent(&over(answer, 8080, 40000));
    });
}

#[test]
fn a_published_port_from_a_task_and_its_reply() {
    every(|t, over| {
        let (client, backend) = (t.client.clone(), t.backend.clone());
        t.task(&client, over(client.to("192.0.2.1"), 40000, 8080)).sent(&over(backend.gets("10.0.16.3"), 40000, 80));
        t.task(&backend, over(backend.to("10.0.16.3"), 80, 40000)).sent(&over(client.gets("192.0.2.1"), 8080, 40000));
    });
}

#[test]
fn a_request_at_the_owner_and_its_reply() {
    every(|t, over| {
        let backend = t.backend.clone();
        let request = eth(ROUTER_MAC, mac::of(mac::KIND_ENDPOINT, backend.number)).ipv4(CLIENT, PEER_2);
        t.overlay(vni::REQUEST_WIRE, over(request, 40000, 8080)).sent(&over(backend.gets(CLIENT), 40000, 80));
        let reply = eth(mac::GATEWAY, ROUTER_MAC).ipv4(PEER_2, CLIENT);
        t.task(&backend, over(backend.to(CLIENT), 80, 40000)).tunnelled(&over(reply, 8080, 40000));
    });
}

#[test]
fn a_request_and_a_reply_at_the_ingress_node_stay_as_they_are() {
    every(|t, over| {
        let there = t.there.clone();
        let service = t.rig.service("10.0.16.6", &[&there]);
        for number in [protocol::TCP, protocol::UDP] {
            t.rig.publish(&service, number, 9090, 80);
        }
        let call = eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE);
        let inner = eth(ROUTER_MAC, mac::of(mac::KIND_ENDPOINT, there.number)).ipv4(CLIENT, HERE);
        t.uplink(over(call, 40000, 9090)).tunnelled(&over(inner, 40000, 9090));
        let reply = eth(mac::GATEWAY, ROUTER_MAC).ipv4(HERE, CLIENT);
        let answer = eth(UPLINK_MAC, ROUTER_MAC).ipv4(HERE, CLIENT);
        t.overlay(vni::REPLY_WIRE, over(reply, 9090, 40000)).sent(&over(answer, 9090, 40000));
    });
}

#[test]
fn a_call_of_the_host_and_its_reply() {
    every(|t, over| {
        let backend = t.backend.clone();
        let call = eth(MESH0_MAC, MESH0_MAC).ipv4(HERE, VIP);
        t.host(over(call, 40000, 80)).sent(&over(backend.gets("192.0.2.1"), 40000, 80));
        let up = eth(mac::GATEWAY, MESH0_MAC).ipv4(VIP, HERE);
        t.task(&backend, over(backend.to("192.0.2.1"), 80, 40000)).sent(&over(up, 80, 40000));
    });
}

#[test]
fn a_task_that_reaches_itself() {
    every(|t, over| {
        let client = t.client.clone();
        t.rig.service("10.0.16.7", &[&client]);
        t.task(&client, over(client.to("10.0.16.7"), 40000, 80)).sent(&over(client.gets("10.0.16.1"), 40000, 80));
        t.task(&client, over(client.to("10.0.16.1"), 80, 40000)).sent(&over(client.gets("10.0.16.7"), 80, 40000));
    });
}

#[test]
fn a_changed_source_port() {
    every(|t, over| {
        let (client, backend) = (t.client.clone(), t.backend.clone());
        t.task(&client, over(client.to(VIP), 40000, 80));
        let outcome = t.task(&client, over(client.to("192.0.2.1"), 40000, 8080));
        let port = outcome.new_flow().1.other_port;
        outcome.sent(&over(backend.gets("10.0.16.3"), port, 80));
        t.task(&backend, over(backend.to("10.0.16.3"), 80, port)).sent(&over(client.gets("192.0.2.1"), 8080, 40000));
    });
}

#[test]
fn the_way_outside_and_back() {
    every(|t, over| {
        let client = t.client.clone();
        let outcome = t.task(&client, over(client.to(CLIENT), 40000, 443));
        let port = outcome.new_flows.iter().find(|(_, flow)| flow.rewrite == rewrite::SOURCE).unwrap().1.port;
        outcome.sent(&over(eth(any(), any()).ipv4(HERE, CLIENT).ttl(63), port, 443));
        let answer = eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE);
        t.uplink(over(answer, 443, port)).sent(&over(client.gets(CLIENT), 443, 40000));
    });
}

#[test]
fn an_answer_made_by_the_programs() {
    for flags in [0, CHECKSUM_COMPLETE] {
        let Some(mut t) = Table::new(flags) else { return };
        if flags != 0 && !t.rig.knows_complete_sums() {
            continue;
        }
        let client = t.client.clone();
        t.rig.service("10.0.16.7", &[]);
        let echo = client.to(VIP).icmp_echo(7, 1).payload_of(57);
        t.task(&client, echo).sent(&client.gets(VIP).icmp_echo_reply(7, 1).payload_of(57));
        let rst = client.gets("10.0.16.7").dont_fragment().tcp(80, 40000).rst().ack(1).window(any());
        t.task(&client, client.to("10.0.16.7").tcp(40000, 80).syn()).refused(DropReason::NoBackend, &rst);
        // New headers in front of the packet make the kernel forget the device's sum, which its test run then holds against us.
        let sizes: &[usize] = if flags == 0 { &[1, 27, 28, 29, 400] } else { &[] };
        for &size in sizes {
            let udp = client.to("10.0.16.7").udp(40000, 80).payload_of(size);
            let answer = client.gets("10.0.16.7").dont_fragment().icmp_error(3, 3, 0).about(&udp);
            t.task(&client, udp).refused(DropReason::NoBackend, &answer);
        }
    }
}

/// The two bytes of payload that give `frame` this transport checksum.
fn with_checksum(wanted: u16, at: usize, frame: impl Fn([u8; 2]) -> Frame) -> [u8; 2] {
    let found = (0..=u16::MAX).map(u16::to_be_bytes).find(|payload| {
        let bytes = frame(*payload).bytes();
        bytes[at..at + 2] == wanted.to_be_bytes()
    });
    found.expect("one of all payloads has it")
}

#[test]
fn a_tcp_checksum_of_zero_is_a_checksum_as_any_other() {
    let Some(mut t) = Table::new(0) else { return };
    let (client, backend) = (t.client.clone(), t.backend.clone());
    let call = |payload: [u8; 2]| client.to("192.0.2.1").tcp(40000, 8080).syn().payload(payload);
    let payload = with_checksum(0, 14 + 20 + 16, call);
    let wanted = backend.gets("10.0.16.3").tcp(40000, 80).syn().payload(payload);
    t.task(&client, call(payload)).sent(&wanted);
}

#[test]
fn a_udp_checksum_that_comes_out_as_zero_is_written_as_ones() {
    let Some(mut t) = Table::new(0) else { return };
    let (client, backend) = (t.client.clone(), t.backend.clone());
    let reached = |payload: [u8; 2]| backend.gets("10.0.16.3").udp(40000, 80).payload(payload);
    let payload = with_checksum(0xffff, 14 + 20 + 6, reached);
    t.task(&client, client.to("192.0.2.1").udp(40000, 8080).payload(payload)).sent(&reached(payload));
}
