//! Who takes part in tests of ICMP errors, what they send, and errors about it.

use mesh_common::parse::protocol;
use mesh_packet::{Frame, eth};

use super::{HERE, Outcome, ROUTER_MAC, Rig, Service, Task, UPLINK_MAC};

pub const VIP: &str = "10.0.16.2";
/// The client outside, behind the router.
pub const CLIENT: &str = "198.51.100.9";
/// A router on the way to it.
pub const ROUTER: &str = "203.0.113.1";

/// Kinds of errors: type, code, MTU.
pub const UNREACHABLE: (u8, u8, u16) = (3, 3, 0);
pub const TOO_BIG: (u8, u8, u16) = (3, 4, 1_400);

pub fn tcp(head: Frame, sport: u16, dport: u16) -> Frame {
    head.tcp(sport, dport).seq(7).ack(9).payload(b"odd bytes")
}

pub fn udp(head: Frame, sport: u16, dport: u16) -> Frame {
    head.udp(sport, dport).payload(b"a datagram")
}

/// An error of this kind about a packet, which it quotes as far as `bytes` behind its IP header go.
pub fn about(head: Frame, (kind, code, mtu): (u8, u8, u16), packet: &Frame, bytes: usize) -> Frame {
    head.icmp_error(kind, code, mtu).quoting(packet, bytes)
}

/// The head of a frame from outside to this node, and back.
pub fn inward(src: &str) -> Frame {
    eth(ROUTER_MAC, UPLINK_MAC).ipv4(src, HERE)
}

pub fn outward() -> Frame {
    eth(UPLINK_MAC, ROUTER_MAC).ipv4(HERE, CLIENT)
}

/// Nothing that an error does is seen in the flow table.
pub fn untouched(rig: &mut Rig, run: impl FnOnce(&mut Rig) -> Outcome) -> Outcome {
    let before = rig.flows();
    let outcome = run(rig);
    assert_eq!(rig.flows(), before, "an error proves nothing");
    outcome
}

pub fn published(rig: &mut Rig, task: &Task) -> Service {
    let service = rig.service(VIP, &[task]);
    for number in [protocol::TCP, protocol::UDP] {
        rig.publish(&service, number, 8080, 80);
    }
    service
}
