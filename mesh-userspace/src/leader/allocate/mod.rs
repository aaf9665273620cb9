//! The allocator: numbers, subnets, addresses and published ports, each given to one owner at a time.
//!
//! Invariant: nothing is given out that anything in the cluster still holds, and what was given back is used again as late
//! as possible – every search starts after the last one given out ([`crate::model::Counters`]). It works on the copy of the
//! cluster that a command or a tick is changing; the commit under the revision read makes it exclusive.

mod address;
mod number;
mod port;
mod service;
mod span;
mod subnet;

pub use address::{AddressesUsedUp, next_addresses, usable_addresses};
pub use number::{next_endpoint, next_node_number, next_pool, next_vni};
pub use port::{PortsUsedUp, next_port};
pub use service::{networks_of, settle_service};
pub use span::first_host;
pub use subnet::{Overlap, SubnetsUsedUp, next_subnet, overlap};
