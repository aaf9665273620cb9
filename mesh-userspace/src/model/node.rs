//! A node: a machine that runs the agent, as the cluster knows it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

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

/// Port of the cluster API (TCP) unless `init` or `join` names another: Swarm's.
pub const API_PORT: u16 = 2377;
/// Port of gossip (UDP and TCP) unless `init` or `join` names another: Swarm's.
pub const GOSSIP_PORT: u16 = 7946;

/// The ports of a node's control plane, bound at join.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ControlPorts {
    /// TCP, where others reach the API.
    pub api: u16,
    /// UDP and TCP, where others reach gossip, and where it listens.
    pub gossip: u16,
    /// Where the API listens (gossip at the same address); None: at `api`, on all addresses.
    pub listen: Option<SocketAddr>,
}

impl Default for ControlPorts {
    fn default() -> Self {
        ControlPorts { api: API_PORT, gossip: GOSSIP_PORT, listen: None }
    }
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
    /// Where the node's API and gossip are reached; bound at join.
    pub advertise_addr: IpAddr,
    /// By which ports; a record of a version that knew no others has the usual ones.
    #[serde(default)]
    pub ports: ControlPorts,
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
    /// Where others reach its API.
    pub fn api_addr(&self) -> SocketAddr {
        SocketAddr::new(self.advertise_addr, self.ports.api)
    }

    /// Where others reach its gossip.
    pub fn gossip_addr(&self) -> SocketAddr {
        SocketAddr::new(self.advertise_addr, self.ports.gossip)
    }

    /// Whether a certificate of this fingerprint is this node's.
    pub fn has_certificate(&self, fingerprint: &str) -> bool {
        self.cert_fingerprint == fingerprint || self.renewed_fingerprint.as_deref() == Some(fingerprint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_a_record_does_not_name_are_the_usual_ones() {
        let read = |text: &str| serde_json::from_str::<ControlPorts>(text).expect("ports");
        assert_eq!(read("{}"), ControlPorts { api: 2377, gossip: 7946, listen: None });
        assert_eq!(read(r#"{"gossip": 17946}"#), ControlPorts { api: 2377, gossip: 17946, listen: None });
    }
}
