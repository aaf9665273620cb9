//! A node: a machine that runs the agent, as the cluster knows it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Id, UnixMs};

/// What a node may do to the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Runs tasks, reads the cluster, can't change it.
    Worker,
    /// Also changes the cluster.
    Manager,
}

/// Whether the scheduler may place tasks on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Availability {
    /// New tasks are placed here.
    Active,
    /// Tasks stay, nothing new comes.
    Pause,
    /// Tasks are moved away.
    Drain,
}

/// A member of the cluster; desired fact, written at join and by `node update`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Node {
    pub id: Id,
    /// Small number that stands for this node in BPF maps and frames (peer id); never 0, never re-used.
    pub number: u32,
    /// Unique name, as `node ls` shows it under HOSTNAME.
    pub name: String,
    pub role: Role,
    pub availability: Availability,
    pub labels: BTreeMap<String, String>,
    /// Where the node's API (2377) and gossip (7946) are reached; bound at join.
    pub advertise_addr: IpAddr,
    /// Outer address of tunnel packets from and to this node; bound at join.
    pub data_path_addr: IpAddr,
    /// SHA-256 of the node's certificate (DER), hex; requests of another certificate under this id are refused.
    pub cert_fingerprint: String,
    /// The certificate that it asked for since: both are good, until the older one ends by itself.
    #[serde(default)]
    pub renewed_fingerprint: Option<String>,
    /// This node keeps the embedded store and runs the leader.
    pub holds_store: bool,
    /// Runtimes that answer on this node, as its agent last reported: at join, then whenever the leader sees a change.
    pub runtimes: Vec<super::Runtime>,
    /// Prefixes that the node routes elsewhere (reported at join): the allocator keeps out of them.
    pub routed_prefixes: Vec<ipnet::IpNet>,
    pub joined_at: UnixMs,
}

impl Node {
    /// Whether a certificate of this fingerprint is this node's.
    pub fn has_certificate(&self, fingerprint: &str) -> bool {
        self.cert_fingerprint == fingerprint || self.renewed_fingerprint.as_deref() == Some(fingerprint)
    }
}
