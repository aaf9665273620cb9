//! Properties of placing and diffing, over pools that come, change and go.

use std::collections::BTreeMap;

use mesh_common::schema::{Frontend, MIN_RING_SLOTS, RingSlot, algorithm};
use proptest::prelude::*;

use super::{Entry, Image, Key, MapOp, Placed, Pool, Tables, diff, place, vip_key};

/// Of a backend that lives on one of three nodes.
fn slot(backend: &u32) -> RingSlot {
    RingSlot { backend: *backend, node: backend % 3 + 1 }
}

fn image_of(lists: &BTreeMap<u32, Vec<u32>>) -> Image {
    let pool = |(pool, backends): (&u32, &Vec<u32>)| {
        let backends = backends.iter().map(slot).collect();
        (*pool, Pool { backends, maglev: pool % 2 == 0, ..Pool::default() })
    };
    let pools: BTreeMap<u32, Pool> = lists.iter().map(pool).collect();
    let frontends = pools
        .keys()
        .map(|pool| {
            let key = vip_key(pool.to_be_bytes().into());
            let algorithm = if pool % 2 == 0 { algorithm::MAGLEV } else { algorithm::ROUND_ROBIN };
            let frontend = Frontend { pool: *pool, vni: 4097, algorithm, ..Frontend::none(key.addr) };
            (key, frontend)
        })
        .collect();
    Image { frontends, pools, ..Image::default() }
}

/// The kernel's part, in memory; also checks that no frontend ever refers to slots that were not written.
fn apply(tables: &mut Tables, ops: &[MapOp]) {
    for op in ops {
        match op.clone() {
            MapOp::Config(config) => tables.config = config,
            MapOp::Put(Entry::Frontend(key, value)) => {
                if value.turns_len != 0 {
                    assert_eq!(tables.rings[&value.turns_at].len(), value.turns_len as usize);
                    assert_eq!(tables.rings[&value.ring_at].len(), value.ring_len as usize);
                }
                tables.frontends.insert(key, value);
            }
            MapOp::Put(Entry::Ring(at, slots)) => {
                tables.rings.insert(at, slots);
            }
            MapOp::Delete(Key::Frontend(key)) => {
                tables.frontends.remove(&key);
            }
            other => panic!("not in these images: {other:?}"),
        }
    }
}

fn pools() -> impl Strategy<Value = BTreeMap<u32, Vec<u32>>> {
    let backends = proptest::collection::btree_set(1..60u32, 0..12).prop_map(|set| set.into_iter().collect::<Vec<_>>());
    proptest::collection::btree_map(1..8u32, backends, 0..6)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn applying_the_difference_gives_the_wanted_tables(steps in proptest::collection::vec(pools(), 1..6)) {
        let (mut placed, mut tables) = (Placed::default(), Tables::default());
        let mut resting: Vec<(u32, usize)> = Vec::new();
        for pools in &steps {
            let before = tables.clone();
            let (wanted, refused) = place(image_of(pools), &mut placed);
            prop_assert!(refused.is_empty());
            // What the last frontends referred to is not overwritten by this step.
            for (at, len) in resting.drain(..) {
                for (ring_at, slots) in wanted.rings.iter().filter(|(ring_at, slots)| before.rings.get(ring_at) != Some(slots)) {
                    let apart = (*ring_at as usize + slots.len()) <= at as usize || at as usize + len <= *ring_at as usize;
                    prop_assert!(apart, "slots {at}+{len} overwritten at {ring_at}+{}", slots.len());
                }
            }
            apply(&mut tables, &diff(&before, &wanted));
            tables.rings.retain(|at, _| wanted.rings.contains_key(at));
            prop_assert_eq!(&tables, &wanted);
            prop_assert!(diff(&wanted, &wanted).is_empty());
            resting.extend(wanted.rings.iter().map(|(at, slots)| (*at, slots.len())));
        }
    }

    #[test]
    fn a_restart_moves_nothing(before in pools(), pools in pools()) {
        let mut placed = Placed::default();
        place(image_of(&before), &mut placed);
        let (wanted, _) = place(image_of(&pools), &mut placed);
        let (again, _) = place(image_of(&pools), &mut Placed::from_tables(&wanted, MIN_RING_SLOTS as u32));
        prop_assert!(diff(&wanted, &again).is_empty());
    }
}
