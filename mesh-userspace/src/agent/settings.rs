//! What the agent is told at start; main.rs makes it out of the command line, so that agent and command line need not know each other.

use std::path::PathBuf;

use crate::model::Runtime;

/// Where XDP programs are attached, beside TC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    Off,
    /// In the drivers of NICs that take them.
    Auto,
    /// In the drivers of all uplinks; what refuses is complained of.
    Native,
    /// By the stack, on all uplinks.
    Generic,
}

/// How TC programs get onto devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcMode {
    /// By TCX where the kernel has it, else as filters.
    Auto,
    Tcx,
    Clsact,
}

/// Everything the agent is told at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// None: the host's name.
    pub name: Option<String>,
    pub socket: PathBuf,
    pub state_dir: PathBuf,
    pub bpf_dir: PathBuf,
    /// None: the root of cgroup v2.
    pub cgroup: Option<PathBuf>,
    /// IP or interface, with a port if need be; None: the source address of the default route.
    pub advertise_addr: Option<String>,
    /// The same; where API and gossip listen. None: everywhere, at the port that is advertised.
    pub listen_addr: Option<String>,
    /// None: the usual one.
    pub gossip_port: Option<u16>,
    /// IP or interface; None: as advertised.
    pub data_path_addr: Option<String>,
    /// Empty: every uplink.
    pub publish_interfaces: Vec<String>,
    /// Whether the programs may send tunnel packets by themselves, past mesh0.
    pub fast_path: bool,
    pub tc: TcMode,
    pub xdp: XdpMode,
    /// Entries of a flow table made anew, two a flow; None: by the machine's memory.
    pub flow_entries: Option<u32>,
    /// New flows a second and CPU past which they are written beside the flow table; 0: never.
    pub flood_threshold: u32,
    pub runtimes: Vec<Runtime>,
    /// How often `-v` was given.
    pub verbose: u8,
}
