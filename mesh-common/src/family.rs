//! The two address families as types, so that no function of the packet path exists twice.
//!
//! A hook is written once, generic over [`Family`]; maps exist once per family. Addresses are in network order: the programs move them as
//! words ([`Addr4`], [`Addr6`]), user space as arrays of bytes, and both mean the same memory (`schema` checks it).

pub use crate::addr::{Addr4, Addr6, Bytes, is_mapped};
use crate::parse::Plain;
use crate::{checksum, word};

/// An ICMP error by its type and code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// Its type.
    pub kind: u8,
    /// Its code.
    pub code: u8,
}

impl IcmpError {
    const fn of(kind: u8, code: u8) -> Self {
        IcmpError { kind, code }
    }
}

/// An address of a family, which says which one that is.
pub trait Of {
    /// The family whose addresses these are.
    type Family: Family<Addr = Self>;
}

impl Of for Addr4 {
    type Family = V4;
}

impl Of for Addr6 {
    type Family = V6;
}

/// What the headers of a tunnel packet take from the packet in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outline {
    /// Addresses and ports in one word: the same for all packets of a flow.
    pub flow: u32,
    /// IPv4's identification, in memory order; IPv6 has none.
    pub id: Option<u16>,
    /// Type of service, or traffic class.
    pub tos: u8,
}

/// IPv4 or IPv6, as a type.
pub trait Family: Copy + 'static {
    /// An address in network order.
    type Addr: Of<Family = Self> + Copy + Eq + Default + 'static;
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
    /// The host can't be reached.
    const UNREACHABLE_HOST: IcmpError;
    /// Nobody is at that port.
    const UNREACHABLE_PORT: IcmpError;
    /// Larger than the path takes; how large it may be comes with it.
    const TOO_BIG: IcmpError;
    /// It has come too far.
    const TIME_EXCEEDED: IcmpError;
    /// Bytes of a packet that an error about it quotes at most, from its IP header on.
    const MOST_QUOTED: usize;
    /// Offset of the source address in the IP header; the destination follows it.
    const SRC_OFFSET: usize;
    /// Offset of the IP header's own checksum, where the family has one.
    const HEADER_CHECKSUM_OFFSET: Option<usize>;
    /// Shortest IP header.
    const HEADER_LEN: usize;
    /// Offset of the number of what follows in the IP header.
    const PROTOCOL_OFFSET: usize;
    /// Offset of what says that a packet is a fragment: flags and offset; the number of what follows.
    const FRAGMENT_OFFSET: usize = 6;

    /// The beginning of a frame: Ethernet and the shortest IP header, as words of two bytes.
    type Front: Plain;

    /// The beginning of a packet: the shortest IP header, and the ports where they follow it at once, as words of two bytes.
    type Start: Plain;

    /// What a tunnel packet's headers take from a packet that begins so.
    fn outline(start: &Self::Start) -> Outline;
    /// Type of service, or traffic class, of a packet with this first word in memory order.
    fn tos(first: u16) -> u8;
    /// One of several fragments, of a packet whose header has this word at [`FRAGMENT_OFFSET`](Self::FRAGMENT_OFFSET). IPv6's fragment header may also stand behind others, where this does
    /// not see it.
    fn is_fragment(word: u16) -> bool;
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
    // RFC 792; "too big" is RFC 1191's.
    const UNREACHABLE_HOST: IcmpError = IcmpError::of(3, 1);
    const UNREACHABLE_PORT: IcmpError = IcmpError::of(3, 3);
    const TOO_BIG: IcmpError = IcmpError::of(3, 4);
    const TIME_EXCEEDED: IcmpError = IcmpError::of(11, 0);
    // A header without options and eight bytes.
    const MOST_QUOTED: usize = 28;
    const SRC_OFFSET: usize = 12;
    const HEADER_CHECKSUM_OFFSET: Option<usize> = Some(10);
    const HEADER_LEN: usize = 20;
    const PROTOCOL_OFFSET: usize = 9;
    type Front = [u16; 17];
    type Start = [u16; 12];

    #[inline(always)]
    fn outline(start: &[u16; 12]) -> Outline {
        let [version_tos, _, id, ..] = *start;
        // SAFETY: words of `start`: both addresses, and what follows them.
        let [src, dst, ports] =
            unsafe { [word::read::<_, 12>(start), word::read::<_, 16>(start), word::read::<_, 20>(start)] };
        Outline { flow: src ^ dst ^ ports, id: Some(id), tos: Self::tos(version_tos) }
    }

    #[inline(always)]
    fn tos(first: u16) -> u8 {
        first.to_ne_bytes()[1]
    }

    /// More to come, or an offset (RFC 791, 3.1).
    #[inline(always)]
    fn is_fragment(word: u16) -> bool {
        u16::from_be(word) & 0x3fff != 0
    }

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
    // RFC 4443, section 3.
    const UNREACHABLE_HOST: IcmpError = IcmpError::of(1, 3);
    const UNREACHABLE_PORT: IcmpError = IcmpError::of(1, 4);
    const TOO_BIG: IcmpError = IcmpError::of(2, 0);
    const TIME_EXCEEDED: IcmpError = IcmpError::of(3, 0);
    // The error itself is no longer than every link takes (RFC 8200, section 5): 1280 bytes with two headers.
    const MOST_QUOTED: usize = 1_280 - 48;
    const SRC_OFFSET: usize = 8;
    const HEADER_CHECKSUM_OFFSET: Option<usize> = None;
    const HEADER_LEN: usize = 40;
    const PROTOCOL_OFFSET: usize = 6;
    type Front = [u16; 27];
    type Start = [u16; 22];

    #[inline(always)]
    fn outline(start: &[u16; 22]) -> Outline {
        // SAFETY: words of `start`: both addresses, and what follows them.
        let (src, dst, ports) = unsafe {
            (
                word::read::<_, 8>(start)
                    ^ word::read::<_, 12>(start)
                    ^ word::read::<_, 16>(start)
                    ^ word::read::<_, 20>(start),
                word::read::<_, 24>(start)
                    ^ word::read::<_, 28>(start)
                    ^ word::read::<_, 32>(start)
                    ^ word::read::<_, 36>(start),
                word::read::<_, 40>(start),
            )
        };
        Outline { flow: src ^ dst ^ ports, id: None, tos: Self::tos(start[0]) }
    }

    /// Version, traffic class and flow label, four, eight and twenty bits (RFC 8200, section 3).
    #[inline(always)]
    fn tos(first: u16) -> u8 {
        let [first, second] = first.to_ne_bytes();
        first << 4 | second >> 4
    }

    /// A fragment header follows (RFC 8200, 4.5).
    #[inline(always)]
    fn is_fragment(word: u16) -> bool {
        word.to_ne_bytes()[0] == 44
    }

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
