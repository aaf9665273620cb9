//! What is reported of a task, from what happened to it: the words, and the gate that a healthcheck is.
//!
//! As in Swarm, a task with a healthcheck is *starting* until its first pass, and an unhealthy one fails. Pure.

use crate::agent::now;
use crate::model::{TaskHealth, TaskState, TaskStatus, UnixMs};
use crate::runtime::TaskExit;

pub fn status(state: TaskState, ready: bool, message: &str) -> TaskStatus {
    TaskStatus { message: message.into(), ..TaskStatus::new(state, ready, now()) }
}

pub fn ended(state: TaskState, message: &str, error: Option<String>, exit_code: Option<i32>) -> TaskStatus {
    TaskStatus { error, exit_code, ..status(state, false, message) }
}

/// The command ended by itself.
pub fn exited(exit: &TaskExit) -> TaskStatus {
    let report = if exit.code == 0 && exit.error.is_none() {
        ended(TaskState::Complete, "finished", None, Some(0))
    } else {
        let error = exit.error.clone().unwrap_or_else(|| format!("task: non-zero exit ({})", exit.code));
        ended(TaskState::Failed, "started", Some(error), Some(exit.code))
    };
    TaskStatus { since: exit.at, ..report }
}

/// Nothing of a task that was last reported as `former` runs any more; how it ended is not known yet.
pub fn gone(former: &TaskStatus) -> TaskStatus {
    TaskStatus { ready: false, message: "ended: waiting for the Docker Engine to say how".into(), ..former.clone() }
}

/// The task was ended because its healthcheck failed; `words`: how.
pub fn unhealthy(words: Option<String>) -> TaskStatus {
    let error = words.map_or("task: unhealthy".to_owned(), |words| format!("task: unhealthy: {words}"));
    TaskStatus { health: Some(TaskHealth::Unhealthy), ..ended(TaskState::Failed, "unhealthy", Some(error), None) }
}

/// The command runs. Without a healthcheck that is enough to be served from.
pub fn runs(health: Option<TaskHealth>, pid: Option<u32>, since: UnixMs) -> TaskStatus {
    let (state, ready, message) = match health {
        None | Some(TaskHealth::Healthy) => (TaskState::Running, true, "started"),
        Some(TaskHealth::Starting) => (TaskState::Starting, false, "waiting for its healthcheck"),
        Some(TaskHealth::Unhealthy) => (TaskState::Running, false, "unhealthy"),
    };
    TaskStatus { health, pid, since, ..status(state, ready, message) }
}

/// A verdict came for a task that was last reported as `former`. None: it changes nothing, or comes too late.
pub fn judged(former: &TaskStatus, health: TaskHealth, now: UnixMs) -> Option<TaskStatus> {
    if former.health == Some(health) || !matches!(former.state, TaskState::Starting | TaskState::Running) {
        return None;
    }
    let (state, ready, message) = match health {
        TaskHealth::Healthy => (TaskState::Running, true, "started"),
        // States don't go back: one that never ran does not begin to here, and one that ran is not starting again.
        TaskHealth::Unhealthy => (former.state, false, "unhealthy"),
        TaskHealth::Starting => (former.state, former.ready, former.message.as_str()),
    };
    let since = if state == former.state { former.since } else { now };
    Some(TaskStatus { state, ready, message: message.to_owned(), health: Some(health), since, ..former.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use TaskHealth::{Healthy, Starting, Unhealthy};

    fn seen(status: &TaskStatus) -> (TaskState, bool, UnixMs) {
        (status.state, status.ready, status.since)
    }

    #[test]
    fn a_task_with_a_check_is_served_from_between_its_first_pass_and_its_last_failure() {
        let begun = runs(Some(Starting), Some(7), 10);
        assert_eq!(seen(&begun), (TaskState::Starting, false, 10));
        let healthy = judged(&begun, Healthy, 20).expect("news");
        assert_eq!(seen(&healthy), (TaskState::Running, true, 20));
        let unhealthy = judged(&healthy, Unhealthy, 30).expect("news");
        assert_eq!(seen(&unhealthy), (TaskState::Running, false, 20));
        assert_eq!((unhealthy.health, unhealthy.pid), (Some(Unhealthy), Some(7)));
    }

    #[test]
    fn nobody_is_sent_to_a_task_that_is_gone() {
        let report = gone(&runs(None, Some(7), 10));
        assert_eq!((seen(&report), report.exit_code), ((TaskState::Running, false, 10), None));
    }

    #[test]
    fn one_that_never_passed_never_ran() {
        let failed = judged(&runs(Some(Starting), None, 10), Unhealthy, 20).expect("news");
        assert_eq!(seen(&failed), (TaskState::Starting, false, 10));
    }

    #[test]
    fn a_verdict_known_before_or_after_the_end_changes_nothing() {
        assert_eq!(judged(&runs(Some(Healthy), None, 10), Healthy, 20), None);
        assert_eq!(judged(&unhealthy(None), Healthy, 20), None);
        assert_eq!(judged(&status(TaskState::Preparing, false, "preparing"), Healthy, 20), None);
        let again = judged(&runs(None, None, 10), Starting, 20).expect("news");
        assert_eq!(seen(&again), (TaskState::Running, true, 10), "a state never goes back");
    }

    #[test]
    fn adopted_tasks_are_what_they_were() {
        assert!(runs(None, None, 1).ready && runs(Some(Healthy), None, 1).ready);
        assert!(!runs(Some(Starting), None, 1).ready && !runs(Some(Unhealthy), None, 1).ready);
    }
}
