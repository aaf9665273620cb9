//! What a certificate of ours says, and how it is named in the store: the URI name and the fingerprint.

use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::IdentityError;
use crate::model::{Id, Role, UnixMs};

const SCHEME: &str = "mesh://node/";

/// The name a node certificate carries: `mesh://node/<id>?role=worker|manager`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertifiedName {
    pub node_id: Id,
    /// The role at the time of signing; the store's record of the node is what counts after a promotion.
    pub role: Role,
}

impl CertifiedName {
    /// The name as URI.
    pub fn uri(&self) -> String {
        format!("{SCHEME}{}?role={}", self.node_id, role_word(self.role))
    }

    /// Reads the name out of a certificate that has been verified already. Exactly one URI name of ours is accepted.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let bad = |detail: &str| IdentityError::BadCertificate { detail: detail.to_string() };
        let parsed = parse(certificate)?;
        let names = parsed.subject_alternative_name().map_err(|_| bad("its alternative names can't be read"))?;
        let mut ours = names.iter().flat_map(|names| names.value.general_names.iter()).filter_map(|name| match name {
            GeneralName::URI(uri) => uri.strip_prefix(SCHEME),
            _ => None,
        });
        let (Some(name), None) = (ours.next(), ours.next()) else {
            return Err(bad("it does not name one node of mesh"));
        };
        let (id, role) = name.split_once("?role=").ok_or_else(|| bad("it names no role"))?;
        let node_id = Id::try_from(id.to_string()).map_err(|_| bad("it names no node id"))?;
        let role = match role {
            "worker" => Role::Worker,
            "manager" => Role::Manager,
            _ => return Err(bad("it names an unknown role")),
        };
        Ok(CertifiedName { node_id, role })
    }
}

pub(super) fn role_word(role: Role) -> &'static str {
    match role {
        Role::Worker => "worker",
        Role::Manager => "manager",
    }
}

/// SHA-256 of a certificate in 64 hex digits: what `model::Node::cert_fingerprint` keeps.
pub fn fingerprint(certificate: &CertificateDer<'_>) -> String {
    ca_digest(certificate).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256 of a certificate: what a join token carries of the CA's.
pub fn ca_digest(certificate: &CertificateDer<'_>) -> [u8; 32] {
    Sha256::digest(certificate.as_ref()).into()
}

pub(super) fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, IdentityError> {
    match X509Certificate::from_der(certificate.as_ref()) {
        Ok(([], parsed)) => Ok(parsed),
        Ok(_) => Err(IdentityError::BadCertificate { detail: "bytes follow it".to_string() }),
        Err(error) => Err(IdentityError::BadCertificate { detail: error.to_string() }),
    }
}

/// When the certificate begins to be good: some time before it was signed, for clocks differ.
pub(super) fn not_before(certificate: &CertificateDer<'_>) -> Result<UnixMs, IdentityError> {
    let seconds = parse(certificate)?.validity().not_before.timestamp();
    Ok(UnixMs::try_from(seconds).unwrap_or(0) * 1000)
}

/// When the certificate ends.
pub(super) fn not_after(certificate: &CertificateDer<'_>) -> Result<UnixMs, IdentityError> {
    let seconds = parse(certificate)?.validity().not_after.timestamp();
    Ok(UnixMs::try_from(seconds).unwrap_or(0) * 1000)
}
