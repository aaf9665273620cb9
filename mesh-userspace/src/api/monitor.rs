//! Packets' verdicts as they happen: asked for, told by the kernel, and as rows with names.

use mesh_common::schema::Event;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::ApiError;
use super::flows::Ends;
use crate::model::UnixMs;

/// `mesh monitor`: what all conditions that are given hold for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorRequest {
    /// Packets to or from the tasks of a service: name, id or unique prefix of the id.
    pub service: Option<String>,
    /// Packets to or from a task.
    pub task: Option<String>,
    /// Verdicts on each so many packets of a CPU; 0: drops alone.
    pub sample: u32,
}

/// A [`MonitorRequest`] with its names found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MonitorQuery {
    /// All of these must have a part in it.
    pub ends: Vec<Ends>,
    pub sample: u32,
}

impl MonitorQuery {
    pub fn wants(&self, event: &Event) -> bool {
        let has_part = |ends: &Ends| {
            ends.endpoints.contains(&event.backend)
                || ends.addrs.contains(&event.src)
                || ends.addrs.contains(&event.dst)
        };
        (event.reason != 0 || self.sample != 0) && self.ends.iter().all(has_part)
    }
}

/// What the programs told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    Event {
        event: Event,
        at: UnixMs,
    },
    /// So many events were not told, or not read in time.
    Lost(u64),
}

/// Events, some at a time; ends with the agent.
pub type EventFeed = mpsc::Receiver<Result<Vec<Told>, ApiError>>;

/// An event with the names that belong to it; `lost` rows have nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MonitorRow {
    pub at: UnixMs,
    pub hook: String,
    /// Where it goes: `task`, `tunnel`, `uplink`, `host`, `outside`; `dropped`.
    pub verdict: String,
    /// Name of the drop reason.
    pub reason: String,
    pub protocol: String,
    pub source: String,
    pub destination: String,
    /// TCP: the flags' letters.
    pub flags: String,
    pub bytes: u32,
    /// Task of the source, of the destination, and the one that was chosen; empty where it is nobody's.
    pub from: String,
    pub to: String,
    pub service: String,
    pub node: String,
    /// Events lost before this one.
    pub lost: u64,
}
