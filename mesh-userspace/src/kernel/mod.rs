//! The kernel's edges: what the plan wants is put into the kernel here, and nowhere else.
//!
//! `net` is the only place that names netlink.

pub mod net;
