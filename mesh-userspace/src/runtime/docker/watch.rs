//! What happens to containers: their ends by pidfd, which needs no Engine; verdicts of healthchecks, and containers that ask to join, by
//! the Engine's events; and the loop that keeps the connection to an Engine that comes and goes.
//!
//! Invariant: each container's end is told at once and how it ended once, whether the Engine is there or not; as long as the process lives, the task lives. After each
//! connection everything is looked at anew, because events of the time between are lost. Must not: decide whether a task should run.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::models::{
    ContainerInspectResponse, ContainerState, EventMessageTypeEnum, HealthStatusEnum, HealthcheckResult,
};
use bollard::query_parameters::{
    EventsOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
};
use futures_util::StreamExt;
use jiff::Timestamp;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::adoptable::NETWORK_LABEL;
use super::engine::{Connected, State, has_status, words};
use super::record::Record;
use super::request::{NODE_LABEL, STATE_LABEL, TASK_LABEL};
use super::{Inner, adoptable};
use crate::model::{Id, TaskHealth, UnixMs};
use crate::runtime::{TaskEvent, TaskExit};

/// Between attempts to reach the Engine: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long an Engine that answers has to say how a container ended whose process is gone.
const TOLD_WITHIN: Duration = Duration::from_secs(3);
/// How long it may be away first where it matters how: it is restarted or upgraded, and a job that ended well must not be run again. What is
/// run again anyway is reported at once, for it may have to run on another node.
const BACK_WITHIN: Duration = Duration::from_secs(60);
const ASK_EVERY: Duration = Duration::from_millis(20);
/// Containers of one `compose up` are listed together.
const GATHER: Duration = Duration::from_millis(30);
/// A listing holds up the verdicts of our own tasks: one container that the Engine can't look at must not do so for long.
const LIST_WITHIN: Duration = Duration::from_secs(5);
/// Until a listing that failed is tried again.
const LIST_AGAIN: Duration = Duration::from_secs(2);
const ENGINE_AWAY: &str = "its process ended while the Docker Engine was away: how is not known";
const ENGINE_SILENT: &str = "its process ended and the Docker Engine does not say how: look at the Engine's log";
/// Between looks at a task whose verdict the Engine reached before the command ran.
const LOOK_AGAIN_EVERY: Duration = Duration::from_secs(1);
/// The Engine's own number where a check names none, and how many probes it remembers (moby, daemon/health.go).
const USUAL_RETRIES: usize = 3;
const KEPT_PROBES: usize = 5;

/// The containers of this agent's life.
#[derive(Default)]
pub struct Table(Mutex<Known>);

#[derive(Default)]
struct Known {
    ends: HashMap<Id, watch::Receiver<Life>>,
    health: HashMap<Id, TaskHealth>,
    /// Those that the Engine has a verdict on and we have none.
    unsettled: HashSet<Id>,
    preparing: HashSet<Id>,
    subscribers: Vec<mpsc::UnboundedSender<TaskEvent>>,
}

/// What is known of a container's end.
#[derive(Clone, Debug, PartialEq)]
enum Life {
    Lives,
    /// Its process is gone; the Engine is asked how.
    Gone,
    Ended(TaskExit),
}

/// A container's end, to wait for.
pub struct End(watch::Receiver<Life>);

/// Marks a task as being prepared, until dropped.
pub struct Preparing<'a>(&'a Table, Id);

impl Table {
    fn known(&self) -> MutexGuard<'_, Known> {
        // Every change is a single insertion or removal: the table is whole even if a holder panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn subscribe(&self) -> mpsc::UnboundedReceiver<TaskEvent> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.known().subscribers.push(sender);
        receiver
    }

    pub fn tell(&self, event: TaskEvent) {
        self.known().subscribers.retain(|subscriber| subscriber.send(event.clone()).is_ok());
    }

    /// Tells a verdict that is a new one.
    pub fn tell_health(&self, task_id: &Id, health: TaskHealth) {
        if self.known().health.insert(task_id.clone(), health) != Some(health) {
            self.tell(TaskEvent::Health { task_id: task_id.clone(), health });
        }
    }

    fn settle(&self, task_id: &Id, is_settled: bool) {
        let unsettled = &mut self.known().unsettled;
        if is_settled {
            unsettled.remove(task_id)
        } else {
            unsettled.insert(task_id.clone())
        };
    }

    fn unsettled(&self) -> Vec<Id> {
        self.known().unsettled.iter().cloned().collect()
    }

    pub fn preparing(&self, task_id: &Id) -> Preparing<'_> {
        self.known().preparing.insert(task_id.clone());
        Preparing(self, task_id.clone())
    }

    pub fn is_preparing(&self, task_id: &Id) -> bool {
        self.known().preparing.contains(task_id)
    }

    pub fn forget(&self, task_id: &Id) {
        let mut known = self.known();
        known.ends.remove(task_id);
        known.health.remove(task_id);
        known.unsettled.remove(task_id);
    }
}

impl Drop for Preparing<'_> {
    fn drop(&mut self) {
        self.0.known().preparing.remove(&self.1);
    }
}

impl End {
    /// Whether its process is gone within this time.
    pub async fn gone_within(&mut self, patience: Duration) -> bool {
        let gone = self.0.wait_for(|life| *life != Life::Lives);
        tokio::time::timeout(patience, gone).await.is_ok()
    }

    /// How it ended; None where nobody said so until then.
    pub async fn by(&mut self, deadline: Instant) -> Option<TaskExit> {
        let ended = self.0.wait_for(|life| matches!(life, Life::Ended(_)));
        match &*tokio::time::timeout_at(deadline, ended).await.ok()?.ok()? {
            Life::Ended(exit) => Some(exit.clone()),
            _ => None,
        }
    }

    /// How a container ended that was told to: nobody waits for an Engine that is away to hear that it did.
    pub async fn as_told(&mut self) -> TaskExit {
        self.by(Instant::now() + TOLD_WITHIN).await.unwrap_or_else(|| unknown(ENGINE_AWAY))
    }
}

impl Inner {
    /// Waits for the end of a container's process, once however often it is asked for.
    pub fn watch(self: &Arc<Self>, task_id: &Id, pidfd: Option<OwnedFd>) -> std::io::Result<End> {
        let mut known = self.table.known();
        if let Some(end) = known.ends.get(task_id) {
            return Ok(End(end.clone()));
        }
        let register = |fd| {
            // SAFETY: the owned descriptor stays open, and the same, until the AsyncFd is dropped.
            unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
        };
        let pidfd = pidfd.map(register).transpose()?;
        let (sender, receiver) = watch::channel(Life::Lives);
        known.ends.insert(task_id.clone(), receiver.clone());
        let (inner, task_id) = (self.clone(), task_id.clone());
        tokio::spawn(async move {
            if let Some(pidfd) = pidfd
                && let Err(error) = pidfd.readable().await
            {
                log::warn!("watching task {}: {error}: it is taken for ended", task_id.short());
            }
            sender.send_replace(Life::Gone);
            // Nobody is to be sent to it while the Engine makes up its mind.
            inner.table.tell(TaskEvent::Gone { task_id: task_id.clone() });
            let exit = inner.conclude(&task_id).await;
            // Of one that was removed meanwhile nobody wants to hear any more.
            if inner.table.known().ends.contains_key(&task_id) {
                inner.table.tell(TaskEvent::Exited { task_id, exit: exit.clone() });
            }
            sender.send_replace(Life::Ended(exit));
        });
        Ok(End(receiver))
    }

    /// How a container ended whose process is gone, asked of the Engine and written down.
    async fn conclude(&self, task_id: &Id) -> TaskExit {
        let record = self.records.read(task_id).ok().flatten();
        if let Some(exit) = record.as_ref().and_then(|record| record.exit.clone()) {
            return exit;
        }
        let matters =
            record.as_ref().and_then(|record| record.launch.as_ref()).is_some_and(|launch| launch.exit_matters);
        let patience = Instant::now() + if matters { BACK_WITHIN } else { TOLD_WITHIN };
        let mut engine = self.engine.watch();
        let exit = loop {
            let here = engine.wait_for(|state| matches!(state, State::Here(_)));
            if tokio::time::timeout_at(patience, here).await.is_err() {
                break unknown(ENGINE_AWAY);
            }
            let asking = async {
                loop {
                    if let Some(exit) = self.ask_for_end(task_id, record.as_ref()).await {
                        return exit;
                    }
                    tokio::time::sleep(ASK_EVERY).await;
                }
            };
            tokio::select! {
                told = tokio::time::timeout(TOLD_WITHIN, asking) => break told.unwrap_or_else(|_| unknown(ENGINE_SILENT)),
                // It was about to go when the process ended.
                _ = engine.wait_for(|state| matches!(state, State::Away(_))) => {}
            }
        };
        // A former agent may have been told more.
        let first = |record: &mut Record| record.exit = record.exit.take().or_else(|| Some(exit.clone()));
        if let Err(error) = self.records.change(task_id, first) {
            log::warn!("{}: {error}: the end of the task is not on record", self.records.file(task_id).display());
        }
        exit
    }

    /// None where the Engine does not say yet.
    async fn ask_for_end(&self, task_id: &Id, record: Option<&Record>) -> Option<TaskExit> {
        let engine = self.engine.now()?;
        let Some(container) = record.and_then(|record| record.container.as_deref()) else {
            return Some(unknown("the agent ended while the task was prepared"));
        };
        let options = None::<InspectContainerOptions>;
        match engine.docker.inspect_container(container, options).await {
            Ok(found) => {
                let state = found.state.unwrap_or_default();
                let pid = record.and_then(|record| record.process.as_ref()).map(|process| i64::from(process.pid));
                match (state.running, state.pid) {
                    // The Engine has not noticed yet.
                    (Some(true), seen) if seen == pid => None,
                    (Some(true), _) => Some(unknown("its container was restarted by somebody else than mesh")),
                    _ => Some(exit_of(&state)),
                }
            }
            Err(error) if has_status(&error, 404) => {
                Some(unknown("its container was removed by somebody else than mesh"))
            }
            Err(error) => {
                log::debug!("task {}: how it ended: {}", task_id.short(), words(&error));
                None
            }
        }
    }

    /// Keeps the connection, for ever: connects, looks at everything, listens until the connection ends.
    pub async fn keep(self: Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        loop {
            match self.engine.connect().await {
                Ok(connected) => {
                    log::info!("Docker Engine {} answers", connected.version);
                    pause = FIRST_PAUSE;
                    // From a moment before the look: nothing falls between it and the events.
                    let since = now() / 1_000;
                    let connected = Arc::new(connected);
                    self.engine.set(State::Here(connected.clone()));
                    self.look_at_all(&connected).await;
                    let reason = self.listen(&connected, since).await;
                    log::warn!("the Docker Engine is away: {reason}; containers that live on stay as they are");
                    self.engine.set(State::Away(reason));
                    self.adoptable.send_if_modified(|known| known.take().is_some());
                }
                Err(reason) => self.engine.set(State::Away(reason)),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Verdicts that were given while nobody listened, and containers of an earlier cluster that could not be removed then.
    async fn look_at_all(&self, engine: &Connected) {
        let state_dir = format!("{STATE_LABEL}={}", self.config.state_dir.display());
        let filters = HashMap::from([("label", vec![state_dir.as_str()])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let containers = match engine.docker.list_containers(Some(options)).await {
            Ok(containers) => containers,
            Err(error) => return log::warn!("list containers: {}", words(&error)),
        };
        for container in containers {
            let (labels, id) = (container.labels.unwrap_or_default(), container.id.unwrap_or_default());
            if labels.get(NODE_LABEL).map(String::as_str) != Some(self.config.node.as_str()) {
                log::info!("removing container {id:.12}, left from an earlier cluster");
                let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
                if let Err(error) = engine.docker.remove_container(&id, Some(options)).await {
                    log::warn!("remove container {id:.12}: {}", words(&error));
                }
                continue;
            }
            let task_id = labels.get(TASK_LABEL).and_then(|label| Id::try_from(label.clone()).ok());
            if let Some(task_id) = task_id {
                self.look_at_health(engine, &task_id).await;
            }
        }
    }

    /// Writes the verdict of the moment down and tells it, where it is a new one. One that was reached behind the gate is none.
    pub async fn look_at_health(&self, engine: &Connected, task_id: &Id) {
        let record = self.records.read(task_id).ok().flatten();
        let Some(record) = record.filter(|record| record.is_checked && record.exit.is_none()) else {
            return self.table.settle(task_id, true);
        };
        let (Some(started_at), Some(container)) = (record.started_at, &record.container) else { return };
        let options = None::<InspectContainerOptions>;
        let Ok(found) = engine.docker.inspect_container(container, options).await else { return };
        let (Some(said), Some(of_command)) = (status(&found), health_of(&found, started_at)) else { return };
        // An Engine that was restarted begins to count anew: until it has counted the last verdict stands.
        let health = if of_command == TaskHealth::Starting { record.health.unwrap_or(of_command) } else { of_command };
        // It tells changes only: of what it said behind the gate no event follows.
        self.table.settle(task_id, health != TaskHealth::Starting || said == HealthStatusEnum::STARTING);
        self.judged(&record, health);
    }

    /// On record before it is told, so that the next agent finds a healthy task healthy also while the Engine is away.
    pub fn judged(&self, record: &Record, health: TaskHealth) {
        let task_id = &record.task_id;
        if health != TaskHealth::Starting
            && record.health != Some(health)
            && let Err(error) = self.records.change(task_id, |record| record.health = Some(health))
        {
            // An agent that is restarted now finds the former verdict.
            log::warn!("{}: {error}: the health of the task is not on record", self.records.file(task_id).display());
        }
        self.table.tell_health(task_id, health);
    }

    /// Passes verdicts on, and who asks to join, until the connection ends; gives the reason.
    async fn listen(&self, engine: &Connected, since: u64) -> String {
        let filters = HashMap::from([
            ("type", vec!["container", "network"]),
            ("event", vec!["start", "die", "rename", "health_status", "connect", "disconnect"]),
        ]);
        let options = EventsOptionsBuilder::new().since(&since.to_string()).filters(&filters).build();
        let mut events = std::pin::pin!(engine.docker.events(Some(options)));
        let mut list_at = Some(Instant::now());
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = tokio::time::sleep_until(list_at.unwrap_or_else(Instant::now)), if list_at.is_some() => {
                    list_at = self.look_for_adoptable(engine).await.err().map(|again| Instant::now() + again);
                    continue;
                }
                () = tokio::time::sleep(LOOK_AGAIN_EVERY) => {
                    for task_id in self.table.unsettled() {
                        self.look_at_health(engine, &task_id).await;
                    }
                    continue;
                }
            };
            let event = match event {
                None => return "it closed the connection".to_owned(),
                Some(Err(error)) => return words(&error),
                Some(Ok(event)) => event,
            };
            let attributes = event.actor.and_then(|actor| actor.attributes).unwrap_or_default();
            let task_id = attributes.get(TASK_LABEL).and_then(|label| Id::try_from(label.clone()).ok());
            let is_verdict = event.action.is_some_and(|action| action.starts_with("health_status"));
            // Whether Docker's resolver answers in a container depends on its networks, and these events have no labels.
            let may_ask = attributes.contains_key(NETWORK_LABEL) || event.typ == Some(EventMessageTypeEnum::NETWORK);
            // An event only says when to look: events of the last second may come again, and older than what we have seen.
            match task_id {
                Some(task_id) if is_verdict => self.look_at_health(engine, &task_id).await,
                None if may_ask => {
                    list_at.get_or_insert_with(|| Instant::now() + GATHER);
                }
                _ => {}
            }
        }
    }

    /// Tells who asks to join, where that is news; an error is the time after which to look again.
    async fn look_for_adoptable(&self, engine: &Connected) -> Result<(), Duration> {
        let found = tokio::time::timeout(LIST_WITHIN, adoptable::list(engine)).await;
        let found = found.unwrap_or_else(|_| Err(format!("no answer within {} s", LIST_WITHIN.as_secs())));
        let found = found.map_err(|reason| {
            // An Engine that is being stopped fails so as well.
            log::info!("list containers with label {NETWORK_LABEL}: {reason}; those known before stay");
            LIST_AGAIN
        })?;
        self.adoptable.send_if_modified(|known| {
            let is_news = known.as_ref() != Some(&found);
            *known = Some(found);
            is_news
        });
        Ok(())
    }
}

/// What the Engine says of the container; None: no check.
fn status(found: &ContainerInspectResponse) -> Option<HealthStatusEnum> {
    let status = found.state.as_ref()?.health.as_ref()?.status?;
    (!matches!(status, HealthStatusEnum::EMPTY | HealthStatusEnum::NONE)).then_some(status)
}

/// The Engine's own verdict on a container, whose command runs from its start; None: no check.
pub fn verdict_of(found: &ContainerInspectResponse) -> Option<TaskHealth> {
    Some(match status(found)? {
        HealthStatusEnum::HEALTHY => TaskHealth::Healthy,
        HealthStatusEnum::UNHEALTHY => TaskHealth::Unhealthy,
        _ => TaskHealth::Starting,
    })
}

/// The verdict on the command, which was let go at `started_at`; None: no check. The Engine probes from the container's start, and what a
/// probe saw behind the gate says nothing of the command.
pub fn health_of(found: &ContainerInspectResponse, started_at: UnixMs) -> Option<TaskHealth> {
    let status = status(found)?;
    let probes = found.state.as_ref()?.health.as_ref()?.log.as_deref().unwrap_or_default();
    // One without a readable time is believed.
    let began = |probe: &HealthcheckResult| probe.start.as_ref()?.parse::<Timestamp>().ok();
    let is_of_command = |probe: &HealthcheckResult| {
        began(probe).is_none_or(|at| u64::try_from(at.as_millisecond()).is_ok_and(|at| at >= started_at))
    };
    let has_passed = |probe: &HealthcheckResult| probe.exit_code == Some(0);
    let check = found.config.as_ref().and_then(|config| config.healthcheck.as_ref());
    let retries = check.and_then(|check| usize::try_from(check.retries?).ok()).filter(|count| *count > 0);
    let failures = probes.iter().rev().take_while(|probe| is_of_command(probe) && !has_passed(probe)).count();
    Some(match status {
        HealthStatusEnum::HEALTHY if probes.iter().any(|probe| is_of_command(probe) && has_passed(probe)) => {
            TaskHealth::Healthy
        }
        HealthStatusEnum::UNHEALTHY if failures >= retries.unwrap_or(USUAL_RETRIES).min(KEPT_PROBES) => {
            TaskHealth::Unhealthy
        }
        _ => TaskHealth::Starting,
    })
}

/// What the last failed probe said, in one line.
pub fn last_failure(state: &ContainerState) -> Option<String> {
    let probes = state.health.as_ref()?.log.as_ref()?;
    let failed = probes.iter().rev().find(|probe| probe.exit_code != Some(0))?;
    let code = failed.exit_code.unwrap_or(-1);
    let said = failed.output.as_deref().unwrap_or_default().trim().lines().last().unwrap_or_default();
    Some(if said.is_empty() { format!("exit {code}") } else { format!("exit {code}: {said}") })
}

pub fn exit_of(state: &ContainerState) -> TaskExit {
    let code = state.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or(128 + libc::SIGKILL);
    let said = state.error.clone().filter(|error| !error.is_empty());
    let error = match state.oom_killed {
        Some(true) => Some("it was killed for using more memory than its limit".to_owned()),
        _ => said,
    };
    TaskExit { code, signal: None, error, at: now() }
}

fn unknown(reason: &str) -> TaskExit {
    let signal = libc::SIGKILL;
    TaskExit { code: 128 + signal, signal: Some(signal), error: Some(reason.to_owned()), at: now() }
}

pub fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis().try_into().unwrap_or(UnixMs::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_says_why_where_the_command_can_not() {
        let state = ContainerState { exit_code: Some(137), oom_killed: Some(true), ..ContainerState::default() };
        let exit = exit_of(&state);
        assert_eq!(exit.code, 137);
        assert!(exit.error.is_some_and(|error| error.contains("memory")));
        let quiet = ContainerState { exit_code: Some(0), error: Some(String::new()), ..ContainerState::default() };
        assert_eq!((exit_of(&quiet).code, exit_of(&quiet).error), (0, None));
    }

    /// An inspected container with retries 2: the Engine's verdict, and the seconds and codes of its probes.
    fn inspected(status: &str, probes: &[(u64, i64)]) -> ContainerInspectResponse {
        let log = |(at, code): &(u64, i64)| serde_json::json!({"Start": format!("1970-01-01T01:00:{at:02}+01:00"), "ExitCode": code});
        serde_json::from_value(serde_json::json!({
            "State": {"Health": {"Status": status, "Log": probes.iter().map(log).collect::<Vec<_>>()}},
            "Config": {"Healthcheck": {"Retries": 2}},
        }))
        .expect("an answer of the Engine")
    }

    #[test]
    fn what_a_probe_saw_behind_the_gate_is_no_verdict() {
        use TaskHealth::{Healthy, Starting, Unhealthy};
        let said = |status, probes: &[_]| health_of(&inspected(status, probes), 10_000);
        assert_eq!(said("none", &[]), None);
        assert_eq!(said("healthy", &[(8, 0), (9, 0)]), Some(Starting));
        assert_eq!(said("healthy", &[(8, 0), (9, 0), (10, 0)]), Some(Healthy));
        assert_eq!(said("healthy", &[(9, 0), (11, 1)]), Some(Starting));
        assert_eq!(said("unhealthy", &[(8, 1), (9, 1)]), Some(Starting));
        assert_eq!(said("unhealthy", &[(8, 1), (9, 1), (11, 1)]), Some(Starting));
        assert_eq!(said("unhealthy", &[(8, 1), (9, 1), (11, 1), (12, 1)]), Some(Unhealthy));
        assert_eq!(said("starting", &[(11, 1)]), Some(Starting));
    }

    #[test]
    fn a_verdict_is_told_once() {
        let table = Table::default();
        let (mut events, id) = (table.subscribe(), Id::from_bytes([3; 16]));
        table.tell_health(&id, TaskHealth::Starting);
        table.tell_health(&id, TaskHealth::Starting);
        table.tell_health(&id, TaskHealth::Healthy);
        let told: Vec<_> = std::iter::from_fn(|| events.try_recv().ok()).collect();
        let health = |health| TaskEvent::Health { task_id: id.clone(), health };
        assert_eq!(told, [health(TaskHealth::Starting), health(TaskHealth::Healthy)]);
    }
}
