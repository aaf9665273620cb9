//! Networks as `network ls` and `network inspect` show them; the verbose part is this node's own belief, so that
//! two nodes' answers can be compared.

use std::collections::BTreeMap;

use super::Facts;
use super::task::is_present;
use crate::api::{ApiError, Listing, NetworkDetail, NetworkPeer, NetworkRow, NetworkService, NetworkTask};
use crate::model::{EndpointMode, Network, Service, Task};

pub fn networks(facts: &Facts) -> Result<Listing<NetworkRow>, ApiError> {
    facts.member()?;
    let mut rows: Vec<NetworkRow> = facts
        .cluster
        .shown_networks()
        .map(|network| NetworkRow {
            id: network.id.clone(),
            name: network.spec.name.clone(),
            vni: network.vni,
            subnets: network.subnets,
            internal: network.spec.internal,
            attachable: network.spec.attachable,
            ingress: network.ingress,
            labels: network.spec.labels.clone(),
            created_at: network.created_at,
        })
        .collect();
    rows.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Listing { at: facts.now, rows })
}

pub fn network_detail(facts: &Facts, word: &str) -> Result<NetworkDetail, ApiError> {
    let network = facts.find_network(word)?;
    let present: Vec<&Task> = facts
        .cluster
        .tasks
        .values()
        .filter(|task| is_present(facts, task))
        .filter(|task| task.attachments.iter().any(|at| at.network_id == network.id))
        .collect();
    let mut peers: BTreeMap<&str, NetworkPeer> = BTreeMap::new();
    for node in present.iter().filter_map(|task| facts.cluster.nodes.get(task.node_id.as_ref()?)) {
        let peer = NetworkPeer { name: node.name.clone(), ip: node.data_path_addr };
        peers.insert(&node.name, peer);
    }
    let mut services: Vec<NetworkService> = facts
        .cluster
        .services
        .values()
        .filter_map(|service| network_service(facts, network, service, &present))
        .collect();
    services.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(NetworkDetail {
        network: network.clone(),
        local_tasks: present
            .iter()
            .filter(|task| task.node_id.is_some() && task.node_id == facts.me)
            .filter_map(|task| network_task(facts, network, task))
            .collect(),
        peers: peers.into_values().collect(),
        services,
    })
}

fn network_service(facts: &Facts, network: &Network, service: &Service, present: &[&Task]) -> Option<NetworkService> {
    let vip = service.vips.iter().find(|vip| vip.network_id == network.id)?;
    Some(NetworkService {
        name: service.spec.name.clone(),
        vip: (service.spec.endpoint_mode == EndpointMode::Vip).then_some(vip.addrs),
        ports: service.ports.clone(),
        pool: vip.pool,
        tasks: present
            .iter()
            .filter(|task| task.service_id == service.id)
            .filter_map(|task| network_task(facts, network, task))
            .collect(),
    })
}

fn network_task(facts: &Facts, network: &Network, task: &Task) -> Option<NetworkTask> {
    let attachment = task.attachments.iter().find(|at| at.network_id == network.id)?;
    Some(NetworkTask {
        id: task.id.clone(),
        name: format!("{}.{}", task.name(), task.id),
        endpoint: attachment.endpoint,
        addrs: attachment.addrs,
        host: task.node_id.as_ref().and_then(|id| facts.cluster.nodes.get(id)).map(|node| node.data_path_addr),
    })
}
