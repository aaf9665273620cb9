//! The kernel's edges: what the plan wants is put into the kernel here, and nowhere else.
//!
//! `bpf` is the only place that names aya, `net` the only one that names netlink.

pub mod bpf;
pub mod filter;
pub mod net;
