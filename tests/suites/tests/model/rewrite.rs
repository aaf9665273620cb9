//! Addresses and ports become others, and every checksum that covers them follows. The size of segments is lowered.

use super::read::{Form, ICMPV6, Packet, SCTP, SYN, TCP, UDP, word};
use super::sums::{changed, crc32c, sum_of};
use super::{Case, Flow, Ip, Side, Step, Stop, octets};

/// Options of a SYN that are looked at, at most.
const OPTIONS: usize = 6;

impl Case<'_> {
    /// As the flow says. `gateway` is whom a task sees that has called itself.
    pub fn rewrite(&mut self, packet: &Packet, flow: &Flow, gateway: Ip) -> Step<()> {
        if flow.rewrite == Side::None {
            return Ok(());
        }
        let (key, to) = (packet.key, flow.rewritten(packet.key, gateway));
        let was = sum_of(key.src) + sum_of(key.dst);
        let is = sum_of(to.src) + sum_of(to.dst);
        if key.protocol == ICMPV6 && key.src.is_ipv6() && packet.form != Form::Fragment {
            self.replace_sum(packet.l4 + 2, was, is);
        }
        match packet.form {
            Form::Ports => self.ports(packet, was, is, (to.sport, to.dport))?,
            // An identifier stands where a port would, on the side that is replaced.
            Form::EchoRequest if flow.rewrite == Side::Source => self.identifier(packet, flow.port),
            Form::EchoReply if flow.rewrite == Side::Destination => self.identifier(packet, flow.port),
            _ => {}
        }
        self.readdress(packet, to.src, to.dst);
        Ok(())
    }

    /// Writes both addresses, and the IP header's checksum where there is one.
    pub fn readdress(&mut self, packet: &Packet, src: Ip, dst: Ip) {
        let addresses = [octets(src), octets(dst)].concat();
        self.frame[packet.src_at..packet.src_at + addresses.len()].copy_from_slice(&addresses);
        if src.is_ipv4() {
            let key = packet.key;
            self.replace_sum(24, sum_of(key.src) + sum_of(key.dst), sum_of(src) + sum_of(dst));
        }
    }

    fn ports(&mut self, packet: &Packet, was: u32, is: u32, (sport, dport): (u16, u16)) -> Step<()> {
        let key = packet.key;
        let at = match key.protocol {
            TCP => Some(packet.l4 + 16),
            UDP => Some(packet.l4 + 6),
            _ => None,
        };
        if key.protocol == SCTP && (key.sport, key.dport) != (sport, dport) {
            if packet.piece_of.is_some() {
                // Its checksum covers the whole packet.
                return Err(Stop::Drop("fragment"));
            }
            self.recount(packet, (sport, dport));
        }
        if let Some(at) = at {
            let field = word(&self.frame, at).ok_or(Stop::Drop("helper-failed"))?;
            // Of UDP zero says that there is none, and stays.
            if key.protocol != UDP || field != 0 {
                let old = was + u32::from(key.sport) + u32::from(key.dport);
                let new = is + u32::from(sport) + u32::from(dport);
                if key.protocol == UDP {
                    let field = changed(field, old, new);
                    self.store(at, if field == 0 { 0xffff } else { field });
                } else {
                    self.replace_sum(at, old, new);
                }
            }
        }
        self.store(packet.l4, sport);
        self.store(packet.l4 + 2, dport);
        Ok(())
    }

    /// SCTP's checksum after a change of the ports: what it changes by follows from the change alone (docs/decisions/0003). One of zero is yet to be made.
    fn recount(&mut self, packet: &Packet, (sport, dport): (u16, u16)) {
        let at = packet.l4 + 8;
        let field = u32::from_le_bytes(self.frame[at..at + 4].try_into().expect("four bytes"));
        if field != 0 {
            let mut change = vec![0; packet.l4_len];
            let nothing = crc32c(&change);
            change[..2].copy_from_slice(&(packet.key.sport ^ sport).to_be_bytes());
            change[2..4].copy_from_slice(&(packet.key.dport ^ dport).to_be_bytes());
            let field = field ^ crc32c(&change) ^ nothing;
            self.frame[at..at + 4].copy_from_slice(&field.to_le_bytes());
        }
    }

    fn identifier(&mut self, packet: &Packet, new: u16) {
        let old = packet.key.sport | packet.key.dport;
        if new != old {
            self.replace_sum(packet.l4 + 2, old.into(), new.into());
            self.store(packet.l4 + 4, new);
        }
    }

    pub fn store(&mut self, at: usize, value: u16) {
        self.frame[at..at + 2].copy_from_slice(&value.to_be_bytes());
    }

    /// A checksum follows a change; of the two zeros of ones' complement either may stand there.
    pub fn replace_sum(&mut self, at: usize, was: u32, is: u32) {
        let field = word(&self.frame, at).expect("it is in the frame");
        self.store(at, changed(field, was, is));
        self.sums.push(at);
    }

    /// Where the time to live stands of a packet that has more than one left: docs/decisions/0027.
    pub fn outlives(&self, packet: &Packet) -> Step<usize> {
        let at = packet.src_at - if packet.key.src.is_ipv4() { 4 } else { 1 };
        if self.frame[at] <= 1 { Err(Stop::Refuse("hop-limit")) } else { Ok(at) }
    }

    /// One is taken from it.
    pub fn hop(&mut self, packet: &Packet) -> Step<()> {
        let at = self.outlives(packet)?;
        self.frame[at] -= 1;
        if packet.key.src.is_ipv4() {
            self.replace_sum(24, 0x100, 0);
        }
        Ok(())
    }

    /// Lowers what a SYN says of the largest segment (RFC 9293, 3.7.1), so that it fits through the tunnel.
    pub fn clamp(&mut self, packet: &Packet) {
        self.clamp_to(packet, if packet.key.src.is_ipv4() { self.world.mss4 } else { self.world.mss6 });
    }

    /// The same for one that came out of the tunnel: it fits the path back to that peer.
    pub fn clamp_to_path(&mut self, packet: &Packet, node: u32) {
        if let Some(peer) = self.world.peers.get(&node) {
            let headers = if packet.key.src.is_ipv4() { 40 } else { 60 };
            self.clamp_to(packet, peer.mtu.saturating_sub(50).saturating_sub(headers));
        }
    }

    fn clamp_to(&mut self, packet: &Packet, mss: u16) {
        let l4 = packet.l4;
        if packet.key.protocol != TCP || packet.flags & SYN == 0 || mss == 0 || self.frame.len() < l4 + 20 {
            return;
        }
        let end = l4 + usize::from(self.frame[l4 + 12] >> 4) * 4;
        let mut at = l4 + 20;
        for _ in 0..OPTIONS {
            if at + 4 > end.min(self.frame.len()) {
                return;
            }
            match self.frame[at..at + 4] {
                [0, ..] => return,
                [1, ..] => at += 1,
                [2, 4, high, low] => {
                    let old = u16::from_be_bytes([high, low]);
                    if old > mss {
                        // In the sum it is a word, or two halves of two.
                        let value =
                            |number: u16| if (at - l4).is_multiple_of(2) { number } else { number.swap_bytes() };
                        self.replace_sum(l4 + 16, value(old).into(), value(mss).into());
                        self.store(at + 2, mss);
                    }
                    return;
                }
                [_, len, ..] if len >= 2 => at += usize::from(len),
                _ => return,
            }
        }
    }
}
