//! What nodes report about themselves and their tasks; each record is written by one node only.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::{Id, Runtime, TaskState, UnixMs};

/// A task's state of the moment, by its node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStatus {
    pub state: TaskState,
    /// Running, programmed and (if it has a check) healthy: may be in rings and DNS.
    pub ready: bool,
    /// One line for people: `started`, `stopped`, …
    pub message: String,
    /// Why it failed or was rejected.
    pub error: Option<String>,
    pub exit_code: Option<i32>,
    pub pid: Option<u32>,
    /// The verdict of its healthcheck; None: it has none.
    #[serde(default)]
    pub health: Option<TaskHealth>,
    /// When this state began.
    pub since: UnixMs,
}

impl TaskStatus {
    /// In this state since then, and nothing more to tell.
    pub fn new(state: TaskState, ready: bool, since: UnixMs) -> Self {
        let message = String::new();
        TaskStatus { state, ready, message, error: None, exit_code: None, pid: None, health: None, since }
    }
}

/// What a healthcheck says of a running task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskHealth {
    /// Not passed yet, and not failed often enough.
    Starting,
    Healthy,
    /// Failed so often in a row that the task is to be replaced.
    Unhealthy,
}

/// A node's report about itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeStatus {
    /// Start of this agent's life; a restarted agent has a higher one.
    pub generation: u64,
    pub agent_version: String,
    /// Highest store revision whose tables this node has applied to its kernel.
    pub applied_revision: u64,
    /// Layout version of its BPF maps.
    pub layout_version: u32,
    /// Published ports (protocol/port) this node could not take, because the host itself uses them.
    pub ports_not_taken: Vec<String>,
    /// Runtimes that answer on this node at the moment: the scheduler places by them. None: an agent too old to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtimes: Option<Vec<Runtime>>,
    /// Version of the Docker Engine, where one answers.
    #[serde(default)]
    pub engine_version: Option<String>,
    /// Tasks that their own nodes call unhealthy and that this node's maps and names are without: so a task's node knows
    /// when nobody sends it new calls any more.
    #[serde(default)]
    pub without: BTreeSet<Id>,
    /// Addresses of its interfaces that published ports name.
    #[serde(default)]
    pub interfaces: BTreeMap<String, BTreeSet<IpAddr>>,
    /// Warnings for `mesh status`.
    pub warnings: Vec<String>,
}

/// Everything this node has heard, its own reports included.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    /// By node id.
    pub nodes: BTreeMap<Id, NodeStatus>,
    /// By task id.
    pub tasks: OrdMap<Id, TaskStatus>,
    /// Node id → SWIM believes its agent alive. Absent: never heard of.
    pub agent_alive: BTreeMap<Id, bool>,
    /// Node id → since when SWIM believes its agent gone.
    pub agent_gone_since: BTreeMap<Id, UnixMs>,
    /// Node id → since when its echo frames stay unanswered here. Absent: reachable.
    pub unreachable_since: BTreeMap<Id, UnixMs>,
}

impl Observed {
    /// Addresses of the interfaces of this name, of these nodes.
    pub fn addresses_of<'a>(&self, interface: &str, nodes: impl Iterator<Item = &'a Id>) -> BTreeSet<IpAddr> {
        let statuses = nodes.filter_map(|node| self.nodes.get(node));
        statuses.filter_map(|status| status.interfaces.get(interface)).flatten().copied().collect()
    }
}
