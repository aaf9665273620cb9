//! The store: where desired facts live. A map from keys to bytes with revisions, transactions, a watch and leases.
//!
//! ```text
//!   objects   typed: Cluster, commit(changes, revision), what a watch brought     dump   the same as a file of JSON
//!      │
//!   trait Store     get · range · transact · watch · lease
//!      │
//!   embedded        one file of one node (redb); etcd comes later, through the same contract tests
//! ```
//! Invariants: a transaction is on disk before it is answered, and is all or nothing; revisions go up by one with every
//! transaction that writes; a watch misses nothing, or says that it did. This room knows objects, but no rules about them.

#[cfg(test)]
mod contract;
pub mod dump;
mod embedded;
mod error;
mod file;
mod lease;
#[cfg(test)]
mod memory;
pub mod objects;
mod watch;

pub use embedded::EmbeddedStore;
pub use error::StoreError;
pub use lease::Lease;
pub use watch::Watch;

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub key: String,
    pub value: Vec<u8>,
    /// Revision of the transaction that made the key.
    pub created: u64,
    /// Revision of the last transaction that put it.
    pub modified: u64,
}

/// Keys and values as they were together at one revision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    pub revision: u64,
    /// In order of keys.
    pub entries: Vec<Entry>,
}

/// A condition of a transaction: the key was last put at this revision; 0: the key isn't there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compare {
    pub key: String,
    pub modified: u64,
}

/// A write of a transaction. The same key twice: the last one counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Put { key: String, value: Vec<u8> },
    Delete { key: String },
}

/// How a transaction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Committed {
        revision: u64,
    },
    /// A condition did not hold: nothing was written. Read again, decide again.
    Conflict,
}

/// What a transaction did to one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub key: String,
    /// None: deleted.
    pub value: Option<Vec<u8>>,
}

/// What one transaction did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    pub revision: u64,
    pub events: Vec<Event>,
}

/// A store of keys with revisions. Every method may be called by many tasks at once, and never blocks the runtime's threads.
#[async_trait]
pub trait Store: Send + Sync {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// All keys that begin with `prefix`.
    async fn range(&self, prefix: &str) -> Result<Snapshot, StoreError>;

    /// Writes all of `ops` if all of `compares` hold. Without ops it only compares, and the revision stays.
    async fn transact(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<Outcome, StoreError>;

    /// Every transaction after revision `from`, in order, from now on without end. [`StoreError::Compacted`] where the
    /// store no longer knows them all: read everything, then watch from the revision read.
    async fn watch(&self, from: u64) -> Result<Watch, StoreError>;

    /// Takes or renews the lease `name` for `holder`, unless somebody else holds it. It ends after `ttl` without renewal.
    async fn lease(&self, name: &str, holder: &str, ttl: Duration) -> Result<Lease, StoreError>;
}
