//! MAC addresses of ours: `e6`, version and kind, a 32-bit number in network byte order.
//!
//! ```text
//!   byte 0      byte 1                   bytes 2..6
//!   1110 0110   version (4) | kind (4)   number, big endian
//! ```
//! `e6` has the locally-administered bit set and the group bit clear (IEEE 802, 48-bit identifiers).

use super::VERSION;

/// First byte of every MAC address of ours.
pub const PREFIX: u8 = 0xe6;

/// The host side of every task's veth, on every node: the gateway that tasks see. Number 0; 1 is [`SECOND_CHANCE`].
pub const KIND_GATEWAY: u8 = 0;
/// A task's `eth0`; the number is the endpoint of its first attachment.
pub const KIND_TASK: u8 = 1;
/// A node's `mesh0`; the number is the node's. Never an inner source: VXLAN drops frames with the device's own MAC as source.
pub const KIND_MESH0: u8 = 2;
/// In a request: the endpoint chosen by the ingress node.
pub const KIND_ENDPOINT: u8 = 3;
/// Last hop of a request: the ingress node's own host. Number 0.
pub const KIND_HOST: u8 = 4;
/// Last hop of a request: a task of the ingress node; the number is its endpoint.
pub const KIND_CLIENT: u8 = 5;
/// Reachability echo; the number is the peer's node number.
pub const KIND_ECHO: u8 = 6;

/// The MAC address of this kind and number.
#[inline(always)]
pub const fn of(kind: u8, number: u32) -> [u8; 6] {
    let n = number.to_be_bytes();
    [PREFIX, (VERSION << 4) | (kind & 0xf), n[0], n[1], n[2], n[3]]
}

/// Splits a MAC address of ours and of this version into kind and number.
#[inline(always)]
pub const fn split(mac: [u8; 6]) -> Option<(u8, u32)> {
    if mac[0] == PREFIX && mac[1] >> 4 == VERSION {
        Some((mac[1] & 0xf, u32::from_be_bytes([mac[2], mac[3], mac[4], mac[5]])))
    } else {
        None
    }
}

/// Host side of every task's veth.
pub const GATEWAY: [u8; 6] = of(KIND_GATEWAY, 0);
/// Source between nodes of a packet to the second task chosen for it: it is not turned back again.
pub const SECOND_CHANCE: [u8; 6] = of(KIND_GATEWAY, 1);
/// Last hop "the ingress node's own host".
pub const HOST: [u8; 6] = of(KIND_HOST, 0);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_carries_kind_and_number() {
        assert_eq!(of(KIND_ENDPOINT, 0x0102_0304), [0xe6, 0x13, 1, 2, 3, 4]);
        assert_eq!(split([0xe6, 0x13, 1, 2, 3, 4]), Some((KIND_ENDPOINT, 0x0102_0304)));
    }

    #[test]
    fn another_version_or_prefix_is_not_ours() {
        assert_eq!(split([0xe6, 0x23, 1, 2, 3, 4]), None);
        assert_eq!(split([0x02, 0x42, 1, 2, 3, 4]), None);
    }
}
