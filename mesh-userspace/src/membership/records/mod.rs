//! What nodes report: versioned records, each written by the node it is about and by nobody else.
//!
//! Walk: a node changes one of its records ([`Book::set`], [`Book::remove`]) → the change goes to every live member at once as
//! a [`Delta`] → whoever missed it has another [`Book::digest`], and gets the owner's whole [`Snapshot`] from any member.
//!
//! An owner numbers its changes 1, 2, 3 …; a reader knows per owner up to which number it misses nothing (its [`Mark`]). So
//! a snapshot of one owner says what is *not* there as well, and nobody has to keep tombstones: a deletion is remembered
//! only until the changes before it have arrived.
//!
//! A restarted owner begins a new generation. What it wrote in its earlier life stays valid until it is written anew, or
//! until [`Subject::Inventory`] says that the owner has published all it has: readers see no gap while tasks are adopted.
//!
//! Invariants: versions of a record only grow; of our own records nobody else's copy counts.
//! Trust: deltas are taken from their owner only, by the sender's name in the envelope. All members share one key, so a
//! *member* that lies can still pass for another one; this keeps mistakes out, not traitors.
//! Must not: read a clock, do I/O.

mod book;
mod owner;

pub use book::Book;

use serde::{Deserialize, Serialize};

use super::wire::RawId;
use crate::model::{NodeStatus, TaskStatus};

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Subject {
    /// The owner itself; the body is a `NodeStatus`.
    Node,
    /// One of its tasks; the body is a `TaskStatus`.
    Task(RawId),
    /// Everything that the owner has is published in this generation; without a body.
    Inventory,
}

/// Order of writes of one owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version {
    /// The owner's life.
    pub generation: u64,
    /// Number of the change in this life, from 1.
    pub sequence: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub subject: Subject,
    pub version: Version,
    /// JSON; None: deleted.
    pub body: Option<Vec<u8>>,
}

/// All changes of an owner after `after` up to and including `upto`; superseded ones are left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Delta {
    pub owner: RawId,
    pub generation: u64,
    pub after: u64,
    pub upto: u64,
    pub records: Vec<Record>,
}

/// Everything of an owner that its reader had when it missed nothing up to `through`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub owner: RawId,
    pub through: Version,
    pub records: Vec<Record>,
}

/// Up to which change of an owner nothing is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub owner: RawId,
    pub through: Version,
}

/// A record's body as read here.
#[derive(Clone, Debug, PartialEq)]
enum Fact {
    Node(NodeStatus),
    Task(TaskStatus),
    Inventory,
    /// Written by a newer agent in words unknown here; kept and passed on all the same.
    Unknown,
}

impl Fact {
    fn read(subject: Subject, body: &[u8]) -> Fact {
        match subject {
            Subject::Node => serde_json::from_slice(body).map_or(Fact::Unknown, Fact::Node),
            Subject::Task(_) => serde_json::from_slice(body).map_or(Fact::Unknown, Fact::Task),
            Subject::Inventory => Fact::Inventory,
        }
    }
}

#[cfg(test)]
mod tests;
