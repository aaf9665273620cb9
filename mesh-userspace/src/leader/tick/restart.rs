//! Whether, by the restart policy, a slot whose task ended gets another one, and when.

use crate::model::{RestartCondition, ServiceSpec, Task, TaskState};

use super::runs_the_same;

/// The task came to its end without being told to.
pub(super) fn ended_by_itself(task: &Task) -> bool {
    matches!(task.leader_state, Some(TaskState::Complete | TaskState::Failed | TaskState::Rejected))
}

/// What a slot without a running task may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::leader) enum Next {
    /// A task may be made.
    Now,
    /// The restart delay runs.
    Later,
    /// The restart policy allows no further task.
    Never,
}

/// Judges a slot by its tasks, oldest first. A spec that nobody ran yet gets its chance at once.
pub(in crate::leader) fn next(spec: &ServiceSpec, tasks: &[Task], now: u64) -> Next {
    let Some(newest) = tasks.last() else { return Next::Now };
    if !runs_the_same(&newest.spec, &spec.task) {
        return Next::Now;
    }
    if ended_by_itself(newest) && !allowed(spec, tasks, newest) {
        return Next::Never;
    }
    if newest.not_before > now { Next::Later } else { Next::Now }
}

fn allowed(spec: &ServiceSpec, tasks: &[Task], newest: &Task) -> bool {
    let policy = spec.task.restart;
    let by_condition = match policy.condition {
        RestartCondition::None => false,
        RestartCondition::OnFailure => newest.leader_state != Some(TaskState::Complete),
        RestartCondition::Any => true,
    };
    // The window ends when the next task would start, so that a slot that has given up stays so.
    let in_window = |task: &Task| policy.window_ms == 0 || task.created_at + policy.window_ms > newest.not_before;
    let restarts = tasks
        .windows(2)
        .filter(|pair| ended_by_itself(&pair[0]) && runs_the_same(&pair[0].spec, &pair[1].spec) && in_window(&pair[1]));
    let of_this_spec = restarts.filter(|pair| runs_the_same(&pair[1].spec, &spec.task));
    by_condition && (policy.max_attempts == 0 || of_this_spec.count() < policy.max_attempts as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leader::world;
    use crate::model::{Id, RestartPolicy};

    fn task(created_at: u64, state: TaskState, spec: &ServiceSpec) -> Task {
        Task {
            id: Id::from_bytes([created_at as u8; 16]),
            service_id: Id::from_bytes([0; 16]),
            service_name: spec.name.clone(),
            slot: 1,
            node_id: None,
            spec: spec.task.clone().into(),
            service_version: 1,
            attachments: Vec::new(),
            desired: TaskState::Shutdown,
            draining: false,
            leader_state: Some(state),
            message: String::new(),
            created_at,
            not_before: created_at + 5,
            adopted: None,
        }
    }

    fn spec(condition: RestartCondition, max_attempts: u32, window_ms: u64) -> ServiceSpec {
        let mut spec = world::spec("web");
        spec.task.restart = RestartPolicy { condition, delay_ms: 5, max_attempts, window_ms };
        spec
    }

    #[test]
    fn the_condition_decides_and_the_delay_is_kept() {
        use {RestartCondition::*, TaskState::*};
        for (condition, state, expected) in [
            (Any, Complete, Next::Now),
            (Any, Failed, Next::Now),
            (OnFailure, Complete, Next::Never),
            (OnFailure, Failed, Next::Now),
            (OnFailure, Rejected, Next::Now),
            (None, Failed, Next::Never),
            (None, Orphaned, Next::Now),
            (None, Shutdown, Next::Now),
        ] {
            let spec = spec(condition, 0, 0);
            let tasks = [task(0, state, &spec)];
            assert_eq!(next(&spec, &tasks, 5), expected, "{condition:?} after {state:?}");
            let early = if expected == Next::Now { Next::Later } else { expected };
            assert_eq!(next(&spec, &tasks, 4), early, "{condition:?} after {state:?} before the delay");
        }
    }

    #[test]
    fn attempts_are_counted_in_the_window_and_per_spec() {
        let two = spec(RestartCondition::Any, 2, 0);
        let tasks: Vec<_> = (0..3).map(|n| task(n * 10, TaskState::Failed, &two)).collect();
        assert_eq!(next(&two, &tasks[..2], 100), Next::Now, "one restart of two is used");
        assert_eq!(next(&two, &tasks, 100), Next::Never, "both are used");
        let windowed = spec(RestartCondition::Any, 2, 15);
        assert_eq!(next(&windowed, &tasks, 100), Next::Now, "the first restart is older than the window");
        let mut other = two.clone();
        other.task.command = vec!["other".into()];
        assert_eq!(next(&other, &tasks, 0), Next::Now, "another spec starts afresh");
    }
}
