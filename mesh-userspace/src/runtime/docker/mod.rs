//! The runtime `docker`: a container of the node's Docker Engine, with an interface of ours.
//!
//! ```text
//! agent                                     Engine                       container
//!   DockerRuntime ── image, request ──────► create, start ─────────────► gate (waits) ─ ─ ► command
//!     gate     ────────────────────────── /proc/PID, SIGUSR2 ────────────┘
//!     watch    ◄── events ─────────────────┘                pidfd ───────┘
//!     adoptable ◄─ labels of containers that somebody else started
//!     record   ── <state-dir>/containers/<task id>.json
//!     logs ◄─────────────────────────────► logs
//!     session ── attach ◄────────────────► exec
//! ```
//! The Engine may be stopped, restarted or upgraded at any time, and so may the agent. What a container is, is on record; whether it lives
//! is asked of the kernel; so a task outlives both, and its end is noticed without either.
//!
//! Invariant: a container's command runs only after [`start`](TaskRuntime::start). Must not: touch links; decide on restarts.

mod adoptable;
mod attach;
mod engine;
mod gate;
mod guests;
mod image;
mod logs;
mod look;
pub mod names;
mod record;
mod request;
mod session;
mod watch;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bollard::models::{ContainerInspectResponse, ContainerState};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, KillContainerOptions, ListContainersOptionsBuilder,
    RemoveContainerOptionsBuilder, StartContainerOptions,
};
use tokio::sync::{mpsc, watch as channel};
use tokio::time::Instant;

pub use self::adoptable::Adoptable;
pub use self::guests::{Guest, Guests};
pub use self::look::{Unseen, look};

use self::engine::{Connected, Engine, State, has_status, words};
use self::record::{Record, Records};
use self::request::{NODE_LABEL, Owner, TASK_LABEL};
use self::watch::Table;
use super::process::{ProcessRef, pidfd_signal};
use super::{
    ExecStreams, LogRequest, Phase, Prepared, RuntimeError, StopRequest, TaskEvent, TaskExit, TaskInstance, TaskLaunch,
    TaskRuntime, signal_number,
};
use crate::model::{ExecRequest, Id, LogLine, TaskHealth};

/// A preparation waits so long for an Engine that is away: it may be restarting.
const ENGINE_WITHIN: Duration = Duration::from_secs(10);
/// Anything else a user waits for.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// From the container's start until its gate listens: milliseconds, on a machine that is well.
const GATE_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// After SIGKILL: only the kernel can still delay the end, and a freezer the Engine has to open.
const DEAD_WITHIN: Duration = Duration::from_secs(15);

/// This node's settings for containers.
#[derive(Clone, Debug)]
pub struct DockerConfig {
    /// The agent's `--state-dir`: the gate and the records are there.
    pub state_dir: PathBuf,
    /// This node in its cluster.
    pub node: Id,
    /// Where the Engine is, as DOCKER_HOST says it; None: at its usual socket.
    pub host: Option<String>,
}

impl DockerConfig {
    /// Settings of an agent: the Engine that its environment names.
    pub fn new(state_dir: PathBuf, node: Id) -> Self {
        DockerConfig { state_dir, node, host: std::env::var("DOCKER_HOST").ok() }
    }
}

/// Runs tasks as containers.
#[derive(Clone)]
pub struct DockerRuntime(Arc<Inner>, Arc<Keeper>);

/// The loop that keeps the connection; it ends with the runtime. It must: it removes what other clusters left, and to the loop of a
/// cluster that was left, the next cluster's containers are such.
struct Keeper(tokio::task::AbortHandle);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Inner {
    config: DockerConfig,
    engine: Engine,
    records: Records,
    table: Table,
    /// Containers that ask to join; None while the Engine does not say.
    adoptable: channel::Sender<Option<Vec<Adoptable>>>,
}

impl DockerRuntime {
    /// Needs root and a tokio runtime; an Engine may be there or come later. Call [`TaskRuntime::list`] to take over what a former
    /// agent left.
    pub fn new(mut config: DockerConfig) -> Result<Self, RuntimeError> {
        let file = |attempt, path: &std::path::Path| {
            let path = path.to_owned();
            move |source| RuntimeError::File { attempt, path, source }
        };
        // Labels and mounts need the whole path.
        config.state_dir = config.state_dir.canonicalize().map_err(file("finding", &config.state_dir))?;
        gate::install(&config.state_dir).map_err(file("writing", &gate::path(&config.state_dir)))?;
        let records = Records::of(&config.state_dir);
        let (engine, table) = (Engine::new(config.host.as_deref()), Table::default());
        let inner = Arc::new(Inner { config, engine, records, table, adoptable: channel::Sender::new(None) });
        let keeper = Keeper(tokio::spawn(inner.clone().keep()).abort_handle());
        Ok(DockerRuntime(inner, Arc::new(keeper)))
    }

    /// Whether this task is one of its containers.
    pub fn knows(&self, task_id: &Id) -> bool {
        self.0.records.contains(task_id)
    }

    /// The Engine's version; None while it does not answer.
    pub fn version(&self) -> Option<String> {
        self.0.engine.now().map(|connected| connected.version.clone())
    }

    /// Waits until the Engine came or went.
    pub async fn changed(&self, last: &Option<String>) {
        let is_other = |state: &State| match state {
            State::Here(connected) => last.as_ref() != Some(&connected.version),
            State::Away(_) => last.is_some(),
            State::Unknown => false,
        };
        // The sender lives as long as we.
        let _ = self.0.engine.watch().wait_for(is_other).await;
    }

    /// Running containers of this Engine that ask by their labels to join, sorted by id. None while the Engine is not to be asked: what was
    /// known before still holds.
    pub fn adoptable(&self) -> channel::Receiver<Option<Vec<Adoptable>>> {
        self.0.adoptable.subscribe()
    }

    /// Ends the connection; containers go on.
    pub fn close(&self) {
        self.1.0.abort();
    }
}

impl Inner {
    fn record(&self, task_id: &Id) -> Result<Record, RuntimeError> {
        let record = self.records.read(task_id).map_err(self.file_error("reading", task_id))?;
        record.ok_or_else(|| RuntimeError::NotFound { task_id: task_id.clone() })
    }

    fn change(&self, task_id: &Id, work: impl FnOnce(&mut Record)) -> Result<(), RuntimeError> {
        self.records.change(task_id, work).map_err(self.file_error("writing", task_id))
    }

    fn file_error(&self, attempt: &'static str, task_id: &Id) -> impl FnOnce(io::Error) -> RuntimeError {
        let path = self.records.file(task_id);
        move |source| RuntimeError::File { attempt, path, source }
    }

    /// The container's process runs.
    fn is_alive(&self, task_id: &Id) -> bool {
        let record = self.records.read(task_id).ok().flatten();
        record.is_some_and(|record| phase(&record).is_some())
    }

    async fn engine(&self, task_id: &Id, patience: Duration) -> Result<Arc<Connected>, RuntimeError> {
        let no_engine = |reason| RuntimeError::NoEngine { task_id: task_id.clone(), reason };
        self.engine.within(patience).await.map_err(no_engine)
    }

    /// Everything of [`TaskRuntime::prepare`] after the record exists.
    async fn prepare(self: &Arc<Self>, launch: &TaskLaunch) -> Result<Prepared, RuntimeError> {
        let task_id = &launch.task_id;
        let rejected = |reason: String| RuntimeError::Rejected { task_id: task_id.clone(), reason };
        let tell = |text: String| self.table.tell(TaskEvent::Progress { task_id: task_id.clone(), text });
        if self.engine.after_first_attempt().await.is_none() {
            tell("waiting for the Docker Engine".to_owned());
        }
        let engine = self.engine.within(ENGINE_WITHIN).await.map_err(rejected)?;
        let docker = &engine.docker;
        let reference = image::full_reference(&launch.image);
        let image = image::ensure(docker, &reference, tell).await.map_err(rejected)?;
        let owner = Owner { node: &self.config.node, state_dir: &self.config.state_dir };
        let body = request::container(launch, &reference, &image, &owner).map_err(rejected)?;
        let is_checked = request::is_checked(launch, &image);
        let stop_signal = image.stop_signal.as_deref().and_then(signal_number);
        self.change(task_id, |record| (record.is_checked, record.stop_signal) = (is_checked, stop_signal))?;

        let options = CreateContainerOptionsBuilder::new().name(&launch.name).build();
        let created = docker.create_container(Some(options), body).await.map_err(|error| rejected(words(&error)))?;
        created.warnings.iter().for_each(|warning| log::info!("task {}: {warning}", task_id.short()));
        let container = created.id;
        self.change(task_id, |record| record.container = Some(container.clone()))?;
        let started = docker.start_container(&container, None::<StartContainerOptions>).await;
        started.map_err(|error| rejected(words(&error)))?;
        let process = self.first_process(&engine, task_id, &container).await?;
        let gate = self.gate_of(task_id, &process).await?;
        let pidfd = process.pidfd().map_err(self.file_error("watching the process of", task_id))?;
        self.change(task_id, |record| (record.process, record.gate) = (Some(process.clone()), Some(gate)))?;
        self.watch(task_id, pidfd).map_err(self.file_error("watching the process of", task_id))?;
        Ok(prepared(&process))
    }

    async fn first_process(
        &self,
        engine: &Connected,
        task_id: &Id,
        container: &str,
    ) -> Result<ProcessRef, RuntimeError> {
        let failed = |reason: String| RuntimeError::Failed { task_id: task_id.clone(), reason };
        let found = inspect(engine, container).await.map_err(|error| failed(words(&error)))?;
        let state = found.state.unwrap_or_default();
        match state.pid.and_then(|pid| i32::try_from(pid).ok()) {
            Some(pid) if pid > 0 => ProcessRef::of(pid).map_err(|error| {
                failed(format!("its first process {pid} is not there: {error}: does the Engine run on this machine?"))
            }),
            _ => Err(failed(format!("its container ended at once with code {}", state.exit_code.unwrap_or(-1)))),
        }
    }

    /// The gate that listens in the container. Where there is none, the container is not made of processes and namespaces of this kernel.
    async fn gate_of(&self, task_id: &Id, process: &ProcessRef) -> Result<ProcessRef, RuntimeError> {
        let rejected = |reason: String| RuntimeError::Rejected { task_id: task_id.clone(), reason };
        let own = std::fs::read_link("/proc/self/ns/net").ok();
        let deadline = Instant::now() + GATE_WITHIN;
        loop {
            if let Some(gate) = gate::listening(process.pid) {
                // Network `none` always makes one; sharing the host's would take the host's links away.
                let theirs = std::fs::read_link(format!("/proc/{}/ns/net", process.pid)).ok();
                return match own == theirs {
                    false => Ok(gate),
                    true => Err(rejected("the Engine made no network namespace for it".to_owned())),
                };
            }
            if !process.is_alive() {
                return Err(rejected("its container ended before it was let go: look at the Engine's log".to_owned()));
            }
            if Instant::now() > deadline {
                return Err(rejected(
                    "its container does not run as processes of this machine's kernel (a runtime with a virtual machine or \
                     a kernel of its own?): mesh can't give it an interface; use a node whose Engine has runc or crun as \
                     default runtime"
                        .to_owned(),
                ));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// What became of one record's container; watches it if it lives.
    async fn adopt(self: &Arc<Self>, record: Record) -> Result<TaskInstance, RuntimeError> {
        let task_id = record.task_id.clone();
        let phase = match (phase(&record), &record.exit) {
            (Some(phase), _) => phase,
            (None, Some(exit)) => Phase::Exited(exit.clone()),
            // Died before its container was started: begun anew.
            (None, None) if record.process.is_none() => Phase::Prepared,
            (None, None) => Phase::Exited(self.conclude(&task_id).await),
        };
        let process = record.process.clone().filter(|_| !matches!(phase, Phase::Exited(_)));
        if let Some(process) = &process {
            let pidfd = process.pidfd().map_err(self.file_error("watching the process of", &task_id))?;
            self.watch(&task_id, pidfd).map_err(self.file_error("watching the process of", &task_id))?;
        }
        let health = if phase == Phase::Running { self.verdict(&record).await } else { None };
        let prepared = process.as_ref().map(prepared);
        Ok(TaskInstance { task_id, launch: record.launch, phase, prepared, started_at: record.started_at, health })
    }

    /// What the Engine says of the container's healthcheck; None: it has none.
    async fn verdict(&self, record: &Record) -> Option<TaskHealth> {
        if !record.is_checked {
            return None;
        }
        let state = self.state(record).await;
        // Until the Engine says more.
        Some(state.as_ref().and_then(watch::health_of).unwrap_or(TaskHealth::Starting))
    }

    /// The container's state, where the Engine answers.
    async fn state(&self, record: &Record) -> Option<ContainerState> {
        let engine = self.engine.now()?;
        inspect(&engine, record.container.as_ref()?).await.ok()?.state
    }

    /// Records for containers of this node that have none: the state directory was lost, or comes from a backup.
    async fn record_strays(&self, engine: &Connected) {
        let node = format!("{NODE_LABEL}={}", self.config.node);
        let filters = std::collections::HashMap::from([("label", vec![node.as_str()])]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let containers = match engine.docker.list_containers(Some(options)).await {
            Ok(containers) => containers,
            Err(error) => return log::warn!("list containers: {}", words(&error)),
        };
        for container in containers {
            let label = container.labels.unwrap_or_default().remove(TASK_LABEL);
            let (Some(id), Some(task_id)) = (container.id, label.and_then(|label| Id::try_from(label).ok())) else {
                continue;
            };
            if self.records.contains(&task_id) || self.table.is_preparing(&task_id) {
                continue;
            }
            let Ok(found) = inspect(engine, &id).await else { continue };
            let state = found.state.unwrap_or_default();
            let pid = state.pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0);
            let mut record = Record::new(task_id, None);
            record.container = Some(id);
            record.process = pid.and_then(|pid| ProcessRef::of(pid).ok());
            record.gate = pid.and_then(gate::listening);
            record.is_checked = state.health.is_some();
            match record.process {
                None => record.exit = Some(watch::exit_of(&state)),
                Some(_) if record.gate.is_none() => record.started_at = Some(watch::now()),
                Some(_) => {}
            }
            log::info!("container {} is task {} of a former agent", found.name.unwrap_or_default(), record.task_id);
            if let Err(error) = self.records.create(&record) {
                log::warn!("{}: {error}", self.records.file(&record.task_id).display());
            }
        }
    }
}

/// Prepared or running; None where its process has ended, or was never there.
fn phase(record: &Record) -> Option<Phase> {
    let process = record.process.as_ref().filter(|process| record.exit.is_none() && process.is_alive())?;
    // Let go, but not written down: the agent died in between. The process itself knows.
    let waits = |gate: &ProcessRef| gate.is_alive() && gate::is_gate(gate.pid);
    let is_gated = record.started_at.is_none() && record.gate.as_ref().map_or(gate::is_gate(process.pid), waits);
    Some(if is_gated { Phase::Prepared } else { Phase::Running })
}

fn prepared(process: &ProcessRef) -> Prepared {
    Prepared { pid: process.pid.cast_unsigned(), netns: PathBuf::from(format!("/proc/{}/ns/net", process.pid)) }
}

async fn inspect(engine: &Connected, container: &str) -> Result<ContainerInspectResponse, bollard::errors::Error> {
    engine.docker.inspect_container(container, None::<InspectContainerOptions>).await
}

#[async_trait]
impl TaskRuntime for DockerRuntime {
    async fn list(&self) -> Result<Vec<TaskInstance>, RuntimeError> {
        let inner = &self.0;
        if let Some(engine) = inner.engine.after_first_attempt().await {
            inner.record_strays(&engine).await;
        }
        let folder = inner.config.state_dir.join("containers");
        let ids = inner.records.ids();
        let ids = ids.map_err(|source| RuntimeError::File { attempt: "listing", path: folder, source })?;
        let mut instances = Vec::new();
        // One that is being prepared at this moment has its caller already.
        for task_id in ids.into_iter().filter(|id| !inner.table.is_preparing(id)) {
            match inner.records.read(&task_id) {
                Ok(Some(record)) => instances.push(inner.adopt(record).await?),
                Ok(None) => {}
                Err(source) => {
                    let path = inner.records.file(&task_id);
                    return Err(RuntimeError::File { attempt: "reading", path, source });
                }
            }
        }
        Ok(instances)
    }

    async fn prepare(&self, launch: TaskLaunch) -> Result<Prepared, RuntimeError> {
        let (inner, task_id) = (&self.0, launch.task_id.clone());
        let _preparing = inner.table.preparing(&task_id);
        let record = Record::new(task_id.clone(), Some(launch.clone()));
        inner.records.create(&record).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => RuntimeError::Exists { task_id: task_id.clone() },
            _ => inner.file_error("writing", &task_id)(error),
        })?;
        let result = inner.prepare(&launch).await;
        if let Err(error) = &result
            && let Err(second) = self.remove(&task_id).await
        {
            log::warn!("{error}; and cleaning up after it: {second}");
        }
        result
    }

    async fn start(&self, task_id: &Id) -> Result<(), RuntimeError> {
        let inner = &self.0;
        let record = inner.record(task_id)?;
        let not_running = |phase| RuntimeError::NotRunning { task_id: task_id.clone(), phase };
        let (Some(Phase::Prepared), Some(gate)) = (phase(&record), record.gate.as_ref()) else {
            return Err(not_running(phase(&record).as_ref().map_or("exited", Phase::word)));
        };
        let supervisor =
            |source| RuntimeError::Supervisor { task_id: task_id.clone(), attempt: "letting it go", source };
        if record.is_checked {
            inner.table.tell_health(task_id, TaskHealth::Starting);
        }
        inner.change(task_id, |record| record.started_at = Some(watch::now()))?;
        gate::release(gate).map_err(supervisor)?;
        let deadline = Instant::now() + GATE_WITHIN;
        while gate.is_alive() && !gate::is_gone(gate.pid) {
            if Instant::now() > deadline {
                return Err(supervisor(io::ErrorKind::TimedOut.into()));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        if gate.is_alive() {
            return Ok(());
        }
        // Over already: a short command, or one that is none. The gate leaves a line of its own then.
        let Some(exit) = inner.watch(task_id, None).map_err(supervisor)?.within(DEAD_WITHIN).await else {
            return Ok(());
        };
        if exit.code != 126 && exit.code != 127 {
            return Ok(());
        }
        let engine = inner.engine(task_id, ANSWER_WITHIN).await?;
        let container = record.container.unwrap_or_default();
        let said = logs::last_complaint(&engine.docker, task_id, &container).await.unwrap_or_default();
        match said.strip_prefix("mesh-gate: ") {
            Some(reason) => Err(RuntimeError::Failed { task_id: task_id.clone(), reason: reason.to_owned() }),
            None => Ok(()),
        }
    }

    async fn stop(&self, task_id: &Id, request: StopRequest) -> Result<TaskExit, RuntimeError> {
        let inner = &self.0;
        let record = inner.record(task_id)?;
        if let Some(exit) = record.exit {
            return Ok(exit);
        }
        let supervisor = |attempt| move |source| RuntimeError::Supervisor { task_id: task_id.clone(), attempt, source };
        let process = record.process.as_ref().map_or(Ok(None), ProcessRef::pidfd);
        let Some(pidfd) = process.map_err(supervisor("finding its process"))? else {
            return Ok(inner.conclude(task_id).await);
        };
        let for_watch = pidfd.try_clone().map_err(supervisor("watching its process"))?;
        let mut end = inner.watch(task_id, Some(for_watch)).map_err(supervisor("watching its process"))?;
        // Behind the gate there is nobody who could end in order.
        if record.started_at.is_some() {
            let is_unsaid = record.launch.as_ref().is_some_and(|launch| launch.stop_signal.is_none());
            let of_image = record.stop_signal.filter(|_| is_unsaid && request.signal == libc::SIGTERM);
            let signal = of_image.unwrap_or(request.signal);
            pidfd_signal(&pidfd, signal).map_err(supervisor("asking it to stop"))?;
            if let Some(exit) = end.within(request.grace).await {
                return Ok(exit);
            }
        }
        pidfd_signal(&pidfd, libc::SIGKILL).map_err(supervisor("killing it"))?;
        if let Some(exit) = end.within(DEAD_WITHIN / 3).await {
            return Ok(exit);
        }
        // One that somebody paused dies when it is thawed, which the Engine's own kill does.
        if let (Some(engine), Some(container)) = (inner.engine.now(), &record.container) {
            let killed = engine.docker.kill_container(container, None::<KillContainerOptions>).await;
            killed.unwrap_or_else(|error| log::warn!("task {}: {}", task_id.short(), words(&error)));
        }
        end.within(DEAD_WITHIN).await.ok_or_else(|| RuntimeError::StillThere {
            task_id: task_id.clone(),
            seconds: DEAD_WITHIN.as_secs(),
            left: format!("process {}", record.process.map_or(0, |process| process.pid)),
        })
    }

    async fn remove(&self, task_id: &Id) -> Result<(), RuntimeError> {
        let inner = &self.0;
        let Some(record) = inner.records.read(task_id).map_err(inner.file_error("reading", task_id))? else {
            return Ok(());
        };
        if phase(&record).is_some() {
            self.stop(task_id, StopRequest { signal: libc::SIGKILL, grace: Duration::ZERO }).await?;
        }
        // Without an id it may still have been made: the agent died before it was told. Its name tells.
        let name = record.launch.as_ref().map(|launch| launch.name.clone());
        if let Some(container) = record.container.or(name) {
            let engine = inner.engine(task_id, ANSWER_WITHIN).await?;
            let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
            match engine.docker.remove_container(&container, Some(options)).await {
                Err(error) if !has_status(&error, 404) => {
                    let words = words(&error);
                    return Err(RuntimeError::Engine {
                        task_id: task_id.clone(),
                        attempt: "removing its container",
                        words,
                    });
                }
                _ => {}
            }
        }
        inner.table.forget(task_id);
        inner.records.remove(task_id).map_err(inner.file_error("removing", task_id))
    }

    async fn exec(&self, task_id: &Id, request: ExecRequest) -> Result<ExecStreams, RuntimeError> {
        let record = self.0.record(task_id)?;
        let phase = phase(&record);
        let (Some(Phase::Running), Some(container)) = (&phase, &record.container) else {
            let phase = phase.as_ref().map_or("exited", Phase::word);
            return Err(RuntimeError::NotRunning { task_id: task_id.clone(), phase });
        };
        let engine = self.0.engine(task_id, ANSWER_WITHIN).await?;
        session::open(&engine, task_id, container, &request).await
    }

    async fn logs(&self, task_id: &Id, request: LogRequest) -> Result<mpsc::Receiver<LogLine>, RuntimeError> {
        let record = self.0.record(task_id)?;
        self.0.engine(task_id, ANSWER_WITHIN).await?;
        let container = record
            .container
            .ok_or_else(|| RuntimeError::NotRunning { task_id: task_id.clone(), phase: "being prepared" })?;
        Ok(logs::stream(self.0.clone(), task_id.clone(), container, request))
    }

    async fn health(&self, task_id: &Id) -> Result<Option<TaskHealth>, RuntimeError> {
        let record = self.0.record(task_id)?;
        Ok(self.0.verdict(&record).await)
    }

    async fn last_failure(&self, task_id: &Id) -> Option<String> {
        let record = self.0.record(task_id).ok()?;
        watch::last_failure(&self.0.state(&record).await?)
    }

    fn events(&self) -> mpsc::UnboundedReceiver<TaskEvent> {
        self.0.table.subscribe()
    }
}
