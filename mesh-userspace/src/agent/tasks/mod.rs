//! This node's tasks: brought from what is desired to what runs, and reported.
//!
//! For each task at most one operation is under way; the loop only decides which begins next ([`steps`]). Start ([`begin`]): namespaces →
//! link, programs, maps, zone → command → healthcheck, if any → *ready*. End ([`end`]): out of every node's tables → signal → grace → kill.
//! Invariant: a task is reported ready only while packets reach it and no healthcheck says otherwise; what a former agent started is
//! adopted ([`adopt`]), never started twice; a container of somebody else ([`guests`]) is connected and disconnected, and nothing more. Must not: run anything itself (runtime), or write a map (kernel's rounds do).

mod adopt;
mod begin;
mod end;
mod guests;
mod reports;
mod steps;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use self::steps::{Retry, Step, next};
use super::member::Member;
use super::now;
use crate::model::{Id, Observed, TaskHealth, TaskState, TaskStatus};
use crate::runtime::docker::{Adoptable, Guest};
use crate::runtime::{TaskEvent, TaskExit};

/// A look at least so often: start delays end without anybody saying so.
const EVERY: Duration = Duration::from_secs(1);

/// What this agent knows of its tasks.
#[derive(Default)]
pub struct Tasks {
    known: Mutex<Known>,
    kick: Arc<Notify>,
}

#[derive(Default)]
struct Known {
    /// Task id → last report.
    reports: BTreeMap<Id, TaskStatus>,
    /// Task id → last verdict that its runtime told.
    verdicts: BTreeMap<Id, TaskHealth>,
    /// Tasks that the runtime has something of.
    instances: BTreeSet<Id>,
    /// Tasks with an operation under way.
    busy: BTreeSet<Id>,
    /// Tasks that were told to stop: whoever told them reports their end.
    stopping: BTreeSet<Id>,
    /// Containers of others that are tasks of this node, by task id.
    guests: BTreeMap<Id, Guest>,
    /// Containers that ask to join; None: the Engine does not say.
    listed: Option<Vec<Adoptable>>,
    /// Tasks of which nothing runs any more.
    gone: BTreeSet<Id>,
    /// Tasks that could not be removed.
    unremoved: BTreeMap<Id, Retry>,
}

impl Tasks {
    fn with<T>(&self, work: impl FnOnce(&mut Known) -> T) -> T {
        work(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Tasks for ever.
    pub async fn run(self: &Arc<Self>, member: &Arc<Member>, mut events: mpsc::UnboundedReceiver<TaskEvent>) {
        let mut desired = member.desired.watch();
        let mut adoptable = member.runtime.adoptable();
        loop {
            let listed = adoptable.borrow_and_update().clone();
            self.listed(member, listed);
            let cluster = desired.borrow_and_update().clone();
            for step in self.with(|known| next(known, &cluster, &member.id, member.desired.is_fresh(), now())) {
                let (tasks, member) = (self.clone(), member.clone());
                tokio::spawn(async move { tasks.perform(&member, step).await });
            }
            tokio::select! {
                _ = desired.changed() => {}
                event = events.recv() => match event {
                    Some(TaskEvent::Gone { task_id }) => self.gone(member, &task_id),
                    Some(TaskEvent::Exited { task_id, exit }) => self.exited(member, &task_id, &exit),
                    Some(TaskEvent::Health { task_id, health }) => self.judged(member, &task_id, health),
                    Some(TaskEvent::Progress { task_id, text }) => self.progress(member, &task_id, &text),
                    None => return,
                },
                Ok(()) = adoptable.changed() => {}
                () = self.kick.notified() => {}
                () = tokio::time::sleep(EVERY) => {}
            }
        }
    }

    /// This node's own tasks as they are known here: gossip tells them back a moment later, and a round of that moment must not take them
    /// out of the tables.
    pub fn complete(&self, observed: &mut Observed) {
        self.with(|known| observed.tasks.extend(known.reports.iter().map(|(id, report)| (id.clone(), report.clone()))));
    }

    async fn perform(&self, member: &Arc<Member>, step: Step) {
        let id = step.task_id().clone();
        match step {
            Step::Start(task) => self.start(member, &task).await,
            Step::Stop(task, revision) => self.stop(member, &task, revision).await,
            Step::GiveUp(task) => self.give_up(member, &task).await,
            Step::Remove(id) => self.remove(member, &id).await,
            Step::Join(task, found) => self.join(member, &task, found).await,
            Step::Dismiss(task, revision) => self.dismiss(member, &task, revision).await,
            Step::Ended(task) => self.ended(member, &task),
        }
        self.with(|known| known.busy.remove(&id));
        self.kick.notify_one();
    }

    /// Nothing of it runs any more: out of tables and names at once, however long its runtime takes to say how it ended.
    fn gone(&self, member: &Member, id: &Id) {
        member.kernel.forget_namespace(id);
        self.with(|known| known.gone.insert(id.clone()));
        self.update(member, id, |known| {
            known.reports.get(id).filter(|former| former.ready && !known.stopping.contains(id)).map(reports::gone)
        });
        member.kernel.kick();
    }

    /// The command ended. Asked for, the stopper reports it; else it is the task's own end.
    fn exited(&self, member: &Member, id: &Id, exit: &TaskExit) {
        member.kernel.forget_namespace(id);
        if self.with(|known| known.stopping.contains(id)) {
            return;
        }
        self.report(member, id, reports::exited(exit));
        member.kernel.kick();
    }

    /// The healthcheck's verdict changed: in or out of tables and names at once; what becomes of an unhealthy task is a step's affair.
    fn judged(&self, member: &Member, id: &Id, health: TaskHealth) {
        self.with(|known| known.verdicts.insert(id.clone(), health));
        self.update(member, id, |known| {
            let is_over = known.stopping.contains(id) || known.gone.contains(id);
            let former = known.reports.get(id).filter(|_| !is_over)?;
            reports::judged(former, health, now())
        });
        member.kernel.kick();
    }

    /// What a preparation is at; once it is over, nobody wants to know.
    fn progress(&self, member: &Member, id: &Id, text: &str) {
        self.update(member, id, |known| {
            let former = known.reports.get(id).filter(|report| report.state == TaskState::Preparing)?;
            Some(TaskStatus { message: format!("preparing: {text}"), ..former.clone() })
        });
    }

    fn report(&self, member: &Member, id: &Id, status: TaskStatus) {
        self.update(member, id, |_| Some(status));
    }

    /// Reports what `decide` makes of what is known, under one lock, since ends and verdicts come from elsewhere: what has ended never runs
    /// again.
    fn update(&self, member: &Member, id: &Id, decide: impl FnOnce(&Known) -> Option<TaskStatus>) {
        self.with(|known| {
            let Some(status) = decide(known) else { return };
            log::debug!("task {}: {:?} {}", id.short(), status.state, status.message);
            let is_over = known.reports.get(id).is_some_and(|report| report.state.is_terminal());
            if !is_over || status.state.is_terminal() {
                known.reports.insert(id.clone(), status.clone());
                member.membership.set_task_status(id.clone(), status);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_tasks_are_known_before_gossip_tells_of_them() {
        let tasks = Tasks::default();
        let (own, others) = (Id::from_bytes([7; 16]), Id::from_bytes([8; 16]));
        let running = reports::runs(Some(TaskHealth::Healthy), None, 1);
        tasks.with(|known| known.reports.insert(own.clone(), running.clone()));
        let mut observed = Observed::default();
        observed.tasks.insert(own.clone(), reports::status(crate::model::TaskState::Preparing, false, "an older word"));
        observed.tasks.insert(others.clone(), running.clone());
        tasks.complete(&mut observed);
        assert_eq!(observed.tasks, vec![(own, running.clone()), (others, running)].into());
    }
}
