//! Services as `service ls` and `service inspect` show them.

use super::Facts;
use super::node::node_state;
use super::task::{image_of, rows_of, task_state};
use crate::api::{ApiError, Listing, NodeState, ServiceDetail, ServiceRow, ServiceVip};
use crate::model::{Availability, EndpointMode, Mode, Service, Task, TaskHealth, TaskState, Vip};

pub fn services(facts: &Facts) -> Result<Listing<ServiceRow>, ApiError> {
    facts.member()?;
    Ok(Listing { at: facts.now, rows: service_rows(facts, |_| true) })
}

pub fn service_detail(facts: &Facts, word: &str) -> Result<ServiceDetail, ApiError> {
    let service = facts.find_service(word)?;
    let (running, desired) = replicas(facts, service);
    Ok(ServiceDetail {
        at: facts.now,
        service: service.clone(),
        vips: vips(facts, service),
        running,
        desired,
        outdated: outdated(facts, service),
        update: facts.cluster.updates.get(&service.id).cloned(),
        tasks: rows_of(facts, service),
    })
}

pub(super) fn service_rows(facts: &Facts, filter: impl Fn(&Service) -> bool) -> Vec<ServiceRow> {
    let services = facts.cluster.services.values().filter(|service| filter(service));
    let mut rows: Vec<ServiceRow> = services.map(|service| service_row(facts, service)).collect();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    rows
}

fn service_row(facts: &Facts, service: &Service) -> ServiceRow {
    let (running, desired) = replicas(facts, service);
    ServiceRow {
        id: service.id.clone(),
        name: service.spec.name.clone(),
        mode: service.spec.mode,
        running,
        desired,
        image: image_of(&service.spec.task),
        ports: service.ports.clone(),
        pending_reason: service.pending_reason.clone(),
    }
}

/// Running and wanted tasks. A task counts while its node is not Down and it isn't on its way out; for a global
/// service wanted is what the leader has made tasks for, or the nodes it could use where it hasn't begun.
fn replicas(facts: &Facts, service: &Service) -> (u32, u32) {
    let wanted = || facts.cluster.tasks_of(&service.id).filter(|task| task.desired == TaskState::Running);
    let is_up = |id| facts.cluster.nodes.get(id).is_some_and(|node| node_state(facts, node) != NodeState::Down);
    let running = wanted()
        .filter(|task| !task.draining && task_state(task, &facts.observed) == TaskState::Running)
        .filter(|task| task.node_id.as_ref().is_some_and(is_up) && !is_unhealthy(facts, task))
        .count() as u32;
    let desired = match service.spec.mode {
        Mode::Replicated { replicas } => replicas,
        Mode::Global => match wanted().count() as u32 {
            0 if service.spec.task.constraints.is_empty() => {
                let runtime = &service.spec.task.runtime;
                let nodes = facts.cluster.nodes.values().filter(|node| node.runtimes.contains(runtime));
                nodes.filter(|node| node.availability == Availability::Active).count() as u32
            }
            count => count,
        },
        Mode::Adopted => wanted().count() as u32,
    };
    (running, desired)
}

/// It still runs, but nobody is sent there any more.
fn is_unhealthy(facts: &Facts, task: &Task) -> bool {
    facts.observed.tasks.get(&task.id).is_some_and(|status| status.health == Some(TaskHealth::Unhealthy))
}

fn outdated(facts: &Facts, service: &Service) -> u32 {
    let wanted = facts.cluster.tasks_of(&service.id).filter(|task| task.desired == TaskState::Running);
    // Containers that joined are of many images, and none of them is outdated.
    wanted.filter(|task| task.adopted.is_none() && *task.spec != service.spec.task).count() as u32
}

fn vips(facts: &Facts, service: &Service) -> Vec<ServiceVip> {
    if service.spec.endpoint_mode == EndpointMode::Dnsrr {
        return Vec::new();
    }
    let of_network = |vip: &Vip| {
        let network = facts.cluster.networks.get(&vip.network_id)?;
        let of_family = |addr| ServiceVip { network_id: network.id.clone(), network: network.spec.name.clone(), addr };
        Some(vip.addrs.within(&network.subnets).map(of_family).collect::<Vec<_>>())
    };
    service.vips.iter().filter_map(of_network).flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::super::fixture::facts;
    use super::*;

    #[test]
    fn a_task_of_a_node_that_is_down_does_not_count() {
        let mut facts = facts();
        assert_eq!(service_detail(&facts, "whoami").map(|detail| (detail.running, detail.desired)), Ok((2, 2)));
        let n2 = facts.cluster.node_named("n2").expect("in the fixture").id.clone();
        Arc::make_mut(&mut facts.observed).agent_alive.insert(n2, false);
        assert_eq!(service_detail(&facts, "whoami").map(|detail| (detail.running, detail.desired)), Ok((1, 2)));
    }
}
