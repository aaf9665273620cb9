//! A node's own identity: key, certificate, the CA it trusts, and the gossip keys it was given.

use std::path::Path;

use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::certificate::{fingerprint, not_after, not_before, parse};
use super::secret::SecretText;
use super::{CertifiedName, IdentityError, state_file};
use crate::membership::envelope::GossipKeys;
use crate::model::UnixMs;

const FILE: &str = "node.json";

/// A fresh key that has no certificate yet. It never leaves the node.
pub struct NodeKey(KeyPair);

impl NodeKey {
    pub fn generate() -> Result<Self, IdentityError> {
        KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map(NodeKey)
            .map_err(|source| IdentityError::Make { what: "this node's key", source })
    }

    /// The request for a certificate: a public key and the proof that we hold the other half, no names.
    pub fn csr_pem(&self) -> Result<String, IdentityError> {
        let failed = |source| IdentityError::Make { what: "this node's certificate request", source };
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serialize_request(&self.0).and_then(|csr| csr.pem()).map_err(failed)
    }

    /// Joins the key with what the signer answered.
    pub fn certified(
        self,
        certificate_pem: &str,
        ca_pem: &str,
        gossip_keys: GossipKeys,
    ) -> Result<NodeIdentity, IdentityError> {
        NodeIdentity::new(certificate_pem, ca_pem, Zeroizing::new(self.0.serialize_pem()), gossip_keys)
    }
}

/// Everything by which this node is known to the others.
pub struct NodeIdentity {
    name: CertifiedName,
    fingerprint: String,
    renew_at: UnixMs,
    not_after: UnixMs,
    certificate: CertificateDer<'static>,
    ca: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
    gossip_keys: GossipKeys,
    file: File,
}

#[derive(Clone, Serialize, Deserialize)]
struct File {
    format: u32,
    certificate: String,
    ca: String,
    key: SecretText,
    gossip_keys: GossipKeys,
}

impl NodeIdentity {
    fn new(
        certificate_pem: &str,
        ca_pem: &str,
        key_pem: Zeroizing<String>,
        gossip_keys: GossipKeys,
    ) -> Result<Self, IdentityError> {
        let bad = |detail: String| IdentityError::BadCertificate { detail };
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|error| bad(format!("this node's: {error}")))?;
        let ca =
            CertificateDer::from_pem_slice(ca_pem.as_bytes()).map_err(|error| bad(format!("the CA's: {error}")))?;
        let pair = KeyPair::from_pem(&key_pem).map_err(|_| bad("this node's key can't be read".to_string()))?;
        if parse(&certificate)?.public_key().subject_public_key.data.as_ref() != pair.public_key_raw() {
            return Err(bad("it is for another key than this node's".to_string()));
        }
        let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
            .map_err(|_| bad("this node's key can't be read".to_string()))?;
        Ok(NodeIdentity {
            name: CertifiedName::of(&certificate)?,
            fingerprint: fingerprint(&certificate),
            renew_at: not_before(&certificate)?.midpoint(not_after(&certificate)?),
            not_after: not_after(&certificate)?,
            file: File {
                format: 1,
                certificate: certificate_pem.to_string(),
                ca: ca_pem.to_string(),
                key: SecretText(key_pem),
                gossip_keys: gossip_keys.clone(),
            },
            certificate,
            ca,
            key,
            gossip_keys,
        })
    }

    /// None where this node has not joined a cluster.
    pub fn load(state_dir: &Path) -> Result<Option<Self>, IdentityError> {
        let Some(file) = state_file::read::<File>(state_dir, FILE)? else { return Ok(None) };
        let corrupt = |detail: String| IdentityError::Corrupt { path: state_file::path(state_dir, FILE), detail };
        if file.format != 1 {
            return Err(corrupt(format!("format {} is of another version of mesh", file.format)));
        }
        let identity = NodeIdentity::new(&file.certificate, &file.ca, file.key.0, file.gossip_keys);
        identity.map(Some).map_err(|error| corrupt(error.to_string()))
    }

    pub fn save(&self, state_dir: &Path) -> Result<(), IdentityError> {
        state_file::write(state_dir, FILE, &self.file)
    }

    /// Forgets the identity, as `swarm leave` does.
    pub fn remove(state_dir: &Path) -> Result<(), IdentityError> {
        state_file::remove(state_dir, FILE)
    }

    pub fn name(&self) -> &CertifiedName {
        &self.name
    }

    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// Half of the certificate's life is over: time to ask for a new one, with a new [`NodeKey`]. So an outage of the signer of as long is
    /// survived.
    pub fn renew_at(&self) -> UnixMs {
        self.renew_at
    }

    /// The same node with a new key and what the signer answered; save it.
    pub fn renewed(&self, key: NodeKey, certificate_pem: &str) -> Result<Self, IdentityError> {
        let renewed = key.certified(certificate_pem, &self.file.ca, self.gossip_keys.clone())?;
        if renewed.name.node_id != self.name.node_id {
            return Err(IdentityError::BadCertificate { detail: "it names another node than this one".to_string() });
        }
        Ok(renewed)
    }

    /// When the certificate ends.
    pub fn not_after(&self) -> UnixMs {
        self.not_after
    }

    pub fn ca(&self) -> &CertificateDer<'static> {
        &self.ca
    }

    /// What a TLS peer is shown: own certificate first, the CA's too, because a joiner knows nothing but its digest.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        vec![self.certificate.clone(), self.ca.clone()]
    }

    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        self.key.clone_key()
    }

    pub fn gossip_keys(&self) -> &GossipKeys {
        &self.gossip_keys
    }

    /// The same node after a rotation of the gossip keys; save it.
    pub fn set_gossip_keys(&mut self, keys: GossipKeys) {
        self.file.gossip_keys = keys.clone();
        self.gossip_keys = keys;
    }
}

impl std::fmt::Debug for NodeIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NodeIdentity({}, certificate {})", self.name.uri(), self.fingerprint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::identity::ClusterCa;
    use crate::model::{Id, Role};

    const NOW: UnixMs = 1_800_000_000_000;

    #[test]
    fn an_identity_survives_its_file_and_shows_no_key() {
        let dir = tempfile::tempdir().unwrap();
        assert!(NodeIdentity::load(dir.path()).unwrap().is_none());
        let ca = ClusterCa::create(&Id::from_bytes([9; 16]), NOW).unwrap();
        let name = CertifiedName { node_id: Id::from_bytes([1; 16]), role: Role::Manager };
        let key = NodeKey::generate().unwrap();
        let signed = ca.sign(&key.csr_pem().unwrap(), &name, NOW).unwrap();
        let identity = key.certified(&signed.pem, ca.certificate_pem(), GossipKeys::generate()).unwrap();
        identity.save(dir.path()).unwrap();

        let again = NodeIdentity::load(dir.path()).unwrap().unwrap();
        assert_eq!((again.name(), again.fingerprint()), (&name, signed.fingerprint.as_str()));
        assert_eq!(again.not_after(), NOW + 90 * 24 * 3600 * 1000);
        // It is good from a day before it was signed.
        assert_eq!(again.renew_at(), NOW + (90 - 1) * 24 * 3600 * 1000 / 2);
        assert_eq!(again.gossip_keys(), identity.gossip_keys());
        assert!(!format!("{again:?}").contains("PRIVATE"));
        NodeIdentity::remove(dir.path()).unwrap();
        assert!(NodeIdentity::load(dir.path()).unwrap().is_none());
    }

    #[test]
    fn a_renewed_identity_is_the_same_node_with_another_key_and_certificate() {
        let ca = ClusterCa::create(&Id::from_bytes([9; 16]), NOW).unwrap();
        let identity = |node: u8, now: UnixMs| {
            let name = CertifiedName { node_id: Id::from_bytes([node; 16]), role: Role::Worker };
            let key = NodeKey::generate().unwrap();
            let signed = ca.sign(&key.csr_pem().unwrap(), &name, now).unwrap();
            (key, signed.pem)
        };
        let (key, pem) = identity(1, NOW);
        let first = key.certified(&pem, ca.certificate_pem(), GossipKeys::generate()).unwrap();
        let later = first.renew_at();
        let (key, pem) = identity(1, later);
        let second = first.renewed(key, &pem).unwrap();
        assert_eq!(second.name(), first.name());
        assert_ne!(second.fingerprint(), first.fingerprint());
        assert!(second.not_after() > first.not_after() && second.gossip_keys() == first.gossip_keys());
        let (key, pem) = identity(2, later);
        assert!(first.renewed(key, &pem).unwrap_err().to_string().contains("another node"));
    }

    #[test]
    fn a_certificate_for_another_key_is_refused() {
        let ca = ClusterCa::create(&Id::from_bytes([9; 16]), NOW).unwrap();
        let name = CertifiedName { node_id: Id::from_bytes([1; 16]), role: Role::Worker };
        let signed = ca.sign(&NodeKey::generate().unwrap().csr_pem().unwrap(), &name, NOW).unwrap();
        let other = NodeKey::generate().unwrap();
        let error = other.certified(&signed.pem, ca.certificate_pem(), GossipKeys::generate()).unwrap_err();
        assert!(error.to_string().contains("another key"), "{error}");
    }
}
