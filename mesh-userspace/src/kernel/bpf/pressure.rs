//! Which flows give way where the table is nearly full: pure, from ages counted in one walk.
//!
//! First those that have ended, then those that nobody answered, each the longest silent first; connections that live only where that is not
//! enough and the table is about to be full, and never one that was heard of lately: what finds no room lives in the overflow, so nothing is
//! won by breaking a connection for it. Memory is a fixed number of counters, however many flows there are.

use std::time::Duration;

use mesh_common::ageing::State;
use mesh_common::parse::protocol;
use mesh_common::schema::{Flow, FlowKey};

/// Groups in the order in which they give way.
const GROUPS: usize = 4;
/// Seconds that a flow of each group is silent at least before it gives way: ended; unanswered; answered, but no TCP; established TCP.
const LEAST_S: [u32; GROUPS] = [2, 5, 30, 300];
/// From this share of the table on (of a hundred) flows give way, until `AT_EASE` is reached.
const CROWDED: usize = 80;
const AT_EASE: usize = 70;
/// The same for flows that live.
const FULL: usize = 95;
const NOT_FULL: usize = 90;
/// Ages in steps of an eighth and finer.
const STEPS: usize = 16 + 28 * 4;

/// Entries by group and age.
#[derive(Clone, Debug)]
pub struct Census {
    pub entries: usize,
    ages: [[u32; STEPS]; GROUPS],
}

impl Default for Census {
    fn default() -> Self {
        Census { entries: 0, ages: [[0; STEPS]; GROUPS] }
    }
}

/// Seconds of silence from which on a flow of each group gives way; None: it stays.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits([Option<u32>; GROUPS]);

impl Limits {
    /// Seconds from which on a flow like this entry gives way.
    pub fn of<A>(&self, key: &FlowKey<A>, flow: &Flow<A>) -> Option<u32> {
        self.0[group(key, flow)]
    }
}

fn group<A>(key: &FlowKey<A>, flow: &Flow<A>) -> usize {
    match State::of_entry(key, flow) {
        State::Closing | State::Dead => 0,
        State::Opening => 1,
        State::Established if key.protocol != protocol::TCP => 2,
        State::Established => 3,
    }
}

impl Census {
    pub fn count<A>(&mut self, key: &FlowKey<A>, flow: &Flow<A>, now_s: u32) {
        self.entries += 1;
        self.ages[group(key, flow)][step_of(now_s.saturating_sub(flow.last_seen_s))] += 1;
    }

    /// What gives way in a table for so many entries; None: there is room.
    pub fn limits(&self, capacity: usize) -> Option<Limits> {
        let share = |percent: usize| (capacity as u64 * percent as u64 / 100) as usize;
        if self.entries <= share(CROWDED) {
            return None;
        }
        let mut limits = Limits::default();
        let mut left = self.entries;
        for (group, least_s) in LEAST_S.into_iter().enumerate() {
            let is_alive = group >= 2;
            if is_alive && left <= share(FULL) {
                break;
            }
            let goal = share(if is_alive { NOT_FULL } else { AT_EASE });
            let oldest_first = (0..STEPS).rev().take_while(|step| least_of(*step) >= least_s);
            for step in oldest_first {
                if left <= goal {
                    break;
                }
                left = left.saturating_sub(self.ages[group][step] as usize);
                limits.0[group] = Some(least_of(step));
            }
        }
        Some(limits)
    }
}

/// Flows are swept so often …
const SHORTEST_PAUSE: Duration = Duration::from_secs(5);
/// … and where a sweep of a large table costs more than a twentieth of a CPU then, more rarely, but so often.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
const COST_SHARE: u32 = 20;

/// Time until the next sweep of a table with so many entries, `growth` more a second, whose last sweep cost so much of a CPU: what has ended
/// may stay a little longer as long as there is room for what comes.
pub fn pause(entries: usize, growth: f64, capacity: usize, cost: Duration) -> Duration {
    let room = (capacity as f64 * CROWDED as f64 / 100.0 - entries as f64).max(0.0);
    let until_crowded = if growth > 0.0 { room / growth } else { f64::INFINITY };
    let longest = Duration::from_secs_f64(until_crowded.min(LONGEST_PAUSE.as_secs_f64()));
    (cost * COST_SHARE).min(longest).max(SHORTEST_PAUSE)
}

/// Single seconds below 16, then four steps from each power of two to the next.
fn step_of(age_s: u32) -> usize {
    match age_s.checked_ilog2() {
        None | Some(..4) => age_s as usize,
        Some(log) => 16 + (log as usize - 4) * 4 + (age_s >> (log - 2) & 3) as usize,
    }
}

/// The least age of a step.
fn least_of(step: usize) -> u32 {
    match step.checked_sub(16) {
        None => step as u32,
        Some(beyond) => (4 + beyond as u32 % 4) << (beyond / 4 + 2),
    }
}

#[cfg(test)]
mod tests {
    use mesh_common::flow::seen;

    use super::*;

    const NOW: u32 = 100_000;

    fn entry(protocol: u8, seen: u8, silent_s: u32) -> (FlowKey<[u8; 4]>, Flow<[u8; 4]>) {
        let key = FlowKey::new([10, 0, 16, 3], [10, 0, 16, 2], 40_000, 80, protocol);
        let flow = Flow {
            addr: [10, 0, 16, 4],
            backend: 7,
            rewrite: 2,
            deliver: 1,
            seen,
            last_seen_s: NOW - silent_s,
            packets: 1,
            ..Flow::default()
        };
        (key, flow)
    }

    /// So many entries of each kind: protocol, what was seen, seconds of silence.
    fn census(kinds: &[(usize, u8, u8, u32)]) -> Census {
        let mut census = Census::default();
        for (count, protocol, seen, silent_s) in kinds {
            let (key, flow) = entry(*protocol, *seen, *silent_s);
            (0..*count).for_each(|_| census.count(&key, &flow, NOW));
        }
        census
    }

    fn gives_way(limits: &Limits, protocol: u8, seen: u8, silent_s: u32) -> bool {
        let (key, flow) = entry(protocol, seen, silent_s);
        limits.of(&key, &flow).is_some_and(|limit| silent_s >= limit)
    }

    #[test]
    fn every_age_is_in_the_step_that_begins_below_it() {
        for age in (0..5_000).chain([1 << 20, u32::MAX - 1, u32::MAX]) {
            let step = step_of(age);
            assert!(step < STEPS && least_of(step) <= age, "{age}: step {step} from {}", least_of(step));
            assert!(step + 1 == STEPS || least_of(step + 1) > age, "{age}: step {step}");
        }
    }

    #[test]
    fn a_large_table_is_swept_more_rarely_while_it_has_room() {
        let (million, ms) = (1_000_000, Duration::from_millis);
        assert_eq!(pause(1_000, 0.0, million, ms(1)), SHORTEST_PAUSE);
        assert_eq!(pause(500_000, 0.0, million, ms(600)), Duration::from_secs(12), "a twentieth of a CPU");
        assert_eq!(pause(500_000, 0.0, million, ms(9_000)), LONGEST_PAUSE);
        assert_eq!(pause(500_000, 30_000.0, million, ms(600)), Duration::from_secs(10), "it is crowded by then");
        assert_eq!(pause(900_000, 30_000.0, million, ms(600)), SHORTEST_PAUSE);
    }

    #[test]
    fn nothing_gives_way_while_there_is_room() {
        assert_eq!(census(&[(800, protocol::TCP, seen::ACK, 50_000)]).limits(1_000), None);
    }

    #[test]
    fn ended_flows_give_way_before_live_ones_that_are_silent_for_longer() {
        let fin = seen::ACK | seen::FIN;
        let crowd = [(500, protocol::TCP, seen::ACK, 50_000), (300, protocol::TCP, fin, 4), (100, protocol::TCP, 0, 8)];
        let limits = census(&crowd).limits(1_000).expect("a crowd");
        assert!(gives_way(&limits, protocol::TCP, fin, 4));
        assert!(!gives_way(&limits, protocol::TCP, 0, 8), "that was enough");
        assert!(!gives_way(&limits, protocol::TCP, seen::ACK, 50_000), "the longest silent one lives");
    }

    #[test]
    fn half_open_flows_give_way_next_the_longest_silent_first() {
        let crowd = [(650, protocol::TCP, seen::ACK, 9_000), (200, protocol::TCP, 0, 40), (100, protocol::TCP, 0, 6)];
        let limits = census(&crowd).limits(1_000).expect("a crowd");
        assert!(gives_way(&limits, protocol::TCP, 0, 40) && gives_way(&limits, protocol::TCP, 0, 6));
        let limits = census(&crowd).limits(1_100).expect("a smaller crowd");
        assert!(gives_way(&limits, protocol::TCP, 0, 40) && !gives_way(&limits, protocol::TCP, 0, 6));
        assert!(!gives_way(&limits, protocol::TCP, seen::ACK, 9_000));
    }

    #[test]
    fn live_flows_give_way_only_where_the_table_is_about_to_be_full_and_only_long_silent_ones() {
        let crowd = |of_now| [(500, protocol::TCP, seen::ACK, 80_000), (of_now, protocol::TCP, seen::ACK, 10)];
        let limits = census(&crowd(440)).limits(1_000).expect("a crowd");
        assert!(!gives_way(&limits, protocol::TCP, seen::ACK, 80_000), "94 in a hundred");
        let limits = census(&crowd(480)).limits(1_000).expect("full");
        assert!(gives_way(&limits, protocol::TCP, seen::ACK, 80_000));
        let limits = census(&[(1_000, protocol::TCP, seen::ACK, 299)]).limits(1_000).expect("full");
        assert!(!gives_way(&limits, protocol::TCP, seen::ACK, 299), "heard of lately: new flows go to the overflow");
    }

    #[test]
    fn datagrams_give_way_before_connections() {
        let crowd = [(500, protocol::TCP, seen::ACK, 80_000), (490, protocol::UDP, 0, 100)];
        let limits = census(&crowd).limits(1_000).expect("full");
        assert!(gives_way(&limits, protocol::UDP, 0, 100) && !gives_way(&limits, protocol::TCP, seen::ACK, 80_000));
    }
}
