//! The BPF maps as we want them: desired + observed + facts about this host → [`Image`] → [`Tables`] → operations.
//!
//! [`Programmed`] is the way the agent goes: it holds what is programmed and by which facts, and plans anew only what other facts concern.
//! [`compile`] says what each service's rings must contain, [`place`] finds them room in the one array `RINGS` (keeping what did not
//! change where it is), [`diff`] orders the writes so that no reader ever follows a number into nothing: leaves before roots on the way
//! in, roots before leaves on the way out.
//! Invariant: applying `diff(a, b)` to `a` gives `b`; `diff(a, a)` is empty. Must not: know aya or a file descriptor.

mod compile;
mod diff;
mod place;
mod programmed;
#[cfg(test)]
mod properties;
mod room;
#[cfg(test)]
mod tests;
mod text;
mod weights;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use mesh_common::schema::{
    Address, AllowPrefix, Backend, Config, Endpoint, Frontend, FrontendKey, Peer, RingSlot, Uplink,
};

use crate::model::Id;

pub use compile::compile;
pub use diff::{Entry, Key, MapOp, diff};
pub use place::{NoRoom, Placed, place};
pub use programmed::{Programmed, Round};
pub use text::Kind;

/// Facts about this host that the maps depend on, as the edges read them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    pub this_node: Id,
    /// Interface index of mesh0.
    pub mesh0: u32,
    /// Cookie of the host's network namespace.
    pub netns_cookie: u64,
    /// The host's own addresses → the link that has each, 0 where it leads nowhere outside.
    pub addresses: BTreeMap<IpAddr, u32>,
    pub uplinks: BTreeMap<u32, Uplink>,
    /// Peers' data path addresses that have a neighbour on an Ethernet link of this host in their way.
    pub next_hops: BTreeMap<IpAddr, NextHop>,
    /// Peers' data path addresses whose packets fall under an IPsec policy of this host: mesh0's, both ways.
    pub protected: BTreeSet<IpAddr>,
    /// Task id → host side of its veth.
    pub task_links: BTreeMap<Id, u32>,
    /// Published ports (IP protocol number, port, the address if at one alone) that the host itself uses.
    pub ports_not_taken: BTreeSet<(u8, u16, Option<IpAddr>)>,
    /// New flows a second and CPU that are a flood; 0: none is.
    pub flood_threshold: u32,
    /// Largest inner IP packet.
    pub task_mtu: u32,
    /// Largest outer IP packet.
    pub underlay_mtu: u32,
}

/// Where packets to an address go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Ethernet link.
    pub ifindex: u32,
    /// Its own MAC address.
    pub link_mac: [u8; 6],
    /// The neighbour's.
    pub mac: [u8; 6],
    /// Largest outer IP packet on this way.
    pub mtu: u32,
}

/// What the maps shall say, before the rings have a place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// None on a node that is in no cluster.
    pub config: Option<Config>,
    pub addresses: BTreeMap<IpAddr, Address>,
    pub endpoints: BTreeMap<IpAddr, Endpoint<IpAddr>>,
    /// With zero offsets and lengths: [`place`] fills them in.
    pub frontends: BTreeMap<FrontendKey<IpAddr>, Frontend<IpAddr>>,
    /// Who may call frontends that have a list.
    pub allowed: BTreeSet<AllowPrefix<IpAddr>>,
    pub backends: BTreeMap<u32, Backend>,
    pub peers: BTreeMap<u32, Peer>,
    pub uplinks: BTreeMap<u32, Uplink>,
    /// What frontends refer to.
    pub pools: BTreeMap<u32, Pool>,
    /// Two objects claim one address, endpoint number, frontend or pool: the later one has it.
    pub overlaps: bool,
}

/// Who answers for a service on a network.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    /// Ready backends, ascending; with weights their turns, in rounds: everybody who has one left takes one.
    pub backends: Vec<RingSlot>,
    /// Endpoint number → its turns, where a backend has more than one.
    pub weights: BTreeMap<u32, u32>,
    /// The ring chooses for every flow, so it must be even.
    pub maglev: bool,
}

/// What the maps hold: entry by entry what `bpftool map dump` shows. An entry whose key has an address is in the map of that address's family, and
/// all its other addresses are of the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    pub config: Option<Config>,
    pub addresses: BTreeMap<IpAddr, Address>,
    pub endpoints: BTreeMap<IpAddr, Endpoint<IpAddr>>,
    pub frontends: BTreeMap<FrontendKey<IpAddr>, Frontend<IpAddr>>,
    /// Who may call frontends that have a list.
    pub allowed: BTreeSet<AllowPrefix<IpAddr>>,
    pub backends: BTreeMap<u32, Backend>,
    pub peers: BTreeMap<u32, Peer>,
    pub uplinks: BTreeMap<u32, Uplink>,
    /// First slot → contents, of every list and ring that a frontend refers to.
    pub rings: BTreeMap<u32, Arc<Vec<RingSlot>>>,
}

/// The key of the service behind a virtual address.
pub fn vip_key(addr: IpAddr) -> FrontendKey<IpAddr> {
    FrontendKey { addr, port: 0, protocol: 0, pad: 0 }
}

/// The key of the service behind a published port: of any node, called by addresses of the family of an unspecified one, or of one address.
pub fn published_key(addr: IpAddr, port: u16, protocol: u8) -> FrontendKey<IpAddr> {
    FrontendKey { addr, port, protocol, pad: 0 }
}
