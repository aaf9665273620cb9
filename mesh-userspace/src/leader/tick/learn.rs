//! What nodes say of themselves and the leader goes by: the runtimes that answer there at the moment.
//!
//! It is written down, so that a command can be judged, every node's listing shows it, and a restarted leader knows it before gossip does.
//! An Engine that goes away takes no task with it: what runs there may live on, but nothing new is placed.

use super::Work;

/// Nodes whose agents have said nothing (yet) keep what is on record; one that says that nothing answers is believed.
pub(super) fn runtimes(work: &mut Work) {
    for node in work.after.nodes.values_mut() {
        let said = work.observed.nodes.get(&node.id).and_then(|status| status.runtimes.as_ref());
        if let Some(runtimes) = said.filter(|runtimes| **runtimes != node.runtimes) {
            node.runtimes = runtimes.clone();
        }
    }
}
