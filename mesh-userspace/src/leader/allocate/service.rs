//! What a service gets: a VIP and a pool number on each of its networks, and its published ports.

use std::collections::BTreeSet;

use mesh_common::schema::MAX_FRONTENDS;

use crate::model::{Cluster, Id, PortSpec, PublishMode, Service, ServiceSpec, Vip};

use super::{next_addresses, next_pool, next_port};

/// The networks that tasks of this spec are on, in order: those named, else `ingress`.
pub fn networks_of(cluster: &Cluster, spec: &ServiceSpec) -> Vec<Id> {
    let named = spec.networks.iter().filter_map(|at| Id::try_from(at.network.clone()).ok());
    let mut networks: Vec<Id> = named.filter(|id| cluster.networks.contains_key(id)).collect();
    if spec.networks.is_empty() {
        networks.extend(cluster.ingress_network().map(|network| network.id.clone()));
    }
    networks
}

/// Gives the service in the cluster what its spec asks for and it hasn't got, and takes back what it asks no more. What stays
/// asked for stays the same. What can't be had is named in `pending_reason`; asking again later is safe.
pub fn settle_service(cluster: &mut Cluster, id: &Id) {
    let Some(mut service) = cluster.services.get(id).cloned() else { return };
    service.pending_reason = None;
    settle_vips(cluster, &mut service);
    settle_ports(cluster, &mut service);
    cluster.services.insert(id.clone(), service);
}

fn settle_vips(cluster: &mut Cluster, service: &mut Service) {
    let had = std::mem::take(&mut service.vips);
    for network_id in networks_of(cluster, &service.spec) {
        if let Some(vip) = had.iter().find(|vip| vip.network_id == network_id) {
            service.vips.push(vip.clone());
            continue;
        }
        let Some(network) = cluster.networks.get(&network_id).cloned() else { continue };
        match next_addresses(cluster, &network) {
            Ok(addrs) => {
                let Some(pool) = next_pool(cluster) else {
                    let most = MAX_FRONTENDS - 1;
                    service.pending_reason =
                        Some(format!("{most} pairs of a service and a network exist, which is all: remove services"));
                    continue;
                };
                service.vips.push(Vip { network_id, addrs, pool });
                // The next search must see what this one took.
                cluster.services.insert(service.id.clone(), service.clone());
            }
            Err(used_up) => service.pending_reason = Some(used_up.to_string()),
        }
    }
}

fn settle_ports(cluster: &mut Cluster, service: &mut Service) {
    let had = std::mem::take(&mut service.ports);
    let fixed = service.spec.ports.iter().filter(|port| port.published != 0);
    let mut taken: BTreeSet<u16> = fixed.map(|port| port.published).collect();
    for wanted in service.spec.ports.clone() {
        if wanted.published != 0 || wanted.mode == PublishMode::Host {
            service.ports.push(wanted);
            continue;
        }
        let same = |port: &&PortSpec| port.is_for(&wanted) && !taken.contains(&port.published);
        let decided = match had.iter().find(same) {
            Some(port) => Ok(port.published),
            None => next_port(cluster, wanted.protocol, &taken),
        };
        match decided {
            Ok(published) => {
                taken.insert(published);
                service.ports.push(PortSpec { published, ..wanted });
            }
            Err(used_up) => service.pending_reason = Some(used_up.to_string()),
        }
    }
}
