//! The envelope of every gossip message: encrypted and authenticated with the cluster's gossip key.
//!
//! ```text
//! version 1 | key id 4 | nonce 12 | ciphertext … | tag 16        33 bytes around the message
//! ```
//! ChaCha20-Poly1305; the 17 bytes in front and the channel (datagram or stream) are authenticated with the message, so
//! a datagram can't be replayed into a stream. The key id is the start of the key's SHA-256: it only saves trying all.
//! The first key of a ring seals, every key opens, so that a key can be replaced without a silent moment:
//! [`GossipKeys::staged`] everywhere, then [`GossipKeys::promoted`] everywhere, then [`GossipKeys::retired`].
//!
//! Invariant: what [`GossipKeys::open`] returns was sealed by a holder of a key. Who that was, a shared key can't prove.
//! Random 96-bit nonces are safe far beyond the messages of a key's life (2³² messages leave a 2⁻³² chance).

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::identity::Secret;

/// Bytes that sealing adds.
pub const OVERHEAD: usize = HEADER + TAG;
const HEADER: usize = 1 + 4 + 12;
const TAG: usize = 16;
const VERSION: u8 = 1;
/// More keys than a rotation ever needs would only help a peer that sends nonsense.
const MAX_KEYS: usize = 4;

/// Which way a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    Datagram,
    Stream,
}

/// Why an envelope was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("it is too short or of another version: not one of ours")]
    NotOurs,
    #[error("it is sealed with a key this node does not have")]
    UnknownKey,
    #[error("it is forged or damaged")]
    Forged,
}

/// The gossip keys of a cluster, in order of use.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "Vec<Secret<32>>", into = "Vec<Secret<32>>")]
pub struct GossipKeys(Vec<Secret<32>>);

#[derive(Debug, thiserror::Error)]
#[error("{0} gossip keys: between 1 and {MAX_KEYS} expected")]
pub struct KeyCount(usize);

impl TryFrom<Vec<Secret<32>>> for GossipKeys {
    type Error = KeyCount;
    fn try_from(keys: Vec<Secret<32>>) -> Result<Self, KeyCount> {
        if (1..=MAX_KEYS).contains(&keys.len()) { Ok(GossipKeys(keys)) } else { Err(KeyCount(keys.len())) }
    }
}

impl From<GossipKeys> for Vec<Secret<32>> {
    fn from(keys: GossipKeys) -> Self {
        keys.0
    }
}

impl PartialEq for GossipKeys {
    fn eq(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(|(one, two)| one.same_as(two))
    }
}

impl std::fmt::Debug for GossipKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GossipKeys({})", self.0.len())
    }
}

impl GossipKeys {
    /// One new key.
    pub fn generate() -> Self {
        GossipKeys(vec![Secret::random()])
    }

    /// First step of a rotation: everybody can open what a new key seals, nobody seals with it yet.
    pub fn staged(&self) -> Self {
        GossipKeys(self.0.iter().take(MAX_KEYS - 1).cloned().chain([Secret::random()]).collect())
    }

    /// Second step, once every node has the staged ring: the new key seals.
    pub fn promoted(&self) -> Self {
        let mut keys = self.0.clone();
        keys.rotate_right(1);
        GossipKeys(keys)
    }

    /// Last step: the old keys open nothing any more. A removed node is deaf and dumb from here.
    pub fn retired(&self) -> Self {
        GossipKeys(self.0.iter().take(1).cloned().collect())
    }

    /// The ring ready for use.
    pub(super) fn ring(&self) -> KeyRing {
        KeyRing(self.0.iter().map(RingKey::new).collect())
    }
}

/// Gossip keys with their ciphers set up.
pub(super) struct KeyRing(Vec<RingKey>);

struct RingKey {
    id: [u8; 4],
    cipher: ChaCha20Poly1305,
}

impl RingKey {
    fn new(key: &Secret<32>) -> Self {
        let digest = Sha256::digest(key.expose());
        RingKey { id: [digest[0], digest[1], digest[2], digest[3]], cipher: ChaCha20Poly1305::new(key.expose().into()) }
    }
}

impl KeyRing {
    /// Seals with the first key.
    pub(super) fn seal(&self, channel: Channel, message: &[u8]) -> Vec<u8> {
        let key = &self.0[0];
        let mut nonce = [0u8; 12];
        rand::RngCore::fill_bytes(&mut rand::rng(), &mut nonce);
        let mut envelope = Vec::with_capacity(OVERHEAD + message.len());
        envelope.push(VERSION);
        envelope.extend_from_slice(&key.id);
        envelope.extend_from_slice(&nonce);
        let sealed = key
            .cipher
            .encrypt(&Nonce::from(nonce), Payload { msg: message, aad: &aad(&envelope, channel) })
            .expect("ChaCha20-Poly1305 seals up to 256 GiB");
        envelope.extend_from_slice(&sealed);
        envelope
    }

    /// Opens with the key that the envelope names.
    pub(super) fn open(&self, channel: Channel, envelope: &[u8]) -> Result<Vec<u8>, Refused> {
        if envelope.len() < OVERHEAD || envelope[0] != VERSION {
            return Err(Refused::NotOurs);
        }
        let (header, sealed) = envelope.split_at(HEADER);
        let nonce: [u8; 12] = header[5..].try_into().map_err(|_| Refused::NotOurs)?;
        let mut known = false;
        for key in self.0.iter().filter(|key| key.id == header[1..5]) {
            known = true;
            let payload = Payload { msg: sealed, aad: &aad(header, channel) };
            if let Ok(message) = key.cipher.decrypt(&Nonce::from(nonce), payload) {
                return Ok(message);
            }
        }
        Err(if known { Refused::Forged } else { Refused::UnknownKey })
    }
}

fn aad(header: &[u8], channel: Channel) -> [u8; HEADER + 1] {
    let mut aad = [0u8; HEADER + 1];
    aad[..HEADER].copy_from_slice(header);
    aad[HEADER] = match channel {
        Channel::Datagram => b'd',
        Channel::Stream => b's',
    };
    aad
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_changed_byte_is_refused() {
        let ring = GossipKeys::generate().ring();
        let sealed = ring.seal(Channel::Datagram, b"alive");
        assert_eq!(sealed.len(), OVERHEAD + 5);
        assert_eq!(ring.open(Channel::Datagram, &sealed).unwrap(), b"alive");
        for at in 0..sealed.len() {
            let mut tampered = sealed.clone();
            tampered[at] ^= 1;
            assert!(ring.open(Channel::Datagram, &tampered).is_err(), "byte {at}");
        }
        for length in 0..sealed.len() {
            assert!(ring.open(Channel::Datagram, &sealed[..length]).is_err(), "cut to {length}");
        }
    }

    #[test]
    fn a_datagram_is_no_stream_and_another_cluster_is_a_stranger() {
        let ring = GossipKeys::generate().ring();
        let sealed = ring.seal(Channel::Datagram, b"alive");
        assert_eq!(ring.open(Channel::Stream, &sealed), Err(Refused::Forged));
        let other = GossipKeys::generate().ring();
        assert_eq!(other.open(Channel::Datagram, &sealed), Err(Refused::UnknownKey));
    }

    #[test]
    fn a_rotation_has_no_silent_moment() {
        let old = GossipKeys::generate();
        let staged = old.staged();
        let new = staged.promoted();
        let speaks = |from: &GossipKeys, to: &GossipKeys| {
            to.ring().open(Channel::Datagram, &from.ring().seal(Channel::Datagram, b"hello")).is_ok()
        };
        // Every pair of neighbouring steps understands each other.
        for (one, two) in [(&old, &staged), (&staged, &new), (&new, &new.retired())] {
            assert!(speaks(one, two) && speaks(two, one));
        }
        assert!(!speaks(&old, &new.retired()) && !speaks(&new.retired(), &old));
        assert_eq!(format!("{new:?}"), "GossipKeys(2)");
    }

    #[test]
    fn a_ring_without_keys_is_refused() {
        assert!(serde_json::from_str::<GossipKeys>("[]").is_err());
    }
}
