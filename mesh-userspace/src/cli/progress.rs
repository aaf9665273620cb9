//! Waiting until a service is as asked, telling how far it is, and giving up with the reason where it won't be.
//!
//! A change is visible in reads as soon as its call returned, so the first look already judges the new spec.

use std::time::{Duration, Instant};

use super::Screen;
use super::fault::Fault;
use super::task::state_name;
use crate::api::{ApiError, Client, ErrorKind, ServiceDetail, TaskRow};
use crate::model::{Id, Mode, RestartCondition, TaskState};

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long it must have been as asked: a command that ends at once has been running for a moment too.
const STEADY_FOR: Duration = Duration::from_secs(1);
/// How long an obstacle that may go away by itself (no node fits, an address range is full) is waited out.
const PATIENCE: Duration = Duration::from_secs(5);
/// After which nothing is waited for.
const DEADLINE: Duration = Duration::from_secs(120);
/// Tasks of the present spec that may fail before it is called hopeless.
const FAILURES: usize = 3;

/// What one look at a service says.
#[derive(Debug, PartialEq, Eq)]
enum Judgement {
    AsAsked,
    Underway,
    /// It may still come right by itself.
    Obstacle(String),
    Hopeless(String),
}

/// Waits for one service. Ok once it is as asked for a while.
pub(super) async fn converge(service: &Id, client: &Client, screen: &mut Screen<'_>) -> Result<(), Fault> {
    let begin = Instant::now();
    let mut steady_since: Option<Instant> = None;
    let mut obstacle_since: Option<Instant> = None;
    let mut told = String::new();
    loop {
        let detail = match client.service(service.as_str()).await {
            Ok(detail) => detail,
            Err(error) if is_passing(&error) && begin.elapsed() < PATIENCE => {
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        tell(&overall(&detail), &mut told, screen);
        let judgement = judge(&detail, begin_in_agents_time(&detail, begin));
        let reason = match judgement {
            Judgement::AsAsked => {
                obstacle_since = None;
                if steady_since.get_or_insert_with(Instant::now).elapsed() >= STEADY_FOR {
                    tell(&format!("verify: service {} converged", detail.service.spec.name), &mut told, screen);
                    finish(screen);
                    return Ok(());
                }
                None
            }
            Judgement::Underway => {
                (steady_since, obstacle_since) = (None, None);
                (begin.elapsed() > DEADLINE).then(|| format!("not after {} s", DEADLINE.as_secs()))
            }
            Judgement::Obstacle(reason) => {
                steady_since = None;
                (obstacle_since.get_or_insert_with(Instant::now).elapsed() >= PATIENCE).then_some(reason)
            }
            Judgement::Hopeless(reason) => Some(reason),
        };
        if let Some(reason) = reason {
            finish(screen);
            let name = &detail.service.spec.name;
            return Err(Fault::failed(format!(
                "service {name} did not converge: {} of {} tasks run; {reason}; it stays as asked, 'mesh service ps \
                 {name}' shows its tasks",
                detail.running, detail.desired
            )));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The record is not here yet, or the agent is being restarted.
fn is_passing(error: &ApiError) -> bool {
    matches!(error.kind, ErrorKind::NotFound | ErrorKind::Unavailable)
}

/// Failures older than the question don't count against the answer.
fn begin_in_agents_time(detail: &ServiceDetail, begin: Instant) -> u64 {
    detail.at.saturating_sub(begin.elapsed().as_millis() as u64)
}

fn overall(detail: &ServiceDetail) -> String {
    format!("overall progress: {} out of {} tasks", detail.running, detail.desired)
}

fn judge(detail: &ServiceDetail, begin: u64) -> Judgement {
    let restart = detail.service.spec.task.restart.condition;
    let is_mine =
        |row: &&TaskRow| row.created_at.max(row.since) >= begin && row.service_version == detail.service.version;
    let failed: Vec<&TaskRow> = detail
        .tasks
        .iter()
        .filter(is_mine)
        .filter(|row| matches!(row.state, TaskState::Failed | TaskState::Rejected))
        .collect();
    let allowed = if restart == RestartCondition::None { 1 } else { FAILURES };
    if let Some(last) = failed.iter().max_by_key(|row| row.since)
        && failed.len() >= allowed
    {
        let place = if last.node.is_empty() { String::new() } else { format!(" on {}", last.node) };
        let state = state_name(last.state).to_lowercase();
        return Judgement::Hopeless(format!("{}{place} {state}: {}", last.name, last.error));
    }
    if let Some(reason) = &detail.service.pending_reason {
        return Judgement::Obstacle(reason.clone());
    }
    let wanted = detail.tasks.iter().filter(|row| row.desired == TaskState::Running);
    let pending = wanted.clone().find(|row| row.state <= TaskState::Pending && !row.error.is_empty());
    if let Some(pending) = pending {
        return Judgement::Obstacle(format!("{}: {}", pending.name, pending.error));
    }
    // A command that is meant to end once has done its part.
    let complete = match restart {
        RestartCondition::Any => 0,
        _ => detail.tasks.iter().filter(|row| row.state == TaskState::Complete).count() as u32,
    };
    let leaving = detail.tasks.iter().any(|row| row.desired != TaskState::Running && !row.state.is_terminal());
    let enough = match detail.service.spec.mode {
        Mode::Replicated { replicas } => detail.running + complete >= replicas && detail.running <= replicas,
        Mode::Global => detail.running >= detail.desired && detail.desired > 0,
    };
    if enough && !leaving && detail.outdated == 0 { Judgement::AsAsked } else { Judgement::Underway }
}

/// Says what is new: on a terminal in place, elsewhere as a line.
fn tell(text: &str, told: &mut String, screen: &mut Screen<'_>) {
    if text == told {
        return;
    }
    if screen.live {
        let _ = write!(screen.err, "\r\x1b[K{text}").and_then(|()| screen.err.flush());
    } else {
        screen.remark(text);
    }
    *told = text.to_string();
}

fn finish(screen: &mut Screen<'_>) {
    if screen.live {
        screen.remark("");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::view::{self, fixture};

    fn detail() -> ServiceDetail {
        view::service_detail(&fixture::facts(), "whoami").expect("in the fixture")
    }

    #[test]
    fn as_asked_means_enough_run_and_nothing_old_is_left() {
        let mut detail = detail();
        assert_eq!(judge(&detail, fixture::NOW), Judgement::AsAsked);
        detail.outdated = 1;
        assert_eq!(judge(&detail, fixture::NOW), Judgement::Underway);
        detail.outdated = 0;
        detail.running = 1;
        assert_eq!(judge(&detail, fixture::NOW), Judgement::Underway);
    }

    #[test]
    fn failures_since_the_question_are_told() {
        let mut detail = detail();
        detail.service.spec.task.restart.condition = RestartCondition::None;
        let long_ago = 0;
        assert_eq!(judge(&detail, long_ago), Judgement::Hopeless("whoami.1 on n2 failed: task: exit code 1".into()));
        assert_eq!(judge(&detail, fixture::NOW), Judgement::AsAsked);
    }

    #[test]
    fn what_the_allocator_lacks_is_told() {
        let mut detail = detail();
        detail.service.pending_reason = Some("no address left in network demo".into());
        assert_eq!(judge(&detail, 0), Judgement::Obstacle("no address left in network demo".into()));
    }
}
