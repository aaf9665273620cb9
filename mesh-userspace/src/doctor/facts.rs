//! What is known of a machine when it is judged. Filled by the agent; what could not be read is None and says nothing.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::model::Subnets;

/// Everything that is judged.
#[derive(Clone, Debug)]
pub struct Facts {
    pub machine: Machine,
    pub network: Network,
    /// None where the node is in no cluster, or no agent runs to ask the others.
    pub peers: Option<Peers>,
}

#[derive(Clone, Debug)]
pub struct Machine {
    pub is_root: bool,
    /// The effective set, a bit each (capabilities(7)).
    pub capabilities: Option<u64>,
    /// `uname -r`.
    pub release: String,
    pub has_btf: bool,
    /// The error where TCX is not to be had; None: not tried.
    pub tcx: Option<Result<(), String>>,
    /// The same of filters of clsact, tried where there is no TCX.
    pub clsact: Option<Result<(), String>>,
    pub has_xdp: Option<bool>,
    pub programs: Programs,
    pub bpf_dir: String,
    pub is_bpffs: bool,
    /// Where tasks' groups live, or why nowhere.
    pub cgroup: Result<String, String>,
    /// Both versions of cgroups are mounted.
    pub is_cgroup_hybrid: bool,
    pub engine: Engine,
    /// `--runtimes` names docker.
    pub wants_engine: bool,
    pub state_dir: StateDir,
    pub clock: Clock,
}

/// Whether the kernel takes our programs.
#[derive(Clone, Debug)]
pub enum Programs {
    /// The agent has them loaded.
    Loaded,
    /// Loaded for a trial, and let go.
    Tried(Result<(), String>),
    /// Not root.
    NotTried,
}

#[derive(Clone, Debug)]
pub enum Engine {
    Answers {
        at: String,
        version: String,
        is_in_swarm: bool,
    },
    /// Nobody listens there.
    Absent {
        at: String,
    },
    /// Somebody listens, but does not answer as an Engine does.
    Silent {
        at: String,
        why: String,
    },
}

#[derive(Clone, Debug)]
pub struct StateDir {
    pub path: String,
    /// Why it can't be written.
    pub problem: Option<String>,
    /// Permission bits; None where it is not there yet.
    pub mode: Option<u32>,
    pub free_bytes: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    /// Something disciplines it: NTP, PTP, chrony.
    Synchronised,
    /// The kernel knows of nobody who does.
    Alone,
    Unknown,
}

#[derive(Clone, Debug)]
pub struct Network {
    /// The ports that nodes talk on.
    pub ports: Vec<PortFact>,
    pub occasion: Occasion,
    /// Published ports this node could not take, as `tcp/8000`, and who has them.
    pub not_taken: Vec<(String, Option<String>)>,
    /// Where networks come from: the cluster's pools, or the default one.
    pub pools: Subnets,
    /// The cluster's networks; empty without a cluster.
    pub networks: Vec<(String, Subnets)>,
    /// Prefixes that this host reaches by links of its own, with the link's name; or why they could not be listed.
    pub routes: Result<Vec<(IpNet, String)>, String>,
    /// What this node told the allocator when it joined; None without a cluster.
    pub reported: Option<Vec<IpNet>>,
    pub others: Vec<OtherProgram>,
    /// None where no agent in a cluster runs.
    pub xdp: Option<Xdp>,
    /// What the host's IPsec policies do with packets between nodes, or why that is not known; None where no agent in a cluster runs.
    pub ipsec: Option<Result<Ipsec, String>>,
}

/// Nodes by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ipsec {
    /// Tunnel packets from or to them are to be encrypted or authenticated.
    pub protected: Vec<String>,
    /// They are to be dropped.
    pub blocked: Vec<String>,
}

/// What the drivers of the uplinks run of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xdp {
    /// `native on eth0; off on eth1 (a bridge: TC serves it)`.
    pub summary: String,
    /// What was asked for and can't be had: what, and what to do.
    pub refused: Vec<(String, String)>,
}

impl Xdp {
    /// For the log and for `mesh status`.
    pub fn complaints(&self) -> impl Iterator<Item = String> {
        self.refused.iter().map(|(what, remedy)| format!("{what}; published ports are served at TC there: {remedy}"))
    }
}

#[derive(Clone, Debug)]
pub struct PortFact {
    /// `2377/tcp`.
    pub port: String,
    /// What mesh needs it for.
    pub purpose: Purpose,
    pub user: PortUser,
    /// A port that is free and could be chosen instead.
    pub instead: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Api,
    Gossip,
    Tunnel,
}

impl std::fmt::Display for Purpose {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Purpose::Api => "the cluster's API",
            Purpose::Gossip => "gossip",
            Purpose::Tunnel => "the tunnel",
        })
    }
}

/// When ports are looked at, which decides by which flags others can be chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Occasion {
    Init,
    Join,
    /// In no cluster: one of both is to come.
    Alone,
    /// A member's agent starts, or runs: its ports were bound when it entered.
    Start,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortUser {
    Free,
    Ours,
    /// A process, `name (pid 7)`, a device, or "the kernel".
    Other(String),
}

/// Somebody else's program on a hook of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OtherProgram {
    /// `eth0 ingress (TCX)`.
    pub place: String,
    pub name: String,
}

/// The other nodes, as this one meets them.
#[derive(Clone, Debug)]
pub struct Peers {
    /// Largest packet of a task.
    pub overlay_mtu: Option<u32>,
    /// The same on the wire, with everything VXLAN adds.
    pub outer_mtu: Option<u32>,
    pub data_port: u16,
    pub peers: Vec<Peer>,
    /// A task of this node, and what its name server said; None where no task has a network.
    pub names: Option<(String, Result<(), String>)>,
}

#[derive(Clone, Debug)]
pub struct Peer {
    pub name: String,
    pub api_addr: SocketAddr,
    pub gossip_addr: SocketAddr,
    pub data_path_addr: IpAddr,
    /// What gossip says of its agent; None: never heard of.
    pub is_alive: Option<bool>,
    /// It answers echoes on the data path.
    pub is_reached: bool,
    pub api: Api,
    pub path: PathMtu,
}

/// What calling its API gave.
#[derive(Clone, Debug)]
pub enum Api {
    /// Its clock is ahead of ours by so much, give or take half the time the answer took.
    Answered {
        ahead_ms: i64,
        took_ms: u64,
    },
    Failed(String),
}

/// What passes to the peer and back, in bytes of an inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathMtu {
    Whole,
    /// The largest that passed.
    Only(u32),
    /// The data path is silent, or this node has none yet.
    NotTried,
}
