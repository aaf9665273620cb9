//! The cluster's own certificate authority: made by `swarm init`, kept next to the store, signs node certificates.

use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType,
    string::Ia5String,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use zeroize::Zeroizing;

use super::certificate::{ca_digest, fingerprint, role_word};
use super::{CertifiedName, IdentityError};
use crate::model::{Id, UnixMs};

const DAY: Duration = Duration::from_secs(24 * 3600);
const CA_VALIDITY: Duration = Duration::from_secs(20 * 365 * 24 * 3600);
const NODE_VALIDITY: Duration = Duration::from_secs(90 * 24 * 3600);
/// Clocks of nodes may differ: a certificate is valid from this long before it was signed.
const CLOCK_SLACK: Duration = DAY;
/// A CSR of ours is about 400 bytes.
const MAX_CSR_BYTES: usize = 8 * 1024;

/// CA certificate and key.
pub struct ClusterCa {
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    key: KeyPair,
}

/// What the signer hands back.
#[derive(Clone, Debug)]
pub struct SignedCertificate {
    pub pem: String,
    /// For `model::Node::cert_fingerprint`.
    pub fingerprint: String,
}

impl ClusterCa {
    /// A new CA for a new cluster.
    pub fn create(cluster_id: &Id, now: UnixMs) -> Result<Self, IdentityError> {
        let failed = |source| IdentityError::Make { what: "the cluster's CA", source };
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let mut params = CertificateParams::default();
        set_validity(&mut params, now, CA_VALIDITY);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, format!("mesh cluster {cluster_id}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key).map_err(failed)?;
        Ok(ClusterCa { certificate: certificate.der().clone(), certificate_pem: certificate.pem(), key })
    }

    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// What join tokens carry.
    pub fn digest(&self) -> [u8; 32] {
        ca_digest(&self.certificate)
    }

    /// The digest of a CA certificate in PEM; None where it can't be read.
    pub fn digest_of_pem(pem: &str) -> Option<[u8; 32]> {
        CertificateDer::from_pem_slice(pem.as_bytes()).ok().map(|certificate| ca_digest(&certificate))
    }

    /// Signs the public key of a request. Of the request only the key is taken, after its own signature has proved that
    /// the asker holds it; names, usages and validity are written here.
    pub fn sign(&self, csr_pem: &str, name: &CertifiedName, now: UnixMs) -> Result<SignedCertificate, IdentityError> {
        let refused = |detail: String| IdentityError::BadRequest { detail };
        if csr_pem.len() > MAX_CSR_BYTES {
            return Err(refused(format!("it has {} bytes, {MAX_CSR_BYTES} are allowed", csr_pem.len())));
        }
        let request = CertificateSigningRequestParams::from_pem(csr_pem).map_err(|error| refused(error.to_string()))?;

        let mut params = CertificateParams::default();
        set_validity(&mut params, now, NODE_VALIDITY);
        params.distinguished_name = DistinguishedName::new();
        // For people with openssl; programs read the URI name only.
        params.distinguished_name.push(DnType::CommonName, name.node_id.as_str());
        params.distinguished_name.push(DnType::OrganizationalUnitName, role_word(name.role));
        let uri = Ia5String::try_from(name.uri()).map_err(|error| refused(error.to_string()))?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;

        let failed = |source| IdentityError::Make { what: "a node's certificate", source };
        let issuer = Issuer::from_ca_cert_der(&self.certificate, &self.key).map_err(failed)?;
        let signed = params.signed_by(&request.public_key, &issuer).map_err(failed)?;
        Ok(SignedCertificate { pem: signed.pem(), fingerprint: fingerprint(signed.der()) })
    }

    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    pub(super) fn key_pem(&self) -> Zeroizing<String> {
        Zeroizing::new(self.key.serialize_pem())
    }

    pub(super) fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, String> {
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes()).map_err(|e| e.to_string())?;
        let key = KeyPair::from_pem(key_pem).map_err(|_| "the CA's key can't be read".to_string())?;
        Ok(ClusterCa { certificate, certificate_pem: certificate_pem.to_string(), key })
    }
}

impl std::fmt::Debug for ClusterCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "ClusterCa({})", fingerprint(&self.certificate))
    }
}

fn set_validity(params: &mut CertificateParams, now: UnixMs, validity: Duration) {
    let signed_at = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(now / 1000);
    params.not_before = signed_at - CLOCK_SLACK;
    params.not_after = signed_at + validity;
}

#[cfg(test)]
mod tests {
    use super::super::{NodeKey, certificate};
    use super::*;
    use crate::model::Role;

    const NOW: UnixMs = 1_800_000_000_000;

    fn ca() -> ClusterCa {
        ClusterCa::create(&Id::from_bytes([9; 16]), NOW).unwrap()
    }

    #[test]
    fn a_joiner_that_lies_about_its_name_and_usages_is_overridden() {
        // A request that asks to be a manager, another node, and a CA.
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::new(vec!["n1.example".to_string()]).unwrap();
        let lie = CertifiedName { node_id: Id::from_bytes([0xff; 16]), role: Role::Manager };
        params.subject_alt_names.push(SanType::URI(lie.uri().try_into().unwrap()));
        params.distinguished_name.push(DnType::OrganizationalUnitName, "manager");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let csr = params.serialize_request(&key).unwrap().pem().unwrap();

        let truth = CertifiedName { node_id: Id::from_bytes([1; 16]), role: Role::Worker };
        let signed = ca().sign(&csr, &truth, NOW).unwrap();
        let der = CertificateDer::from_pem_slice(signed.pem.as_bytes()).unwrap();
        assert_eq!(CertifiedName::of(&der).unwrap(), truth);
        assert_eq!(signed.fingerprint, fingerprint(&der));
        let parsed = certificate::parse(&der).unwrap();
        assert!(!parsed.is_ca());
        assert_eq!(parsed.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 1);
        let usage = parsed.key_usage().unwrap().unwrap().value;
        assert!(usage.digital_signature() && !usage.key_cert_sign());
        assert_eq!(parsed.subject().iter_organizational_unit().next().unwrap().as_str().unwrap(), "worker");
        let days = (parsed.validity().not_after.timestamp() - NOW as i64 / 1000) / 86_400;
        assert_eq!(days, 90);
    }

    #[test]
    fn a_request_whose_signature_is_not_by_its_key_is_refused() {
        let csr = NodeKey::generate().unwrap().csr_pem().unwrap();
        let name = CertifiedName { node_id: Id::from_bytes([1; 16]), role: Role::Worker };
        let mut lines: Vec<String> = csr.lines().map(String::from).collect();
        let last = lines.len() - 2;
        let flipped = if lines[last].starts_with('A') { "B" } else { "A" };
        lines[last].replace_range(0..1, flipped);
        assert!(matches!(ca().sign(&lines.join("\n"), &name, NOW), Err(IdentityError::BadRequest { .. })));
        assert!(matches!(ca().sign("not a csr", &name, NOW), Err(IdentityError::BadRequest { .. })));
        assert!(matches!(ca().sign(&csr.repeat(40), &name, NOW), Err(IdentityError::BadRequest { .. })));
    }

    #[test]
    fn the_ca_survives_its_pem() {
        let ca = ca();
        let again = ClusterCa::from_pem(ca.certificate_pem(), &ca.key_pem()).unwrap();
        assert_eq!(again.digest(), ca.digest());
        assert_eq!(format!("{ca:?}"), format!("ClusterCa({})", fingerprint(ca.certificate())));
    }
}
