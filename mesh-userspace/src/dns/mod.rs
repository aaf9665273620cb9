//! Names for tasks: the pure zone, the server that answers from it, and the process that keeps answering while the
//! agent is away.
//!
//! ```text
//! agent: Cluster + Observed → zone::compile → push ─(resolver.sock)→ resolver: server ← tasks, port 53 of their gateway
//!                                                                              └→ the host's resolvers
//! ```
//! Only `zone` decides about names, and it is pure. Nothing here knows networks of the kernel or BPF.

#[cfg(test)]
mod process_tests;
mod protocol;
mod push;
mod resolver;
mod run_dir;
mod server;
#[cfg(test)]
mod testing;
pub mod zone;

pub use protocol::Status;
pub use push::{Found, PushError, ResolverHandle};
pub use resolver::{ResolverError, ResolverOptions, resolver_main};
pub use server::QueryCounts;
