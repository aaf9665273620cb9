//! What is answered: listings carry exactly what tables and `--format json` need, details carry the model's objects
//! with the names that ids stand for. How they look is the command line's business.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::model::{
    Addresses, Availability, Id, LogLine, Mode, Network, Node, NodeStatus, PortSpec, Role, Runtime, Service, Settings,
    Subnets, Task, TaskHealth, TaskState, UnixMs, UpdateStatus,
};

/// Rows, and the moment they are true for: ages are counted from it, not from the reader's clock.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Listing<T> {
    pub at: UnixMs,
    pub rows: Vec<T>,
}

/// A new object; `warnings` are said on standard error and change nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Created {
    pub id: Id,
    pub warnings: Vec<String>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitAnswer {
    pub node_id: Id,
    pub worker_token: String,
    /// `ADDRESS:PORT` that others join at.
    pub join_addr: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinAnswer {
    pub node_id: Id,
    pub role: Role,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinTokenAnswer {
    pub role: Role,
    pub token: String,
    pub join_addr: String,
}

/// `mesh swarm info`-like facts, part of `mesh status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SwarmInfo {
    pub node_id: Id,
    pub role: Role,
    pub settings: Option<Settings>,
    /// Store revision that this node knows.
    pub revision: u64,
    pub managers: u32,
    pub nodes: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NodeState {
    Ready,
    Down,
    /// Never heard of since this agent started.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ManagerStatus {
    /// Keeps the store and runs the leader.
    Leader,
    Reachable,
    Unreachable,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRow {
    pub id: Id,
    pub hostname: String,
    pub is_self: bool,
    pub state: NodeState,
    pub availability: Availability,
    /// None on workers.
    pub manager: Option<ManagerStatus>,
    pub agent_version: String,
    /// Version of the Docker Engine, where one answers.
    #[serde(default)]
    pub engine_version: Option<String>,
    pub address: IpAddr,
    /// Since when this node gets no echo from it on the data path.
    pub unreachable_since: Option<UnixMs>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeDetail {
    pub row: NodeRow,
    pub node: Node,
    /// Its own report; None where nothing was heard yet.
    pub status: Option<NodeStatus>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkRow {
    pub id: Id,
    pub name: String,
    pub vni: u32,
    pub subnets: Subnets,
    pub internal: bool,
    pub attachable: bool,
    pub ingress: bool,
    pub labels: BTreeMap<String, String>,
    pub created_at: UnixMs,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NetworkDetail {
    pub network: Network,
    /// Tasks of this network on the answering node.
    pub local_tasks: Vec<NetworkTask>,
    /// Nodes that have a task on it.
    pub peers: Vec<NetworkPeer>,
    /// Services on it as the answering node believes them.
    pub services: Vec<NetworkService>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPeer {
    pub name: String,
    pub ip: IpAddr,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkService {
    pub name: String,
    /// None for mode `dnsrr`.
    pub vip: Option<Addresses>,
    pub ports: Vec<PortSpec>,
    pub pool: u32,
    pub tasks: Vec<NetworkTask>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkTask {
    pub id: Id,
    pub name: String,
    pub endpoint: u32,
    pub addrs: Addresses,
    /// Address of the node it runs on.
    pub host: Option<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRow {
    pub id: Id,
    pub name: String,
    pub mode: Mode,
    pub running: u32,
    pub desired: u32,
    /// Image, or the command's file name with runtime `exec`.
    pub image: String,
    pub ports: Vec<PortSpec>,
    /// Why it can't be satisfied, if so.
    pub pending_reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceDetail {
    pub at: UnixMs,
    pub service: Service,
    /// One per network and family, in the order of the spec.
    pub vips: Vec<ServiceVip>,
    pub running: u32,
    pub desired: u32,
    /// Tasks that should run and were made from an older spec.
    pub outdated: u32,
    /// The last update that had tasks to replace.
    #[serde(default)]
    pub update: Option<UpdateStatus>,
    /// Newest first in each slot.
    pub tasks: Vec<TaskRow>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceVip {
    pub network_id: Id,
    pub network: String,
    /// With the prefix length of the network's subnet.
    pub addr: IpNet,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskRow {
    pub id: Id,
    /// `web.1`.
    pub name: String,
    pub service_id: Id,
    pub slot: u32,
    pub runtime: Runtime,
    pub image: String,
    pub node_id: Option<Id>,
    /// Name of the node; empty while there is none.
    pub node: String,
    pub desired: TaskState,
    pub state: TaskState,
    /// In rings and DNS.
    pub ready: bool,
    /// The verdict of its healthcheck, while it lives; None: it has none.
    #[serde(default)]
    pub health: Option<TaskHealth>,
    pub draining: bool,
    pub service_version: u64,
    /// When `state` began.
    pub since: UnixMs,
    /// Why it failed, is pending or was rejected; empty otherwise.
    pub error: String,
    /// Ports published on its own node (mode host), and published ports that a node could not take: `tcp/8500 on n3`.
    pub ports: Vec<PortSpec>,
    pub ports_not_taken: Vec<String>,
    pub created_at: UnixMs,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskDetail {
    pub row: TaskRow,
    pub task: Task,
    pub pid: Option<u32>,
    pub exit_code: Option<i32>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackRow {
    pub name: String,
    pub services: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepAction {
    Created,
    Updated,
    /// Already as the manifest has it.
    Unchanged,
    Removed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepKind {
    Network,
    Service,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackStep {
    pub action: StepAction,
    pub kind: StepKind,
    pub name: String,
    pub id: Id,
}

/// What a stack command did, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackAnswer {
    pub steps: Vec<StackStep>,
    pub warnings: Vec<String>,
}

/// A line of a task's output with the names that belong to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogRecord {
    pub task: String,
    pub node: String,
    pub line: LogLine,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StatusAnswer {
    pub at: UnixMs,
    pub node_name: String,
    pub agent_version: String,
    /// Which uplinks' drivers run our XDP program, in words; None where the node is in no cluster.
    #[serde(default)]
    pub xdp: Option<String>,
    /// None where the node is in no cluster.
    pub swarm: Option<SwarmInfo>,
    pub nodes: Vec<NodeRow>,
    pub services: Vec<ServiceRow>,
    /// Tasks of this node that should run.
    pub local_tasks: Vec<TaskRow>,
    /// Packets that this node's programs dropped since they were loaded, the most first.
    #[serde(default)]
    pub drops: Vec<DropRow>,
    pub warnings: Vec<String>,
}

/// Packets dropped at one hook for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DropRow {
    pub hook: String,
    pub reason: String,
    pub packets: u64,
    pub meaning: String,
    pub remedy: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurgeAnswer {
    /// What was removed, one line each.
    pub removed: Vec<String>,
}
