//! How far a flow has come and how long it may be silent, by its two entries; and what one entry alone says of that.
//!
//! User space walks the flow table entry by entry and knows no pairs; the program `sweep` looks both entries up and judges. So that the
//! program is asked about few, an entry has a silence below which it is no witness ([`least_silence_s`]). Invariant: of every flow that may be
//! removed, one entry at least is a witness.

use crate::flow::{seen, timeout_s};
use crate::parse::protocol;
use crate::schema::{Flow, FlowKey, flow_flag, origin, rewrite};

/// How far a flow has come.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Nothing came back so far, or TCP's handshake is not finished.
    Opening = 0,
    /// Both sides have been heard.
    Established = 1,
    /// TCP: a FIN or RST was seen.
    Closing = 2,
    /// Its backend is gone: the next packet is refused.
    Dead = 3,
}

impl State {
    /// Every state, by its number.
    pub const ALL: [State; 4] = [State::Opening, State::Established, State::Closing, State::Dead];

    /// The word for it.
    pub const fn name(self) -> &'static str {
        match self {
            State::Opening => "opening",
            State::Established => "established",
            State::Closing => "closing",
            State::Dead => "dead",
        }
    }

    /// As one entry shows it: the other one may know of an end, or of no answer.
    pub const fn of_entry<A>(key: &FlowKey<A>, flow: &Flow<A>) -> State {
        let is_tcp = key.protocol == protocol::TCP;
        if flow.flags & flow_flag::DEAD != 0 {
            State::Dead
        } else if is_tcp && flow.seen & (seen::FIN | seen::RST) != 0 {
            State::Closing
        } else if flow.packets == 0 || (is_tcp && flow.seen & seen::ACK == 0) {
            State::Opening
        } else {
            State::Established
        }
    }
}

impl State {
    /// As both entries show it: an end that either knows of, else an answer that either misses.
    pub fn of_flow<A>(key: &FlowKey<A>, flow: &Flow<A>, twin: Option<&Flow<A>>) -> State {
        let own = State::of_entry(key, flow);
        let Some(other) = twin.map(|twin| State::of_entry(key, twin)) else { return own };
        match (own.max(other), own.min(other)) {
            (State::Established, least) => least,
            (most, _) => most,
        }
    }
}

/// Seconds of silence after which a datagram and its one answer are forgotten: what asks once (DNS) comes from another port the next time, and must not fill
/// the table.
const ASKED_ONCE_S: u32 = 10;
/// Seconds of silence after which a dead flow is forgotten.
const DEAD_S: u32 = 10;
/// Seconds that an ingress node remembers a single packet from the middle of a connection that it knew nothing of: a stray one, perhaps, that nobody
/// answers. Above the two hours between keepalives (tcp_keepalive_time, Documentation/networking/ip-sysctl.rst).
const STRAY_S: u32 = 9_000;

/// Seconds that this flow may be silent, both entries known; None: for ever. The silence of a flow is that of the one last heard.
#[inline(always)]
pub fn silence_allowed_s<A>(key: &FlowKey<A>, flow: &Flow<A>, twin: Option<&Flow<A>>) -> Option<u32> {
    let is_dead = |flow: &Flow<A>| flow.flags & flow_flag::DEAD != 0;
    if is_dead(flow) {
        return Some(DEAD_S);
    }
    let Some(twin) = twin else {
        // The reply's entry of a cached call lives at the owner; a hairpin's calling entry does not find the other one; and of a connection that lost one
        // the other is kept: the caller's next packet writes both anew. An ACK shows that there was an answer.
        let answered = flow.seen & seen::ACK != 0 || (flow.rewrite == rewrite::NONE && flow.packets > 1);
        let allowed = timeout_s(key.protocol, flow.seen, flow.seen & !seen::FIN, answered);
        return allowed.or(if is_stray(flow) { Some(STRAY_S) } else { None });
    };
    if has_no_state(key.protocol) && flow.packets == 1 && twin.packets == 1 {
        return Some(ASKED_ONCE_S);
    }
    let answered = flow.packets != 0 && twin.packets != 0;
    let (forward, reverse) =
        if flow.flags & flow_flag::REVERSE != 0 { (twin.seen, flow.seen) } else { (flow.seen, twin.seen) };
    timeout_s(key.protocol, forward, reverse, answered)
}

/// An ingress node's entry that one packet has gone by.
#[inline(always)]
fn is_stray<A>(flow: &Flow<A>) -> bool {
    flow.rewrite == rewrite::NONE && flow.packets == 1
}

/// UDP, and whatever is no connection nor an echo: nothing is lost where each packet finds its way by itself.
#[inline(always)]
pub const fn has_no_state(number: u8) -> bool {
    !matches!(number, protocol::TCP | protocol::SCTP | protocol::ICMP | protocol::ICMPV6)
}

/// An entry by which this node sends datagrams to a backend of its choice: without it the next one chooses again. The answers' entry is another one, and what
/// a peer chose is the peer's to choose again; of who is called by its own address there is no choice.
pub fn may_choose_again<A: PartialEq>(key: &FlowKey<A>, flow: &Flow<A>) -> bool {
    has_no_state(key.protocol)
        && (flow.rewrite != rewrite::DESTINATION || flow.addr != key.dst)
        && flow.flags & flow_flag::REVERSE == 0
        && flow.rewrite != rewrite::SOURCE
        && !origin::is_peer(flow.from)
}

/// Seconds of an entry's own silence below which the program need not be asked about it; None: it says nothing of an end.
pub fn least_silence_s<A>(key: &FlowKey<A>, flow: &Flow<A>) -> Option<u32> {
    match (State::of_entry(key, flow), key.protocol) {
        (State::Dead, _) => Some(DEAD_S),
        (State::Closing, _) if flow.seen & seen::RST != 0 => Some(10),
        // With a FIN of both sides; with one it is longer, which the program knows.
        (State::Closing, _) => Some(60),
        (State::Opening, protocol::TCP) => Some(60),
        (State::Established, protocol::TCP) if is_stray(flow) => Some(STRAY_S),
        (State::Established, protocol::TCP) => None,
        (State::Established, protocol::ICMP | protocol::ICMPV6) => Some(30),
        (State::Established, _) if flow.rewrite == rewrite::NONE && flow.packets == 1 => Some(30),
        // One answer, if there was one: the program knows.
        (State::Established, _) if flow.packets == 1 => Some(ASKED_ONCE_S),
        (State::Established, _) => Some(120),
        (State::Opening, _) => Some(30),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Entry = Flow<[u8; 4]>;

    fn key(protocol: u8) -> FlowKey<[u8; 4]> {
        FlowKey::new([10, 0, 16, 3], [10, 0, 16, 2], 40_000, 80, protocol)
    }

    fn entry(rewrite: u8, flags: u8, seen: u8, packets: u32) -> Entry {
        Flow { addr: [10, 0, 16, 4], backend: 7, rewrite, seen, flags, packets, ..Flow::default() }
    }

    /// Every pair of entries that differ in what ageing looks at.
    fn pairs() -> impl Iterator<Item = (FlowKey<[u8; 4]>, Entry, Entry)> {
        let protocols = [protocol::TCP, protocol::UDP, protocol::SCTP, protocol::ICMP];
        let shapes = (0..8u8).flat_map(|seen| (0..3u32).map(move |packets| (seen, packets)));
        let shapes: Vec<(u8, u32)> = shapes.filter(|(seen, packets)| *seen == 0 || *packets != 0).collect();
        protocols.into_iter().flat_map(move |protocol| {
            let replies = shapes.clone();
            shapes.clone().into_iter().flat_map(move |(seen, packets)| {
                replies.clone().into_iter().map(move |(other, answers)| {
                    let reverse = entry(rewrite::SOURCE, flow_flag::REVERSE, other, answers);
                    (key(protocol), entry(rewrite::DESTINATION, 0, seen, packets), reverse)
                })
            })
        })
    }

    #[test]
    fn of_every_flow_that_ends_one_entry_is_a_witness_in_time() {
        for (key, forward, reverse) in pairs() {
            let allowed = silence_allowed_s(&key, &forward, Some(&reverse));
            assert_eq!(allowed, silence_allowed_s(&key, &reverse, Some(&forward)), "both entries say the same");
            let Some(allowed) = allowed else { continue };
            let least = [&forward, &reverse].into_iter().filter_map(|flow| least_silence_s(&key, flow)).min();
            assert!(least.is_some_and(|least| least <= allowed), "{allowed} s, {least:?}: {forward:?} {reverse:?}");
        }
    }

    #[test]
    fn a_question_and_its_answer_are_soon_forgotten_and_a_conversation_is_not() {
        let allowed = |protocol, packets, answers| {
            let reverse = entry(rewrite::SOURCE, flow_flag::REVERSE, 0, answers);
            silence_allowed_s(&key(protocol), &entry(rewrite::DESTINATION, 0, 0, packets), Some(&reverse))
        };
        assert_eq!(allowed(protocol::UDP, 1, 1), Some(ASKED_ONCE_S));
        assert_eq!(allowed(protocol::UDP, 1, 0), Some(30), "an answer may still come");
        assert_eq!((allowed(protocol::UDP, 2, 1), allowed(protocol::UDP, 1, 2)), (Some(120), Some(120)));
        assert_eq!(allowed(protocol::ICMP, 1, 1), Some(30));
        assert_eq!(allowed(protocol::SCTP, 1, 1), Some(210), "an association has begun");
    }

    #[test]
    fn only_datagrams_that_this_node_sends_to_a_choice_of_its_own_choose_again() {
        let call = entry(rewrite::DESTINATION, 0, 0, 3);
        let cached = Flow { from: origin::WIRE, ..entry(rewrite::NONE, 0, 0, 3) };
        assert!(may_choose_again(&key(protocol::UDP), &call) && may_choose_again(&key(protocol::UDP), &cached));
        for number in [protocol::TCP, protocol::SCTP, protocol::ICMP] {
            assert!(!may_choose_again(&key(number), &call), "{number}");
        }
        let answer = entry(rewrite::SOURCE, flow_flag::REVERSE, 0, 3);
        let way_out = entry(rewrite::SOURCE, 0, 0, 3);
        let way_in = entry(rewrite::DESTINATION, flow_flag::REVERSE, 0, 3);
        let of_peer = Flow { from: origin::peer(2), ..call };
        for flow in [answer, way_out, way_in, of_peer] {
            assert!(!may_choose_again(&key(protocol::UDP), &flow), "{flow:?}");
        }
    }

    #[test]
    fn an_entry_without_another_is_a_witness_of_its_own() {
        for protocol in [protocol::TCP, protocol::UDP, protocol::SCTP, protocol::ICMP] {
            for (seen, packets) in (0..8).flat_map(|seen| [(seen, 1), (seen, 2)]) {
                let flow = entry(rewrite::NONE, 0, seen, packets);
                let Some(allowed) = silence_allowed_s(&key(protocol), &flow, None) else {
                    assert!(protocol == protocol::TCP && seen == seen::ACK && packets > 1, "{protocol}: {flow:?}");
                    continue;
                };
                let least = least_silence_s(&key(protocol), &flow);
                assert!(least.is_some_and(|least| least <= allowed), "{protocol}: {allowed} s, {least:?}: {flow:?}");
            }
        }
    }

    #[test]
    fn an_ingress_node_remembers_a_connection_until_it_ends_and_a_stray_packet_for_longer_than_a_keepalive() {
        let cached =
            |seen, packets| silence_allowed_s(&key(protocol::TCP), &entry(rewrite::NONE, 0, seen, packets), None);
        assert_eq!((cached(seen::ACK, 9), cached(seen::ACK, 1)), (None, Some(STRAY_S)));
        assert_eq!((cached(seen::ACK | seen::FIN, 9), cached(seen::ACK | seen::RST, 9)), (Some(120), Some(10)));
        assert_eq!(cached(0, 1), Some(60), "a SYN alone");
    }

    #[test]
    fn what_is_left_of_an_established_connection_stays() {
        let left = |rewrite, flags, seen| silence_allowed_s(&key(protocol::TCP), &entry(rewrite, flags, seen, 9), None);
        for flags in [0, flow_flag::HAIRPIN] {
            assert_eq!(left(rewrite::DESTINATION, flags, seen::ACK), None, "the calling entry");
        }
        assert_eq!(left(rewrite::SOURCE, flow_flag::REVERSE, seen::ACK), None, "that of the answers");
        assert_eq!(left(rewrite::DESTINATION, 0, 0), Some(60), "its handshake was never finished");
        assert_eq!(left(rewrite::DESTINATION, 0, seen::ACK | seen::FIN), Some(120));
    }

    #[test]
    fn a_flow_is_as_far_as_its_less_hopeful_entry() {
        let of = |forward: u8, reverse: u8, answers: u32| {
            let flow = entry(rewrite::DESTINATION, 0, forward, 1);
            let twin = entry(rewrite::SOURCE, flow_flag::REVERSE, reverse, answers);
            State::of_flow(&key(protocol::TCP), &flow, Some(&twin))
        };
        assert_eq!(of(seen::ACK, seen::ACK, 1), State::Established);
        assert_eq!(of(seen::ACK, 0, 0), State::Opening);
        assert_eq!(of(0, seen::ACK, 1), State::Opening);
        assert_eq!(of(seen::ACK, seen::ACK | seen::RST, 1), State::Closing);
        assert_eq!(of(0, seen::RST | seen::ACK, 1), State::Closing);
    }

    #[test]
    fn the_state_is_what_the_entry_shows() {
        let of = |protocol, flags, seen, packets| State::of_entry(&key(protocol), &entry(1, flags, seen, packets));
        assert_eq!(of(protocol::TCP, 0, 0, 1), State::Opening);
        assert_eq!(of(protocol::TCP, 0, seen::ACK, 1), State::Established);
        assert_eq!(of(protocol::TCP, 0, seen::ACK | seen::FIN, 3), State::Closing);
        assert_eq!(of(protocol::TCP, flow_flag::DEAD, seen::ACK, 3), State::Dead);
        assert_eq!(of(protocol::UDP, 0, 0, 0), State::Opening);
        assert_eq!(of(protocol::UDP, 0, 0, 1), State::Established);
    }
}
