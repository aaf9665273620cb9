//! `mesh agent`: flags, the configuration file behind them, and what the agent gets.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use mesh_common::flood;
use serde::Deserialize;

use super::fault::Fault;
use crate::model::{HostPort, ParseHostPortError, Runtime};

/// Where XDP programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    Off,
    Auto,
    Native,
    Generic,
}

/// How TC programs get onto devices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TcMode {
    Auto,
    Tcx,
    Clsact,
}

/// How packets between nodes leave this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FastPath {
    /// Straight out of the uplink where the next hop is known, else through mesh0.
    Auto,
    /// Always through mesh0.
    Off,
}

/// A flag wins over the configuration file, the file over the default.
#[derive(Debug, Default, Args)]
pub(super) struct AgentFlags {
    /// YAML file with these flags as keys (name: n1); a flag wins over it
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    given: Given,
    /// Say more; twice: everything
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
}

#[derive(Debug, Default, Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
struct Given {
    /// This node's name in the cluster [default: the host's name]
    #[arg(long, value_name = "NODE")]
    name: Option<String>,
    /// Where store, identity and tasks are kept [default: /var/lib/mesh]
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where programs and maps are pinned [default: /sys/fs/bpf/mesh]
    #[arg(long, value_name = "DIR")]
    bpf_dir: Option<PathBuf>,
    /// cgroup v2 folder under which tasks live and whose sockets use services [default: found by itself]
    #[arg(long, value_name = "DIR")]
    cgroup: Option<PathBuf>,
    /// Address or interface that other nodes reach this one at, and the port of its API [default: found by itself]
    #[arg(long, value_name = "IP|IFACE[:PORT]", value_parser = host_port)]
    advertise_addr: Option<String>,
    /// Where API and gossip listen, and the API's port, when this node enters a cluster [default: 0.0.0.0:2377]
    #[arg(long, value_name = "IP|IFACE[:PORT]", value_parser = host_port)]
    listen_addr: Option<String>,
    /// UDP and TCP port of gossip, when this node enters a cluster [default: 7946]
    #[arg(long, value_name = "PORT")]
    gossip_port: Option<std::num::NonZeroU16>,
    /// Address or interface for tunnel packets [default: the advertised address]
    #[arg(long, value_name = "IP|IFACE")]
    data_path_addr: Option<String>,
    /// Interface on which published ports answer; repeatable [default: all with a default or connected route]
    #[arg(long, value_name = "IFACE")]
    publish_interface: Vec<String>,
    /// Sending to other nodes straight out of the uplink where the next hop is known [default: auto]
    #[arg(long, value_name = "MODE")]
    fast_path: Option<FastPath>,
    /// New flows a second and CPU past which new ones are kept apart from those that proved themselves; 0: never [default: 10000]
    #[arg(long, value_name = "N")]
    flood_threshold: Option<u32>,
    /// TC programs on devices: by tcx (Linux 6.6), as filters of clsact, or auto: tcx where the kernel has it [default: auto]
    #[arg(long, value_name = "WAY")]
    tc: Option<TcMode>,
    /// XDP for published ports: auto (NICs whose driver takes it), native (all uplinks' drivers), generic (by the stack), off [default: auto]
    #[arg(long, value_name = "MODE")]
    xdp: Option<XdpMode>,
    /// Room for so many flow entries, two a connection; counts when the table is made: on a restarted machine, or after 'mesh purge'
    /// [default: one for 8 KiB of memory, 65536 to 8388608]
    #[arg(long, value_name = "N")]
    flow_entries: Option<u32>,
    /// Runtimes this node may use; docker only while an Engine answers (at DOCKER_HOST) [default: docker,exec]
    #[arg(long, value_name = "RUNTIME", value_delimiter = ',')]
    runtimes: Vec<String>,
}

/// Everything the agent is told at start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentArgs {
    /// None: the host's name.
    pub name: Option<String>,
    pub socket: PathBuf,
    pub state_dir: PathBuf,
    pub bpf_dir: PathBuf,
    /// None: the agent looks for the root of cgroup v2.
    pub cgroup: Option<PathBuf>,
    /// IP or interface, with a port if need be; None: the source address of the default route.
    pub advertise_addr: Option<String>,
    /// The same; where API and gossip listen.
    pub listen_addr: Option<String>,
    pub gossip_port: Option<u16>,
    /// IP or interface; None: as advertised.
    pub data_path_addr: Option<String>,
    /// Empty: every uplink.
    pub publish_interfaces: Vec<String>,
    pub fast_path: FastPath,
    /// New flows a second and CPU; 0: never a flood.
    pub flood_threshold: u32,
    pub tc: TcMode,
    pub xdp: XdpMode,
    /// None: by the machine's memory.
    pub flow_entries: Option<u32>,
    pub runtimes: Vec<Runtime>,
    /// How often `-v` was given.
    pub verbose: u8,
}

impl AgentFlags {
    pub(super) fn resolve(self, socket: PathBuf) -> Result<AgentArgs, Fault> {
        let AgentFlags { config, given, verbose } = self;
        let file = match config {
            None => Given::default(),
            Some(path) => {
                let text = std::fs::read_to_string(&path)
                    .map_err(|error| Fault::failed(format!("cannot read --config {}: {error}", path.display())))?;
                serde_yaml::from_str(&text).map_err(|error| {
                    let error = error.to_string().lines().next().unwrap_or_default().to_string();
                    Fault::failed(format!("{}: {error}; allowed are the long flags of 'mesh agent'", path.display()))
                })?
            }
        };
        for (flag, value) in [("advertise-addr", &file.advertise_addr), ("listen-addr", &file.listen_addr)] {
            let checked = value.as_deref().map(host_port).transpose();
            checked.map_err(|error| Fault::usage(format!("{flag} in --config: {error}")))?;
        }
        let runtimes = if given.runtimes.is_empty() { file.runtimes } else { given.runtimes };
        let list = |given: Vec<String>, file: Vec<String>| if given.is_empty() { file } else { given };
        Ok(AgentArgs {
            name: given.name.or(file.name),
            socket,
            state_dir: given.state_dir.or(file.state_dir).unwrap_or_else(|| "/var/lib/mesh".into()),
            bpf_dir: given.bpf_dir.or(file.bpf_dir).unwrap_or_else(|| "/sys/fs/bpf/mesh".into()),
            cgroup: given.cgroup.or(file.cgroup),
            advertise_addr: given.advertise_addr.or(file.advertise_addr),
            listen_addr: given.listen_addr.or(file.listen_addr),
            gossip_port: given.gossip_port.or(file.gossip_port).map(u16::from),
            data_path_addr: given.data_path_addr.or(file.data_path_addr),
            publish_interfaces: list(given.publish_interface, file.publish_interface),
            fast_path: given.fast_path.or(file.fast_path).unwrap_or(FastPath::Auto),
            flood_threshold: given.flood_threshold.or(file.flood_threshold).unwrap_or(flood::DEFAULT_THRESHOLD),
            tc: given.tc.or(file.tc).unwrap_or(TcMode::Auto),
            xdp: given.xdp.or(file.xdp).unwrap_or(XdpMode::Auto),
            flow_entries: check_flow_entries(given.flow_entries.or(file.flow_entries))?,
            runtimes: parse_runtimes(&runtimes)?,
            verbose,
        })
    }
}

/// The text itself where it is `IP|IFACE[:PORT]`; what an interface's address is, only the agent knows.
pub(super) fn host_port(text: &str) -> Result<String, ParseHostPortError> {
    text.parse().map(|_: HostPort| text.to_string())
}

/// Fewest and most flow entries that can be asked for: 9 MB and 10 GB of the kernel's memory.
const FLOW_ENTRIES: std::ops::RangeInclusive<u32> = 4_096..=1 << 26;

fn check_flow_entries(entries: Option<u32>) -> Result<Option<u32>, Fault> {
    match entries {
        Some(entries) if !FLOW_ENTRIES.contains(&entries) => Err(Fault::usage(format!(
            "--flow-entries {entries}: not between {} and {}; a connection needs two, an entry costs about 140 bytes of memory",
            FLOW_ENTRIES.start(),
            FLOW_ENTRIES.end()
        ))),
        entries => Ok(entries),
    }
}

fn parse_runtimes(words: &[String]) -> Result<Vec<Runtime>, Fault> {
    if words.is_empty() {
        return Ok(vec![Runtime::Exec, Runtime::Docker]);
    }
    let parse = |word: &String| match word.as_str() {
        "exec" => Ok(Runtime::Exec),
        "docker" => Ok(Runtime::Docker),
        other => Err(Fault::usage(format!("--runtimes {other}: no such runtime; allowed are: docker, exec"))),
    };
    words.iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("agent.yaml");
        std::fs::write(&path, "name: from-file\nstate-dir: /srv/mesh\nflood-threshold: 500\n").expect("written");
        let given = Given { name: Some("from-flag".into()), ..Given::default() };
        let flags = AgentFlags { config: Some(path.clone()), given, verbose: 0 };
        let args = flags.resolve("/run/m.sock".into()).expect("a good file");
        assert_eq!(args.name.as_deref(), Some("from-flag"));
        assert_eq!(args.state_dir, PathBuf::from("/srv/mesh"));
        assert_eq!(args.bpf_dir, PathBuf::from("/sys/fs/bpf/mesh"));
        assert_eq!(args.flood_threshold, 500);
        std::fs::write(&path, "listen-addr: 0.0.0.0:12377\ngossip-port: 17946\n").expect("written");
        let flags = AgentFlags { config: Some(path.clone()), ..AgentFlags::default() };
        let args = flags.resolve("/run/m.sock".into()).expect("a good file");
        assert_eq!((args.listen_addr.as_deref(), args.gossip_port), (Some("0.0.0.0:12377"), Some(17946)));
        for (text, word) in [("listen-addr: 0.0.0.0:http", "listen-addr"), ("gossip-port: 0", "nonzero")] {
            std::fs::write(&path, text).expect("written");
            let flags = AgentFlags { config: Some(path.clone()), ..AgentFlags::default() };
            let fault = flags.resolve("/run/m.sock".into()).expect_err("no port");
            assert!(fault.line().is_some_and(|line| line.contains(word)), "{fault:?}");
        }
        assert_eq!(args.flow_entries, None, "by the machine's memory");
        std::fs::write(&path, "flow-entries: 1000000\n").expect("written");
        let from_file =
            |given| AgentFlags { config: Some(path.clone()), given, verbose: 0 }.resolve("/run/m.sock".into());
        assert_eq!(from_file(Given::default()).expect("a good file").flow_entries, Some(1_000_000));
        let fault = from_file(Given { flow_entries: Some(100), ..Given::default() }).expect_err("too few");
        assert!(fault.line().is_some_and(|line| line.contains("between 4096 and 67108864")), "{fault:?}");
        std::fs::write(&path, "nmae: x\n").expect("written");
        let flags = AgentFlags { config: Some(path), ..AgentFlags::default() };
        let fault = flags.resolve("/run/m.sock".into()).expect_err("an unknown key");
        assert!(fault.line().is_some_and(|line| line.contains("nmae")), "{fault:?}");
    }
}
