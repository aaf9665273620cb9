//! What is programmed, and by which facts: the way from facts to operations that costs what changed.
//!
//! Between two rounds a service's entries change only where its own objects, its tasks' or their states did, or where this node's links to its tasks
//! did. Those services are planned by the old facts and by the new ones, with the very functions that plan everything, and the two are compared.
//! All other facts (nodes, networks, who is unreachable, ports not taken) concern every service: then everything is planned anew.
//! Invariant: a round gives what [`compile`], [`place`] and [`diff`] over everything would give. Must not: take an operation for done before it
//! was said to be.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use imbl::ordmap::DiffItem;
use mesh_common::schema::{Frontend, FrontendKey, frontend_flag};

use super::compile::{compile, compile_base, compile_service};
use super::diff::{Entry, Key, MapOp, diff};
use super::place::{NoRoom, Place, Placed, place, tables};
use super::{Facts, Image, Tables};
use crate::model::{Cluster, Id, Observed, Task};

/// What the maps hold, and what it was planned from.
#[derive(Debug)]
pub struct Programmed {
    tables: Tables,
    placed: Placed,
    /// None: the next round plans everything.
    basis: Option<Basis>,
    /// Service → its tasks, by the basis.
    members: BTreeMap<Id, BTreeSet<Id>>,
}

/// Facts that the tables follow from.
#[derive(Clone, Debug)]
struct Basis {
    cluster: Arc<Cluster>,
    observed: Arc<Observed>,
    facts: Facts,
}

/// What a round has to do.
#[derive(Debug, Default)]
pub struct Round {
    pub ops: Vec<MapOp>,
    /// Pools without room, which keep their former backends.
    pub refused: Vec<NoRoom>,
    /// Services that were looked at; None: all.
    pub services: Option<usize>,
}

impl Programmed {
    /// What the maps were read to hold; `ring_slots` are those of the array `RINGS`.
    pub fn from_tables(tables: Tables, ring_slots: u32) -> Self {
        let placed = Placed::from_tables(&tables, ring_slots);
        Programmed { tables, placed, basis: None, members: BTreeMap::new() }
    }

    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// The steps to what these facts ask for. Each is to be done, or the maps are to be read anew.
    pub fn round(&mut self, cluster: &Arc<Cluster>, observed: &Arc<Observed>, facts: &Facts) -> Round {
        let now = Basis { cluster: cluster.clone(), observed: observed.clone(), facts: facts.clone() };
        let part = self.basis.take().and_then(|before| self.part(&before, &now));
        let (round, overlaps) = match part {
            Some(round) => (round, false),
            None => self.whole(&now),
        };
        // A pool without room may find some in the next round, an overlap may end: only a look at everything shows it.
        self.basis = (round.refused.is_empty() && !overlaps).then_some(now);
        round
    }

    fn whole(&mut self, now: &Basis) -> (Round, bool) {
        self.members = BTreeMap::new();
        for task in now.cluster.tasks.values() {
            self.joins(task);
        }
        let image = compile(&now.cluster, &now.observed, &now.facts);
        let overlaps = image.overlaps || shares_a_pool(&now.cluster);
        let (wanted, refused) = place(image, &mut self.placed);
        (Round { ops: diff(&self.tables, &wanted), refused, services: None }, overlaps)
    }

    /// The same by looking only at services that something changed for; None where everything has to be looked at.
    fn part(&mut self, before: &Basis, now: &Basis) -> Option<Round> {
        if before.concerns_all(now) {
            return None;
        }
        let base = compile_base(&now.cluster, &now.observed, &now.facts)?;
        let services = self.changed(before, now);
        let old = self.image_of(before, &services);
        for task in changed_tasks(before, now).filter_map(|(old, new)| old.filter(|_| new.is_none())) {
            self.leaves(task);
        }
        let new = self.image_of(now, &services);
        if new.overlaps || self.is_taken(&old, &new) || may_be_shared(&old, &new) {
            return None;
        }
        let gone: Vec<u32> = old.pools.keys().filter(|pool| !new.pools.contains_key(pool)).copied().collect();
        let refused = self.placed.change(&gone, &new.pools);
        let new =
            Image { config: base.config, addresses: base.addresses, peers: base.peers, uplinks: base.uplinks, ..new };
        let ops = diff(&self.programmed(&old), &tables(new, &self.placed));
        Some(Round { ops, refused, services: Some(services.len()) })
    }

    /// Services that a fact changed of, and the members of the new facts beside those of the old ones.
    fn changed(&mut self, before: &Basis, now: &Basis) -> BTreeSet<Id> {
        let mut services = BTreeSet::new();
        for item in before.cluster.services.diff(&now.cluster.services) {
            let (DiffItem::Add(id, _) | DiffItem::Remove(id, _) | DiffItem::Update { new: (id, _), .. }) = item;
            services.insert(id.clone());
        }
        for (old, new) in changed_tasks(before, now) {
            services.extend([old, new].into_iter().flatten().map(|task| task.service_id.clone()));
            if let Some(task) = new {
                self.joins(task);
            }
        }
        let mut note = |task: &Id| {
            let both = [&before.cluster, &now.cluster].map(|cluster| cluster.tasks.get(task));
            services.extend(both.into_iter().flatten().map(|task| task.service_id.clone()));
        };
        for item in before.observed.tasks.diff(&now.observed.tasks) {
            let (DiffItem::Add(id, _) | DiffItem::Remove(id, _) | DiffItem::Update { new: (id, _), .. }) = item;
            note(id);
        }
        let (had, has) = (&before.facts.task_links, &now.facts.task_links);
        had.iter().filter(|(task, link)| has.get(task) != Some(link)).for_each(|(task, _)| note(task));
        has.keys().filter(|task| !had.contains_key(task)).for_each(note);
        services
    }

    fn image_of(&self, basis: &Basis, services: &BTreeSet<Id>) -> Image {
        let mut image = Image::default();
        for service in services {
            let tasks = self.members.get(service).into_iter().flatten();
            compile_service(&basis.cluster, &basis.observed, &basis.facts, service, tasks, &mut image);
        }
        image
    }

    /// Something new has the key of what another service has.
    fn is_taken(&self, old: &Image, new: &Image) -> bool {
        let tables = &self.tables;
        let is_taken = |key: &IpAddr| !old.endpoints.contains_key(key) && tables.endpoints.contains_key(key);
        new.endpoints.keys().any(is_taken)
            || new.backends.keys().any(|key| !old.backends.contains_key(key) && tables.backends.contains_key(key))
            || new.frontends.keys().any(|key| !old.frontends.contains_key(key) && tables.frontends.contains_key(key))
            || new.pools.keys().any(|key| !old.pools.contains_key(key) && self.placed.place_of(*key).is_some())
    }

    /// What is programmed of an image, and what does not depend on services.
    fn programmed(&self, old: &Image) -> Tables {
        let tables = &self.tables;
        let frontends = among(&tables.frontends, &old.frontends);
        let lists = frontends.values().flat_map(|frontend| [frontend.turns_at, frontend.ring_at]);
        Tables {
            config: tables.config,
            addresses: tables.addresses.clone(),
            endpoints: among(&tables.endpoints, &old.endpoints),
            allowed: tables.allowed.intersection(&old.allowed).copied().collect(),
            backends: among(&tables.backends, &old.backends),
            peers: tables.peers.clone(),
            uplinks: tables.uplinks.clone(),
            rings: lists.filter_map(|at| Some((at, tables.rings.get(&at)?.clone()))).collect(),
            frontends,
        }
    }

    fn joins(&mut self, task: &Task) {
        self.members.entry(task.service_id.clone()).or_default().insert(task.id.clone());
    }

    fn leaves(&mut self, task: &Task) {
        if let Some(tasks) = self.members.get_mut(&task.service_id) {
            tasks.remove(&task.id);
            if tasks.is_empty() {
                self.members.remove(&task.service_id);
            }
        }
    }

    /// Some step failed: the next round compares everything.
    pub fn forget(&mut self) {
        self.basis = None;
    }

    /// The steps were done.
    pub fn done(&mut self, ops: &[MapOp]) {
        let mut former = Vec::new();
        for op in ops {
            if let MapOp::Put(Entry::Frontend(key, _)) | MapOp::Delete(Key::Frontend(key)) = op {
                former.extend(self.tables.frontends.get(key).copied());
            }
            self.tables.apply(op);
        }
        for frontend in former.into_iter().filter(|frontend| frontend.turns_len != 0) {
            let kept = self.placed.place_of(frontend.pool).and_then(Place::lists);
            for at in [frontend.turns_at, frontend.ring_at] {
                if kept.is_none_or(|kept| !kept.contains(&at)) {
                    self.tables.rings.remove(&at);
                }
            }
        }
    }
}

impl Basis {
    /// Something differs that any service's entries may follow from.
    fn concerns_all(&self, now: &Basis) -> bool {
        let (had, has) = (&self.cluster, &now.cluster);
        has.settings.is_none()
            || had.settings != has.settings
            || had.nodes != has.nodes
            || had.networks != has.networks
            || self.observed.unreachable_since.keys().ne(now.observed.unreachable_since.keys())
            || self.facts.this_node != now.facts.this_node
            || self.facts.ports_not_taken != now.facts.ports_not_taken
            || interfaces(&self.observed).ne(interfaces(&now.observed))
    }
}

/// What nodes say of the interfaces that ports are published at.
fn interfaces(observed: &Observed) -> impl Iterator<Item = (&Id, &BTreeMap<String, BTreeSet<IpAddr>>)> {
    let all = observed.nodes.iter().map(|(node, status)| (node, &status.interfaces));
    all.filter(|(_, interfaces)| !interfaces.is_empty())
}

fn changed_tasks<'a>(before: &'a Basis, now: &'a Basis) -> impl Iterator<Item = (Option<&'a Task>, Option<&'a Task>)> {
    before.cluster.tasks.diff(&now.cluster.tasks).map(|item| match item {
        DiffItem::Add(_, task) => (None, Some(task)),
        DiffItem::Remove(_, task) => (Some(task), None),
        DiffItem::Update { old: (_, old), new: (_, new) } => (Some(old), Some(new)),
    })
}

/// Two services claim one pool.
fn shares_a_pool(cluster: &Cluster) -> bool {
    let mut seen = BTreeSet::new();
    cluster.services.values().flat_map(|service| &service.vips).any(|vip| !seen.insert(vip.pool))
}

/// An entry goes that other services may want as well: what leads to ports of single addresses, and such an address, which may be one of an interface
/// that another service names.
fn may_be_shared(old: &Image, new: &Image) -> bool {
    let goes = |(key, entry): (&FrontendKey<IpAddr>, &Frontend<IpAddr>)| {
        let is_of_address = key.port != 0 && !key.addr.is_unspecified();
        (is_of_address || entry.flags & frontend_flag::BY_ADDRESS != 0) && !new.frontends.contains_key(key)
    };
    old.frontends.iter().any(goes)
}

fn among<K: Ord + Clone, V: Clone, W>(map: &BTreeMap<K, V>, keys: &BTreeMap<K, W>) -> BTreeMap<K, V> {
    keys.keys().filter_map(|key| Some((key.clone(), map.get(key)?.clone()))).collect()
}
