//! Running a task's command: what the agent asks of whatever runs tasks on this node.
//!
//! An edge. The agent decides *that* a task runs; a [`TaskRuntime`] makes it so, says when it ended and finds it again
//! after the agent's own restart. Two implementations, and [`Runtimes`], which chooses between them: [`exec`], commands in namespaces of
//! their own on the host's file system; [`docker`], containers of the Docker Engine.
//!
//! Order of calls for one task: [`prepare`](TaskRuntime::prepare) (namespaces exist, nothing runs) → the agent puts
//! `eth0` into the network namespace → [`start`](TaskRuntime::start) → … → [`stop`](TaskRuntime::stop) →
//! [`remove`](TaskRuntime::remove). Any step may be followed by `remove`.
//!
//! Invariant: a task never depends on the agent's life. Must not: read the cluster's state, touch links or addresses.

mod choice;
pub mod docker;
mod error;
pub mod exec;
mod json_file;
mod launch;
mod process;
mod signal;
mod sockets;

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::mpsc;

pub use choice::Runtimes;
pub use error::RuntimeError;
pub use launch::{Phase, Prepared, TaskExit, TaskInstance, TaskLaunch};
pub use signal::signal_number;
pub use sockets::{is_connected, is_listening};

use crate::model::{ExecEvent, ExecInput, ExecRequest, Id, LogLine, TaskHealth};

/// The two directions of a running `mesh exec`. Dropping the sender closes the command's standard input; dropping the
/// receiver says that the caller is gone: the command gets SIGHUP, a little later SIGKILL.
pub type ExecStreams = (mpsc::Sender<ExecInput>, mpsc::Receiver<ExecEvent>);

/// What a runtime tells without being asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskEvent {
    /// Nothing of the task runs any more, and how it ended has to be asked for: [`TaskEvent::Exited`] follows.
    Gone { task_id: Id },
    /// The task's command ended, or could not be started; nothing of it runs any more. Sent once per task and life of
    /// the runtime, also when the end was asked for.
    Exited { task_id: Id, exit: TaskExit },
    /// The verdict of the task's healthcheck changed. The agent gates the task's traffic by it, and ends the task when it is unhealthy.
    Health { task_id: Id, health: TaskHealth },
    /// What a preparation that takes long is at, for people: `pulling nginx:1.27 (42 %)`.
    Progress { task_id: Id, text: String },
}

/// How a task is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StopRequest {
    /// The signal that asks the command to end.
    pub signal: i32,
    /// Time it has before everything in the task is killed.
    pub grace: Duration,
}

/// Which of a task's output is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogRequest {
    /// Goes on until the task has ended.
    pub follow: bool,
    /// Only that many of the last lines; None: all that is kept.
    pub tail: Option<usize>,
}

/// Runs tasks on this node.
#[async_trait]
pub trait TaskRuntime: Send + Sync {
    /// Every task this runtime knows of, running or not yet removed, and takes those over that a former agent started.
    async fn list(&self) -> Result<Vec<TaskInstance>, RuntimeError>;

    /// Makes the task's namespaces, ready for its interface; its command does not run yet.
    async fn prepare(&self, launch: TaskLaunch) -> Result<Prepared, RuntimeError>;

    /// Runs the command of a prepared task. On an error the task has ended (a [`TaskEvent::Exited`] says so too).
    async fn start(&self, task_id: &Id) -> Result<(), RuntimeError>;

    /// Ends the task: signal, grace time, kill. Returns when nothing of it runs any more, at once if it had ended.
    async fn stop(&self, task_id: &Id, request: StopRequest) -> Result<TaskExit, RuntimeError>;

    /// Kills what may still run and removes every trace, output included. Not an error if there is none.
    async fn remove(&self, task_id: &Id) -> Result<(), RuntimeError>;

    /// Runs a further command inside a running task.
    async fn exec(&self, task_id: &Id, request: ExecRequest) -> Result<ExecStreams, RuntimeError>;

    /// The task's output, oldest line first.
    async fn logs(&self, task_id: &Id, request: LogRequest) -> Result<mpsc::Receiver<LogLine>, RuntimeError>;

    /// The verdict of the task's healthcheck at this moment; None: it has none, also by its image. An error where there is no such task.
    async fn health(&self, task_id: &Id) -> Result<Option<TaskHealth>, RuntimeError> {
        let found = self.list().await?.into_iter().find(|instance| instance.task_id == *task_id);
        found.map(|instance| instance.health).ok_or_else(|| RuntimeError::NotFound { task_id: task_id.clone() })
    }

    /// What the last failed probe of the task came to, in one line for people.
    async fn last_failure(&self, _task_id: &Id) -> Option<String> {
        None
    }

    /// Subscribes to what happens from now on.
    fn events(&self) -> mpsc::UnboundedReceiver<TaskEvent>;
}
