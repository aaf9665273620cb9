//! What happens to containers: their ends by pidfd, which needs no Engine; verdicts of healthchecks, and containers that ask to join, by
//! the Engine's events; and the loop that keeps the connection to an Engine that comes and goes.
//!
//! Invariant: each container's end is told once, whether the Engine is there or not; as long as the process lives, the task lives. After each
//! connection everything is looked at anew, because events of the time between are lost. Must not: decide whether a task should run.

use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bollard::models::{ContainerState, EventMessageTypeEnum, HealthStatusEnum};
use bollard::query_parameters::{
    EventsOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
};
use futures_util::StreamExt;
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
/// How long the Engine has to say how a container ended whose process is gone.
const TOLD_WITHIN: Duration = Duration::from_secs(3);
const ASK_EVERY: Duration = Duration::from_millis(20);
/// Containers of one `compose up` are listed together.
const GATHER: Duration = Duration::from_millis(30);
/// A listing holds up the verdicts of our own tasks: one container that the Engine can't look at must not do so for long.
const LIST_WITHIN: Duration = Duration::from_secs(5);
/// Until a listing that failed is tried again.
const LIST_AGAIN: Duration = Duration::from_secs(2);

/// The containers of this agent's life.
#[derive(Default)]
pub struct Table(Mutex<Known>);

#[derive(Default)]
struct Known {
    ends: HashMap<Id, watch::Receiver<Option<TaskExit>>>,
    health: HashMap<Id, TaskHealth>,
    preparing: HashSet<Id>,
    subscribers: Vec<mpsc::UnboundedSender<TaskEvent>>,
}

/// A container's end, to wait for.
pub struct End(watch::Receiver<Option<TaskExit>>);

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
    }
}

impl Drop for Preparing<'_> {
    fn drop(&mut self) {
        self.0.known().preparing.remove(&self.1);
    }
}

impl End {
    /// How the task ended; None if it has not within this time.
    pub async fn within(&mut self, patience: Duration) -> Option<TaskExit> {
        let ended = tokio::time::timeout(patience, self.0.wait_for(Option::is_some)).await;
        ended.ok()?.ok()?.clone()
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
        let (sender, receiver) = watch::channel(None);
        known.ends.insert(task_id.clone(), receiver.clone());
        let (inner, task_id) = (self.clone(), task_id.clone());
        tokio::spawn(async move {
            if let Some(pidfd) = pidfd
                && let Err(error) = pidfd.readable().await
            {
                log::warn!("watching task {}: {error}: it is taken for ended", task_id.short());
            }
            let exit = inner.conclude(&task_id).await;
            sender.send_replace(Some(exit.clone()));
            inner.table.tell(TaskEvent::Exited { task_id, exit });
        });
        Ok(End(receiver))
    }

    /// How a container ended whose process is gone, asked of the Engine and written down.
    pub async fn conclude(&self, task_id: &Id) -> TaskExit {
        let record = self.records.read(task_id).ok().flatten();
        if let Some(exit) = record.as_ref().and_then(|record| record.exit.clone()) {
            return exit;
        }
        let deadline = Instant::now() + TOLD_WITHIN;
        let exit = loop {
            if let Some(exit) = self.ask_for_end(task_id, record.as_ref()).await {
                break exit;
            }
            if Instant::now() > deadline {
                break unknown("its process ended while the Docker Engine was away: how is not known");
            }
            tokio::time::sleep(ASK_EVERY).await;
        };
        if let Err(error) = self.records.change(task_id, |record| record.exit = Some(exit.clone())) {
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

    /// Tells the verdict of the moment. Behind the gate there is none: nothing can be healthy yet.
    async fn look_at_health(&self, engine: &Connected, task_id: &Id) {
        let record = self.records.read(task_id).ok().flatten();
        if let Some(record) = record.filter(|record| record.is_checked && record.started_at.is_some())
            && let Some(container) = &record.container
            && let Ok(found) = engine.docker.inspect_container(container, None::<InspectContainerOptions>).await
            && let Some(health) = found.state.as_ref().and_then(health_of)
        {
            self.table.tell_health(task_id, health);
        }
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

/// The verdict of the moment; None: no check.
pub fn health_of(state: &ContainerState) -> Option<TaskHealth> {
    match state.health.as_ref()?.status? {
        HealthStatusEnum::HEALTHY => Some(TaskHealth::Healthy),
        HealthStatusEnum::UNHEALTHY => Some(TaskHealth::Unhealthy),
        HealthStatusEnum::STARTING => Some(TaskHealth::Starting),
        HealthStatusEnum::EMPTY | HealthStatusEnum::NONE => None,
    }
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
