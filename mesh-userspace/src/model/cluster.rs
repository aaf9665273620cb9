//! The desired state of the whole cluster at one revision of the store.

use std::collections::BTreeMap;

use imbl::OrdMap;
use ipnet::Ipv4Net;
use serde::{Deserialize, Serialize};

use super::{Counters, Id, Network, Node, Service, Task, UpdateStatus};

/// What `swarm init` fixed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub cluster_id: Id,
    /// Pool that networks come from.
    pub address_pool: Ipv4Net,
    /// Prefix length of each network cut from the pool.
    pub subnet_len: u8,
    /// UDP port of VXLAN.
    pub data_path_port: u16,
}

/// All desired facts at one revision. Versions share what they have in common, so that keeping many costs little and what differs between
/// two is found without reading all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cluster {
    /// Store revision this snapshot is of; 0: nothing yet.
    pub revision: u64,
    pub settings: Option<Settings>,
    pub nodes: BTreeMap<Id, Node>,
    pub networks: BTreeMap<Id, Network>,
    pub services: OrdMap<Id, Service>,
    pub tasks: OrdMap<Id, Task>,
    /// By service id: how far its rolling update is.
    #[serde(default)]
    pub updates: OrdMap<Id, UpdateStatus>,
    /// The allocator's memory.
    #[serde(default)]
    pub counters: Counters,
}

impl Cluster {
    pub fn network_named(&self, name: &str) -> Option<&Network> {
        self.shown_networks().find(|network| network.spec.name == name)
    }

    /// The networks that users have: those they removed are there only for the tasks that still end.
    pub fn shown_networks(&self) -> impl Iterator<Item = &Network> + Clone {
        self.networks.values().filter(|network| !network.removing)
    }

    pub fn service_named(&self, name: &str) -> Option<&Service> {
        self.services.values().find(|service| service.spec.name == name)
    }

    pub fn node_named(&self, name: &str) -> Option<&Node> {
        self.nodes.values().find(|node| node.name == name)
    }

    /// The network every published service without a network of its own is on.
    pub fn ingress_network(&self) -> Option<&Network> {
        self.networks.values().find(|network| network.ingress)
    }

    pub fn tasks_of<'a>(&'a self, service: &'a Id) -> impl Iterator<Item = &'a Task> + 'a {
        self.tasks.values().filter(move |task| task.service_id == *service)
    }
}
