//! A task: one instance of a service, on one node, for one life.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::{Addresses, Id, TaskSpec, UnixMs};

/// Swarm's task states, in order; a task never goes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskState {
    New,
    Pending,
    Assigned,
    Accepted,
    Ready,
    Preparing,
    Starting,
    Running,
    Complete,
    Shutdown,
    Failed,
    Rejected,
    Orphaned,
    Remove,
}

impl TaskState {
    /// The task will never run (again).
    pub fn is_terminal(self) -> bool {
        self > TaskState::Running
    }
}

/// A task's addresses on one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    pub network_id: Id,
    /// One of each family that the network has.
    #[serde(rename = "addr")]
    pub addrs: Addresses,
    /// 32-bit number that names this attachment in frames between nodes; never 0, never re-used inside the quarantine.
    pub endpoint: u32,
}

/// A task as the leader wants it; its state of the moment is in [`super::Observed`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Task {
    pub id: Id,
    pub service_id: Id,
    /// Name of the service when the task was made, for history that outlives the service.
    pub service_name: String,
    /// 1.. for replicated services, 0 for global ones.
    pub slot: u32,
    /// None while the scheduler finds no node.
    pub node_id: Option<Id>,
    /// Shared by the tasks of a service as far as they run the same.
    pub spec: Arc<TaskSpec>,
    /// `Service::version` this task was made from.
    pub service_version: u64,
    pub attachments: Vec<Attachment>,
    /// `Running`, `Shutdown` or `Remove`.
    pub desired: TaskState,
    /// Set with `desired = Shutdown` while flows still end: out of rings and DNS, still served.
    pub draining: bool,
    /// State written by the leader where no node can report one: Pending, Orphaned, or the last seen of a lost node.
    pub leader_state: Option<TaskState>,
    /// Why the task is pending, was rejected or replaced.
    pub message: String,
    pub created_at: UnixMs,
    /// Once the task has ended by itself: earliest start of its successor (restart delay); 0: at once.
    pub not_before: UnixMs,
    /// Id (64 hexadecimal digits) of the container that joined by its labels; its name is the spec's hostname. None: a task of our own.
    #[serde(default)]
    pub adopted: Option<String>,
}

impl Task {
    /// The short task id: its hostname, and the stem of its interface's name.
    pub fn hostname(&self) -> &str {
        self.spec.hostname.as_deref().unwrap_or(self.id.short())
    }

    /// `web.1`, or `web.<node id>` for a global service: what `service ps` shows.
    pub fn name(&self) -> String {
        match (self.slot, &self.node_id) {
            (0, Some(node)) => format!("{}.{}", self.service_name, node),
            (slot, _) => format!("{}.{}", self.service_name, slot),
        }
    }

    /// Host side of the task's veth: `mv` and 8 hex digits of the task id.
    pub fn interface(&self) -> String {
        format!("mv{}", &self.id.as_str()[..8])
    }
}
