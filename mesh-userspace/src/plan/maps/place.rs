//! Finds each pool's lists a place in the array `RINGS`.
//!
//! A pool whose backends did not change keeps its place. A changed one gets a new place, and its old one stays untouched until the
//! next call: a program that read the old frontend a moment ago still finds the old list there.
//!
//! Lists are filled once, when their pool changes, and shared with the tables of every later call: one changed backend among thousands of
//! services costs one ring, not all of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_common::maglev::{self, COARSE, FINE};
use mesh_common::schema::{MIN_RING_SLOTS, RingSlot};

use super::room::Room;
use super::{Image, Pool, Tables, weights};

/// A ring that is seldom asked is no longer than this; of more backends the list itself serves as the ring.
const LONGEST_COARSE: u32 = 65_521;

/// Where the pools' lists are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    pools: BTreeMap<u32, Place>,
    /// Neither in use nor resting.
    room: Room,
    /// Ranges given up by the last call: not re-used by the next.
    resting: Vec<(u32, u32)>,
}

/// Where one pool's lists are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    backends: Arc<Vec<RingSlot>>,
    turns_at: u32,
    /// The list's own first slot where it serves as the ring.
    ring_at: u32,
    ring: Arc<Vec<RingSlot>>,
    generation: u32,
}

/// The array has no room for this pool's lists.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the ring of pool {pool} with {backends} backends finds no room in RINGS ({slots} slots): its service keeps its old tasks; remove services or replicas"
)]
pub struct NoRoom {
    pub pool: u32,
    pub backends: usize,
    pub slots: u32,
}

/// Length of the ring; 0: the list serves as the ring.
fn ring_len(pool: &Pool) -> u32 {
    match (weights::breadth(&pool.backends), pool.maglev) {
        (0, _) => 0,
        (backends, true) => maglev::length_for(backends, FINE),
        (backends, false) => match maglev::length_for(backends, COARSE) {
            length if length > LONGEST_COARSE => 0,
            length => length,
        },
    }
}

impl Default for Placed {
    /// Nothing is placed in the smallest array.
    fn default() -> Self {
        Placed { pools: BTreeMap::new(), room: Room::new(MIN_RING_SLOTS as u32), resting: Vec::new() }
    }
}

impl Placed {
    /// What the maps of a former agent's life say, so that a restart moves nothing. `slots` are those of the array.
    pub fn from_tables(tables: &Tables, slots: u32) -> Self {
        let mut placed = Placed { pools: BTreeMap::new(), room: Room::new(slots), resting: Vec::new() };
        for frontend in tables.frontends.values().filter(|frontend| frontend.pool != 0) {
            if placed.pools.contains_key(&frontend.pool) {
                continue;
            }
            let backends = match frontend.turns_len {
                // Without a place, but with a generation to go on from.
                0 => Some(Arc::default()),
                _ => tables.rings.get(&frontend.turns_at).cloned(),
            };
            let Some(backends) = backends else { continue };
            // Filled anew: what an interrupted write left there is a difference, and is written again.
            let ring = match frontend.ring_at == frontend.turns_at {
                true => backends.clone(),
                false => Arc::new(weights::ring(&backends, frontend.ring_len)),
            };
            let ring = tables.rings.get(&frontend.ring_at).filter(|there| **there == ring).cloned().unwrap_or(ring);
            let (turns_at, ring_at, generation) = (frontend.turns_at, frontend.ring_at, frontend.generation);
            let place = Place { backends, turns_at, ring_at, ring, generation };
            // Lists that overlap are nobody's work but a mistake's: the later pool gets a place of its own.
            if ranges(&place).all(|(at, len)| placed.room.take_at(at, len)) {
                placed.pools.insert(frontend.pool, place);
            }
        }
        placed
    }

    pub(super) fn place_of(&self, pool: u32) -> Option<&Place> {
        self.pools.get(&pool)
    }

    /// Gives up the places of pools that are `gone` and finds one for each that is `wanted` and has none, or one for other backends. Pools
    /// without room keep their former backends and are named.
    pub(super) fn change(&mut self, gone: &[u32], wanted: &BTreeMap<u32, Pool>) -> Vec<NoRoom> {
        let rested = std::mem::take(&mut self.resting);
        // Frontends of vanished pools are deleted only after this call's rings are written: their lists rest as well.
        for place in gone.iter().filter_map(|pool| self.pools.remove(pool)) {
            self.resting.extend(ranges(&place));
        }
        let mut refused = Vec::new();
        for (pool, want) in wanted {
            let old = self.pools.get(pool);
            if old.is_some_and(|place| place.is_for(want)) {
                continue;
            }
            let generation = old.map_or(0, |place| place.generation.wrapping_add(1));
            match find(&mut self.room, want, generation) {
                Some(place) => {
                    let old = self.pools.insert(*pool, place);
                    self.resting.extend(old.iter().flat_map(ranges));
                }
                None => {
                    refused.push(NoRoom { pool: *pool, backends: want.backends.len(), slots: self.room.slots() });
                }
            }
        }
        rested.into_iter().for_each(|(at, len)| self.room.give(at, len));
        refused
    }
}

impl Place {
    /// First slots of list and ring; None without backends, whose zeros are no place.
    pub fn lists(&self) -> Option<[u32; 2]> {
        (!self.backends.is_empty()).then_some([self.turns_at, self.ring_at])
    }

    fn is_for(&self, pool: &Pool) -> bool {
        let serves_as_ring = self.ring_at == self.turns_at;
        let length = if serves_as_ring { 0 } else { self.ring.len() as u32 };
        *self.backends == pool.backends && length == ring_len(pool)
    }
}

/// The tables for an image. Pools without room keep their former backends and are named in the second part.
pub fn place(image: Image, placed: &mut Placed) -> (Tables, Vec<NoRoom>) {
    let gone: Vec<u32> = placed.pools.keys().filter(|pool| !image.pools.contains_key(pool)).copied().collect();
    let refused = placed.change(&gone, &image.pools);
    (tables(image, placed), refused)
}

fn ranges(place: &Place) -> impl Iterator<Item = (u32, u32)> {
    let list = (place.turns_at, place.backends.len() as u32);
    let ring = (place.ring_at, place.ring.len() as u32);
    let is_own = place.ring_at != place.turns_at;
    [Some(list), is_own.then_some(ring)].into_iter().flatten().filter(|(_, len)| *len > 0)
}

fn find(room: &mut Room, pool: &Pool, generation: u32) -> Option<Place> {
    if pool.backends.is_empty() {
        return Some(Place { backends: Arc::default(), turns_at: 0, ring_at: 0, ring: Arc::default(), generation });
    }
    let (list_len, ring_len) = (pool.backends.len() as u32, ring_len(pool));
    let turns_at = room.take(list_len + ring_len)?;
    let backends = Arc::new(pool.backends.clone());
    Some(match ring_len {
        0 => Place { ring: backends.clone(), backends, turns_at, ring_at: turns_at, generation },
        _ => {
            let ring = Arc::new(weights::ring(&backends, ring_len));
            Place { backends, turns_at, ring_at: turns_at + list_len, ring, generation }
        }
    })
}

/// What the maps shall hold for this image.
pub(super) fn tables(image: Image, placed: &Placed) -> Tables {
    let mut tables = Tables {
        config: image.config,
        addresses: image.addresses,
        endpoints: image.endpoints,
        frontends: image.frontends,
        allowed: image.allowed,
        backends: image.backends,
        peers: image.peers,
        uplinks: image.uplinks,
        rings: BTreeMap::new(),
    };
    for frontend in tables.frontends.values_mut() {
        let Some(place) = placed.pools.get(&frontend.pool) else { continue };
        frontend.turns_at = place.turns_at;
        frontend.turns_len = place.backends.len() as u32;
        frontend.ring_at = place.ring_at;
        frontend.ring_len = place.ring.len() as u32;
        frontend.generation = place.generation;
        if !place.backends.is_empty() {
            tables.rings.insert(place.turns_at, place.backends.clone());
            tables.rings.insert(place.ring_at, place.ring.clone());
        }
    }
    tables
}
