//! The cluster: nodes, the cables between them, the leader on the store's node, and what time it is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use mesh_userspace::leader::command::{self, CommandError, Commit, InitCluster, NewNode};
use mesh_userspace::leader::{Ctx, tick};
use mesh_userspace::model::{
    Cluster as Facts, Id, Observed, Role, Runtime, Task, TaskHealth, TaskState, TaskStatus, UnixMs,
};

use super::node::{Node, ip, status};

/// Leader and nodes in turn come to rest long before.
const MOST_TURNS: usize = 200;

/// Where identities come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// In a row, so that the text is easy to read.
    Counted,
    /// In no order, as in real life.
    Scattered,
}

pub struct Cluster {
    /// The store.
    pub facts: Facts,
    /// n1 first.
    pub nodes: Vec<Node>,
    pub now: UnixMs,
    ids: Ids,
    next_id: u64,
    /// Nodes whose cable is cut.
    cut: BTreeSet<Id>,
}

impl Cluster {
    pub fn new(ids: Ids) -> Self {
        Cluster { facts: Facts::default(), nodes: Vec::new(), now: 1_000_000, ids, next_id: 0, cut: BTreeSet::new() }
    }

    /// n1 makes the cluster, the others join; these runtimes answer on each.
    pub fn form(&mut self, count: u8, runtimes: &[Runtime]) -> Result<(), String> {
        for number in 1..=count {
            let (name, addr) = (format!("n{number}"), Ipv4Addr::new(192, 0, 2, number));
            let id = self.run(|_, ctx| Ok(Commit { changes: Vec::new(), answer: ctx.new_id() })).map_err(words)?;
            let new = NewNode {
                id: id.clone(),
                name: name.clone(),
                role: if number == 1 { Role::Manager } else { Role::Worker },
                advertise_addr: ip(addr),
                ports: Default::default(),
                data_path_addr: ip(addr),
                cert_fingerprint: String::new(),
                runtimes: runtimes.to_vec(),
                routed_prefixes: Vec::new(),
            };
            self.nodes.push(Node::new(id, name, addr));
            if number == 1 {
                let init = InitCluster::with_defaults(new);
                self.run(|facts, ctx| command::init_cluster(facts, init, ctx)).map_err(words)?;
            } else {
                self.run(|facts, ctx| command::join_node(facts, new, ctx)).map_err(words)?;
            }
        }
        Ok(())
    }

    /// Decides on the store's facts and commits.
    pub fn run<T>(
        &mut self,
        decide: impl FnOnce(&Facts, &mut Ctx) -> Result<Commit<T>, CommandError>,
    ) -> Result<T, CommandError> {
        let (ids, next_id) = (self.ids, &mut self.next_id);
        let mut random = || identity(ids, next_id);
        let commit = decide(&self.facts, &mut Ctx::new(self.now, &mut random))?;
        self.commit(&commit.changes);
        Ok(commit.answer)
    }

    fn commit(&mut self, changes: &[mesh_userspace::model::Change]) {
        if !changes.is_empty() {
            self.facts.apply(changes);
            self.facts.revision += 1;
        }
    }

    /// The leader decides once, on what the store's node observes. Returns how many changes that made.
    pub fn tick(&mut self) -> usize {
        let Some(leader) = self.nodes.first().filter(|node| node.is_alive) else { return 0 };
        let observed = leader.observed();
        let (ids, next_id) = (self.ids, &mut self.next_id);
        let mut random = || identity(ids, next_id);
        let changes = tick(&self.facts, &observed, &mut Ctx::new(self.now, &mut random));
        self.commit(&changes);
        changes.len()
    }

    /// Every node brings each of its tasks one step further.
    pub fn act(&mut self) -> usize {
        let store = self.nodes.first().map(|node| node.id.clone());
        let fresh: Vec<bool> =
            self.nodes.iter().map(|node| store.as_ref().is_some_and(|store| self.connected(store, &node.id))).collect();
        let now = self.now;
        self.nodes.iter_mut().zip(fresh).map(|(node, is_fresh)| node.act(is_fresh, now)).sum()
    }

    /// News travel as far as cables go, and every agent makes a round.
    pub fn spread(&mut self) -> Result<(), String> {
        let reports: BTreeMap<Id, BTreeMap<Id, _>> =
            self.nodes.iter().map(|node| (node.id.clone(), node.reports.clone())).collect();
        let interfaces: BTreeMap<Id, BTreeMap<_, _>> =
            self.nodes.iter().map(|node| (node.id.clone(), node.interfaces.clone())).collect();
        let alive: BTreeSet<Id> = self.nodes.iter().filter(|node| node.is_alive).map(|node| node.id.clone()).collect();
        let (cut, now) = (&self.cut, self.now);
        let connected = |one: &Id, other: &Id| one == other || (!cut.contains(one) && !cut.contains(other));
        let store = self.nodes.first().map(|node| node.id.clone());
        for node in &mut self.nodes {
            if !node.is_alive {
                continue;
            }
            if store.as_ref().is_some_and(|store| alive.contains(store) && connected(store, &node.id)) {
                node.desired = self.facts.clone();
            }
            let members: Vec<Id> = node.desired.nodes.keys().filter(|id| **id != node.id).cloned().collect();
            node.heard.retain(|id, _| members.contains(id));
            node.heard_interfaces.retain(|id, _| members.contains(id));
            for other in &members {
                let reaches = connected(&node.id, other);
                note(&mut node.unreachable_since, other, !reaches, now);
                note(&mut node.agent_gone_since, other, !reaches || !alive.contains(other), now);
                if reaches && alive.contains(other) {
                    node.heard.insert(other.clone(), reports.get(other).cloned().unwrap_or_default());
                    node.heard_interfaces.insert(other.clone(), interfaces.get(other).cloned().unwrap_or_default());
                }
            }
            node.unreachable_since.retain(|id, _| members.contains(id));
            node.agent_gone_since.retain(|id, _| members.contains(id));
            node.round()?;
        }
        Ok(())
    }

    /// Leader and nodes in turn until nothing moves.
    pub fn settle(&mut self) -> Result<(), String> {
        for _ in 0..MOST_TURNS {
            let decided = self.tick();
            self.spread()?;
            let moved = self.act();
            self.spread()?;
            if decided + moved == 0 {
                return Ok(());
            }
        }
        Err("the cluster does not come to rest".to_string())
    }

    /// Time passes second by second, and everything goes on meanwhile.
    pub fn wait(&mut self, seconds: u64) -> Result<(), String> {
        for _ in 0..seconds {
            self.now += 1_000;
            self.settle()?;
        }
        Ok(())
    }

    fn connected(&self, one: &Id, other: &Id) -> bool {
        one == other || (!self.cut.contains(one) && !self.cut.contains(other))
    }

    /// What a node whose agent lives observes; n1's, where it does.
    pub fn observed(&self) -> Observed {
        self.nodes.iter().find(|node| node.is_alive).map(Node::observed).unwrap_or_default()
    }

    pub fn node(&self, name: &str) -> Result<&Node, String> {
        self.nodes.iter().find(|node| node.name == name).ok_or_else(|| format!("there is no node {name}"))
    }

    pub fn node_mut(&mut self, name: &str) -> Result<&mut Node, String> {
        self.nodes.iter_mut().find(|node| node.name == name).ok_or_else(|| format!("there is no node {name}"))
    }

    pub fn cut(&mut self, name: &str) -> Result<(), String> {
        let id = self.node(name)?.id.clone();
        self.cut.insert(id);
        Ok(())
    }

    pub fn mend(&mut self, name: &str) -> Result<(), String> {
        let id = self.node(name)?.id.clone();
        self.cut.remove(&id);
        Ok(())
    }

    /// The node ends its tasks, tells the store, and takes down what it made; by force also where the store won't hear of it.
    pub fn leave(&mut self, name: &str, force: bool) -> Result<Result<(), String>, String> {
        let id = self.node(name)?.id.clone();
        let told = self.run(|facts, _| command::leave_node(facts, &id, false)).map(drop).map_err(words);
        if told.is_err() && !force {
            return Ok(told);
        }
        self.node_mut(name)?.leave().map(Ok)
    }

    /// A task that shall run, by `service.slot`, `service.nN` of a global service, or `service.slot@nN` where two share a slot.
    pub fn task(&self, reference: &str) -> Result<&Task, String> {
        let mut live = self.facts.tasks.values().filter(|task| task.desired == TaskState::Running);
        let is_it = |task: &&Task| {
            let (name, node) = (self.name_of(task), task.node_id.as_ref().map_or("-", |id| self.node_name(id)));
            reference == name || reference.split_once('@') == Some((&name, node))
        };
        live.find(is_it).ok_or_else(|| format!("no task {reference} shall run"))
    }

    /// `web.1`, and `web.n2` for a global service's.
    pub fn name_of(&self, task: &Task) -> String {
        let node = task.node_id.as_ref().map_or("-", |id| self.node_name(id));
        match task.slot {
            0 => format!("{}.{node}", task.service_name),
            slot => format!("{}.{slot}", task.service_name),
        }
    }

    pub fn node_name(&self, id: &Id) -> &str {
        self.nodes.iter().find(|node| node.id == *id).map_or("?", |node| &node.name)
    }

    /// The node of a task reports this state.
    pub fn report(
        &mut self,
        reference: &str,
        state: TaskState,
        ready: bool,
        health: Option<TaskHealth>,
    ) -> Result<(), String> {
        let task = self.task(reference)?.clone();
        let (node, now) = (task.node_id.ok_or("the task has no node yet")?, self.now);
        let node = self.nodes.iter_mut().find(|other| other.id == node).ok_or("its node is gone")?;
        if state.is_terminal() {
            node.namespaces.remove(&task.id)
        } else {
            node.namespaces.insert(task.id.clone())
        };
        node.reports.insert(task.id, TaskStatus { health, ..status(state, ready, now) });
        Ok(())
    }
}

pub fn words(error: CommandError) -> String {
    error.to_string()
}

/// Keeps the time of the first sign.
fn note(since: &mut BTreeMap<Id, UnixMs>, id: &Id, is_so: bool, now: UnixMs) {
    if is_so {
        since.entry(id.clone()).or_insert(now);
    } else {
        since.remove(id);
    }
}

/// The next identity: its number in the first four bytes, or SplitMix64 of its number.
fn identity(ids: Ids, next: &mut u64) -> [u8; 16] {
    *next += 1;
    let mut bytes = [0; 16];
    match ids {
        Ids::Counted => bytes[..4].copy_from_slice(&(*next as u32).to_be_bytes()),
        Ids::Scattered => {
            let mut z = next.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bytes[..8].copy_from_slice(&(z ^ (z >> 31)).to_be_bytes());
        }
    }
    bytes
}
