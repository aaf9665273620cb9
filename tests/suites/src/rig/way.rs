//! The two ways between nodes. The same tests run both: `packet_*.rs` through mesh0, and once more inside `packet_fast.rs` past it.

use std::os::fd::AsFd;

use mesh_common::family::V4;
use mesh_common::schema::Peer;
use mesh_common::verdict::Hook;
use mesh_common::wire::mac;
use mesh_common::wire::outer::{self, Carrier, Outer};
use mesh_packet::{Frame, any, eth};

use super::outcome::Action;
use super::{HERE, Outcome, ROUTER_MAC, Rig, RunOptions, kernel};

/// MAC address of the rig's uplink.
pub const UPLINK_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// MAC address of its mesh0.
pub const MESH0_MAC: [u8; 6] = mac::of(mac::KIND_MESH0, 1);

/// How packets go between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Through mesh0: the kernel writes and reads the outer headers.
    Mesh0,
    /// The programs do.
    Fast,
}

impl Way {
    /// The way of the test binary that runs: `packet_fast` and `packet_fast_over_ipv6` hold the tests of others.
    pub fn of_this_test() -> Way {
        if this_binary().starts_with("packet_fast") { Way::Fast } else { Way::Mesh0 }
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

/// Name of the binary that runs, and what cargo puts behind it.
pub(super) fn this_binary() -> String {
    let path = std::env::current_exe().ok();
    path.as_deref()
        .and_then(|path| path.file_stem())
        .map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
}

impl Rig {
    /// A frame of a peer as it arrives on the wire; None if the programs leave it to mesh0.
    #[track_caller]
    pub fn from_wire(&mut self, peer: [u8; 4], vni: u32, inner: &[u8]) -> Option<Outcome> {
        let headers = Outer {
            macs: outer::macs(UPLINK_MAC, ROUTER_MAC),
            src: peer.into(),
            dst: HERE.into(),
            port: 4_789,
            vni,
            hash: 0,
            id: 0,
            tos: 0,
            inner_len: inner.len() as u16,
        };
        let mut words = [0; V4::OUTER_LEN / 2];
        V4::write(&headers, &mut words);
        let mut frame: Vec<u8> = words.into_iter().flat_map(u16::to_ne_bytes).collect();
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

impl Rig {
    /// On this kernel programs take a packet of one family out of one of the other (Linux 6.3); before, that is mesh0's.
    pub fn crosses_families(&mut self) -> bool {
        let inner = eth(mac::GATEWAY, ROUTER_MAC).ipv6([0x20; 16], [0x21; 16]).udp(1, 2).bytes();
        let crosses = self.from_wire(super::PEER_2, 4_097, &inner).is_some();
        if !crosses {
            mesh_lab::skip("one family taken out of the other by program", "this kernel is older than 6.3");
        }
        crosses
    }

    /// This kernel's test runs take a packet with the device's sum over it (Linux 6.15).
    pub fn knows_complete_sums(&mut self) -> bool {
        self.load("sweep");
        let program = self.program("sweep").fd().expect("it is loaded");
        let options = RunOptions { flags: kernel::CHECKSUM_COMPLETE, ..RunOptions::default() };
        let knows = kernel::test_run(program.as_fd(), &[0; 64], options).is_ok();
        if !knows {
            mesh_lab::skip("CHECKSUM_COMPLETE", "test runs of this kernel are older than 6.15");
        }
        knows
    }
}

/// A frame as it leaves the fast way. The VNI is whatever it is: tests that care look at the flow.
pub(super) fn wrapped(inner: &Frame) -> Frame {
    let outer = eth(UPLINK_MAC, ROUTER_MAC).ipv4(HERE, any());
    // A packet of IPv6 has no identification that would be told outside.
    let outer = if inner.bytes()[12..14] == [0x86, 0xdd] { outer.id(any()) } else { outer };
    outer.udp(any(), 4_789).no_checksum().vxlan(any()).carrying(inner)
}
