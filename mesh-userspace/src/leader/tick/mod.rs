//! The tick: from what is desired and what is observed to what shall be desired next.
//!
//! ```text
//!   learn    which runtimes answer on which node, who is ready  written down, for commands and for the next leader
//!   ending   what ended, which nodes are lost or drained      tasks give back addresses, or are told to end
//!   slots    per service: who is too many, who is missing     tasks are told to end, or made
//!   rolling  per service: old tasks give way to new ones      "
//!   place    tasks without a node                             a node and addresses, or a word why not
//!   prune    history beyond what is kept                      tasks are deleted
//! ```
//! All steps change one copy of the cluster; the result is its difference to the original. Invariant: the steps are repeated
//! until they find nothing to do, so a second tick with the same observation and time finds nothing either. It never waits:
//! what is due later is found by a later tick, so it wants to be called on every change and when something is due
//! ([`super::due`]).

mod ending;
mod learn;
mod obstacle;
mod place;
mod prune;
mod restart;
mod rolling;
mod slots;
mod tally;

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{Change, Cluster, Id, Node, Observed, Service, Task, TaskSpec, TaskState};

pub(super) use place::attach;
pub(super) use restart::{Next, next};
pub(super) use rolling::trial_ms;
pub(super) use slots::{slots_of, wanted};

use super::{Ctx, Health, allocate, node_health, view};

/// Two passes are usual: one that changes something, one that finds nothing to do. The bound is for bugs only.
const MOST_PASSES: usize = 8;

/// The changes that what is observed calls for.
pub fn tick(cluster: &Cluster, observed: &Observed, ctx: &mut Ctx) -> Vec<Change> {
    if cluster.settings.is_none() {
        return Vec::new();
    }
    let health = cluster.nodes.values();
    let health = health.map(|node| (node.id.clone(), node_health(cluster, observed, node, ctx.now, ctx.timing)));
    let mut members: BTreeMap<Id, BTreeSet<Id>> = BTreeMap::new();
    for task in cluster.tasks.values() {
        members.entry(task.service_id.clone()).or_default().insert(task.id.clone());
    }
    let mut work = Work { after: cluster.clone(), members, observed, health: health.collect(), ctx };
    for _ in 0..MOST_PASSES {
        let before = work.after.clone();
        pass(&mut work);
        if work.after == before {
            break;
        }
    }
    Change::between(cluster, &work.after)
}

/// All steps once. What a later step frees or takes may concern an earlier one: the next pass sees it.
fn pass(work: &mut Work) {
    learn::runtimes(work);
    learn::readiness(work);
    ending::follow(work);
    let services: Vec<Id> = work.after.services.keys().cloned().collect();
    for id in &services {
        if work.after.services[id].pending_reason.is_some() {
            allocate::settle_service(&mut work.after, id);
        }
        slots::reconcile(work, id);
    }
    place::place_pending(work);
    prune::prune(work);
}

/// The copy of the cluster that a tick works on, and what it looks at.
struct Work<'a, 'c> {
    after: Cluster,
    /// Service → the tasks that it had or got. Without it a tick would look at every task for every service.
    members: BTreeMap<Id, BTreeSet<Id>>,
    observed: &'a Observed,
    health: BTreeMap<Id, Health>,
    ctx: &'a mut Ctx<'c>,
}

impl Work<'_, '_> {
    fn health(&self, node: &Id) -> Health {
        self.health.get(node).copied().unwrap_or(Health::Lost)
    }

    fn tasks_of(&self, service: &Id) -> impl Iterator<Item = &Task> {
        self.members.get(service).into_iter().flatten().filter_map(|task| self.after.tasks.get(task))
    }

    fn slots(&self, service: &Service) -> slots::Slots {
        slots_of(&self.after, service, self.tasks_of(&service.id))
    }

    fn node_of(&self, task: &Task) -> Option<&Node> {
        task.node_id.as_ref().and_then(|id| self.after.nodes.get(id))
    }

    /// Running, and ready to be served from.
    fn is_ready(&self, task: &Task) -> bool {
        view::is_ready(task, self.observed)
    }

    /// Tells a task to end. One that no node has yet is simply gone.
    fn stop(&mut self, id: &Id, why: &str) {
        let Some(task) = self.after.tasks.get_mut(id) else { return };
        if task.node_id.is_none() {
            self.after.tasks.remove(id);
            return;
        }
        task.desired = TaskState::Shutdown;
        task.message = why.to_string();
        let status = self.observed.tasks.get(id);
        task.draining = status.is_some_and(|status| status.state == TaskState::Running);
    }
}

/// The two specs run the same thing: what differs, if anything, concerns the leader only.
pub(super) fn runs_the_same(one: &TaskSpec, other: &TaskSpec) -> bool {
    let essence = |spec: &TaskSpec| TaskSpec {
        constraints: Vec::new(),
        max_replicas_per_node: 0,
        restart: Default::default(),
        ..spec.clone()
    };
    one == other || essence(one) == essence(other)
}
