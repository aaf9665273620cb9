//! Leases: who may act for a while. Those of the embedded store live in memory: all who ask are served by this process, so its
//! end ends every lease's use too.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The answer to a request for a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lease {
    /// The caller holds it, until its time is over or it is renewed.
    Held,
    /// Somebody else holds it.
    HeldBy { holder: String },
}

/// Leases by name.
#[derive(Default)]
pub(super) struct Leases(Mutex<HashMap<String, (String, Instant)>>);

impl Leases {
    /// Takes or renews a lease.
    pub(super) fn take(&self, name: &str, holder: &str, ttl: Duration) -> Lease {
        let now = Instant::now();
        // A panic elsewhere can't leave the map half changed: one insert is all that happens under the lock.
        let mut leases = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        match leases.get(name) {
            Some((other, until)) if other != holder && *until > now => Lease::HeldBy { holder: other.clone() },
            _ => {
                leases.insert(name.to_string(), (holder.to_string(), now + ttl));
                Lease::Held
            }
        }
    }
}
