//! Tasks that ended, and tasks that must: the first step of a tick.
//!
//! A task's addresses and endpoint numbers are given back only when its node says that it has ended, or is no member any more: a
//! node that is merely out of reach may still run it.

use crate::leader::Health;
use crate::model::{Availability, Id, Task, TaskState};

use super::Work;

/// Writes down what nodes report as ended, gives up tasks of lost nodes, moves tasks off drained ones.
pub(super) fn follow(work: &mut Work) {
    let ids: Vec<Id> = work.after.tasks.keys().cloned().collect();
    for id in ids {
        follow_task(work, &id);
    }
}

fn follow_task(work: &mut Work, id: &Id) {
    let Some(mut task) = work.after.tasks.get(id).cloned() else { return };
    if task.adopted.is_some() {
        return follow_adopted(work, task);
    }
    let service = work.after.services.get(&task.service_id);
    let delay_ms = service.map_or(task.spec.restart, |service| service.spec.task.restart).delay_ms;
    if service.is_none() {
        task.desired = TaskState::Remove;
    }
    let node = work.node_of(&task).map(|node| (node.name.clone(), node.availability));
    let ended = work.observed.tasks.get(id).filter(|status| status.state.is_terminal());
    let given_up = task.leader_state.is_some_and(TaskState::is_terminal);

    match (&node, ended) {
        (None, _) if task.desired == TaskState::Remove => {
            work.after.tasks.remove(id);
            return;
        }
        (_, Some(_)) if task.desired == TaskState::Remove => {
            work.after.tasks.remove(id);
            return;
        }
        // No node yet: the scheduler's affair.
        (None, _) if task.node_id.is_none() => {}
        (_, Some(status)) => {
            task.attachments.clear();
            task.draining = false;
            if !given_up && task.desired == TaskState::Running {
                task.leader_state = Some(status.state);
                task.message = status.error.clone().unwrap_or_else(|| status.message.clone());
                task.not_before = work.ctx.now + delay_ms;
            } else if !given_up {
                task.leader_state = Some(TaskState::Shutdown);
            }
            task.desired = TaskState::Shutdown;
        }
        (None, None) => {
            task.attachments.clear();
            task.draining = false;
            task.desired = TaskState::Shutdown;
            if !given_up {
                task.leader_state = Some(TaskState::Orphaned);
                task.message = "its node was removed from the cluster".to_string();
            }
        }
        (Some((name, _)), None) if !given_up && is_lost(work, &task.node_id) => {
            task.leader_state = Some(TaskState::Orphaned);
            task.message = format!("node {name} is unreachable");
            task.draining = false;
            if task.desired == TaskState::Running {
                task.desired = TaskState::Shutdown;
            }
        }
        (Some((name, Availability::Drain)), None) if task.desired == TaskState::Running => {
            work.stop(id, &format!("node {name} is drained"));
            return;
        }
        (Some(_), None) => {}
    }
    if work.after.tasks.get(id) != Some(&task) {
        work.after.tasks.insert(id.clone(), task);
    }
}

/// A container of somebody else ends when its node says so, or with its node; it is replaced by nobody and moved nowhere. After
/// `service rm` its task stays as a word that it was sent away, until its node does not list the container any more
/// (`command::adopt_containers`).
fn follow_adopted(work: &mut Work, mut task: Task) {
    if !work.after.services.contains_key(&task.service_id) {
        task.desired = TaskState::Remove;
    }
    let ended = work.observed.tasks.get(&task.id).filter(|status| status.state.is_terminal());
    let given_up = task.leader_state.is_some_and(TaskState::is_terminal);
    let (state, message) = match (work.node_of(&task), ended) {
        (None, _) if task.desired == TaskState::Remove => {
            work.after.tasks.remove(&task.id);
            return;
        }
        (None, _) => (TaskState::Orphaned, "its node was removed from the cluster".to_string()),
        (Some(_), Some(status)) if task.desired == TaskState::Running => {
            (status.state, status.error.clone().unwrap_or_else(|| status.message.clone()))
        }
        (Some(_), Some(_)) => (TaskState::Shutdown, task.message.clone()),
        (Some(_), None) => {
            work.after.tasks.insert(task.id.clone(), task);
            return;
        }
    };
    task.attachments.clear();
    task.draining = false;
    if !given_up {
        (task.leader_state, task.message) = (Some(state), message);
    }
    if task.desired == TaskState::Running {
        task.desired = TaskState::Shutdown;
    }
    work.after.tasks.insert(task.id.clone(), task);
}

fn is_lost(work: &Work, node: &Option<Id>) -> bool {
    node.as_ref().is_some_and(|node| work.health(node) == Health::Lost)
}
