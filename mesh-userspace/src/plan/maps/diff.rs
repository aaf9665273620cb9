//! Programmed tables, wanted tables → writes in an order that is safe one at a time.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use mesh_common::schema::{
    Address, AllowPrefix, Backend, Config, Endpoint, Frontend, FrontendKey, Peer, RingSlot, Uplink, frontend_flag,
};

use super::Tables;

/// One entry to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    Address(IpAddr, Address),
    Endpoint(IpAddr, Endpoint<IpAddr>),
    Frontend(FrontendKey<IpAddr>, Frontend<IpAddr>),
    /// A prefix of a list of allowed callers.
    Allow(AllowPrefix<IpAddr>),
    Backend(u32, Backend),
    Peer(u32, Peer),
    Uplink(u32, Uplink),
    /// Slots from the first one on.
    Ring(u32, Arc<Vec<RingSlot>>),
}

/// One entry to delete. Rings are not deleted: nobody refers to them any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Key {
    Address(IpAddr),
    Endpoint(IpAddr),
    Frontend(FrontendKey<IpAddr>),
    Allow(AllowPrefix<IpAddr>),
    Backend(u32),
    Peer(u32),
    Uplink(u32),
}

/// One step; each is safe to repeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapOp {
    /// None: the node is in no cluster.
    Config(Option<Config>),
    Put(Entry),
    Delete(Key),
}

/// The steps from `programmed` to `wanted`.
pub fn diff(programmed: &Tables, wanted: &Tables) -> Vec<MapOp> {
    let mut ops = Vec::new();
    let leaves_cluster = wanted.config.is_none();
    if leaves_cluster && programmed.config.is_some() {
        ops.push(MapOp::Config(None));
    }
    // In: what is referred to before what refers to it.
    ops.extend(puts(&programmed.peers, &wanted.peers, Entry::Peer));
    ops.extend(puts(&programmed.addresses, &wanted.addresses, Entry::Address));
    ops.extend(puts(&programmed.uplinks, &wanted.uplinks, Entry::Uplink));
    ops.extend(puts(&programmed.endpoints, &wanted.endpoints, Entry::Endpoint));
    ops.extend(puts(&programmed.backends, &wanted.backends, Entry::Backend));
    ops.extend(puts(&programmed.rings, &wanted.rings, Entry::Ring));
    ops.extend(wanted.allowed.difference(&programmed.allowed).map(|prefix| MapOp::Put(Entry::Allow(*prefix))));
    // An entry that leads to those of single addresses comes after them.
    let leads_on =
        |op: &MapOp| matches!(op, MapOp::Put(Entry::Frontend(_, it)) if it.flags & frontend_flag::BY_ADDRESS != 0);
    let (last, first): (Vec<_>, Vec<_>) =
        puts(&programmed.frontends, &wanted.frontends, Entry::Frontend).into_iter().partition(leads_on);
    ops.extend(first.into_iter().chain(last));
    if !leaves_cluster && programmed.config != wanted.config {
        ops.push(MapOp::Config(wanted.config));
    }
    // Out: the other way round.
    ops.extend(deletes(&programmed.frontends, &wanted.frontends, Key::Frontend));
    ops.extend(programmed.allowed.difference(&wanted.allowed).map(|prefix| MapOp::Delete(Key::Allow(*prefix))));
    ops.extend(deletes(&programmed.backends, &wanted.backends, Key::Backend));
    ops.extend(deletes(&programmed.endpoints, &wanted.endpoints, Key::Endpoint));
    ops.extend(deletes(&programmed.uplinks, &wanted.uplinks, Key::Uplink));
    ops.extend(deletes(&programmed.addresses, &wanted.addresses, Key::Address));
    ops.extend(deletes(&programmed.peers, &wanted.peers, Key::Peer));
    ops
}

impl Tables {
    /// What an operation does to them. A list that no frontend refers to any more stays: the caller's to forget.
    pub fn apply(&mut self, op: &MapOp) {
        match op.clone() {
            MapOp::Config(config) => self.config = config,
            MapOp::Put(Entry::Address(key, value)) => drop(self.addresses.insert(key, value)),
            MapOp::Put(Entry::Endpoint(key, value)) => drop(self.endpoints.insert(key, value)),
            MapOp::Put(Entry::Frontend(key, value)) => drop(self.frontends.insert(key, value)),
            MapOp::Put(Entry::Allow(prefix)) => drop(self.allowed.insert(prefix)),
            MapOp::Put(Entry::Backend(key, value)) => drop(self.backends.insert(key, value)),
            MapOp::Put(Entry::Peer(key, value)) => drop(self.peers.insert(key, value)),
            MapOp::Put(Entry::Uplink(key, value)) => drop(self.uplinks.insert(key, value)),
            MapOp::Put(Entry::Ring(at, slots)) => drop(self.rings.insert(at, slots)),
            MapOp::Delete(Key::Address(key)) => drop(self.addresses.remove(&key)),
            MapOp::Delete(Key::Endpoint(key)) => drop(self.endpoints.remove(&key)),
            MapOp::Delete(Key::Frontend(key)) => drop(self.frontends.remove(&key)),
            MapOp::Delete(Key::Allow(prefix)) => drop(self.allowed.remove(&prefix)),
            MapOp::Delete(Key::Backend(key)) => drop(self.backends.remove(&key)),
            MapOp::Delete(Key::Peer(key)) => drop(self.peers.remove(&key)),
            MapOp::Delete(Key::Uplink(key)) => drop(self.uplinks.remove(&key)),
        }
    }
}

fn puts<K: Ord + Clone, V: Eq + Clone>(
    have: &BTreeMap<K, V>,
    want: &BTreeMap<K, V>,
    entry: fn(K, V) -> Entry,
) -> Vec<MapOp> {
    want.iter()
        .filter(|(key, value)| have.get(key) != Some(value))
        .map(|(key, value)| MapOp::Put(entry(key.clone(), value.clone())))
        .collect()
}

fn deletes<K: Ord + Clone, V>(have: &BTreeMap<K, V>, want: &BTreeMap<K, V>, key: fn(K) -> Key) -> Vec<MapOp> {
    have.keys().filter(|k| !want.contains_key(k)).map(|k| MapOp::Delete(key(k.clone()))).collect()
}
