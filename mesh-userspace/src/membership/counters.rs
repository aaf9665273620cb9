//! What gossip has seen, for metrics and for anybody who wonders.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Running counters.
        #[derive(Debug, Default)]
        pub(super) struct Counters { $(pub $name: Counter),* }

        /// Their values at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct GossipCounters { $($(#[$doc])* pub $name: u64),* }

        impl Counters {
            pub fn read(&self) -> GossipCounters {
                GossipCounters { $($name: self.$name.0.load(Ordering::Relaxed)),* }
            }
        }
    };
}

counters! {
    /// Datagrams sent.
    sent,
    /// Datagrams that the kernel did not take (no route, full buffer).
    not_sent,
    /// Datagrams received, whatever they were.
    received,
    /// Dropped: too short or another version; not from an agent of this kind.
    not_ours,
    /// Dropped: sealed with a key that this node does not have (another cluster, or a removed node).
    unknown_key,
    /// Dropped: names our key but was not sealed with it.
    forged,
    /// Dropped: an authentic datagram seen before, or our own come back.
    replayed,
    /// Dropped: authentic, but no message of this version.
    malformed,
    /// Records not taken: not by their owner, or of no member.
    refused_records,
    /// Exchanges over TCP that ended well.
    exchanges,
    /// Exchanges that did not.
    failed_exchanges,
}

#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub fn bump(&self) {
        self.add(1);
    }
}
