//! What the agent must be able to do: the API's one seam.
//!
//! Reads are one method, [`ControlPlane::facts`]: a consistent snapshot from which the pure [`super::view`]s make every
//! listing, so that all nodes answer alike, also while the store is away. The server has refused callers without the
//! right, and changes asked on a worker, before a method here is called. Names in arguments may be a name, an id or a
//! unique prefix of an id; where an [`Id`] is asked for, the server has resolved it.
//! Each change is applied whole or not at all, and once its call returns, this node's `facts` show it.

use async_trait::async_trait;
use tokio::sync::mpsc;

use super::{
    ApiError, Caller, Created, EventFeed, ExplainQuery, Facts, FlowFeed, FlowQuery, FlowSummary, InitAnswer,
    InitRequest, JoinAnswer, JoinRequest, JoinTokenAnswer, JoinTokenRequest, LeaveRequest, LogQuery, MonitorQuery,
    NodeUpdate, PurgeAnswer, ScaleItem, ServiceUpdate, StackAnswer, StackDeploy,
};
use crate::doctor::Finding;
use crate::explain::Explanation;
use crate::model::{ExecEvent, ExecInput, ExecRequest, Id, LogLine, NetworkSpec, ServiceSpec};

/// A running command: both ends of it. Dropping `input` or closing `events` means that the caller is gone.
#[derive(Debug)]
pub struct ExecSession {
    pub input: mpsc::Sender<ExecInput>,
    /// Ends with [`ExecEvent::Exit`]; ending without one means that the connection to the task's node was lost.
    pub events: mpsc::Receiver<ExecEvent>,
}

/// Lines as they come; ends when there are no more (never, with `follow`, while the service exists).
pub type LogFeed = mpsc::Receiver<Result<LogLine, ApiError>>;

/// Implemented by the agent; by a fake in tests.
#[async_trait]
pub trait ControlPlane: Send + Sync + 'static {
    /// The cluster as this node knows it, at once and without the store.
    async fn facts(&self) -> Facts;

    async fn swarm_init(&self, caller: &Caller, request: InitRequest) -> Result<InitAnswer, ApiError>;
    async fn swarm_join(&self, caller: &Caller, request: JoinRequest) -> Result<JoinAnswer, ApiError>;
    async fn swarm_leave(&self, caller: &Caller, request: LeaveRequest) -> Result<(), ApiError>;
    async fn join_token(&self, caller: &Caller, request: JoinTokenRequest) -> Result<JoinTokenAnswer, ApiError>;

    async fn node_update(&self, caller: &Caller, node: &Id, update: NodeUpdate) -> Result<(), ApiError>;
    async fn node_remove(&self, caller: &Caller, node: &Id, force: bool) -> Result<(), ApiError>;

    async fn network_create(&self, caller: &Caller, spec: NetworkSpec) -> Result<Created, ApiError>;
    async fn network_remove(&self, caller: &Caller, network: &Id) -> Result<(), ApiError>;

    async fn service_create(&self, caller: &Caller, spec: ServiceSpec) -> Result<Created, ApiError>;
    async fn service_update(&self, caller: &Caller, service: &Id, update: ServiceUpdate) -> Result<(), ApiError>;
    async fn service_scale(&self, caller: &Caller, items: Vec<ScaleItem>) -> Result<(), ApiError>;
    async fn service_rollback(&self, caller: &Caller, service: &Id) -> Result<(), ApiError>;
    async fn service_remove(&self, caller: &Caller, service: &Id) -> Result<(), ApiError>;

    async fn stack_deploy(&self, caller: &Caller, request: StackDeploy) -> Result<StackAnswer, ApiError>;
    async fn stack_remove(&self, caller: &Caller, name: &str) -> Result<StackAnswer, ApiError>;

    /// Starts a command in a task, on whichever node it runs.
    async fn exec(&self, caller: &Caller, task: &Id, request: ExecRequest) -> Result<ExecSession, ApiError>;
    async fn logs(&self, caller: &Caller, query: LogQuery) -> Result<LogFeed, ApiError>;

    /// Flows of this node, some at a time: a table of millions is never in memory at once.
    async fn flows(&self, caller: &Caller, query: FlowQuery) -> Result<FlowFeed, ApiError>;
    /// How full the flow table is, and with what.
    async fn flow_summary(&self, caller: &Caller) -> Result<FlowSummary, ApiError>;

    /// Packets' verdicts of this node as they happen; the programs tell none when nobody listens.
    async fn monitor(&self, caller: &Caller, query: MonitorQuery) -> Result<EventFeed, ApiError>;

    /// What the programs of this node would do with a packet now.
    async fn explain(&self, caller: &Caller, query: ExplainQuery) -> Result<Explanation, ApiError>;

    /// A check-up of this node, made now.
    async fn doctor(&self, caller: &Caller) -> Result<Vec<Finding>, ApiError>;

    /// Stops this node's tasks and takes every trace of it out of the kernel.
    async fn purge(&self, caller: &Caller) -> Result<PurgeAnswer, ApiError>;
}
