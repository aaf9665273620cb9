//! The maps of one family as they are, asked key by key: what a packet would find if it came now.
//!
//! Invariant: reads only. A failed read answers as if there were no entry, and is told by [`Lookups::check`] afterwards.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Debug;
use std::marker::PhantomData;

use aya::Pod;
use aya::maps::{Map, MapData, MapError, PerCpuArray};
use mesh_common::family::Family;
use mesh_common::flood;
use mesh_common::schema::{
    Address, Affinity, AffinityKey, AllowPrefix, Backend, Config, Endpoint, Flood, Flow, FlowKey, Frontend,
    FrontendKey, Peer, RingSlot, Uplink,
};

use super::pin::chain;
use super::{BpfError, Dataplane, batch, clock};
use crate::explain::Tables;

/// Maps that exist once.
const SHARED: [&str; 7] = ["CONFIG", "BACKENDS", "RINGS", "TURNS", "PEERS", "UPLINKS", "OVERFLOWED"];
/// Maps that exist once a family.
const OF_IPV4: [&str; 7] = ["ADDRESSES4", "ENDPOINTS4", "FRONTENDS4", "FLOWS4", "OVERFLOW4", "ALLOW4", "AFFINITY4"];
const OF_IPV6: [&str; 7] = ["ADDRESSES6", "ENDPOINTS6", "FRONTENDS6", "FLOWS6", "OVERFLOW6", "ALLOW6", "AFFINITY6"];

/// See the module.
pub struct Lookups<F> {
    maps: HashMap<&'static str, MapData>,
    floods: PerCpuArray<MapData, Flood>,
    failed: RefCell<Option<BpfError>>,
    family: PhantomData<F>,
}

impl Dataplane {
    /// The maps of a family, to be asked.
    pub fn lookups<F: Family>(&self) -> Result<Lookups<F>, BpfError> {
        Lookups::open(|name| MapData::from_pin(self.dir.join("maps").join(name)))
    }
}

impl<F: Family> Lookups<F> {
    /// Maps by their names, wherever they are.
    pub fn open(map: impl Fn(&'static str) -> Result<MapData, MapError>) -> Result<Self, BpfError> {
        let opened =
            |name| map(name).map_err(|error| BpfError::Map { attempt: "open", map: name, reason: chain(&error) });
        let mut maps = HashMap::new();
        for name in SHARED.into_iter().chain(Self::names()) {
            maps.insert(name, opened(name)?);
        }
        let floods = PerCpuArray::try_from(Map::PerCpuArray(opened("FLOODS")?));
        let floods = floods.map_err(|error| BpfError::Map { attempt: "open", map: "FLOODS", reason: chain(&error) })?;
        Ok(Lookups { maps, floods, failed: RefCell::new(None), family: PhantomData })
    }

    fn names() -> [&'static str; 7] {
        if F::ADDR_LEN == 4 { OF_IPV4 } else { OF_IPV6 }
    }

    /// Whether every answer so far was read.
    pub fn check(&self) -> Result<(), BpfError> {
        self.failed.borrow_mut().take().map_or(Ok(()), Err)
    }

    fn get<K: Pod, V: Pod>(&self, name: &'static str, key: K) -> Option<V> {
        let found = match self.maps.get(name) {
            Some(map) => batch::lookup(map, &key).map_err(|error| error.to_string()),
            None => Err("it was not opened".to_string()),
        };
        found.unwrap_or_else(|reason| {
            self.failed.borrow_mut().get_or_insert(BpfError::Map { attempt: "read", map: name, reason });
            None
        })
    }
}

impl<F: Family> Tables<F> for Lookups<F>
where
    F::Addr: Pod + Debug,
    FlowKey<F::Addr>: Pod,
    AffinityKey<F::Addr>: Pod,
    AllowPrefix<F::Addr>: Pod,
    Flow<F::Addr>: Pod,
    FrontendKey<F::Addr>: Pod,
    Frontend<F::Addr>: Pod,
    Endpoint<F::Addr>: Pod,
{
    fn config(&self) -> Option<Config> {
        self.get("CONFIG", 0u32)
    }

    fn address(&self, addr: F::Addr) -> Option<Address> {
        let [addresses, ..] = Self::names();
        self.get(addresses, addr)
    }

    fn endpoint(&self, addr: F::Addr) -> Option<Endpoint<F::Addr>> {
        let [_, endpoints, ..] = Self::names();
        self.get(endpoints, addr)
    }

    fn frontend(&self, key: FrontendKey<F::Addr>) -> Option<Frontend<F::Addr>> {
        let [_, _, frontends, ..] = Self::names();
        self.get(frontends, key)
    }

    fn backend(&self, number: u32) -> Option<Backend> {
        self.get("BACKENDS", number)
    }

    fn slot(&self, at: u32) -> Option<RingSlot> {
        self.get("RINGS", at)
    }

    fn turn(&self, pool: u32) -> Option<u64> {
        self.get("TURNS", pool)
    }

    fn is_allowed(&self, pool: u32, list: u32, caller: F::Addr) -> bool {
        let [.., lists, _] = Self::names();
        let all = AllowPrefix::new(pool, list, caller, 8 * F::ADDR_LEN as u32);
        self.get::<_, u32>(lists, all).is_some()
    }

    fn kept(&self, key: AffinityKey<F::Addr>) -> Option<Affinity> {
        let [.., affinity] = Self::names();
        self.get(affinity, key)
    }

    fn peer(&self, node: u32) -> Option<Peer> {
        self.get("PEERS", node)
    }

    fn uplink(&self, ifindex: u32) -> Option<Uplink> {
        self.get("UPLINKS", ifindex)
    }

    fn flow(&self, key: FlowKey<F::Addr>) -> Option<Flow<F::Addr>> {
        let [_, _, _, flows, overflow, ..] = Self::names();
        self.get(flows, key).or_else(|| {
            let is_in_use =
                self.get("OVERFLOWED", u32::from(F::ADDR_LEN != 4)).is_some_and(|since_s: u32| since_s != 0);
            if is_in_use { self.get(overflow, key) } else { None }
        })
    }

    fn now_s(&self) -> u32 {
        clock::now_s()
    }

    fn in_flood(&self) -> bool {
        let now_s = clock::now_s();
        let cpus = self.floods.get(&0, 0);
        cpus.is_ok_and(|cpus| cpus.iter().any(|flood| flood::is_on(flood, now_s)))
    }
}
