//! Names for tasks: the pure zone, the server that answers from it, and the process that keeps answering while the
//! agent is away.

pub mod server;
#[cfg(test)]
mod testing;
pub mod zone;
