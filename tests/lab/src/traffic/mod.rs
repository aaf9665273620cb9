//! Traffic as users make it: HTTP, datagrams, connections, echoes, and a steady stream of new connections.
//!
//! Plain blocking sockets of the namespace that the calling thread is in; [`crate::Host`] puts its threads there. Every verb has
//! a time limit. Nothing here knows mesh; [`Whoami`] is the answer of the lab's own test server.

mod burst;
mod connect;
mod echo;
mod http;
mod probe;
mod syn_flood;
mod whoami;

pub use burst::burst;
pub use connect::{Connection, Talk, datagram, tcp_connect};
pub use echo::{Echoes, echo};
pub use http::{Answer, Session, download, http_get, upload};
pub use probe::{Probe, Sample, Timeline};
pub use syn_flood::syn_flood;
pub use whoami::Whoami;
