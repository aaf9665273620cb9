//! Frames cut short, with headers that lie, or of random bytes: dropped or passed as specified, never half handled, by every hook.

use mesh_common::parse::protocol;
use mesh_common::verdict::{DropReason, Hook};
use mesh_common::wire::{mac, vni};
use mesh_packet::{Frame, eth};
use mesh_tests::rig::{Action, HERE, Outcome, PEER_2, ROUTER_MAC, Rig, RunOptions, Task, header_len, spoken};

const VIP: &str = "10.0.16.2";
const CLIENT: &str = "198.51.100.9";
const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// Offset of what stands behind the IP header. The kernel runs no test on less of a frame than that; shorter ones are parse.rs's own tests.
fn l4() -> usize {
    14 + header_len()
}

/// A client and a published service with a backend here.
fn world() -> Option<(Rig, Task, Task)> {
    let mut rig = Rig::new()?;
    let (client, backend) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    let service = rig.service(VIP, &[&backend]);
    for number in [protocol::TCP, protocol::UDP, protocol::SCTP] {
        rig.publish(&service, number, 8080, 80);
    }
    Some((rig, client, backend))
}

/// A protocol: its name, what puts it behind an IP header, and two lengths from there on: where the ports (and TCP's flags) end, and where the
/// checksum ends that a rewrite changes.
type Carried = (&'static str, fn(Frame) -> Frame, usize, usize);

fn carried() -> [Carried; 4] {
    [
        ("TCP", |head| head.tcp(40000, 8080).syn(), 14, 18),
        ("UDP", |head| head.udp(40000, 8080).payload(b"hello"), 4, 8),
        ("SCTP", |head| head.protocol(132).payload([0x9c, 0x40, 0x1f, 0x90, 0, 0, 0, 0, 0, 0, 0, 0]), 12, 12),
        ("ICMP", |head| head.icmp_echo(1, 2).payload(b"hello"), 6, 6),
    ]
}

#[test]
fn what_a_task_sends_cut_short_is_dropped_until_the_headers_are_whole() {
    let Some((mut rig, client, _)) = world() else { return };
    for (name, over, ports, checksum) in carried() {
        let whole = spoken(&over(client.to(VIP))).bytes();
        for len in l4()..whole.len() {
            let outcome = rig.from_task(&client, &whole[..len]);
            match len - l4() {
                len if len < ports => drop(outcome.dropped(DropReason::Malformed)),
                len if len < checksum => drop(outcome.dropped(DropReason::HelperFailed)),
                // What the headers promise beyond is the receiver's to miss.
                _ => assert_eq!(outcome.action, Action::Redirect, "{name} of {len} bytes"),
            }
        }
    }
}

#[test]
fn what_the_wire_sends_cut_short_is_left_to_the_host() {
    let Some((mut rig, _, _)) = world() else { return };
    for (name, over, ports, checksum) in carried() {
        let whole = spoken(&over(eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE))).bytes();
        for len in l4()..whole.len() {
            let outcome = rig.from_uplink(&whole[..len]);
            match len - l4() {
                len if len < ports || name == "ICMP" => drop(outcome.left_alone()),
                len if len < checksum => drop(outcome.dropped(DropReason::HelperFailed)),
                _ => assert_eq!(outcome.action, Action::Redirect, "{name} of {len} bytes"),
            }
        }
    }
}

#[test]
fn what_a_peer_sends_cut_short_is_dropped() {
    let Some((mut rig, _, backend)) = world() else { return };
    for (name, over, ports, checksum) in carried() {
        let head = eth(ROUTER_MAC, mac::of(mac::KIND_ENDPOINT, backend.number)).ipv4(CLIENT, PEER_2);
        let whole = spoken(&over(head)).bytes();
        for len in l4()..whole.len() {
            let outcome = rig.from_overlay(PEER_2, vni::REQUEST_WIRE, &whole[..len]);
            match len - l4() {
                len if len < ports => drop(outcome.dropped(DropReason::Malformed)),
                _ if name == "ICMP" => drop(outcome.dropped(DropReason::NotPublished)),
                len if len < checksum => drop(outcome.dropped(DropReason::HelperFailed)),
                _ => assert_eq!(outcome.action, Action::Redirect, "{name} of {len} bytes"),
            }
        }
    }
}

#[test]
fn headers_that_lie_about_lengths_are_malformed() {
    let Some((mut rig, client, _)) = world() else { return };
    let whole = spoken(&client.to(VIP).tcp(40000, 80).syn()).bytes();
    // Version, header length, total length below the header's, total length below TCP's; of IPv6 the version, and the length below TCP's.
    let of_ip: &[(usize, u8)] =
        if header_len() == 20 { &[(14, 0x65), (14, 0x44), (17, 19), (17, 39)] } else { &[(14, 0x45), (19, 19)] };
    // And TCP's own header length.
    for (at, value) in of_ip.iter().copied().chain([(l4() + 12, 0x40)]) {
        let mut frame = whole.clone();
        frame[at] = value;
        rig.from_task(&client, &frame).dropped(DropReason::Malformed);
    }
}

#[test]
fn an_echo_cut_short_is_malformed() {
    let Some(mut rig) = Rig::new() else { return };
    let short = [&mac::of(mac::KIND_ECHO, 1)[..], &mac::HOST, &[0x88, 0xb5], &[0; 7]].concat();
    rig.from_overlay(PEER_2, vni::ECHO_REPLY, &short).dropped(DropReason::Malformed);
}

/// A small generator (xorshift), so that a failure can be played again.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Frames of random bytes behind a plausible start, the same in every run.
fn noise(start: Frame, count: usize) -> Vec<Vec<u8>> {
    let (start, shortest) = (spoken(&start).bytes(), l4());
    let mut random = Random(0x6d65_7368_6d65_7368);
    let mut frames = Vec::new();
    for _ in 0..count {
        let keep = shortest + (random.next() as usize) % (start.len() - shortest + 1);
        let more = (random.next() % 80) as usize;
        let mut frame = start[..keep].to_vec();
        frame.extend((0..more).map(|_| random.next() as u8));
        // And a few bytes of the start turned over; of IPv6 none of its addresses, for a rig reads back those of its world alone.
        for _ in 0..random.next() % 4 {
            let at = 14 + (random.next() as usize) % (frame.len().max(15) - 14);
            let is_left = header_len() == 40 && (22..54).contains(&at);
            if let Some(byte) = frame.get_mut(at).filter(|_| !is_left) {
                *byte = random.next() as u8;
            }
        }
        frames.push(frame);
    }
    frames
}

/// A hook's verdict on a frame is one of these, with at most one drop counted; a dropped frame is counted (or is `quiet`).
#[track_caller]
fn in_order(outcome: &Outcome, allowed: &[Action]) {
    assert!(allowed.contains(&outcome.action), "{outcome:?}");
    assert!(outcome.drops.iter().map(|(_, _, count)| count).sum::<u64>() <= 1, "{outcome:?}");
}

#[test]
fn random_bytes_from_a_task_never_pass_to_the_stack() {
    let Some((mut rig, client, _)) = world() else { return };
    for frame in noise(client.to(VIP).tcp(40000, 80).syn().mss(1400), 1_500) {
        in_order(&rig.from_task(&client, &frame), &[Action::Shot, Action::Redirect]);
    }
}

#[test]
fn random_bytes_from_a_peer_never_pass_to_the_stack() {
    let Some((mut rig, _, backend)) = world() else { return };
    let head = eth(ROUTER_MAC, mac::of(mac::KIND_ENDPOINT, backend.number)).ipv4(CLIENT, PEER_2);
    for (n, frame) in noise(head.tcp(40000, 8080).syn(), 1_500).iter().enumerate() {
        let id = [vni::REQUEST_WIRE, vni::REPLY_WIRE, vni::REPLY_NODE, 4_097][n % 4];
        in_order(&rig.from_overlay(PEER_2, id, frame), &[Action::Shot, Action::Redirect]);
    }
}

#[test]
fn random_bytes_at_the_uplink_and_from_the_host_are_judged() {
    let Some((mut rig, _, _)) = world() else { return };
    let all = [Action::Next, Action::Ok, Action::Shot, Action::Redirect];
    for frame in noise(eth(ROUTER_MAC, UPLINK_MAC).ipv4(CLIENT, HERE).tcp(40000, 8080).syn(), 1_000) {
        in_order(&rig.from_uplink(&frame), &all);
        let ifindex = rig.devices().mesh0;
        in_order(&rig.run(Hook::FromHost, &frame, RunOptions { ifindex, ..RunOptions::default() }), &all[1..]);
    }
}
