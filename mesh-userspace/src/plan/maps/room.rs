//! Free ranges of the array `RINGS`: taken by the best fit, given back and joined with their neighbours.
//!
//! Invariant: free ranges neither overlap nor touch. A range taken or given back costs the logarithm of how many are free, however many
//! are taken. Must not: know what a range is for.

use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    slots: u32,
    /// First slot → length.
    free: BTreeMap<u32, u32>,
    /// The same as (length, first slot).
    by_len: BTreeSet<(u32, u32)>,
}

impl Room {
    /// All of so many slots is free.
    pub fn new(slots: u32) -> Self {
        let mut room = Room { slots, free: BTreeMap::new(), by_len: BTreeSet::new() };
        room.put(0, slots);
        room
    }

    /// Slots free and taken.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Takes the smallest range that is large enough, of equals the first.
    pub fn take(&mut self, len: u32) -> Option<u32> {
        let (free, at) = self.by_len.range((len, 0)..).next().copied()?;
        self.cut(at, free);
        self.put(at + len, free - len);
        Some(at)
    }

    /// Takes this very range; false where it is not free as a whole.
    pub fn take_at(&mut self, at: u32, len: u32) -> bool {
        let Some(end) = at.checked_add(len) else { return false };
        let Some((&from, &free)) = self.free.range(..=at).next_back() else { return false };
        if from + free < end {
            return false;
        }
        self.cut(from, free);
        self.put(from, at - from);
        self.put(end, from + free - end);
        true
    }

    /// Gives a range back.
    pub fn give(&mut self, at: u32, len: u32) {
        let (mut from, mut end) = (at, at + len);
        if let Some((&before, &free)) = self.free.range(..at).next_back()
            && before + free == at
        {
            self.cut(before, free);
            from = before;
        }
        if let Some(&free) = self.free.get(&end) {
            self.cut(end, free);
            end += free;
        }
        self.put(from, end - from);
    }

    fn put(&mut self, at: u32, len: u32) {
        if len > 0 {
            self.free.insert(at, len);
            self.by_len.insert((len, at));
        }
    }

    fn cut(&mut self, at: u32, len: u32) {
        self.free.remove(&at);
        self.by_len.remove(&(len, at));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_smallest_that_is_large_enough_is_taken() {
        let mut room = Room::new(100);
        assert!(room.take_at(10, 5) && room.take_at(40, 60));
        assert!(!room.take_at(12, 1) && !room.take_at(39, 2), "taken is taken");
        // Free: 0+10, 15+25.
        assert_eq!((room.take(10), room.take(26), room.take(25), room.take(1)), (Some(0), None, Some(15), None));
        room.give(15, 25);
        room.give(0, 10);
        room.give(10, 5);
        assert_eq!(room.take(40), Some(0), "neighbours are one range again");
    }

    proptest! {
        #[test]
        fn no_slot_is_had_twice_and_none_is_lost(steps in proptest::collection::vec((1..40u32, any::<bool>()), 1..80)) {
            let (mut room, mut owned) = (Room::new(256), BTreeMap::new());
            for (len, gives) in steps {
                if let Some((at, len)) = gives.then(|| owned.pop_first()).flatten() {
                    room.give(at, len);
                } else if let Some(at) = room.take(len) {
                    let overlap = owned.iter().any(|(other, length)| *other < at + len && at < other + length);
                    prop_assert!(!overlap && at + len <= 256);
                    owned.insert(at, len);
                }
                let (free, taken): (u32, u32) = (room.free.values().sum(), owned.values().sum());
                prop_assert_eq!(free + taken, 256);
            }
            owned.into_iter().for_each(|(at, len)| room.give(at, len));
            prop_assert_eq!(room, Room::new(256));
        }
    }
}
