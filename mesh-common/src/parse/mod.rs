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

/// Both ports of an ICMP message without identifier: no flow's, for of an echo's two one is always 0.
pub const NO_IDENTIFIER: u16 = 0xffff;

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
    /// An ICMP error, which quotes another packet: both ports are [`NO_IDENTIFIER`].
    IcmpError,
    /// A later fragment: ports unknown, both 0; of ICMP [`NO_IDENTIFIER`].
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
    /// One of several fragments of a datagram. The first one has ports, the others are [`Form::Fragment`].
    pub is_piece: bool,
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

    /// Length of its frame, as the IP header says: without what a link added to make it long enough.
    #[inline(always)]
    pub fn frame_len(&self) -> u32 {
        self.l4 as u32 + self.l4_len as u32
    }

    /// An echo request, or a later fragment of one that is known.
    #[inline(always)]
    pub fn asks_echo(&self) -> bool {
        self.form == Form::EchoRequest || (self.form == Form::Fragment && self.protocol == F::ICMP && self.dport == 0)
    }

    /// Of a protocol whose packets belong to flows: by ports, or by an echo's identifier.
    #[inline(always)]
    pub fn may_have_flow(&self) -> bool {
        let of = self.protocol;
        of == protocol::UDP || of == protocol::TCP || of == protocol::SCTP || of == F::ICMP
    }

    /// The flow hash of this direction.
    #[inline(always)]
    pub fn hash(&self) -> u32 {
        crate::hash::tuple::<F>(self.src, self.dst, self.sport, self.dport, self.protocol)
    }
}

/// "More fragments" (RFC 791, 3.1).
const MORE: u16 = 0x2000;
/// The fragment's offset, likewise.
const OFFSET: u16 = 0x1fff;

/// What [`packet`] needs of an IP header.
pub struct Ip<F: Family> {
    pub(crate) src: F::Addr,
    pub(crate) dst: F::Addr,
    pub(crate) protocol: u8,
    pub(crate) l4: u8,
    pub(crate) l4_len: u16,
    pub(crate) later_fragment: bool,
    /// One of several fragments, the first one too.
    pub(crate) is_piece: bool,
}

/// Reads the IP header of a family.
pub trait ParseIp: Family {
    /// The header at the Ethernet payload.
    fn ip(cursor: &impl Cursor) -> Option<Ip<Self>>;

    /// The same, where it is as nearly all are: as short as can be, and no fragment.
    fn plain(cursor: &impl Cursor) -> Option<Ip<Self>>;

    /// What the fragments of one datagram have in common besides addresses and protocol (RFC 791, 3.1; RFC 8200, 4.5); of a fragment.
    fn fragment_id(cursor: &impl Cursor) -> Option<u32>;

    /// This number is not a protocol's, but that of a header before it: what a later fragment says of a datagram whose first one has such a header.
    fn is_extension(number: u8) -> bool;
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
            later_fragment: u16::from_be(header.fragment) & OFFSET != 0,
            is_piece: u16::from_be(header.fragment) & (MORE | OFFSET) != 0,
        })
    }

    #[inline(always)]
    fn plain(cursor: &impl Cursor) -> Option<Ip<V4>> {
        let header: Ipv4Header = cursor.peek(ETHERNET_LEN)?;
        let total_len = u16::from_be(header.total_len);
        let is_plain = header.version_ihl == 0x45
            && u16::from_be(header.fragment) & (MORE | OFFSET) == 0
            && total_len >= Self::HEADER_LEN as u16;
        is_plain.then_some(Ip {
            src: Addr4::of_word(header.src),
            dst: Addr4::of_word(header.dst),
            protocol: header.protocol,
            l4: (ETHERNET_LEN + Self::HEADER_LEN) as u8,
            l4_len: total_len.wrapping_sub(Self::HEADER_LEN as u16),
            later_fragment: false,
            is_piece: false,
        })
    }

    #[inline(always)]
    fn fragment_id(cursor: &impl Cursor) -> Option<u32> {
        cursor.load::<Ipv4Header>(ETHERNET_LEN).map(|header| u16::from_be(header.id) as u32)
    }

    #[inline(always)]
    fn is_extension(_: u8) -> bool {
        false
    }
}

/// Room for a [`Packet`] on its way in: it stays where it was written, word by word, and is looked up by from there.
pub type Room<F> = MaybeUninit<Packet<F>>;

/// Reads the IP packet in a frame whose EtherType is the family's. None: malformed.
#[inline(always)]
pub fn read<'a, F: ParseIp>(cursor: &impl Cursor, room: &'a mut Room<F>) -> Option<&'a mut Packet<F>> {
    let is_read = plain(cursor, room).is_some() || closely(cursor, room);
    // SAFETY: one of the two says that it wrote it.
    is_read.then(|| unsafe { room.assume_init_mut() })
}

/// The same for a packet as nearly all are: as short an IP header as can be, TCP or UDP behind it, and no fragment. So everything
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
        protocol::UDP => match cursor.peek::<Ports>(l4)? {
            ports if ip.l4_len >= 8 => (ports.sport, ports.dport, 0),
            _ => return None,
        },
        _ => return None,
    };
    let tuple = FlowKey::new(ip.src, ip.dst, u16::from_be(sport), u16::from_be(dport), ip.protocol);
    Some(room.write(Packet { tuple, tcp_flags, form: Form::Ports, l4: ip.l4, is_piece: false, l4_len: ip.l4_len }))
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
        icmp if ip.later_fragment && icmp == F::ICMP => (NO_IDENTIFIER, NO_IDENTIFIER, 0, Form::Fragment),
        _ if ip.later_fragment => (0, 0, 0, Form::Fragment),
        protocol::TCP => {
            let header: TcpHeader = cursor.load(ip.l4 as usize)?;
            if ip.l4_len < 20 || header.data_offset >> 4 < 5 {
                return None;
            }
            (u16::from_be(header.sport), u16::from_be(header.dport), header.flags, Form::Ports)
        }
        protocol::UDP => {
            let header: Ports = cursor.load(ip.l4 as usize)?;
            if ip.l4_len < 8 {
                return None;
            }
            (u16::from_be(header.sport), u16::from_be(header.dport), 0, Form::Ports)
        }
        protocol::SCTP => {
            // Up to its checksum (RFC 9260, 3.1), which may have to be changed.
            let [sport, dport, ..] = cursor.load::<[u16; 6]>(ip.l4 as usize)?;
            if ip.l4_len < 12 {
                return None;
            }
            (u16::from_be(sport), u16::from_be(dport), 0, Form::Ports)
        }
        icmp if icmp == F::ICMP => {
            let b: [u8; 6] = cursor.load(ip.l4 as usize)?;
            let id = u16::from_be_bytes([b[4], b[5]]);
            if b[0] == F::ECHO_REQUEST {
                (id, 0, 0, Form::EchoRequest)
            } else if b[0] == F::ECHO_REPLY {
                (0, id, 0, Form::EchoReply)
            } else {
                (NO_IDENTIFIER, NO_IDENTIFIER, 0, Form::IcmpError)
            }
        }
        _ => (0, 0, 0, Form::Other),
    };
    let tuple = FlowKey::new(ip.src, ip.dst, sport, dport, ip.protocol);
    Some(Packet { tuple, tcp_flags, form, l4: ip.l4, is_piece: ip.is_piece, l4_len: ip.l4_len })
}

#[cfg(test)]
mod tests;
