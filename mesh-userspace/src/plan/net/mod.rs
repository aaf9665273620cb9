//! The host's network as we want it, besides BPF: `mesh0`, its addresses and routes, tasks' links, held ports, sysctls.
//!
//! [`compile`] makes a [`NetImage`] from desired and observed facts; `kernel::net` reads what is [`Programmed`]; [`diff`] says
//! what to do, in an order that is safe one operation at a time; `kernel::net` applies it. Purge is the same with an empty image.
//!
//! Invariant: applying `diff(programmed, image)` makes `programmed` equal [`NetImage::footprint`], and a second diff is empty.
//! Must not: name netlink, or touch anything that is not ours.

mod compile;
mod diff;
#[cfg(test)]
mod properties;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use mesh_common::parse::protocol;

use crate::model::{Addresses, Id};

pub use compile::compile;
pub use diff::diff;

/// Name of the VXLAN device.
pub const MESH0: &str = "mesh0";
/// Bytes that VXLAN adds outside an inner IP packet: inner Ethernet 14, VXLAN 8, UDP 8, outer IPv4 20 (RFC 7348).
const OVERHEAD_V4: u32 = 50;
/// The same with an outer IPv6 header.
const OVERHEAD_V6: u32 = 70;
/// What it adds between nodes whose data path addresses are of this one's family.
pub fn overhead(data_path: IpAddr) -> u32 {
    if data_path.is_ipv4() { OVERHEAD_V4 } else { OVERHEAD_V6 }
}

/// What a host with an Ethernet of the usual size has, where nothing is known yet.
pub const DEFAULT_UNDERLAY_MTU: u32 = 1500;

/// Everything of ours that shall exist in this host's network besides BPF. The default is "nothing".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetImage {
    pub mesh0: Option<Mesh0>,
    /// On `mesh0`, each as a host's prefix: the gateways of networks that have a task here, for the resolver to bind there, and of ingress.
    pub gateways: BTreeSet<IpAddr>,
    /// On `mesh0` as well: what this host's own calls into the overlay come from, where it has no other address for them.
    pub own_addr: Option<IpAddr>,
    /// By subnet: how the host itself reaches the overlay.
    pub routes: BTreeMap<IpNet, Route>,
    /// By interface name.
    pub task_links: BTreeMap<String, TaskLink>,
    pub held_ports: BTreeSet<HeldPort>,
    /// Path below `/proc/sys` → value.
    pub sysctls: BTreeMap<String, String>,
}

/// The VXLAN device, in external (collect metadata) mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mesh0 {
    /// UDP port, host order.
    pub port: u16,
    pub mac: [u8; 6],
    pub mtu: u32,
}

/// A route `<subnet> dev mesh0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Source address of the host's own packets into the overlay, one that is this node's alone, so that answers find back.
    pub src: Option<IpAddr>,
    pub mtu: u32,
}

/// A task's veth pair: the host's end is `name`, the task's end is `eth0`, or beside a guest's own interfaces `mesh0`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskLink {
    pub name: String,
    pub task_id: Id,
    /// MAC address of the task's end.
    pub mac: [u8; 6],
    pub mtu: u32,
    /// One per network and family, with the network's prefix length: the kernel makes the on-link route with this source.
    pub addrs: Vec<IpNet>,
    /// Default routes: the gateway of the first network of each family. Internal networks have it too; the programs judge the packets.
    pub gateways: Addresses,
    /// A container that somebody else made and gave a network: its own interfaces, routes and names stay as they are, and the default
    /// route is for packets from our addresses only.
    pub guest: bool,
}

/// A published port, kept from everybody else on this host by bound, silent sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HeldPort {
    pub transport: Transport,
    pub port: u16,
    /// The one address that it is published at; None: all of both families.
    pub address: Option<IpAddr>,
}

/// Protocols whose ports a socket can hold on every kernel. SCTP is not among them: its module may be absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    Tcp,
    Udp,
}

impl HeldPort {
    /// IP protocol number, port and address, as the maps know it.
    pub fn key(&self) -> (u8, u16, Option<IpAddr>) {
        let number = match self.transport {
            Transport::Tcp => protocol::TCP,
            Transport::Udp => protocol::UDP,
        };
        (number, self.port, self.address)
    }
}

impl std::fmt::Display for HeldPort {
    /// `8000/tcp`, or `192.0.2.1:8000/tcp`, as listings show it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let transport = match self.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        match self.address {
            Some(addr) => write!(f, "{}/{transport}", SocketAddr::new(addr, self.port)),
            None => write!(f, "{}/{transport}", self.port),
        }
    }
}

/// What there is of ours in the host's network, as `kernel::net` reads it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Programmed {
    pub mesh0: Option<Mesh0>,
    /// `mesh0` is up and asks for no neighbours. False without a `mesh0`.
    pub mesh0_running: bool,
    /// Of `mesh0`: gateways and our own.
    pub addrs: BTreeSet<IpAddr>,
    pub routes: BTreeMap<IpNet, Route>,
    /// By interface name.
    pub task_links: BTreeMap<String, TaskLinkEnd>,
    /// Held by this very process.
    pub held_ports: BTreeSet<HeldPort>,
    /// Values of the moment, of the keys that the image names and of the recorded ones. A key that does not exist is absent.
    pub sysctls: BTreeMap<String, String>,
    /// Keys whose former value is on record: they are to be put back when nobody wants them any more.
    pub recorded_sysctls: BTreeSet<String>,
}

/// What the host sees of a task's link. The inside (addresses, routes) is written once and never changes in a task's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskLinkEnd {
    /// Absent where the link was left half-made.
    pub task_id: Option<Id>,
    pub mtu: u32,
    pub up: bool,
}

/// One step; each is safe to repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetOp {
    /// Makes it, down. Programs are attached between this and [`NetOp::SetMesh0`], before a packet can come in.
    AddMesh0(Mesh0),
    /// MAC, MTU, no ARP, up: all that can be set on the living device.
    SetMesh0(Mesh0),
    RemoveMesh0,
    /// To `mesh0`.
    AddAddress(IpAddr),
    RemoveAddress(IpAddr),
    /// Adds the route or changes it in place.
    SetRoute(IpNet, Route),
    RemoveRoute(IpNet),
    AddTaskLink(TaskLink),
    /// MTU of both ends, up.
    SetTaskLink(TaskLink),
    /// By name of the host's end; the task's end goes with it.
    RemoveTaskLink(String),
    HoldPort(HeldPort),
    ReleasePort(HeldPort),
    SetSysctl {
        key: String,
        value: String,
    },
    /// Puts the recorded value back and forgets the record.
    RestoreSysctl(String),
}

/// Facts about the host that the image depends on, as `kernel::net` reads them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// Largest IP packet that the way to the peers carries.
    pub mtu: u32,
    /// The kernel has IPv6.
    pub has_ipv6: bool,
}

/// A link that is not ours and has an address: packets for published ports may come in by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    pub ifindex: u32,
    pub name: String,
    /// As `ip link add type` has it; empty for a NIC.
    pub kind: String,
    /// Zero where the link has no Ethernet header.
    pub mac: [u8; 6],
    pub mtu: u32,
    pub addrs: Vec<IpNet>,
    /// Packets begin with an Ethernet header (not so on tun, WireGuard, …).
    pub has_ethernet: bool,
    pub up: bool,
}

impl NetImage {
    /// What `mesh0` has.
    pub fn addrs(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.gateways.iter().copied().chain(self.own_addr)
    }

    /// What [`Programmed`] looks like when this image is in place.
    pub fn footprint(&self) -> Programmed {
        Programmed {
            mesh0: self.mesh0,
            mesh0_running: self.mesh0.is_some(),
            addrs: self.addrs().collect(),
            routes: self.routes.clone(),
            task_links: self.task_links.iter().map(|(name, link)| (name.clone(), link.end())).collect(),
            held_ports: self.held_ports.clone(),
            sysctls: self.sysctls.clone(),
            recorded_sysctls: self.sysctls.keys().filter(|key| !dies_with_our_link(key)).cloned().collect(),
        }
    }
}

impl NetOp {
    /// Can't be done without `mesh0`: no use to try where its making failed.
    pub fn needs_mesh0(&self) -> bool {
        match self {
            NetOp::SetMesh0(_) | NetOp::AddAddress(_) | NetOp::SetRoute(..) => true,
            NetOp::SetSysctl { key, .. } => dies_with_our_link(key),
            // The placeholder of a UDP port is bound to the device as well.
            NetOp::HoldPort(port) => port.transport == Transport::Udp,
            _ => false,
        }
    }
}

impl TaskLink {
    /// The host's end of it, when it is in place.
    pub fn end(&self) -> TaskLinkEnd {
        TaskLinkEnd { task_id: Some(self.task_id.clone()), mtu: self.mtu, up: true }
    }
}

/// Sysctls of a link of ours need no record: they vanish with it.
pub fn dies_with_our_link(key: &str) -> bool {
    key.split('/').any(|part| part == MESH0)
}
