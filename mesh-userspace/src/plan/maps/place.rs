//! Finds each pool's lists a place in the array `RINGS`.
//!
//! A pool whose backends did not change keeps its place. A changed one gets a new place, and its old one stays untouched until the
//! next call: a program that read the old frontend a moment ago still finds the old list there.
//!
//! Lists are filled once, when their pool changes, and shared with the tables of every later call: one changed backend among thousands of
//! services costs one ring, not all of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use mesh_common::maglev;
use mesh_common::schema::MAX_RING_SLOTS;

use super::{Image, Tables};

/// Where a pool's lists are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// Pool → (backends, first slot of the turn list, first slot of the ring, ring length, generation).
    pools: BTreeMap<u32, Place>,
    /// Ranges given up by the last call: not re-used by the next.
    resting: Vec<(u32, u32)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    backends: Arc<Vec<u32>>,
    turns_at: u32,
    ring_at: u32,
    ring: Arc<Vec<u32>>,
    generation: u32,
}

/// The array has no room for this pool's lists.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "the ring of pool {pool} with {backends} backends finds no room in RINGS ({MAX_RING_SLOTS} slots): its service keeps its old tasks; remove services or replicas"
)]
pub struct NoRoom {
    pub pool: u32,
    pub backends: usize,
}

impl Placed {
    /// What the maps of a former agent's life say, so that a restart moves nothing.
    pub fn from_tables(tables: &Tables) -> Self {
        let mut pools = BTreeMap::new();
        for frontend in tables.frontends.values() {
            let backends = match frontend.turns_len {
                // Without a place, but with a generation to go on from.
                0 => Some(Arc::default()),
                _ => tables.rings.get(&frontend.turns_at).cloned(),
            };
            let Some(backends) = backends else { continue };
            // Filled anew: what an interrupted write left there is a difference, and is written again.
            let ring = Arc::new(ring(&backends, frontend.ring_len));
            let ring = tables.rings.get(&frontend.ring_at).filter(|there| **there == ring).cloned().unwrap_or(ring);
            let place = Place {
                backends,
                turns_at: frontend.turns_at,
                ring_at: frontend.ring_at,
                ring,
                generation: frontend.generation,
            };
            pools.insert(frontend.pool, place);
        }
        Placed { pools, resting: Vec::new() }
    }

    /// Ranges in use or resting.
    fn taken(&self) -> BTreeMap<u32, u32> {
        self.pools.values().flat_map(ranges).chain(self.resting.iter().copied()).collect()
    }
}

/// What is free during one call, in which ranges are only taken.
struct Room {
    /// First slot → length.
    taken: BTreeMap<u32, u32>,
    /// Length → no gap of it begins below this slot.
    searched: BTreeMap<u32, u32>,
}

impl Room {
    /// Takes the first fit.
    fn take(&mut self, len: u32) -> Option<u32> {
        let mut at = self.searched.get(&len).copied().unwrap_or(0);
        for (from, taken) in self.taken.range(at..) {
            if *from >= at + len {
                break;
            }
            at = at.max(from + taken);
        }
        if at as usize + len as usize > MAX_RING_SLOTS {
            return None;
        }
        self.taken.insert(at, len);
        self.searched.insert(len, at + len);
        Some(at)
    }
}

/// The tables for an image. Pools without room keep their former backends and are named in the second part.
pub fn place(image: &Image, placed: &mut Placed) -> (Tables, Vec<NoRoom>) {
    let mut refused = Vec::new();
    let mut given_up = Vec::new();
    placed.pools.retain(|pool, place| {
        let stays = image.pools.contains_key(pool);
        if !stays {
            given_up.extend(ranges(place));
        }
        stays
    });
    // Frontends of vanished pools are deleted only after this call's rings are written: their lists rest as well.
    placed.resting.extend(given_up.iter().copied());
    // Asked for by the first pool that changed; what this call gives up is in it already.
    let mut room = None;
    for (pool, backends) in &image.pools {
        let old = placed.pools.get(pool);
        if old.is_some_and(|place| *place.backends == *backends) {
            continue;
        }
        let room = room.get_or_insert_with(|| Room { taken: placed.taken(), searched: BTreeMap::new() });
        let generation = old.map_or(0, |place| place.generation.wrapping_add(1));
        let released = old.map(ranges).unwrap_or_default();
        match find(room, *pool, backends, generation) {
            Ok(place) => {
                placed.pools.insert(*pool, place);
                // Rests until the next call: in `room` it stays taken.
                given_up.extend(released);
            }
            Err(error) => refused.push(error),
        }
    }
    placed.resting = given_up;
    (tables(image, placed), refused)
}

fn ranges(place: &Place) -> Vec<(u32, u32)> {
    if place.backends.is_empty() {
        return Vec::new();
    }
    vec![(place.turns_at, place.backends.len() as u32), (place.ring_at, place.ring.len() as u32)]
}

fn ring(backends: &[u32], len: u32) -> Vec<u32> {
    let mut ring = vec![0; len as usize];
    maglev::fill(&mut ring, backends, &mut vec![0; backends.len()]);
    ring
}

fn find(room: &mut Room, pool: u32, backends: &[u32], generation: u32) -> Result<Place, NoRoom> {
    if backends.is_empty() {
        return Ok(Place { backends: Arc::default(), turns_at: 0, ring_at: 0, ring: Arc::default(), generation });
    }
    let ring_len = maglev::length_for(backends.len());
    let both = backends.len() as u32 + ring_len;
    let turns_at = room.take(both).ok_or(NoRoom { pool, backends: backends.len() })?;
    let ring_at = turns_at + backends.len() as u32;
    let ring = Arc::new(ring(backends, ring_len));
    Ok(Place { backends: Arc::new(backends.to_vec()), turns_at, ring_at, ring, generation })
}

fn tables(image: &Image, placed: &Placed) -> Tables {
    let mut tables = Tables {
        config: image.config,
        addresses: image.addresses.clone(),
        endpoints: image.endpoints.clone(),
        frontends: image.frontends.clone(),
        backends: image.backends.clone(),
        peers: image.peers.clone(),
        uplinks: image.uplinks.clone(),
        rings: BTreeMap::new(),
        turns: image.frontends.values().map(|frontend| frontend.pool).collect(),
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
