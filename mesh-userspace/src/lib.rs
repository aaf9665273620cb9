//! mesh, user space: one binary that is agent, resolver, task supervisor and command line.
//!
//! ```text
//! {cli, agent} → api → {leader, plan, edges} → model → mesh-common
//!                       edges: store membership runtime kernel dns
//! ```
//! Imports go down only; `cargo xtask tidy` reads the `use` lines and fails on an upward one.
//! Pure (no clock, no socket, no await): manifest, model, leader, doctor, explain, plan, dns::zone.

pub mod agent;
pub mod api;
pub mod cli;
pub mod dns;
pub mod doctor;
pub mod explain;
pub mod kernel;
pub mod leader;
pub mod manifest;
pub mod membership;
pub mod model;
pub mod plan;
pub mod runtime;
pub mod store;
