//! Join tokens: `MESHTKN-1-<digest of the CA certificate>-<secret>`, one for workers, one for managers.
//!
//! The digest lets the joiner recognise the cluster before it says anything secret; the secret lets the cluster
//! recognise the joiner and says which role it gets. Rotating replaces one secret; the CA, and so the digest, stays.

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{IdentityError, Secret, base32};
use crate::model::Role;

const PREFIX: &str = "MESHTKN-1-";

/// A token as the user pastes it.
#[derive(Clone)]
pub struct JoinToken {
    ca_digest: [u8; 32],
    secret: Secret<16>,
}

impl JoinToken {
    /// SHA-256 of the CA certificate (DER) of the cluster that made this token.
    pub fn ca_digest(&self) -> &[u8; 32] {
        &self.ca_digest
    }

    pub fn secret(&self) -> &Secret<16> {
        &self.secret
    }

    /// The token's text. It is as good as a key to the cluster: print it only to the user who asked.
    pub fn reveal(&self) -> Zeroizing<String> {
        let digest = base32::encode(&self.ca_digest);
        Zeroizing::new(format!("{PREFIX}{digest}-{}", self.secret.to_text().as_str()))
    }
}

impl std::str::FromStr for JoinToken {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let bad = |detail| IdentityError::BadToken { detail };
        let text = text.trim();
        if text.starts_with("SWMTKN-") {
            return Err(bad("it is one of Docker Swarm's"));
        }
        let rest = text.strip_prefix(PREFIX).ok_or_else(|| bad("it does not begin with MESHTKN-1-"))?;
        let (digest, secret) = rest.split_once('-').ok_or_else(|| bad("a part is missing"))?;
        let ca_digest = *base32::decode::<32>(digest).ok_or_else(|| bad("its CA digest is damaged"))?;
        let secret = Secret::from_text(secret).ok_or_else(|| bad("its secret is damaged or cut short"))?;
        Ok(JoinToken { ca_digest, secret })
    }
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JoinToken({PREFIX}{}-…)", base32::encode(&self.ca_digest))
    }
}

/// The secrets of the two tokens of a cluster.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinTokens {
    worker: Secret<16>,
    manager: Secret<16>,
}

impl JoinTokens {
    pub fn generate() -> Self {
        JoinTokens { worker: Secret::random(), manager: Secret::random() }
    }

    /// The token of a role, as a joiner of the cluster with this CA needs it.
    pub fn token(&self, role: Role, ca_digest: [u8; 32]) -> JoinToken {
        let secret = match role {
            Role::Worker => self.worker.clone(),
            Role::Manager => self.manager.clone(),
        };
        JoinToken { ca_digest, secret }
    }

    /// From now on the old token of this role is refused; nodes that joined with it stay.
    pub fn rotate(&mut self, role: Role) {
        match role {
            Role::Worker => self.worker = Secret::random(),
            Role::Manager => self.manager = Secret::random(),
        }
    }

    /// The role that this secret opens. Both are compared, always, in constant time.
    pub fn role_of(&self, secret: &Secret<16>) -> Option<Role> {
        let (is_worker, is_manager) = (self.worker.same_as(secret), self.manager.same_as(secret));
        match (is_manager, is_worker) {
            (true, _) => Some(Role::Manager),
            (false, true) => Some(Role::Worker),
            (false, false) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_its_text_and_opens_its_role_only() {
        let mut tokens = JoinTokens::generate();
        let digest = [7u8; 32];
        for role in [Role::Worker, Role::Manager] {
            let text = tokens.token(role, digest).reveal();
            assert_eq!(text.len(), PREFIX.len() + 52 + 1 + 26);
            let token: JoinToken = text.parse().unwrap();
            assert_eq!(token.ca_digest(), &digest);
            assert_eq!(tokens.role_of(token.secret()), Some(role));
        }
        let old = tokens.token(Role::Worker, digest);
        tokens.rotate(Role::Worker);
        assert_eq!(tokens.role_of(old.secret()), None, "a rotated token is refused");
        assert_eq!(tokens.role_of(tokens.token(Role::Manager, digest).secret()), Some(Role::Manager));
    }

    #[test]
    fn a_damaged_token_is_refused_without_being_repeated() {
        let good = JoinTokens::generate().token(Role::Worker, [1; 32]).reveal();
        for bad in ["", "hello", "SWMTKN-1-abc-def", "MESHTKN-1-abc", &good[..good.len() - 1], &good.to_uppercase()] {
            let error = bad.parse::<JoinToken>().unwrap_err().to_string();
            assert!(error.contains("join token") && error.contains("mesh swarm join-token"), "{error}");
            assert!(bad.len() < 40 || !error.contains(&bad[80..]), "the secret is in: {error}");
        }
        let shown = format!("{:?}", good.parse::<JoinToken>().unwrap());
        assert!(!shown.contains(&good[good.len() - 26..]), "{shown}");
    }
}
