//! What a walk writes down: a line for each thing it asked, with names where there are any.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use mesh_common::family::Family;
use mesh_common::schema::FlowKey;
use mesh_common::verdict::Hook;
use serde::{Deserialize, Serialize};

/// One thing that was asked, and what was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// The program that asks.
    pub hook: String,
    /// What it asks: a map and a key, or the kernel.
    pub asked: String,
    pub found: String,
}

/// Names of what the maps have numbers for; a number without a name stays one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Tasks, by endpoint number.
    pub tasks: HashMap<u32, String>,
    pub nodes: HashMap<u32, String>,
    /// Networks, by VNI.
    pub networks: HashMap<u32, String>,
    /// Services, by pool.
    pub services: HashMap<u32, String>,
    /// Links of this node, by index.
    pub links: HashMap<u32, String>,
}

impl Names {
    pub fn task(&self, number: u32) -> String {
        named(&self.tasks, number, "endpoint")
    }

    pub fn node(&self, number: u32) -> String {
        named(&self.nodes, number, "node")
    }

    pub fn network(&self, vni: u32) -> String {
        named(&self.networks, vni, "VNI")
    }

    pub fn service(&self, pool: u32) -> String {
        named(&self.services, pool, "pool")
    }

    pub fn link(&self, ifindex: u32) -> String {
        named(&self.links, ifindex, "link")
    }
}

fn named(names: &HashMap<u32, String>, number: u32, noun: &str) -> String {
    names.get(&number).cloned().unwrap_or_else(|| format!("{noun} {number}"))
}

/// An address as people write it.
pub fn ip<F: Family>(addr: F::Addr) -> IpAddr {
    let addr = Ipv6Addr::from(F::to_16(addr));
    addr.to_ipv4_mapped().map_or(IpAddr::V6(addr), IpAddr::V4)
}

/// An address and a port as people write them; the bare address where there is no port.
pub fn socket<F: Family>(addr: F::Addr, port: u16) -> String {
    match (ip::<F>(addr), port) {
        (addr, 0) => addr.to_string(),
        (addr, port) => std::net::SocketAddr::new(addr, port).to_string(),
    }
}

/// A direction as people write it.
pub fn tuple<F: Family>(key: &FlowKey<F::Addr>) -> String {
    let (src, dst) = (socket::<F>(key.src, key.sport), socket::<F>(key.dst, key.dport));
    format!("{src} → {dst} {}", protocol(key.protocol))
}

/// The name of a protocol, or its number.
pub fn protocol(number: u8) -> String {
    use mesh_common::parse::protocol;
    match number {
        protocol::TCP => "tcp".to_string(),
        protocol::UDP => "udp".to_string(),
        protocol::SCTP => "sctp".to_string(),
        protocol::ICMP | protocol::ICMPV6 => "icmp".to_string(),
        other => other.to_string(),
    }
}

/// Steps so far, and the program at work.
pub struct Trace {
    pub hook: Hook,
    pub steps: Vec<Step>,
}

impl Trace {
    pub fn note(&mut self, asked: impl Into<String>, found: impl Into<String>) {
        self.steps.push(Step { hook: self.hook.name().to_string(), asked: asked.into(), found: found.into() });
    }
}
