//! Membership: who belongs to the cluster, who is alive, and what each node reports.

pub mod envelope;
pub mod identity;
pub mod join;
mod seed;

pub use seed::{GOSSIP_PORT, Seed};
