//! What stands inside the envelopes: who sends, which of its messages this is, and the message.
//!
//! Datagrams carry SWIM, fresh records of their sender, or a digest of all records; streams carry an exchange of records.
//! Encoded with postcard; the status in a record is JSON, so that a newer agent may say more than an older one understands.
//! The envelope's version counts for everything here: a change that an older agent can't read bumps it.

use serde::{Deserialize, Serialize};

use super::envelope::OVERHEAD;
use super::records::{Delta, Mark, Snapshot};
use crate::model::Id;

/// Largest UDP payload: 1400 bytes less IPv6 and UDP headers. It fits every underlay that can carry a tunnel.
pub const MAX_DATAGRAM_BYTES: usize = 1400 - 40 - 8;
/// Largest SWIM message: a datagram less envelope, sender (16), generation and sequence (10 each), tag and length (3).
pub const MAX_SWIM_BYTES: usize = MAX_DATAGRAM_BYTES - OVERHEAD - 39;
/// Largest frame of a stream: records of tens of thousands of tasks.
pub const MAX_FRAME_BYTES: usize = 8 << 20;

/// A node id as its 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RawId(pub [u8; 16]);

impl From<&Id> for RawId {
    fn from(id: &Id) -> Self {
        let digits = id.as_str().as_bytes();
        let value = |digit: u8| if digit.is_ascii_digit() { digit - b'0' } else { digit - b'a' + 10 };
        // An Id has 32 lowercase hex digits, always.
        RawId(std::array::from_fn(|at| (value(digits[2 * at]) << 4) | value(digits[2 * at + 1])))
    }
}

impl From<RawId> for Id {
    fn from(raw: RawId) -> Id {
        Id::from_bytes(raw.0)
    }
}

impl std::fmt::Display for RawId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(Id::from(*self).short())
    }
}

/// One datagram.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub struct Datagram {
    pub sender: RawId,
    /// Start of the sender's life, and number of this datagram in it: a recorded datagram is of no use to anybody.
    pub generation: u64,
    pub sequence: u64,
    pub message: Message,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Message {
    Swim(Vec<u8>),
    /// Fresh records of the sender's own.
    Records(Delta),
    /// Hash over all marks of the sender; who has another one starts an exchange.
    Digest(u64),
}

/// One frame of an exchange over TCP: `Marks` there, `News` back, `Last` there.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum Frame {
    /// How far the caller has come with each owner.
    Marks(Vec<Mark>),
    /// What the caller lacks, and how far the called one has come.
    News { snapshots: Vec<Snapshot>, marks: Vec<Mark> },
    /// What the called one lacks.
    Last(Vec<Snapshot>),
}

/// Encoding into memory has nothing that could fail.
pub fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("plain data is always encodable")
}

/// None where the bytes are not exactly one `T`.
pub fn decode<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Option<T> {
    match postcard::take_from_bytes(bytes) {
        Ok((value, [])) => Some(value),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_id_survives_its_bytes() {
        let id = Id::try_from("0123456789abcdef0123456789abcdef".to_string()).unwrap();
        assert_eq!(Id::from(RawId::from(&id)), id);
    }

    #[test]
    fn the_largest_swim_message_fits() {
        let message = Message::Swim(vec![0; MAX_SWIM_BYTES]);
        let datagram = Datagram { sender: RawId([255; 16]), generation: u64::MAX, sequence: u64::MAX, message };
        assert!(encode(&datagram).len() + OVERHEAD <= MAX_DATAGRAM_BYTES);
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode::<Datagram>(&bytes);
            let _ = decode::<Frame>(&bytes);
        }
    }
}
