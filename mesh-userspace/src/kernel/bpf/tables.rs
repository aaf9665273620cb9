//! Maps as [`Tables`]: read whole at start, then written one operation at a time.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use aya::maps::{Array, LpmTrie, Map, MapData, MapError, lpm_trie};
use mesh_common::family::Bytes;
use mesh_common::schema::{
    Address, AllowKey, AllowPrefix, Backend, Config, Endpoint, Frontend, FrontendKey, Peer, RingSlot, Uplink,
};

use super::{BpfError, Dataplane};
use crate::plan::maps::{Entry, Key, MapOp, Tables};

type Frontends = BTreeMap<FrontendKey<IpAddr>, Frontend<IpAddr>>;

/// A family's addresses in its maps.
trait Family: Bytes + aya::Pod + Into<IpAddr> {
    const ADDRESSES: &'static str;
    const ENDPOINTS: &'static str;
    const FRONTENDS: &'static str;
    const ALLOW: &'static str;
}

impl Family for [u8; 4] {
    const ADDRESSES: &'static str = "ADDRESSES4";
    const ENDPOINTS: &'static str = "ENDPOINTS4";
    const FRONTENDS: &'static str = "FRONTENDS4";
    const ALLOW: &'static str = "ALLOW4";
}

impl Family for [u8; 16] {
    const ADDRESSES: &'static str = "ADDRESSES6";
    const ENDPOINTS: &'static str = "ENDPOINTS6";
    const FRONTENDS: &'static str = "FRONTENDS6";
    const ALLOW: &'static str = "ALLOW6";
}

/// An address as its map has it; none where plan mixed families up, which it must not.
fn narrow<A: Family>(addr: IpAddr) -> A {
    let bytes = match addr {
        IpAddr::V4(addr) => addr.octets().to_16(),
        IpAddr::V6(addr) => addr.octets(),
    };
    A::of_16(bytes).unwrap_or_default()
}

/// The address in an operation's key.
fn family_of(op: &MapOp) -> Option<IpAddr> {
    match op {
        MapOp::Put(Entry::Address(addr, _) | Entry::Endpoint(addr, _))
        | MapOp::Delete(Key::Address(addr) | Key::Endpoint(addr)) => Some(*addr),
        MapOp::Put(Entry::Frontend(key, _)) | MapOp::Delete(Key::Frontend(key)) => Some(key.addr),
        MapOp::Put(Entry::Allow(prefix)) | MapOp::Delete(Key::Allow(prefix)) => Some(prefix.of.addr),
        _ => None,
    }
}

/// No flags: insert or replace.
const ANY: u64 = 0;

pub fn missing(map: &'static str) -> BpfError {
    BpfError::Map { attempt: "find", map, reason: "the object has none of this name".to_string() }
}

pub fn map_error(attempt: &'static str, map: &'static str) -> impl Fn(MapError) -> BpfError {
    move |error| {
        let full =
            matches!(&error, MapError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::E2BIG));
        let hint = if full { ": it is full" } else { "" };
        BpfError::Map { attempt, map, reason: format!("{}{hint}", super::pin::chain(&error)) }
    }
}

impl Dataplane {
    /// What the maps hold now.
    pub fn tables(&self) -> Result<Tables, BpfError> {
        let mut tables = Tables { config: self.config()?, ..Tables::default() };
        self.dump_family::<[u8; 4]>(&mut tables)?;
        self.dump_family::<[u8; 16]>(&mut tables)?;
        Ok(Tables {
            rings: self.lists(&tables.frontends)?,
            backends: self.dump("BACKENDS")?,
            peers: self.peers()?,
            uplinks: self.dump("UPLINKS")?,
            ..tables
        })
    }

    fn dump_family<A: Family>(&self, tables: &mut Tables) -> Result<(), BpfError> {
        let addresses = self.dump::<A, Address>(A::ADDRESSES)?;
        tables.addresses.extend(addresses.into_iter().map(|(addr, value)| (addr.into(), value)));
        let endpoints = self.dump::<A, Endpoint<A>>(A::ENDPOINTS)?;
        tables.endpoints.extend(endpoints.into_iter().map(|(addr, value)| (addr.into(), value.with(A::into))));
        let frontends = self.dump::<FrontendKey<A>, Frontend<A>>(A::FRONTENDS)?;
        let allowed = self.dump::<AllowPrefix<A>, u32>(A::ALLOW)?;
        tables.allowed.extend(allowed.into_keys().map(|prefix| prefix.with(A::into)));
        tables.frontends.extend(frontends.into_iter().map(|(key, value)| (key.with(A::into), value.with(A::into))));
        Ok(())
    }

    /// Slots of the array that all lists and rings are in.
    pub fn ring_slots(&self) -> Result<u32, BpfError> {
        let info = self.map("RINGS")?.info().map_err(map_error("look at", "RINGS"))?;
        Ok(info.max_entries())
    }

    /// The lists and rings that frontends refer to, each read in one call.
    fn lists(&self, frontends: &Frontends) -> Result<BTreeMap<u32, Arc<Vec<RingSlot>>>, BpfError> {
        let (map, slots) = (self.map("RINGS")?, self.ring_slots()?);
        let wanted: BTreeMap<u32, u32> = (frontends.values().filter(|frontend| frontend.turns_len != 0))
            .flat_map(|frontend| [(frontend.turns_at, frontend.turns_len), (frontend.ring_at, frontend.ring_len)])
            // What is beyond the array is no list: its pool gets a new one.
            .filter(|(at, len)| at.checked_add(*len).is_some_and(|end| end <= slots))
            .collect();
        let read = |(at, len): (u32, u32)| Ok((at, Arc::new(super::batch::read_array(map, at, len)?)));
        wanted.into_iter().map(read).collect::<std::io::Result<_>>().map_err(|error| BpfError::Map {
            attempt: "read",
            map: "RINGS",
            reason: error.to_string(),
        })
    }

    fn map(&self, name: &'static str) -> Result<&MapData, BpfError> {
        match self.ebpf.map(name) {
            Some(Map::Array(data) | Map::HashMap(data) | Map::LpmTrie(data)) => Ok(data),
            _ => Err(missing(name)),
        }
    }

    fn peers(&self) -> Result<BTreeMap<u32, Peer>, BpfError> {
        let slots = self.array::<Peer>("PEERS")?;
        let mut peers = BTreeMap::new();
        for (node, peer) in (0..).zip(slots.iter()) {
            let peer = peer.map_err(map_error("read", "PEERS"))?;
            if peer != Peer::NONE {
                peers.insert(node, peer);
            }
        }
        Ok(peers)
    }

    fn write_peer(&mut self, node: u32, peer: Peer) -> Result<(), BpfError> {
        let map = self.ebpf.map_mut("PEERS").ok_or_else(|| missing("PEERS"))?;
        let mut map = Array::<&mut MapData, Peer>::try_from(map).map_err(map_error("open", "PEERS"))?;
        map.set(node, peer, ANY).map_err(map_error("write", "PEERS"))
    }

    fn config(&self) -> Result<Option<Config>, BpfError> {
        let config = self.array::<Config>("CONFIG")?.get(&0, 0).map_err(map_error("read", "CONFIG"))?;
        Ok((config.mesh0 != 0).then_some(config))
    }

    fn array<V: aya::Pod>(&self, name: &'static str) -> Result<Array<&MapData, V>, BpfError> {
        let map = self.ebpf.map(name).ok_or_else(|| missing(name))?;
        Array::try_from(map).map_err(map_error("open", name))
    }

    fn dump<K: aya::Pod + Ord, V: aya::Pod>(&self, name: &'static str) -> Result<BTreeMap<K, V>, BpfError> {
        let mut entries = BTreeMap::new();
        super::batch::for_each::<1_024, K, V>(self.map(name)?, |key, value| {
            entries.insert(key, value);
        })
        .map_err(|error| BpfError::Map { attempt: "read", map: name, reason: error.to_string() })?;
        Ok(entries)
    }

    /// Applies one operation.
    pub fn apply(&mut self, op: &MapOp) -> Result<(), BpfError> {
        match op {
            MapOp::Config(config) => self.write_config(config.as_ref()),
            MapOp::Put(Entry::Backend(key, value)) => self.put("BACKENDS", key, value, ANY),
            MapOp::Put(Entry::Peer(key, value)) => self.write_peer(*key, *value),
            MapOp::Put(Entry::Uplink(key, value)) => self.put("UPLINKS", key, value, ANY),
            MapOp::Put(Entry::Ring(at, slots)) => self.write_ring(*at, slots),
            MapOp::Delete(Key::Backend(key)) => self.delete::<u32, Backend>("BACKENDS", key),
            MapOp::Delete(Key::Peer(key)) => self.write_peer(*key, Peer::NONE),
            MapOp::Delete(Key::Uplink(key)) => self.delete::<u32, Uplink>("UPLINKS", key),
            MapOp::Put(Entry::Address(..) | Entry::Endpoint(..) | Entry::Frontend(..) | Entry::Allow(_))
            | MapOp::Delete(Key::Address(_) | Key::Endpoint(_) | Key::Frontend(_) | Key::Allow(_)) => {
                match family_of(op) {
                    Some(IpAddr::V6(_)) => self.apply_of::<[u8; 16]>(op),
                    _ => self.apply_of::<[u8; 4]>(op),
                }
            }
        }
    }

    /// An operation on an entry of this family.
    fn apply_of<A: Family>(&mut self, op: &MapOp) -> Result<(), BpfError> {
        match op {
            MapOp::Put(Entry::Address(key, value)) => self.put(A::ADDRESSES, &narrow::<A>(*key), value, ANY),
            MapOp::Put(Entry::Endpoint(key, value)) => {
                self.put(A::ENDPOINTS, &narrow::<A>(*key), &value.with(narrow::<A>), ANY)
            }
            MapOp::Put(Entry::Frontend(key, value)) => {
                self.put(A::FRONTENDS, &key.with(narrow::<A>), &value.with(narrow::<A>), ANY)
            }
            MapOp::Put(Entry::Allow(prefix)) => {
                self.lists_of_callers::<A>()?.insert(&trie_key(*prefix), 1, ANY).map_err(map_error("write", A::ALLOW))
            }
            MapOp::Delete(Key::Allow(prefix)) => gone(self.lists_of_callers::<A>()?.remove(&trie_key(*prefix)))
                .map_err(map_error("delete from", A::ALLOW)),
            MapOp::Delete(Key::Address(key)) => self.delete::<A, Address>(A::ADDRESSES, &narrow(*key)),
            MapOp::Delete(Key::Endpoint(key)) => self.delete::<A, Endpoint<A>>(A::ENDPOINTS, &narrow(*key)),
            MapOp::Delete(Key::Frontend(key)) => {
                self.delete::<FrontendKey<A>, Frontend<A>>(A::FRONTENDS, &key.with(narrow))
            }
            _ => Ok(()),
        }
    }

    fn write_config(&mut self, config: Option<&Config>) -> Result<(), BpfError> {
        let map = self.ebpf.map_mut("CONFIG").ok_or_else(|| missing("CONFIG"))?;
        let mut map = Array::<&mut MapData, Config>::try_from(map).map_err(map_error("open", "CONFIG"))?;
        map.set(0, config.unwrap_or(&Config::NONE), ANY).map_err(map_error("write", "CONFIG"))
    }

    fn write_ring(&mut self, at: u32, slots: &[RingSlot]) -> Result<(), BpfError> {
        let data = self.map("RINGS")?;
        let keys: Vec<u32> = (at..at + slots.len() as u32).collect();
        super::batch::update(data, &keys, slots).map_err(|error| BpfError::Map {
            attempt: "write",
            map: "RINGS",
            reason: error.to_string(),
        })
    }

    fn put<K: aya::Pod, V: aya::Pod>(
        &mut self,
        map: &'static str,
        key: &K,
        value: &V,
        flags: u64,
    ) -> Result<(), BpfError> {
        self.hash_mut::<K, V>(map)?.insert(key, value, flags).map_err(map_error("write", map))
    }

    fn delete<K: aya::Pod, V: aya::Pod>(&mut self, map: &'static str, key: &K) -> Result<(), BpfError> {
        gone(self.hash_mut::<K, V>(map)?.remove(key)).map_err(map_error("delete from", map))
    }

    fn lists_of_callers<A: Family>(&mut self) -> Result<LpmTrie<&mut MapData, AllowKey<A>, u32>, BpfError> {
        let map = self.ebpf.map_mut(A::ALLOW).ok_or_else(|| missing(A::ALLOW))?;
        LpmTrie::try_from(map).map_err(map_error("open", A::ALLOW))
    }
}

fn trie_key<A: Family>(prefix: AllowPrefix<IpAddr>) -> lpm_trie::Key<AllowKey<A>> {
    let AllowPrefix { prefix_len, of } = prefix.with(narrow::<A>);
    lpm_trie::Key::new(prefix_len, of)
}

/// Gone already is as good.
fn gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result,
    }
}
