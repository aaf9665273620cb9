//! What stands before the inner frame between nodes: Ethernet, IPv4, UDP and VXLAN (RFC 7348) without options, 50 bytes.
//!
//! For senders that write it themselves (the fast way of TC, XDP); through mesh0 the kernel makes the same. Words are in memory order.

use crate::checksum;
use crate::parse::{Cursor, ETHERNET_LEN, Plain, words_of_4, words_of_6};

/// Bytes before the inner frame.
pub const LEN: usize = ETHERNET_LEN + IPV4_LEN + UDP_LEN + VXLAN_LEN;
/// Offset of the VXLAN header.
pub const VXLAN_AT: usize = ETHERNET_LEN + IPV4_LEN + UDP_LEN;

const IPV4_LEN: usize = 20;
const UDP_LEN: usize = 8;
const VXLAN_LEN: usize = 8;
/// "The VNI counts" (RFC 7348, section 5).
const FLAG_I: u8 = 0x08;
/// Source ports (RFC 7348, section 5: the dynamic range, chosen by a hash of the inner packet).
const FIRST_PORT: u16 = 49_152;

/// What the headers say.
#[derive(Clone, Copy, Debug)]
pub struct Outer {
    /// MAC address of the next hop.
    pub next_hop: [u8; 6],
    /// MAC address of the link it leaves by.
    pub link_mac: [u8; 6],
    /// Data path address of this node.
    pub src: [u8; 4],
    /// Data path address of the peer.
    pub dst: [u8; 4],
    /// UDP port of VXLAN.
    pub port: u16,
    /// VNI.
    pub vni: u32,
    /// Hash of the inner packet: of a flow's packets all take one way through a network that spreads them.
    pub hash: u32,
    /// IPv4 identification in memory order, the inner packet's: who forwards may fragment.
    pub id: u16,
    /// The inner packet's type of service; its ECN bits are told outside too (RFC 6040, 4.1).
    pub tos: u8,
    /// Bytes of the inner frame.
    pub inner_len: u16,
}

impl Outer {
    /// The headers as they lie in the frame.
    #[inline(always)]
    pub fn words(&self) -> [u16; LEN / 2] {
        let ([d0, d1, d2], [s0, s1, s2]) = (words_of_6(self.next_hop), words_of_6(self.link_mac));
        let ([from0, from1], [to0, to1]) = (words_of_4(self.src), words_of_4(self.dst));
        let udp_len = self.inner_len.wrapping_add((UDP_LEN + VXLAN_LEN) as u16);
        let total_len = udp_len.wrapping_add(IPV4_LEN as u16).to_be();
        let udp_len = udp_len.to_be();
        let first = u16::from_ne_bytes([0x45, self.tos & 3]);
        let ttl = u16::from_ne_bytes([64, 17]);
        let sum = first as u32
            + total_len as u32
            + self.id as u32
            + ttl as u32
            + from0 as u32
            + from1 as u32
            + to0 as u32
            + to1 as u32;
        let checksum = checksum::finish(sum);
        let sport = (FIRST_PORT | (self.hash >> 18) as u16).to_be();
        let vni = (self.vni << 8).to_be_bytes();
        let (vni0, vni1) = (u16::from_ne_bytes([vni[0], vni[1]]), u16::from_ne_bytes([vni[2], vni[3]]));
        [
            d0,
            d1,
            d2,
            s0,
            s1,
            s2,
            0x0800u16.to_be(), // Ethernet
            first,
            total_len,
            self.id,
            0,
            ttl,
            checksum,
            from0,
            from1,
            to0,
            to1, // IPv4
            sport,
            self.port.to_be(),
            udp_len,
            0, // UDP; without a checksum, as section 5 allows
            u16::from_ne_bytes([FLAG_I, 0]),
            0,
            vni0,
            vni1, // VXLAN
        ]
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct VxlanHeader {
    flags: [u8; 2],
    reserved: [u8; 2],
    vni: [u16; 2],
}

// SAFETY: bytes and words at even offsets: no padding.
unsafe impl Plain for VxlanHeader {}

/// The VNI of a frame whose outer headers are those of [`Outer`]; None where the VXLAN header says anything else than a VNI.
#[inline(always)]
pub fn vni(cursor: &impl Cursor) -> Option<u32> {
    let header: VxlanHeader = cursor.load(VXLAN_AT)?;
    let ([high, low], flags) = (header.vni.map(u16::from_be), header.flags[0]);
    if flags == FLAG_I && low & 0xff == 0 { Some((high as u32) << 8 | low as u32 >> 8) } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::family::V4;
    use crate::parse;

    fn outer(vni: u32, hash: u32, id: u16, tos: u8, inner_len: u16) -> Outer {
        Outer {
            next_hop: [2, 0, 0, 0, 0, 1],
            link_mac: [2, 0, 0, 0, 0, 2],
            src: [192, 168, 7, 1],
            dst: [192, 168, 7, 2],
            port: 4789,
            vni,
            hash,
            id,
            tos,
            inner_len,
        }
    }

    proptest! {
        #[test]
        fn the_headers_are_read_back(
            vni in 0u32..1 << 24, hash in any::<u32>(), id in any::<u16>(), tos in any::<u8>(), inner_len in 14u16..9_000,
        ) {
            let bytes: Vec<u8> = outer(vni, hash, id, tos, inner_len).words().into_iter().flat_map(u16::to_ne_bytes).collect();
            let frame = &bytes[..];
            prop_assert_eq!(super::vni(&frame), Some(vni));
            let eth = parse::ethernet(&frame).unwrap();
            prop_assert_eq!((eth.dst, eth.src, eth.ethertype), ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], 0x0800));
            let packet = parse::packet::<V4>(&frame).unwrap();
            prop_assert_eq!((packet.src, packet.dst, packet.dport, packet.l4), ([192, 168, 7, 1], [192, 168, 7, 2], 4789, 34));
            prop_assert_eq!(packet.l4_len, inner_len + 16);
            prop_assert!(packet.sport >= FIRST_PORT);
            // A header with its checksum sums up to all ones (RFC 791, 3.1).
            prop_assert_eq!(checksum::fold(checksum::add(0, &bytes[14..34])), 0xffff);
            prop_assert_eq!(bytes[15], tos & 3);
        }
    }

    #[test]
    fn what_says_more_than_a_vni_is_not_read() {
        let words = outer(4097, 0, 0, 0, 64).words();
        let bytes: Vec<u8> = words.into_iter().flat_map(u16::to_ne_bytes).collect();
        for (at, value) in [(42, 0), (42, 0x0c), (49, 1)] {
            let mut changed = bytes.clone();
            changed[at] = value;
            assert_eq!(vni(&&changed[..]), None, "byte {at}");
        }
    }
}
