//! What nodes say and the leader goes by: the runtimes that answer there at the moment, and which new tasks of an update are ready.
//!
//! It is written down, so that a command can be judged, every node's listing shows it, and a restarted leader knows it before gossip does.
//! An Engine that goes away takes no task with it: what runs there may live on, but nothing new is placed.

use std::collections::BTreeMap;

use super::Work;
use super::slots::is_live;
use crate::model::{Id, UnixMs};

/// Nodes whose agents have said nothing (yet) keep what is on record; one that says that nothing answers is believed.
pub(super) fn runtimes(work: &mut Work) {
    for node in work.after.nodes.values_mut() {
        let said = work.observed.nodes.get(&node.id).and_then(|status| status.runtimes.as_ref());
        if let Some(runtimes) = said.filter(|runtimes| **runtimes != node.runtimes) {
            node.runtimes = runtimes.clone();
        }
    }
}

/// Since when the new tasks of updates under way are ready, as the leader saw it; one that is not ready any more starts over.
pub(super) fn readiness(work: &mut Work) {
    let active = work.after.updates.iter().filter(|(_, status)| status.state.is_active());
    let seen: Vec<(Id, BTreeMap<Id, UnixMs>)> = active
        .map(|(service, status)| {
            let tasks = work.tasks_of(service).filter(|task| is_live(task) && task.created_at >= status.started_at);
            let ready = tasks.filter(|task| work.is_ready(task));
            let since = |id: &Id| status.ready_since.get(id).copied().unwrap_or(work.ctx.now);
            (service.clone(), ready.map(|task| (task.id.clone(), since(&task.id))).collect())
        })
        .collect();
    for (service, ready_since) in seen {
        if let Some(status) = work.after.updates.get_mut(&service) {
            status.ready_since = ready_since;
        }
    }
}
