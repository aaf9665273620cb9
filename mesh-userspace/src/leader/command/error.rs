//! Why a command is refused. Each line says what was asked, what is wrong, and what to do now.

use crate::leader::ConstraintError;
use crate::leader::allocate::{Overlap, SubnetsUsedUp};
use crate::model::{PortSpec, Protocol, Runtime};

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CommandError {
    // Names.
    #[error("no {kind} '{reference}': mesh {kind} ls shows those there are")]
    NotFound { kind: &'static str, reference: String },
    #[error("{kind} '{reference}' is ambiguous, it may be {candidates}: write more digits of the id, or the full name")]
    Ambiguous { kind: &'static str, reference: String, candidates: String },
    #[error("a {kind} named '{name}' is already there ({id}): take another name, or remove that one")]
    NameTaken { kind: &'static str, name: String, id: String },
    #[error("'{name}' can't name a {kind}: {rule}")]
    BadName { kind: &'static str, name: String, rule: &'static str },

    // Cluster and nodes.
    #[error("this node is already part of a cluster: mesh swarm leave first")]
    AlreadyInitialised,
    #[error("there is no cluster yet: mesh swarm init makes one, mesh swarm join enters one")]
    NotInitialised,
    #[error("cluster setting {setting} can't be {value}: {rule}")]
    BadSetting { setting: &'static str, value: String, rule: &'static str },
    #[error(
        "address {address} already belongs to node '{node}': give --advertise-addr, or remove that node (mesh node rm {node})"
    )]
    AddressTaken { address: std::net::IpAddr, node: String },
    #[error(
        "packets between nodes go from {address} to node '{node}' at {other}, and these are of different families: name an address of that \
         family for both (--data-path-addr, or --advertise-addr)"
    )]
    OtherFamily { address: std::net::IpAddr, other: std::net::IpAddr, node: String },
    #[error("node '{node}' can't use port {port}: {rule}")]
    BadNodePort { node: String, port: u16, rule: String },
    #[error("node '{node}' is not down: mesh swarm leave on it first, or mesh node rm --force {node}")]
    NodeAlive { node: String },
    #[error("node '{node}' keeps the cluster's store, so {asked}: {remedy}")]
    HoldsStore { node: String, asked: &'static str, remedy: &'static str },
    #[error("node '{node}' has no label '{label}': mesh node inspect {node} shows its labels")]
    NoSuchLabel { node: String, label: String },
    #[error("there is no number left for another node: remove nodes that are gone (mesh node rm)")]
    NodeNumbersUsedUp,

    // Networks.
    #[error("subnet {subnet} of network '{network}' can't be used: {rule}")]
    BadSubnet { network: String, subnet: String, rule: String },
    #[error(
        "subnet {subnet} of network '{network}' overlaps with {with}: ask for another one, or leave the choice to mesh"
    )]
    Overlaps { network: String, subnet: String, with: Overlap },
    #[error(
        "network '{network}' shall be without IPv4{}: {}",
        if *names_ipv4 { ", and has a subnet of it" } else { " and has nothing else" },
        if *names_ipv4 { "leave one out" } else { "ask for IPv6 (--ipv6, or a --subnet of it)" }
    )]
    NoFamily { network: String, names_ipv4: bool },
    #[error("gateway {gateway} of network '{network}' can't be used: {rule}")]
    BadGateway { network: String, gateway: String, rule: String },
    #[error("MTU {mtu} of network '{network}' can't be used: give one between 576 and 65485")]
    BadMtu { network: String, mtu: u32 },
    #[error("MTU {mtu} of network '{network}' can't be used: IPv6 needs 1280 at least (RFC 8200)")]
    SmallMtu { network: String, mtu: u32 },
    #[error("network '{network}': {source}")]
    SubnetsUsedUp { network: String, source: SubnetsUsedUp },
    #[error("there is no VXLAN network identifier left for network '{network}': remove networks")]
    VnisUsedUp { network: String },
    #[error("network '{network}' is used by {users}: remove or update them first")]
    NetworkInUse { network: String, users: String },
    #[error("network 'ingress' carries the published ports and can't be removed")]
    IngressStays,

    // Services.
    #[error("service '{service}' is put on network 'ingress' by hand: publish a port instead (-p), that does it")]
    IngressByHand { service: String },
    #[error("service '{service}' names network '{network}' twice: once is enough")]
    NetworkTwice { service: String, network: String },
    #[error(
        "service '{service}' has endpoint mode dnsrr and publishes port {port} on every node: use --publish mode=host, or endpoint mode vip"
    )]
    DnsrrPublishes { service: String, port: String },
    #[error("service '{service}' publishes port {port}, which service '{owner}' has: choose another published port")]
    PortTaken { service: String, port: String, owner: String },
    #[error(
        "service '{service}' publishes port {port}, but network '{network}', which it is called by, has no subnet of that address' family: put the service on one that has (--network, first), or publish another address"
    )]
    PortOfNoFamily { service: String, port: String, network: String },
    #[error("service '{service}' publishes port {port} twice: once is enough")]
    PortTwice { service: String, port: String },
    #[error("service '{service}' publishes port {port}, which mesh itself needs ({purpose}): choose another one")]
    PortReserved { service: String, port: String, purpose: &'static str },
    #[error("service '{service}' has a port without a target: write PUBLISHED:TARGET, for example 8000:80")]
    PortWithoutTarget { service: String },
    #[error("service '{service}' asks for {replicas} tasks: at most {most} are possible")]
    TooManyReplicas { service: String, replicas: u32, most: u32 },
    #[error("service '{service}': {source}")]
    BadConstraint { service: String, source: ConstraintError },
    #[error("service '{service}' has {setting} {value}: {rule}")]
    BadServiceSetting { service: String, setting: &'static str, value: String, rule: &'static str },
    #[error("service '{service}' has no command: runtime exec runs a command of the host, for example sleep 3600")]
    NoCommand { service: String },
    #[error(
        "service '{service}' names image '{image}', but runtime exec runs a command of the host: leave the image out"
    )]
    ImageForExec { service: String, image: String },
    #[error("service '{service}' asks for {what}, which runtime exec does not have: {remedy}")]
    NotOnExec { service: String, what: &'static str, remedy: &'static str },
    #[error("service '{service}' has neither image nor command: give what to run")]
    NothingToRun { service: String },
    #[error(
        "service '{service}' runs image '{image}', but no node has a Docker Engine that answers: install one (docker.io), or use --runtime exec with a command of the host"
    )]
    NoDocker { service: String, image: String },
    #[error("service '{service}': no node offers runtime {runtime}: start an agent with --runtimes {runtime}")]
    NoRuntime { service: String, runtime: &'static str },
    #[error("service '{service}' can't be renamed to '{name}': create a new service and remove this one")]
    Rename { service: String, name: String },
    #[error("service '{service}' can't change between replicated and global: create a new service and remove this one")]
    ModeChange { service: String },
    #[error(
        "service '{service}' was changed by somebody else meanwhile (version {version}, not {expected}): look again, then repeat"
    )]
    ChangedMeanwhile { service: String, version: u64, expected: u64 },
    #[error("service '{service}' is global, one task on each node: only replicated services scale")]
    GlobalScales { service: String },
    #[error("service '{service}' was never updated: there is nothing to roll back to")]
    NoPreviousSpec { service: String },

    // Containers that join by their labels.
    #[error(
        "there is no network '{network}': make it (mesh network create --attachable {network}), or correct the label mesh.network"
    )]
    NoNetworkToJoin { network: String },
    #[error(
        "network '{network}' is not attachable, so containers can't join it by their labels: make another one (mesh network create --attachable NAME) and name it in the label mesh.network"
    )]
    NotAttachable { network: String },
    #[error(
        "service '{service}' runs tasks of its own, which containers can't join: give the label mesh.service another name"
    )]
    NotAdopting { service: String },
    #[error(
        "service '{service}' has other {what} by the labels of the containers it consists of ({there}, not {asked}): use the same labels, or stop those first"
    )]
    LabelsDiffer { service: String, what: &'static str, there: String, asked: String },
    #[error(
        "service '{service}' consists of containers that joined by their labels and can't be {asked}: start or stop containers instead (docker run --label mesh.service={service} …)"
    )]
    AdoptedStays { service: String, asked: &'static str },
    #[error(
        "service '{service}' can't be made of other people's containers by a command: they join by their labels mesh.network and mesh.service"
    )]
    AdoptedByHand { service: String },
    #[error("service '{service}' can't take the container: {reason}")]
    NoPlaceToJoin { service: String, reason: String },

    // Stacks.
    #[error("stack '{stack}': a {kind} named '{name}' is already there and not part of the stack: rename one of them")]
    NotOfStack { stack: String, kind: &'static str, name: String },
    #[error(
        "stack '{stack}': network '{network}' is there with other settings: mesh stack rm {stack} first, or rename it"
    )]
    NetworkDiffers { stack: String, network: String },
    #[error("nothing found in stack '{stack}': mesh stack ls shows those there are")]
    NoSuchStack { stack: String },
}

/// `8000/tcp`, or `192.0.2.1:8000/tcp`, as messages name a port; one that mesh is to choose by what it leads to.
pub(super) fn port_name(port: &PortSpec) -> String {
    let protocol = match port.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    };
    match (port.place(), port.published) {
        ((Some(addr), _), 0) => format!("{addr} → {}/{protocol}", port.target),
        ((_, Some(interface)), 0) => format!("{interface} → {}/{protocol}", port.target),
        (_, 0) => format!("→ {}/{protocol}", port.target),
        ((Some(addr), _), published) => format!("{}/{protocol}", std::net::SocketAddr::new(addr, published)),
        ((_, Some(interface)), published) => format!("{interface}:{published}/{protocol}"),
        (_, published) => format!("{published}/{protocol}"),
    }
}

/// `exec`, as flags name a runtime.
pub(crate) fn runtime_name(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::Exec => "exec",
        Runtime::Docker => "docker",
    }
}
