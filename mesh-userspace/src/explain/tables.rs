//! What a walk may ask: the maps as the programs have them, and what the programs ask the kernel for.

use mesh_common::family::Family;
use mesh_common::schema::{
    Address, Affinity, AffinityKey, Backend, Config, Endpoint, Flow, FlowKey, Frontend, FrontendKey, Peer, RingSlot,
    Uplink,
};

/// The maps of one family, looked up as they are. `None`: no entry.
pub trait Tables<F: Family> {
    fn config(&self) -> Option<Config>;
    fn address(&self, addr: F::Addr) -> Option<Address>;
    fn endpoint(&self, addr: F::Addr) -> Option<Endpoint<F::Addr>>;
    fn frontend(&self, key: FrontendKey<F::Addr>) -> Option<Frontend<F::Addr>>;
    fn backend(&self, number: u32) -> Option<Backend>;
    fn slot(&self, at: u32) -> Option<RingSlot>;
    /// The next turn of a pool.
    fn turn(&self, pool: u32) -> Option<u64>;
    /// A list of callers has a prefix of this one.
    fn is_allowed(&self, pool: u32, list: u32, caller: F::Addr) -> bool;
    /// The backend that a client keeps.
    fn kept(&self, key: AffinityKey<F::Addr>) -> Option<Affinity>;
    fn peer(&self, node: u32) -> Option<Peer>;
    fn uplink(&self, ifindex: u32) -> Option<Uplink>;
    /// From the flow table, or beside it while something lives there.
    fn flow(&self, key: FlowKey<F::Addr>) -> Option<Flow<F::Addr>>;
    /// Seconds of the programs' clock.
    fn now_s(&self) -> u32;
    /// A flood of new flows is on: the ring chooses.
    fn in_flood(&self) -> bool;
}
