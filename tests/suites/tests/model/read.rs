//! What a frame says of itself: Ethernet, IPv4 (RFC 791), TCP (RFC 9293), UDP (RFC 768), SCTP (RFC 9260), ICMP (RFC 792).

use super::{Ip, Key, Mac};

pub const IPV4: u16 = 0x0800;
pub const ARP: u16 = 0x0806;
pub const ECHO: u16 = 0x88b5;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;

pub const FIN: u8 = 1;
pub const SYN: u8 = 2;
pub const RST: u8 = 4;
pub const ACK: u8 = 16;

/// Number from two bytes of a frame, if it has them.
pub fn word(frame: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(frame.get(at..at + 2)?.try_into().ok()?))
}

pub fn mac_at(frame: &[u8], at: usize) -> Mac {
    frame[at..at + 6].try_into().expect("six bytes")
}

pub fn ip_at(frame: &[u8], at: usize) -> Ip {
    frame[at..at + 4].try_into().expect("four bytes")
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
    /// Where the transport header begins.
    pub l4: usize,
    /// Bytes from there on, as the IP header has it.
    pub l4_len: usize,
}

impl Packet {
    /// It may be the first of something.
    pub fn opens(&self) -> bool {
        self.key.protocol != TCP || self.flags & (SYN | ACK) == SYN
    }
}

/// Reads the IPv4 packet in a frame; None: it is malformed. The headers must be whole, and hold what they promise of themselves; a payload that is cut
/// short is the receiver's to miss.
pub fn packet(frame: &[u8]) -> Option<Packet> {
    let ip = frame.get(14..34)?;
    let header_len = usize::from(ip[0] & 15) * 4;
    let total_len = usize::from(word(ip, 2)?);
    if ip[0] >> 4 != 4 || header_len < 20 || total_len < header_len {
        return None;
    }
    let (l4, l4_len, protocol) = (14 + header_len, total_len - header_len, ip[9]);
    let is_later = word(ip, 6)? & 0x1fff != 0;
    let (mut sport, mut dport, mut flags, mut form) = (0, 0, 0, Form::Other);
    match protocol {
        _ if is_later => form = Form::Fragment,
        TCP => {
            let header = frame.get(l4..l4 + 14)?;
            if l4_len < 20 || header[12] >> 4 < 5 {
                return None;
            }
            (sport, dport, flags, form) = (word(header, 0)?, word(header, 2)?, header[13], Form::Ports);
        }
        UDP | SCTP => {
            if l4_len < 8 {
                return None;
            }
            (sport, dport, form) = (word(frame, l4)?, word(frame, l4 + 2)?, Form::Ports);
        }
        ICMP => {
            let id = word(frame, l4 + 4)?;
            match frame[l4] {
                8 => (sport, form) = (id, Form::EchoRequest),
                0 => (dport, form) = (id, Form::EchoReply),
                _ => form = Form::Error,
            }
        }
        _ => {}
    }
    let key = Key { src: ip_at(ip, 12), dst: ip_at(ip, 16), sport, dport, protocol };
    Some(Packet { key, form, flags, l4, l4_len })
}
