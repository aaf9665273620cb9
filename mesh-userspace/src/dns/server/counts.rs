//! What became of the queries since the resolver started: one counter an outcome, in status and metrics.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

/// How one query ended. Each query has exactly one outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Answered from the zone.
    Answered,
    /// A name of the zone that has no such record.
    NoData,
    /// A name of the cluster that the asker may not see, or that has nobody ready.
    NxDomain,
    /// Asked on, and a resolver of the host answered (also: that there is no such name or record).
    Forwarded,
    /// Asked on, and no resolver of the host gave an answer in time, or there is none.
    ForwardFailed,
    /// Too many queries were being asked on already.
    ForwardOverload,
    /// The asker is no task of this node.
    Refused,
    /// Not our name, and the asker is on internal networks alone.
    Internal,
    /// Not a query that we know how to answer: opcode, class, zone transfer, EDNS version.
    Unsupported,
}

/// Counters behind [`QueryCounts`].
#[derive(Debug, Default)]
pub struct Counters([AtomicU64; Outcome::Unsupported as usize + 1]);

impl Counters {
    pub fn count(&self, outcome: Outcome) {
        // The enum's discriminants are the array's indices, by its length.
        self.0[outcome as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn read(&self) -> QueryCounts {
        let get = |outcome: Outcome| self.0[outcome as usize].load(Ordering::Relaxed);
        QueryCounts {
            answered: get(Outcome::Answered),
            no_data: get(Outcome::NoData),
            nx_domain: get(Outcome::NxDomain),
            forwarded: get(Outcome::Forwarded),
            forward_failed: get(Outcome::ForwardFailed),
            forward_overload: get(Outcome::ForwardOverload),
            refused: get(Outcome::Refused),
            internal: get(Outcome::Internal),
            unsupported: get(Outcome::Unsupported),
        }
    }
}

/// Queries by outcome since the resolver process started; the fields are explained at [`Outcome`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueryCounts {
    pub answered: u64,
    pub no_data: u64,
    pub nx_domain: u64,
    pub forwarded: u64,
    pub forward_failed: u64,
    pub forward_overload: u64,
    pub refused: u64,
    pub internal: u64,
    pub unsupported: u64,
}
