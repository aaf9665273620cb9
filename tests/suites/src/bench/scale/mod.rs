//! Scale: what a change, a start and the memory of them cost with many services and backends, and whether live flows stay.
//!
//! A world of thousands of services is given to the product's own funnel (plan::maps, kernel::bpf) on maps of our own: the agent's work
//! between an event and the last map written, without ten thousand real processes. Invariant: nothing is measured but what the agent calls,
//! and a size that the maps of this build can't hold is a missing row that says why, never a smaller one under its name.

pub mod crowd;
mod live;
mod new_flow;
mod stage;
mod world;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_common::schema::MAX_ENDPOINTS;
use mesh_userspace::plan::maps::{Facts, Programmed, Round};
use nix::time::{ClockId, clock_gettime};

use super::{PAIRS, Row, Target, Wish};
use stage::Stage;
use world::World;

/// Services and backends of each; targets are of the last.
const SIZES: [(u32, u32); 6] = [(1, 10), (1, 100_000), (10, 10), (100, 10), (1_000, 10), (10_000, 10)];
/// Changes of which a reading takes the worst of a hundred.
const CHANGES: u32 = 100;
/// A size's changes end here, however few they were.
const BUDGET: Duration = Duration::from_secs(30);

/// Measures every row that is wanted.
pub fn rows(wish: &Wish) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for (services, backends) in SIZES {
        let is_last = (services, backends) == SIZES[SIZES.len() - 1];
        let size = format!("{services} services × {backends}");
        let name = |what: &str| format!("{what}, {size}");
        let names = [
            "agent memory of the world",
            "first start",
            "map operations at the first start",
            "adoption after a restart",
            "one backend changed p50",
            "one backend changed p99",
            "agent CPU of a changed backend",
            "map operations a changed backend",
            "agent CPU of a round without news",
            "agent CPU of the first start",
        ];
        if !names.iter().any(|what| wish.wants(&name(what))) {
            continue;
        }
        let mut made = match too_large(services, backends) {
            Some(why) => names.map(|what| Row::missing(name(what), unit(what), why.as_str())).to_vec(),
            None => measure(services, backends, wish.quick).with_context(|| size.clone())?.rows(&names, &name),
        };
        if is_last {
            for row in &mut made {
                row.target = match row.name.split(',').next() {
                    Some("agent memory of the world") => Some(Target::ValueAtMost(150.0)),
                    Some("one backend changed p99") => Some(Target::ValueAtMost(10.0)),
                    _ => None,
                };
            }
        }
        rows.extend(made);
    }
    rows.retain(|row| wish.wants(&row.name));
    rows.extend(new_flow::rows(wish)?);
    rows.extend(live::rows(wish)?);
    Ok(rows)
}

fn unit(what: &str) -> &'static str {
    match what {
        _ if what.starts_with("map operations") => "operations",
        _ if what.starts_with("agent memory") => "MiB",
        _ => "ms",
    }
}

/// Why this build's maps can't hold it.
fn too_large(services: u32, backends: u32) -> Option<String> {
    let endpoints = services as usize * backends as usize;
    (endpoints > MAX_ENDPOINTS).then(|| format!("needs {endpoints} entries in ENDPOINTS4, which holds {MAX_ENDPOINTS}"))
}

/// Readings of one size, in milliseconds but for counts and memory.
#[derive(Debug, Default)]
struct Readings {
    memory_mib: f64,
    start_ms: f64,
    start_ops: f64,
    adoption_ms: f64,
    changes_ms: Vec<f64>,
    /// The worst hundredth of each batch.
    worst_ms: Vec<f64>,
    change_ops: Vec<f64>,
    /// Of the thread that does the agent's work: averages of a batch.
    changes_cpu_ms: Vec<f64>,
    idle_cpu_ms: Vec<f64>,
    start_cpu_ms: f64,
}

impl Readings {
    fn rows(&self, names: &[&str; 10], name: &impl Fn(&str) -> String) -> Vec<Row> {
        let readings: [&[f64]; 10] = [
            &[self.memory_mib],
            &[self.start_ms],
            &[self.start_ops],
            &[self.adoption_ms],
            &self.changes_ms,
            &self.worst_ms,
            &self.changes_cpu_ms,
            &self.change_ops,
            &self.idle_cpu_ms,
            &[self.start_cpu_ms],
        ];
        names.iter().zip(readings).map(|(what, readings)| Row::alone(name(what), unit(what), readings)).collect()
    }
}

/// The agent's memory of what is programmed, and the edge that programs: as agent::reconcile holds them.
struct Agent<'a> {
    stage: &'a mut Stage,
    programmed: Programmed,
}

impl<'a> Agent<'a> {
    /// What the maps hold, read as a starting agent reads it.
    fn begin(stage: &'a mut Stage) -> Result<Agent<'a>> {
        let dataplane = stage.dataplane();
        let programmed = Programmed::from_tables(dataplane.tables()?, dataplane.ring_slots()?);
        Ok(Agent { stage, programmed })
    }

    /// From an event to the last map written; gives the operations.
    fn round(&mut self, world: &World, facts: &Facts) -> Result<usize> {
        let (cluster, observed) = (Arc::new(world.cluster.clone()), Arc::new(world.observed.clone()));
        let Round { ops, refused, .. } = self.programmed.round(&cluster, &observed, facts);
        ensure!(refused.is_empty(), "{}", refused[0]);
        for op in &ops {
            self.stage.dataplane().apply(op)?;
        }
        self.programmed.done(&ops);
        Ok(ops.len())
    }
}

fn measure(services: u32, backends: u32, quick: bool) -> Result<Readings> {
    let mut readings = Readings::default();
    let mut stage = Stage::new()?;
    give_back();
    let before = resident_mib()?;
    let (began, cpu) = (Instant::now(), thread_time());
    stage.open()?;
    let (opened, opened_cpu) = (began.elapsed(), thread_time() - cpu);
    let mut world = World::new(services, backends);
    let facts = world.facts();
    let (began, cpu) = (Instant::now(), thread_time());
    let mut agent = Agent::begin(&mut stage)?;
    readings.start_ops = agent.round(&world, &facts)? as f64;
    readings.start_ms = millis(opened + began.elapsed());
    readings.start_cpu_ms = millis(opened_cpu + (thread_time() - cpu));
    readings.memory_mib = resident_mib()? - before;
    ensure!(agent.round(&world, &facts)? == 0, "a second round on the same facts writes something");

    let batch = if quick { CHANGES / 10 } else { CHANGES };
    let end = Instant::now() + BUDGET;
    for batch_number in 0..PAIRS as u32 {
        let mut times = Vec::new();
        let cpu = thread_time();
        for change in 0..batch {
            let number = batch_number * batch + change;
            world.toggle(number % services, number / services % backends);
            let began = Instant::now();
            let ops = agent.round(&world, &facts)?;
            times.push(millis(began.elapsed()));
            ensure!(ops > 0, "a changed backend wrote nothing");
            readings.change_ops.push(ops as f64);
        }
        readings.changes_cpu_ms.push(millis(thread_time() - cpu) / f64::from(batch));
        readings.worst_ms.push(worst_hundredth(&times));
        readings.changes_ms.extend(times);
        let cpu = thread_time();
        ensure!(agent.round(&world, &facts)? == 0, "a round without news writes something");
        readings.idle_cpu_ms.push(millis(thread_time() - cpu));
        if Instant::now() > end {
            break;
        }
    }
    drop(agent);
    readings.adoption_ms = adoption(&mut stage, &world, &facts)?;
    stage.remove()?;
    Ok(readings)
}

/// The next agent's life: programs and maps by their pins, what they hold, and the round that finds nothing to write.
fn adoption(stage: &mut Stage, world: &World, facts: &Facts) -> Result<f64> {
    let began = Instant::now();
    stage.open()?;
    let ops = Agent::begin(stage)?.round(world, facts)?;
    let took = millis(began.elapsed());
    ensure!(ops == 0, "an adopting agent wrote {ops} entries though nothing had changed");
    Ok(took)
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// What this thread has had of a CPU.
fn thread_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

/// The reading that one in a hundred is above; of fewer than a hundred, the greatest.
fn worst_hundredth(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (times.len() * 99).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or(f64::NAN)
}

/// What the size before left in the allocator goes back to the kernel: else this one would seem to need nothing.
fn give_back() {
    // SAFETY: concerns free memory of the allocator alone.
    unsafe { libc::malloc_trim(0) };
}

/// Memory of this process that is in RAM; the maps are the kernel's and not in it.
fn resident_mib() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?;
    Ok(resident_kib(&text).context("/proc/self/status has no VmRSS")? / 1024.0)
}

fn resident_kib(status: &str) -> Option<f64> {
    status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_hundredth_is_the_nearest_rank() {
        let times: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(worst_hundredth(&times), 198.0);
        assert_eq!(worst_hundredth(&[3.0, 1.0, 2.0]), 3.0);
        assert!(worst_hundredth(&[]).is_nan());
    }

    #[test]
    fn resident_memory_is_read() {
        assert_eq!(resident_kib("Name:\tx\nVmRSS:\t  2048 kB\nVmData: 1 kB\n"), Some(2048.0));
    }

    #[test]
    fn what_does_not_fit_says_which_map() {
        assert_eq!(too_large(10, 10), None);
        assert!(too_large(1_000_000, 10).unwrap().contains("ENDPOINTS4"));
    }
}
