//! Who may join: the words of the join protocol and the door in front of it.
//!
//! `POST /join` over TLS, the only request that a caller without a certificate may make. The joiner has checked the CA
//! against its token before it sends the secret (`api::tls::join`). The server asks [`JoinDoor::admit`], has the leader make
//! the node's record, signs the CSR with [`super::identity::ClusterCa::sign`] and answers [`JoinAnswer`].
//!
//! Invariant: the role is the token's, never the request's. Must not: write the store, or open sockets.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::envelope::GossipKeys;
use super::identity::{JoinTokens, Secret};
use super::seed::Seed;
use crate::model::{ControlPorts, Id, Role, Runtime, Settings};

/// The one route that is open to callers without a certificate.
pub const JOIN_PATH: &str = "/join";

/// What a joiner tells; its key and the proof of the token are in it, its role is not.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinRequest {
    pub secret: Secret<16>,
    /// PEM; only the public key in it counts.
    pub csr: String,
    pub name: String,
    pub advertise_addr: IpAddr,
    #[serde(default)]
    pub ports: ControlPorts,
    pub data_path_addr: IpAddr,
    pub runtimes: Vec<Runtime>,
    pub routed_prefixes: Vec<IpNet>,
}

/// What the joiner needs to be a member.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinAnswer {
    pub node_id: Id,
    /// PEM, for the key of the request.
    pub certificate: String,
    /// PEM of the cluster's CA.
    pub ca: String,
    pub gossip_keys: GossipKeys,
    pub settings: Settings,
    /// Members to gossip with from the first moment.
    pub members: Vec<Seed>,
    /// The node that keeps the store; `addr` is that of its API, not of its gossip.
    pub store: Seed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JoinRefused {
    #[error(
        "token refused: it was rotated, or a part of it is wrong; \
         `mesh swarm join-token worker` (or manager) on a manager prints the one that counts"
    )]
    Token,
    #[error("too many attempts to join from {source_addr}; try again in {wait_s} s")]
    TooOften { source_addr: IpAddr, wait_s: u64 },
}

/// Attempts allowed in a burst from one source.
const BURST: u32 = 10;
/// One more attempt is allowed per this time.
const REFILL: Duration = Duration::from_secs(3);
/// Sources remembered; more come only from somebody who invents addresses.
const MAX_SOURCES: usize = 4096;

/// The door: counts attempts by source, compares secrets.
#[derive(Debug, Default)]
pub struct JoinDoor {
    sources: HashMap<IpAddr, Attempts>,
}

#[derive(Debug)]
struct Attempts {
    left: u32,
    refilled_at: Instant,
}

impl JoinDoor {
    /// The role that the secret opens. Every attempt counts, the good ones too; a source is a v4 address or a v6 /64.
    pub fn admit(
        &mut self,
        tokens: &JoinTokens,
        secret: &Secret<16>,
        source: IpAddr,
        now: Instant,
    ) -> Result<Role, JoinRefused> {
        self.count(source, now)?;
        tokens.role_of(secret).ok_or(JoinRefused::Token)
    }

    fn count(&mut self, source_addr: IpAddr, now: Instant) -> Result<(), JoinRefused> {
        let full = |attempts: &Attempts| now.duration_since(attempts.refilled_at) >= REFILL * BURST;
        if self.sources.len() >= MAX_SOURCES {
            self.sources.retain(|_, attempts| !full(attempts));
        }
        let key = source_key(source_addr);
        if self.sources.len() >= MAX_SOURCES && !self.sources.contains_key(&key) {
            return Err(JoinRefused::TooOften { source_addr, wait_s: REFILL.as_secs() * u64::from(BURST) });
        }
        let attempts = self.sources.entry(key).or_insert(Attempts { left: BURST, refilled_at: now });
        let refills = (now.duration_since(attempts.refilled_at).as_millis() / REFILL.as_millis()) as u32;
        if refills > 0 {
            attempts.left = attempts.left.saturating_add(refills).min(BURST);
            attempts.refilled_at += REFILL * refills;
        }
        if attempts.left == 0 {
            let wait = REFILL.saturating_sub(now.duration_since(attempts.refilled_at));
            return Err(JoinRefused::TooOften { source_addr, wait_s: wait.as_secs() + 1 });
        }
        attempts.left -= 1;
        Ok(())
    }
}

/// Whoever has one v6 address has its /64.
fn source_key(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guessing_is_slowed_down_per_source() {
        let (mut door, tokens, start) = (JoinDoor::default(), JoinTokens::generate(), Instant::now());
        let good = tokens.token(Role::Worker, [0; 32]);
        let (guesser, honest): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        for _ in 0..BURST {
            assert_eq!(door.admit(&tokens, &Secret::random(), guesser, start), Err(JoinRefused::Token));
        }
        // Even the right secret has to wait now; others do not.
        assert!(matches!(
            door.admit(&tokens, good.secret(), guesser, start),
            Err(JoinRefused::TooOften { wait_s: 1..=4, .. })
        ));
        assert_eq!(door.admit(&tokens, good.secret(), honest, start), Ok(Role::Worker));
        assert_eq!(door.admit(&tokens, good.secret(), guesser, start + REFILL), Ok(Role::Worker));
        assert!(door.admit(&tokens, good.secret(), guesser, start + REFILL).is_err(), "one refill is one attempt");
    }

    #[test]
    fn a_v6_neighbourhood_is_one_source_and_memory_is_bounded() {
        let (mut door, tokens, start) = (JoinDoor::default(), JoinTokens::generate(), Instant::now());
        for host in 0..BURST {
            let source = format!("2001:db8::{host:x}").parse().unwrap();
            assert_eq!(door.admit(&tokens, &Secret::random(), source, start), Err(JoinRefused::Token));
        }
        let source = "2001:db8::ffff".parse().unwrap();
        assert!(matches!(door.admit(&tokens, &Secret::random(), source, start), Err(JoinRefused::TooOften { .. })));
        for number in 0..10_000u32 {
            let _ = door.admit(&tokens, &Secret::random(), IpAddr::V4(number.into()), start);
        }
        assert!(door.sources.len() <= MAX_SOURCES);
    }
}
