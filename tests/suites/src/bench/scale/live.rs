//! Live flows beside a storm of new ones: established connections are kept in use, others begin and end, the agent's sweeper works.
//!
//! Tables have the size that the agent gives them on this machine; every connection is made, used and ended by packets through the programs
//! (`crowd`). A live one has a packet each way every `SILENCE`, a new one is opened and closed at once. The sweeper is the agent's own, at its
//! pace. Lost is a live connection one of whose two entries is gone, in the table and beside it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use mesh_userspace::kernel::bpf::{FlowSizes, FlowTable, Standing, Swept, clock};

use super::crowd::{Crowd, check_count};
use super::resident_mib;
use crate::bench::{Row, Target, Wish};

/// What is aimed at.
const LIVE: usize = 1_000_000;
/// New flows a second.
const STORM: usize = 20_000;
/// A live flow's silence.
const SILENCE: Duration = Duration::from_secs(30);
/// What a call of the sweeper may take.
const MOST_MS: f64 = 1.0;
/// Packets are sent in so many portions a second.
const PORTIONS: usize = 20;

pub fn rows(wish: &Wish) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for live in [LIVE / 10, LIVE] {
        // What is aimed at takes ten minutes; how it grows is seen in less.
        let time = Duration::from_secs(match (wish.long, wish.quick) {
            (true, _) if live == LIVE => 600,
            (_, true) => 10,
            _ => 120,
        });
        let of = format!("{live} live flows beside {STORM} new ones a second, {} s", time.as_secs());
        let names = [
            "lost",
            "CPU of sweeping",
            "slowest call of a sweep",
            "slowest read of a sweep",
            "agent memory of sweeping",
        ]
        .map(|what| format!("{what}, {of}"));
        if !names.iter().any(|name| wish.wants(name)) {
            continue;
        }
        let sizes = FlowSizes::wanted(None);
        let [lost, cpu, call, read, memory] = names;
        if live * 2 > sizes.table as usize {
            let why = format!("needs {} entries in FLOWS4, which holds {} on this machine", live * 2, sizes.table);
            rows.push(Row::missing(lost, "flows", why).target(Target::ValueAtMost(0.0)));
            continue;
        }
        let outcome = storm(live, sizes, time)?;
        rows.push(
            Row::alone(lost, "flows", &[outcome.lost as f64])
                .target(Target::ValueAtMost(0.0))
                .note(outcome.told(&sizes)),
        );
        rows.push(Row::alone(cpu, "%", &[outcome.cpu_s / outcome.seconds * 100.0]).note(format!(
            "of one core, {:.0} % of that in the kernel; a sweep costs {:.0} ms and took {:.0} ms, the slowest {:.0} ms",
            outcome.kernel_s / outcome.cpu_s * 100.0,
            outcome.cpu_s * 1e3 / outcome.sweeps.max(1) as f64,
            millis(outcome.swept_for) / outcome.sweeps.max(1) as f64,
            millis(outcome.slowest_sweep)
        )));
        let above = outcome.slowest_calls_ms.iter().filter(|took| **took > MOST_MS).count();
        rows.push(Row::alone(call, "ms", &outcome.slowest_calls_ms).target(Target::ValueAtMost(MOST_MS)).note(
            format!(
                "of the program, in time of its thread, of {} sweeps; {above} had a call above {MOST_MS} ms",
                outcome.sweeps
            ),
        ));
        rows.push(
            Row::alone(read, "ms", &outcome.slowest_reads_ms)
                .note("of the kernel, of 256 entries and all empty buckets between them; the table of IPv6 is empty"),
        );
        rows.push(Row::alone(memory, "MiB", &[outcome.memory_mib]));
    }
    rows.retain(|row| wish.wants(&row.name));
    Ok(rows)
}

#[derive(Clone, Debug, Default)]
struct Outcome {
    lost: usize,
    new: usize,
    astray: usize,
    seconds: f64,
    /// Greatest fill of the table, in entries.
    fullest: usize,
    given_up: usize,
    spilled: usize,
    sweeps: usize,
    swept_for: Duration,
    slowest_sweep: Duration,
    /// The program's slowest call of each sweep, and the kernel's slowest read.
    slowest_calls_ms: Vec<f64>,
    slowest_reads_ms: Vec<f64>,
    /// CPU time of the sweeper's thread, and how much of that in the kernel.
    cpu_s: f64,
    kernel_s: f64,
    memory_mib: f64,
}

impl Outcome {
    fn told(&self, sizes: &FlowSizes) -> String {
        format!(
            "{:.0} new flows a second were made, {} packets astray; at most {} of {} entries; {} entries of ended flows gave way, {} beside the table",
            self.new as f64 / self.seconds,
            self.astray,
            self.fullest,
            sizes.table,
            self.given_up,
            self.spilled
        )
    }

    fn note(&mut self, swept: &Swept, took: Duration) {
        self.sweeps += 1;
        self.swept_for += took;
        self.slowest_sweep = self.slowest_sweep.max(took);
        self.slowest_calls_ms.push(millis(swept.slowest_call));
        self.slowest_reads_ms.push(millis(swept.slowest_read));
        self.fullest = self.fullest.max(swept.entries - swept.spilled);
        self.given_up += swept.given_up;
        self.spilled = self.spilled.max(swept.spilled);
    }
}

fn storm(live: usize, sizes: FlowSizes, time: Duration) -> Result<Outcome> {
    check_count(live + STORM * time.as_secs() as usize)?;
    let mut crowd = Crowd::new(sizes)?;
    let table = crowd.table()?;
    for n in 0..live {
        crowd.open(n)?;
    }
    let before = resident_mib()?;
    let stop = AtomicBool::new(false);
    let mut outcome = std::thread::scope(|scope| -> Result<Outcome> {
        let sweeper = scope.spawn(|| sweep_until(&table, &stop));
        let sent = traffic(&mut crowd, live, time);
        stop.store(true, Ordering::Relaxed);
        let mut outcome = sweeper.join().map_err(|_| anyhow!("the sweeper panicked"))??;
        (outcome.new, outcome.seconds) = sent?;
        Ok(outcome)
    })?;
    outcome.memory_mib = resident_mib()? - before;
    outcome.astray = crowd.astray;
    outcome.lost = crowd.lost(&table, live)?;
    drop(table);
    crowd.remove()?;
    Ok(outcome)
}

/// New connections and use of the live ones, evenly; gives how many new ones in how many seconds.
fn traffic(crowd: &mut Crowd, live: usize, time: Duration) -> Result<(usize, f64)> {
    let began = Instant::now();
    let (mut new, mut used) = (0, 0);
    for portion in 1.. {
        for _ in 0..STORM / PORTIONS {
            crowd.open(live + new)?;
            crowd.close(live + new)?;
            new += 1;
        }
        for _ in 0..live.div_ceil(PORTIONS * SILENCE.as_secs() as usize) {
            crowd.use_it(used % live)?;
            used += 1;
        }
        if began.elapsed() >= time {
            break;
        }
        let due = began + Duration::from_secs(1) / PORTIONS as u32 * portion;
        mesh_lab::let_pass(due.saturating_duration_since(Instant::now()));
    }
    Ok((new, began.elapsed().as_secs_f64()))
}

/// The agent's sweeps, until it is told to stop.
fn sweep_until(table: &FlowTable, stop: &AtomicBool) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let before = cpu_of_thread()?;
    let mut last = None;
    while !stop.load(Ordering::Relaxed) {
        let began = Instant::now();
        let swept = table.sweep(clock::now_s(), |_| Standing::Serves)?;
        outcome.note(&swept, began.elapsed());
        let (before, at) = last.replace((swept, began)).unwrap_or((swept, began));
        let due = Instant::now() + swept.pause(&before, began - at, table.sizes());
        while !stop.load(Ordering::Relaxed) && Instant::now() < due {
            mesh_lab::let_pass(Duration::from_millis(50));
        }
    }
    let after = cpu_of_thread()?;
    (outcome.cpu_s, outcome.kernel_s) = (after[0] + after[1] - before[0] - before[1], after[1] - before[1]);
    Ok(outcome)
}

/// Seconds of this thread in user space and in the kernel, by hundredths (proc(5), /proc/PID/stat).
fn cpu_of_thread() -> Result<[f64; 2]> {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").context("reading /proc/thread-self/stat")?;
    // The name may hold anything, and ends with the last bracket.
    let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11);
    let mut seconds =
        || -> Result<f64> { Ok(fields.next().context("/proc/thread-self/stat is cut off")?.parse::<f64>()? / 100.0) };
    Ok([seconds()?, seconds()?])
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
