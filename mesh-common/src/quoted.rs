//! The packet that an ICMP error quotes: which flow it belonged to, and where in the frame its parts are.
//!
//! An error (RFC 792, RFC 4443) has the beginning of the packet that it is about: at least the IP header and eight bytes, ports therefore. Who
//! rewrites packets rewrites what is quoted, too (RFC 5508, 4.2), or the sender does not find its own packet in it. Read through the same
//! [`Cursor`] and by the same rules as a packet (`parse`). Must not: be used for what quotes another error, or a later fragment.

use crate::family::Family;
use crate::flow;
use crate::parse::{Cursor, ETHERNET_LEN, ParseIp, Plain, protocol};
use crate::schema::{Flow, FlowKey, flow_flag, rewrite};

/// Bytes of an ICMP error before the packet that it quotes.
pub const ERROR_LEN: usize = 8;

/// A quoted packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted<F: Family> {
    /// Its tuple, as whoever met it saw it; echoes as in [`crate::parse::Packet`].
    pub tuple: FlowKey<F::Addr>,
    /// Offset of its IP header in the frame. One byte, as `Packet::l4`.
    pub ip: u8,
    /// Offset of its transport header in the frame.
    pub l4: u8,
    /// Bytes behind its IP header when it was whole, as that header says.
    pub l4_len: u16,
}

/// What stands before a frame's IP header is skipped, so that a packet inside a packet is read as one of its own.
struct Behind<'a, C> {
    cursor: &'a C,
    by: usize,
}

impl<C: Cursor> Cursor for Behind<'_, C> {
    #[inline(always)]
    fn load<T: Plain>(&self, offset: usize) -> Option<T> {
        self.cursor.load(self.by + offset)
    }
}

/// Whether an ICMP type is an error that is carried: unreachable (with "too big"), time exceeded, parameter problem. Source quench is
/// deprecated (RFC 6633), and redirects are for one link.
#[inline(always)]
pub fn is_carried<F: Family>(kind: u8) -> bool {
    if F::ICMP == protocol::ICMP { kind == 3 || kind == 11 || kind == 12 } else { kind.wrapping_sub(1) < 4 }
}

impl<F: ParseIp> Quoted<F> {
    /// Reads what the ICMP error at offset `l4` quotes; None where it is not to be carried, or has no ports.
    #[inline(always)]
    pub fn of(cursor: &impl Cursor, l4: u8) -> Option<Self> {
        let [kind, _] = cursor.load::<[u8; 2]>(l4 as usize)?;
        if !is_carried::<F>(kind) {
            return None;
        }
        let at = l4 as usize + ERROR_LEN;
        // Never less: Linux 6.1 has to be shown that it is not below zero.
        let by = at.checked_sub(ETHERNET_LEN)?;
        let ip = F::ip(&Behind { cursor, by })?;
        let (ip_at, l4) = (at as u8, u8::try_from(at - ETHERNET_LEN + ip.l4 as usize).ok()?);
        if ip.later_fragment {
            return None;
        }
        let (sport, dport) = match ip.protocol {
            protocol::TCP | protocol::UDP | protocol::SCTP => {
                let [sport, dport] = cursor.load::<[u16; 2]>(l4 as usize)?;
                (u16::from_be(sport), u16::from_be(dport))
            }
            icmp if icmp == F::ICMP => {
                let b: [u8; 6] = cursor.load(l4 as usize)?;
                let id = u16::from_be_bytes([b[4], b[5]]);
                match b[0] {
                    kind if kind == F::ECHO_REQUEST => (id, 0),
                    kind if kind == F::ECHO_REPLY => (0, id),
                    _ => return None,
                }
            }
            _ => (0, 0),
        };
        let tuple = FlowKey::new(ip.src, ip.dst, sport, dport, ip.protocol);
        Some(Quoted { tuple, ip: ip_at, l4, l4_len: ip.l4_len })
    }

    /// Offset of its transport checksum in the frame, and whether that covers addresses; None where there is none that can be kept true.
    #[inline(always)]
    pub fn checksum(&self) -> Option<(usize, bool)> {
        let l4 = self.l4 as usize;
        match self.tuple.protocol {
            protocol::TCP => Some((l4 + 16, true)),
            protocol::UDP => Some((l4 + 6, true)),
            icmp if icmp == F::ICMP => Some((l4 + 2, F::ADDR_LEN == 16)),
            _ => None,
        }
    }
}

/// The quoted tuple as the one who sent that packet knows it. `told` is the flow entry of the other direction: the way that answers to the quoted
/// packet go, and this error with them. `gateway` is what a task that calls itself sees as its caller.
#[inline(always)]
pub fn as_sent<A: Copy + PartialEq>(quoted: &FlowKey<A>, told: &Flow<A>, gateway: A) -> FlowKey<A> {
    let or = |new: u16, old: u16| if new == 0 { old } else { new };
    if told.rewrite == rewrite::DESTINATION && told.flags & flow_flag::HAIRPIN != 0 {
        let (sport, dport) = (or(told.port, quoted.sport), or(told.other_port, quoted.dport));
        return FlowKey::new(told.addr, gateway, sport, dport, quoted.protocol);
    }
    // Turned round it is a packet of that direction; rewritten and turned back it is the key of the entry that rewrote it.
    flow::twin(&quoted.turned(), told).unwrap_or(*quoted)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::family::{Addr4, V4};

    /// Port unreachable (RFC 792) from 192.0.2.1 to 198.51.100.7 about a UDP packet 198.51.100.7:40000 → 192.0.2.1:80.
    const ERROR: [u8; 70] = [
        0xe6, 0x10, 0, 0, 0, 0, 0xe6, 0x11, 0, 0, 0, 7, 0x08, 0x00, // Ethernet
        0x45, 0, 0, 56, 0, 0, 0, 0, 64, 1, 0, 0, 192, 0, 2, 1, 198, 51, 100, 7, // IPv4
        3, 3, 0, 0, 0, 0, 0, 0, // ICMP
        0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0, 198, 51, 100, 7, 192, 0, 2, 1, // quoted IPv4
        0x9c, 0x40, 0, 80, 0, 20, 0, 0, // quoted UDP
    ];

    #[test]
    fn the_quoted_packet_is_found_with_its_ports() {
        let quoted = Quoted::<V4>::of(&&ERROR[..], 34).unwrap();
        let key = FlowKey::new([198, 51, 100, 7].into(), [192, 0, 2, 1].into(), 40_000, 80, protocol::UDP);
        assert_eq!(quoted, Quoted { tuple: key, ip: 42, l4: 62, l4_len: 20 });
        assert_eq!(quoted.checksum(), Some((68, true)));
    }

    #[test]
    fn options_move_the_ports_and_an_echo_has_its_identifier() {
        let mut long = ERROR.to_vec();
        (long[42], long[45]) = (0x46, 44);
        long.splice(62..62, [1, 1, 1, 0]);
        assert_eq!(Quoted::<V4>::of(&&long[..], 34).unwrap().l4, 66);
        let mut echo = ERROR;
        (echo[51], echo[62]) = (protocol::ICMP, 8);
        echo[66..68].copy_from_slice(&[0x12, 0x34]);
        let tuple = Quoted::<V4>::of(&&echo[..], 34).unwrap().tuple;
        assert_eq!((tuple.sport, tuple.dport), (0x1234, 0));
    }

    #[test]
    fn what_names_no_flow_is_not_carried() {
        // A redirect; a later fragment; another error; too short.
        for (at, value) in [(34, 5), (49, 1)] {
            let mut frame = ERROR;
            frame[at] = value;
            assert_eq!(Quoted::<V4>::of(&&frame[..], 34), None, "byte {at}");
        }
        let mut nested = ERROR;
        (nested[51], nested[62]) = (protocol::ICMP, 3);
        assert_eq!(Quoted::<V4>::of(&&nested[..], 34), None);
        assert_eq!(Quoted::<V4>::of(&&ERROR[..64], 34), None);
    }

    proptest! {
        #[test]
        fn what_was_sent_comes_back(
            caller in any::<[u8; 4]>(), vip in any::<[u8; 4]>(), task in any::<[u8; 4]>(), ports in any::<(u16, u16)>(), target in 1..u16::MAX,
        ) {
            let of = |addr: [u8; 4]| Addr4::from(addr);
            let sent = FlowKey::new(of(caller), of(vip), ports.0, ports.1, protocol::UDP);
            // The entry of the answers to a call, as `stage::owner` writes it.
            let told = Flow { addr: of(vip), port: ports.1, rewrite: rewrite::SOURCE, ..Flow::default() };
            prop_assume!(ports.1 != 0);
            let met = FlowKey::new(of(caller), of(task), ports.0, target, protocol::UDP);
            prop_assert_eq!(as_sent(&met, &told, of(caller)), sent);
            // Nothing is rewritten where a call is only handed on.
            prop_assert_eq!(as_sent(&met, &Flow::default(), of(caller)), met);
        }
    }
}
