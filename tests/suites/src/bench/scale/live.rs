//! Live flows beside a storm of new ones: established connections are kept in use, others begin and end, the agent's sweeper works.
//!
//! Entries are written as the programs write them (two a flow), a live flow has a packet every ten seconds, a new one begins and ends within
//! a moment. The sweeper is the agent's own. Lost is a live flow one of whose entries is gone, in the table and beside it.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aya::maps::{HashMap, Map, MapData};
use mesh_common::flow::{seen, twin};
use mesh_common::parse::protocol;
use mesh_common::schema::{Flow, FlowKey, MAX_FLOWS, deliver, flow_flag, rewrite};

use super::stage::Stage;
use crate::bench::{Row, Target, Wish};

/// What is aimed at.
const LIVE: usize = 1_000_000;
/// New flows a second.
const STORM: usize = 20_000;
/// The agent's pace.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// A live flow's silence.
const SILENCE: Duration = Duration::from_secs(10);
/// Flows are written in so many portions a second.
const PORTIONS: usize = 20;
const BACKEND: u32 = 1;

type Key = FlowKey<[u8; 4]>;
type Entry = Flow<[u8; 4]>;

pub fn rows(wish: &Wish) -> Result<Vec<Row>> {
    let time = Duration::from_secs(if wish.long {
        600
    } else if wish.quick {
        10
    } else {
        30
    });
    let row = |live: usize| format!("live flows lost of {live} beside {STORM} new ones a second, {} s", time.as_secs());
    let mut rows = Vec::new();
    // A size that this build has room for whatever it is: half of the table are live flows.
    for live in [MAX_FLOWS / 4, LIVE] {
        let name = row(live);
        if !wish.wants(&name) {
            continue;
        }
        let made = if live * 2 > MAX_FLOWS {
            Row::missing(name, "flows", format!("needs {} entries in FLOWS4, which holds {MAX_FLOWS}", live * 2))
        } else {
            let outcome = Storm::new(live)?.run(time)?;
            Row::alone(name, "flows", &[outcome.lost as f64]).note(format!(
                "{} new flows, {} of their entries found the table full; slowest sweep {:.0} ms",
                outcome.new,
                outcome.refused,
                outcome.slowest_sweep.as_secs_f64() * 1e3
            ))
        };
        rows.push(made.target(Target::ValueAtMost(0.0)));
    }
    Ok(rows)
}

struct Storm {
    stage: Stage,
    live: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    lost: usize,
    new: usize,
    refused: usize,
    slowest_sweep: Duration,
}

impl Storm {
    fn new(live: usize) -> Result<Storm> {
        let mut stage = Stage::new()?;
        stage.open()?;
        Ok(Storm { stage, live })
    }

    fn run(mut self, time: Duration) -> Result<Outcome> {
        let pin = self.stage.maps().join("FLOWS4");
        let data = MapData::from_pin(&pin).with_context(|| format!("opening {}", pin.display()))?;
        let mut map = HashMap::<_, Key, Entry>::try_from(Map::HashMap(data))?;
        let table = self.stage.dataplane().flow_table()?;
        for n in 0..self.live {
            put(&mut map, n, seen::ACK).context("writing the live flows")?;
        }
        let mut outcome = Outcome::default();
        let began = Instant::now();
        let stop = std::sync::atomic::AtomicBool::new(false);
        let slowest = std::thread::scope(|scope| -> Result<Duration> {
            let sweeper = scope.spawn(|| -> Result<Duration> {
                let mut slowest = Duration::ZERO;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let due = Instant::now() + SWEEP_EVERY;
                    table.sweep(now_s(), || [BACKEND].into())?;
                    slowest = slowest.max((Instant::now() + SWEEP_EVERY).saturating_duration_since(due));
                    mesh_lab::let_pass(due.saturating_duration_since(Instant::now()));
                }
                Ok(slowest)
            });
            let mut refreshed = 0;
            let mut portion = 0u32;
            while began.elapsed() < time {
                for _ in 0..STORM / PORTIONS {
                    let n = self.live + outcome.new;
                    outcome.new += 1;
                    outcome.refused += usize::from(put(&mut map, n, seen::ACK | seen::FIN).is_err());
                }
                // A packet of each live flow within the silence allowed: only where the flow is still there.
                let share = self.live / (PORTIONS * SILENCE.as_secs() as usize);
                for _ in 0..=share {
                    touch(&mut map, refreshed % self.live);
                    refreshed += 1;
                }
                portion += 1;
                let due = began + Duration::from_secs(1) / PORTIONS as u32 * portion;
                mesh_lab::let_pass(due.saturating_duration_since(Instant::now()));
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            sweeper.join().map_err(|_| anyhow::anyhow!("the sweeper panicked"))?
        })?;
        outcome.slowest_sweep = slowest;
        let there: HashSet<Key> = table.flows()?.iter().map(|seen| seen.key).collect();
        outcome.lost = (0..self.live).filter(|n| pair(*n, 0).iter().any(|(key, _)| !there.contains(key))).count();
        self.stage.remove()?;
        Ok(outcome)
    }
}

/// Flow `n`'s entries: a task's call of a VIP, and the answer.
fn pair(n: usize, seen: u8) -> [(Key, Entry); 2] {
    let (vip, backend) = ([10, 0, 16, 2], [10, 0, 16, 4]);
    // 32,768 ports of each caller; callers from 11.0.0.0 on.
    let caller = (0x0b00_0000u32 + (n >> 15) as u32).to_be_bytes();
    let key = Key {
        src: caller,
        dst: vip,
        sport: 20_000 + (n & 0x7fff) as u16,
        dport: 80,
        protocol: protocol::TCP,
        pad: [0; 3],
    };
    let entry = Entry {
        addr: backend,
        from: mesh_common::schema::origin::WIRE,
        port: 0,
        other_port: 0,
        rewrite: rewrite::DESTINATION,
        deliver: deliver::TASK,
        seen,
        flags: 0,
        ifindex: 1,
        node: 0,
        vni: 4_097,
        backend: BACKEND,
        mac: [2, 0, 0, 0, 0, 4],
        last_seen_s: now_s(),
        packets: 1,
        bytes: 64,
    };
    let back = twin(&key, &entry).expect("a rewritten flow has another direction");
    let answer = Entry { addr: vip, rewrite: rewrite::SOURCE, flags: flow_flag::REVERSE, ..entry };
    [(key, entry), (back, answer)]
}

fn put(map: &mut HashMap<MapData, Key, Entry>, n: usize, seen: u8) -> Result<()> {
    for (key, entry) in pair(n, seen) {
        map.insert(key, entry, 0)?;
    }
    Ok(())
}

/// A packet of a live flow: its entries' time, if they are there.
fn touch(map: &mut HashMap<MapData, Key, Entry>, n: usize) {
    /// Only where there is an entry (BPF_EXIST of linux/bpf.h).
    const EXIST: u64 = 2;
    for (key, entry) in pair(n, seen::ACK) {
        // Gone is what we count at the end.
        let _ = map.insert(key, entry, EXIST);
    }
}

/// The clock that the programs stamp flows with, in seconds.
fn now_s() -> u32 {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC);
    time.map_or(0, |time| time.tv_sec() as u32)
}
