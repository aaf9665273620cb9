//! The slots of a service: one running task in each – 1..=replicas, or one per node for a global service.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::leader::Constraint;
use crate::model::{Availability, Id, Mode, Node, Service, ServiceSpec, Task, TaskState, UpdateOrder};

use super::{Work, place, restart, rolling, runs_the_same};

/// What a slot is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::leader) enum Slot {
    Number(u32),
    Node(Id),
}

/// A slot's tasks, oldest first; tasks that are being removed are not among them.
pub(in crate::leader) type Slots = BTreeMap<Slot, Vec<Task>>;

/// The tasks of a service by slot; every slot that is wanted is there, also an empty one.
pub(in crate::leader) fn slots_of<'a>(
    cluster: &crate::model::Cluster,
    service: &Service,
    tasks: impl Iterator<Item = &'a Task>,
) -> Slots {
    let mut slots: Slots = wanted(cluster, &service.spec).into_iter().map(|slot| (slot, Vec::new())).collect();
    for task in tasks.filter(|task| task.desired != TaskState::Remove) {
        let slot = match (service.spec.mode, &task.node_id) {
            (Mode::Global, Some(node)) => Slot::Node(node.clone()),
            _ => Slot::Number(task.slot),
        };
        slots.entry(slot).or_default().push(task.clone());
    }
    for tasks in slots.values_mut() {
        tasks.sort_by(|one, other| (one.created_at, &one.id).cmp(&(other.created_at, &other.id)));
    }
    slots
}

/// The slots that the spec asks for now.
pub(in crate::leader) fn wanted(cluster: &crate::model::Cluster, spec: &ServiceSpec) -> BTreeSet<Slot> {
    match spec.mode {
        Mode::Replicated { replicas } => (1..=replicas).map(Slot::Number).collect(),
        Mode::Global => {
            let nodes = cluster.nodes.values().filter(|node| node.availability != Availability::Drain);
            // Where the runtime does not answer nothing is asked for, but what runs there may live on.
            let can = |node: &&Node| node.runtimes.contains(&spec.task.runtime) || lives_on(cluster, spec, node);
            let nodes = nodes.filter(|node| matches(spec, node)).filter(can);
            nodes.map(|node| Slot::Node(node.id.clone())).collect()
        }
        // Who is there is there; nobody is missing.
        Mode::Adopted => {
            let tasks = cluster.tasks.values().filter(|task| task.service_name == spec.name && is_live(task));
            tasks.map(|task| Slot::Number(task.slot)).collect()
        }
    }
}

/// The service has a task there that shall run.
fn lives_on(cluster: &crate::model::Cluster, spec: &ServiceSpec, node: &Node) -> bool {
    let tasks = cluster.tasks.values().filter(|task| task.service_name == spec.name && is_live(task));
    tasks.filter(|task| task.spec.runtime == spec.task.runtime).any(|task| task.node_id.as_ref() == Some(&node.id))
}

/// The node is what the spec's constraints ask for. They were parsed when the service was made.
pub(in crate::leader) fn matches(spec: &ServiceSpec, node: &Node) -> bool {
    let constraints = spec.task.constraints.iter();
    constraints.filter_map(|text| Constraint::parse(text).ok()).all(|constraint| constraint.allows(node))
}

/// The task shall run.
pub(super) fn is_live(task: &Task) -> bool {
    task.desired == TaskState::Running
}

/// Brings the slots of one service to what its spec asks for.
pub(super) fn reconcile(work: &mut Work, id: &Id) {
    // Containers of others: nothing is started, replaced or ended for it.
    if work.after.services[id].spec.mode == Mode::Adopted {
        return;
    }
    rolling::judge(work, id);
    stop_unwanted(work, id);
    refresh(work, id);
    rolling::advance(work, id);
    fill(work, id);
    rolling::complete(work, id);
}

fn stop_unwanted(work: &mut Work, id: &Id) {
    let service = &work.after.services[id];
    let wanted = wanted(&work.after, &service.spec);
    let why = match service.spec.mode {
        Mode::Replicated { .. } => "scaled down",
        Mode::Global | Mode::Adopted => "its node is not eligible any more",
    };
    let slots = work.slots(service);
    let unwanted = slots.into_iter().filter(|(slot, _)| !wanted.contains(slot));
    let live: Vec<Id> = unwanted.flat_map(|(_, tasks)| tasks).filter(is_live).map(|task| task.id).collect();
    live.iter().for_each(|task| work.stop(task, why));
}

/// Tasks that run what they should learn the newest version; tasks that no node has yet learn the whole spec.
fn refresh(work: &mut Work, id: &Id) {
    let service = work.after.services[id].clone();
    let is_outdated = |task: &&Task| {
        is_live(task)
            && (task.service_version != service.version || *task.spec != service.spec.task)
            && (task.node_id.is_none() || runs_the_same(&task.spec, &service.spec.task))
    };
    let outdated: Vec<Id> = work.tasks_of(id).filter(is_outdated).map(|task| task.id.clone()).collect();
    let spec = Arc::new(service.spec.task);
    for id in &outdated {
        let Some(task) = work.after.tasks.get_mut(id) else { continue };
        task.service_version = service.version;
        task.spec = spec.clone();
    }
}

/// Makes a task in every slot that has none and may have one.
fn fill(work: &mut Work, id: &Id) {
    let service = work.after.services[id].clone();
    let slots = work.slots(&service);
    for slot in wanted(&work.after, &service.spec) {
        let tasks = slots.get(&slot).map_or(&[][..], Vec::as_slice);
        let waits = tasks.iter().any(is_live) || waits_for_old(work, &service, tasks);
        if !waits && restart::next(&service.spec, tasks, work.ctx.now) == restart::Next::Now {
            start(work, &service, &slot);
        }
    }
}

/// With stop-first, a new task starts when its predecessor has ended.
pub(super) fn waits_for_old(work: &Work, service: &Service, tasks: &[Task]) -> bool {
    let ending = tasks.iter().filter(|task| task.desired == TaskState::Shutdown && task.leader_state.is_none());
    let mut old = ending.filter(|task| rolling::is_old(work, service, task));
    rolling::config(work, service).order == UpdateOrder::StopFirst && old.next().is_some()
}

/// Makes a task for the slot. A global one goes to its node at once, or is not made.
pub(super) fn start(work: &mut Work, service: &Service, slot: &Slot) {
    let task = Task {
        id: work.ctx.new_task_id(&work.after),
        service_id: service.id.clone(),
        service_name: service.spec.name.clone(),
        slot: if let Slot::Number(number) = slot { *number } else { 0 },
        node_id: None,
        spec: service.spec.task.clone().into(),
        service_version: service.version,
        attachments: Vec::new(),
        desired: TaskState::Running,
        draining: false,
        leader_state: Some(TaskState::Pending),
        message: String::new(),
        created_at: work.ctx.now,
        not_before: 0,
        adopted: None,
    };
    work.members.entry(service.id.clone()).or_default().insert(task.id.clone());
    match slot {
        Slot::Number(_) => drop(work.after.tasks.insert(task.id.clone(), task)),
        Slot::Node(node) => place::place_on(work, task, node),
    }
}
