//! What to do next with each task of this node: desired against reported. Pure but for marking tasks as busy.

use std::collections::BTreeSet;

use super::Known;
use super::guests::has_ended;
use crate::model::{Cluster, Id, Task, TaskHealth, TaskState};
use crate::runtime::docker::Adoptable;

/// What to do next with one task.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Start(Box<Task>),
    /// The revision is the first that wants it stopped, as far as this node saw.
    Stop(Box<Task>, u64),
    /// It is unhealthy: ended although it is wanted, so that the leader replaces it.
    GiveUp(Box<Task>),
    /// Nobody knows it any more.
    Remove(Id),
    /// A container of somebody else, as the Engine lists it; None: it lists it no more.
    Join(Box<Task>, Option<Box<Adoptable>>),
    /// It is disconnected; the revision as in `Stop`.
    Dismiss(Box<Task>, u64),
    /// Its container ended by itself.
    Ended(Box<Task>),
}

impl Step {
    pub fn task_id(&self) -> &Id {
        match self {
            Step::Start(task) | Step::Stop(task, _) | Step::GiveUp(task) => &task.id,
            Step::Join(task, _) | Step::Dismiss(task, _) | Step::Ended(task) => &task.id,
            Step::Remove(id) => id,
        }
    }
}

/// The steps to begin now.
pub fn next(known: &mut Known, cluster: &Cluster, me: &Id, is_fresh: bool, now: u64) -> Vec<Step> {
    let mut steps = Vec::new();
    for task in
        cluster.tasks.values().filter(|task| task.node_id.as_ref() == Some(me) && !known.busy.contains(&task.id))
    {
        if let Some(container) = &task.adopted {
            steps.extend(next_of_guest(known, task, container, cluster.revision));
            continue;
        }
        let report = known.reports.get(&task.id);
        let is_over = report.is_some_and(|report| report.state.is_terminal());
        let is_unhealthy = report.is_some_and(|report| report.health == Some(TaskHealth::Unhealthy));
        let has_begun = report.is_some() || known.instances.contains(&task.id);
        let boxed = || Box::new(task.clone());
        match task.desired {
            TaskState::Running if !has_begun && task.not_before <= now => steps.push(Step::Start(boxed())),
            TaskState::Running if is_unhealthy && !is_over => steps.push(Step::GiveUp(boxed())),
            TaskState::Running => {}
            _ if !is_over => steps.push(Step::Stop(boxed(), cluster.revision)),
            _ => {}
        }
    }
    // Only with the store's word: a cached state may be older than the task.
    if is_fresh {
        let gone = known.instances.iter().chain(known.reports.keys()).chain(known.guests.keys());
        let gone = gone.filter(|id| !cluster.tasks.contains_key(*id));
        let gone: BTreeSet<&Id> = gone.filter(|id| !known.busy.contains(*id)).collect();
        steps.extend(gone.into_iter().cloned().map(Step::Remove));
    }
    known.busy.extend(steps.iter().map(|step| step.task_id().clone()));
    steps
}

/// A container of somebody else is never started, stopped or given up.
fn next_of_guest(known: &Known, task: &Task, container: &str, revision: u64) -> Option<Step> {
    let task_box = || Box::new(task.clone());
    let report = known.reports.get(&task.id);
    if report.is_some_and(|report| report.state.is_terminal()) {
        return None;
    }
    match (task.desired, known.guests.get(&task.id)) {
        (TaskState::Running, Some(guest)) => has_ended(known, guest).then(|| Step::Ended(task_box())),
        // Without the Engine's word nothing is begun.
        (TaskState::Running, None) => known.listed.as_ref().map(|listed| {
            let found = listed.iter().find(|found| found.container == container).cloned();
            Step::Join(task_box(), found.map(Box::new))
        }),
        _ => Some(Step::Dismiss(task_box(), revision)),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::reports;
    use super::*;
    use crate::model::TaskStatus;

    fn id(byte: u8) -> Id {
        Id::from_bytes([byte; 16])
    }

    /// Task 7 of node 1.
    pub(in super::super) fn cluster(desired: TaskState) -> Cluster {
        let task = serde_json::json!({
            "id": id(7), "service_id": id(5), "service_name": "web", "slot": 1, "node_id": id(1),
            "spec": {"runtime": "exec", "image": "", "command": ["x"], "env": [], "user": null, "hostname": null, "workdir": null,
                "mounts": [], "health": null, "stop_signal": null, "stop_grace_period_ms": 1, "resources": {},
                "restart": {"condition": "any", "delay_ms": 1, "max_attempts": 0, "window_ms": 0}, "constraints": [],
                "max_replicas_per_node": 0, "force_update": 0},
            "service_version": 1, "attachments": [], "desired": desired, "draining": false, "leader_state": null,
            "message": "", "created_at": 0, "not_before": 100
        });
        let mut cluster = Cluster { revision: 9, ..Cluster::default() };
        cluster.tasks.insert(id(7), serde_json::from_value(task).expect("a task"));
        cluster
    }

    /// The kind of step that begins for a task that was last reported so.
    fn begins(desired: TaskState, report: Option<TaskStatus>, now: u64) -> &'static str {
        let mut known = Known::default();
        known.reports.extend(report.map(|report| (id(7), report)));
        begins_with(known, &cluster(desired), now)
    }

    fn begins_with(mut known: Known, cluster: &Cluster, now: u64) -> &'static str {
        let steps = next(&mut known, cluster, &id(1), true, now);
        assert_eq!(next(&mut known, cluster, &id(1), true, now), [], "one step at a time");
        match steps.as_slice() {
            [] => "none",
            [Step::Start(_)] => "start",
            [Step::Stop(_, 9)] => "stop",
            [Step::GiveUp(_)] => "give up",
            [Step::Join(..)] => "join",
            [Step::Dismiss(_, 9)] => "dismiss",
            [Step::Ended(_)] => "ended",
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn wishes_and_reports_make_steps() {
        let runs = |health| Some(reports::runs(health, None, 0));
        assert_eq!(begins(TaskState::Running, None, 99), "none");
        assert_eq!(begins(TaskState::Running, None, 100), "start");
        assert_eq!(begins(TaskState::Running, runs(None), 100), "none");
        assert_eq!(begins(TaskState::Running, runs(Some(TaskHealth::Starting)), 100), "none");
        assert_eq!(begins(TaskState::Running, runs(Some(TaskHealth::Unhealthy)), 100), "give up");
        assert_eq!(begins(TaskState::Running, Some(reports::unhealthy(None)), 100), "none");
        assert_eq!(begins(TaskState::Shutdown, runs(Some(TaskHealth::Unhealthy)), 100), "stop");
        assert_eq!(begins(TaskState::Shutdown, Some(reports::unhealthy(None)), 100), "none");
    }

    #[test]
    fn what_nobody_knows_is_removed_only_by_the_stores_word() {
        let mut known = Known::default();
        known.instances.insert(id(8));
        assert_eq!(next(&mut known, &cluster(TaskState::Shutdown), &id(2), false, 0), []);
        assert_eq!(next(&mut known, &cluster(TaskState::Shutdown), &id(2), true, 0), [Step::Remove(id(8))]);
    }

    /// Task 7 is this process, as a container of somebody else; `is_in`: it has been connected.
    fn begins_for_guest(
        desired: TaskState,
        report: Option<TaskStatus>,
        is_in: bool,
        listed: Option<i32>,
    ) -> &'static str {
        let folder = tempfile::tempdir().expect("a folder");
        let pid = std::process::id().cast_signed();
        let found = |pid: i32| Adoptable { container: "ab".repeat(32), pid, ..Adoptable::default() };
        let mut known = Known { listed: listed.map(|pid| vec![found(pid)]), ..Known::default() };
        known.reports.extend(report.map(|report| (id(7), report)));
        if is_in {
            let guest = crate::runtime::docker::Guests::of(folder.path()).take_in(&id(7), &found(pid), 0);
            known.guests.insert(id(7), guest.expect("on record"));
        }
        let mut cluster = cluster(desired);
        cluster.tasks.get_mut(&id(7)).expect("the task").adopted = Some("ab".repeat(32));
        begins_with(known, &cluster, 100)
    }

    #[test]
    fn a_container_of_somebody_else_is_connected_and_disconnected_and_never_started_or_stopped() {
        use TaskState::{Remove, Running, Shutdown};
        let own = std::process::id().cast_signed();
        let runs = |health| Some(reports::runs(health, None, 0));
        assert_eq!(begins_for_guest(Running, None, false, None), "none", "the Engine does not say");
        assert_eq!(begins_for_guest(Running, None, false, Some(own)), "join");
        assert_eq!(begins_for_guest(Running, runs(None), true, Some(own)), "none");
        assert_eq!(begins_for_guest(Running, runs(None), true, None), "none", "without the Engine it stays");
        assert_eq!(begins_for_guest(Running, runs(Some(TaskHealth::Unhealthy)), true, Some(own)), "none");
        assert_eq!(begins_for_guest(Running, runs(None), true, Some(1)), "ended", "it was started anew");
        for desired in [Shutdown, Remove] {
            assert_eq!(begins_for_guest(desired, runs(None), true, Some(own)), "dismiss");
            assert_eq!(begins_for_guest(desired, None, false, None), "dismiss");
            assert_eq!(begins_for_guest(desired, Some(reports::unhealthy(None)), false, Some(own)), "none");
        }
    }
}
