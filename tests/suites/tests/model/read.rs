//! What a frame says of itself: Ethernet, IPv4 (RFC 791), IPv6 (RFC 8200), TCP (RFC 9293), UDP (RFC 768), SCTP (RFC 9260), ICMP (RFC 792, RFC 4443), and what an ICMP
//! error quotes.

use super::{Case, Change, Datagram, Ip, Key, Mac, Origin};

pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;
pub const ARP: u16 = 0x0806;
pub const ECHO: u16 = 0x88b5;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const ICMPV6: u8 = 58;
pub const SCTP: u8 = 132;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// Both ports of an ICMP message without identifier (docs/reference/wire.md, "The flow hash").
const NO_IDENTIFIER: u16 = 0xffff;
/// Extension headers of IPv6 that are read, and how far: docs/decisions/0029.
const EXTENSIONS: usize = 4;
const FURTHEST: usize = 200;

/// Number from two bytes of a frame, if it has them.
pub fn word(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?))
}

pub fn mac_at(frame: &[u8], at: usize) -> Mac {
    frame[at..at + 6].try_into().expect("six bytes")
}

/// An address of IPv4.
pub fn ip_at(frame: &[u8], at: usize) -> Ip {
    <[u8; 4]>::try_from(&frame[at..at + 4]).expect("four bytes").into()
}

/// An address of IPv6.
fn ip6_at(frame: &[u8], at: usize) -> Ip {
    <[u8; 16]>::try_from(&frame[at..at + 16]).expect("sixteen bytes").into()
}

/// What stands behind the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    Ports,
    EchoRequest,
    EchoReply,
    /// Any other ICMP message.
    Error,
    /// A later fragment.
    Fragment,
    Other,
}

#[derive(Clone, Copy, Debug)]
pub struct Packet {
    pub key: Key,
    pub form: Form,
    /// TCP's, else none.
    pub flags: u8,
    /// Where the source address stands; the destination follows.
    pub src_at: usize,
    /// Where the transport header begins.
    pub l4: usize,
    /// Bytes from there on, as the IP header has it.
    pub l4_len: usize,
    /// One of several fragments.
    pub is_piece: bool,
    /// What they have in common, if it is there.
    pub piece_of: Option<u32>,
}

impl Packet {
    pub fn frame_len(&self) -> u64 {
        (self.l4 + self.l4_len) as u64
    }

    /// It may be the first of something.
    pub fn opens(&self) -> bool {
        self.key.protocol != TCP || self.flags & (SYN | ACK) == SYN
    }

    /// An echo request, or a later fragment of one.
    pub fn asks_echo(&self) -> bool {
        let is_icmp = self.key.protocol == icmp_of(self.key.dst);
        self.form == Form::EchoRequest || (self.form == Form::Fragment && is_icmp && self.key.dport == 0)
    }
}

/// The ICMP of an address's family.
pub fn icmp_of(addr: Ip) -> u8 {
    if addr.is_ipv4() { ICMP } else { ICMPV6 }
}

/// An echo request's type, and a reply's.
pub fn echoes_of(addr: Ip) -> [u8; 2] {
    if addr.is_ipv4() { [8, 0] } else { [128, 129] }
}

/// An IP header.
struct Header {
    src: Ip,
    dst: Ip,
    protocol: u8,
    src_at: usize,
    l4: usize,
    l4_len: usize,
    is_later: bool,
    is_piece: bool,
    piece_of: Option<u32>,
}

fn header4(frame: &[u8], at: usize) -> Option<Header> {
    let ip = frame.get(at..at + 20)?;
    let header_len = usize::from(ip[0] & 15) * 4;
    let total_len = usize::from(word(ip, 2)?);
    if ip[0] >> 4 != 4 || header_len < 20 || total_len < header_len {
        return None;
    }
    let fragment = word(ip, 6)?;
    Some(Header {
        src: ip_at(ip, 12),
        dst: ip_at(ip, 16),
        protocol: ip[9],
        src_at: at + 12,
        l4: at + header_len,
        l4_len: total_len - header_len,
        is_later: fragment & 0x1fff != 0,
        // An offset, or more to come.
        is_piece: fragment & 0x3fff != 0,
        piece_of: (fragment & 0x3fff != 0).then(|| word(ip, 4).map(u32::from)).flatten(),
    })
}

fn header6(frame: &[u8], at: usize) -> Option<Header> {
    let ip = frame.get(at..at + 40)?;
    if ip[0] >> 4 != 6 {
        return None;
    }
    let (mut next, mut l4, mut is_later, mut piece_of) = (ip[6], at + 40, false, None);
    let mut read = 0;
    // Hop-by-hop options, routing, fragment, destination options.
    while matches!(next, 0 | 43 | 44 | 60) && !is_later {
        let extension = frame.get(l4..l4 + 4)?;
        let is_on_its_way = next == 43 && extension[3] != 0;
        let len = if next == 44 { 8 } else { (usize::from(extension[1]) + 1) * 8 };
        if next == 44 {
            let place = word(extension, 2)?;
            is_later = place & 0xfff8 != 0;
            // A datagram in one fragment is whole (RFC 6946).
            if place & 0xfff9 != 0 {
                piece_of = Some(frame.get(l4 + 4..l4 + 8).map(|id| u32::from_be_bytes(id.try_into().expect("four"))));
            }
        }
        (next, l4, read) = (extension[0], l4 + len, read + 1);
        if read > EXTENSIONS || is_on_its_way || l4 - at + 14 > FURTHEST {
            return None;
        }
    }
    let l4_len = usize::from(word(ip, 4)?).checked_sub(l4 - at - 40)?;
    let (src, dst) = (ip6_at(ip, 8), ip6_at(ip, 24));
    let (is_piece, piece_of) = (piece_of.is_some(), piece_of.flatten());
    Some(Header { src, dst, protocol: next, src_at: at + 8, l4, l4_len, is_later, is_piece, piece_of })
}

/// Reads the IP packet in a frame; None: it is malformed. The headers must be whole, and hold what they promise of themselves; a payload that is cut
/// short is the receiver's to miss.
pub fn packet(frame: &[u8]) -> Option<Packet> {
    let header = match word(frame, 12)? {
        IPV4 => header4(frame, 14)?,
        IPV6 => header6(frame, 14)?,
        _ => return None,
    };
    let Header { src, dst, protocol, src_at, l4, l4_len, is_later, is_piece, piece_of } = header;
    let (mut sport, mut dport, mut flags, mut form) = (0, 0, 0, Form::Other);
    match protocol {
        _ if is_later => {
            form = Form::Fragment;
            if protocol == icmp_of(src) {
                (sport, dport) = (NO_IDENTIFIER, NO_IDENTIFIER);
            }
        }
        TCP => {
            let header = frame.get(l4..l4 + 14)?;
            if l4_len < 20 || header[12] >> 4 < 5 {
                return None;
            }
            (sport, dport, flags, form) = (word(header, 0)?, word(header, 2)?, header[13], Form::Ports);
        }
        UDP | SCTP => {
            // SCTP's checksum may have to be changed.
            let least = if protocol == UDP { (8, 4) } else { (12, 12) };
            let header = frame.get(l4..l4 + least.1)?;
            if l4_len < least.0 {
                return None;
            }
            (sport, dport, form) = (word(header, 0)?, word(header, 2)?, Form::Ports);
        }
        icmp if icmp == icmp_of(src) => {
            let id = word(frame, l4 + 4)?;
            let [request, reply] = echoes_of(src);
            match frame[l4] {
                kind if kind == request => (sport, form) = (id, Form::EchoRequest),
                kind if kind == reply => (dport, form) = (id, Form::EchoReply),
                _ => (sport, dport, form) = (NO_IDENTIFIER, NO_IDENTIFIER, Form::Error),
            }
        }
        _ => {}
    }
    Some(Packet { key: Key { src, dst, sport, dport, protocol }, form, flags, src_at, l4, l4_len, is_piece, piece_of })
}

/// The packet that an ICMP error quotes.
#[derive(Clone, Copy, Debug)]
pub struct Quoted {
    pub key: Key,
    /// Where its IP header begins, and its transport header.
    pub ip: usize,
    pub l4: usize,
    pub l4_len: usize,
}

/// What an error about a packet that may have had a flow quotes: unreachable, too big, time exceeded, parameter problem; no later fragment, nor another error.
pub fn quoted(frame: &[u8], packet: &Packet) -> Option<Quoted> {
    let ip = packet.l4 + 8;
    let is_about = match (packet.key.src, frame.get(packet.l4)?) {
        (Ip::V4(_), kind) => matches!(kind, 3 | 11 | 12),
        (Ip::V6(_), kind) => matches!(kind, 1..=4),
    };
    let header = if packet.key.src.is_ipv4() { header4(frame, ip)? } else { header6(frame, ip)? };
    if !is_about || header.is_later {
        return None;
    }
    let Header { src, dst, protocol, l4, l4_len, .. } = header;
    let (sport, dport) = match protocol {
        TCP | UDP | SCTP => (word(frame, l4)?, word(frame, l4 + 2)?),
        icmp if icmp == icmp_of(src) => {
            let id = word(frame, l4 + 4)?;
            match echoes_of(src) {
                [request, _] if frame[l4] == request => (id, 0),
                [_, reply] if frame[l4] == reply => (0, id),
                _ => return None,
            }
        }
        _ => (0, 0),
    };
    Some(Quoted { key: Key { src, dst, sport, dport, protocol }, ip, l4, l4_len })
}

impl Case<'_> {
    /// Reads the packet: the ports of a datagram's first fragment are remembered, a later one gets them. None: it is malformed.
    pub fn packet(&mut self, from: Origin) -> Option<Packet> {
        let mut packet = packet(&self.frame)?;
        if let Some(id) = packet.piece_of {
            let Key { src, dst, protocol, .. } = packet.key;
            let datagram = (src, dst, id, protocol, from);
            if packet.form != Form::Fragment {
                self.changes.push(Change::Datagram(datagram, (packet.key.sport, packet.key.dport)));
            } else if let Some((protocol, (sport, dport))) = self.datagram(datagram) {
                packet.key = Key { sport, dport, protocol, ..packet.key };
            }
        }
        Some(packet)
    }

    /// What a later fragment's datagram is of, and its ports. Of one with options behind its fragment header only the first one says what it is of.
    pub fn datagram(&self, of: Datagram) -> Option<(u8, (u16, u16))> {
        let (src, dst, id, said, from) = of;
        let is_behind_options = !src.is_ipv4() && matches!(said, 0 | 43 | 44 | 60);
        let any: &[u8] = if is_behind_options { &[UDP, ICMPV6, TCP, SCTP] } else { &[] };
        let known = |protocol| Some((protocol, *self.world.datagrams.get(&(src, dst, id, protocol, from))?));
        [said].iter().chain(any).find_map(|protocol| known(*protocol))
    }
}
