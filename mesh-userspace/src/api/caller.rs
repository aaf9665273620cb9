//! Who asks: decided by the listener that accepted the connection, never by the request.

use crate::model::{Id, Role};

/// The other end of a connection. Listeners put it into each request's extensions; a request without one is
/// [`Caller::Anonymous`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Someone on this machine who may open the agent's unix socket (root-equivalent).
    Local,
    /// A TLS peer without a certificate of this cluster: may prove a join token, nothing else.
    Anonymous,
    /// A member, by its certificate.
    Node {
        id: Id,
        role: Role,
        /// SHA-256 of the certificate (DER), hex.
        fingerprint: String,
    },
}

impl Caller {
    /// May change the cluster, as far as the caller's side is concerned (this node's own role is another question).
    pub fn is_manager(&self) -> bool {
        matches!(self, Caller::Local | Caller::Node { role: Role::Manager, .. })
    }
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Caller::Local => f.write_str("the local socket"),
            Caller::Anonymous => f.write_str("an unknown caller"),
            Caller::Node { id, role: Role::Manager, .. } => write!(f, "manager {}", id.short()),
            Caller::Node { id, role: Role::Worker, .. } => write!(f, "worker {}", id.short()),
        }
    }
}
