//! The two address families as types, so that no function of the packet path exists twice.
//!
//! A hook is written once, generic over [`Family`]; maps exist once per family. Addresses are byte arrays in network order.

use crate::checksum;

/// IPv4 or IPv6, as a type.
pub trait Family: Copy + 'static {
    /// An address in network order.
    type Addr: Copy + Eq + Default + AsRef<[u8]> + 'static;
    /// Bytes of an address.
    const ADDR_LEN: usize;
    /// EtherType (IEEE 802 numbers), host order.
    const ETHERTYPE: u16;
    /// The ICMP of this family as an IP protocol number.
    const ICMP: u8;
    /// ICMP type of an echo request.
    const ECHO_REQUEST: u8;
    /// ICMP type of an echo reply.
    const ECHO_REPLY: u8;
    /// Offset of the source address in the IP header; the destination follows it.
    const SRC_OFFSET: usize;
    /// Offset of the IP header's own checksum, where the family has one.
    const HEADER_CHECKSUM_OFFSET: Option<usize>;
    /// Shortest IP header.
    const HEADER_LEN: usize;

    /// The address in 16 bytes, IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2).
    fn to_16(addr: Self::Addr) -> [u8; 16];
    /// Back from 16 bytes; IPv4 takes the last four.
    fn from_16(bytes: [u8; 16]) -> Self::Addr;
    /// What a checksum's sum changes by when one address becomes the other ([`crate::checksum::difference`]).
    fn difference(old: Self::Addr, new: Self::Addr) -> u32;
    /// Mixes an address into a 32-bit word for hashing.
    fn fold(addr: Self::Addr) -> u32;
    /// Multicast or limited broadcast: never routed by us.
    fn is_multicast(addr: Self::Addr) -> bool;
    /// Inside `127.0.0.0/8` or `::1`.
    fn is_loopback(addr: Self::Addr) -> bool;
}

/// IPv4 (RFC 791).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V4;

/// IPv6 (RFC 8200).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V6;

impl Family for V4 {
    type Addr = [u8; 4];
    const ADDR_LEN: usize = 4;
    const ETHERTYPE: u16 = 0x0800;
    const ICMP: u8 = 1;
    const ECHO_REQUEST: u8 = 8;
    const ECHO_REPLY: u8 = 0;
    const SRC_OFFSET: usize = 12;
    const HEADER_CHECKSUM_OFFSET: Option<usize> = Some(10);
    const HEADER_LEN: usize = 20;

    #[inline(always)]
    fn to_16(a: [u8; 4]) -> [u8; 16] {
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a[0], a[1], a[2], a[3]]
    }
    #[inline(always)]
    fn from_16(b: [u8; 16]) -> [u8; 4] {
        [b[12], b[13], b[14], b[15]]
    }
    #[inline(always)]
    fn difference(old: [u8; 4], new: [u8; 4]) -> u32 {
        checksum::difference([u32::from_ne_bytes(old)], [u32::from_ne_bytes(new)])
    }
    #[inline(always)]
    fn fold(a: [u8; 4]) -> u32 {
        u32::from_be_bytes(a)
    }
    #[inline(always)]
    fn is_multicast(a: [u8; 4]) -> bool {
        a[0] >= 224
    }
    #[inline(always)]
    fn is_loopback(a: [u8; 4]) -> bool {
        a[0] == 127
    }
}

impl Family for V6 {
    type Addr = [u8; 16];
    const ADDR_LEN: usize = 16;
    const ETHERTYPE: u16 = 0x86dd;
    const ICMP: u8 = 58;
    const ECHO_REQUEST: u8 = 128;
    const ECHO_REPLY: u8 = 129;
    const SRC_OFFSET: usize = 8;
    const HEADER_CHECKSUM_OFFSET: Option<usize> = None;
    const HEADER_LEN: usize = 40;

    #[inline(always)]
    fn to_16(a: [u8; 16]) -> [u8; 16] {
        a
    }
    #[inline(always)]
    fn from_16(b: [u8; 16]) -> [u8; 16] {
        b
    }
    #[inline(always)]
    fn difference(old: [u8; 16], new: [u8; 16]) -> u32 {
        let words = |a: [u8; 16]| {
            let word = |i: usize| u32::from_ne_bytes([a[i], a[i + 1], a[i + 2], a[i + 3]]);
            [word(0), word(4), word(8), word(12)]
        };
        checksum::difference(words(old), words(new))
    }
    #[inline(always)]
    fn fold(a: [u8; 16]) -> u32 {
        let word = |i: usize| u32::from_be_bytes([a[i], a[i + 1], a[i + 2], a[i + 3]]);
        word(0) ^ word(4).rotate_left(7) ^ word(8).rotate_left(13) ^ word(12).rotate_left(19)
    }
    #[inline(always)]
    fn is_multicast(a: [u8; 16]) -> bool {
        a[0] == 0xff
    }
    #[inline(always)]
    fn is_loopback(a: [u8; 16]) -> bool {
        u128::from_be_bytes(a) == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v4_address_survives_sixteen_bytes() {
        assert_eq!(V4::from_16(V4::to_16([10, 0, 16, 2])), [10, 0, 16, 2]);
        assert!(V4::is_multicast([224, 0, 0, 1]) && V4::is_multicast([255; 4]) && !V4::is_multicast([10, 0, 0, 1]));
        assert!(V6::is_loopback([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]));
    }
}
