//! Healthchecks of runtime `exec`: each running task that has one is asked again and again, and its verdict is told when it changes.
//!
//! ```text
//!   start, adopt ──► Probers::begin ── a tokio task per task: pause → probe (the command, inside the task) → judge ─┐
//!                                        ▲                                                                           │
//!                                        └──────────── health.json, TaskEvent::Health ◄──────────────────────────────┘
//! ```
//! Probing is the agent's: while no agent lives nobody probes, and the last verdict stands. Invariant: a verdict is on disk before it is
//! told, so that the next agent finds a healthy task healthy. Must not: stop a task, or decide what a verdict means for its traffic.

mod judge;
mod probe;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use judge::HealthRecord;

use self::judge::Judge;
use super::config::ExecConfig;
use super::process::ProcessRef;
use super::record::TaskDir;
use super::watch::{End, Watches};
use crate::model::{HealthCheck, Id, UnixMs};
use crate::runtime::TaskEvent;

/// Who is being probed by this runtime.
#[derive(Clone, Default)]
pub struct Probers(Arc<Mutex<HashSet<Id>>>);

/// A task to probe.
pub struct Patient {
    pub task_id: Id,
    pub check: HealthCheck,
    pub dir: TaskDir,
    pub init: ProcessRef,
    pub started_at: UnixMs,
    /// Probing ends with it.
    pub end: End,
}

impl Probers {
    fn probed(&self) -> MutexGuard<'_, HashSet<Id>> {
        // Every change is a single insertion or removal: the set is whole even if a holder panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Probes a running task until it ends, once however often it is asked for; the first probe is one interval away.
    pub fn begin(&self, config: &ExecConfig, watches: &Watches, patient: Patient) {
        if !self.probed().insert(patient.task_id.clone()) {
            return;
        }
        let (probers, config, watches) = (self.clone(), config.clone(), watches.clone());
        tokio::spawn(async move {
            let (task_id, end) = (patient.task_id.clone(), patient.end.clone());
            tokio::select! {
                () = end.ended() => {}
                () = probe(&config, &watches, patient) => {}
            }
            probers.probed().remove(&task_id);
        });
    }
}

/// Probes for ever.
async fn probe(config: &ExecConfig, watches: &Watches, patient: Patient) {
    let Patient { task_id, check, dir, init, started_at, .. } = patient;
    let record = dir.read_health().ok().flatten().unwrap_or_default();
    let mut judge = Judge::new(&check, started_at, record);
    loop {
        tokio::time::sleep(Duration::from_millis(judge.pause_ms(now()))).await;
        let before = judge.record().clone();
        let changed = judge.hear(probe::run(config, &dir, &init, judge.check(), now()).await);
        if *judge.record() != before
            && let Err(error) = dir.write_health(judge.record())
        {
            // An agent that is restarted now finds the former verdict.
            log::warn!("{}: {error}: the health of task {} is not on record", dir.path().display(), task_id.short());
        }
        if let Some(health) = changed {
            log::debug!("task {}: {health:?} {}", task_id.short(), judge.record().last_failure);
            watches.tell(TaskEvent::Health { task_id: task_id.clone(), health });
        }
    }
}

fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis().try_into().unwrap_or(UnixMs::MAX)
}
