//! What stands before the inner frame between nodes: Ethernet, IPv4, UDP and VXLAN (RFC 7348) without options, 50 bytes.
//!
//! For senders that write it themselves (the fast way of TC, XDP); through mesh0 the kernel makes the same. Words are in memory order.

use crate::checksum;
use crate::parse::{Cursor, ETHERNET_LEN, Plain};

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
    /// MAC address of the next hop, as it lies in memory.
    pub next_hop: [u16; 3],
    /// MAC address of the link it leaves by, as it lies in memory.
    pub link_mac: [u16; 3],
    /// Data path address of this node, as it lies in memory.
    pub src: [u16; 2],
    /// Data path address of the peer, as it lies in memory.
    pub dst: [u16; 2],
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
        let mut words = [0; LEN / 2];
        self.write(&mut words);
        words
    }

    /// Writes the headers where they belong, word by word: a program's stack has no room for them. Gives the sum of all behind the Ethernet
    /// header, of which the IPv4 header is nothing: with its checksum in it, it sums up to zero.
    #[inline(always)]
    pub fn write(&self, to: &mut [u16; LEN / 2]) -> u32 {
        [to[0], to[1], to[2]] = self.next_hop;
        [to[3], to[4], to[5]] = self.link_mac;
        to[6] = 0x0800u16.to_be();
        self.write_ipv4(to);
        // UDP, without a checksum, as section 5 allows.
        to[17] = (FIRST_PORT | (self.hash >> 18) as u16).to_be();
        to[18] = self.port.to_be();
        to[19] = self.udp_len().to_be();
        to[20] = 0;
        let [a, b, c, d] = (self.vni << 8).to_be_bytes();
        to[21] = u16::from_ne_bytes([FLAG_I, 0]);
        to[22] = 0;
        to[23] = u16::from_ne_bytes([a, b]);
        to[24] = u16::from_ne_bytes([c, d]);
        checksum::sum(0, &[to[17], to[18], to[19], to[21], to[23], to[24]])
    }

    #[inline(always)]
    fn udp_len(&self) -> u16 {
        self.inner_len.wrapping_add((UDP_LEN + VXLAN_LEN) as u16)
    }

    #[inline(always)]
    fn write_ipv4(&self, to: &mut [u16; LEN / 2]) {
        let ([from0, from1], [to0, to1]) = (self.src, self.dst);
        let total_len = self.udp_len().wrapping_add(IPV4_LEN as u16).to_be();
        let first = u16::from_ne_bytes([0x45, self.tos & 3]);
        let ttl_and_udp = u16::from_ne_bytes([64, 17]);
        let addresses = from0 as u32 + from1 as u32 + to0 as u32 + to1 as u32;
        let sum = first as u32 + total_len as u32 + self.id as u32 + ttl_and_udp as u32 + addresses;
        to[7] = first;
        to[8] = total_len;
        to[9] = self.id;
        to[10] = 0;
        to[11] = ttl_and_udp;
        to[12] = checksum::finish(sum);
        [to[13], to[14], to[15], to[16]] = [from0, from1, to0, to1];
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
    use crate::parse::{self, words_of_4, words_of_6};

    fn outer(vni: u32, hash: u32, id: u16, tos: u8, inner_len: u16) -> Outer {
        Outer {
            next_hop: words_of_6([2, 0, 0, 0, 0, 1]),
            link_mac: words_of_6([2, 0, 0, 0, 0, 2]),
            src: words_of_4([192, 168, 7, 1]),
            dst: words_of_4([192, 168, 7, 2]),
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
            prop_assert_eq!((packet.src.octets(), packet.dst.octets(), packet.dport, packet.l4), ([192, 168, 7, 1], [192, 168, 7, 2], 4789, 34));
            prop_assert_eq!(packet.l4_len, inner_len + 16);
            prop_assert!(packet.sport >= FIRST_PORT);
            let behind = bytes[34..].chunks_exact(2).fold(0u32, |sum, word| sum + u32::from(u16::from_ne_bytes([word[0], word[1]])));
            let mut again = [0; LEN / 2];
            prop_assert_eq!(outer(vni, hash, id, tos, inner_len).write(&mut again), behind);
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
