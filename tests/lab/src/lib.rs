//! A lab of network namespaces: nodes joined by a switch, a client, and a host outside.
//!
//! ```text
//! scenario           a sentence, its steps, and what a failure leaves behind
//!   ├ swarm          a cluster of the lab's nodes: services, their tasks, what tasks see (inside)
//!   └ lab            builder, nodes, client, outside; up, keep, attach, down
//!       ├ node       a host with an agent: start, kill, mesh(…), cut, mend; its Docker Engine
//!       ├ host       a machine: run, http_get, udp_ask, ping, probe, capture
//!       ├ wiring     addresses, cables, shapes   footprint  what a node leaves in the kernel
//!       └ namespace  the raw material            traffic    HTTP, datagrams, echoes, probes
//! ```
//! The product is only known from outside: a binary, its command line, its socket. This crate imports nothing of mesh, so it
//! can't share a mistake with what it judges, and it builds where mesh does not.

mod binaries;
mod capture;
mod command;
mod engine;
mod eventually;
mod failure;
mod firewall;
mod footprint;
mod host;
mod inside;
mod lab;
mod nameserver;
mod namespace;
mod node;
mod offload;
mod process;
mod scenario;
mod stranger;
mod swarm;
mod teardown;
mod terminal;
pub mod traffic;
pub mod wiring;

pub use capture::{Capture, Frame};
pub use command::{Output, run as run_command};
pub use engine::{Engine, lacks_engine};
pub use eventually::{eventually, let_pass, steadily};
pub use footprint::{Footprint, Leftovers};
pub use host::{Host, PATIENCE};
pub use inside::{Inside, Seen, ask_as};
pub use lab::{Builder, Lab};
pub use nameserver::serve_name_at;
pub use namespace::Namespace;
pub use node::Node;
pub use offload::{Offloads, set as set_offloads};
pub use scenario::{cannot_run, scenario, skip, step};
pub use stranger::Stranger;
pub use swarm::{Swarm, TaskRow};
pub use terminal::Terminal;
pub use traffic::{Answer, Connection, Echoes, Probe, Sample, Session, Timeline, Whoami};
pub use wiring::Shape;
