//! This node's tasks: brought from what is desired to what runs, and reported.
//!
//! For each task at most one operation is under way (start, stop, remove); the loop only decides which begins next. Start: namespaces →
//! link, programs, maps, zone → command → *ready*. Stop: out of every node's tables → signal → grace → kill.
//! Invariant: a task is reported ready only while packets reach it; what a former agent started is adopted, never started twice.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use super::member::Member;
use super::now;
use crate::model::{Cluster, Id, Protocol, Task, TaskState, TaskStatus};
use crate::runtime::{
    Phase, RuntimeError, StopRequest, TaskEvent, TaskExit, TaskInstance, TaskLaunch, TaskRuntime, is_listening,
    signal_number,
};

/// A look at least so often: start delays end without anybody saying so.
const EVERY: Duration = Duration::from_secs(1);
/// Longest wait for the other nodes to take a stopping task out of their tables.
const DRAIN: Duration = Duration::from_secs(2);

/// Longest wait for a started command to listen on its published ports.
const LISTEN: Duration = Duration::from_secs(2);
/// Between two looks whether it does.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What this agent knows of its tasks.
#[derive(Default)]
pub struct Tasks {
    known: Mutex<Known>,
    kick: Notify,
}

#[derive(Default)]
struct Known {
    /// Task id → last report.
    reports: BTreeMap<Id, TaskStatus>,
    /// Tasks that the runtime has something of.
    instances: BTreeSet<Id>,
    /// Tasks with an operation under way.
    busy: BTreeSet<Id>,
    /// Tasks that were told to stop: their end is no failure.
    stopping: BTreeSet<Id>,
}

/// What to do next with one task.
#[derive(Clone, Debug, PartialEq)]
enum Step {
    Start(Box<Task>),
    /// The revision is the first that wants it stopped, as far as this node saw.
    Stop(Box<Task>, u64),
    /// Nobody knows it any more.
    Remove(Id),
}

impl Tasks {
    fn with<T>(&self, work: impl FnOnce(&mut Known) -> T) -> T {
        work(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tasks for ever.
    pub async fn run(self: &Arc<Self>, member: &Arc<Member>, mut events: mpsc::UnboundedReceiver<TaskEvent>) {
        let mut desired = member.desired.watch();
        loop {
            let cluster = desired.borrow_and_update().clone();
            for step in self.with(|known| next(known, &cluster, &member.id, member.desired.is_fresh(), now())) {
                let (tasks, member) = (self.clone(), member.clone());
                tokio::spawn(async move { tasks.perform(&member, step).await });
            }
            tokio::select! {
                _ = desired.changed() => {}
                event = events.recv() => match event {
                    Some(TaskEvent::Exited { task_id, exit }) => self.exited(member, &task_id, &exit),
                    // No runtime judges yet: specs with a healthcheck are refused.
                    Some(TaskEvent::Health { .. }) => {}
                    Some(TaskEvent::Progress { task_id, text }) => self.progress(member, &task_id, &text),
                    None => return,
                },
                () = self.kick.notified() => {}
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    /// Takes over what a former agent left; subscribe to the runtime's events first.
    ///
    /// An error ends the agent's start: with a list that is not whole, running tasks would be started again or given up.
    pub async fn adopt(&self, member: &Member) -> Result<(), RuntimeError> {
        let instances = member.runtime.list().await?;
        let mut running = 0;
        for TaskInstance { task_id, phase, prepared, started_at, .. } in instances {
            self.with(|known| known.instances.insert(task_id.clone()));
            if let Some(prepared) = prepared {
                member.kernel.set_namespace(task_id.clone(), prepared.netns);
            }
            match phase {
                Phase::Running => {
                    running += 1;
                    let since = started_at.unwrap_or_else(now);
                    let pid = None;
                    let status = TaskStatus {
                        state: TaskState::Running,
                        ready: true,
                        message: "started".into(),
                        error: None,
                        exit_code: None,
                        pid,
                        health: None,
                        since,
                    };
                    self.report(member, &task_id, status);
                }
                Phase::Exited(exit) => self.exited(member, &task_id, &exit),
                // Died between preparation and start: begun anew.
                Phase::Prepared => {
                    if let Err(error) = member.runtime.remove(&task_id).await {
                        log::warn!("{error}");
                    }
                    member.kernel.forget_namespace(&task_id);
                    self.with(|known| known.instances.remove(&task_id));
                }
            }
        }
        if running > 0 {
            log::info!("{running} running tasks of a former agent adopted");
        }
        member.membership.inventory_done();
        member.kernel.kick();
        Ok(())
    }

    /// Tasks that were reported in this life.
    pub fn reported(&self) -> Vec<Id> {
        self.with(|known| known.reports.keys().cloned().collect())
    }

    async fn perform(&self, member: &Arc<Member>, step: Step) {
        let id = match &step {
            Step::Start(task) | Step::Stop(task, _) => task.id.clone(),
            Step::Remove(id) => id.clone(),
        };
        match step {
            Step::Start(task) => self.start(member, &task).await,
            Step::Stop(task, revision) => self.stop(member, &task, revision).await,
            Step::Remove(id) => self.remove(member, &id).await,
        }
        self.with(|known| known.busy.remove(&id));
        self.kick.notify_one();
    }

    async fn start(&self, member: &Arc<Member>, task: &Task) {
        self.report(member, &task.id, status(TaskState::Preparing, false, "preparing"));
        if let Err(error) = self.begin(member, task).await {
            log::warn!("task {}: {error:#}", task.name());
            let state = if error.downcast_ref::<crate::runtime::RuntimeError>().is_some() {
                TaskState::Rejected
            } else {
                TaskState::Failed
            };
            self.report(member, &task.id, ended(state, "could not be started", Some(format!("{error:#}")), None));
            // Nothing half-made runs on.
            let removed = member.runtime.remove(&task.id).await;
            removed.unwrap_or_else(|error| log::warn!("remove task {}: {error}", task.name()));
            member.kernel.forget_namespace(&task.id);
            member.kernel.kick();
        }
    }

    async fn begin(&self, member: &Arc<Member>, task: &Task) -> anyhow::Result<()> {
        let cluster = member.desired.get();
        let first = task.attachments.first().and_then(|at| cluster.networks.get(&at.network_id));
        let nameservers = first.map(|network| network.gateway).into_iter().collect();
        let launch = TaskLaunch::of(task, own_stop_signal(task)?, nameservers, Vec::new());
        self.with(|known| known.instances.insert(task.id.clone()));
        let prepared = member.runtime.prepare(launch).await?;
        member.kernel.set_namespace(task.id.clone(), prepared.netns);
        member.kernel.round(member).await;
        member.kernel.check_task(task).await?;
        anyhow::ensure!(!member.kernel.is_closed(), "this node is leaving the cluster");
        self.report(member, &task.id, status(TaskState::Starting, false, "starting"));
        member.runtime.start(&task.id).await?;
        listens_soon(&cluster, task, prepared.pid).await;
        // The command may have ended already; its end has been reported then.
        self.report(
            member,
            &task.id,
            TaskStatus { pid: Some(prepared.pid), ..status(TaskState::Running, true, "started") },
        );
        Ok(())
    }

    async fn stop(&self, member: &Arc<Member>, task: &Task, revision: u64) {
        self.with(|known| known.stopping.insert(task.id.clone()));
        let is_running =
            self.with(|known| known.reports.get(&task.id).is_some_and(|report| report.state == TaskState::Running));
        if is_running {
            self.report(member, &task.id, status(TaskState::Running, false, "draining"));
            member.applied_everywhere(revision, DRAIN).await;
        }
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
        self.report(member, &task.id, ended(TaskState::Shutdown, "stopped", None, None));
        member.kernel.kick();
    }

    async fn remove(&self, member: &Arc<Member>, id: &Id) {
        match member.runtime.remove(id).await {
            Ok(()) => {
                member.kernel.forget_namespace(id);
                member.membership.remove_task(id.clone());
                self.with(|known| {
                    known.instances.remove(id);
                    known.reports.remove(id);
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

    /// The command ended. Asked for, the stopper reports it; else it is the task's own end.
    fn exited(&self, member: &Member, id: &Id, exit: &TaskExit) {
        member.kernel.forget_namespace(id);
        if self.with(|known| known.stopping.contains(id)) {
            return;
        }
        let report = if exit.code == 0 && exit.error.is_none() {
            ended(TaskState::Complete, "finished", None, Some(0))
        } else {
            let error = exit.error.clone().unwrap_or_else(|| format!("task: non-zero exit ({})", exit.code));
            ended(TaskState::Failed, "started", Some(error), Some(exit.code))
        };
        self.report(member, id, TaskStatus { since: exit.at, ..report });
        member.kernel.kick();
    }

    /// What a preparation is at; once it is over, nobody wants to know.
    fn progress(&self, member: &Member, id: &Id, text: &str) {
        let is_preparing =
            self.with(|known| known.reports.get(id).is_some_and(|report| report.state == TaskState::Preparing));
        if is_preparing {
            self.report(member, id, status(TaskState::Preparing, false, &format!("preparing: {text}")));
        }
    }

    fn report(&self, member: &Member, id: &Id, status: TaskStatus) {
        log::debug!("task {}: {:?} {}", id.short(), status.state, status.message);
        // Under one lock, since ends are reported from elsewhere: what has ended never runs again.
        self.with(|known| {
            let is_over = known.reports.get(id).is_some_and(|report| report.state.is_terminal());
            if !is_over || status.state.is_terminal() {
                known.reports.insert(id.clone(), status.clone());
                member.membership.set_task_status(id.clone(), status);
            }
        });
    }

    /// Kills every task of this node, as leaving and purging do.
    pub async fn stop_all(&self, member: &Member) -> usize {
        let instances = member.runtime.list().await.unwrap_or_default();
        for TaskInstance { task_id, launch, .. } in &instances {
            self.with(|known| known.stopping.insert(task_id.clone()));
            let grace = launch.as_ref().map_or(0, |launch| launch.stop_grace_ms).min(5_000);
            let signal = launch.as_ref().and_then(|launch| launch.stop_signal).unwrap_or(libc::SIGTERM);
            let request = StopRequest { signal, grace: Duration::from_millis(grace) };
            let _ = member.runtime.stop(task_id, request).await; // remove() kills what is left
            if let Err(error) = member.runtime.remove(task_id).await {
                log::warn!("{error}");
            }
        }
        instances.len()
    }
}

/// Waits a little until the task listens where its published TCP ports lead: who is balanced to it sooner is refused. A command that
/// never listens is taken as it is.
async fn listens_soon(cluster: &Cluster, task: &Task, pid: u32) {
    let service = cluster.services.get(&task.service_id);
    let tcp = service.iter().flat_map(|service| &service.ports).filter(|port| port.protocol == Protocol::Tcp);
    let ports: Vec<u16> = tcp.map(|port| port.target).collect();
    let deadline = tokio::time::Instant::now() + LISTEN;
    while !ports.is_empty() && !is_listening(pid, &ports) && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The steps to begin now. Pure but for marking their tasks as busy.
fn next(known: &mut Known, cluster: &Cluster, me: &Id, is_fresh: bool, now: u64) -> Vec<Step> {
    let mut steps = Vec::new();
    for task in
        cluster.tasks.values().filter(|task| task.node_id.as_ref() == Some(me) && !known.busy.contains(&task.id))
    {
        let is_over = known.reports.get(&task.id).is_some_and(|report| report.state.is_terminal());
        let has_begun = known.reports.contains_key(&task.id) || known.instances.contains(&task.id);
        match task.desired {
            TaskState::Running if !has_begun && task.not_before <= now => {
                steps.push(Step::Start(Box::new(task.clone())))
            }
            TaskState::Running => {}
            _ if !is_over => steps.push(Step::Stop(Box::new(task.clone()), cluster.revision)),
            _ => {}
        }
    }
    // Only with the store's word: a cached state may be older than the task.
    if is_fresh {
        let gone = known.instances.iter().chain(known.reports.keys()).filter(|id| !cluster.tasks.contains_key(*id));
        let gone: BTreeSet<&Id> = gone.filter(|id| !known.busy.contains(*id)).collect();
        steps.extend(gone.into_iter().cloned().map(Step::Remove));
    }
    known.busy.extend(steps.iter().map(|step| match step {
        Step::Start(task) | Step::Stop(task, _) => task.id.clone(),
        Step::Remove(id) => id.clone(),
    }));
    steps
}

fn status(state: TaskState, ready: bool, message: &str) -> TaskStatus {
    TaskStatus {
        state,
        ready,
        message: message.into(),
        error: None,
        exit_code: None,
        pid: None,
        health: None,
        since: now(),
    }
}

fn ended(state: TaskState, message: &str, error: Option<String>, exit_code: Option<i32>) -> TaskStatus {
    TaskStatus { error, exit_code, ..status(state, false, message) }
}

/// What the service says, by name (with or without SIG) or number; None where it says nothing.
fn own_stop_signal(task: &Task) -> anyhow::Result<Option<i32>> {
    let Some(word) = &task.spec.stop_signal else { return Ok(None) };
    let number = signal_number(word);
    number.map(Some).ok_or_else(|| anyhow::anyhow!("stop signal '{word}' is none: use a name like SIGTERM or a number"))
}
