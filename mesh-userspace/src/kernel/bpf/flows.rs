//! The flow table from outside: walked some entries at a time, swept through the program `sweep`, which looks again before it acts.
//!
//! Of a walk nothing is kept but counters, so that memory does not grow with the table. Invariant: a call of the program obeys at most
//! `order::MOST` orders and a call of the kernel reads at most `CHUNK` entries, so nobody waits for a sweep. Must not: delete anything itself.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use aya::maps::{Array, Map, MapData, MapError, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use mesh_common::ageing::least_silence_s;
use mesh_common::flood;
use mesh_common::flow::order;
use mesh_common::schema::{Flood, Flow, FlowKey, flow_flag};
use nix::time::{ClockId, clock_gettime};

use super::pin::chain;
use super::pressure::{self, Census, Limits};
use super::size::FlowSizes;
use super::{BpfError, Dataplane, batch};

type Key = FlowKey<[u8; 4]>;
type Entry = Flow<[u8; 4]>;

/// A flow entry as found.
#[derive(Clone, Copy, Debug)]
pub struct FlowSeen {
    pub key: FlowKey<[u8; 4]>,
    pub flow: Flow<[u8; 4]>,
}

/// What a sweep did, in entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Found by the walk.
    pub entries: usize,
    pub expired: usize,
    pub killed: usize,
    /// Removed although they could have stayed: the table was nearly full.
    pub given_up: usize,
    /// Entries that found the table full or began in a flood, and live beside it.
    pub spilled: usize,
    /// The longest that one call of the kernel took, a walk's or the program's, in time of its thread.
    pub slowest_call: Duration,
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

/// Entries that one call of the kernel reads: about a tenth of a millisecond, most of it waiting for memory.
const CHUNK: usize = 256;
/// An established entry is looked at for its other direction in one of so many sweeps: at 5 s a sweep, within six minutes.
const AUDIT_TURNS: u32 = 64;
/// Seconds an established entry is silent before it is looked at so.
const AUDIT_S: u32 = 60;
/// Seconds without a new one before an empty overflow is taken for over: a program may be about to write.
const OVERFLOW_SETTLES_S: u32 = 10;
/// Seconds since the last packet by a copy that is to be deleted: none is in a program's hands any more.
const COPY_SETTLES_S: u32 = 2;

/// The flow table, by its pins: walked and swept beside the [`Dataplane`], so that a walk over a full table holds nobody up.
pub struct FlowTable {
    map: MapData,
    /// What found the table full …
    overflow: MapData,
    /// … and when something last did, in seconds of the monotonic clock; 0: nothing that still lives.
    overflowed: Mutex<Array<MapData, u32>>,
    floods: PerCpuArray<MapData, Flood>,
    sweep: SchedClassifier,
    sizes: FlowSizes,
    sweeps: AtomicU32,
    is_crowded: AtomicBool,
    given_up: AtomicU64,
}

/// What the programs have counted of new flows, over all CPUs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FloodSeen {
    /// CPUs on which a flood is on.
    pub cpus: usize,
    /// New flows a second on those.
    pub rate: u64,
    /// Entries written beside the table in floods, ever.
    pub spilled: u64,
    /// Entries that proved themselves and came into the table, ever.
    pub promoted: u64,
}

impl FloodSeen {
    fn of(cpus: &[Flood], now_s: u32) -> Self {
        let mut sum = FloodSeen::default();
        for flood in cpus {
            if flood::is_on(flood, now_s) {
                sum.cpus += 1;
                sum.rate += u64::from(flood::rate(flood, now_s));
            }
            sum.spilled += flood.spilled;
            sum.promoted += flood.promoted;
        }
        sum
    }

    /// What the user is told while it is on.
    pub fn warning(&self, threshold: u32) -> Option<String> {
        let FloodSeen { cpus, rate, spilled, promoted } = self;
        let on = if *cpus == 1 { "1 CPU" } else { &format!("{cpus} CPUs") };
        (*cpus != 0).then(|| {
            format!(
                "a flood of new flows: {rate} a second on {on}, more than --flood-threshold {threshold} each. Connections that stand go on; \
                 new ones are kept apart until they prove themselves ({spilled} entries apart so far, {promoted} proven)"
            )
        })
    }
}

impl Dataplane {
    /// A hold of its own on the flow table.
    pub fn flow_table(&self) -> Result<FlowTable, BpfError> {
        let failed = |map, error: &dyn std::error::Error| BpfError::Map { attempt: "open", map, reason: chain(error) };
        let open =
            |map: &'static str| MapData::from_pin(self.dir.join("maps").join(map)).map_err(|error| failed(map, &error));
        let room =
            |map: &MapData, name| map.info().map(|info| info.max_entries()).map_err(|error| failed(name, &error));
        let overflowed =
            Array::try_from(Map::Array(open("OVERFLOWED")?)).map_err(|error| failed("OVERFLOWED", &error))?;
        let floods =
            PerCpuArray::try_from(Map::PerCpuArray(open("FLOODS")?)).map_err(|error| failed("FLOODS", &error))?;
        let sweep = SchedClassifier::from_pin(self.dir.join("progs/sweep"));
        let (map, overflow) = (open("FLOWS4")?, open("OVERFLOW4")?);
        Ok(FlowTable {
            sizes: FlowSizes { table: room(&map, "FLOWS4")?, overflow: room(&overflow, "OVERFLOW4")? },
            map,
            overflow,
            overflowed: Mutex::new(overflowed),
            floods,
            sweep: sweep.map_err(|error| failed("FLOWS4", &error))?,
            sweeps: AtomicU32::new(0),
            is_crowded: AtomicBool::new(false),
            given_up: AtomicU64::new(0),
        })
    }
}

impl FlowTable {
    /// How many entries there is room for.
    pub fn sizes(&self) -> FlowSizes {
        self.sizes
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

    /// Hands over every entry, some at a time: those of the table, then those that live beside it (true). Ends early where `each` says false.
    pub fn walk(&self, mut each: impl FnMut(&[Key], &[Entry], bool) -> bool) -> Result<(), BpfError> {
        let mut walk = batch::Walk::<Key, Entry>::new(&self.map, CHUNK);
        while let Some((keys, flows)) = walk.step().map_err(unread("FLOWS4"))? {
            if !each(keys, flows, false) {
                return Ok(());
            }
        }
        let mut walk = batch::Walk::<Key, Entry>::new(&self.overflow, CHUNK);
        while let Some((keys, flows)) = walk.step().map_err(unread("OVERFLOW4"))? {
            // A flow that proved itself is in the table, and was seen there; its copy goes with the next sweep.
            let (mut only_here, mut flows_here) = (Vec::new(), Vec::new());
            for (key, flow) in keys.iter().zip(flows) {
                if batch::lookup::<Key, Entry>(&self.map, key).map_err(unread("FLOWS4"))?.is_none() {
                    only_here.push(*key);
                    flows_here.push(*flow);
                }
            }
            if !each(&only_here, &flows_here, true) {
                return Ok(());
            }
        }
        Ok(())
    }

    /// An entry, in the table or beside it.
    pub fn get(&self, key: &Key) -> Result<Option<Entry>, BpfError> {
        match batch::lookup(&self.map, key).map_err(unread("FLOWS4"))? {
            None => batch::lookup(&self.overflow, key).map_err(unread("OVERFLOW4")),
            found => Ok(found),
        }
    }

    /// Every entry: those of the table, then those that found it full. For tests and small tables: it is as large as they are.
    pub fn flows(&self) -> Result<Vec<FlowSeen>, BpfError> {
        let mut found = Vec::new();
        self.walk(|keys, flows, _| {
            found.extend(keys.iter().zip(flows).map(|(key, flow)| FlowSeen { key: *key, flow: *flow }));
            true
        })?;
        Ok(found)
    }

    /// Removes flows that were silent too long at `now_s` (the programs' clock), and marks those whose backend is not in reach. That is asked
    /// after an entry was read: a backend that came meanwhile must not be taken for one that is gone. Where the table is nearly full, others
    /// give way (`pressure`).
    pub fn sweep(&self, now_s: u32, is_in_reach: impl Fn(u32) -> bool) -> Result<Swept, BpfError> {
        let began = thread_time();
        let turn = self.sweeps.fetch_add(1, Ordering::Relaxed) % AUDIT_TURNS;
        let mut pass = Pass::new(&self.sweep, now_s, turn, is_in_reach);
        let mut census = Census::default();
        pass.over(&self.map, "FLOWS4", |key, flow| census.count(key, flow, now_s))?;
        let expired_here = pass.expired()?;
        let mut spilled = 0;
        let mut slowest_tidy = Duration::ZERO;
        if let Some(last_s) = self.overflowed_s(None)? {
            (_, slowest_tidy) = self.tidy(now_s)?;
            pass.over(&self.overflow, "OVERFLOW4", |_, _| spilled += 1)?;
            // Nothing came while the walk was under way, nor shortly before it.
            let is_settled = self.overflowed_s(None)? == Some(last_s);
            if spilled == 0 && is_settled && now_s.saturating_sub(last_s) > OVERFLOW_SETTLES_S {
                self.overflowed_s(Some(0))?;
                log::info!("the flow table has room for every flow again");
            }
        }
        let mut swept = pass.end()?;
        swept.slowest_call = swept.slowest_call.max(slowest_tidy);
        let found = census.entries;
        // Some went with their other entry before the walk came by: rather too few than too many, so that none gives way for nothing.
        census.entries = census.entries.saturating_sub(expired_here);
        if let Some(limits) = census.limits(self.sizes.table as usize) {
            let slowest = swept.slowest_call;
            (swept.given_up, swept.slowest_call) = self.give_up(now_s, &limits)?;
            swept.slowest_call = swept.slowest_call.max(slowest);
            self.given_up.fetch_add(swept.given_up as u64, Ordering::Relaxed);
            if !self.is_crowded.swap(true, Ordering::Relaxed) {
                log::warn!(
                    "{} of {} flow entries in use: flows that have ended or are unanswered give way, the longest silent first",
                    census.entries,
                    self.sizes.table
                );
            }
        } else if self.is_crowded.swap(false, Ordering::Relaxed) {
            log::info!("{} of {} flow entries in use: no flow gives way any more", census.entries, self.sizes.table);
        }
        (swept.entries, swept.spilled) = (found + spilled, spilled);
        swept.cost = thread_time().saturating_sub(began);
        Ok(swept)
    }

    /// A second walk, for those whose silence is beyond their group's limit.
    fn give_up(&self, now_s: u32, limits: &Limits) -> Result<(usize, Duration), BpfError> {
        let mut orders = Orders::new(&self.sweep);
        let mut walk = batch::Walk::<Key, Entry>::new(&self.map, CHUNK);
        while let Some((keys, flows)) = walk.step().map_err(unread("FLOWS4"))? {
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

    /// Flows that proved themselves came into the table by a copy: what they left behind goes, once no packet can still be at it. How many did.
    fn tidy(&self, now_s: u32) -> Result<(usize, Duration), BpfError> {
        let mut orders = Orders::new(&self.sweep);
        let mut walk = batch::Walk::<Key, Entry>::new(&self.overflow, CHUNK);
        while let Some((keys, flows)) = walk.step().map_err(unread("OVERFLOW4"))? {
            for (key, flow) in keys.iter().zip(flows) {
                if now_s.saturating_sub(flow.last_seen_s) >= COPY_SETTLES_S {
                    orders.give(key, order::TIDY, 0)?;
                }
            }
        }
        orders.send()?;
        Ok((orders.acted, orders.slowest))
    }

    /// When something last found the table full, if that is not over; with `new`, written first.
    fn overflowed_s(&self, new: Option<u32>) -> Result<Option<u32>, BpfError> {
        let failed = |error: MapError| BpfError::Map { attempt: "use", map: "OVERFLOWED", reason: chain(&error) };
        let mut overflowed = self.overflowed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(new) = new {
            overflowed.set(0, new, 0).map_err(failed)?;
        }
        Ok(Some(overflowed.get(&0, 0).map_err(failed)?).filter(|last_s| *last_s != 0))
    }
}

/// One walk that asks the program about whatever may be over.
struct Pass<'p, R> {
    expire: Orders<'p>,
    kill: Orders<'p>,
    is_in_reach: R,
    /// Backends that were in reach when this pass asked; one that goes meanwhile brings about another pass.
    known: HashSet<u32>,
    now_s: u32,
    turn: u32,
    slowest: Duration,
}

impl<'p, R: Fn(u32) -> bool> Pass<'p, R> {
    fn new(program: &'p SchedClassifier, now_s: u32, turn: u32, is_in_reach: R) -> Self {
        let (expire, kill) = (Orders::new(program), Orders::new(program));
        Pass { expire, kill, is_in_reach, known: HashSet::new(), now_s, turn, slowest: Duration::ZERO }
    }

    fn over(&mut self, map: &MapData, name: &'static str, mut each: impl FnMut(&Key, &Entry)) -> Result<(), BpfError> {
        let mut walk = batch::Walk::<Key, Entry>::new(map, CHUNK);
        let mut last_known = 0;
        loop {
            let began = thread_time();
            let step = walk.step().map_err(unread(name))?;
            self.slowest = self.slowest.max(thread_time().saturating_sub(began));
            let Some((keys, flows)) = step else { return Ok(()) };
            for (key, flow) in keys.iter().zip(flows) {
                each(key, flow);
                let may_have_gone =
                    flow.backend != last_known && flow.backend != 0 && !self.known.contains(&flow.backend);
                if may_have_gone && !(self.is_in_reach)(flow.backend) {
                    if flow.flags & flow_flag::DEAD == 0 {
                        self.kill.give(key, order::KILL, 0)?;
                        continue;
                    }
                } else if may_have_gone {
                    self.known.insert(flow.backend);
                    last_known = flow.backend;
                }
                if self.is_witness(key, flow) {
                    self.expire.give(key, order::EXPIRE, self.now_s)?;
                }
            }
        }
    }

    /// The program is to look at this flow.
    fn is_witness(&self, key: &Key, flow: &Entry) -> bool {
        let silent_s = self.now_s.saturating_sub(flow.last_seen_s);
        match least_silence_s(key, flow) {
            Some(least_s) => silent_s > least_s,
            // It says nothing of an end: is its other direction still there?
            None => silent_s > AUDIT_S && u32::from(key.sport ^ key.dport) % AUDIT_TURNS == self.turn,
        }
    }

    /// Entries removed so far.
    fn expired(&mut self) -> Result<usize, BpfError> {
        self.expire.send()?;
        Ok(self.expire.acted)
    }

    fn end(mut self) -> Result<Swept, BpfError> {
        self.expire.send()?;
        self.kill.send()?;
        let slowest_call = self.slowest.max(self.expire.slowest).max(self.kill.slowest);
        Ok(Swept { expired: self.expire.acted, killed: self.kill.acted, slowest_call, ..Swept::default() })
    }
}

/// Orders on their way to the program.
struct Orders<'p> {
    program: &'p SchedClassifier,
    packet: Vec<u8>,
    acted: usize,
    slowest: Duration,
}

impl<'p> Orders<'p> {
    fn new(program: &'p SchedClassifier) -> Self {
        let mut packet = Vec::with_capacity(order::FIRST_AT + order::MOST * order::RECORD);
        packet.resize(order::FIRST_AT, 0);
        Orders { program, packet, acted: 0, slowest: Duration::ZERO }
    }

    fn give(&mut self, key: &Key, order: u8, second: u32) -> Result<(), BpfError> {
        self.packet.extend_from_slice(&key.src);
        self.packet.extend_from_slice(&key.dst);
        self.packet.extend_from_slice(&key.sport.to_ne_bytes());
        self.packet.extend_from_slice(&key.dport.to_ne_bytes());
        self.packet.extend_from_slice(&[key.protocol, 0, 0, 0, order, 0, 0, 0]);
        self.packet.extend_from_slice(&second.to_ne_bytes());
        if self.packet.len() < order::FIRST_AT + order::MOST * order::RECORD { Ok(()) } else { self.send() }
    }

    /// Has the program look at what was ordered.
    fn send(&mut self) -> Result<(), BpfError> {
        if self.packet.len() == order::FIRST_AT {
            return Ok(());
        }
        let failed = |reason: String| BpfError::Map { attempt: "sweep", map: "FLOWS4", reason };
        let mut options = TestRunOptions::new();
        options.data_in = Some(&self.packet);
        let began = thread_time();
        let result = self.program.test_run(options).map_err(|error| failed(chain(&error)))?;
        self.slowest = self.slowest.max(thread_time().saturating_sub(began));
        self.acted += result.return_value as usize;
        self.packet.truncate(order::FIRST_AT);
        Ok(())
    }
}

/// What this thread has had of a CPU: another's turn is no part of a call.
fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

fn unread(map: &'static str) -> impl Fn(std::io::Error) -> BpfError {
    move |error| BpfError::Map { attempt: "read", map, reason: error.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_with_its_rate_while_it_is_on_and_no_longer() {
        let on = |second, count| Flood { second, count, before: 200, is_on: 1, spilled: 40, promoted: 10 };
        let cpus = [on(7, 500), on(6, 300), Flood { spilled: 1, ..Flood::default() }];
        let seen = FloodSeen::of(&cpus, 7);
        assert_eq!(seen, FloodSeen { cpus: 2, rate: 800, spilled: 81, promoted: 20 });
        let told = seen.warning(100).expect("it is on");
        assert!(told.contains("800 a second on 2 CPUs") && told.contains("--flood-threshold 100"), "{told}");
        let later = FloodSeen::of(&cpus, 9);
        assert_eq!((later.cpus, later.spilled, later.warning(100)), (0, 81, None));
    }
}
