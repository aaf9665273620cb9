//! Calls from outside over IPv6, with the driver's hook before TC (`rig::Family`).

#[path = "packet_ingress.rs"]
mod with_tc_behind;
