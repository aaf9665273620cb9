//! From bytes to a [`Packet`]: Ethernet, IPv4 or IPv6, and the ports of TCP, UDP, SCTP or ICMP echo.
//!
//! A packet, or None: malformed, shorter than its headers say or with headers that contradict each other. Only headers are read, through a
//! [`Cursor`], so that the same code runs over a slice on the host and over an sk_buff under the verifier.

use core::mem::MaybeUninit;
use core::ops::Deref;

use crate::family::{Addr4, Family, V4};
use crate::schema::FlowKey;
use crate::word;

/// A value that any bytes make, at any even address: headers begin at even offsets of frames that do (`NET_IP_ALIGN`, include/linux/skbuff.h),
/// and the BPF target reads two bytes at once only where it may believe so.
///
/// # Safety
/// Only for bytes, `u16`, arrays of them, and `repr(C)` structures of those without padding; with words in it too, where [`Plain::read`] reads
/// them as such.
pub unsafe trait Plain: Copy {
    /// Reads it off a packet.
    ///
    /// # Safety
    /// As many bytes are there, from an even address on.
    #[inline(always)]
    unsafe fn read(at: *const Self) -> Self {
        // SAFETY: as the caller vouches; more than an even address is nobody's alignment who does not read it himself.
        unsafe { at.read() }
    }
}

// SAFETY: bytes.
unsafe impl<const N: usize> Plain for [u8; N] {}
// SAFETY: two bytes each.
unsafe impl<const N: usize> Plain for [u16; N] {}

/// Reads values at an offset of the frame.
pub trait Cursor {
    /// The bytes from `offset` as a `T`; None past the end.
    fn load<T: Plain>(&self, offset: usize) -> Option<T>;

    /// The same; None also where it would take more than a look.
    #[inline(always)]
    fn peek<T: Plain>(&self, offset: usize) -> Option<T> {
        self.load(offset)
    }
}

impl Cursor for &[u8] {
    fn load<T: Plain>(&self, offset: usize) -> Option<T> {
        let bytes = self.get(offset..)?.get(..size_of::<T>())?;
        // SAFETY: the slice has as many bytes, and any bytes are a `T`.
        Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
    }
}

/// Length of an Ethernet header without VLAN tag.
pub const ETHERNET_LEN: usize = 14;
/// EtherType of ARP (RFC 826).
pub const ETHERTYPE_ARP: u16 = 0x0806;
/// EtherType of our reachability echo: IEEE 802 local experimental 1.
pub const ETHERTYPE_ECHO: u16 = 0x88b5;

/// IP protocol numbers (IANA).
pub mod protocol {
    /// ICMP for IPv4.
    pub const ICMP: u8 = 1;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// SCTP.
    pub const SCTP: u8 = 132;
}

/// TCP flag bits (RFC 9293, 3.1), as in byte 13 of the header.
pub mod tcp_flag {
    /// No more data.
    pub const FIN: u8 = 0x01;
    /// Synchronise.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Acknowledgement field counts.
    pub const ACK: u8 = 0x10;
}

/// An Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ethernet {
    /// Destination.
    pub dst: [u8; 6],
    /// Source.
    pub src: [u8; 6],
    /// EtherType, host order.
    pub ethertype: u16,
}

/// An Ethernet header as it lies in a frame.
#[repr(C)]
#[derive(Clone, Copy)]
struct EthernetHeader {
    dst: [u16; 3],
    src: [u16; 3],
    ethertype: u16,
}

/// An IPv4 header without options (RFC 791, 3.1) as it lies in a packet.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv4Header {
    version_ihl: u8,
    tos: u8,
    total_len: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    src: u32,
    dst: u32,
}

/// The start of a TCP header (RFC 9293, 3.1), up to the flags.
#[repr(C)]
#[derive(Clone, Copy)]
struct TcpHeader {
    sport: u16,
    dport: u16,
    sequence: [u16; 2],
    acknowledgement: [u16; 2],
    data_offset: u8,
    flags: u8,
}

/// What TCP, UDP and SCTP begin with.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ports {
    sport: u16,
    dport: u16,
}

// SAFETY: integers and byte arrays, each at a multiple of its alignment from the start, the sizes even: no padding.
unsafe impl Plain for EthernetHeader {}
// SAFETY: as above, and words are read as such.
unsafe impl Plain for Ipv4Header {
    #[inline(always)]
    unsafe fn read(at: *const Self) -> Self {
        // SAFETY: fields of what the caller vouches for, bytes and two bytes at even addresses; the words are 12 and 16 bytes behind its beginning.
        unsafe {
            Ipv4Header {
                version_ihl: (&raw const (*at).version_ihl).read(),
                tos: (&raw const (*at).tos).read(),
                total_len: (&raw const (*at).total_len).read(),
                id: (&raw const (*at).id).read(),
                fragment: (&raw const (*at).fragment).read(),
                ttl: (&raw const (*at).ttl).read(),
                protocol: (&raw const (*at).protocol).read(),
                checksum: (&raw const (*at).checksum).read(),
                src: word::read::<_, 12>(at),
                dst: word::read::<_, 16>(at),
            }
        }
    }
}
// SAFETY: as above.
unsafe impl Plain for TcpHeader {}
// SAFETY: as above.
unsafe impl Plain for Ports {}

const _: () = {
    assert!(size_of::<EthernetHeader>() == ETHERNET_LEN && size_of::<Ipv4Header>() == 20);
    assert!(size_of::<TcpHeader>() == 14 && size_of::<Ports>() == 4);
};

/// A MAC address as it lies in memory, two bytes at a time.
#[inline(always)]
pub fn words_of_6(b: [u8; 6]) -> [u16; 3] {
    [[b[0], b[1]], [b[2], b[3]], [b[4], b[5]]].map(u16::from_ne_bytes)
}

/// An address as it lies in memory, two bytes at a time.
#[inline(always)]
pub fn words_of_4(b: [u8; 4]) -> [u16; 2] {
    [[b[0], b[1]], [b[2], b[3]]].map(u16::from_ne_bytes)
}

/// An address as two words of memory.
#[inline(always)]
pub fn bytes_of_2(words: [u16; 2]) -> [u8; 4] {
    let [a, b] = words.map(u16::to_ne_bytes);
    [a[0], a[1], b[0], b[1]]
}

/// A MAC address as three words of memory.
#[inline(always)]
fn bytes_of_3(words: [u16; 3]) -> [u8; 6] {
    let [a, b, c] = words.map(u16::to_ne_bytes);
    [a[0], a[1], b[0], b[1], c[0], c[1]]
}

/// Reads the Ethernet header.
#[inline(always)]
pub fn ethernet(cursor: &impl Cursor) -> Option<Ethernet> {
    let header: EthernetHeader = cursor.load(0)?;
    Some(Ethernet {
        dst: bytes_of_3(header.dst),
        src: bytes_of_3(header.src),
        ethertype: u16::from_be(header.ethertype),
    })
}

/// Reads the EtherType alone, host order: most packets need no more of the Ethernet header.
#[inline(always)]
pub fn ethertype(cursor: &impl Cursor) -> Option<u16> {
    cursor.load::<EthernetHeader>(0).map(|header| u16::from_be(header.ethertype))
}

/// What stands behind the IP header.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// TCP, UDP or SCTP with both ports.
    Ports,
    /// ICMP echo request: the identifier is the source port, the destination port is 0.
    EchoRequest,
    /// ICMP echo reply: the identifier is the destination port, the source port is 0.
    EchoReply,
    /// An ICMP error, which quotes another packet.
    IcmpError,
    /// A later fragment: ports unknown, both 0.
    Fragment,
    /// Another protocol: no ports, both 0.
    Other,
}

/// A packet as the stages see it: its tuple, whose fields it shows as its own, and what else the headers say.
///
/// An echo request has its identifier as source port and 0 as destination port, an echo reply the other way round; who has no ports has 0 twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<F: Family> {
    /// What flows are looked up by.
    pub tuple: FlowKey<F::Addr>,
    /// TCP flags, 0 for other protocols.
    pub tcp_flags: u8,
    /// What the ports mean.
    pub form: Form,
    /// Offset of the transport header in the frame. One byte, which the verifier takes for a bound wherever it is loaded.
    pub l4: u8,
    /// Bytes behind the IP header, as the IP header says.
    pub l4_len: u16,
}

impl<F: Family> Deref for Packet<F> {
    type Target = FlowKey<F::Addr>;

    #[inline(always)]
    fn deref(&self) -> &FlowKey<F::Addr> {
        &self.tuple
    }
}

impl<F: Family> Packet<F> {
    /// The first packet of a connection, or of anything without connections.
    #[inline(always)]
    pub fn may_open(&self) -> bool {
        self.protocol != protocol::TCP || self.tcp_flags & (tcp_flag::SYN | tcp_flag::ACK) == tcp_flag::SYN
    }

    /// The flow hash of this direction.
    #[inline(always)]
    pub fn hash(&self) -> u32 {
        crate::hash::tuple::<F>(self.src, self.dst, self.sport, self.dport, self.protocol)
    }
}

/// What [`packet`] needs of an IP header.
pub struct Ip<F: Family> {
    pub(crate) src: F::Addr,
    pub(crate) dst: F::Addr,
    pub(crate) protocol: u8,
    pub(crate) l4: u8,
    pub(crate) l4_len: u16,
    pub(crate) later_fragment: bool,
}

/// Reads the IP header of a family.
pub trait ParseIp: Family {
    /// The header at the Ethernet payload.
    fn ip(cursor: &impl Cursor) -> Option<Ip<Self>>;

    /// The same, where it is as nearly all are: as short as can be, and no later fragment.
    fn plain(cursor: &impl Cursor) -> Option<Ip<Self>>;
}

impl ParseIp for V4 {
    #[inline(always)]
    fn ip(cursor: &impl Cursor) -> Option<Ip<V4>> {
        let header: Ipv4Header = cursor.load(ETHERNET_LEN)?;
        let header_len = (header.version_ihl & 0xf) as usize * 4;
        let total_len = u16::from_be(header.total_len) as usize;
        if header.version_ihl >> 4 != 4 || header_len < Self::HEADER_LEN || total_len < header_len {
            return None;
        }
        Some(Ip {
            src: Addr4::of_word(header.src),
            dst: Addr4::of_word(header.dst),
            protocol: header.protocol,
            l4: (ETHERNET_LEN + header_len) as u8,
            l4_len: (total_len - header_len) as u16,
            later_fragment: u16::from_be(header.fragment) & 0x1fff != 0,
        })
    }

    #[inline(always)]
    fn plain(cursor: &impl Cursor) -> Option<Ip<V4>> {
        let header: Ipv4Header = cursor.peek(ETHERNET_LEN)?;
        let total_len = u16::from_be(header.total_len);
        let is_plain = header.version_ihl == 0x45
            && u16::from_be(header.fragment) & 0x1fff == 0
            && total_len >= Self::HEADER_LEN as u16;
        is_plain.then_some(Ip {
            src: Addr4::of_word(header.src),
            dst: Addr4::of_word(header.dst),
            protocol: header.protocol,
            l4: (ETHERNET_LEN + Self::HEADER_LEN) as u8,
            l4_len: total_len.wrapping_sub(Self::HEADER_LEN as u16),
            later_fragment: false,
        })
    }
}

/// Room for a [`Packet`] on its way in: it stays where it was written, word by word, and is looked up by from there.
pub type Room<F> = MaybeUninit<Packet<F>>;

/// Reads the IP packet in a frame whose EtherType is the family's. None: malformed.
#[inline(always)]
pub fn read<'a, F: ParseIp>(cursor: &impl Cursor, room: &'a mut Room<F>) -> Option<&'a Packet<F>> {
    let is_read = plain(cursor, room).is_some() || closely(cursor, room);
    // SAFETY: one of the two says that it wrote it.
    is_read.then(|| unsafe { room.assume_init_ref() })
}

/// The same for a packet as nearly all are: as short an IP header as can be, TCP, UDP or SCTP behind it, and no later fragment. So everything
/// lies at an offset that is known beforehand. None: anything else.
#[inline(always)]
pub fn plain<'a, F: ParseIp>(cursor: &impl Cursor, room: &'a mut Room<F>) -> Option<&'a Packet<F>> {
    let ip = F::plain(cursor)?;
    let l4 = ETHERNET_LEN + F::HEADER_LEN;
    let (sport, dport, tcp_flags) = match ip.protocol {
        protocol::TCP => match cursor.peek::<TcpHeader>(l4)? {
            tcp if ip.l4_len >= 20 && tcp.data_offset >> 4 >= 5 => (tcp.sport, tcp.dport, tcp.flags),
            _ => return None,
        },
        protocol::UDP | protocol::SCTP => match cursor.peek::<Ports>(l4)? {
            ports if ip.l4_len >= 8 => (ports.sport, ports.dport, 0),
            _ => return None,
        },
        _ => return None,
    };
    let tuple = FlowKey::new(ip.src, ip.dst, u16::from_be(sport), u16::from_be(dport), ip.protocol);
    Some(room.write(Packet { tuple, tcp_flags, form: Form::Ports, l4: ip.l4, l4_len: ip.l4_len }))
}

/// Any packet. A real call: the usual one goes straight past it.
#[inline(never)]
fn closely<F: ParseIp>(cursor: &impl Cursor, room: &mut Room<F>) -> bool {
    match packet(cursor) {
        Some(packet) => {
            room.write(packet);
            true
        }
        None => false,
    }
}

/// The same as [`read`] for who is in no hurry.
///
/// No `Result`: its error would lie in the same memory as a part of the first address, which the compiler would then move in parts.
#[inline(always)]
pub fn packet<F: ParseIp>(cursor: &impl Cursor) -> Option<Packet<F>> {
    let ip = F::ip(cursor)?;
    let (sport, dport, tcp_flags, form) = match ip.protocol {
        _ if ip.later_fragment => (0, 0, 0, Form::Fragment),
        protocol::TCP => {
            let header: TcpHeader = cursor.load(ip.l4 as usize)?;
            if ip.l4_len < 20 || header.data_offset >> 4 < 5 {
                return None;
            }
            (u16::from_be(header.sport), u16::from_be(header.dport), header.flags, Form::Ports)
        }
        protocol::UDP | protocol::SCTP => {
            let header: Ports = cursor.load(ip.l4 as usize)?;
            if ip.l4_len < 8 {
                return None;
            }
            (u16::from_be(header.sport), u16::from_be(header.dport), 0, Form::Ports)
        }
        icmp if icmp == F::ICMP => {
            let b: [u8; 6] = cursor.load(ip.l4 as usize)?;
            let id = u16::from_be_bytes([b[4], b[5]]);
            if b[0] == F::ECHO_REQUEST {
                (id, 0, 0, Form::EchoRequest)
            } else if b[0] == F::ECHO_REPLY {
                (0, id, 0, Form::EchoReply)
            } else {
                (0, 0, 0, Form::IcmpError)
            }
        }
        _ => (0, 0, 0, Form::Other),
    };
    let tuple = FlowKey::new(ip.src, ip.dst, sport, dport, ip.protocol);
    Some(Packet { tuple, tcp_flags, form, l4: ip.l4, l4_len: ip.l4_len })
}

#[cfg(test)]
mod tests {
    use core::fmt::Debug;

    use super::*;
    use crate::family::V6;
    use proptest::prelude::*;

    /// 192.0.2.1:40000 → 198.51.100.7:80, SYN.
    const SYN: [u8; 54] = [
        0xe6, 0x10, 0, 0, 0, 0, 0xe6, 0x11, 0, 0, 0, 7, 0x08, 0x00, // Ethernet
        0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 192, 0, 2, 1, 198, 51, 100, 7, // IPv4
        0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x02, 0xff, 0xff, 0, 0, 0, 0, // TCP
    ];

    #[test]
    fn a_syn_is_read() {
        let frame: &[u8] = &SYN;
        let eth = ethernet(&frame).unwrap();
        assert_eq!((eth.dst, eth.ethertype), (crate::wire::mac::GATEWAY, 0x0800));
        let p = packet::<V4>(&frame).unwrap();
        assert_eq!((p.src, p.dst, p.sport, p.dport), ([192, 0, 2, 1].into(), [198, 51, 100, 7].into(), 40_000, 80));
        assert_eq!((p.form, p.l4, p.l4_len, p.may_open()), (Form::Ports, 34, 20, true));
    }

    #[test]
    fn a_later_fragment_has_no_ports() {
        let mut frame = SYN;
        frame[21] = 1;
        assert_eq!(packet::<V4>(&&frame[..]).unwrap().form, Form::Fragment);
    }

    #[test]
    fn headers_that_contradict_each_other_are_malformed() {
        for (at, value) in [(14, 0x65), (14, 0x44), (17, 19), (46, 0x40)] {
            let mut frame = SYN;
            frame[at] = value;
            assert_eq!(packet::<V4>(&&frame[..]), None, "byte {at}");
        }
        assert_eq!(packet::<V4>(&&SYN[..40]), None);
    }

    #[test]
    fn echo_carries_its_identifier_as_a_port() {
        let mut frame = SYN;
        frame[23] = protocol::ICMP;
        frame[34] = 8;
        frame[38..40].copy_from_slice(&[0x12, 0x34]);
        let p = packet::<V4>(&&frame[..]).unwrap();
        assert_eq!((p.form, p.sport, p.dport), (Form::EchoRequest, 0x1234, 0));
        frame[34] = 0;
        let p = packet::<V4>(&&frame[..]).unwrap();
        assert_eq!((p.form, p.sport, p.dport), (Form::EchoReply, 0, 0x1234));
    }

    /// Both ways of reading say the same.
    fn check_both<F: ParseIp<Addr: Debug> + Debug + PartialEq>(frame: &[u8]) {
        let (mut room, mut plain_room) = (Room::<F>::uninit(), Room::<F>::uninit());
        let closely = packet::<F>(&frame);
        assert_eq!(read(&frame, &mut room), closely.as_ref());
        let plainly = plain(&frame, &mut plain_room);
        assert!(plainly.is_none() || plainly == closely.as_ref(), "{plainly:?} {closely:?}");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let frame: &[u8] = &bytes;
            let _ = ethernet(&frame);
            check_both::<V4>(frame);
            check_both::<V6>(frame);
        }

        #[test]
        fn the_short_way_reads_what_the_long_one_does(
            len in 34..=74usize, changes in proptest::collection::vec((12..60usize, any::<u8>()), 0..3),
            protocol in prop_oneof![Just(1u8), Just(6), Just(17), Just(58), Just(132)], is_v6 in any::<bool>(),
        ) {
            let mut frame = [0; 74];
            frame[..54].copy_from_slice(&SYN);
            if is_v6 {
                (frame[14], frame[19], frame[20]) = (0x60, 20, protocol);
                frame.copy_within(34..54, 54);
            } else {
                frame[23] = protocol;
            }
            changes.into_iter().for_each(|(at, value)| frame[at] = value);
            check_both::<V4>(&frame[..len]);
            check_both::<V6>(&frame[..len]);
        }
    }

    #[test]
    fn the_usual_packet_is_read_the_short_way() {
        let mut room = Room::<V4>::uninit();
        assert_eq!(plain(&&SYN[..], &mut room).map(|p| (p.sport, p.dport, p.tcp_flags)), Some((40_000, 80, 2)));
        let mut frame = SYN;
        frame[14] = 0x46;
        assert!(plain(&&frame[..], &mut Room::<V4>::uninit()).is_none(), "options are looked at closely");
    }
}
