//! The VXLAN device: made, set up, taken away.
//!
//! External mode: one device for all networks and peers, the programs give each packet its VNI and peer. No learning, no FDB.
//! Invariant: it asks for no neighbours. The kernel resolves a next hop on a link with IFF_NOARP to the link's own MAC at once
//! (arp_constructor), so a packet routed to `mesh0` comes to its egress program with both MACs `mesh0`'s own; the program must
//! write others, because the receiving VXLAN device drops frames that have its own MAC as source.
//! Must not: touch a `mesh0` that is not ours, or set it up when it is made: a VXLAN device in external mode takes frames of any
//! sender and VNI, and only the program at its ingress tells friend from foe (docs/decisions/0002-host-to-overlay.md).

use netlink_packet_route::link::LinkMessage;
use rtnetlink::{Handle, LinkUnspec, LinkVxlan};

use super::error::{NetError, errno, unless};
use super::link::{self, ALIAS_MESH0, Link};
use super::ports;
use crate::plan::net::{MESH0, Mesh0};

/// Makes the device, and leaves it down: the programs are attached before the first packet comes in.
pub(super) async fn add(handle: &Handle, wanted: &Mesh0) -> Result<(), NetError> {
    match handle.link().add(creation(wanted)).execute().await {
        Ok(()) => Ok(()),
        Err(error) if errno(&error) == libc::EEXIST => adoptable(handle, wanted).await,
        Err(error) => Err(NetError::netlink(format!("create the VXLAN device {MESH0}"), error)),
    }
}

fn creation(wanted: &Mesh0) -> LinkMessage {
    LinkVxlan::new(MESH0, 0)
        .collect_metadata(true)
        .learning(false)
        .port(wanted.port)
        // Outer IPv6 without a UDP checksum, as RFC 6935 allows for tunnels: the inner packet has its own.
        .udp_zero_csum6_tx(true)
        .udp_zero_csum6_rx(true)
        .address(wanted.mac.to_vec())
        .mtu(wanted.mtu)
        .arp(false)
        .multicast(false)
        .build()
}

/// A device of this name is there: fine if it is ours and has this port.
async fn adoptable(handle: &Handle, wanted: &Mesh0) -> Result<(), NetError> {
    match link::named(handle, MESH0).await? {
        Some(there) if there.is_our_mesh0() && there.vxlan == Some((wanted.port, true)) => Ok(()),
        Some(there) if !there.is_our_mesh0() => Err(NetError::ForeignMesh0 { kind: describe(&there) }),
        // Ours with another port, or gone again; or not of this name: a VXLAN device with the same port in external mode.
        _ => Err(NetError::DataPortInUse { port: wanted.port, owner: port_owner(handle, wanted.port).await }),
    }
}

/// MAC, MTU, no ARP, up. Where the port is taken the device goes, so that nothing half-made stays behind.
pub(super) async fn set(handle: &Handle, wanted: &Mesh0) -> Result<(), NetError> {
    let attempt = || format!("set up {MESH0} (MTU {}, UDP port {})", wanted.mtu, wanted.port);
    let there = link::named(handle, MESH0).await?;
    let Some(there) = there.filter(Link::is_our_mesh0) else {
        return Err(NetError::os(attempt(), std::io::Error::from_raw_os_error(libc::ENODEV)));
    };
    let mut message =
        LinkUnspec::new_with_index(there.index).mtu(wanted.mtu).alias(ALIAS_MESH0).arp(false).multicast(false).up();
    if there.mac6() != Some(wanted.mac) {
        message = message.address(wanted.mac.to_vec());
    }
    match handle.link().set(message.build()).execute().await {
        Ok(()) => Ok(()),
        // The UDP socket is opened when the device goes up.
        Err(error) if errno(&error) == libc::EADDRINUSE => {
            remove(handle).await?;
            Err(NetError::DataPortInUse { port: wanted.port, owner: port_owner(handle, wanted.port).await })
        }
        Err(error) => Err(NetError::netlink(attempt(), error)),
    }
}

/// Takes our device away; nothing to do where there is none.
pub(super) async fn remove(handle: &Handle) -> Result<(), NetError> {
    match link::named(handle, MESH0).await? {
        Some(there) if there.is_our_mesh0() => {
            let gone = handle.link().del(there.index).execute().await;
            unless(gone, &[libc::ENODEV], || format!("remove {MESH0}"))
        }
        _ => Ok(()),
    }
}

fn describe(link: &Link) -> String {
    if link.kind.is_empty() { "physical".into() } else { link.kind.clone() }
}

/// Tries the port as the kernel does when the device goes up: an exclusive UDP socket for each family.
pub(super) async fn check_port(handle: &Handle, port: u16) -> Result<(), NetError> {
    let ours = link::named(handle, MESH0).await?.filter(Link::is_our_mesh0);
    if ours.is_some_and(|there| there.is_up && there.vxlan.is_some_and(|(its_port, _)| its_port == port)) {
        return Ok(());
    }
    match ports::try_udp(port) {
        Ok(()) => Ok(()),
        Err(nix::errno::Errno::EADDRINUSE) => {
            Err(NetError::DataPortInUse { port, owner: port_owner(handle, port).await })
        }
        Err(errno) => Err(NetError::os(format!("open UDP port {port} for the tunnel"), errno.into())),
    }
}

/// Who has the port, as far as this namespace shows.
async fn port_owner(handle: &Handle, port: u16) -> String {
    let links = link::all(handle).await.unwrap_or_default();
    let device =
        links.into_iter().find(|link| !link.is_our_mesh0() && link.vxlan.is_some_and(|(its_port, _)| its_port == port));
    if let Some(device) = device {
        return format!("the VXLAN device {}", device.name);
    }
    match ports::owner_of_udp(port) {
        Some(process) => process,
        // A kernel socket belongs to no process; Docker's overlay devices live in namespaces of their own.
        None => "another VXLAN device (Docker Swarm's overlay networks use 4789 too) or another program".into(),
    }
}
