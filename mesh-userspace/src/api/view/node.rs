//! Nodes as `node ls` and `node inspect` show them.

use super::Facts;
use crate::api::{ApiError, Listing, ManagerStatus, NodeDetail, NodeRow, NodeState};
use crate::model::{Node, Role};

pub fn nodes(facts: &Facts) -> Result<Listing<NodeRow>, ApiError> {
    facts.member()?;
    let mut rows: Vec<NodeRow> = facts.cluster.nodes.values().map(|node| node_row(facts, node)).collect();
    rows.sort_by(|a, b| a.hostname.cmp(&b.hostname));
    Ok(Listing { at: facts.now, rows })
}

pub fn node_detail(facts: &Facts, word: &str) -> Result<NodeDetail, ApiError> {
    let node = facts.find_node(word)?;
    Ok(NodeDetail {
        row: node_row(facts, node),
        node: node.clone(),
        status: facts.observed.nodes.get(&node.id).cloned(),
    })
}

/// Down needs both proofs: SWIM has lost the agent and, where a data path was ever judged, its echo is gone as well.
pub(super) fn node_state(facts: &Facts, node: &Node) -> NodeState {
    if facts.me.as_ref() == Some(&node.id) {
        return NodeState::Ready;
    }
    match facts.observed.agent_alive.get(&node.id) {
        Some(true) => NodeState::Ready,
        Some(false) => NodeState::Down,
        None => NodeState::Unknown,
    }
}

pub(super) fn node_row(facts: &Facts, node: &Node) -> NodeRow {
    let state = node_state(facts, node);
    let manager = match (node.role, state) {
        (Role::Worker, _) => None,
        (Role::Manager, NodeState::Ready) if node.holds_store => Some(ManagerStatus::Leader),
        (Role::Manager, NodeState::Ready) => Some(ManagerStatus::Reachable),
        (Role::Manager, _) => Some(ManagerStatus::Unreachable),
    };
    let status = facts.observed.nodes.get(&node.id);
    NodeRow {
        id: node.id.clone(),
        hostname: node.name.clone(),
        is_self: facts.me.as_ref() == Some(&node.id),
        state,
        availability: node.availability,
        manager,
        agent_version: status.map(|status| status.agent_version.clone()).unwrap_or_default(),
        engine_version: status.and_then(|status| status.engine_version.clone()),
        address: node.advertise_addr,
        unreachable_since: facts.observed.unreachable_since.get(&node.id).copied(),
    }
}
