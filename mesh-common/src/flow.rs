//! The life of a flow: what its TCP flags have shown, and how long it may stay silent.
//!
//! Pure functions on values: the programs record flags, user space's sweeper asks [`timeout_s`] and lets a program delete the entry.

use crate::parse::{protocol, tcp_flag};
use crate::schema::{Flow, FlowKey, flow_flag, rewrite};

/// Bits of `Flow::seen`.
pub mod seen {
    /// Packets of this direction have carried ACK: the handshake is past its first packet.
    pub const ACK: u8 = 0x01;
    /// A FIN of this direction.
    pub const FIN: u8 = 0x02;
    /// A RST of this direction.
    pub const RST: u8 = 0x04;
}

/// Orders of the sweeper to the program `sweep`.
pub mod order {
    /// Delete the entry if nothing was seen since.
    pub const EXPIRE: u8 = 0;
    /// Mark the entry: its backend is gone, refuse its next packet.
    pub const KILL: u8 = 1;
}

/// The key of the other direction's entry: the packet after the rewrite, turned round. None for a hairpin's forward entry, whose
/// source becomes the gateway.
pub fn twin<A: Copy + PartialEq>(key: &FlowKey<A>, flow: &Flow<A>) -> Option<FlowKey<A>> {
    let (mut src, mut dst, mut sport, mut dport) = (key.src, key.dst, key.sport, key.dport);
    let replace = |old: u16, new: u16| if new == 0 { old } else { new };
    let is_hairpin = flow.flags & flow_flag::HAIRPIN != 0;
    match flow.rewrite {
        rewrite::DESTINATION if is_hairpin => return None,
        rewrite::DESTINATION => {
            dst = flow.addr;
            dport = replace(dport, flow.port);
            sport = replace(sport, flow.other_port);
        }
        rewrite::SOURCE => {
            if is_hairpin {
                dst = src;
            }
            src = flow.addr;
            sport = replace(sport, flow.port);
            dport = replace(dport, flow.other_port);
        }
        _ => return None,
    }
    Some(FlowKey { src: dst, dst: src, sport: dport, dport: sport, protocol: key.protocol, pad: [0; 3] })
}

/// The new `seen` bits after a packet with these TCP flags.
#[inline(always)]
pub const fn note(seen: u8, tcp_flags: u8) -> u8 {
    let mut seen = seen;
    if tcp_flags & tcp_flag::ACK != 0 {
        seen |= seen::ACK;
    }
    if tcp_flags & tcp_flag::FIN != 0 {
        seen |= seen::FIN;
    }
    if tcp_flags & tcp_flag::RST != 0 {
        seen |= seen::RST;
    }
    seen
}

/// This side has said that it is done: a SYN on the same tuple opens a new flow.
#[inline(always)]
pub const fn is_closing(seen: u8) -> bool {
    seen & (seen::FIN | seen::RST) != 0
}

/// Seconds a flow may stay silent before it is swept. `forward` and `reverse` are the `seen` bits of its two entries.
///
/// Established TCP has no timeout here (None): it is only swept by pressure. Others follow nf_conntrack's defaults
/// (Documentation/networking/nf_conntrack-sysctl.rst): SYN 60 s, closing 120 s, RST 10 s, UDP 30 s and 120 s when answered, ICMP 30 s.
pub const fn timeout_s(protocol_number: u8, forward: u8, reverse: u8, answered: bool) -> Option<u32> {
    if protocol_number == protocol::TCP {
        if (forward | reverse) & seen::RST != 0 {
            Some(10)
        } else if forward & reverse & seen::FIN != 0 {
            Some(60)
        } else if (forward | reverse) & seen::FIN != 0 {
            Some(120)
        } else if forward & seen::ACK == 0 || !answered {
            Some(60)
        } else {
            None
        }
    } else if protocol_number == protocol::ICMP || protocol_number == protocol::ICMPV6 {
        Some(30)
    } else if answered {
        Some(120)
    } else {
        Some(30)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_established_connection_is_never_timed_out() {
        assert_eq!(timeout_s(protocol::TCP, seen::ACK, seen::ACK, true), None);
    }

    #[test]
    fn the_end_of_a_connection_shortens_its_life() {
        let open = note(0, tcp_flag::SYN);
        assert_eq!(timeout_s(protocol::TCP, open, 0, false), Some(60));
        let closed = note(note(0, tcp_flag::ACK), tcp_flag::FIN | tcp_flag::ACK);
        assert!(is_closing(closed));
        assert_eq!(timeout_s(protocol::TCP, closed, closed, true), Some(60));
        assert_eq!(timeout_s(protocol::TCP, closed, note(0, tcp_flag::RST), true), Some(10));
    }
}
