//! Maglev rings (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, section 3.4).
//!
//! A ring is a table of a prime number of slots, each naming one backend. Every node fills it from the same backends and gets
//! the same table; when a backend comes or goes, few slots change hands.

use crate::hash;
use crate::schema::RingSlot;

/// Ring lengths in use, all prime, each about twice the one before: no ring is more than twice as long as it must be.
pub const LENGTHS: [u32; 17] = [
    13, 31, 61, 127, 251, 509, 1_021, 2_039, 4_093, 8_191, 16_381, 32_749, 65_521, 131_071, 262_139, 524_287, 1_048_573,
];

/// Slots per backend where the ring chooses for every flow (the paper's rule: about 1 % imbalance).
pub const FINE: usize = 100;
/// Slots per backend where the ring is asked only for packets without a flow: at most 13 % imbalance.
pub const COARSE: usize = 8;

/// The ring length for this many backends with so many slots each: the shortest that has them, else the longest.
pub fn length_for(backends: usize, slots_each: usize) -> u32 {
    let needed = backends.saturating_mul(slots_each);
    LENGTHS.into_iter().find(|length| *length as usize >= needed).unwrap_or(LENGTHS[LENGTHS.len() - 1])
}

/// Fills `ring` (its length is prime) with `backends`; nobody everywhere if there are none.
///
/// The result depends on the set alone where the caller passes it sorted. `next` is scratch of `backends`' length.
///
/// # Panics
/// If `next` is shorter than `backends`.
pub fn fill(ring: &mut [RingSlot], backends: &[RingSlot], next: &mut [u32]) {
    fill_weighted(ring, backends, &[], next, &mut []);
}

/// As [`fill`], where a backend with the greatest of the `weights` takes a slot every round, and one with half of it every other round. Without weights
/// and `credit`, which is scratch of their length, all are equal.
///
/// # Panics
/// If `next` is shorter than `backends`.
pub fn fill_weighted(
    ring: &mut [RingSlot],
    backends: &[RingSlot],
    weights: &[u32],
    next: &mut [u32],
    credit: &mut [u32],
) {
    let most = weights.iter().copied().max().unwrap_or(0);
    credit.fill(0);
    ring.fill(RingSlot::default());
    let len = ring.len() as u32;
    if backends.is_empty() || len < 2 {
        if let ([slot], Some(only)) = (ring, backends.first()) {
            *slot = *only;
        }
        return;
    }
    next[..backends.len()].fill(0);
    let mut filled = 0;
    loop {
        for (i, &backend) in backends.iter().enumerate() {
            if let (Some(credit), Some(weight)) = (credit.get_mut(i), weights.get(i)) {
                *credit += weight;
                if *credit < most {
                    continue;
                }
                *credit -= most;
            }
            let offset = hash::words(backend.backend, 0x6d65_7368, 0, 0) % len;
            let skip = hash::words(backend.backend, 0x7269_6e67, 0, 0) % (len - 1) + 1;
            loop {
                let at = ((offset as u64 + next[i] as u64 * skip as u64) % len as u64) as usize;
                next[i] += 1;
                if ring[at].backend == 0 {
                    ring[at] = backend;
                    break;
                }
            }
            filled += 1;
            if filled == len {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A ring of so many slots over these backends, by their numbers; each has brought its node along.
    fn filled(len: u32, backends: &[u32]) -> Vec<u32> {
        let slots: Vec<RingSlot> =
            backends.iter().map(|backend| RingSlot { backend: *backend, node: !backend }).collect();
        let mut ring = vec![RingSlot { backend: 7, node: 7 }; len as usize];
        fill(&mut ring, &slots, &mut vec![0; slots.len()]);
        assert!(ring.iter().all(|slot| *slot == RingSlot::default() || slot.node == !slot.backend));
        ring.iter().map(|slot| slot.backend).collect()
    }

    fn ring_of(backends: &[u32]) -> Vec<u32> {
        filled(length_for(backends.len(), FINE), backends)
    }

    #[test]
    fn a_ring_is_full_and_fair() {
        let ring = ring_of(&[1, 2, 3, 4, 5]);
        assert_eq!(ring.len(), 509);
        for backend in 1..=5 {
            let share = ring.iter().filter(|slot| **slot == backend).count();
            assert!((101..=102).contains(&share), "backend {backend} has {share} slots");
        }
    }

    #[test]
    fn lengths_are_prime_and_have_room_for_each_backend() {
        let is_prime = |n: u32| (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d));
        assert!(LENGTHS.into_iter().all(is_prime));
        for (backends, slots_each, length) in [
            (1, COARSE, 13),
            (10, COARSE, 127),
            (10, FINE, 1_021),
            (100_000, COARSE, 1_048_573),
            (100_000, FINE, 1_048_573),
        ] {
            assert_eq!(length_for(backends, slots_each), length, "{backends} backends of {slots_each} slots");
        }
    }

    #[test]
    fn losing_one_of_ten_moves_few_slots_of_the_others() {
        let all: Vec<u32> = (1..=10).collect();
        let (before, after) = (filled(4_093, &all), filled(4_093, &all[..9]));
        let moved = before.iter().zip(&after).filter(|(b, a)| **b != 10 && b != a).count();
        assert!(moved * 100 < 4_093 * 10, "{moved} slots moved needlessly");
    }

    /// Slots that change hands when one of `count` backends comes or goes, beyond those that must (its own), in thousandths of the ring: over many
    /// sets of backends, the average and the most.
    fn moved_needlessly(count: usize, sets: u32) -> (usize, usize) {
        let len = length_for(count, FINE);
        let moved = (0..sets).map(|set| {
            let all: std::collections::BTreeSet<u32> = (0..)
                .map(|n| hash::words(set, n, count as u32, 0) >> 12)
                .filter(|number| *number != 0)
                .take(count)
                .collect();
            let all: Vec<u32> = all.into_iter().collect();
            let gone = all[set as usize % all.len()];
            let rest: Vec<u32> = all.iter().copied().filter(|backend| *backend != gone).collect();
            let (with, without) = (filled(len, &all), filled(len, &rest));
            with.iter().zip(&without).filter(|(with, without)| **with != gone && with != without).count()
        });
        let moved: Vec<usize> = moved.map(|slots| slots * 1_000 / len as usize).collect();
        (moved.iter().sum::<usize>() / moved.len(), moved.into_iter().max().unwrap_or(0))
    }

    #[test]
    fn one_that_comes_or_goes_moves_its_own_share_and_a_few_percent_more() {
        for count in [2, 3, 5, 10, 20, 40] {
            let (average, most) = moved_needlessly(count, 60);
            assert!(average <= 40, "{count} backends: {average} thousandths on average");
            // Two backends whose permutations are alike cost more, seldom.
            assert!(most <= 250, "{count} backends: {most} thousandths at most");
        }
    }

    #[test]
    fn no_backend_means_an_empty_ring() {
        assert!(ring_of(&[]).iter().all(|slot| *slot == 0));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn any_ring_is_full_and_fair(backends in proptest::collection::btree_set(1..u32::MAX, 1..40)) {
            let backends: Vec<u32> = backends.into_iter().collect();
            let ring = ring_of(&backends);
            let fewest = ring.len() / backends.len();
            for backend in &backends {
                // Everybody chooses once a round, so shares differ by one at most.
                let share = ring.iter().filter(|slot| *slot == backend).count();
                prop_assert!((fewest..=fewest + 1).contains(&share), "backend {} has {} of {}", backend, share, ring.len());
            }
        }

        #[test]
        fn who_leaves_takes_few_slots_of_others_along(
            backends in proptest::collection::btree_set(1..u32::MAX, 3..11), leaves in any::<proptest::sample::Index>(),
        ) {
            let all: Vec<u32> = backends.into_iter().collect();
            let gone = all[leaves.index(all.len())];
            let rest: Vec<u32> = all.iter().copied().filter(|backend| *backend != gone).collect();
            let (before, after) = (filled(4_093, &all), filled(4_093, &rest));
            let moved = before.iter().zip(&after).filter(|(old, new)| **old != gone && old != new).count();
            prop_assert!(moved * 4 < 4_093, "{} slots moved needlessly", moved);
        }
    }
}
