//! Membership: who belongs to the cluster, who is alive, and what each node reports.

mod counters;
pub mod envelope;
pub mod identity;
pub mod join;
mod records;
mod replay;
mod seed;
mod swim;
mod wire;

pub use seed::{GOSSIP_PORT, Seed};
