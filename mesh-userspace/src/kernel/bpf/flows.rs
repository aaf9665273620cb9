//! The flow tables from outside, one a family: walked some entries at a time, swept through the program `sweep`, which looks again before it acts.
//!
//! Of a walk nothing is kept but counters, so that memory does not grow with the table. Invariant: a call of the program obeys at most
//! `order::MOST` orders and a call of the kernel reads at most `CHUNK` entries, so no packet waits for a sweep. Must not: delete anything itself.

use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aya::maps::{Array, Map, MapData, MapError, PerCpuArray};
use aya::programs::SchedClassifier;
use mesh_common::family::Bytes;
use mesh_common::flow::order;
use mesh_common::schema::{Flood, Flow, FlowKey};

use super::ends::{End, Standing};
use super::flood::FloodSeen;
use super::orders::{Orders, Pass, thread_time};
use super::pin::chain;
use super::pressure::{self, Census, Limits};
use super::size::FlowSizes;
use super::{BpfError, Dataplane, batch};

/// A table and what is beside it, by family.
pub(super) const TABLES4: [&str; 2] = ["FLOWS4", "OVERFLOW4"];
pub(super) const TABLES6: [&str; 2] = ["FLOWS6", "OVERFLOW6"];

/// A flow entry as found, of either family: IPv4 addresses as ::ffff:a.b.c.d.
#[derive(Clone, Copy, Debug)]
pub struct FlowSeen {
    pub key: FlowKey<[u8; 16]>,
    pub flow: Flow<[u8; 16]>,
}

/// What a sweep did, in entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Found by the walk.
    pub entries: usize,
    pub expired: usize,
    /// Marked: the next packet is refused, or chooses again.
    pub killed: usize,
    /// Removed although they could have stayed: the table was nearly full.
    pub given_up: usize,
    /// Entries that found the table full or began in a flood, and live beside it.
    pub spilled: usize,
    /// The longest that one call of the program took, in time of its thread.
    pub slowest_call: Duration,
    /// The same of one read of the kernel's. It has no bound but the table: the kernel looks for `CHUNK` entries, however many empty buckets lie between.
    pub slowest_read: Duration,
    /// All of it, in time of its thread.
    pub cost: Duration,
}

impl Swept {
    /// How long the next sweep may wait, this one having begun so long after `before`.
    pub fn pause(&self, before: &Swept, since: Duration, sizes: FlowSizes) -> Duration {
        let growth = self.entries.saturating_sub(before.entries) as f64 / since.as_secs_f64().max(1.0);
        pressure::pause(self.entries, growth, sizes.table as usize, self.cost)
    }
}

/// Entries that one call of the kernel reads: about a tenth of a millisecond where they lie close, most of it waiting for memory; two nanoseconds more
/// for each empty bucket.
pub(super) const CHUNK: usize = 256;
/// Seconds without a new one before an empty overflow is taken for over: a program may be about to write.
const OVERFLOW_SETTLES_S: u32 = 10;
/// Seconds since the last packet by a copy that is to be deleted: none is in a program's hands any more.
const COPY_SETTLES_S: u32 = 2;

/// The flow tables, by their pins: walked and swept beside the [`Dataplane`], so that a walk over a full table holds nobody up.
pub struct FlowTable {
    v4: Store<[u8; 4]>,
    v6: Store<[u8; 16]>,
    /// When something last found a table full, by family, in seconds of the monotonic clock; 0: nothing that still lives.
    overflowed: Mutex<Array<MapData, u32>>,
    floods: PerCpuArray<MapData, Flood>,
    sweep: SchedClassifier,
    given_up: AtomicU64,
}

/// One family's table and what is beside it.
struct Store<A> {
    names: [&'static str; 2],
    table: MapData,
    overflow: MapData,
    sizes: FlowSizes,
    /// Its word in `OVERFLOWED`.
    overflowed_at: u32,
    is_crowded: AtomicBool,
    of: PhantomData<A>,
}

impl Dataplane {
    /// A hold of its own on the flow tables.
    pub fn flow_table(&self) -> Result<FlowTable, BpfError> {
        let failed = |map, error: &dyn std::error::Error| BpfError::Map { attempt: "open", map, reason: chain(error) };
        let open =
            |map: &'static str| MapData::from_pin(self.dir.join("maps").join(map)).map_err(|error| failed(map, &error));
        let overflowed =
            Array::try_from(Map::Array(open("OVERFLOWED")?)).map_err(|error| failed("OVERFLOWED", &error))?;
        let floods =
            PerCpuArray::try_from(Map::PerCpuArray(open("FLOODS")?)).map_err(|error| failed("FLOODS", &error))?;
        let sweep = SchedClassifier::from_pin(self.dir.join("progs/sweep"));
        Ok(FlowTable {
            v4: Store::open(TABLES4, 0, open)?,
            v6: Store::open(TABLES6, 1, open)?,
            overflowed: Mutex::new(overflowed),
            floods,
            sweep: sweep.map_err(|error| failed("FLOWS4", &error))?,
            given_up: AtomicU64::new(0),
        })
    }
}

impl<A: Bytes + aya::Pod> Store<A> {
    fn open(
        names: [&'static str; 2],
        overflowed_at: u32,
        open: impl Fn(&'static str) -> Result<MapData, BpfError>,
    ) -> Result<Self, BpfError> {
        let [table, overflow] = names;
        let room = |map: &MapData, name| {
            let failed = |error| BpfError::Map { attempt: "look at", map: name, reason: chain(&error) };
            map.info().map(|info| info.max_entries()).map_err(failed)
        };
        let (found, beside) = (open(table)?, open(overflow)?);
        Ok(Store {
            names,
            sizes: FlowSizes { table: room(&found, table)?, overflow: room(&beside, overflow)? },
            table: found,
            overflow: beside,
            overflowed_at,
            is_crowded: AtomicBool::new(false),
            of: PhantomData,
        })
    }

    /// See [`FlowTable::walk`]; true: to the end.
    fn walk(&self, each: &mut impl FnMut(&[FlowSeen], bool) -> bool) -> Result<bool, BpfError> {
        let [table, overflow] = self.names;
        let wide = |key: &FlowKey<A>, flow: &Flow<A>| FlowSeen { key: key.with(A::to_16), flow: flow.with(A::to_16) };
        let mut walk = batch::Walk::<FlowKey<A>, Flow<A>>::new(&self.table, CHUNK);
        let mut seen = Vec::with_capacity(CHUNK);
        while let Some((keys, flows)) = walk.step().map_err(unread(table))? {
            seen.clear();
            seen.extend(keys.iter().zip(flows).map(|(key, flow)| wide(key, flow)));
            if !each(&seen, false) {
                return Ok(false);
            }
        }
        let mut walk = batch::Walk::<FlowKey<A>, Flow<A>>::new(&self.overflow, CHUNK);
        while let Some((keys, flows)) = walk.step().map_err(unread(overflow))? {
            // A flow that proved itself is in the table, and was seen there; its copy goes with the next sweep.
            seen.clear();
            for (key, flow) in keys.iter().zip(flows) {
                if batch::lookup::<FlowKey<A>, Flow<A>>(&self.table, key).map_err(unread(table))?.is_none() {
                    seen.push(wide(key, flow));
                }
            }
            if !each(&seen, true) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn get(&self, key: &FlowKey<A>) -> Result<Option<Flow<A>>, BpfError> {
        let [table, overflow] = self.names;
        match batch::lookup(&self.table, key).map_err(unread(table))? {
            None => batch::lookup(&self.overflow, key).map_err(unread(overflow)),
            found => Ok(found),
        }
    }

    /// A second walk, for those whose silence is beyond their group's limit.
    fn give_up(&self, program: &SchedClassifier, now_s: u32, limits: &Limits) -> Result<(usize, Duration), BpfError> {
        let mut orders = Orders::<A>::new(program);
        let mut walk = batch::Walk::<FlowKey<A>, Flow<A>>::new(&self.table, CHUNK);
        while let Some((keys, flows)) = walk.step().map_err(unread(self.names[0]))? {
            for (key, flow) in keys.iter().zip(flows) {
                let limit = limits.of(key, flow).and_then(|limit_s| now_s.checked_sub(limit_s));
                if let Some(before) = limit.filter(|before| flow.last_seen_s <= *before) {
                    orders.give(key, order::GIVE_UP, before)?;
                }
            }
        }
        orders.send()?;
        Ok((orders.acted, orders.slowest))
    }

    /// Flows that proved themselves came into the table by a copy: what they left behind goes, once no packet can still be at it. The longest call.
    fn tidy(&self, program: &SchedClassifier, now_s: u32) -> Result<Duration, BpfError> {
        let mut orders = Orders::<A>::new(program);
        let mut walk = batch::Walk::<FlowKey<A>, Flow<A>>::new(&self.overflow, CHUNK);
        while let Some((keys, flows)) = walk.step().map_err(unread(self.names[1]))? {
            for (key, flow) in keys.iter().zip(flows) {
                if now_s.saturating_sub(flow.last_seen_s) >= COPY_SETTLES_S {
                    orders.give(key, order::TIDY, 0)?;
                }
            }
        }
        orders.send()?;
        Ok(orders.slowest)
    }
}

impl FlowTable {
    /// How many entries there is room for.
    pub fn sizes(&self) -> FlowSizes {
        self.v4.sizes
    }

    /// The same, IPv6.
    pub fn sizes6(&self) -> FlowSizes {
        self.v6.sizes
    }

    /// What the programs have counted of new flows, seen at `now_s` (the programs' clock).
    pub fn flood(&self, now_s: u32) -> Result<FloodSeen, BpfError> {
        let failed = |error: MapError| BpfError::Map { attempt: "read", map: "FLOODS", reason: chain(&error) };
        let cpus = self.floods.get(&0, 0).map_err(failed)?;
        Ok(FloodSeen::of(&cpus, now_s))
    }

    /// Entries that gave way to others in a crowded table, since this hold was taken.
    pub fn given_up(&self) -> u64 {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Hands over every entry, some at a time and of one family each: those of the table, then those that live beside it (true). Ends early where
    /// `each` says false.
    pub fn walk(&self, mut each: impl FnMut(&[FlowSeen], bool) -> bool) -> Result<(), BpfError> {
        if self.v4.walk(&mut each)? {
            self.v6.walk(&mut each)?;
        }
        Ok(())
    }

    /// An entry, in its family's table or beside it.
    pub fn get(&self, key: &FlowKey<[u8; 16]>) -> Result<Option<Flow<[u8; 16]>>, BpfError> {
        match (<[u8; 4]>::of_16(key.src), <[u8; 4]>::of_16(key.dst)) {
            (Some(src), Some(dst)) => {
                let key = FlowKey::new(src, dst, key.sport, key.dport, key.protocol);
                Ok(self.v4.get(&key)?.map(|flow| flow.with(<[u8; 4]>::to_16)))
            }
            _ => self.v6.get(key),
        }
    }

    /// Every entry: those of the tables, then those that found them full. For tests and small tables: it is as large as they are.
    pub fn flows(&self) -> Result<Vec<FlowSeen>, BpfError> {
        let mut found = Vec::new();
        self.walk(|seen, _| {
            found.extend_from_slice(seen);
            true
        })?;
        Ok(found)
    }

    /// Removes flows that were silent too long at `now_s` (the programs' clock), and marks those that an end of theirs is gone from, and datagrams' whose
    /// backend leaves. How an end stands is asked after an entry was read: a task that came meanwhile must not be taken for one that is gone.
    /// Where the table is nearly full, others give way (`pressure`).
    pub fn sweep(&self, now_s: u32, standing: impl Fn(End) -> Standing) -> Result<Swept, BpfError> {
        let one = self.sweep_of(&self.v4, now_s, &standing)?;
        let other = self.sweep_of(&self.v6, now_s, &standing)?;
        Ok(Swept {
            entries: one.entries + other.entries,
            expired: one.expired + other.expired,
            killed: one.killed + other.killed,
            given_up: one.given_up + other.given_up,
            spilled: one.spilled + other.spilled,
            slowest_call: one.slowest_call.max(other.slowest_call),
            slowest_read: one.slowest_read.max(other.slowest_read),
            cost: one.cost + other.cost,
        })
    }

    fn sweep_of<A: Bytes + aya::Pod>(
        &self,
        store: &Store<A>,
        now_s: u32,
        standing: impl Fn(End) -> Standing,
    ) -> Result<Swept, BpfError> {
        let [table, overflow] = store.names;
        let began = thread_time();
        let mut pass = Pass::<A, _>::new(&self.sweep, now_s, standing);
        let mut census = Census::default();
        pass.over(&store.table, table, |key, flow| census.count(key, flow, now_s))?;
        let expired_here = pass.expired()?;
        let mut spilled = 0;
        let mut slowest_tidy = Duration::ZERO;
        if let Some(last_s) = self.overflowed_s(store.overflowed_at, None)? {
            slowest_tidy = store.tidy(&self.sweep, now_s)?;
            pass.over(&store.overflow, overflow, |_, _| spilled += 1)?;
            // Nothing came while the walk was under way, nor shortly before it.
            let is_settled = self.overflowed_s(store.overflowed_at, None)? == Some(last_s);
            if spilled == 0 && is_settled && now_s.saturating_sub(last_s) > OVERFLOW_SETTLES_S {
                self.overflowed_s(store.overflowed_at, Some(0))?;
                log::info!("{table} has room for every flow again");
            }
        }
        let mut swept = pass.end()?;
        swept.slowest_call = swept.slowest_call.max(slowest_tidy);
        let found = census.entries;
        // Some went with their other entry before the walk came by: rather too few than too many, so that none gives way for nothing.
        census.entries = census.entries.saturating_sub(expired_here);
        if let Some(limits) = census.limits(store.sizes.table as usize) {
            let slowest = swept.slowest_call;
            (swept.given_up, swept.slowest_call) = store.give_up(&self.sweep, now_s, &limits)?;
            swept.slowest_call = swept.slowest_call.max(slowest);
            self.given_up.fetch_add(swept.given_up as u64, Ordering::Relaxed);
            if !store.is_crowded.swap(true, Ordering::Relaxed) {
                log::warn!(
                    "{} of {} flow entries in use ({table}): flows that have ended or are unanswered give way, the longest silent first",
                    census.entries,
                    store.sizes.table
                );
            }
        } else if store.is_crowded.swap(false, Ordering::Relaxed) {
            let size = store.sizes.table;
            log::info!("{} of {size} flow entries in use ({table}): no flow gives way any more", census.entries);
        }
        (swept.entries, swept.spilled) = (found + spilled, spilled);
        swept.cost = thread_time().saturating_sub(began);
        Ok(swept)
    }

    /// When something last found a family's table full, if that is not over; with `new`, written first.
    fn overflowed_s(&self, at: u32, new: Option<u32>) -> Result<Option<u32>, BpfError> {
        let failed = |error: MapError| BpfError::Map { attempt: "use", map: "OVERFLOWED", reason: chain(&error) };
        let mut overflowed = self.overflowed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(new) = new {
            overflowed.set(at, new, 0).map_err(failed)?;
        }
        Ok(Some(overflowed.get(&at, 0).map_err(failed)?).filter(|last_s| *last_s != 0))
    }
}

pub(super) fn unread(map: &'static str) -> impl Fn(std::io::Error) -> BpfError {
    move |error| BpfError::Map { attempt: "read", map, reason: error.to_string() }
}
