//! The two ways between nodes. The same tests run both: `packet_*.rs` through mesh0, and once more inside `packet_fast.rs` past it.

use mesh_common::schema::Peer;
use mesh_common::verdict::Hook;
use mesh_common::wire::outer::{self, Outer};
use mesh_packet::{Frame, any, eth};

use super::outcome::Action;
use super::{HERE, Outcome, ROUTER_MAC, Rig, RunOptions};

/// MAC address of the rig's uplink.
pub const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// How packets go between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Through mesh0: the kernel writes and reads the outer headers.
    Mesh0,
    /// The programs do.
    Fast,
}

impl Way {
    /// The way of the test binary that runs: `packet_fast` holds the tests of all others.
    pub fn of_this_test() -> Way {
        let name = std::env::current_exe().ok();
        let name = name.as_deref().and_then(|path| path.file_stem()).map(|stem| stem.to_string_lossy().into_owned());
        if name.is_some_and(|name| name.starts_with("packet_fast")) { Way::Fast } else { Way::Mesh0 }
    }

    /// A peer as plan writes it for this way.
    pub fn peer(self, addr: [u8; 16], flags: u8, uplink: u32) -> Peer {
        let through_mesh0 = Peer { addr, mtu: 1_500, flags, ..Peer::NONE };
        match self {
            Way::Mesh0 => through_mesh0,
            Way::Fast => Peer { ifindex: uplink, next_hop: ROUTER_MAC, link_mac: UPLINK_MAC, ..through_mesh0 },
        }
    }
}

impl Rig {
    /// A frame of a peer as it arrives on the wire; None if the programs leave it to mesh0.
    #[track_caller]
    pub fn from_wire(&mut self, peer: [u8; 4], vni: u32, inner: &[u8]) -> Option<Outcome> {
        let headers = Outer {
            macs: outer::macs(UPLINK_MAC, ROUTER_MAC),
            src: u32::from_ne_bytes(peer),
            dst: u32::from_ne_bytes(HERE),
            port: 4_789,
            vni,
            hash: 0,
            id: 0,
            tos: 0,
            inner_len: inner.len() as u16,
        };
        let mut frame: Vec<u8> = headers.words().into_iter().flat_map(u16::to_ne_bytes).collect();
        frame.extend_from_slice(inner);
        let options = RunOptions { ifindex: self.devices.uplink, ..RunOptions::default() };
        let mut outcome = self.run(Hook::FromUplink, &frame, options);
        if outcome.action == Action::Next {
            return None;
        }
        // From here on it is what from_overlay would have had, and counted there.
        outcome.hook = Hook::FromOverlay;
        outcome.sent = inner.to_vec();
        Some(outcome)
    }
}

/// A frame as it leaves the fast way. The VNI is whatever it is: tests that care look at the flow.
pub(super) fn wrapped(inner: &Frame) -> Frame {
    let outer = eth(UPLINK_MAC, ROUTER_MAC).ipv4(HERE, any()).udp(any(), 4_789).no_checksum();
    outer.vxlan(any()).carrying(inner)
}
