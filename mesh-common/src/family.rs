//! The two address families as types, so that no function of the packet path exists twice.
//!
//! A hook is written once, generic over [`Family`]; maps exist once per family. Addresses are in network order: the programs move them as
//! words ([`Addr4`], [`Addr6`]), user space as arrays of bytes, and both mean the same memory (`schema` checks it).

use crate::parse::Plain;
use crate::{checksum, word};

/// An IPv4 address as one word of memory. The compiler moves an array of four bytes one by one where it can't prove their alignment.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addr4(u32);

impl Addr4 {
    /// The four bytes, in network order.
    #[inline(always)]
    pub const fn octets(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }

    /// Of an address in a packet, read as a word of memory.
    #[inline(always)]
    pub const fn of_word(word: u32) -> Self {
        Addr4(word)
    }

    /// As a word of memory.
    #[inline(always)]
    pub const fn word(self) -> u32 {
        self.0
    }

    /// Of an address in a packet, read as two words of memory.
    #[inline(always)]
    pub const fn of_words(words: [u16; 2]) -> Self {
        let ([a, b], [c, d]) = (words[0].to_ne_bytes(), words[1].to_ne_bytes());
        Addr4(u32::from_ne_bytes([a, b, c, d]))
    }

    /// As two words of memory.
    #[inline(always)]
    pub const fn words(self) -> [u16; 2] {
        let [a, b, c, d] = self.octets();
        [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
    }
}

impl From<[u8; 4]> for Addr4 {
    #[inline(always)]
    fn from(octets: [u8; 4]) -> Self {
        Addr4(u32::from_ne_bytes(octets))
    }
}

/// An IPv6 address as four words of memory.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addr6([u32; 4]);

impl Addr6 {
    /// Of an address in a packet, read as words of memory.
    #[inline(always)]
    pub const fn of_words(words: [u32; 4]) -> Self {
        Addr6(words)
    }

    /// As words of memory.
    #[inline(always)]
    pub const fn words(self) -> [u32; 4] {
        self.0
    }

    /// The sixteen bytes, in network order.
    #[inline(always)]
    pub fn octets(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        for (at, word) in bytes.chunks_exact_mut(4).zip(self.0) {
            at.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

impl From<[u8; 16]> for Addr6 {
    #[inline(always)]
    fn from(b: [u8; 16]) -> Self {
        let word = |i: usize| u32::from_ne_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        Addr6([word(0), word(4), word(8), word(12)])
    }
}

/// What user space calls an address: its bytes in network order, as they lie in the maps.
pub trait Bytes: Copy + Eq + Ord + core::hash::Hash + Default + 'static {
    /// The family whose addresses these are.
    const ETHERTYPE: u16;
    /// In 16 bytes, IPv4 as ::ffff:a.b.c.d.
    fn to_16(self) -> [u8; 16];
    /// Back from 16 bytes; None if they are an address of the other family.
    fn of_16(bytes: [u8; 16]) -> Option<Self>;
}

impl Bytes for [u8; 4] {
    const ETHERTYPE: u16 = V4::ETHERTYPE;
    fn to_16(self) -> [u8; 16] {
        V4::to_16(self.into())
    }
    fn of_16(bytes: [u8; 16]) -> Option<Self> {
        is_mapped(&bytes).then(|| V4::from_16(bytes).octets())
    }
}

impl Bytes for [u8; 16] {
    const ETHERTYPE: u16 = V6::ETHERTYPE;
    fn to_16(self) -> [u8; 16] {
        self
    }
    fn of_16(bytes: [u8; 16]) -> Option<Self> {
        (!is_mapped(&bytes)).then_some(bytes)
    }
}

/// An IPv4 address in 16 bytes (RFC 4291, 2.5.5.2).
#[inline(always)]
pub fn is_mapped(bytes: &[u8; 16]) -> bool {
    u128::from_be_bytes(*bytes) >> 32 == 0xffff
}

/// IPv4 or IPv6, as a type.
pub trait Family: Copy + 'static {
    /// An address in network order.
    type Addr: Copy + Eq + Default + 'static;
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

    /// The beginning of a frame: Ethernet and the shortest IP header, as words of two bytes.
    type Front: Plain;

    /// Puts an address in the place of the source or of the destination, and its `difference` to the old one into the header's own checksum, where
    /// the family has one.
    fn readdress<const IS_SOURCE: bool>(front: &mut Self::Front, addr: &Self::Addr, difference: u32);
    /// The address in 16 bytes, IPv4 as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2).
    fn to_16(addr: Self::Addr) -> [u8; 16];
    /// Back from 16 bytes; IPv4 takes the last four.
    fn from_16(bytes: [u8; 16]) -> Self::Addr;
    /// What a checksum's sum changes by when one address becomes the other ([`crate::checksum::difference`]).
    fn difference(old: Self::Addr, new: Self::Addr) -> u32;
    /// The sum of an address' words in memory order, at most 16 of them.
    fn sum(addr: Self::Addr) -> u32;
    /// Mixes an address into a 32-bit word for hashing.
    fn fold(addr: Self::Addr) -> u32;
    /// Multicast or limited broadcast: never routed by us.
    fn is_multicast(addr: Self::Addr) -> bool;
    /// Of the link it is on alone, and asked for by no route: IPv6's (RFC 4291, 2.5.6). IPv4's are routed to whoever serves them there.
    fn is_link_local(addr: Self::Addr) -> bool;
    /// `127.0.0.1` or `::1`.
    fn loopback() -> Self::Addr;
    /// Inside `127.0.0.0/8` or `::1`.
    fn is_loopback(addr: Self::Addr) -> bool;
    /// Both addresses share a prefix of this length, which is not 0.
    fn same_network(a: Self::Addr, b: Self::Addr, prefix_len: u8) -> bool;
}

/// IPv4 (RFC 791).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V4;

/// IPv6 (RFC 8200).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct V6;

impl Family for V4 {
    type Addr = Addr4;
    const ADDR_LEN: usize = 4;
    const ETHERTYPE: u16 = 0x0800;
    const ICMP: u8 = 1;
    const ECHO_REQUEST: u8 = 8;
    const ECHO_REPLY: u8 = 0;
    const SRC_OFFSET: usize = 12;
    const HEADER_CHECKSUM_OFFSET: Option<usize> = Some(10);
    const HEADER_LEN: usize = 20;
    type Front = [u16; 17];

    #[inline(always)]
    fn readdress<const IS_SOURCE: bool>(front: &mut [u16; 17], addr: &Addr4, difference: u32) {
        front[12] = checksum::apply(front[12], difference);
        // SAFETY: within what `front` refers to.
        unsafe { if IS_SOURCE { word::write::<_, 26>(front, addr.0) } else { word::write::<_, 30>(front, addr.0) } }
    }

    #[inline(always)]
    fn to_16(a: Addr4) -> [u8; 16] {
        let a = a.octets();
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a[0], a[1], a[2], a[3]]
    }
    #[inline(always)]
    fn from_16(b: [u8; 16]) -> Addr4 {
        [b[12], b[13], b[14], b[15]].into()
    }
    #[inline(always)]
    fn difference(old: Addr4, new: Addr4) -> u32 {
        checksum::difference([old.0], [new.0])
    }
    #[inline(always)]
    fn sum(a: Addr4) -> u32 {
        (a.0 & 0xffff) + (a.0 >> 16)
    }
    #[inline(always)]
    fn fold(a: Addr4) -> u32 {
        u32::from_be(a.0)
    }
    #[inline(always)]
    fn is_multicast(a: Addr4) -> bool {
        a.octets()[0] >= 224
    }
    #[inline(always)]
    fn is_link_local(_: Addr4) -> bool {
        false
    }
    #[inline(always)]
    fn loopback() -> Addr4 {
        [127, 0, 0, 1].into()
    }
    #[inline(always)]
    fn is_loopback(a: Addr4) -> bool {
        a.octets()[0] == 127
    }
    #[inline(always)]
    fn same_network(a: Addr4, b: Addr4, prefix_len: u8) -> bool {
        let differing = u32::from_be(a.0 ^ b.0);
        prefix_len != 0 && differing.leading_zeros() >= prefix_len as u32
    }
}

impl Family for V6 {
    type Addr = Addr6;
    const ADDR_LEN: usize = 16;
    const ETHERTYPE: u16 = 0x86dd;
    const ICMP: u8 = 58;
    const ECHO_REQUEST: u8 = 128;
    const ECHO_REPLY: u8 = 129;
    const SRC_OFFSET: usize = 8;
    const HEADER_CHECKSUM_OFFSET: Option<usize> = None;
    const HEADER_LEN: usize = 40;
    type Front = [u16; 27];

    #[inline(always)]
    fn readdress<const IS_SOURCE: bool>(front: &mut [u16; 27], addr: &Addr6, _difference: u32) {
        let [a, b, c, d] = addr.0;
        // SAFETY: within what `front` refers to.
        unsafe {
            if IS_SOURCE {
                word::write::<_, 22>(front, a);
                word::write::<_, 26>(front, b);
                word::write::<_, 30>(front, c);
                word::write::<_, 34>(front, d);
            } else {
                word::write::<_, 38>(front, a);
                word::write::<_, 42>(front, b);
                word::write::<_, 46>(front, c);
                word::write::<_, 50>(front, d);
            }
        }
    }

    #[inline(always)]
    fn to_16(a: Addr6) -> [u8; 16] {
        a.octets()
    }
    #[inline(always)]
    fn from_16(b: [u8; 16]) -> Addr6 {
        b.into()
    }
    #[inline(always)]
    fn difference(old: Addr6, new: Addr6) -> u32 {
        checksum::difference(old.0, new.0)
    }
    #[inline(always)]
    fn sum(a: Addr6) -> u32 {
        let [a, b, c, d] = a.0.map(|word| (word & 0xffff) + (word >> 16));
        a + b + c + d
    }
    #[inline(always)]
    fn fold(a: Addr6) -> u32 {
        let [a, b, c, d] = a.0.map(u32::from_be);
        a ^ b.rotate_left(7) ^ c.rotate_left(13) ^ d.rotate_left(19)
    }
    #[inline(always)]
    fn is_multicast(a: Addr6) -> bool {
        a.octets()[0] == 0xff
    }
    #[inline(always)]
    fn is_link_local(a: Addr6) -> bool {
        u32::from_be(a.0[0]) >> 22 == 0xfe80 >> 6
    }
    #[inline(always)]
    fn loopback() -> Addr6 {
        Addr6([0, 0, 0, 1u32.to_be()])
    }
    #[inline(always)]
    fn is_loopback(a: Addr6) -> bool {
        let [a, b, c, d] = a.0;
        a | b | c == 0 && d == 1u32.to_be()
    }
    #[inline(always)]
    fn same_network(a: Addr6, b: Addr6, prefix_len: u8) -> bool {
        let mut left = prefix_len as u32;
        let mut is_same = prefix_len != 0;
        let mut i = 0;
        while i < 4 {
            let differing = u32::from_be(a.0[i] ^ b.0[i]);
            let of_word = if left < 32 { left } else { 32 };
            is_same &= differing.leading_zeros() >= of_word;
            left -= of_word;
            i += 1;
        }
        is_same
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_v4_address_survives_sixteen_bytes() {
        assert_eq!(V4::from_16(V4::to_16([10, 0, 16, 2].into())).octets(), [10, 0, 16, 2]);
        assert!(V4::is_multicast([224, 0, 0, 1].into()) && V4::is_multicast([255; 4].into()));
        assert!(!V4::is_multicast([10, 0, 0, 1].into()));
        assert!(V6::is_loopback([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1].into()));
        assert!(V4::is_loopback(V4::loopback()) && V6::is_loopback(V6::loopback()));
    }

    #[test]
    fn a_prefix_is_shared_up_to_its_length() {
        let v4 = |last: u8| Addr4::from([10, 0, 16, last]);
        assert!(V4::same_network(v4(1), v4(2), 30) && !V4::same_network(v4(1), v4(2), 31));
        assert!(!V4::same_network(v4(1), v4(1), 0) && V4::same_network(v4(1), v4(1), 32));
        let v6 = |at: usize, byte: u8| {
            let mut octets = [0xfd; 16];
            octets[at] = byte;
            Addr6::from(octets)
        };
        let same = Addr6::from([0xfd; 16]);
        for at in 0..16 {
            // The last bit but one of the byte differs.
            let (other, bits) = (v6(at, 0xfd ^ 2), at as u8 * 8 + 6);
            assert!(V6::same_network(same, other, bits.max(1)), "byte {at}");
            assert!(!V6::same_network(same, other, bits + 1), "byte {at}");
        }
        assert!(!V6::same_network(same, same, 0) && V6::same_network(same, same, 128));
    }

    #[test]
    fn words_are_the_bytes_in_memory() {
        let (four, sixteen) = ([192, 0, 2, 1], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
        let address = Addr4::from(four);
        assert_eq!((address.octets(), Addr4::of_words(address.words())), (four, address));
        assert_eq!(Addr6::from(sixteen).octets(), sixteen);
    }

    #[test]
    fn link_local_is_the_first_ten_bits() {
        let link_local =
            |first: [u8; 2]| V6::is_link_local([first[0], first[1], 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1].into());
        assert!(
            link_local([0xfe, 0x80])
                && link_local([0xfe, 0xbf])
                && !link_local([0xfe, 0xc0])
                && !link_local([0xfd, 0x80])
        );
    }
}
