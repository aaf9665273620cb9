//! The flow table asked for and answered: entries come as the kernel has them, and become rows with names where they are served.

use std::collections::{BTreeMap, HashSet};
use std::net::SocketAddr;

use mesh_common::ageing::State;
use mesh_common::schema::{Flow, FlowKey, flow_flag};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::ApiError;
use crate::model::{Id, UnixMs};

/// How far a flow has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowState {
    Opening,
    Established,
    Closing,
    Dead,
}

impl From<State> for FlowState {
    fn from(state: State) -> Self {
        match state {
            State::Opening => FlowState::Opening,
            State::Established => FlowState::Established,
            State::Closing => FlowState::Closing,
            State::Dead => FlowState::Dead,
        }
    }
}

impl FlowState {
    pub fn name(self) -> &'static str {
        match self {
            FlowState::Opening => State::Opening.name(),
            FlowState::Established => State::Established.name(),
            FlowState::Closing => State::Closing.name(),
            FlowState::Dead => State::Dead.name(),
        }
    }
}

/// `mesh flows`: what all conditions that are given hold for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRequest {
    /// Flows to or from the tasks of a service: name, id or unique prefix of the id.
    pub service: Option<String>,
    /// Flows to or from a task.
    pub task: Option<String>,
    pub state: Option<FlowState>,
    /// Answers' entries too, which are shown with their calls otherwise.
    pub replies: bool,
    /// No more than this; all where absent.
    pub limit: Option<u64>,
}

/// Tasks that are asked for, as the table knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ends {
    /// Endpoint numbers.
    pub endpoints: HashSet<u32>,
    /// Addresses on networks, IPv4 as ::ffff:a.b.c.d.
    pub addrs: HashSet<[u8; 16]>,
}

/// A [`FlowRequest`] with its names found: what the control plane is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowQuery {
    /// All of these must have a part in it.
    pub ends: Vec<Ends>,
    pub state: Option<FlowState>,
    pub replies: bool,
    pub limit: Option<u64>,
}

impl FlowQuery {
    /// Whether an entry may be asked for, by itself: before its other direction is looked for.
    pub fn may_want(&self, key: &FlowKey<[u8; 16]>, flow: &Flow<[u8; 16]>) -> bool {
        let has_part = |ends: &Ends| {
            ends.endpoints.contains(&flow.backend) || ends.addrs.contains(&key.src) || ends.addrs.contains(&key.dst)
        };
        (self.replies || flow.flags & flow_flag::REVERSE == 0) && self.ends.iter().all(has_part)
    }

    pub fn wants(&self, fact: &FlowFact) -> bool {
        self.state.is_none_or(|state| state == fact.state())
    }
}

/// A flow as the kernel has it, IPv4 addresses as ::ffff:a.b.c.d.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowFact {
    pub key: FlowKey<[u8; 16]>,
    pub flow: Flow<[u8; 16]>,
    /// The other direction's entry.
    pub twin: Option<Flow<[u8; 16]>>,
    /// It found the table full.
    pub is_beside: bool,
    /// Seconds since its last packet, of either direction.
    pub silent_s: u32,
}

impl FlowFact {
    pub fn state(&self) -> FlowState {
        State::of_flow(&self.key, &self.flow, self.twin.as_ref()).into()
    }
}

/// Flows, some at a time; ends when there are no more.
pub type FlowFeed = mpsc::Receiver<Result<Vec<FlowFact>, ApiError>>;

/// A flow with the names that belong to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRow {
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `sctp`, or the number.
    pub protocol: String,
    pub source: SocketAddr,
    /// As the caller named it: a VIP, a published port of a node, an address outside.
    pub destination: SocketAddr,
    /// Of the task that serves it, or that went outside; empty where it is gone.
    pub service: String,
    pub task: String,
    pub task_id: Option<Id>,
    /// That task's node.
    pub node: String,
    pub state: FlowState,
    /// An answer's entry.
    pub is_reply: bool,
    /// It found the table full, and gives way to newer ones.
    pub is_beside: bool,
    pub silent_s: u32,
    /// Of both directions, as far as they pass this node.
    pub packets: u64,
    pub bytes: u64,
}

/// How full a family's flow table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableFill {
    pub used: u64,
    pub size: u64,
    /// Beside the table: what found it full.
    pub overflow_used: u64,
    pub overflow_size: u64,
}

/// `mesh flows --summary`; counts are of entries, two a flow on most ways.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowSummary {
    pub at: UnixMs,
    pub ipv4: TableFill,
    pub ipv6: TableFill,
    /// Entries that gave way to others since the agent began.
    pub gave_way: u64,
    /// Packets dropped for want of an entry since the programs were loaded.
    pub drops_table_full: u64,
    /// By protocol and state, each entry by itself.
    pub entries: BTreeMap<String, BTreeMap<FlowState, u64>>,
}

/// The name of a protocol, or its number.
pub fn protocol_name(number: u8) -> String {
    use mesh_common::parse::protocol;
    match number {
        protocol::TCP => "tcp".to_string(),
        protocol::UDP => "udp".to_string(),
        protocol::ICMP => "icmp".to_string(),
        protocol::ICMPV6 => "icmpv6".to_string(),
        protocol::SCTP => "sctp".to_string(),
        other => other.to_string(),
    }
}
