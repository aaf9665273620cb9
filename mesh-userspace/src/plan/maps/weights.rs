//! Weights of backends: how many turns each has, and the list and the ring that follow.
//!
//! A list says its weights by itself: each backend stands in it as often as it has turns, so that what is read back from the maps needs nothing beside it.
//! Invariant: the first places are all backends, each once, ascending; equal weights give the list and the ring of no weights, slot by slot.

use std::collections::BTreeMap;

use mesh_common::maglev;
use mesh_common::schema::RingSlot;

use crate::model::{Node, Service};

/// Most turns that a backend may have.
const MOST: u32 = 100;
/// A ring is as long as for so many backends in the place of one, at most: it need not show every weight to the last turn.
const LONGEST: usize = 10;

/// The turns of a task on this node.
pub(super) fn of_node(service: &Service, node: &Node) -> u32 {
    let label = service.spec.weight_by.as_ref().and_then(|key| node.labels.get(key));
    // What is no weight counts as none given.
    label.and_then(|text| text.parse().ok()).filter(|weight| (1..=MOST).contains(weight)).unwrap_or(1)
}

/// The turns of these backends, which ascend.
pub(super) fn turns(backends: &[RingSlot], weights: &BTreeMap<u32, u32>) -> Vec<RingSlot> {
    let weight = |slot: &RingSlot| weights.get(&slot.backend).copied().unwrap_or(1);
    let common = backends.iter().map(weight).fold(0, gcd).max(1);
    let rounds = backends.iter().map(weight).max().unwrap_or(0) / common;
    (0..rounds).flat_map(|round| backends.iter().copied().filter(move |slot| weight(slot) / common > round)).collect()
}

/// Backends that a ring is made for; with weights more than there are.
pub(super) fn breadth(list: &[RingSlot]) -> usize {
    list.len().min(LONGEST * counted(list).0.len())
}

/// The ring for a list.
pub(super) fn ring(list: &[RingSlot], len: u32) -> Vec<RingSlot> {
    let (backends, weights) = counted(list);
    let mut ring = vec![RingSlot::default(); len as usize];
    let (mut next, mut credit) = (vec![0; backends.len()], vec![0; backends.len()]);
    maglev::fill_weighted(&mut ring, &backends, &weights, &mut next, &mut credit);
    ring
}

/// The backends of a list, ascending, and how often each stands in it.
fn counted(list: &[RingSlot]) -> (Vec<RingSlot>, Vec<u32>) {
    let mut counts: BTreeMap<RingSlot, u32> = BTreeMap::new();
    list.iter().for_each(|slot| *counts.entry(*slot).or_default() += 1);
    counts.into_iter().unzip()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(weights: &[u32]) -> String {
        let backends: Vec<RingSlot> = (1..).zip(weights).map(|(backend, _)| RingSlot { backend, node: 1 }).collect();
        let weights = (1..).zip(weights.iter().copied()).collect();
        turns(&backends, &weights).iter().map(|slot| slot.backend.to_string()).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn everybody_who_has_a_turn_left_takes_one_a_round() {
        assert_eq!(told(&[1, 1, 1]), "1 2 3");
        assert_eq!(told(&[7, 7, 7]), "1 2 3", "equal weights are none");
        assert_eq!(told(&[50]), "1");
        assert_eq!(told(&[2, 4]), "1 2 2");
        assert_eq!(told(&[3, 1, 2]), "1 2 3 1 3 1");
        assert_eq!(told(&[]), "");
    }

    #[test]
    fn a_ring_has_shares_by_weight_and_without_weights_is_the_one_of_always() {
        let slots: Vec<RingSlot> = (1..=5).map(|backend| RingSlot { backend, node: 1 }).collect();
        let mut plain = vec![RingSlot::default(); 509];
        maglev::fill(&mut plain, &slots, &mut [0; 5]);
        assert_eq!(ring(&slots, 509), plain);
        let list = turns(&slots, &[(1, 4), (2, 2)].into());
        let shares = ring(&list, 1_021).into_iter().fold([0; 6], |mut shares, slot| {
            shares[slot.backend as usize] += 1;
            shares
        });
        for (backend, weight) in [(1, 4), (2, 2), (3, 1), (4, 1), (5, 1)] {
            let (fair, share) = (1_021 * weight / 9, shares[backend]);
            // Where the ring is full, those with the most turns may be some ahead.
            assert!((fair - 4..=fair + 4).contains(&share), "backend {backend} has {share}: {shares:?}");
        }
    }
}
