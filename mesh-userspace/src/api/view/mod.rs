//! What a node knows, made into answers: pure functions from a snapshot of desired and observed facts.
//!
//! Every read of the API goes through here, so that all nodes and both transports answer alike.
//! Must not: wait, read a clock, or guess beyond the facts handed in.

mod explain;
mod find;
mod flows;
mod monitor;
mod network;
mod node;
mod service;
mod stack;
mod status;
mod task;

use std::sync::Arc;

use mesh_common::verdict::{DropReason, Hook};

use super::ApiError;
use crate::model::{Cluster, Id, Node, Observed, Role, UnixMs};

pub use explain::explain_query;
pub use flows::{FlowNames, flow_query};
pub use monitor::{EventNames, monitor_query};
pub use network::{network_detail, networks};
pub use node::{node_detail, nodes};
pub use service::{service_detail, services};
pub use stack::{stack_services, stack_tasks, stacks};
pub use status::status;
pub use task::{local_tasks, service_tasks, task_detail, task_state, tasks_of_node};

/// One consistent snapshot of what a node knows.
#[derive(Clone, Debug)]
pub struct Facts {
    pub cluster: Arc<Cluster>,
    pub observed: Arc<Observed>,
    /// This node's id; None while it is in no cluster.
    pub me: Option<Id>,
    /// This node's name, in a cluster or not.
    pub node_name: String,
    pub agent_version: String,
    /// What the drivers of this node's uplinks run of ours, in words.
    pub xdp: Option<String>,
    /// Packets that this node's programs dropped since they were loaded.
    pub drops: Vec<(Hook, DropReason, u64)>,
    /// What this agent itself has to say: a missing ability, the store away since when.
    pub warnings: Vec<String>,
    pub now: UnixMs,
}

impl Facts {
    /// This node as a member, or why it isn't one and what to do.
    pub fn member(&self) -> Result<&Id, ApiError> {
        self.me.as_ref().ok_or_else(|| {
            ApiError::conflict(
                "this node is in no cluster; run 'mesh swarm init' to start one or 'mesh swarm join' to enter one",
            )
        })
    }

    /// This node's own record.
    pub fn self_node(&self) -> Option<&Node> {
        self.me.as_ref().and_then(|id| self.cluster.nodes.get(id))
    }

    /// Refuses a change asked on a worker, naming a manager to ask instead.
    pub fn manager(&self) -> Result<(), ApiError> {
        self.member()?;
        match self.self_node() {
            Some(node) if node.role == Role::Worker => {
                let manager = self.cluster.nodes.values().find(|node| node.role == Role::Manager);
                let remedy = manager.map_or(String::new(), |node| format!(", e.g. {}", node.name));
                Err(ApiError::forbidden(format!("this node is a worker: run it on a manager{remedy}")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
pub(crate) mod fixture;
