//! The runtime `exec`: a command in namespaces and a cgroup of its own, on the host's file system.
//!
//! ```text
//! agent (tokio)                       a process of its own per task        inside the task
//!   ExecRuntime ── launch.json ──────► supervise ── init ────────────────► command
//!     watch    ◄── pidfd, state.json ──┘
//!     health   ── probes now and then, by a session ───────────────────────► command of a healthcheck
//!     session  ──────────────────────────────────── enter ───────────────► command of 'mesh exec'
//!     output   ◄── log, log.1 (written by supervise)
//! ```
//! The agent may die at any time: the supervisor goes on, and the next agent's [`ExecRuntime`] finds its task by the folder
//! it left (`record`), makes sure that it is that very process (`process`) and watches it (`watch`).
//!
//! Invariant: a task's folder exists from before its first process to after its last. Must not: poll; touch links.

mod cgroup;
mod command;
mod config;
mod control;
mod enter;
mod health;
mod identity;
mod output;
mod privileges;
mod record;
mod session;
mod supervise;
mod watch;

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;

pub use cgroup::cgroup2_root;
pub use config::{ExecConfig, masked_dirs};
pub use enter::enter_main;
pub use supervise::supervise_main;

use self::cgroup::TaskCgroup;
use self::control::{Answer, Question};
use self::health::{Patient, Probers};
use self::record::{LaunchRecord, StateRecord, TaskDir};
use self::supervise::Report;
use self::watch::Watches;
use super::process;
use super::{
    ExecStreams, LogRequest, Phase, Prepared, RuntimeError, StopRequest, TaskEvent, TaskExit, TaskInstance, TaskLaunch,
    TaskRuntime,
};
use crate::model::{ExecRequest, HealthCheck, Id, LogLine, TaskHealth};

/// Making namespaces takes milliseconds; a machine that takes longer than this is in trouble.
const PREPARE_WITHIN: Duration = Duration::from_secs(30);
const START_WITHIN: Duration = Duration::from_secs(30);
/// After the grace time everything is killed: only the kernel can still delay the end.
const DEAD_WITHIN: Duration = Duration::from_secs(15);
/// Runs tasks as commands of this machine.
#[derive(Clone)]
pub struct ExecRuntime(Arc<Inner>);

struct Inner {
    config: ExecConfig,
    watches: Watches,
    probers: Probers,
}

impl ExecRuntime {
    /// Needs root and a tokio runtime; call [`TaskRuntime::list`] to take over what a former agent left.
    pub fn new(mut config: ExecConfig) -> Result<Self, RuntimeError> {
        if !config.cgroup_root.join("cgroup.procs").exists() {
            return Err(RuntimeError::NoCgroup2);
        }
        let tasks = TaskDir::all(&config.state_dir);
        std::fs::create_dir_all(&tasks).map_err(file("making the directory of tasks", &tasks))?;
        // Supervisors work from `/`.
        config.state_dir = config.state_dir.canonicalize().map_err(file("finding", &config.state_dir))?;
        Ok(ExecRuntime(Arc::new(Inner { config, watches: Watches::default(), probers: Probers::default() })))
    }

    fn dir(&self, task_id: &Id) -> TaskDir {
        TaskDir::of(&self.0.config.state_dir, task_id)
    }

    fn group(&self, task_id: &Id) -> TaskCgroup {
        TaskCgroup::of(&self.0.config.cgroup_root, &self.0.config.node, task_id)
    }

    /// The state of a task that has been prepared.
    fn state(&self, task_id: &Id) -> Result<(TaskDir, StateRecord), RuntimeError> {
        let dir = self.dir(task_id);
        let state = dir.read_state().map_err(file("reading", &dir.state_file()))?;
        let state = state.ok_or_else(|| RuntimeError::NotFound { task_id: task_id.clone() })?;
        Ok((dir, state))
    }

    /// Spawns the supervisor and hears what it reports.
    async fn spawn_supervisor(&self, dir: &TaskDir) -> io::Result<Report> {
        let stderr = std::fs::File::options().append(true).create(true).open(dir.supervisor_log_file())?;
        let mut child = self
            .0
            .config
            .helper("supervise")
            .arg("--dir")
            .arg(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .spawn()?;
        let mut text = Vec::new();
        if let Some(mut stdout) = child.stdout.take() {
            // The pipe closes when the supervisor has reported, or has died without.
            stdout.read_to_end(&mut text).await?;
        }
        child.wait().await?;
        serde_json::from_slice(&text).map_err(|_| {
            let said = std::fs::read_to_string(dir.supervisor_log_file()).unwrap_or_default();
            io::Error::other(format!("the supervisor ended without a report: {}", said.trim()))
        })
    }

    /// Everything of [`TaskRuntime::prepare`] after the folder exists.
    async fn prepare_in(&self, dir: &TaskDir, launch: TaskLaunch) -> Result<Prepared, RuntimeError> {
        let task_id = launch.task_id.clone();
        let group = self.group(&task_id);
        let rejected = |reason: String| RuntimeError::Rejected { task_id: task_id.clone(), reason };
        group.create(&self.0.config.cgroup_root, &launch.resources).map_err(|error| rejected(error.to_string()))?;
        let record = LaunchRecord {
            task: launch,
            cgroup: group.path().to_owned(),
            masked: self.0.config.masked.clone(),
            log_max_bytes: self.0.config.log_max_bytes,
        };
        dir.write_launch(&record).map_err(file("writing", &dir.launch_file()))?;
        let report = tokio::time::timeout(PREPARE_WITHIN, self.spawn_supervisor(dir)).await;
        let supervisor_error =
            |source| RuntimeError::Supervisor { task_id: task_id.clone(), attempt: "starting its supervisor", source };
        match report.map_err(|_| supervisor_error(io::ErrorKind::TimedOut.into()))?.map_err(supervisor_error)? {
            Report::Rejected { reason } => Err(rejected(reason)),
            Report::Prepared { pid } => {
                let (dir, state) = self.state(&task_id)?;
                self.0.watches.add(task_id.clone(), dir, group, &state).map_err(supervisor_error)?;
                Ok(prepared(pid))
            }
        }
    }

    async fn ask(&self, task_id: &Id, question: Question, attempt: &'static str) -> Result<Answer, RuntimeError> {
        let dir = self.dir(task_id);
        let asked = blocking(move || control::ask(&dir, &question, START_WITHIN)).await;
        asked.map_err(|source| RuntimeError::Supervisor { task_id: task_id.clone(), attempt, source })
    }

    /// What became of one folder's task; watches it if it lives.
    fn adopt(&self, task_id: Id) -> Result<TaskInstance, RuntimeError> {
        let (dir, group) = (self.dir(&task_id), self.group(&task_id));
        let launch = match dir.read_launch() {
            Ok(record) => Some(record.task),
            Err(error) => {
                log::warn!("{}: {error}: what this task was is not known any more", dir.launch_file().display());
                None
            }
        };
        let state = dir.read_state().unwrap_or_else(|error| {
            log::warn!("{}: {error}: the task is taken for ended", dir.state_file().display());
            None
        });
        let started_at = state.as_ref().and_then(|state| state.started_at);
        let phase = match &state {
            Some(state) if matches!(state.phase, Phase::Exited(_)) => state.phase.clone(),
            Some(state) if state.supervisor.is_alive() => {
                self.0.watches.add(task_id.clone(), dir, group, state).map_err(|source| RuntimeError::Supervisor {
                    task_id: task_id.clone(),
                    attempt: "watching its supervisor",
                    source,
                })?;
                state.phase.clone()
            }
            _ => Phase::Exited(watch::conclude(&task_id, &dir, &group)),
        };
        if phase == Phase::Running {
            self.probe(&task_id);
        }
        let health = self.verdict(&task_id, launch.as_ref());
        let is_alive = !matches!(phase, Phase::Exited(_));
        let prepared = state.filter(|_| is_alive).map(|state| prepared(state.init.pid.cast_unsigned()));
        Ok(TaskInstance { task_id, launch, phase, prepared, started_at, health })
    }

    /// The last verdict, where a task has a check.
    fn verdict(&self, task_id: &Id, launch: Option<&TaskLaunch>) -> Option<TaskHealth> {
        let record = self.dir(task_id).read_health().unwrap_or_else(|error| {
            log::warn!("task {}: {error}: its health is judged anew", task_id.short());
            None
        });
        let has_check = launch.is_some_and(|launch| check_of(launch).is_some());
        record.map(|record| record.health).or(has_check.then_some(TaskHealth::Starting))
    }

    /// Begins to probe a running task, where it has a check.
    fn probe(&self, task_id: &Id) {
        let (dir, group) = (self.dir(task_id), self.group(task_id));
        let Some(check) = dir.read_launch().ok().and_then(|record| check_of(&record.task).cloned()) else { return };
        let Ok(Some(state)) = dir.read_state() else { return };
        match self.0.watches.add(task_id.clone(), dir.clone(), group, &state) {
            Ok(end) => {
                let started_at = state.started_at.unwrap_or_default();
                let patient = Patient { task_id: task_id.clone(), check, dir, init: state.init, started_at, end };
                self.0.probers.begin(&self.0.config, &self.0.watches, patient);
            }
            Err(error) => log::warn!("task {}: {error}: it is not probed", task_id.short()),
        }
    }
}

/// A check that there is, and that is not switched off.
fn check_of(launch: &TaskLaunch) -> Option<&HealthCheck> {
    launch.health.as_ref().filter(|check| !check.is_disabled())
}

fn prepared(pid: u32) -> Prepared {
    Prepared { pid, netns: PathBuf::from(format!("/proc/{pid}/ns/net")) }
}

fn file(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RuntimeError {
    let path = path.to_owned();
    move |source| RuntimeError::File { attempt, path, source }
}

/// Short calls into the file system that may still wait for a disk or for the kernel to end a process.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}

#[async_trait]
impl TaskRuntime for ExecRuntime {
    async fn list(&self) -> Result<Vec<TaskInstance>, RuntimeError> {
        let tasks = TaskDir::all(&self.0.config.state_dir);
        let entries = std::fs::read_dir(&tasks).map_err(file("listing", &tasks))?;
        let ids =
            entries.filter_map(Result::ok).filter_map(|entry| Id::try_from(entry.file_name().into_string().ok()?).ok());
        let mut instances = Vec::new();
        // One that is being prepared at this moment has its caller already.
        for task_id in ids.filter(|id| !self.0.watches.is_preparing(id)) {
            instances.push(self.adopt(task_id)?);
        }
        instances.sort_by(|a, b| a.task_id.cmp(&b.task_id));
        Ok(instances)
    }

    async fn prepare(&self, launch: TaskLaunch) -> Result<Prepared, RuntimeError> {
        let task_id = launch.task_id.clone();
        let dir = self.dir(&task_id);
        let _preparing = self.0.watches.preparing(&task_id);
        dir.create().map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => RuntimeError::Exists { task_id: task_id.clone() },
            _ => file("making", dir.path())(error),
        })?;
        let result = self.prepare_in(&dir, launch).await;
        if let Err(error) = &result
            && let Err(second) = self.remove(&task_id).await
        {
            log::warn!("{error}; and cleaning up after it: {second}");
        }
        result
    }

    async fn start(&self, task_id: &Id) -> Result<(), RuntimeError> {
        let (_, state) = self.state(task_id)?;
        if state.phase != Phase::Prepared {
            return Err(RuntimeError::NotRunning { task_id: task_id.clone(), phase: state.phase.word() });
        }
        match self.ask(task_id, Question::Start, "starting its command").await? {
            Answer::Done => {
                self.probe(task_id);
                Ok(())
            }
            Answer::NotStarted { reason, .. } | Answer::Refused { reason } => {
                Err(RuntimeError::Failed { task_id: task_id.clone(), reason })
            }
        }
    }

    async fn stop(&self, task_id: &Id, request: StopRequest) -> Result<TaskExit, RuntimeError> {
        let (dir, state) = self.state(task_id)?;
        if let Phase::Exited(exit) = state.phase {
            return Ok(exit);
        }
        let group = self.group(task_id);
        let end = self.0.watches.add(task_id.clone(), dir, group.clone(), &state).map_err(|source| {
            RuntimeError::Supervisor { task_id: task_id.clone(), attempt: "watching its supervisor", source }
        })?;
        let grace_ms = request.grace.as_millis().try_into().unwrap_or(u64::MAX);
        let question = Question::Stop { signal: request.signal, grace_ms };
        if let Err(error) = self.ask(task_id, question, "asking it to stop").await {
            // A supervisor that does not answer goes with its task.
            log::warn!("{error}; killing it");
            blocking(move || group.kill_all()).await.map_err(|source| RuntimeError::Supervisor {
                task_id: task_id.clone(),
                attempt: "killing its cgroup",
                source,
            })?;
        }
        let patience = request.grace.saturating_add(DEAD_WITHIN);
        end.within(patience).await.ok_or_else(|| RuntimeError::StillThere {
            task_id: task_id.clone(),
            seconds: patience.as_secs(),
            left: format!("supervisor {}, init {}", state.supervisor.pid, state.init.pid),
        })
    }

    async fn remove(&self, task_id: &Id) -> Result<(), RuntimeError> {
        let (dir, group) = (self.dir(task_id), self.group(task_id));
        if matches!(dir.read_state(), Ok(Some(state)) if !matches!(state.phase, Phase::Exited(_))) {
            self.stop(task_id, StopRequest { signal: libc::SIGKILL, grace: Duration::ZERO }).await?;
        }
        let (path, left) = (dir.path().to_owned(), group.path().display().to_string());
        blocking(move || group.remove()).await.map_err(|source| RuntimeError::StillThere {
            task_id: task_id.clone(),
            seconds: cgroup::EMPTY_WITHIN.as_secs(),
            left: format!("{left}: {source}"),
        })?;
        self.0.watches.forget(task_id);
        let folder = path.clone();
        let removed = blocking(move || std::fs::remove_dir_all(folder)).await;
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(file("removing", &path)(error)),
            _ => Ok(()),
        }
    }

    async fn exec(&self, task_id: &Id, request: ExecRequest) -> Result<ExecStreams, RuntimeError> {
        let (dir, state) = self.state(task_id)?;
        if state.phase != Phase::Running || !state.init.is_alive() {
            return Err(RuntimeError::NotRunning { task_id: task_id.clone(), phase: state.phase.word() });
        }
        session::open(&dir, &state.init, self.0.config.helper("enter"), &request).map_err(|source| {
            RuntimeError::Supervisor { task_id: task_id.clone(), attempt: "running a command in it", source }
        })
    }

    async fn logs(&self, task_id: &Id, request: LogRequest) -> Result<mpsc::Receiver<LogLine>, RuntimeError> {
        let (dir, _) = self.state(task_id)?;
        let path = dir.log_file();
        output::stream(task_id.clone(), dir, request).map_err(file("reading", &path))
    }

    async fn health(&self, task_id: &Id) -> Result<Option<TaskHealth>, RuntimeError> {
        let dir = self.dir(task_id);
        let launch = dir.read_launch().map_err(file("reading", &dir.launch_file()))?;
        Ok(self.verdict(task_id, Some(&launch.task)))
    }

    async fn last_failure(&self, task_id: &Id) -> Option<String> {
        let record = self.dir(task_id).read_health().ok().flatten()?;
        Some(record.last_failure).filter(|words| !words.is_empty())
    }

    fn events(&self) -> mpsc::UnboundedReceiver<TaskEvent> {
        self.0.watches.subscribe()
    }
}
