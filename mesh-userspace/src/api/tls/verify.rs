//! Who is at the other end of an outgoing connection: the checks of certificates that names in DNS can't express.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme};

use crate::membership::identity::{CertifiedName, ca_digest};
use crate::model::{Id, Role};

/// Whom a connection is meant for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expect {
    Node(Id),
    AnyManager,
    AnyMember,
}

impl std::fmt::Display for Expect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Expect::Node(id) => write!(f, "node {}", id.short()),
            Expect::AnyManager => f.write_str("a manager"),
            Expect::AnyMember => f.write_str("a member"),
        }
    }
}

/// Why the certificate was not taken, beyond what rustls says itself.
#[derive(Debug, thiserror::Error)]
pub(super) enum Rejected {
    #[error("answered as {found}, {wanted} was expected")]
    WrongNode { wanted: String, found: String },
    #[error("the CA's digest is not the token's")]
    OtherCluster,
    #[error("{0}")]
    NotOurs(String),
}

impl From<Rejected> for Error {
    fn from(rejected: Rejected) -> Error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(rejected))))
    }
}

/// What is trusted before the chain is looked at.
#[derive(Debug)]
pub(super) enum Anchor {
    /// The CA that this node was given when it joined.
    Ca(Arc<RootCertStore>),
    /// The CA whose SHA-256 the join token has.
    Digest([u8; 32]),
}

/// The verifier of outgoing connections.
#[derive(Debug)]
pub(super) struct Verifier {
    pub anchor: Anchor,
    pub expect: Expect,
    pub provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let roots = match &self.anchor {
            Anchor::Ca(roots) => Arc::clone(roots),
            Anchor::Digest(digest) => {
                // Digests of public certificates: no need for constant time.
                let ca = intermediates.iter().find(|certificate| ca_digest(certificate) == *digest);
                let mut roots = RootCertStore::empty();
                roots.add(ca.ok_or(Rejected::OtherCluster)?.clone().into_owned())?;
                Arc::new(roots)
            }
        };
        let algorithms = self.provider.signature_verification_algorithms.all;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, intermediates, now, algorithms)?;

        let found = CertifiedName::of(end_entity).map_err(|error| Rejected::NotOurs(error.to_string()))?;
        let wanted = match &self.expect {
            Expect::Node(id) => found.node_id == *id,
            Expect::AnyManager => found.role == Role::Manager,
            Expect::AnyMember => true,
        };
        if !wanted {
            let found = format!("{} {}", role_word(found.role), found.node_id.short());
            return Err(Rejected::WrongNode { wanted: self.expect.to_string(), found }.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

fn role_word(role: Role) -> &'static str {
    match role {
        Role::Worker => "worker",
        Role::Manager => "manager",
    }
}
