//! One node: its copy of the facts, its kernel in memory, its agent's rounds.
//!
//! A round is that of agent/reconcile.rs: network, maps, names, each compiled, compared, applied. Every round also proves that a second one
//! would find nothing to do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use mesh_common::schema;
use mesh_userspace::dns::zone::{self, Zone};
use mesh_userspace::model::{
    Cluster, Id, Node as Member, NodeStatus, Observed, TaskHealth, TaskState, TaskStatus, UnixMs,
};
use mesh_userspace::plan::maps::{self, Facts, Tables};
use mesh_userspace::plan::net::{self, HeldPort, NetImage, NetOp, Programmed, Underlay};

use super::maps::Maps;

/// Slots of `RINGS`.
const RING_SLOTS: u32 = 1 << 20;
const UPLINK: u32 = 2;
const MESH0: u32 = 3;
const FIRST_LINK: u32 = 10;
const UNDERLAY: Underlay = Underlay { mtu: net::DEFAULT_UNDERLAY_MTU, has_ipv6: true };

/// A machine with a kernel, and an agent while it runs.
pub struct Node {
    pub id: Id,
    pub name: String,
    pub addr: Ipv4Addr,
    /// The agent runs.
    pub is_alive: bool,
    /// The store's word, as last heard.
    pub desired: Cluster,
    /// Reports of this node's own tasks.
    pub reports: BTreeMap<Id, TaskStatus>,
    /// Reports of other nodes' tasks, by node, as last heard.
    pub heard: BTreeMap<Id, BTreeMap<Id, TaskStatus>>,
    /// Addresses of this node's interfaces.
    pub interfaces: BTreeMap<String, BTreeSet<IpAddr>>,
    /// The same of others, as last heard.
    pub heard_interfaces: BTreeMap<Id, BTreeMap<String, BTreeSet<IpAddr>>>,
    pub unreachable_since: BTreeMap<Id, UnixMs>,
    pub agent_gone_since: BTreeMap<Id, UnixMs>,
    /// Tasks that have a network namespace.
    pub namespaces: BTreeSet<Id>,
    /// Ports that programs of the host itself use.
    pub occupied: BTreeSet<HeldPort>,
    pub image: NetImage,
    pub programmed: Programmed,
    pub maps: Maps,
    planned: maps::Programmed,
    /// Links as the kernel numbers them.
    ifindexes: BTreeMap<Id, u32>,
    next_ifindex: u32,
    pub zone: Zone,
    /// What was done to the maps and to the network since the last command began.
    pub ops: Vec<String>,
    pub net_ops: Vec<NetOp>,
}

impl Node {
    pub fn new(id: Id, name: String, addr: Ipv4Addr) -> Self {
        Node {
            id,
            name,
            addr,
            is_alive: true,
            desired: Cluster::default(),
            reports: BTreeMap::new(),
            heard: BTreeMap::new(),
            interfaces: BTreeMap::new(),
            heard_interfaces: BTreeMap::new(),
            unreachable_since: BTreeMap::new(),
            agent_gone_since: BTreeMap::new(),
            namespaces: BTreeSet::new(),
            occupied: BTreeSet::new(),
            image: NetImage::default(),
            programmed: Programmed::default(),
            maps: Maps::default(),
            planned: maps::Programmed::from_tables(Tables::default(), RING_SLOTS),
            ifindexes: BTreeMap::new(),
            next_ifindex: FIRST_LINK,
            zone: Zone::default(),
            ops: Vec::new(),
            net_ops: Vec::new(),
        }
    }

    /// Gossip and echoes in one view, as `agent::member` merges them.
    pub fn observed(&self) -> Observed {
        let others = self.heard.values().flatten().map(|(id, status)| (id.clone(), status.clone()));
        let own = self.reports.iter().map(|(id, status)| (id.clone(), status.clone()));
        let members: Vec<&Member> = self.desired.nodes.values().collect();
        let is_alive = |member: &&Member| !self.agent_gone_since.contains_key(&member.id);
        let interfaces = self.heard_interfaces.iter().chain([(&self.id, &self.interfaces)]);
        let status = |interfaces: &BTreeMap<_, _>| NodeStatus {
            applied_revision: self.desired.revision,
            interfaces: interfaces.clone(),
            ..NodeStatus::default()
        };
        let nodes = interfaces.filter(|(_, interfaces)| !interfaces.is_empty());
        Observed {
            nodes: nodes.map(|(id, interfaces)| (id.clone(), status(interfaces))).collect(),
            tasks: others.chain(own).collect(),
            agent_alive: members.iter().map(|member| (member.id.clone(), is_alive(member))).collect(),
            agent_gone_since: self.agent_gone_since.clone(),
            unreachable_since: self.unreachable_since.clone(),
        }
    }

    /// A new agent finds what its predecessor left in the kernel.
    pub fn start_agent(&mut self) {
        self.is_alive = true;
        self.planned = maps::Programmed::from_tables(self.maps.tables(), RING_SLOTS);
        self.programmed.held_ports.clear();
    }

    /// The agent dies: its sockets close, everything else stays.
    pub fn kill_agent(&mut self) {
        self.is_alive = false;
        self.programmed.held_ports.clear();
    }

    /// The node leaves: its tasks are ended, and it wants nothing any more.
    pub fn leave(&mut self) -> Result<(), String> {
        self.namespaces.clear();
        self.reports.clear();
        self.desired = Cluster::default();
        self.converge_net()?;
        self.converge_maps()
    }

    /// One round on what this node knows. A node that was taken out of the cluster keeps everything until it leaves.
    pub fn round(&mut self) -> Result<(), String> {
        if !self.is_alive || !self.desired.nodes.contains_key(&self.id) {
            return Ok(());
        }
        self.zone = zone::compile(&self.desired, &self.observed(), &self.id);
        self.converge_net()?;
        self.converge_maps()
    }

    fn converge_net(&mut self) -> Result<(), String> {
        self.image = net::compile(&self.desired, &self.observed(), &self.id, &UNDERLAY);
        let ops = net::diff(&self.programmed, &self.image);
        for op in ops {
            if self.is_possible(&op) {
                self.do_to_network(&op);
                self.net_ops.push(op);
            }
        }
        let rest = net::diff(&self.programmed, &self.image);
        match rest.into_iter().find(|op| self.is_possible(op)) {
            Some(op) => Err(format!("{}: a second round would do {op:?}", self.name)),
            None => Ok(()),
        }
    }

    /// Links need a namespace, ports must be free.
    fn is_possible(&self, op: &NetOp) -> bool {
        match op {
            NetOp::AddTaskLink(link) => self.namespaces.contains(&link.task_id),
            NetOp::HoldPort(port) => !self.occupied.contains(port),
            _ => true,
        }
    }

    fn do_to_network(&mut self, op: &NetOp) {
        let there = &mut self.programmed;
        match op.clone() {
            NetOp::AddMesh0(mesh0) => there.mesh0 = Some(mesh0),
            NetOp::SetMesh0(mesh0) => (there.mesh0, there.mesh0_running) = (Some(mesh0), true),
            NetOp::RemoveMesh0 => {
                (there.mesh0, there.mesh0_running) = (None, false);
                there.addrs.clear();
                there.routes.clear();
                there.sysctls.retain(|key, _| !net::dies_with_our_link(key));
            }
            NetOp::AddAddress(addr) => drop(there.addrs.insert(addr)),
            NetOp::RemoveAddress(addr) => drop(there.addrs.remove(&addr)),
            NetOp::SetRoute(subnet, route) => drop(there.routes.insert(subnet, route)),
            NetOp::RemoveRoute(subnet) => drop(there.routes.remove(&subnet)),
            NetOp::AddTaskLink(link) => {
                self.ifindexes.insert(link.task_id.clone(), self.next_ifindex);
                self.next_ifindex += 1;
                there.task_links.insert(link.name.clone(), link.end());
            }
            NetOp::SetTaskLink(link) => drop(there.task_links.insert(link.name.clone(), link.end())),
            NetOp::RemoveTaskLink(name) => {
                let end = there.task_links.remove(&name);
                end.and_then(|end| end.task_id).and_then(|task| self.ifindexes.remove(&task));
            }
            NetOp::HoldPort(port) => drop(there.held_ports.insert(port)),
            NetOp::ReleasePort(port) => drop(there.held_ports.remove(&port)),
            NetOp::SetSysctl { key, value } => {
                if !net::dies_with_our_link(&key) {
                    there.recorded_sysctls.insert(key.clone());
                }
                there.sysctls.insert(key, value);
            }
            NetOp::RestoreSysctl(key) => {
                there.sysctls.remove(&key);
                there.recorded_sysctls.remove(&key);
            }
        }
    }

    fn facts(&self) -> Facts {
        let uplink = schema::Uplink {
            addr4: self.addr.octets(),
            mac: [2, 0, 0, 0, 0, self.addr.octets()[3]],
            pad: [0; 2],
            addr6: [0; 16],
        };
        let not_taken = self.image.held_ports.difference(&self.programmed.held_ports);
        Facts {
            this_node: self.id.clone(),
            mesh0: MESH0,
            netns_cookie: 1,
            addresses: [(Ipv4Addr::LOCALHOST.into(), 0), (self.addr.into(), UPLINK)].into(),
            uplinks: [(UPLINK, uplink)].into(),
            next_hops: BTreeMap::new(),
            protected: Default::default(),
            task_links: self.ifindexes.clone(),
            ports_not_taken: not_taken.map(HeldPort::key).collect(),
            flood_threshold: 0,
            task_mtu: self.image.mesh0.map_or(UNDERLAY.mtu, |mesh0| mesh0.mtu),
            underlay_mtu: UNDERLAY.mtu,
        }
    }

    fn converge_maps(&mut self) -> Result<(), String> {
        let (desired, observed, facts) = (Arc::new(self.desired.clone()), Arc::new(self.observed()), self.facts());
        let round = self.planned.round(&desired, &observed, &facts);
        self.ops.extend(round.ops.iter().map(ToString::to_string));
        self.planned.done(&round.ops);
        let wanted = self.planned.tables();
        self.maps.apply(&round.ops, wanted).map_err(|error| format!("{}: {error}", self.name))?;
        // An agent that starts now, and looks at everything.
        let mut next = maps::Programmed::from_tables(self.maps.tables(), RING_SLOTS);
        match (next.round(&desired, &observed, &facts).ops.first(), round.refused.first()) {
            (Some(op), _) => Err(format!("{}: a second round would do `{op}`", self.name)),
            (_, Some(refused)) => Err(format!("{}: {refused}", self.name)),
            (None, None) => Ok(()),
        }
    }

    /// Brings each of this node's tasks one step further, as agent/tasks/ does; returns how many it moved.
    pub fn act(&mut self, is_fresh: bool, now: UnixMs) -> usize {
        if !self.is_alive {
            return 0;
        }
        let mut moved = 0;
        for task in self.desired.tasks.values().filter(|task| task.node_id.as_ref() == Some(&self.id)) {
            let was = self.reports.get(&task.id).map(|report| (report.state, report.ready));
            let is_checked = task.spec.health.as_ref().is_some_and(|check| !check.is_disabled());
            let is_unhealthy =
                self.reports.get(&task.id).is_some_and(|report| report.health == Some(TaskHealth::Unhealthy));
            let runs = || match task.spec.command.first().map(String::as_str) {
                Some("false") => status(TaskState::Failed, false, now),
                Some("true") => status(TaskState::Complete, false, now),
                Some("slow") => status(TaskState::Running, false, now),
                _ => status(TaskState::Running, true, now),
            };
            let next = match (was, task.desired) {
                (None, TaskState::Running) if task.not_before <= now => status(TaskState::Preparing, false, now),
                // Its healthcheck says when it goes on.
                (Some((TaskState::Preparing, _)), TaskState::Running) if is_checked => {
                    TaskStatus { health: Some(TaskHealth::Starting), ..status(TaskState::Starting, false, now) }
                }
                (Some((TaskState::Preparing, _)), TaskState::Running) => runs(),
                (Some((TaskState::Running, false)), TaskState::Running) if is_unhealthy => {
                    let error = Some("task: unhealthy: exit 1".to_string());
                    TaskStatus { error, ..status(TaskState::Failed, false, now) }
                }
                (Some((TaskState::Running, true)), TaskState::Shutdown | TaskState::Remove) => {
                    status(TaskState::Running, false, now)
                }
                (was, TaskState::Shutdown | TaskState::Remove)
                    if !was.is_some_and(|(state, _)| state.is_terminal()) =>
                {
                    status(TaskState::Shutdown, false, now)
                }
                _ => continue,
            };
            moved += 1;
            if next.state.is_terminal() {
                self.namespaces.remove(&task.id)
            } else {
                self.namespaces.insert(task.id.clone())
            };
            self.reports.insert(task.id.clone(), next);
        }
        if is_fresh {
            let known = &self.desired.tasks;
            self.reports.retain(|id, _| known.contains_key(id));
            self.namespaces.retain(|id| known.contains_key(id));
        }
        moved
    }
}

/// A report as an agent writes it.
pub fn status(state: TaskState, ready: bool, since: UnixMs) -> TaskStatus {
    let error = (state == TaskState::Failed).then(|| "task: non-zero exit (1)".to_string());
    TaskStatus { error, ..TaskStatus::new(state, ready, since) }
}

/// The address as the model has it.
pub fn ip(addr: Ipv4Addr) -> IpAddr {
    IpAddr::V4(addr)
}
