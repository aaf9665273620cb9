//! What each node has on it, counted once for all placements of a tick.

use std::collections::{HashMap, HashSet};

use crate::model::{Cluster, Id, PortSpec, Protocol, PublishMode, Service, Task, TaskState, UnixMs};

use super::slots::is_live;
use super::{restart, runs_the_same};

/// So many failures of a service on one node, so recently, make the node its last choice.
const FAILURES: usize = 5;
const FAILURES_WITHIN_MS: u64 = 5 * 60 * 1000;

/// Counts by node, or by node and service.
#[derive(Default)]
pub(super) struct Tally {
    live: HashMap<Id, usize>,
    live_of: HashMap<(Id, Id), usize>,
    failures_of: HashMap<(Id, Id), usize>,
    host_ports: HashSet<(Id, Protocol, u16)>,
}

/// The ports that a service's tasks hold on their node alone.
pub(super) fn host_ports(service: &Service) -> impl Iterator<Item = &PortSpec> {
    service.ports.iter().filter(|port| port.mode == PublishMode::Host && port.published != 0)
}

impl Tally {
    pub(super) fn of(cluster: &Cluster, now: UnixMs) -> Self {
        let mut tally = Tally::default();
        for task in cluster.tasks.values() {
            let Some(node) = &task.node_id else { continue };
            let service = cluster.services.get(&task.service_id);
            // A task that is ending holds its port until its node says that it ended.
            let holds_ports = !task.leader_state.is_some_and(TaskState::is_terminal);
            tally.add(task, node, service.filter(|_| holds_ports));
            if service.is_some_and(|service| failed_lately(task, service, now)) {
                *tally.failures_of.entry((node.clone(), task.service_id.clone())).or_default() += 1;
            }
        }
        tally
    }

    /// Counts a task that is, or was just put, on the node; `service`: whose ports it holds there.
    pub(super) fn add(&mut self, task: &Task, node: &Id, service: Option<&Service>) {
        if is_live(task) {
            *self.live.entry(node.clone()).or_default() += 1;
            *self.live_of.entry((node.clone(), task.service_id.clone())).or_default() += 1;
        }
        let ports = service.into_iter().flat_map(host_ports);
        self.host_ports.extend(ports.map(|port| (node.clone(), port.protocol, port.published)));
    }

    /// Tasks on the node that shall run.
    pub(super) fn live(&self, node: &Id) -> usize {
        self.live.get(node).copied().unwrap_or(0)
    }

    /// Of these, the service's.
    pub(super) fn live_of(&self, node: &Id, service: &Id) -> usize {
        self.live_of.get(&(node.clone(), service.clone())).copied().unwrap_or(0)
    }

    /// The service keeps failing on the node.
    pub(super) fn fails_there(&self, node: &Id, service: &Id) -> bool {
        self.failures_of.get(&(node.clone(), service.clone())).is_some_and(|failures| *failures >= FAILURES)
    }

    /// Somebody holds this port on the node.
    pub(super) fn holds(&self, node: &Id, port: &PortSpec) -> bool {
        self.host_ports.contains(&(node.clone(), port.protocol, port.published))
    }
}

fn failed_lately(task: &Task, service: &Service, now: UnixMs) -> bool {
    restart::ended_by_itself(task)
        && task.leader_state != Some(TaskState::Complete)
        && task.created_at + FAILURES_WITHIN_MS > now
        && runs_the_same(&task.spec, &service.spec.task)
}
