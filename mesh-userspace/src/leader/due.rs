//! When the leader should look again though nobody says anything: delays, grace times and trials end in silence.
//!
//! Invariant: between two looks nothing that the tick does falls due before this moment (`world` holds every scenario to it). More moments
//! than are needed cost an idle tick each; so whether one will matter is not asked here.

use super::Timing;
use super::tick::trial_ms;
use crate::model::{Cluster, Observed, UnixMs};

/// The next moment after `now` at which a tick may find something to do with the facts of today; None: only news can change anything.
pub fn due(cluster: &Cluster, observed: &Observed, now: UnixMs, timing: Timing) -> Option<UnixMs> {
    let restarts = cluster.tasks.values().map(|task| task.not_before);
    let unreachable = observed.unreachable_since.values().map(|since| since + timing.unreachable_grace_ms);
    let gone = observed.agent_gone_since.values().map(|since| since + timing.agent_gone_ms);
    let updated = cluster.updates.iter().filter(|(_, status)| status.state.is_active());
    let trials = updated.filter_map(|(id, status)| Some((cluster.services.get(id)?, status.ready_since.values())));
    let trials = trials.flat_map(|(service, since)| {
        let rules = [service.spec.update, service.spec.rollback];
        since.flat_map(move |since| rules.map(|rules| (*since, rules)))
    });
    let trials = trials.flat_map(|(since, rules)| [since + rules.delay_ms, since + trial_ms(&rules)]);
    restarts.chain(unreachable).chain(gone).chain(trials).filter(|moment| *moment > now).min()
}
