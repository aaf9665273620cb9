//! A service: what to run, how many, on which networks, behind which ports.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Addresses, Container, Id, Mount, UnixMs};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// A command in namespaces of its own, on the host's file system.
    Exec,
    /// A container of the Docker Engine.
    Docker,
}

/// How many tasks a service has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Replicated {
        replicas: u32,
    },
    /// One task on every eligible node.
    Global,
    /// No tasks of its own: one for each container that joined by its labels.
    Adopted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EndpointMode {
    /// A virtual IP that never changes.
    Vip,
    /// No VIP: the name resolves to all tasks.
    Dnsrr,
}

/// How the first packet of a flow chooses its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    RoundRobin,
    Maglev,
    Random,
}

/// A client keeps its backend for a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Affinity {
    pub timeout_s: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishMode {
    /// On every node.
    Ingress,
    /// Only on nodes that run a task.
    Host,
}

/// A published port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PortSpec {
    pub protocol: Protocol,
    /// The port tasks listen on.
    pub target: u16,
    /// The port on the nodes; 0 in a spec asks the allocator for one of 30000–32767.
    pub published: u16,
    pub mode: PublishMode,
    /// The one address of a node that it is published at; None: all of every node.
    #[serde(default)]
    pub address: Option<IpAddr>,
    /// The interface whose addresses it is published at, on every node that has one of this name; never beside an address.
    #[serde(default)]
    pub interface: Option<String>,
    /// Prefixes of callers that are let in, sorted; none: everybody.
    #[serde(default)]
    pub allow: Vec<IpNet>,
}

impl PortSpec {
    /// Open to everybody, on every node.
    pub fn new(protocol: Protocol, published: u16, target: u16) -> Self {
        PortSpec {
            protocol,
            target,
            published,
            mode: PublishMode::Ingress,
            address: None,
            interface: None,
            allow: Vec::new(),
        }
    }

    /// This port, as it was decided, is what a spec wants; who may call it is another matter.
    pub fn is_for(&self, wanted: &PortSpec) -> bool {
        (self.protocol, self.target, self.mode) == (wanted.protocol, wanted.target, wanted.mode)
            && self.place() == wanted.place()
            && [0, self.published].contains(&wanted.published)
    }

    /// Where it is published: the address, or the interface; neither: everywhere.
    pub fn place(&self) -> (Option<IpAddr>, Option<&str>) {
        (self.address, self.interface.as_deref())
    }

    /// In what order ports are listed, whatever the order in which they were written; who may call them is another matter.
    pub fn order(&self) -> impl Ord + '_ {
        (self.published, self.target, self.protocol, self.mode, self.place())
    }

    /// One call may mean the one and the other. Of an address and an interface that has it the address is meant.
    pub fn meets(&self, other: &PortSpec) -> bool {
        let (place, another) = (self.place(), other.place());
        let is_everywhere = place == (None, None) || another == (None, None);
        (self.protocol, self.published) == (other.protocol, other.published) && (is_everywhere || place == another)
    }
}

/// A service's place on a network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkAttachment {
    /// Name or id as the user gave it; the leader stores the id's 32 digits.
    pub network: String,
    /// Further names of the service on this network.
    pub aliases: Vec<String>,
}

/// How a task is asked whether it is well. As with Docker, 0 in a number stands for its default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthCheck {
    /// Exits with 0 in a healthy task. Empty: explicitly none, also where the image has one.
    pub command: Vec<String>,
    /// From the end of one probe to the beginning of the next; 30 s.
    pub interval_ms: u64,
    /// After which a probe is killed and counts as failed; 30 s.
    pub timeout_ms: u64,
    /// So many failures in a row make a task unhealthy; 3.
    pub retries: u32,
    /// After the task's start: failures don't count yet. A pass ends it.
    pub start_period_ms: u64,
    /// Instead of the interval during the start period; 5 s.
    #[serde(default)]
    pub start_interval_ms: u64,
}

impl HealthCheck {
    /// The check that is none.
    pub fn disabled() -> Self {
        HealthCheck::default()
    }

    pub fn is_disabled(&self) -> bool {
        self.command.is_empty()
    }

    /// With Docker's defaults for what is 0.
    pub fn with_defaults(&self) -> Self {
        let or = |value: u64, default: u64| if value == 0 { default } else { value };
        HealthCheck {
            command: self.command.clone(),
            interval_ms: or(self.interval_ms, 30_000),
            timeout_ms: or(self.timeout_ms, 30_000),
            retries: if self.retries == 0 { 3 } else { self.retries },
            start_period_ms: self.start_period_ms,
            start_interval_ms: or(self.start_interval_ms, 5_000),
        }
    }

    /// Longest time from the task's start to a verdict.
    pub fn longest_ms(&self) -> u64 {
        let HealthCheck { interval_ms, timeout_ms, retries, start_period_ms, .. } = self.with_defaults();
        start_period_ms.saturating_add(interval_ms.saturating_add(timeout_ms).saturating_mul(retries.into()))
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Resources {
    pub limit_nano_cpus: Option<u64>,
    pub limit_memory_bytes: Option<u64>,
    pub reserve_nano_cpus: Option<u64>,
    pub reserve_memory_bytes: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCondition {
    None,
    OnFailure,
    Any,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestartPolicy {
    pub condition: RestartCondition,
    pub delay_ms: u64,
    /// 0: without limit.
    pub max_attempts: u32,
    /// Attempts older than this don't count; 0: all count.
    pub window_ms: u64,
}

impl Default for RestartPolicy {
    /// Swarm's: any, 5 s, forever.
    fn default() -> Self {
        RestartPolicy { condition: RestartCondition::Any, delay_ms: 5_000, max_attempts: 0, window_ms: 0 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateOrder {
    StopFirst,
    StartFirst,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpdateFailureAction {
    Pause,
    Continue,
    Rollback,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct UpdateConfig {
    /// Tasks replaced at once; 0: all.
    pub parallelism: u32,
    pub delay_ms: u64,
    pub monitor_ms: u64,
    pub failure_action: UpdateFailureAction,
    pub max_failure_ratio: f32,
    pub order: UpdateOrder,
}

impl Default for UpdateConfig {
    /// Swarm's: one at a time, stop first, pause on failure, monitor 5 s.
    fn default() -> Self {
        UpdateConfig {
            parallelism: 1,
            delay_ms: 0,
            monitor_ms: 5_000,
            failure_action: UpdateFailureAction::Pause,
            max_failure_ratio: 0.0,
            order: UpdateOrder::StopFirst,
        }
    }
}

/// What one task runs; copied into each task, so that an update shows which tasks are old.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TaskSpec {
    pub runtime: Runtime,
    /// Image reference; empty with runtime `exec`.
    pub image: String,
    pub command: Vec<String>,
    pub env: Vec<String>,
    pub user: Option<String>,
    pub hostname: Option<String>,
    pub workdir: Option<String>,
    pub mounts: Vec<Mount>,
    /// None: none given, so that an image's own applies.
    pub health: Option<HealthCheck>,
    pub stop_signal: Option<String>,
    pub stop_grace_period_ms: u64,
    pub resources: Resources,
    pub restart: RestartPolicy,
    pub constraints: Vec<String>,
    /// 0: without limit.
    pub max_replicas_per_node: u32,
    /// Bumped by `service update --force`.
    pub force_update: u64,
    #[serde(default)]
    pub container: Container,
}

impl TaskSpec {
    /// What a task is that says nothing, with Swarm's defaults.
    pub fn new(runtime: Runtime) -> Self {
        TaskSpec {
            runtime,
            image: String::new(),
            command: Vec::new(),
            env: Vec::new(),
            user: None,
            hostname: None,
            workdir: None,
            mounts: Vec::new(),
            health: None,
            stop_signal: None,
            stop_grace_period_ms: 10_000,
            resources: Resources::default(),
            restart: RestartPolicy::default(),
            constraints: Vec::new(),
            max_replicas_per_node: 0,
            force_update: 0,
            container: Container::default(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceSpec {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub mode: Mode,
    pub task: TaskSpec,
    pub networks: Vec<NetworkAttachment>,
    pub ports: Vec<PortSpec>,
    pub endpoint_mode: EndpointMode,
    pub lb: Algorithm,
    pub affinity: Option<Affinity>,
    /// Label of nodes whose number says how many turns a task there has; None: all have one.
    #[serde(default)]
    pub weight_by: Option<String>,
    pub update: UpdateConfig,
    pub rollback: UpdateConfig,
}

impl ServiceSpec {
    /// One task behind a VIP, on no network and without ports.
    pub fn new(name: &str, runtime: Runtime) -> Self {
        ServiceSpec {
            name: name.to_string(),
            labels: BTreeMap::new(),
            mode: Mode::Replicated { replicas: 1 },
            task: TaskSpec::new(runtime),
            networks: Vec::new(),
            ports: Vec::new(),
            endpoint_mode: EndpointMode::Vip,
            lb: Algorithm::RoundRobin,
            affinity: None,
            weight_by: None,
            update: UpdateConfig::default(),
            rollback: UpdateConfig::default(),
        }
    }
}

/// A service's virtual addresses on one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vip {
    pub network_id: Id,
    /// One of each family that the network has.
    #[serde(rename = "addr")]
    pub addrs: Addresses,
    /// Number of this (service, network) pair in BPF maps; never 0, never re-used inside the quarantine.
    pub pool: u32,
}

/// A service with what the allocator gave it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    pub id: Id,
    pub spec: ServiceSpec,
    pub previous_spec: Option<Box<ServiceSpec>>,
    /// Counts changes of the spec; a task of an older version is replaced by the updater.
    pub version: u64,
    /// One per network of the spec, in its order (with mode `dnsrr` too: `pool` is used, `addrs` are not announced).
    pub vips: Vec<Vip>,
    /// The spec's ports with every published port decided.
    pub ports: Vec<PortSpec>,
    /// Why the allocator can't satisfy the spec, shown by `service ps`.
    pub pending_reason: Option<String>,
    pub created_at: UnixMs,
    pub updated_at: UnixMs,
}
