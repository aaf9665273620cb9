//! What stands before the inner frame between nodes: Ethernet, IPv4, UDP and VXLAN (RFC 7348) without options, 50 bytes.
//!
//! For senders that write it themselves (the fast way of TC, XDP); through mesh0 the kernel makes the same. Words are in memory order.

use crate::family::{Family, V4};
use crate::parse::{Cursor, ETHERNET_LEN, Plain};
use crate::schema::{Config, Peer};
use crate::word;
use crate::{checksum, hash};

/// Bytes before the inner frame.
pub const LEN: usize = ETHERNET_LEN + IPV4_LEN + UDP_LEN + VXLAN_LEN;
/// Offset of the VXLAN header.
pub const VXLAN_AT: usize = ETHERNET_LEN + IPV4_LEN + UDP_LEN;

const IPV4_LEN: usize = 20;
const UDP_LEN: usize = 8;
const VXLAN_LEN: usize = 8;
/// "The VNI counts" (RFC 7348, section 5).
const FLAG_I: u8 = 0x08;
/// Time to live and protocol, as they lie in memory.
const TTL_AND_UDP: u16 = u16::from_ne_bytes([64, 17]);
/// Source ports (RFC 7348, section 5: the dynamic range, chosen by a hash of the inner packet).
const FIRST_PORT: u16 = 49_152;

/// What the headers say.
#[derive(Clone, Copy, Debug)]
pub struct Outer {
    /// MAC addresses of the next hop and of the link it leaves by, as they lie in memory ([`macs`]).
    pub macs: [u32; 3],
    /// Data path address of this node, as it lies in memory.
    pub src: u32,
    /// Data path address of the peer, as it lies in memory.
    pub dst: u32,
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

/// Both MAC addresses as they lie in a frame, in words.
pub const fn macs(next_hop: [u8; 6], link_mac: [u8; 6]) -> [u32; 3] {
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (next_hop, link_mac);
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]), u32::from_ne_bytes([i, j, k, l])]
}

/// Two bytes and two more as a word of memory.
#[inline(always)]
const fn join(one: u16, other: u16) -> u32 {
    let ([a, b], [c, d]) = (one.to_ne_bytes(), other.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
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
        let (first, total_len) =
            (u16::from_ne_bytes([0x45, self.tos & 3]), self.udp_len().wrapping_add(IPV4_LEN as u16));
        let (total_len, udp_len, port) = (total_len.to_be(), self.udp_len().to_be(), self.port.to_be());
        let source_port = (FIRST_PORT | (self.hash >> 18) as u16).to_be();
        let (flags, vni) = (u32::from_ne_bytes([FLAG_I, 0, 0, 0]), (self.vni << 8).to_be());
        let checksum = self.ipv4_checksum(first, total_len);
        // SAFETY: each lies within what `to` refers to.
        unsafe {
            word::write::<_, 0>(to, self.macs[0]);
            word::write::<_, 4>(to, self.macs[1]);
            word::write::<_, 8>(to, self.macs[2]);
            word::write::<_, 12>(to, join(0x0800u16.to_be(), first));
            word::write::<_, 16>(to, join(total_len, self.id));
            word::write::<_, 20>(to, join(0, TTL_AND_UDP));
            to[12] = checksum;
            word::write::<_, 26>(to, self.src);
            word::write::<_, 30>(to, self.dst);
            word::write::<_, 34>(to, join(source_port, port));
            // Without a checksum, as section 5 allows.
            word::write::<_, 38>(to, join(udp_len, 0));
            word::write::<_, 42>(to, flags);
            word::write::<_, 46>(to, vni);
        }
        let halves = |word: u32| (word & 0xffff) + (word >> 16);
        halves(vni) + halves(flags) + source_port as u32 + port as u32 + udp_len as u32
    }

    #[inline(always)]
    fn udp_len(&self) -> u16 {
        self.inner_len.wrapping_add((UDP_LEN + VXLAN_LEN) as u16)
    }

    #[inline(always)]
    fn ipv4_checksum(&self, first: u16, total_len: u16) -> u16 {
        let rest = first as u32 + total_len as u32 + self.id as u32 + TTL_AND_UDP as u32;
        let sum = self.src as u64 + self.dst as u64 + rest as u64;
        // Of 34 bits 33 become, of those 17 and of those 16 (RFC 1071, 2.A: sums of longer words fold to the same).
        let sum = (sum & 0xffff_ffff) + (sum >> 32);
        checksum::finish(((sum & 0xffff) + (sum >> 16)) as u32)
    }
}

/// The beginning of a tunnel packet with an IPv4 packet in it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Wrapped {
    outer: [u16; LEN / 2],
    /// The inner frame's Ethernet header.
    pub ethernet: [u16; ETHERNET_LEN / 2],
    /// Up to the addresses and, where there are no options, ports.
    packet: [u16; (V4::SRC_OFFSET + 12) / 2],
}

// SAFETY: words, without padding.
unsafe impl Plain for Wrapped {}

/// Where the inner source address is.
const INNER_SRC: usize = LEN + ETHERNET_LEN + V4::SRC_OFFSET;

impl Wrapped {
    /// Writes the outer headers before what stands there already: an inner frame of `inner_len` bytes, towards this peer. All that they take from it
    /// is read here, in one go with the writing: what programs keep from before they made room would be kept on the stack (docs/decisions/0006). Gives
    /// the sum of [`Outer::write`].
    #[inline(always)]
    pub fn wrap(&mut self, config: &Config, peer: &Peer, vni: u32, inner_len: u16) -> u32 {
        let [version_tos, _, id, ..] = self.packet;
        let at = &raw const *self;
        // SAFETY: words of `packet`: both addresses, and what follows them.
        let [src, dst, ports] = unsafe {
            [
                word::read::<_, INNER_SRC>(at),
                word::read::<_, { INNER_SRC + 4 }>(at),
                word::read::<_, { INNER_SRC + 8 }>(at),
            ]
        };
        let headers = Outer {
            macs: peer.macs(),
            src: config.tunnel_addr4_word(),
            dst: peer.addr4_word(),
            port: config.data_port,
            vni,
            // The same whichever hook sends: a flow has one source port outside.
            hash: hash::spread(src ^ dst ^ ports),
            id,
            tos: version_tos.to_ne_bytes()[1],
            inner_len,
        };
        headers.write(&mut self.outer)
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
            macs: macs([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]),
            src: u32::from_ne_bytes([192, 168, 7, 1]),
            dst: u32::from_ne_bytes([192, 168, 7, 2]),
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
