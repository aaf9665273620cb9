//! The leader decides: which desired facts follow from a user's command, and from what the nodes report.
//!
//! ```text
//!   request  ──▶ command::*  ─┐                          ┌─▶ the store, all or none
//!                             ├─▶ work on a copy, compare ┤
//!   Observed ──▶ tick        ─┘      = Vec<Change>        └─▶ nothing, with words why
//! ```
//! Pure: time, randomness and everything observed come in as arguments; no socket, no clock, no await. Whoever calls
//! commits the changes under the revision it read, and asks again after a conflict. Invariants: a command that fails
//! changes nothing; a tick repeated on its own result with the same observation changes nothing; no number or address
//! is given out twice while anybody may still use it.

pub mod allocate;
pub mod command;
mod constraint;
mod due;
mod health;
pub mod tick;
pub mod view;

#[cfg(test)]
mod joining;
#[cfg(test)]
mod mixed;
#[cfg(test)]
mod properties;
#[cfg(test)]
mod scenarios;
#[cfg(test)]
pub(crate) mod world;

pub use constraint::{Constraint, ConstraintError};
pub use due::due;
pub use health::{Health, isolation, node_health};
pub use tick::tick;

use crate::model::{Cluster, Id, UnixMs};

/// What a pure decision needs from outside.
pub struct Ctx<'a> {
    pub now: UnixMs,
    /// Source of randomness: 16 bytes a call.
    pub random: &'a mut dyn FnMut() -> [u8; 16],
    pub timing: Timing,
}

/// How long the leader waits before it believes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// A node unreachable for so long has lost its tasks to others.
    pub unreachable_grace_ms: u64,
    /// A node whose agent is gone for so long, and that is unreachable, is down.
    pub agent_gone_ms: u64,
    /// Ended tasks kept per slot, for `service ps`.
    pub history: usize,
}

impl Default for Timing {
    fn default() -> Self {
        Timing { unreachable_grace_ms: 5_000, agent_gone_ms: 15_000, history: 5 }
    }
}

impl<'a> Ctx<'a> {
    /// The usual timing.
    pub fn new(now: UnixMs, random: &'a mut dyn FnMut() -> [u8; 16]) -> Self {
        Ctx { now, random, timing: Timing::default() }
    }

    /// A new identity.
    pub fn new_id(&mut self) -> Id {
        Id::from_bytes((self.random)())
    }

    /// A new task's identity: its first 8 digits name an interface, so they are unique among the tasks there are.
    pub fn new_task_id(&mut self, cluster: &Cluster) -> Id {
        loop {
            let bytes = (self.random)();
            let (mut first, mut last) = (bytes, bytes);
            first[4..].fill(0);
            last[4..].fill(0xff);
            if cluster.tasks.range(Id::from_bytes(first)..=Id::from_bytes(last)).next().is_none() {
                return Id::from_bytes(bytes);
            }
        }
    }
}
