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

/// Orders of the sweeper to the program `sweep`: records behind an Ethernet header that says nothing but the family (its EtherType) whose flows they
/// are about. A record is the flow key (40 bytes: addresses of 16, IPv4 as ::ffff:a.b.c.d, else as in the map), the order (1 byte), 3 zero bytes, a
/// second of the programs' clock (native order).
pub mod order {

    /// Remove the flow, both entries, if at that second it was silent for longer than it may.
    pub const EXPIRE: u8 = 0;
    /// Mark the entry: its backend is gone, refuse its next packet.
    pub const KILL: u8 = 1;
    /// Remove the flow, both entries, if nothing was seen of it after that second.
    pub const GIVE_UP: u8 = 2;
    /// Delete the entry's copy beside the table, if the table has it too.
    pub const TIDY: u8 = 3;
    /// Where the first record is.
    pub const FIRST_AT: usize = 14;
    /// Bytes of a record.
    pub const RECORD: usize = 48;
    /// Most records of one run.
    pub const MOST: usize = 32;
}

/// Backends whose answers' entries are looked for where a calling entry is lost; with more of them the ring decides for the rest.
pub const MOST_TWINS: u32 = 8;

/// Seconds of silence after which a caller's packet makes sure that the answers to it will be turned back: who loses an entry is the longest silent
/// one, and a connection that is in use pays for no second lookup.
pub const SILENT_S: u32 = 2;

/// The key of the other direction's entry: the packet after the rewrite, turned round. None for a hairpin's forward entry, whose
/// source becomes the gateway.
pub fn twin<A: Copy + PartialEq>(key: &FlowKey<A>, flow: &Flow<A>) -> Option<FlowKey<A>> {
    let (mut src, mut dst, mut sport, mut dport) = (key.src, key.dst, key.sport, key.dport);
    let replace = |old: u16, new: u16| if new == 0 { old } else { new };
    // An echo's identifier stands where a port would, and 0 is one like any other: it is always meant as it is.
    let is_echo = key.protocol == protocol::ICMP || key.protocol == protocol::ICMPV6;
    let replace_exactly = |old: u16, new: u16| if is_echo { new } else { replace(old, new) };
    let is_hairpin = flow.flags & flow_flag::HAIRPIN != 0;
    match flow.rewrite {
        rewrite::DESTINATION if is_hairpin => return None,
        rewrite::DESTINATION => {
            dst = flow.addr;
            dport = replace_exactly(dport, flow.port);
            sport = replace(sport, flow.other_port);
        }
        rewrite::SOURCE => {
            if is_hairpin {
                dst = src;
            }
            src = flow.addr;
            sport = replace_exactly(sport, flow.port);
            dport = replace(dport, flow.other_port);
        }
        _ => return None,
    }
    Some(FlowKey::new(dst, src, dport, sport, key.protocol))
}

/// The new `seen` bits after a packet with these TCP flags. A SYN, with or without ACK, begins a life: the end of the last one is over.
#[inline(always)]
pub const fn note(seen: u8, tcp_flags: u8) -> u8 {
    let mut seen = seen;
    if tcp_flags & tcp_flag::ACK != 0 {
        seen |= seen::ACK;
    }
    // Nearly every segment ends here.
    if tcp_flags & (tcp_flag::SYN | tcp_flag::FIN | tcp_flag::RST) == 0 {
        return seen;
    }
    if tcp_flags & tcp_flag::SYN != 0 {
        seen &= !(seen::FIN | seen::RST);
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
/// (Documentation/networking/nf_conntrack-sysctl.rst): SYN 60 s, closing 120 s, RST 10 s, UDP 30 s and 120 s when answered, ICMP 30 s; SCTP, whose
/// associations ask every 30 s whether the other side is there, 210 s when answered (net/netfilter/nf_conntrack_proto_sctp.c).
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
    } else if protocol_number == protocol::SCTP && answered {
        Some(210)
    } else if answered {
        Some(120)
    } else {
        Some(30)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Key = FlowKey<[u8; 4]>;
    type Entry = Flow<[u8; 4]>;

    /// A flow's two entries under their keys.
    #[derive(Clone, Debug)]
    struct Pair {
        key: Key,
        forward: Entry,
        reply: Key,
        reverse: Entry,
    }

    fn key(src: [u8; 4], sport: u16, dst: [u8; 4], dport: u16, protocol: u8) -> Key {
        FlowKey::new(src, dst, sport, dport, protocol)
    }

    fn entry(rewrite: u8, addr: [u8; 4], port: u16, other_port: u16, flags: u8) -> Entry {
        Flow { addr, port, other_port, rewrite, flags, ..Flow::default() }
    }

    /// A call to a frontend, as the stage `owner` writes it: the destination becomes the task; where the reply's
    /// tuple was taken, the source port changes too; a task that calls itself is seen as the gateway.
    fn call(caller: Key, task: [u8; 4], target: u16, changed: u16, gateway: Option<[u8; 4]>) -> Pair {
        let flags = if gateway.is_some() { flow_flag::HAIRPIN } else { 0 };
        let seen_port = if changed == 0 { caller.sport } else { changed };
        let original = if changed == 0 { 0 } else { caller.sport };
        let target_port = if target == 0 { caller.dport } else { target };
        Pair {
            key: caller,
            forward: entry(rewrite::DESTINATION, task, target, changed, flags),
            reply: key(task, target_port, gateway.unwrap_or(caller.src), seen_port, caller.protocol),
            reverse: entry(rewrite::SOURCE, caller.dst, caller.dport, original, flags),
        }
    }

    /// A task's way out, as the stage `outside` writes it: the source becomes the uplink's address and a port of ours.
    fn way_out(task: Key, uplink: [u8; 4], port: u16) -> Pair {
        Pair {
            key: task,
            forward: entry(rewrite::SOURCE, uplink, port, 0, 0),
            reply: key(task.dst, task.dport, uplink, port, task.protocol),
            reverse: entry(rewrite::DESTINATION, task.src, task.sport, 0, flow_flag::REVERSE),
        }
    }

    /// TCP and UDP with ports (a source port 0 asks for no answer, RFC 768), echo requests with any identifier.
    fn tuples() -> impl Strategy<Value = Key> {
        let ports = (1..=u16::MAX, 1..=u16::MAX, prop_oneof![Just(protocol::TCP), Just(protocol::UDP)]);
        let echo = prop_oneof![Just(0), any::<u16>()].prop_map(|identifier| (identifier, 0, protocol::ICMP));
        let ends = (any::<[u8; 4]>(), any::<[u8; 4]>());
        (ends, prop_oneof![ports, echo])
            .prop_map(|((src, dst), (sport, dport, number))| key(src, sport, dst, dport, number))
    }

    proptest! {
        #[test]
        fn the_inverse_of_a_call_is_the_call(
            caller in tuples(), task in any::<[u8; 4]>(), target in any::<u16>(), changed in any::<u16>(), has_changed in any::<bool>(),
        ) {
            // Identifiers of echoes are neither published nor changed.
            let is_echo = caller.protocol == protocol::ICMP;
            let (target, changed) = (if is_echo { 0 } else { target }, if has_changed && !is_echo { changed } else { 0 });
            let Pair { key, forward, reply, reverse } = call(caller, task, target, changed, None);
            prop_assert_eq!(twin(&key, &forward), Some(reply));
            prop_assert_eq!(twin(&reply, &reverse), Some(key));
        }

        #[test]
        fn the_inverse_of_the_way_out_is_the_task(task in tuples(), uplink in any::<[u8; 4]>(), port in 61_000..=u16::MAX) {
            let Pair { key, forward, reply, reverse } = way_out(task, uplink, port);
            prop_assert_eq!(twin(&key, &forward), Some(reply));
            prop_assert_eq!(twin(&reply, &reverse), Some(key));
        }

        #[test]
        fn a_task_that_calls_itself_finds_back_from_the_reply(
            caller in tuples(), target in any::<u16>(), gateway in any::<[u8; 4]>(),
        ) {
            let target = if caller.protocol == protocol::ICMP { 0 } else { target };
            let Pair { key, forward, reply, reverse } = call(caller, caller.src, target, 0, Some(gateway));
            prop_assert_eq!(twin(&key, &forward), None);
            prop_assert_eq!(twin(&reply, &reverse), Some(key));
        }
    }

    #[test]
    fn an_established_connection_is_never_timed_out() {
        assert_eq!(timeout_s(protocol::TCP, seen::ACK, seen::ACK, true), None);
    }

    #[test]
    fn a_new_life_on_the_same_tuple_has_no_timeout_either() {
        let refused = note(0, tcp_flag::RST | tcp_flag::ACK);
        let answered = note(refused, tcp_flag::SYN | tcp_flag::ACK);
        assert_eq!(timeout_s(protocol::TCP, seen::ACK, answered, true), None);
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
