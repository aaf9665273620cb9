//! The desired state of the whole cluster at one revision of the store.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use imbl::OrdMap;
use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::{Counters, Id, Network, Node, Service, Task, TaskSpec, UpdateStatus};

/// What `swarm init` fixed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Settings {
    pub cluster_id: Id,
    /// Pool that networks come from.
    pub address_pool: Ipv4Net,
    /// Prefix length of each network cut from the pool.
    pub subnet_len: u8,
    /// Pool that IPv6 subnets come from, a /64 each; None: see [`Settings::pool_of_ipv6`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address_pool6: Option<Ipv6Net>,
    /// UDP port of VXLAN.
    pub data_path_port: u16,
}

impl Settings {
    /// Prefix length of each IPv6 subnet cut from the pool (RFC 4291, 2.5.1).
    pub const SUBNET6_LEN: u8 = 64;

    /// The pool of IPv6 subnets: unless it was named, a unique local /48 whose 40 bits are random, as the cluster's id is (RFC 4193, 3).
    pub fn pool_of_ipv6(&self) -> Ipv6Net {
        let digits = |at: usize| u16::from_str_radix(&self.cluster_id.as_str()[at..at + 4], 16).expect("hex digits");
        let own = || Ipv6Addr::new(0xfd00 | (digits(0) & 0xff), digits(4), digits(8), 0, 0, 0, 0, 0);
        self.address_pool6.unwrap_or_else(|| Ipv6Net::new_assert(own(), 48))
    }
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
    #[serde(skip)]
    pub specs: SharedSpecs,
}

/// By service: what the task that came last runs, for the next one to share. Says nothing of its own, so all are equal.
#[derive(Clone, Debug, Default)]
pub struct SharedSpecs(OrdMap<Id, Arc<TaskSpec>>);

impl PartialEq for SharedSpecs {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl SharedSpecs {
    /// Puts the spec of the service's former task in place of an equal one.
    pub(super) fn share(&mut self, task: &mut Task) {
        match self.0.get(&task.service_id) {
            Some(shared) if *shared == task.spec => task.spec = shared.clone(),
            _ => drop(self.0.insert(task.service_id.clone(), task.spec.clone())),
        }
    }

    pub(super) fn forget(&mut self, service: &Id) {
        self.0.remove(service);
    }
}

impl Cluster {
    /// As it is after reading: tasks that run the same share it, which the text did not say.
    pub fn sharing(mut self) -> Self {
        let tasks = std::mem::take(&mut self.tasks);
        for (id, mut task) in tasks {
            self.specs.share(&mut task);
            self.tasks.insert(id, task);
        }
        self
    }

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

    /// What the node's own calls into the overlay come from, IPv6: its advertised address, or one of ingress' prefix, or where that has none of the
    /// pool's last, that the allocator, which counts up from the first, never comes to. None: no cluster.
    pub fn overlay_addr6(&self, node: &Node) -> Option<Ipv6Addr> {
        if let IpAddr::V6(addr) = node.advertise_addr {
            return Some(addr);
        }
        let of_pool = || {
            let pool = self.settings.as_ref()?.pool_of_ipv6();
            Ipv6Net::new(pool.broadcast(), Settings::SUBNET6_LEN).ok()
        };
        let prefix = self.ingress_network().and_then(|ingress| ingress.subnets.v6).or_else(of_pool)?;
        // "mesh", and the node's number.
        let host = 0x6d65_7368 << 32 | u128::from(node.number);
        Some(Ipv6Addr::from(u128::from(prefix.network()) | host))
    }

    /// The same of IPv4: its advertised address, or one of the pool's last /20, while no network has that. None: there is none to be had.
    pub fn overlay_addr4(&self, node: &Node) -> Option<Ipv4Addr> {
        if let IpAddr::V4(addr) = node.advertise_addr {
            return Some(addr);
        }
        let pool = self.settings.as_ref()?.address_pool;
        // As many addresses as there may be nodes.
        let last = Ipv4Net::new(pool.broadcast(), pool.prefix_len().max(20)).ok()?;
        let addr = Ipv4Addr::from(u32::from(last.network()).checked_add(node.number)?);
        let is_taken = self.networks.values().filter_map(|network| network.subnets.v4).any(|net| net.contains(&addr));
        (last.contains(&addr) && !is_taken).then_some(addr)
    }

    pub fn tasks_of<'a>(&'a self, service: &'a Id) -> impl Iterator<Item = &'a Task> + 'a {
        self.tasks.values().filter(move |task| task.service_id == *service)
    }
}
