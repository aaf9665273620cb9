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

    /// Messages that nobody means well with, by what they try; what looked like one stays here.
    const HOSTILE: [(&str, &[u8]); 9] = [
        ("nothing", &[]),
        ("a sender and no more", &[7; 16]),
        ("a list that promises four billion marks", &[0, 0xff, 0xff, 0xff, 0xff, 0x0f]),
        ("a list longer than any address space", &[1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]),
        ("a number that does not end", &[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        ("a kind of frame that is none", &[3, 0]),
        ("a kind beyond 32 bits", &[0xff, 0xff, 0xff, 0xff, 0x7f, 0]),
        ("a frame and a byte", &[0, 0, 0]),
        ("a number with a tail of zeros", &[0x80, 0x80, 0x80, 0x80, 0x80, 0x00, 0]),
    ];

    #[test]
    fn hostile_messages_are_refused() {
        for (what, bytes) in HOSTILE {
            assert_eq!(decode::<Datagram>(bytes), None, "{what}");
            assert_eq!(decode::<Frame>(bytes), None, "{what}");
        }
    }

    fn messages() -> Vec<Vec<u8>> {
        use super::super::records::{Record, Subject, Version};
        let owner = RawId([3; 16]);
        let version = Version { generation: 5, sequence: 9 };
        let record = Record { subject: Subject::Node, version, body: Some(b"{}".to_vec()) };
        let snapshot = Snapshot { owner, through: version, records: vec![record.clone(); 3] };
        let marks = vec![Mark { owner, through: version }; 4];
        let delta = Delta { owner, generation: 5, after: 8, upto: 9, records: vec![record] };
        let datagram = |message| encode(&Datagram { sender: owner, generation: 5, sequence: 300, message });
        vec![
            encode(&Frame::Marks(marks.clone())),
            encode(&Frame::News { snapshots: vec![snapshot.clone()], marks }),
            encode(&Frame::Last(vec![snapshot; 2])),
            datagram(Message::Records(delta)),
            datagram(Message::Swim(vec![1; 40])),
            datagram(Message::Digest(u64::MAX)),
        ]
    }

    proptest! {
        /// What is read of a damaged message is what it says: said again and read again it is the same.
        #[test]
        fn damage_is_refused_or_read_as_it_stands(
            which in any::<proptest::sample::Index>(),
            damages in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..5),
            cut in proptest::option::of(any::<proptest::sample::Index>()),
        ) {
            let messages = messages();
            let mut bytes = which.get(&messages).clone();
            for (at, byte) in damages {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            if let Some(cut) = cut {
                bytes.truncate(cut.index(bytes.len()));
            }
            if let Some(frame) = decode::<Frame>(&bytes) {
                prop_assert_eq!(decode::<Frame>(&encode(&frame)), Some(frame));
            }
            if let Some(datagram) = decode::<Datagram>(&bytes) {
                prop_assert_eq!(decode::<Datagram>(&encode(&datagram)), Some(datagram));
            }
        }

        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = decode::<Datagram>(&bytes);
            let _ = decode::<Frame>(&bytes);
        }
    }
}
