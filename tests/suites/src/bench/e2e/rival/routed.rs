//! The kernel's plain routed path: client – router – backends over veth pairs. Without any balancing, this is `direct`.
//!
//! ```text
//!   client 172.20.0.2 ── router ── 172.20.1.2 backend 1
//!                           └───── 172.20.2.2 backend 2
//! ```

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Result;
use mesh_lab::Namespace;

use super::Ground;
use crate::bench::e2e::server;
use crate::bench::e2e::tool::Call;

/// The address that balancers on the router answer for; nobody has it.
pub const VIP: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
pub const BACKENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(172, 20, 1, 2), Ipv4Addr::new(172, 20, 2, 2)];

/// The three places, servers running.
pub struct Routed {
    pub client: Namespace,
    pub router: Namespace,
}

/// Builds it; `tag` tells it from its kin.
pub fn build(ground: Ground, tag: &str) -> Result<Routed> {
    let router = ground.namespace(&format!("{tag}r"))?;
    router.set_sysctl("net.ipv4.ip_forward", "1")?;
    let mut hosts = Vec::new();
    for place in 0..3 {
        let host = ground.namespace(&format!("{tag}{place}"))?;
        router.ip(&format!(
            "link add port{place} type veth peer name eth0 netns {}
             address add 172.20.{place}.1/24 dev port{place}
             link set port{place} up",
            host.name()
        ))?;
        host.ip(&format!(
            "address add 172.20.{place}.2/24 dev eth0
             link set eth0 up
             route add default via 172.20.{place}.1"
        ))?;
        hosts.push(host);
    }
    for backend in &hosts[1..] {
        server::start(backend, &server::web(ground.folder, backend.name()), ground.folder)?;
        server::start(backend, &server::stream(), ground.folder)?;
    }
    Ok(Routed { client: hosts.swap_remove(0), router })
}

/// Without balancing: the client knows both backends.
pub fn direct(ground: Ground) -> Result<Call> {
    let routed = build(ground, "direct")?;
    Ok(Call {
        namespace: routed.client.path(),
        web: BACKENDS.map(|backend| SocketAddrV4::new(backend, server::WEB)).to_vec(),
        stream: SocketAddrV4::new(BACKENDS[0], server::STREAM),
    })
}

impl Routed {
    /// Calls by way of the balancer on the router.
    pub fn call(&self) -> Call {
        Call {
            namespace: self.client.path(),
            web: vec![SocketAddrV4::new(VIP, server::WEB)],
            stream: SocketAddrV4::new(VIP, server::STREAM),
        }
    }
}
