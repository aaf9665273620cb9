//! Recognises datagrams that were seen before: one window per sender, as in IPsec (RFC 4303, 3.4.3; RFC 6479).
//!
//! The shared key proves that a member wrote a datagram, not when. A recorded ack could keep a dead node looking alive, so
//! each number of a sender's life is accepted once. A restarted receiver has no memory of older numbers: it accepts
//! each of the current life once more, which SWIM's incarnations and the records' versions make harmless.

use std::collections::HashMap;

use super::wire::RawId;

/// Datagrams that may overtake each other, over all destinations of a sender.
const WINDOW: u64 = 1024;
const WORDS: usize = (WINDOW / 64) as usize;

#[derive(Debug, Default)]
pub struct Replays(HashMap<RawId, Window>);

#[derive(Debug)]
struct Window {
    generation: u64,
    highest: u64,
    /// A ring of bits, by number modulo [`WINDOW`].
    seen: [u64; WORDS],
}

impl Replays {
    /// True exactly once per number of a sender's latest life, unless the number is too old to be remembered.
    pub fn is_fresh(&mut self, sender: RawId, generation: u64, sequence: u64) -> bool {
        let new = || Window { generation, highest: sequence, seen: [0; WORDS] };
        let window = self.0.entry(sender).or_insert_with(new);
        if generation > window.generation {
            *window = new();
        }
        generation == window.generation && window.take(sequence)
    }

    /// Forgets senders that are no members any more.
    pub fn retain(&mut self, is_member: impl Fn(RawId) -> bool) {
        self.0.retain(|sender, _| is_member(*sender));
    }
}

impl Window {
    fn take(&mut self, sequence: u64) -> bool {
        if sequence > self.highest {
            for skipped in (self.highest + 1..=sequence).take(WINDOW as usize) {
                self.seen[word(skipped)] &= !bit(skipped);
            }
            // A jump past the whole window cleared each bit once already.
            self.highest = sequence;
        } else if self.highest - sequence >= WINDOW {
            return false;
        }
        let is_fresh = self.seen[word(sequence)] & bit(sequence) == 0;
        self.seen[word(sequence)] |= bit(sequence);
        is_fresh
    }
}

fn word(sequence: u64) -> usize {
    (sequence % WINDOW / 64) as usize
}

fn bit(sequence: u64) -> u64 {
    1 << (sequence % 64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_of_a_life_is_fresh_once() {
        let (mut replays, one, two) = (Replays::default(), RawId([1; 16]), RawId([2; 16]));
        for sequence in [10, 12, 11, 500, 499, 5000, 4999, 5000 - WINDOW + 1] {
            assert!(replays.is_fresh(one, 7, sequence), "{sequence}");
            assert!(!replays.is_fresh(one, 7, sequence), "{sequence} again");
        }
        assert!(!replays.is_fresh(one, 7, 5000 - WINDOW), "too old to be remembered");
        assert!(replays.is_fresh(two, 7, 10), "every sender counts on its own");
        assert!(replays.is_fresh(one, 8, 0), "a new life begins anew");
        assert!(!replays.is_fresh(one, 7, 6000), "the old life is over");
        assert!(replays.is_fresh(one, 8, u64::MAX) && replays.is_fresh(one, 8, u64::MAX - 1));
    }

    #[test]
    fn a_jump_forgets_exactly_what_left_the_window() {
        let (mut replays, one) = (Replays::default(), RawId([1; 16]));
        for sequence in 0..2 * WINDOW {
            assert!(replays.is_fresh(one, 1, sequence));
        }
        assert!(replays.is_fresh(one, 1, 3 * WINDOW + 17));
        assert!(!replays.is_fresh(one, 1, 2 * WINDOW + 17));
        assert!(replays.is_fresh(one, 1, 2 * WINDOW + 18));
    }
}
