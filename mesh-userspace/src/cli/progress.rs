//! Waiting until a service is as asked, telling how far it is, and giving up with the reason where it won't be.
//!
//! A change is visible in reads as soon as its call returned, so the first look already judges the new spec.

use std::time::{Duration, Instant};

use clap::{ArgAction, Args};

use super::Screen;
use super::fault::Fault;
use super::task::state_name;
use crate::api::{ApiError, Client, ErrorKind, ServiceDetail, TaskRow};
use crate::model::{Id, Mode, RestartCondition, ServiceSpec, TaskHealth, TaskState};

/// Whether to wait; flattened into every verb that changes services. As with Docker, `--detach=false` is understood too.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct Wait {
    /// Don't wait until it is so
    #[arg(short, long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, value_name = "BOOL",
          default_value_t = false, default_missing_value = "true", hide_default_value = true,
          hide_possible_values = true)]
    detach: bool,
    /// No progress
    #[arg(short, long)]
    quiet: bool,
}

impl Wait {
    /// Waits for these services in turn, if at all.
    pub(super) async fn for_services(
        self,
        services: &[Id],
        client: &Client,
        screen: &mut Screen<'_>,
    ) -> Result<(), Fault> {
        for service in services.iter().filter(|_| !self.detach) {
            if self.quiet {
                let sink = &mut Screen { out: &mut std::io::sink(), err: &mut std::io::sink(), live: false };
                converge(service, client, sink).await?;
            } else {
                converge(service, client, screen).await?;
            }
        }
        Ok(())
    }
}

/// Time between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long it must have been as asked: a command that ends at once has been running for a moment too.
const STEADY_FOR: Duration = Duration::from_secs(1);
/// How long an obstacle that may go away by itself (no node fits, an address range is full) is waited out.
const PATIENCE: Duration = Duration::from_secs(5);
/// After which nothing is waited for, healthchecks apart.
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
async fn converge(service: &Id, client: &Client, screen: &mut Screen<'_>) -> Result<(), Fault> {
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
                let deadline = deadline(&detail.service.spec);
                (begin.elapsed() > deadline).then(|| format!("not after {} s{}", deadline.as_secs(), unproven(&detail)))
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

/// A task with a healthcheck has the time that its check may take, and tasks that are replaced in turn have it in turn.
fn deadline(spec: &ServiceSpec) -> Duration {
    let check = spec.task.health.as_ref().filter(|check| !check.is_disabled());
    let turns = match (spec.mode, spec.update.parallelism) {
        (Mode::Replicated { replicas }, at_once @ 1..) => replicas.div_ceil(at_once).max(1),
        _ => 1,
    };
    let longest_ms = check.map_or(0, |check| check.longest_ms().saturating_mul(turns.into()));
    DEADLINE.saturating_add(Duration::from_millis(longest_ms))
}

/// Who waits for the first pass of its healthcheck.
fn unproven(detail: &ServiceDetail) -> String {
    let waits = |row: &&TaskRow| row.desired == TaskState::Running && row.health == Some(TaskHealth::Starting);
    let waiting = detail.tasks.iter().find(waits);
    waiting.map_or(String::new(), |row| format!(", {} has not passed its healthcheck", row.name))
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
        Mode::Adopted => true,
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
    use crate::model::HealthCheck;

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
    fn a_healthcheck_is_given_its_time() {
        let mut detail = detail();
        assert_eq!(deadline(&detail.service.spec), DEADLINE);
        detail.service.spec.task.health = Some(HealthCheck::disabled());
        assert_eq!(deadline(&detail.service.spec), DEADLINE);
        let check = HealthCheck {
            command: vec!["check".into()],
            interval_ms: 10_000,
            timeout_ms: 1_000,
            retries: 2,
            start_period_ms: 60_000,
            start_interval_ms: 0,
        };
        detail.service.spec.task.health = Some(check);
        // 60 + 2 × (10 + 1) s a task, two tasks in turn.
        assert_eq!(deadline(&detail.service.spec), DEADLINE + Duration::from_secs(2 * 82));
        assert_eq!(unproven(&detail), "");
        detail.tasks[0].health = Some(TaskHealth::Starting);
        assert_eq!(unproven(&detail), ", whoami.1 has not passed its healthcheck");
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
