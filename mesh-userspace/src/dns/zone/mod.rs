//! The cluster's names as one node serves them: who asks, what they may see, which addresses answer.
//!
//! In the funnel: desired + observed → [`compile`] → [`Zone`] → (the agent pushes it) → [`answer`], once a query.
//! All name forms are spelt out at compile time, so that answering is looking up and nothing else.
//!
//! Invariant: a name is in DNS exactly while somebody can answer behind it. An [`Entry`] without addresses is a name
//! that exists in the cluster and has nobody ready: it answers NXDOMAIN and never leaves the node.
//!
//! Pure: no clock, no socket, no await; the order of task lists comes from a seed that is handed in.

mod answer;
mod compile;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::model::{Addresses, Id, Subnets};

pub use answer::{Answer, QueryType, Question, answer};
pub use compile::compile;

/// How long a client may keep a VIP: it never changes while the service lives.
pub const VIP_TTL_S: u32 = 30;
/// How long a client may keep addresses of tasks: they come and go.
pub const TASK_TTL_S: u32 = 5;

/// Everything one node's resolver knows: the snapshot that the agent pushes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Zone {
    /// Every network of the cluster, also those without a task here: their names must not leak to upstream resolvers.
    pub networks: Vec<ZoneNetwork>,
    /// This node's tasks by each of their addresses. Anti-spoofing makes the source address of a query proof enough.
    pub clients: BTreeMap<IpAddr, Client>,
}

/// The names of one network, lower case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ZoneNetwork {
    pub name: String,
    pub subnets: Subnets,
    /// Where the resolver listens for this network's tasks.
    pub gateways: Addresses,
    pub internal: bool,
    /// Name → its answer. Empty for `ingress`, which contributes no names.
    pub names: BTreeMap<String, Entry>,
    /// Address → the name PTR tells.
    pub reverse: BTreeMap<IpAddr, Pointer>,
}

/// What a name stands for on one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Of both families. Empty: known, but nobody is ready. Then the name answers NXDOMAIN.
    pub addrs: Vec<IpAddr>,
    pub ttl_s: u32,
    /// Tasks of other networks get NXDOMAIN for it. False for names with a dot that a user chose (an alias such as
    /// `api.example.com`): on other networks that is the public name, and is forwarded.
    pub withheld: bool,
}

/// What an address is called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pointer {
    /// `NAME.NETWORK`
    pub name: String,
    pub ttl_s: u32,
}

/// A task of this node, as an asker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Client {
    pub task_id: Id,
    /// Positions in [`Zone::networks`], in the order of the task's attachments: the first that knows a name answers.
    pub networks: Vec<usize>,
}

impl Zone {
    /// Addresses to listen on: the gateways of networks that have a task here.
    pub fn listen_addrs(&self) -> BTreeSet<IpAddr> {
        let here = self.clients.values().flat_map(|client| &client.networks);
        here.filter_map(|&position| self.networks.get(position)).flat_map(|network| network.gateways.each()).collect()
    }

    /// Gateways of all networks: never an upstream, whatever /etc/resolv.conf says.
    pub fn gateways(&self) -> BTreeSet<IpAddr> {
        self.networks.iter().flat_map(|network| network.gateways.each()).collect()
    }

    /// SHA-256 of the content in hex: whether a resolver serves this zone is told by comparing two of them.
    pub fn digest(&self) -> String {
        let json = serde_json::to_vec(self).expect("a zone has string keys and nothing that can't be written as JSON");
        Sha256::digest(json).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The networks a client sees, in its order. Positions out of range (a damaged snapshot) are left out.
    fn view<'a>(&'a self, client: &'a Client) -> impl Iterator<Item = &'a ZoneNetwork> + Clone + 'a {
        client.networks.iter().filter_map(|&position| self.networks.get(position))
    }
}
