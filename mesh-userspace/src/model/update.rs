//! How far the rolling update of a service is.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Id, UnixMs};

/// Swarm's update states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UpdateState {
    Updating,
    Paused,
    Completed,
    RollbackStarted,
    RollbackPaused,
    RollbackCompleted,
}

impl UpdateState {
    /// Old tasks are still being replaced.
    pub fn is_active(self) -> bool {
        matches!(self, UpdateState::Updating | UpdateState::RollbackStarted)
    }

    /// A failure stopped it; old tasks stay until somebody decides.
    pub fn is_paused(self) -> bool {
        matches!(self, UpdateState::Paused | UpdateState::RollbackPaused)
    }

    /// It goes back to the previous spec, by `ServiceSpec::rollback`.
    pub fn is_rollback(self) -> bool {
        matches!(self, UpdateState::RollbackStarted | UpdateState::RollbackPaused | UpdateState::RollbackCompleted)
    }
}

/// The last update of a service that had tasks to replace; `UpdateStatus` of `service inspect`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateStatus {
    pub state: UpdateState,
    pub started_at: UnixMs,
    pub completed_at: Option<UnixMs>,
    pub message: String,
    /// New task → since when it is ready, by the leader's clock: nodes' clocks differ, and trials and delays are the leader's to
    /// measure. Empty once the update is over.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ready_since: BTreeMap<Id, UnixMs>,
}
