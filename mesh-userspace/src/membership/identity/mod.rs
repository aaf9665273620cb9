//! Who a node is and why others believe it: cluster CA, node certificates, join tokens, secrets on disk.
//!
//! Walk of a join: the joiner makes a key and a CSR ([`NodeKey`]), checks the cluster's CA against the digest in its
//! [`JoinToken`], proves the token's secret ([`JoinTokens::role_of`]), and gets a certificate whose names, usages and
//! validity are the signer's alone ([`ClusterCa::sign`]). From then on its [`NodeIdentity`] speaks for it at the API,
//! and the gossip keys it was given on port 7946.
//!
//! Invariant: a certificate says `mesh://node/<id>?role=<role>` in one URI name, and nothing that a joiner wrote gets
//! into it. Key material lives in [`Secret`]s and 0600 files; it is never formatted, logged, or put in an error.
//!
//! Must not: open sockets (that is `api::tls`), or decide who may join (that is [`crate::membership::join`]).

mod base32;
mod ca;
mod certificate;
mod node;
mod secret;
mod secrets;
mod state_file;
mod token;

pub use ca::{ClusterCa, SignedCertificate};
pub use certificate::{CertifiedName, ca_digest, fingerprint};
pub use node::{NodeIdentity, NodeKey};
pub use secret::Secret;
pub use secrets::ClusterSecrets;
pub use state_file::next_generation;
pub use token::{JoinToken, JoinTokens};

use std::path::PathBuf;

/// Folder below the state directory that holds everything of this module.
pub const FOLDER: &str = "identity";

#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    #[error("{action} {path}: {source}; mesh keeps its identity there, so check the state directory and its rights")]
    File { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{path} is not what mesh wrote there ({detail}); restore it from a backup, or leave and join again")]
    Corrupt { path: PathBuf, detail: String },
    #[error("{path} can be read by others (mode {mode:03o}) and holds keys: `chmod 600` it and rotate what it held")]
    Exposed { path: PathBuf, mode: u32 },
    #[error("make {what}: {source}")]
    Make { what: &'static str, source: rcgen::Error },
    #[error("the certificate signing request is refused: {detail}")]
    BadRequest { detail: String },
    #[error("a certificate can't be used: {detail}")]
    BadCertificate { detail: String },
    #[error("this is not a join token: {detail}; `mesh swarm join-token worker` on a manager prints one")]
    BadToken { detail: &'static str },
}
