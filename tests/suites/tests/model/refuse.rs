//! What a sender is told: RST for TCP (RFC 9293, 3.10.7.1), ICMP unreachable for the rest (RFC 792); docs/reference/drops.md.

use super::read::{ACK, FIN, Form, Packet, RST, SYN, TCP, UDP, packet, word};
use super::sums::{fold, pseudo, sum};
use super::{Case, Ip};

/// An IPv4 header of a packet that is made here: not to be fragmented, TTL 64.
fn ipv4(protocol: u8, len: u16, src: Ip, dst: Ip) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend(len.to_be_bytes());
    header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
    header.extend(src);
    header.extend(dst);
    let checksum = !fold(sum(&header));
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    header
}

impl Case<'_> {
    /// Turns the frame into what its sender is told; false where nobody is.
    pub fn refuse(&mut self) -> bool {
        let Some(packet) = packet(&self.frame) else { return false };
        let told = match packet.form {
            Form::Fragment | Form::Error | Form::EchoReply => None,
            Form::Ports if packet.key.protocol == TCP => self.reset(&packet),
            _ => self.unreachable(&packet),
        };
        let Some(told) = told else { return false };
        let (dst, src) = (self.frame[6..12].to_vec(), self.frame[..6].to_vec());
        self.frame = [&dst[..], &src, &[8, 0], &told].concat();
        self.sums = vec![24, if packet.key.protocol == TCP { 50 } else { 36 }];
        true
    }

    fn reset(&self, packet: &Packet) -> Option<Vec<u8>> {
        let header = self.frame.get(packet.l4..packet.l4 + 18)?;
        if packet.flags & RST != 0 {
            return None;
        }
        let key = packet.key;
        let long = |at: usize| u32::from_be_bytes(header[at..at + 4].try_into().expect("four bytes"));
        let control = u32::from(packet.flags & SYN != 0) + u32::from(packet.flags & FIN != 0);
        let data = (packet.l4_len as u32).wrapping_sub(u32::from(header[12] >> 4) * 4);
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
        let is_unfinished = word(header, 16)? == fold(pseudo(key.src, key.dst, TCP, packet.l4_len as u16));
        let pseudo = pseudo(key.dst, key.src, TCP, 20);
        let field = if is_unfinished { fold(pseudo) } else { !fold(pseudo + sum(&tcp)) };
        tcp[16..18].copy_from_slice(&field.to_be_bytes());
        Some([ipv4(TCP, 40, key.dst, key.src), tcp].concat())
    }

    fn unreachable(&self, packet: &Packet) -> Option<Vec<u8>> {
        // The header and eight bytes are quoted.
        let quoted = self.frame.get(14..42)?;
        let code = if packet.key.protocol == UDP { 3 } else { 1 };
        let mut icmp = vec![3, code, 0, 0, 0, 0, 0, 0];
        icmp.extend(quoted);
        let field = !fold(sum(&icmp));
        icmp[2..4].copy_from_slice(&field.to_be_bytes());
        Some([ipv4(1, 56, packet.key.dst, packet.key.src), icmp].concat())
    }
}
