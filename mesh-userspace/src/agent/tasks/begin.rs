//! A task begins: namespaces → link, programs, maps, zone → command → ready, at once or by its healthcheck.
//!
//! An image may take minutes to come, and for ever from a registry that hangs. Invariant: a task that is not wanted any more holds nobody up
//! meanwhile, and its command never starts.

use std::sync::Arc;
use std::time::Duration;

use super::{Tasks, end::own_stop_signal, reports};
use crate::agent::desired::Desired;
use crate::agent::member::Member;
use crate::agent::now;
use crate::model::{Cluster, Id, Protocol, Task, TaskHealth, TaskState, TaskStatus};
use crate::runtime::{RuntimeError, TaskLaunch, TaskRuntime, is_listening};

/// Longest wait for a started command to listen on its published ports.
const LISTEN: Duration = Duration::from_secs(2);
/// Between two looks whether it does.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How long a preparation may go on that nobody wants any more: all but the coming of an image is over by then, with nothing left half-made.
const LET_GO: Duration = Duration::from_secs(1);

/// What became of a task that was to begin.
enum Begun {
    Runs,
    /// It is not wanted any more, and its command was not started.
    Withdrawn,
}

impl Tasks {
    pub(super) async fn start(&self, member: &Arc<Member>, task: &Task) {
        self.report(member, &task.id, reports::status(TaskState::Preparing, false, "preparing"));
        let begun = self.begin(member, task).await;
        if let Ok(Begun::Withdrawn) = begun {
            // The next step reports that it has stopped; this end is not its command's.
            self.tell_to_end(&task.id);
            match member.runtime.remove(&task.id).await {
                Ok(()) => drop(self.with(|known| known.instances.remove(&task.id))),
                Err(error) => log::warn!("remove task {}, which is not wanted any more: {error}", task.name()),
            }
            member.kernel.forget_namespace(&task.id);
        }
        if let Err(error) = begun {
            log::warn!("task {}: {error:#}", task.name());
            let is_runtimes = error.downcast_ref::<RuntimeError>().is_some();
            let state = if is_runtimes { TaskState::Rejected } else { TaskState::Failed };
            let report = reports::ended(state, "could not be started", Some(format!("{error:#}")), None);
            self.report(member, &task.id, report);
            // Nothing half-made runs on.
            let removed = member.runtime.remove(&task.id).await;
            removed.unwrap_or_else(|error| log::warn!("remove task {}: {error}", task.name()));
            member.kernel.forget_namespace(&task.id);
            member.kernel.kick();
        }
    }

    async fn begin(&self, member: &Arc<Member>, task: &Task) -> anyhow::Result<Begun> {
        let cluster = member.desired.get();
        let first = task.attachments.first().and_then(|at| cluster.networks.get(&at.network_id));
        let nameservers = first.and_then(|network| network.gateways.first()).into_iter().collect();
        let launch = TaskLaunch::of(task, own_stop_signal(task)?, nameservers, Vec::new());
        self.with(|known| known.instances.insert(task.id.clone()));
        let withdrawn = async {
            unwanted(&member.desired, &task.id).await;
            tokio::time::sleep(LET_GO).await;
        };
        let prepared = tokio::select! {
            prepared = member.runtime.prepare(launch) => prepared?,
            () = withdrawn => return Ok(Begun::Withdrawn),
        };
        member.kernel.set_namespace(task.id.clone(), prepared.netns);
        member.kernel.round(member).await;
        member.kernel.check_task(task).await?;
        anyhow::ensure!(!member.kernel.is_closed(), "this node is leaving the cluster");
        if !is_wanted(&member.desired.get(), &task.id, member.desired.is_fresh()) {
            return Ok(Begun::Withdrawn);
        }
        self.report(member, &task.id, reports::status(TaskState::Starting, false, "starting"));
        member.runtime.start(&task.id).await?;
        let health = verdict(member, task).await;
        // Who has a healthcheck is asked by it.
        if health.is_none() {
            listens_soon(&cluster, task, prepared.pid).await;
        }
        // The command may have ended already, or have been judged: that has been reported then.
        self.update(member, &task.id, |known| {
            let is_over = |report: &TaskStatus| report.state.is_terminal() || known.gone.contains(&task.id);
            let report = known.reports.get(&task.id).filter(|report| !is_over(report))?;
            let health = known.verdicts.get(&task.id).copied().or(health);
            let report = if report.health.is_some() { report.clone() } else { reports::runs(health, None, now()) };
            Some(TaskStatus { pid: Some(prepared.pid), ..report })
        });
        Ok(Begun::Runs)
    }
}

/// A task that a state of before the store was heard does not know may be newer than that state.
fn is_wanted(cluster: &Cluster, task: &Id, is_fresh: bool) -> bool {
    cluster.tasks.get(task).map_or(!is_fresh, |task| task.desired == TaskState::Running)
}

/// Waits until the task shall not run any more.
async fn unwanted(desired: &Desired, task: &Id) {
    let mut watch = desired.watch();
    if watch.wait_for(|cluster| !is_wanted(cluster, task, desired.is_fresh())).await.is_err() {
        std::future::pending().await // nobody writes the state any more: the agent ends
    }
}

/// What the runtime says of the task's health; its image may have a check that the service's spec doesn't know of.
async fn verdict(member: &Member, task: &Task) -> Option<TaskHealth> {
    let has_check = task.spec.health.as_ref().is_some_and(|check| !check.is_disabled());
    member.runtime.health(&task.id).await.unwrap_or_else(|error| {
        log::warn!("task {}: {error}: its health is not known yet", task.name());
        has_check.then_some(TaskHealth::Starting)
    })
}

/// Waits a little until the task listens where its published TCP ports lead: who is balanced to it sooner is refused. A command that
/// never listens is taken as it is.
pub(super) async fn listens_soon(cluster: &Cluster, task: &Task, pid: u32) {
    let service = cluster.services.get(&task.service_id);
    let tcp = service.iter().flat_map(|service| &service.ports).filter(|port| port.protocol == Protocol::Tcp);
    let ports: Vec<u16> = tcp.map(|port| port.target).collect();
    let deadline = tokio::time::Instant::now() + LISTEN;
    while !ports.is_empty() && !is_listening(pid, &ports) && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::super::steps;
    use super::*;

    #[tokio::test]
    async fn a_wish_that_changes_is_seen_while_a_task_is_prepared() {
        let (folder, id) = (tempfile::tempdir().unwrap(), Id::from_bytes([7; 16]));
        let desired = Desired::new(steps::tests::cluster(TaskState::Running), folder.path(), true);
        let seen = unwanted(&desired, &id);
        tokio::pin!(seen);
        assert!(futures_util::poll!(&mut seen).is_pending());
        let next = |state| Cluster { revision: desired.get().revision + 1, ..steps::tests::cluster(state) };
        desired.set(next(TaskState::Running));
        assert!(futures_util::poll!(&mut seen).is_pending(), "another change is none of this task's");
        desired.set(next(TaskState::Shutdown));
        assert!(futures_util::poll!(&mut seen).is_ready());
        desired.set(Cluster { revision: 99, ..Cluster::default() });
        unwanted(&desired, &id).await;
        assert!(is_wanted(&Cluster::default(), &id, false), "a state from the cache may be older than the task");
    }
}
