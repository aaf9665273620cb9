//! A task ends: out of every node's tables and names → signal → grace → kill; because it is not wanted any more, or because it is unhealthy.

use std::sync::Arc;
use std::time::Duration;

use super::{EVERY, Tasks, reports};
use crate::agent::member::Member;
use crate::model::{Id, Task, TaskState, TaskStatus};
use crate::runtime::{StopRequest, TaskInstance, TaskRuntime, signal_number};

/// Longest wait for the other nodes to take an ending task out of their tables.
pub(super) const DRAIN: Duration = Duration::from_secs(2);

impl Tasks {
    /// The store wants it stopped: every node learns that from there.
    pub(super) async fn stop(&self, member: &Arc<Member>, task: &Task, revision: u64) {
        if let Some(served) = self.tell_to_end(&task.id) {
            let draining = reports::status(TaskState::Running, false, "draining");
            self.report(member, &task.id, TaskStatus { health: served.health, pid: served.pid, ..draining });
            member.applied_everywhere(revision, DRAIN).await;
        }
        self.halt(member, task).await;
        self.report(member, &task.id, reports::ended(TaskState::Shutdown, "stopped", None, None));
        member.kernel.kick();
    }

    /// Its healthcheck failed: it has been reported as not ready, which every node learns by gossip.
    pub(super) async fn give_up(&self, member: &Arc<Member>, task: &Task) {
        if self.tell_to_end(&task.id).is_some() {
            member.out_everywhere(&task.id, DRAIN).await;
        }
        let words = member.runtime.last_failure(&task.id).await;
        log::info!("task {} is unhealthy and is ended: {}", task.name(), words.as_deref().unwrap_or("no words"));
        self.halt(member, task).await;
        self.report(member, &task.id, reports::unhealthy(words));
        member.kernel.kick();
    }

    /// From now on its end is reported by whoever calls this. Some: its last report, where others may send calls to it.
    pub(super) fn tell_to_end(&self, id: &Id) -> Option<TaskStatus> {
        self.with(|known| {
            known.stopping.insert(id.clone());
            known.reports.get(id).filter(|report| report.state == TaskState::Running).cloned()
        })
    }

    /// Nothing of it runs any more afterwards; its output stays until it is removed.
    async fn halt(&self, member: &Member, task: &Task) {
        let has_instance = self.with(|known| known.instances.contains(&task.id));
        if has_instance {
            let grace = Duration::from_millis(task.spec.stop_grace_period_ms);
            let request = StopRequest { signal: own_stop_signal(task).ok().flatten().unwrap_or(libc::SIGTERM), grace };
            if let Err(error) = member.runtime.stop(&task.id, request).await {
                log::warn!("stop task {}: {error}", task.name());
                // Whatever is left of it goes by force; its output goes too.
                let _ = member.runtime.remove(&task.id).await.map_err(|error| log::error!("{error}"));
            }
        }
        member.kernel.forget_namespace(&task.id);
    }

    pub(super) async fn remove(&self, member: &Arc<Member>, id: &Id) {
        self.let_go(member, id);
        // A guest is none of the runtimes': they know nothing of it, and so remove nothing.
        match member.runtime.remove(id).await {
            Ok(()) => {
                member.kernel.forget_namespace(id);
                member.membership.remove_task(id.clone());
                self.with(|known| {
                    known.instances.remove(id);
                    known.reports.remove(id);
                    known.verdicts.remove(id);
                    known.stopping.remove(id);
                });
                member.kernel.kick();
            }
            Err(error) => {
                log::warn!("remove task {}: {error}; tried again", id.short());
                tokio::time::sleep(EVERY).await; // still busy: no hot loop
            }
        }
    }

    /// Waits until no operation is under way, for `longest` at most. The loop that begins them must have ended.
    pub async fn settle(&self, longest: Duration) {
        let idle = async {
            while self.with(|known| !known.busy.is_empty()) {
                self.kick.notified().await; // each operation's end kicks
            }
        };
        if tokio::time::timeout(longest, idle).await.is_err() {
            let busy = self.with(|known| known.busy.iter().map(|id| id.short().to_string()).collect::<Vec<_>>());
            log::warn!("tasks {} are still being started or stopped after {longest:?}", busy.join(", "));
        }
    }

    /// Kills every task of this node, as leaving and purging do: how many there were, and what failed.
    pub async fn stop_all(&self, member: &Member) -> (usize, Vec<String>) {
        let instances = match member.runtime.list().await {
            Ok(instances) => instances,
            Err(error) => return (0, vec![error.to_string()]),
        };
        let mut failed = Vec::new();
        for TaskInstance { task_id, launch, .. } in &instances {
            self.with(|known| known.stopping.insert(task_id.clone()));
            let grace = launch.as_ref().map_or(0, |launch| launch.stop_grace_ms).min(5_000);
            let signal = launch.as_ref().and_then(|launch| launch.stop_signal).unwrap_or(libc::SIGTERM);
            let request = StopRequest { signal, grace: Duration::from_millis(grace) };
            let _ = member.runtime.stop(task_id, request).await; // remove() kills what is left
            failed.extend(member.runtime.remove(task_id).await.err().map(|error| error.to_string()));
        }
        (instances.len() - failed.len(), failed)
    }
}

/// What the service says, by name (with or without SIG) or number; None where it says nothing.
pub fn own_stop_signal(task: &Task) -> anyhow::Result<Option<i32>> {
    let Some(word) = &task.spec.stop_signal else { return Ok(None) };
    let number = signal_number(word);
    number.map(Some).ok_or_else(|| anyhow::anyhow!("stop signal '{word}' is none: use a name like SIGTERM or a number"))
}
