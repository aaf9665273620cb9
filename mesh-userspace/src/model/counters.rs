//! The allocator's memory: the last of each kind of number given out.
//!
//! Numbers that appear in BPF maps and frames go up and start again only at the end of their range, so that a packet or a map
//! entry of something that is gone never meets its successor: that is the quarantine. Stored, so that it outlives the leader.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Addresses, Id};

/// Where each search for a free number starts: after the last one given out. 0: none yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// `Node::number`.
    pub node: u32,
    /// `Network::vni`.
    pub vni: u32,
    /// `Vip::pool`.
    pub pool: u32,
    /// `Attachment::endpoint`.
    pub endpoint: u32,
    /// Automatic published port.
    pub port: u16,
    /// First address of the last subnet cut from each pool.
    pub subnet: Addresses,
    /// Per network: the last addresses given to a VIP or a task.
    pub addresses: BTreeMap<Id, Addresses>,
}
