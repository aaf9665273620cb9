//! The rolling update: old tasks give way to new ones, so many at a time, in the order and at the pace the spec says.

use crate::leader::allocate::networks_of;
use crate::leader::{Health, command};
use crate::model::{
    Availability, Id, Node, Service, Task, UpdateConfig, UpdateFailureAction, UpdateOrder, UpdateState, UpdateStatus,
};

use super::slots::{Slot, is_live, matches, start, waits_for_old, wanted};
use super::{Work, restart, runs_the_same};

/// The task runs something else, or elsewhere, than the service's spec now says.
pub(super) fn is_old(work: &Work, service: &Service, task: &Task) -> bool {
    let networks: Vec<&Id> = task.attachments.iter().map(|at| &at.network_id).collect();
    let moved = task.node_id.is_some() && !networks.into_iter().eq(&networks_of(&work.after, &service.spec));
    !runs_the_same(&task.spec, &service.spec.task)
        || moved
        || work.node_of(task).is_some_and(|node| !matches(&service.spec, node))
}

/// By which rules the service is being updated.
pub(super) fn config(work: &Work, service: &Service) -> UpdateConfig {
    let status = work.after.updates.get(&service.id);
    let back = status.is_some_and(|status| status.state.is_rollback());
    if back { service.spec.rollback } else { service.spec.update }
}

/// Counts the new tasks that failed, and does what the spec says for too many of them.
pub(super) fn judge(work: &mut Work, id: &Id) {
    let service = work.after.services[id].clone();
    let Some(status) = work.after.updates.get(id).filter(|status| status.state.is_active()).cloned() else { return };
    let rules = config(work, &service);
    let slots = work.slots(&service);
    let failed = |task: &&Task| {
        task.created_at >= status.started_at
            && restart::ended_by_itself(task)
            && runs_the_same(&task.spec, &service.spec.task)
    };
    let failures: Vec<&Task> = slots.values().filter_map(|tasks| tasks.iter().rfind(failed)).collect();
    let all = wanted(&work.after, &service.spec).len().max(1);
    let Some(example) = failures.first().filter(|_| failures.len() as f32 / all as f32 > rules.max_failure_ratio)
    else {
        return;
    };
    let why = format!("due to failure or early termination of task {}: {}", example.id.short(), example.message);
    match (rules.failure_action, &service.previous_spec) {
        (UpdateFailureAction::Continue, _) => {}
        (UpdateFailureAction::Rollback, Some(previous)) if status.state == UpdateState::Updating => {
            let back = UpdateState::RollbackStarted;
            let rolled = command::replace_spec(&mut work.after, id, (**previous).clone(), back, work.ctx);
            match (rolled, work.after.updates.get_mut(id)) {
                (Ok(_), Some(status)) => status.message = format!("update rolled back {why}"),
                (Err(error), _) => pause(work, id, status, format!("update paused {why}; no way back: {error}")),
                (Ok(_), None) => {}
            }
        }
        _ => pause(work, id, status, format!("update paused {why}")),
    }
}

fn pause(work: &mut Work, id: &Id, status: UpdateStatus, message: String) {
    let state = if status.state.is_rollback() { UpdateState::RollbackPaused } else { UpdateState::Paused };
    work.after.updates.insert(id.clone(), UpdateStatus { state, message, ..status });
}

/// Lets old tasks go whose successor is ready, and takes on as many further slots as the rules allow.
pub(super) fn advance(work: &mut Work, id: &Id) {
    let service = work.after.services[id].clone();
    let rules = config(work, &service);
    let wanted = wanted(&work.after, &service.spec);
    let started_at = work.after.updates.get(id).map_or(0, |status| status.started_at);
    let mut candidates = Vec::new();
    let mut in_flight = 0;
    for (slot, tasks) in work.slots(&service) {
        if !wanted.contains(&slot) || !can_be_filled(work, &service, &slot) {
            continue;
        }
        let live: Vec<&Task> = tasks.iter().filter(|task| is_live(task)).collect();
        let (old, new): (Vec<&Task>, Vec<&Task>) = live.into_iter().partition(|task| is_old(work, &service, task));
        let ready = new.iter().any(|task| work.is_ready(task));
        let next = restart::next(&service.spec, &tasks, work.ctx.now);
        match (old.is_empty(), new.is_empty()) {
            // A task that waited for a node before the update began holds nobody up: no old one went for it.
            (true, false) => {
                let counts = new.iter().any(|task| task.node_id.is_some() || task.created_at >= started_at);
                in_flight += usize::from(!ready && counts);
            }
            (true, true) => {
                in_flight += usize::from(next != restart::Next::Never || waits_for_old(work, &service, &tasks))
            }
            (false, false) if ready => old.iter().for_each(|task| work.stop(&task.id, "replaced by an update")),
            (false, false) => in_flight += 1,
            (false, true) => {
                let may_start = next == restart::Next::Now || rules.order == UpdateOrder::StopFirst;
                let serves = old.iter().any(|task| work.is_ready(task));
                let old: Vec<Id> = old.iter().map(|task| task.id.clone()).collect();
                candidates.extend(may_start.then_some((serves, slot, old)));
            }
        }
    }
    let status = work.after.updates.get(id);
    if status.is_some_and(|status| status.state.is_paused()) || pausing_between(work, &service, &rules) {
        return;
    }
    // Slots that serve nobody lose nothing: they go first.
    candidates.sort();
    let at_once = if rules.parallelism == 0 { usize::MAX } else { rules.parallelism as usize };
    for (_, slot, old) in candidates.into_iter().take(at_once.saturating_sub(in_flight)) {
        match rules.order {
            UpdateOrder::StartFirst => start(work, &service, &slot),
            UpdateOrder::StopFirst => old.iter().for_each(|task| work.stop(task, "replaced by an update")),
        }
    }
}

/// The node of a global slot answers, and so does the runtime there; one that doesn't shall not hold up the others.
fn can_be_filled(work: &Work, service: &Service, slot: &Slot) -> bool {
    match slot {
        Slot::Number(_) => true,
        Slot::Node(id) => {
            let can = |node: &Node| {
                node.availability == Availability::Active && node.runtimes.contains(&service.spec.task.runtime)
            };
            work.after.nodes.get(id).is_some_and(can) && work.health(id) == Health::Ready
        }
    }
}

/// The spec's delay since the last new task became ready is not over.
fn pausing_between(work: &Work, service: &Service, rules: &UpdateConfig) -> bool {
    let Some(status) = work.after.updates.get(&service.id) else { return false };
    let new = |task: &&Task| is_live(task) && task.created_at >= status.started_at && !is_old(work, service, task);
    let new = work.tasks_of(&service.id).filter(new);
    let mut since = new.filter_map(|task| status.ready_since.get(&task.id));
    since.any(|since| since + rules.delay_ms > work.ctx.now)
}

/// How long a new task must stay ready. Swarm's rule: the trial outlasts the delay.
pub(in crate::leader) fn trial_ms(rules: &UpdateConfig) -> u64 {
    if rules.delay_ms >= rules.monitor_ms { rules.delay_ms + 1_000 } else { rules.monitor_ms }
}

/// The update is done when every slot has a new task that stood its trial, or has given up by the restart policy.
pub(super) fn complete(work: &mut Work, id: &Id) {
    let service = work.after.services[id].clone();
    let Some(mut status) = work.after.updates.get(id).filter(|status| status.state.is_active()).cloned() else {
        return;
    };
    let (rules, now) = (config(work, &service), work.ctx.now);
    let trial_ms = trial_ms(&rules);
    // One that is older than the update is not on trial.
    let stood = |task: &Task| match status.ready_since.get(&task.id) {
        Some(since) => since + trial_ms <= now,
        None => work.is_ready(task) && task.created_at < status.started_at,
    };
    let slots = work.slots(&service);
    let wanted = wanted(&work.after, &service.spec).into_iter().filter(|slot| can_be_filled(work, &service, slot));
    let done = wanted.filter_map(|slot| slots.get(&slot)).all(|tasks| {
        let mut live = tasks.iter().filter(|task| is_live(task)).peekable();
        match live.peek() {
            None => restart::next(&service.spec, tasks, now) == restart::Next::Never,
            Some(_) => live.all(|task| !is_old(work, &service, task) && stood(task)),
        }
    });
    if done {
        let (state, message) = match status.state.is_rollback() {
            true => (UpdateState::RollbackCompleted, "rollback completed"),
            false => (UpdateState::Completed, "update completed"),
        };
        (status.state, status.message, status.completed_at) = (state, message.to_string(), Some(now));
        status.ready_since.clear();
        work.after.updates.insert(id.clone(), status);
    }
}
