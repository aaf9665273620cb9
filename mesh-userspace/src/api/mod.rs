//! The API of one agent: JSON over HTTP/1.1, on its unix socket for people and over TLS for other nodes.
//!
//! Walk: a [`Client`] (command line or another agent) → [`server`] (routes, who may do what, reads answered by the
//! pure [`view`]s) → [`ControlPlane`], which the agent implements.
//! Invariant: the same routes, bodies and errors on every transport; [`Caller`] alone says where a request came from.
//! Must not: know sockets of BPF, netlink or the store; read a clock other than through [`Facts`].

mod answer;
mod caller;
pub mod client;
mod control;
mod error;
mod explain;
mod flows;
#[cfg(test)]
mod hostile;
mod monitor;
mod request;
pub mod server;
pub mod stream;
pub mod tls;
pub mod view;

pub use answer::{
    Created, DropRow, InitAnswer, JoinAnswer, JoinTokenAnswer, Listing, LogRecord, ManagerStatus, NetworkDetail,
    NetworkPeer, NetworkRow, NetworkService, NetworkTask, NodeDetail, NodeRow, NodeState, PurgeAnswer, ServiceDetail,
    ServiceRow, ServiceVip, StackAnswer, StackRow, StackStep, StatusAnswer, StepAction, StepKind, SwarmInfo,
    TaskDetail, TaskRow,
};
pub use caller::Caller;
pub use client::Client;
pub use control::{ControlPlane, ExecSession, LogFeed};
pub use error::{ApiError, ErrorKind};
pub use explain::{ExplainQuery, ExplainRequest};
pub use flows::{
    Ends, FlowFact, FlowFeed, FlowQuery, FlowRequest, FlowRow, FlowState, FlowSummary, TableFill, protocol_name,
};
pub use monitor::{EventFeed, MonitorQuery, MonitorRequest, MonitorRow, Told};
pub use request::{
    InitRequest, JoinRequest, JoinTokenRequest, LeaveRequest, LogQuery, LogRequest, NodeUpdate, ScaleItem,
    ServiceUpdate, StackDeploy,
};
pub use view::Facts;
