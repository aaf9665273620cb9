//! The flow table from outside: walked in batches, swept through the program `sweep`, which looks again before it acts.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Mutex, PoisonError};

use aya::maps::{Array, Map, MapData, MapError, PerCpuArray};
use aya::programs::{SchedClassifier, TestRun, TestRunOptions};
use mesh_common::flood;
use mesh_common::flow::{order, seen, timeout_s, twin};
use mesh_common::schema::{Flood, Flow, FlowKey, MAX_FLOWS, flow_flag, rewrite};

use super::pin::chain;
use super::{BpfError, Dataplane, batch};

/// A flow entry as found.
#[derive(Clone, Copy, Debug)]
pub struct FlowSeen {
    pub key: FlowKey<[u8; 4]>,
    pub flow: Flow<[u8; 4]>,
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub entries: usize,
    pub expired: usize,
    pub killed: usize,
    /// Entries that found the table full or began in a flood, and live beside it.
    pub spilled: usize,
}

/// Above this many entries (80 %) the longest silent ones go, down to `AT_EASE`.
const CROWDED: usize = MAX_FLOWS / 10 * 8;
/// Entries that are left after a sweep under pressure (70 %).
const AT_EASE: usize = MAX_FLOWS / 10 * 7;

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
        let overflowed =
            Array::try_from(Map::Array(open("OVERFLOWED")?)).map_err(|error| failed("OVERFLOWED", &error))?;
        let floods =
            PerCpuArray::try_from(Map::PerCpuArray(open("FLOODS")?)).map_err(|error| failed("FLOODS", &error))?;
        let sweep = SchedClassifier::from_pin(self.dir.join("progs/sweep"));
        Ok(FlowTable {
            map: open("FLOWS4")?,
            overflow: open("OVERFLOW4")?,
            overflowed: Mutex::new(overflowed),
            floods,
            sweep: sweep.map_err(|error| failed("FLOWS4", &error))?,
        })
    }
}

impl FlowTable {
    /// Every entry: those of the table, then those that found it full.
    pub fn flows(&self) -> Result<Vec<FlowSeen>, BpfError> {
        let mut flows = entries(&self.map, "FLOWS4")?;
        let in_table: HashSet<FlowKey<[u8; 4]>> = flows.iter().map(|seen| seen.key).collect();
        flows.extend(entries(&self.overflow, "OVERFLOW4")?.into_iter().filter(|seen| !in_table.contains(&seen.key)));
        Ok(flows)
    }

    /// What the programs have counted of new flows, seen at `now_s` (monotonic clock).
    pub fn flood(&self, now_s: u32) -> Result<FloodSeen, BpfError> {
        let failed = |error: MapError| BpfError::Map { attempt: "read", map: "FLOODS", reason: chain(&error) };
        let cpus = self.floods.get(&0, 0).map_err(failed)?;
        Ok(FloodSeen::of(&cpus, now_s))
    }

    /// Deletes flows that were silent too long at `now_s` (monotonic clock), and marks those whose backend is none of `backends`. These are
    /// asked for after the walk: a backend that came meanwhile must not be taken for one that is gone.
    pub fn sweep(&self, now_s: u32, backends: impl FnOnce() -> BTreeSet<u32>) -> Result<Swept, BpfError> {
        let mut flows = entries(&self.map, "FLOWS4")?;
        let too_old = oldest_kept(&flows);
        let spilled = self.without_copies(self.spilled(now_s)?, &flows, now_s)?;
        let mut swept = Swept { entries: flows.len() + spilled.len(), spilled: spilled.len(), ..Swept::default() };
        flows.extend(spilled);
        let backends = backends();
        let by_key: HashMap<FlowKey<[u8; 4]>, Flow<[u8; 4]>> = flows.iter().map(|seen| (seen.key, seen.flow)).collect();
        for FlowSeen { key, flow } in &flows {
            let is_orphan = flow.backend != 0 && !backends.contains(&flow.backend);
            if is_orphan && flow.flags & flow_flag::DEAD == 0 {
                swept.killed += usize::from(self.order(key, order::KILL, flow.last_seen_s)?);
                continue;
            }
            let twin = twin(key, flow).and_then(|key| by_key.get(&key));
            let seen_at = last_seen(flow, twin);
            if seen_at < too_old || now_s.saturating_sub(seen_at) > silence_allowed(key, flow, twin) {
                swept.expired += usize::from(self.order(key, order::EXPIRE, flow.last_seen_s)?);
            }
        }
        Ok(swept)
    }

    /// Those of `spilled` that are not in the table as well. A flow that proved itself came into the table by a copy; what is left behind goes, once no
    /// packet can still be at it.
    fn without_copies(
        &self,
        mut spilled: Vec<FlowSeen>,
        flows: &[FlowSeen],
        now_s: u32,
    ) -> Result<Vec<FlowSeen>, BpfError> {
        if spilled.is_empty() {
            return Ok(spilled);
        }
        let kept: HashSet<FlowKey<[u8; 4]>> = flows.iter().map(|seen| seen.key).collect();
        for seen in spilled.extract_if(.., |seen| kept.contains(&seen.key)) {
            if now_s.saturating_sub(seen.flow.last_seen_s) >= COPY_SETTLES_S {
                self.order(&seen.key, order::TIDY, 0)?;
            }
        }
        Ok(spilled)
    }

    /// What found the table full. Where that is over, the programs are told, so that they need not look there any more.
    fn spilled(&self, now_s: u32) -> Result<Vec<FlowSeen>, BpfError> {
        let failed = |error: MapError| BpfError::Map { attempt: "use", map: "OVERFLOWED", reason: chain(&error) };
        let mut overflowed = self.overflowed.lock().unwrap_or_else(PoisonError::into_inner);
        let last_s = overflowed.get(&0, 0).map_err(failed)?;
        if last_s == 0 {
            return Ok(Vec::new());
        }
        let flows = entries(&self.overflow, "OVERFLOW4")?;
        if flows.is_empty() && now_s.saturating_sub(last_s) > OVERFLOW_SETTLES_S {
            overflowed.set(0, 0, 0).map_err(failed)?;
            log::info!("the flow table has room for every flow again");
        }
        Ok(flows)
    }

    /// Has the program look at one entry; true if it acted.
    fn order(&self, key: &FlowKey<[u8; 4]>, order: u8, last_seen_s: u32) -> Result<bool, BpfError> {
        let mut packet = [0u8; 64];
        packet[14..18].copy_from_slice(&key.src);
        packet[18..22].copy_from_slice(&key.dst);
        packet[22..24].copy_from_slice(&key.sport.to_ne_bytes());
        packet[24..26].copy_from_slice(&key.dport.to_ne_bytes());
        packet[26] = key.protocol;
        packet[30] = order;
        packet[34..38].copy_from_slice(&last_seen_s.to_ne_bytes());
        let failed = |reason: String| BpfError::Map { attempt: "sweep", map: "FLOWS4", reason };
        let mut options = TestRunOptions::new();
        options.data_in = Some(&packet);
        let result = self.sweep.test_run(options).map_err(|error| failed(chain(&error)))?;
        Ok(result.return_value == 1)
    }
}

fn entries(map: &MapData, name: &'static str) -> Result<Vec<FlowSeen>, BpfError> {
    let mut flows = Vec::new();
    let failed = |error: std::io::Error| BpfError::Map { attempt: "read", map: name, reason: error.to_string() };
    batch::for_each::<4_096, _, _>(map, |key, flow| flows.push(FlowSeen { key, flow })).map_err(failed)?;
    Ok(flows)
}

/// Under pressure: entries last seen before this second are given up. 0 without.
fn oldest_kept(flows: &[FlowSeen]) -> u32 {
    if flows.len() <= CROWDED {
        return 0;
    }
    let mut times: Vec<u32> = flows.iter().map(|seen| seen.flow.last_seen_s).collect();
    let surplus = times.len() - AT_EASE;
    let (_, kept, _) = times.select_nth_unstable(surplus);
    log::warn!("{} of {MAX_FLOWS} flow entries in use: the longest silent ones are given up", flows.len());
    *kept
}

fn last_seen(flow: &Flow<[u8; 4]>, twin: Option<&Flow<[u8; 4]>>) -> u32 {
    flow.last_seen_s.max(twin.map_or(0, |twin| twin.last_seen_s))
}

/// Seconds this flow may be silent.
fn silence_allowed(key: &FlowKey<[u8; 4]>, flow: &Flow<[u8; 4]>, twin: Option<&Flow<[u8; 4]>>) -> u32 {
    if flow.flags & flow_flag::DEAD != 0 {
        return 10;
    }
    let answered = match twin {
        Some(twin) => flow.packets != 0 && twin.packets != 0,
        // The reply's entry lives at the owner: the handshake's ACK shows that there was an answer.
        // A hairpin's entries don't find each other; they are of one task, which closes both.
        None if flow.flags & flow_flag::HAIRPIN != 0 => flow.seen & seen::ACK != 0,
        None => flow.rewrite == rewrite::NONE && (flow.seen & seen::ACK != 0 || flow.packets > 1),
    };
    let (forward, reverse) = match twin {
        Some(twin) if flow.flags & flow_flag::REVERSE != 0 => (twin.seen, flow.seen),
        Some(twin) => (flow.seen, twin.seen),
        None => (flow.seen, flow.seen & !seen::FIN),
    };
    // Established TCP has no timeout: keepalive may be hours apart. What is really dead goes under pressure.
    timeout_s(key.protocol, forward, reverse, answered).unwrap_or(u32::MAX)
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
