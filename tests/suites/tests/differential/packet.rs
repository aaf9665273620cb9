//! An IP packet said field by field, and its bytes: with every checksum right, and what nobody looks at by lot.

use mesh_packet::checksum;

use super::model::read::{ICMP, ICMPV6, SCTP, TCP, UDP, icmp_of};
use super::model::sums::{crc32c, fold, pseudo, sum};
use super::model::{Ip, Key, Mac, octets};
use super::random::Random;
use super::worlds::six;

/// Identifications of datagrams that come in pieces: few, so that pieces meet.
const PIECES: [u16; 3] = [7, 8, 9];

/// Extension headers of IPv6 (RFC 8200, 4): of a fragment, and options for the receiver.
const FRAGMENT: u8 = 44;
const OPTIONS: u8 = 60;

/// The beginning of a packet that an ICMP error quotes.
#[derive(Clone, Debug)]
pub struct Quote {
    pub said: Box<Said>,
    pub options: usize,
    pub payload: usize,
    /// Its checksum is its pseudo header's alone, as a stack quotes what a device was to finish.
    pub is_unfinished: bool,
    /// UDP without a checksum.
    pub is_bare: bool,
    /// So many bytes, or of IPv6 as many more as its header is longer.
    pub most: usize,
}

impl Quote {
    fn bytes(&self, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.said.bytes([[0; 6]; 2], self.options, &[], self.payload, random);
        let (is_ipv4, is_whole) = (self.said.key.src.is_ipv4(), !self.said.is_piece());
        if self.is_unfinished && is_whole && (is_ipv4 || self.options == 0) {
            bytes = checksum::unfinish(&bytes);
        }
        let header = if is_ipv4 { 20 } else { 40 };
        if self.is_bare && is_ipv4 {
            let at = 14 + header + self.options + 6;
            bytes[at..at + 2].fill(0);
        }
        bytes.drain(..14);
        bytes.truncate(self.most + header - 20);
        bytes
    }
}

/// An IP packet, said field by field.
#[derive(Clone, Debug)]
pub struct Said {
    pub key: Key,
    /// TCP's.
    pub flags: u8,
    /// ICMP's type.
    pub kind: u8,
    /// In eights of bytes.
    pub offset: u16,
    pub more: bool,
    /// "Don't fragment".
    pub is_whole: bool,
    pub ttl: u8,
    /// What an ICMP error quotes.
    pub quotes: Option<Quote>,
    /// It is said over this family and no other.
    pub stays: bool,
}

impl Said {
    pub fn new(key: Key) -> Said {
        Said { key, flags: 0x10, kind: 0, offset: 0, more: false, is_whole: false, ttl: 64, quotes: None, stays: true }
    }

    /// The same over IPv6, by the addresses that mirror those.
    pub fn mirrored(&self) -> Said {
        let mut said = self.clone();
        (said.key.src, said.key.dst) = (six(said.key.src), six(said.key.dst));
        if said.key.protocol == ICMP {
            said.key.protocol = ICMPV6;
        }
        if let Some(quote) = &mut said.quotes {
            *quote.said = quote.said.mirrored();
        }
        said
    }

    pub fn is_piece(&self) -> bool {
        self.offset != 0 || self.more
    }

    /// It is the message of an ICMP that is no echo.
    pub fn is_error(&self) -> bool {
        self.key.protocol == icmp_of(self.key.src) && !matches!(self.kind, 0 | 8 | 128 | 129)
    }

    pub fn bytes(
        &self,
        macs: [Mac; 2],
        options: usize,
        tcp_options: &[u8],
        payload: usize,
        random: &mut Random,
    ) -> Vec<u8> {
        let l4 = self.l4(tcp_options, payload, random);
        let (ip, ethertype) = match self.key.src {
            Ip::V4(_) => (self.header(options, l4.len() as u16, random), [8, 0]),
            Ip::V6(_) => (self.header6(options, l4.len() as u16, random), [0x86, 0xdd]),
        };
        [&macs[0][..], &macs[1], &ethertype, &ip, &l4].concat()
    }

    /// ICMPv6's type for the same (RFC 4443).
    fn kind6(&self) -> u8 {
        match self.kind {
            8 => 128,
            0 => 129,
            3 if self.key.dport != 0 => 2,
            3 => 1,
            11 => 3,
            12 => 4,
            _ => 127,
        }
    }

    fn l4(&self, tcp_options: &[u8], payload: usize, random: &mut Random) -> Vec<u8> {
        let key = self.key;
        let is_icmp = key.protocol == icmp_of(key.src);
        let header = match key.protocol {
            TCP => 20 + tcp_options.len(),
            SCTP => 12,
            _ => 8,
        };
        let mut l4 = vec![0; header];
        match &self.quotes {
            Some(quote) => l4.extend(quote.bytes(random)),
            None => l4.extend((0..payload).map(|_| random.next() as u8)),
        }
        if is_icmp {
            l4[0] = if key.src.is_ipv4() { self.kind } else { self.kind6() };
            l4[4..6].copy_from_slice(&(key.sport | key.dport).to_be_bytes());
        } else {
            l4[..2].copy_from_slice(&key.sport.to_be_bytes());
            l4[2..4].copy_from_slice(&key.dport.to_be_bytes());
        }
        let len = l4.len() as u16;
        let of_addresses = pseudo(key.src, key.dst, key.protocol, len);
        let (at, seed) = match key.protocol {
            TCP => {
                l4[4..12].iter_mut().for_each(|byte| *byte = random.next() as u8);
                (l4[12], l4[13]) = ((header as u8 / 4) << 4, self.flags);
                l4[20..header].copy_from_slice(tcp_options);
                (16, of_addresses)
            }
            UDP => {
                l4[4..6].copy_from_slice(&len.to_be_bytes());
                (6, of_addresses)
            }
            SCTP => {
                // Of some a device is to make it.
                let crc = if random.one_in(5) { 0 } else { crc32c(&l4) };
                l4[8..12].copy_from_slice(&crc.to_le_bytes());
                (0, 0)
            }
            ICMPV6 if is_icmp => (2, of_addresses),
            _ if is_icmp => (2, 0),
            _ => (0, 0),
        };
        if at != 0 {
            let checksum = match !fold(seed + sum(&l4)) {
                0 if key.protocol == UDP => 0xffff,
                checksum => checksum,
            };
            l4[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
        }
        l4
    }

    fn header(&self, options: usize, len: u16, random: &mut Random) -> Vec<u8> {
        let mut ip = vec![0x45 + options as u8 / 4, random.of(&[0, 0, 0, 1, 0xb8])];
        ip.extend((20 + options as u16 + len).to_be_bytes());
        let id = if self.is_piece() { random.of(&PIECES) } else { random.next() as u16 };
        ip.extend(id.to_be_bytes());
        ip.extend((self.offset | u16::from(self.more) << 13 | u16::from(self.is_whole) << 14).to_be_bytes());
        ip.extend([self.ttl, self.key.protocol, 0, 0]);
        ip.extend(octets(self.key.src));
        ip.extend(octets(self.key.dst));
        ip.resize(20 + options, 1);
        let checksum = !fold(sum(&ip));
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        ip
    }
}

impl Said {
    /// With options an extension header stands before the transport's (RFC 8200, 4.6): padding; that of a fragment behind it or before it.
    fn header6(&self, options: usize, len: u16, random: &mut Random) -> Vec<u8> {
        let (mut first, mut extensions) = (self.key.protocol, Vec::new());
        if self.is_piece() {
            let place = self.offset << 3 | u16::from(self.more);
            extensions.extend([first, 0]);
            extensions.extend(place.to_be_bytes());
            extensions.extend(u32::from(random.of(&PIECES)).to_be_bytes());
            first = FRAGMENT;
        }
        if options != 0 {
            let mut padding = vec![0; options.next_multiple_of(8)];
            (padding[0], padding[1]) = (first, padding.len() as u8 / 8 - 1);
            (padding[2], padding[3]) = (1, padding.len() as u8 - 4);
            if self.is_piece() && random.one_in(2) {
                // Options for who gets the whole: the first one alone has them, and every one says so.
                extensions[0] = OPTIONS;
                padding[0] = self.key.protocol;
                padding.truncate(if self.offset == 0 { padding.len() } else { 0 });
                extensions.extend(padding);
            } else {
                extensions.splice(..0, padding);
                first = OPTIONS;
            }
        }
        let mut ip = vec![0x60, random.of(&[0, 0, 0, 0x10, 0x0b]), random.next() as u8, 7];
        ip.extend((len + extensions.len() as u16).to_be_bytes());
        ip.extend([first, self.ttl]);
        ip.extend(octets(self.key.src));
        ip.extend(octets(self.key.dst));
        ip.extend(extensions);
        ip
    }
}

/// Options of TCP: none, a segment size at an even or odd place, or a few others before it.
pub fn tcp_options(random: &mut Random) -> Vec<u8> {
    let mss = [2, 4, random.of(&[1, 5]), random.next() as u8];
    match random.below(6) {
        0 => mss.to_vec(),
        1 => [&[1][..], &mss, &[1, 1, 0]].concat(),
        2 => [&[4, 2, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8][..], &mss].concat(),
        3 => [&[1; 8][..], &mss].concat(),
        _ => Vec::new(),
    }
}
