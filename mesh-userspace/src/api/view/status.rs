//! `mesh status`: one screen of what matters, warnings last and complete.

use mesh_common::verdict::{DropReason, Hook};

use super::Facts;
use super::node::{node_state, nodes};
use super::service::service_rows;
use super::task::local_tasks;
use crate::api::{DropRow, NodeState, StatusAnswer, SwarmInfo};
use crate::model::Role;

/// Always has an answer, in a cluster or not.
pub fn status(facts: &Facts) -> StatusAnswer {
    let swarm = facts.self_node().map(|node| SwarmInfo {
        node_id: node.id.clone(),
        role: node.role,
        settings: facts.cluster.settings.clone(),
        revision: facts.cluster.revision,
        managers: facts.cluster.nodes.values().filter(|node| node.role == Role::Manager).count() as u32,
        nodes: facts.cluster.nodes.len() as u32,
    });
    StatusAnswer {
        at: facts.now,
        node_name: facts.node_name.clone(),
        agent_version: facts.agent_version.clone(),
        xdp: facts.xdp.clone(),
        swarm,
        nodes: nodes(facts).map(|listing| listing.rows).unwrap_or_default(),
        services: if facts.me.is_some() { service_rows(facts, |_| true) } else { Vec::new() },
        local_tasks: local_tasks(facts).map(|listing| listing.rows).unwrap_or_default(),
        drops: drops(facts),
        warnings: warnings(facts),
    }
}

/// The most first.
fn drops(facts: &Facts) -> Vec<DropRow> {
    let mut drops = facts.drops.clone();
    drops.sort_by_key(|(hook, reason, packets)| (std::cmp::Reverse(*packets), *hook as u8, *reason as u8));
    let row = |(hook, reason, packets): (Hook, DropReason, u64)| DropRow {
        hook: hook.name().into(),
        reason: reason.name().into(),
        packets,
        meaning: reason.meaning().into(),
        remedy: reason.remedy().into(),
    };
    drops.into_iter().map(row).collect()
}

fn warnings(facts: &Facts) -> Vec<String> {
    let mut warnings = facts.warnings.clone();
    for node in facts.cluster.nodes.values() {
        let name = &node.name;
        if node_state(facts, node) == NodeState::Down {
            warnings.push(format!("node {name} is down: its agent is not heard of"));
        } else if facts.observed.unreachable_since.contains_key(&node.id) {
            warnings.push(format!("node {name} does not answer on the data path ({})", node.data_path_addr));
        }
        if let Some(status) = facts.observed.nodes.get(&node.id) {
            let said = status.warnings.iter().filter(|said| !facts.warnings.contains(said));
            warnings.extend(said.map(|said| format!("{name}: {said}")));
            warnings.extend(
                status.ports_not_taken.iter().map(|port| format!("{name}: the host itself uses published port {port}")),
            );
        }
    }
    for service in facts.cluster.services.values() {
        if let Some(reason) = &service.pending_reason {
            warnings.push(format!("service {}: {reason}", service.spec.name));
        }
    }
    warnings
}
