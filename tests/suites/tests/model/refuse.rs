//! What a sender is told: RST for TCP (RFC 9293, 3.10.7.1), ICMP unreachable for the rest (RFC 792, RFC 4443), for either "too big" and "time
//! exceeded"; docs/reference/drops.md.

use super::read::{ACK, FIN, Form, Packet, RST, SYN, TCP, UDP, icmp_of, packet, word};
use super::sums::{fold, pseudo, sum};
use super::{Case, Ip, octets};

/// The header of a packet that is made here: over IPv4 not to be fragmented; 64 hops.
fn header(protocol: u8, len: usize, src: Ip, dst: Ip) -> Vec<u8> {
    let len = len as u16;
    let addresses = [octets(src), octets(dst)].concat();
    if src.is_ipv6() {
        let [high, low] = len.to_be_bytes();
        return [&[0x60, 0, 0, 0, high, low, protocol, 64][..], &addresses].concat();
    }
    let [high, low] = (len + 20).to_be_bytes();
    let mut header = [&[0x45, 0, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0][..], &addresses].concat();
    let checksum = !fold(sum(&header));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    header
}

/// What is said, as type and code of either family.
const TOO_BIG: [[u8; 2]; 2] = [[3, 4], [2, 0]];
const EXCEEDED: [[u8; 2]; 2] = [[11, 0], [3, 0]];
const NO_PORT: [[u8; 2]; 2] = [[3, 3], [1, 4]];
const NO_HOST: [[u8; 2]; 2] = [[3, 1], [1, 3]];

fn is_group(addr: Ip) -> bool {
    octets(addr)[0] >= if addr.is_ipv4() { 224 } else { 255 }
}

impl Case<'_> {
    /// Turns the frame into what its sender is told; false where nobody is.
    pub fn refuse(&mut self, reason: &str, size: u16) -> bool {
        let Some(packet) = packet(&self.frame) else { return false };
        let key = packet.key;
        // Who is no single node is not told.
        let is_one = !key.src.is_unspecified() && !is_group(key.src);
        if self.frame[0] & 1 != 0 || is_group(key.dst) || !is_one {
            return false;
        }
        let is_reset = packet.form == Form::Ports && key.protocol == TCP && !matches!(reason, "too-big" | "hop-limit");
        let told = match packet.form {
            Form::Fragment | Form::Error => None,
            // Fragmentation needed (RFC 1191); time exceeded, from the router that the sender has.
            _ if reason == "too-big" => self.message(&packet, key.dst, TOO_BIG, size),
            _ if reason == "hop-limit" => {
                let sender = self.world.endpoints.get(&key.src).map(|sender| sender.gateway);
                sender.and_then(|router| self.message(&packet, router, EXCEEDED, 0))
            }
            Form::EchoReply => None,
            _ if is_reset => self.reset(&packet),
            // Unreachable: the port of UDP, the host of the rest.
            _ => self.message(&packet, key.dst, if key.protocol == UDP { NO_PORT } else { NO_HOST }, 0),
        };
        let Some(told) = told else { return false };
        let (dst, src) = (self.frame[6..12].to_vec(), self.frame[..6].to_vec());
        let ethertype = self.frame[12..14].to_vec();
        self.frame = [dst, src, ethertype, told].concat();
        let l4 = if key.src.is_ipv4() { 34 } else { 54 };
        self.sums = vec![l4 + if is_reset { 16 } else { 2 }];
        if key.src.is_ipv4() {
            self.sums.push(24);
        }
        true
    }

    fn reset(&self, packet: &Packet) -> Option<Vec<u8>> {
        let segment = self.frame.get(packet.l4..packet.l4 + 18)?;
        if packet.flags & RST != 0 {
            return None;
        }
        let key = packet.key;
        let long = |at: usize| u32::from_be_bytes(segment[at..at + 4].try_into().expect("four bytes"));
        let control = u32::from(packet.flags & SYN != 0) + u32::from(packet.flags & FIN != 0);
        let data = (packet.l4_len as u32).wrapping_sub(u32::from(segment[12] >> 4) * 4);
        let (sequence, acknowledged, flags) = if packet.flags & ACK != 0 {
            (long(8), 0, RST)
        } else {
            (0, long(4).wrapping_add(data).wrapping_add(control), RST | ACK)
        };
        let mut tcp = Vec::new();
        tcp.extend(key.dport.to_be_bytes());
        tcp.extend(key.sport.to_be_bytes());
        tcp.extend(sequence.to_be_bytes());
        tcp.extend(acknowledged.to_be_bytes());
        tcp.extend([0x50, flags, 0, 0, 0, 0, 0, 0]);
        // A packet whose checksum is yet to be finished by a device is answered by one: the field has the sum over the pseudo header.
        let is_unfinished = word(segment, 16)? == fold(pseudo(key.src, key.dst, TCP, packet.l4_len as u16));
        let pseudo = pseudo(key.dst, key.src, TCP, 20);
        let field = if is_unfinished { fold(pseudo) } else { !fold(pseudo + sum(&tcp)) };
        tcp[16..18].copy_from_slice(&field.to_be_bytes());
        Some([header(TCP, 20, key.dst, key.src), tcp].concat())
    }

    /// An ICMP error about a packet; the size that fits, where that is what it says. Quoted are over IPv4 a header without options and eight bytes, over IPv6 as
    /// much as leaves the error 1280 bytes.
    fn message(&self, about: &Packet, src: Ip, said: [[u8; 2]; 2], size: u16) -> Option<Vec<u8>> {
        let (dst, is_ipv6) = (about.key.src, src.is_ipv6());
        let whole = about.l4 + about.l4_len;
        let most = if is_ipv6 { 1_280 - 48 } else { 28 };
        let quoted = &self.frame[14..whole.min(self.frame.len()).min(14 + most)];
        let ([kind, code], [high, low]) = (said[usize::from(is_ipv6)], size.to_be_bytes());
        let mut icmp = vec![kind, code, 0, 0, 0, 0, high, low];
        icmp.extend(quoted);
        let protocol = icmp_of(src);
        let covered = if is_ipv6 { pseudo(src, dst, protocol, icmp.len() as u16) } else { 0 };
        let field = !fold(covered + sum(&icmp));
        icmp[2..4].copy_from_slice(&field.to_be_bytes());
        Some([header(protocol, icmp.len(), src, dst), icmp].concat())
    }
}
