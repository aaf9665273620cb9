//! The words of the product as types: nodes, networks, services, tasks, and the two kinds of fact about them.
//!
//! *Desired* facts ([`Cluster`]) are written by the leader and the user's commands and live in the store.
//! *Observed* facts ([`Observed`]) are written by the node they are about and travel by gossip.
//! Everything above (leader, plan, api, agent) speaks these types; nothing here does I/O, reads a clock or waits.

mod addresses;
mod change;
mod cluster;
mod container;
mod counters;
mod exec;
mod host_port;
mod id;
mod labelled;
mod network;
mod node;
mod observed;
mod service;
mod stack;
mod task;
mod update;

pub use addresses::{Addresses, PerFamily, Subnets};
pub use change::Change;
pub use cluster::{Cluster, Settings, SharedSpecs};
pub use container::{Container, ExecLack, Mount, MountOptions, Ulimit};
pub use counters::Counters;
pub use exec::{ExecEvent, ExecInput, ExecRequest, LogLine, LogStream, WindowSize};
pub use host_port::{HostPort, ParseHostPortError};
pub use id::{Id, ParseIdError};
pub use labelled::{LabelledContainer, NotAdopted};
pub use network::{Network, NetworkSpec};
pub use node::{API_PORT, Availability, ControlPorts, GOSSIP_PORT, Node, Role};
pub use observed::{NodeStatus, Observed, TaskHealth, TaskStatus};
pub use service::{
    Affinity, Algorithm, EndpointMode, HealthCheck, Mode, NetworkAttachment, PortSpec, Protocol, PublishMode,
    Resources, RestartCondition, RestartPolicy, Runtime, Service, ServiceSpec, TaskSpec, UpdateConfig,
    UpdateFailureAction, UpdateOrder, Vip,
};
pub use stack::Stack;
pub use task::{Attachment, Task, TaskState};
pub use update::{UpdateState, UpdateStatus};

/// Milliseconds since the Unix epoch, as handed in from outside: the model has no clock.
pub type UnixMs = u64;
