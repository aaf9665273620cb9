//! Node to node, at the port of the cluster API: TLS 1.3 with both sides proven, HTTP/1.1 inside.
//!
//! Walk: a [`Dialer`] connects with this node's certificate and checks that the other end is the node it wanted;
//! [`serve`] reads the caller out of the certificate, refuses the removed, and hands the request with its
//! [`super::Caller`] to the router. The one exception is [`join`]: a node without a certificate, which checks
//! the cluster by its token's digest and may ask for [`crate::membership::join::JOIN_PATH`] only.
//!
//! Invariants: TLS 1.3 only, `ring` only, no session resumption (every connection proves itself anew); names come from
//! the URI name that the cluster's CA signed, not from DNS or addresses.
//! Must not: decide what a role may do – that is the router's.

mod dial;
mod join;
mod serve;
#[cfg(test)]
mod tests;
mod verify;

pub use dial::{Dialer, PeerConnection, PeerStream};
pub use join::join;
pub use serve::{CallerAddr, ServeLimits, serve};
pub use verify::Expect;

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

use crate::membership::identity::NodeIdentity;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("can't reach the agent at {addr}: {source}; is `mesh agent` running there, and {port}/tcp open?", port = addr.port())]
    Unreachable { addr: SocketAddr, source: std::io::Error },
    #[error("the agent at {addr} did not answer within {seconds} s; is the node overloaded or the path to it cut?")]
    Timeout { addr: SocketAddr, seconds: u64 },
    #[error("{addr} is not a node of this cluster ({detail}); does the address still belong to a member?")]
    WrongCluster { addr: SocketAddr, detail: String },
    #[error("{addr} answered as {found}, but {wanted} was expected; its address may have changed hands")]
    WrongNode { addr: SocketAddr, wanted: String, found: String },
    #[error(
        "token refused: it was made by another cluster than the one at {addr} (CA digest differs); \
         `mesh swarm join-token worker` on a manager of that cluster prints its own"
    )]
    OtherCluster { addr: SocketAddr },
    #[error(
        "{addr} refuses this node's certificate ({detail}); if the node was removed or its certificate ran out, \
         `mesh swarm leave --force` here and join again"
    )]
    Refused { addr: SocketAddr, detail: String },
    #[error(
        "the TLS session with {addr} failed: {detail}; is that the port of a manager's API (2377 unless it chose another)?"
    )]
    Handshake { addr: SocketAddr, detail: String },
    #[error("the request to {addr} failed: {detail}")]
    Request { addr: SocketAddr, detail: String },
    /// The other side's own words.
    #[error("{message}")]
    Answer { status: u16, message: String },
    #[error("this node's certificate can't be used for TLS: {0}")]
    Config(String),
}

/// Algorithms of `ring`, passed explicitly: no process-wide default that another crate could change.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(identity: &NodeIdentity) -> Result<Arc<RootCertStore>, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.ca().clone()).map_err(|error| TlsError::Config(error.to_string()))?;
    Ok(Arc::new(roots))
}

/// What [`serve`] speaks TLS with. Clients may come without a certificate; one that is shown must be of this cluster.
pub fn server_config(identity: &NodeIdentity) -> Result<Arc<ServerConfig>, TlsError> {
    let config_error = |detail: String| TlsError::Config(detail);
    let clients = WebPkiClientVerifier::builder_with_provider(roots(identity)?, provider())
        .allow_unauthenticated()
        .build()
        .map_err(|error| config_error(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| config_error(error.to_string()))?
        .with_client_cert_verifier(clients)
        .with_single_cert(identity.chain(), identity.private_key())
        .map_err(|error| config_error(error.to_string()))?;
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    Ok(Arc::new(config))
}
