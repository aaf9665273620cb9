//! The cluster's secrets, kept by the node of the store in one file next to it: CA key, join tokens, gossip keys.

use std::path::Path;

use serde::{Deserialize, Serialize};

use super::secret::SecretText;
use super::{ClusterCa, IdentityError, JoinToken, JoinTokens, state_file};
use crate::membership::envelope::GossipKeys;
use crate::model::{Id, Role, UnixMs};

const FILE: &str = "cluster-secrets.json";

/// What only the store's node has.
#[derive(Debug)]
pub struct ClusterSecrets {
    pub ca: ClusterCa,
    pub tokens: JoinTokens,
    pub gossip_keys: GossipKeys,
}

#[derive(Serialize, Deserialize)]
struct File {
    format: u32,
    ca: String,
    ca_key: SecretText,
    tokens: JoinTokens,
    gossip_keys: GossipKeys,
}

impl ClusterSecrets {
    /// For `swarm init`: all new.
    pub fn create(cluster_id: &Id, now: UnixMs) -> Result<Self, IdentityError> {
        Ok(ClusterSecrets {
            ca: ClusterCa::create(cluster_id, now)?,
            tokens: JoinTokens::generate(),
            gossip_keys: GossipKeys::generate(),
        })
    }

    /// None where this node does not keep the store.
    pub fn load(state_dir: &Path) -> Result<Option<Self>, IdentityError> {
        let Some(file) = state_file::read::<File>(state_dir, FILE)? else { return Ok(None) };
        let corrupt = |detail: String| IdentityError::Corrupt { path: state_file::path(state_dir, FILE), detail };
        if file.format != 1 {
            return Err(corrupt(format!("format {} is of another version of mesh", file.format)));
        }
        let ca = ClusterCa::from_pem(&file.ca, &file.ca_key.0).map_err(corrupt)?;
        Ok(Some(ClusterSecrets { ca, tokens: file.tokens, gossip_keys: file.gossip_keys }))
    }

    /// Save before telling anybody about a change: a token that is lost in a crash must not have been printed.
    pub fn save(&self, state_dir: &Path) -> Result<(), IdentityError> {
        let file = File {
            format: 1,
            ca: self.ca.certificate_pem().to_string(),
            ca_key: SecretText(self.ca.key_pem()),
            tokens: self.tokens.clone(),
            gossip_keys: self.gossip_keys.clone(),
        };
        state_file::write(state_dir, FILE, &file)
    }

    pub fn remove(state_dir: &Path) -> Result<(), IdentityError> {
        state_file::remove(state_dir, FILE)
    }

    /// The token that `swarm join-token` prints.
    pub fn join_token(&self, role: Role) -> JoinToken {
        self.tokens.token(role, self.ca.digest())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_survive_their_file() {
        let dir = tempfile::tempdir().unwrap();
        assert!(ClusterSecrets::load(dir.path()).unwrap().is_none());
        let secrets = ClusterSecrets::create(&Id::from_bytes([9; 16]), 1_800_000_000_000).unwrap();
        secrets.save(dir.path()).unwrap();
        let again = ClusterSecrets::load(dir.path()).unwrap().unwrap();
        assert_eq!(again.ca.digest(), secrets.ca.digest());
        let token = secrets.join_token(Role::Manager);
        assert_eq!(again.tokens.role_of(token.secret()), Some(Role::Manager));
        assert_eq!(again.gossip_keys, secrets.gossip_keys);
        ClusterSecrets::remove(dir.path()).unwrap();
        assert!(ClusterSecrets::load(dir.path()).unwrap().is_none());
    }
}
