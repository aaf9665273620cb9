//! Addresses and ports become others, and every checksum that covers them follows. The size of segments is lowered.

use super::read::{Form, Packet, SYN, TCP, UDP, word};
use super::sums::{changed, sum};
use super::{Case, Flow, Ip, Side, Step, Stop};

/// Options of a SYN that are looked at, at most.
const OPTIONS: usize = 6;

impl Case<'_> {
    /// As the flow says. `gateway` is whom a task sees that has called itself.
    pub fn rewrite(&mut self, packet: &Packet, flow: &Flow, gateway: Ip) -> Step<()> {
        let key = packet.key;
        let (mut src, mut dst, mut sport, mut dport) = (key.src, key.dst, key.sport, key.dport);
        let set = |port: &mut u16, new: u16| {
            if new != 0 {
                *port = new;
            }
        };
        match flow.rewrite {
            Side::None => return Ok(()),
            Side::Destination => {
                dst = flow.addr;
                set(&mut dport, flow.port);
                set(&mut sport, flow.other_port);
                if flow.flags.hairpin {
                    src = gateway;
                }
            }
            Side::Source => {
                src = flow.addr;
                set(&mut sport, flow.port);
                set(&mut dport, flow.other_port);
                if flow.flags.hairpin {
                    dst = key.src;
                }
            }
        }
        let was = sum(&key.src) + sum(&key.dst);
        let is = sum(&src) + sum(&dst);
        match packet.form {
            Form::Ports => self.ports(packet, was, is, (sport, dport))?,
            // An identifier stands where a port would, on the side that is replaced.
            Form::EchoRequest if flow.rewrite == Side::Source => self.identifier(packet, flow.port),
            Form::EchoReply if flow.rewrite == Side::Destination => self.identifier(packet, flow.port),
            _ => {}
        }
        self.frame[26..30].copy_from_slice(&src);
        self.frame[30..34].copy_from_slice(&dst);
        self.replace_sum(24, was, is);
        Ok(())
    }

    fn ports(&mut self, packet: &Packet, was: u32, is: u32, (sport, dport): (u16, u16)) -> Step<()> {
        let key = packet.key;
        let at = match key.protocol {
            TCP => Some(packet.l4 + 16),
            UDP => Some(packet.l4 + 6),
            _ => None,
        };
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

    /// One is taken from the time to live: docs/decisions/0027.
    pub fn hop(&mut self) {
        let was = word(&self.frame, 22).expect("an IPv4 header");
        self.frame[22] -= 1;
        self.replace_sum(24, was.into(), (was - 0x100).into());
    }

    /// Lowers what a SYN says of the largest segment (RFC 9293, 3.7.1), so that it fits through the tunnel.
    pub fn clamp(&mut self, packet: &Packet) {
        self.clamp_to(packet, self.world.mss);
    }

    /// The same for one that came out of the tunnel: it fits the path back to that peer.
    pub fn clamp_to_path(&mut self, packet: &Packet, node: u32) {
        if let Some(peer) = self.world.peers.get(&node) {
            self.clamp_to(packet, peer.mtu.saturating_sub(50).saturating_sub(40));
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
