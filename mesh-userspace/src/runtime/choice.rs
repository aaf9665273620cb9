//! Which runtime a task belongs to: an image is the Engine's, a bare command is this host's; later the one that has it on record.
//!
//! Invariant: what a former agent started is listed whatever this one may start. Must not: run anything itself.

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};

use super::docker::{Adoptable, DockerConfig, DockerRuntime};
use super::exec::{ExecConfig, ExecRuntime};
use super::{
    ExecStreams, LogRequest, Prepared, RuntimeError, StopRequest, TaskEvent, TaskExit, TaskInstance, TaskLaunch,
    TaskRuntime,
};
use crate::model::{ExecRequest, Id, LogLine, Runtime, TaskHealth};

/// The runtimes of this node.
#[derive(Clone)]
pub struct Runtimes {
    exec: ExecRuntime,
    docker: DockerRuntime,
    /// What this agent may start tasks with.
    allowed: Vec<Runtime>,
    /// What an agent hears that may not use the Engine: nothing, for ever.
    silence: watch::Sender<Option<Vec<Adoptable>>>,
}

impl Runtimes {
    /// Needs root and a tokio runtime; `allowed` is what `--runtimes` says.
    pub fn new(exec: ExecConfig, docker: DockerConfig, allowed: &[Runtime]) -> Result<Self, RuntimeError> {
        let (exec, docker) = (ExecRuntime::new(exec)?, DockerRuntime::new(docker)?);
        Ok(Runtimes { exec, docker, allowed: allowed.to_vec(), silence: watch::Sender::new(None) })
    }

    /// What answers at this moment, and the version of the Docker Engine where that is among it.
    pub fn available(&self) -> (Vec<Runtime>, Option<String>) {
        let version = self.docker.version().filter(|_| self.allowed.contains(&Runtime::Docker));
        let answers = |runtime: &&Runtime| **runtime == Runtime::Exec || version.is_some();
        (self.allowed.iter().filter(answers).copied().collect(), version)
    }

    /// Waits until the Engine, being `version` when we last looked, came or went.
    pub async fn changed(&self, version: &Option<String>) {
        if self.allowed.contains(&Runtime::Docker) {
            self.docker.changed(version).await;
        } else {
            std::future::pending().await
        }
    }

    /// Containers that ask to join, see [`DockerRuntime::adoptable`].
    pub fn adoptable(&self) -> watch::Receiver<Option<Vec<Adoptable>>> {
        if self.allowed.contains(&Runtime::Docker) { self.docker.adoptable() } else { self.silence.subscribe() }
    }

    /// No connection any more; tasks go on.
    pub fn close(&self) {
        self.docker.close();
    }

    fn of(&self, task_id: &Id) -> &dyn TaskRuntime {
        if self.docker.knows(task_id) { &self.docker } else { &self.exec }
    }
}

#[async_trait]
impl TaskRuntime for Runtimes {
    async fn list(&self) -> Result<Vec<TaskInstance>, RuntimeError> {
        let mut instances = self.exec.list().await?;
        instances.extend(self.docker.list().await?);
        Ok(instances)
    }

    async fn prepare(&self, launch: TaskLaunch) -> Result<Prepared, RuntimeError> {
        let (runtime, word) =
            if launch.image.is_empty() { (Runtime::Exec, "exec") } else { (Runtime::Docker, "docker") };
        if !self.allowed.contains(&runtime) {
            let reason =
                format!("this node's agent may not use the runtime {word}: start it with --runtimes docker,exec");
            return Err(RuntimeError::Rejected { task_id: launch.task_id, reason });
        }
        match runtime {
            Runtime::Exec => self.exec.prepare(launch).await,
            Runtime::Docker => self.docker.prepare(launch).await,
        }
    }

    async fn start(&self, task_id: &Id) -> Result<(), RuntimeError> {
        self.of(task_id).start(task_id).await
    }

    async fn stop(&self, task_id: &Id, request: StopRequest) -> Result<TaskExit, RuntimeError> {
        self.of(task_id).stop(task_id, request).await
    }

    async fn remove(&self, task_id: &Id) -> Result<(), RuntimeError> {
        self.of(task_id).remove(task_id).await
    }

    async fn exec(&self, task_id: &Id, request: ExecRequest) -> Result<ExecStreams, RuntimeError> {
        self.of(task_id).exec(task_id, request).await
    }

    async fn logs(&self, task_id: &Id, request: LogRequest) -> Result<mpsc::Receiver<LogLine>, RuntimeError> {
        self.of(task_id).logs(task_id, request).await
    }

    async fn health(&self, task_id: &Id) -> Result<Option<TaskHealth>, RuntimeError> {
        self.of(task_id).health(task_id).await
    }

    async fn last_failure(&self, task_id: &Id) -> Option<String> {
        self.of(task_id).last_failure(task_id).await
    }

    fn events(&self) -> mpsc::UnboundedReceiver<TaskEvent> {
        let (sender, receiver) = mpsc::unbounded_channel();
        for mut events in [self.exec.events(), self.docker.events()] {
            let sender = sender.clone();
            tokio::spawn(async move {
                while let Some(event) = events.recv().await {
                    if sender.send(event).is_err() {
                        return;
                    }
                }
            });
        }
        receiver
    }
}
