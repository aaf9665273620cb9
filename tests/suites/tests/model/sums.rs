//! The internet checksum (RFC 1071), and how it follows a change (RFC 1624); SCTP's CRC. The flow hash of docs/reference/wire.md.

use super::{Ip, Key, octets};

/// The ones' complement sum of bytes as big-endian words.
pub fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low))).sum()
}

pub fn fold(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// A checksum after words of what it covers changed: `was` and `is` are sums of them.
pub fn changed(checksum: u16, was: u32, is: u32) -> u16 {
    !fold(u32::from(!checksum) + u32::from(!fold(was)) + u32::from(fold(is)))
}

pub fn sum_of(addr: Ip) -> u32 {
    sum(&octets(addr))
}

/// The sum over the pseudo header (RFC 9293, 3.1; RFC 8200, 8.1).
pub fn pseudo(src: Ip, dst: Ip, protocol: u8, len: u16) -> u32 {
    sum_of(src) + sum_of(dst) + u32::from(protocol) + u32::from(len)
}

fn mix(h: u32) -> u32 {
    let h = (h ^ (h >> 16)).wrapping_mul(0x85eb_ca6b);
    let h = (h ^ (h >> 13)).wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

fn words(source: u32, destination: u32, ports: u32, protocol: u32) -> u32 {
    mix(mix(mix(source ^ 0x9e37_79b9) ^ destination) ^ ports ^ (protocol << 8))
}

/// An address in one word.
fn word_of(addr: Ip) -> u32 {
    let turned = [0, 7, 13, 19];
    let words = octets(addr);
    let words = words.chunks(4).map(|word| u32::from_be_bytes(word.try_into().expect("four bytes")));
    words.zip(turned).fold(0, |all, (word, by)| all ^ word.rotate_left(by))
}

pub fn hash(key: &Key) -> u32 {
    let ports = u32::from(key.sport) << 16 | u32::from(key.dport);
    words(word_of(key.src), word_of(key.dst), ports, u32::from(key.protocol))
}

/// By the client's address alone.
pub fn hash_of_client(src: Ip) -> u32 {
    words(word_of(src), 0, 0, 0)
}

/// The slot of a hash among so many.
pub fn slot(hash: u32, len: usize) -> usize {
    ((u64::from(hash) * len as u64) >> 32) as usize
}

/// The source port of ours to try, at each attempt: docs/packet-walk.md, "Task → outside".
pub fn port_of_ours(hash: u32, attempt: u32) -> u16 {
    let step = hash.wrapping_add(attempt.wrapping_mul(0x9e37_79b1));
    61_000 + slot(step, 4_536) as u16
}

/// CRC32c (RFC 9260, appendix A), bit by bit.
pub fn crc32c(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}
