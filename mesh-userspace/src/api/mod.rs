//! The API of one agent: JSON over HTTP/1.1, on its unix socket for people and over TLS (2377) for other nodes.

mod caller;
mod error;
pub mod tls;

pub use caller::Caller;
pub use error::{ApiError, ErrorKind};
