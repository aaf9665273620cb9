//! What a runtime is given to run a task, and what it says about one: plain facts, kept on disk as JSON.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::{Container, HealthCheck, Id, Mount, Resources, RestartCondition, Runtime, Task, TaskHealth, UnixMs};

/// Everything a runtime must know to run a task; later changes of the service make another task.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskLaunch {
    pub task_id: Id,
    /// `service.slot.taskid`, for people.
    pub name: String,
    pub hostname: String,
    /// Image reference; empty where the command is the host's own.
    #[serde(default)]
    pub image: String,
    #[serde(default)]
    pub container: Container,
    pub command: Vec<String>,
    /// `KEY=value`; an entry without `=` is ignored.
    pub env: Vec<String>,
    /// `user[:group]`, names or numbers; None: root.
    pub user: Option<String>,
    /// None: `/`.
    pub workdir: Option<String>,
    pub mounts: Vec<Mount>,
    pub resources: Resources,
    #[serde(default)]
    pub health: Option<HealthCheck>,
    /// For `/etc/resolv.conf`: the gateway of the task's first network.
    pub nameservers: Vec<IpAddr>,
    pub search: Vec<String>,
    /// The task's own addresses: they stand for its hostname in `/etc/hosts`.
    pub addresses: Vec<IpAddr>,
    /// Further lines of `/etc/hosts`.
    pub extra_hosts: Vec<(IpAddr, String)>,
    /// What asks the command to end; None: what its image says, else SIGTERM.
    pub stop_signal: Option<i32>,
    pub stop_grace_ms: u64,
    /// How it ends decides whether it is run again (restart condition `none`, `on-failure`): worth waiting for.
    #[serde(default)]
    pub exit_matters: bool,
}

impl TaskLaunch {
    /// The caller adds nameservers and searches.
    pub fn of(task: &Task, stop_signal: Option<i32>, nameservers: Vec<IpAddr>, search: Vec<String>) -> Self {
        TaskLaunch {
            task_id: task.id.clone(),
            name: format!("{}.{}", task.name(), task.id),
            hostname: task.hostname().to_owned(),
            image: task.spec.image.clone(),
            container: task.spec.container.clone(),
            command: task.spec.command.clone(),
            env: task.spec.env.clone(),
            user: task.spec.user.clone(),
            workdir: task.spec.workdir.clone(),
            mounts: task.spec.mounts.clone(),
            resources: task.spec.resources,
            health: task.spec.health.clone(),
            nameservers,
            search,
            addresses: task.attachments.iter().flat_map(|attachment| attachment.addrs.each()).collect(),
            // The Engine writes a container's own.
            extra_hosts: if task.spec.runtime == Runtime::Exec { task.spec.host_lines() } else { Vec::new() },
            stop_signal,
            stop_grace_ms: task.spec.stop_grace_period_ms,
            exit_matters: task.spec.restart.condition != RestartCondition::Any,
        }
    }
}

/// A task whose namespaces exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    /// The task's first process, as the host numbers it.
    pub pid: u32,
    /// Its network namespace; valid while the task lives: open it soon.
    pub netns: PathBuf,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskExit {
    /// As a shell has it: 128 + signal where a signal ended it, 126 and 127 where it could not be started.
    pub code: i32,
    pub signal: Option<i32>,
    /// Why, where the command itself can't have said it.
    pub error: Option<String>,
    pub at: UnixMs,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Namespaces exist, the command does not run.
    Prepared,
    Running,
    /// Nothing of it runs any more; how it ended is not known yet: an event will tell.
    Gone,
    Exited(TaskExit),
}

impl Phase {
    /// The word for messages.
    pub fn word(&self) -> &'static str {
        match self {
            Phase::Prepared => "prepared",
            Phase::Running => "running",
            Phase::Gone | Phase::Exited(_) => "exited",
        }
    }
}

/// A task as the runtime finds it.
#[derive(Clone, Debug, PartialEq)]
pub struct TaskInstance {
    pub task_id: Id,
    /// None where what was written about it can't be read any more.
    pub launch: Option<TaskLaunch>,
    pub phase: Phase,
    /// Its namespaces, while it lives.
    pub prepared: Option<Prepared>,
    pub started_at: Option<UnixMs>,
    /// The last verdict of its healthcheck; None: it has none.
    pub health: Option<TaskHealth>,
}
