//! Two hosts of the lab's switch with bridge + VXLAN, as Docker builds a network between nodes.
//!
//! ```text
//!   client ── bridge ── vxlan ──(host v1)── switch ──(host v2)── vxlan ── bridge ── backend 1, 2
//! ```
//! The VXLAN device is made in the host's namespace and moved to the network's own, so its tunnel packets go by the host's stack;
//! neighbours and forwarding entries are written, nothing is learnt; MTU 1450.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::Result;
use mesh_lab::Namespace;

use super::{Ground, iptables, run};
use crate::bench::e2e::server;
use crate::bench::e2e::tool::Call;

/// The lab's nodes that stand for the two hosts.
pub const HOSTS: [&str; 2] = ["v1", "v2"];
const VIP: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);

/// One network over both hosts: the container on the first, and those with servers on the second.
pub struct Overlay {
    pub near: Namespace,
    pub backends: [Ipv4Addr; 2],
}

/// Address of the `last` container of the network with this id.
fn address(id: u8, last: u8) -> Ipv4Addr {
    Ipv4Addr::new(172, 21, id, last)
}

/// Builds network `id`; its namespaces' names begin with `tag`.
pub fn build(ground: Ground, tag: &str, id: u8) -> Result<Overlay> {
    let mut containers = Vec::new();
    // Host, and the containers on it.
    let places: [(usize, &[u8]); 2] = [(0, &[2]), (1, &[3, 4])];
    for (place, here) in places {
        let (host, peer) = (ground.lab.node(HOSTS[place]), ground.lab.node(HOSTS[1 - place]));
        let inside = ground.namespace(&format!("{tag}o{place}"))?;
        host.namespace().ip(&format!(
            "link add vx{id} mtu 1450 type vxlan id {} dstport 4789 nolearning dev eth0 local {}
             link set vx{id} netns {}",
            5_000 + u32::from(id),
            host.address(),
            inside.name()
        ))?;
        inside.ip(&format!(
            "link add br0 mtu 1450 type bridge stp_state 0 forward_delay 0 mcast_snooping 0
             link set br0 up
             link set vx{id} master br0
             link set vx{id} up"
        ))?;
        for last in here {
            let container = ground.namespace(&format!("{tag}c{last}"))?;
            inside.ip(&format!(
                "link add port{last} mtu 1450 type veth peer name eth0 mtu 1450 address {} netns {}
                 link set port{last} master br0
                 link set port{last} up",
                mac(id, *last),
                container.name()
            ))?;
            container.ip(&format!(
                "address add {}/24 dev eth0
                 link set eth0 up",
                address(id, *last)
            ))?;
            containers.push(container);
        }
        for there in places[1 - place].1 {
            let mac = mac(id, *there);
            run(
                &inside,
                &["bridge", "fdb", "add", &mac, "dev", &format!("vx{id}"), "dst", &peer.address().to_string(), "self"],
                "",
            )?;
            for container in containers.iter().skip(place) {
                container.ip(&format!("neighbour replace {} lladdr {mac} dev eth0", address(id, *there)))?;
            }
        }
    }
    for backend in &containers[1..] {
        server::start(backend, &server::web(ground.folder, backend.name()), ground.folder)?;
        server::start(backend, &server::stream(), ground.folder)?;
    }
    Ok(Overlay { near: containers.swap_remove(0), backends: [address(id, 3), address(id, 4)] })
}

fn mac(id: u8, last: u8) -> String {
    format!("02:42:ac:15:{id:02x}:{last:02x}")
}

/// Without balancing: the client knows both backends.
pub fn direct(ground: Ground) -> Result<Call> {
    let overlay = build(ground, "vplain", 1)?;
    Ok(Call {
        namespace: overlay.near.path(),
        web: overlay.backends.map(|backend| SocketAddrV4::new(backend, server::WEB)).to_vec(),
        stream: SocketAddrV4::new(overlay.backends[0], server::STREAM),
    })
}

/// DNAT in the client's own namespace, which is where Docker has the rules of a VIP.
pub fn with_iptables(ground: Ground) -> Result<Call> {
    let overlay = build(ground, "vdnat", 2)?;
    let backends = overlay.backends.map(|backend| backend.to_string());
    run(&overlay.near, &["iptables-restore"], &iptables::rules_for("OUTPUT", &VIP.to_string(), backends))?;
    // A route for the VIP, as Docker has it on the interface: the rules rewrite before anyone is asked for it.
    overlay.near.ip(&format!("route add {VIP}/32 dev eth0"))?;
    Ok(Call {
        namespace: overlay.near.path(),
        web: vec![SocketAddrV4::new(VIP, server::WEB)],
        stream: SocketAddrV4::new(VIP, server::STREAM),
    })
}
