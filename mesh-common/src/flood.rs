//! Whether so many flows begin that most of them can't be real: counted per CPU, in windows of one second.
//!
//! Asked where a packet without a flow is decided, never on the path of an established one. While a flood is on, new flows are written beside the
//! flow table (`OVERFLOW4`) and chosen by the ring (docs/decisions/0022). Pure: the clock and the bound come in from outside.

use crate::flow::seen;
use crate::parse::{protocol, tcp_flag};
use crate::schema::Flood;

/// New flows a second and CPU past which a flood is on, unless the agent is told another number.
///
/// Far above what a CPU of a node opens and closes in whole TCP connections through all stages (docs/performance.md), so strict turns are never lost
/// to honest load; and so small that what a flood writes into the table before it is known is one of thirteen of its entries a CPU.
pub const DEFAULT_THRESHOLD: u32 = 10_000;

/// Counts a new flow at `now_s` (seconds); true while a flood is on: in this second or the whole one before more than `threshold` began. 0: never.
#[inline(always)]
pub fn arrives(flood: &mut Flood, now_s: u32, threshold: u32) -> bool {
    if flood.second != now_s {
        flood.before = if flood.second.wrapping_add(1) == now_s { flood.count } else { 0 };
        flood.second = now_s;
        flood.count = 0;
    }
    flood.count = flood.count.saturating_add(1);
    let is_on = threshold != 0 && (flood.count > threshold || flood.before > threshold);
    flood.is_on = is_on as u32;
    is_on
}

/// New flows a second as one CPU has counted them, at `now_s`: of the last whole second, or of the one that runs where that is more already. 0 where it
/// has seen none since.
pub fn rate(flood: &Flood, now_s: u32) -> u32 {
    match now_s.wrapping_sub(flood.second) as i32 {
        ..=0 => flood.count.max(flood.before),
        1 => flood.count,
        _ => 0,
    }
}

/// Whether a flood was on in the last second or so before `now_s`.
pub fn is_on(flood: &Flood, now_s: u32) -> bool {
    // Who asks may have read the clock before the program did.
    flood.is_on != 0 && now_s.wrapping_sub(flood.second) as i32 <= 1
}

/// Whether this packet shows that a flow was meant: `own` are the `seen` bits of the direction it belongs to and its packets before this one, `other`
/// those of the opposite direction (None: that entry lives elsewhere).
///
/// TCP: a segment after the handshake's first, once the other side has acknowledged something. Others: a second packet after an answer; never
/// without one to look at, for a sender who repeats himself proves nothing.
#[inline(always)]
pub fn is_proof(protocol_number: u8, tcp_flags: u8, packets_before: u32, other: Option<(u8, u32)>) -> bool {
    if protocol_number == protocol::TCP {
        let goes_on = tcp_flags & (tcp_flag::ACK | tcp_flag::SYN | tcp_flag::RST | tcp_flag::FIN) == tcp_flag::ACK;
        goes_on && other.is_none_or(|(bits, packets)| packets != 0 && bits & (seen::ACK | seen::RST) == seen::ACK)
    } else {
        packets_before != 0 && other.is_some_and(|(_, packets)| packets != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_on_past_the_threshold_and_until_a_calm_second_has_passed() {
        let mut flood = Flood::default();
        let mut second = |now_s, flows| (0..flows).filter(|_| arrives(&mut flood, now_s, 100)).count();
        assert_eq!(second(7, 100), 0, "as many as allowed");
        assert_eq!(second(8, 150), 50, "the first hundred can't be known");
        assert_eq!(second(9, 80), 80, "the second after is a flood's from its first flow");
        assert_eq!(second(10, 80), 0, "the calm second is over");
        assert_eq!(second(11, 101), 1);
        assert_eq!(second(13, 50), 0, "a second without any flow is calm");
    }

    #[test]
    fn a_clock_read_just_before_does_not_make_a_flood_calm() {
        let mut flood = Flood::default();
        (0..300).for_each(|_| _ = arrives(&mut flood, 8, 100));
        for now_s in [7, 8, 9] {
            assert!(is_on(&flood, now_s) && rate(&flood, now_s) == 300, "{now_s}");
        }
        assert!(!is_on(&flood, 10) && rate(&flood, 10) == 0);
    }

    #[test]
    fn without_a_threshold_nothing_is_a_flood() {
        let mut flood = Flood::default();
        assert!((0..1_000).all(|_| !arrives(&mut flood, 1, 0)));
        assert_eq!(rate(&flood, 1), 1_000, "counted all the same");
    }

    #[test]
    fn the_rate_is_the_last_whole_seconds() {
        let mut flood = Flood::default();
        (0..30).for_each(|_| _ = arrives(&mut flood, 5, 100));
        assert_eq!((rate(&flood, 5), rate(&flood, 6), rate(&flood, 7)), (30, 30, 0));
        arrives(&mut flood, 6, 100);
        assert_eq!(rate(&flood, 6), 30);
    }

    #[test]
    fn only_what_an_answer_led_to_is_proof() {
        let (syn, ack, rst) = (tcp_flag::SYN, tcp_flag::ACK, tcp_flag::RST);
        let tcp = |flags, other| is_proof(protocol::TCP, flags, 1, other);
        assert!(tcp(ack, Some((seen::ACK, 1))), "the handshake's ACK");
        assert!(!tcp(syn, Some((0, 0))) && !tcp(syn | ack, Some((0, 1))), "the handshake's beginning");
        assert!(!tcp(ack, Some((0, 0))), "nothing was answered");
        assert!(!tcp(rst | ack, Some((seen::ACK, 1))) && !tcp(ack, Some((seen::ACK | seen::RST, 1))), "it is refused");
        assert!(tcp(ack, None), "the entry of an ingress node: its SYN was before");
        let udp = |before, other| is_proof(protocol::UDP, 0, before, other);
        assert!(udp(1, Some((0, 1))) && !udp(0, Some((0, 1))) && !udp(1, Some((0, 0))) && !udp(9, None));
    }
}
