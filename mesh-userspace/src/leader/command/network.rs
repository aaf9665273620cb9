//! Networks: a name, a VNI, a subnet that nobody else has.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::leader::Ctx;
use crate::leader::allocate::{SubnetsUsedUp, first_host, networks_of, next_subnet, next_vni, overlap};
use crate::model::{Addresses, Cluster, Id, Network, NetworkSpec, Settings, Subnets, TaskState};

use super::{CommandError, Commit, resolve};

/// Names that mean something else where users come from.
const RESERVED: [&str; 4] = ["ingress", "host", "none", "bridge"];

/// `network create`.
pub fn create_network(cluster: &Cluster, spec: NetworkSpec, ctx: &mut Ctx) -> Result<Commit<Network>, CommandError> {
    let mut after = cluster.clone();
    let network = add(&mut after, spec, ctx)?;
    Ok(Commit::of(cluster, &after, network))
}

/// Adds a network to the copy of the cluster that a command works on.
pub(super) fn add(after: &mut Cluster, spec: NetworkSpec, ctx: &mut Ctx) -> Result<Network, CommandError> {
    let settings = after.settings.clone().ok_or(CommandError::NotInitialised)?;
    check(after, &spec)?;
    let subnets = subnets(after, &settings, &spec)
        .map_err(|source| CommandError::SubnetsUsedUp { network: spec.name.clone(), source })?;
    let vni = next_vni(after).ok_or_else(|| CommandError::VnisUsedUp { network: spec.name.clone() })?;
    let gateways = gateways(&subnets, &spec.gateways);
    let network = Network {
        id: ctx.new_id(),
        spec,
        vni,
        subnets,
        gateways,
        ingress: false,
        removing: false,
        created_at: ctx.now,
    };
    after.networks.insert(network.id.clone(), network.clone());
    Ok(network)
}

/// One of each family that is asked for: the one that is named, or the next one of the pool.
pub(super) fn subnets(after: &mut Cluster, settings: &Settings, spec: &NetworkSpec) -> Result<Subnets, SubnetsUsedUp> {
    let mut subnets = spec.subnets;
    if spec.ipv4 && subnets.v4.is_none() {
        subnets.set(next_subnet(after, settings.address_pool.into(), settings.subnet_len)?);
    }
    if spec.wants_ipv6() && subnets.v6.is_none() {
        subnets.set(next_subnet(after, settings.pool_of_ipv6().into(), Settings::SUBNET6_LEN)?);
    }
    Ok(subnets)
}

/// One in each subnet: the one that is named, or the first host's.
pub(super) fn gateways(subnets: &Subnets, named: &Addresses) -> Addresses {
    let named = |subnet: IpNet| named.each().find(|gateway| subnet.contains(gateway));
    subnets.each().map(|subnet| named(subnet).unwrap_or_else(|| first_host(subnet))).collect()
}

fn check(cluster: &Cluster, spec: &NetworkSpec) -> Result<(), CommandError> {
    let name = || spec.name.clone();
    let rule = if RESERVED.contains(&spec.name.as_str()) {
        Some("the name is reserved")
    } else if !super::check::is_name(&spec.name, &['-', '_', '.']) {
        Some("use letters, digits, '-', '_' and '.', at most 63, beginning and ending with a letter or digit")
    } else {
        None
    };
    if let Some(rule) = rule {
        return Err(CommandError::BadName { kind: "network", name: name(), rule });
    }
    if let Some(other) = cluster.network_named(&spec.name) {
        return Err(CommandError::NameTaken { kind: "network", name: name(), id: other.id.short().to_string() });
    }
    if let Some(mtu) = spec.mtu.filter(|mtu| !(576..=65485).contains(mtu)) {
        return Err(CommandError::BadMtu { network: name(), mtu });
    }
    if let Some(mtu) = spec.mtu.filter(|mtu| *mtu < 1280 && spec.wants_ipv6()) {
        return Err(CommandError::SmallMtu { network: name(), mtu });
    }
    if !spec.ipv4 && (spec.subnets.v4.is_some() || !spec.wants_ipv6()) {
        return Err(CommandError::NoFamily { network: name(), names_ipv4: spec.subnets.v4.is_some() });
    }
    for subnet in spec.subnets.each() {
        check_subnet(&spec.name, subnet)?;
        if let Some(with) = overlap(cluster, subnet) {
            return Err(CommandError::Overlaps { network: name(), subnet: subnet.to_string(), with });
        }
    }
    for gateway in spec.gateways.each() {
        if let Some(rule) = gateway_rule(&spec.subnets, gateway) {
            return Err(CommandError::BadGateway { network: name(), gateway: gateway.to_string(), rule });
        }
    }
    Ok(())
}

/// What speaks against this gateway.
fn gateway_rule(subnets: &Subnets, gateway: IpAddr) -> Option<String> {
    let Some(subnet) = subnets.each().find(|subnet| subnet.addr().is_ipv4() == gateway.is_ipv4()) else {
        return Some("name the subnet too (--subnet)".into());
    };
    if !subnet.contains(&gateway) {
        return Some(format!("it is not in the subnet {subnet}"));
    }
    let is_end = [subnet.network(), subnet.broadcast()].contains(&gateway);
    is_end.then(|| format!("it is the first or last address of {subnet}, which hosts can't have"))
}

fn check_subnet(network: &str, subnet: IpNet) -> Result<(), CommandError> {
    let rule = if subnet.trunc() != subnet {
        Some(format!("its host bits are not zero, {} is meant perhaps", subnet.trunc()))
    } else {
        super::check::subnet_rule(subnet).map(str::to_string)
    };
    let bad = |rule| CommandError::BadSubnet { network: network.to_string(), subnet: subnet.to_string(), rule };
    rule.map_or(Ok(()), |rule| Err(bad(rule)))
}

/// No task has an address in it, not even one that is ending.
pub(in crate::leader) fn is_vacant(cluster: &Cluster, network: &Id) -> bool {
    cluster.tasks.values().flat_map(|task| &task.attachments).all(|at| at.network_id != *network)
}

/// A vacant network and what the allocator knows of it.
pub(in crate::leader) fn forget(after: &mut Cluster, network: &Id) {
    after.networks.remove(network);
    after.counters.addresses.remove(network);
}

/// `network rm`. Refused while a service is on it; tasks that are only ending keep it until they have ended.
pub fn remove_network(cluster: &Cluster, reference: &str) -> Result<Commit<Network>, CommandError> {
    let network = resolve::network(cluster, reference)?.clone();
    let mut after = cluster.clone();
    take_out(&mut after, &network)?;
    Ok(Commit::of(cluster, &after, network))
}

/// Takes a network out of the copy of the cluster that a command works on: at once where no task has an address in it, else its name now and
/// the rest by the tick.
pub(super) fn take_out(after: &mut Cluster, network: &Network) -> Result<(), CommandError> {
    if network.ingress {
        return Err(CommandError::IngressStays);
    }
    let services = after.services.values();
    let users = services.filter(|service| networks_of(after, &service.spec).contains(&network.id));
    let mut users: Vec<_> = users.map(|service| format!("service '{}'", service.spec.name)).collect();
    // An update that takes the network away may not be through with all tasks.
    let tasks = after.tasks.values().filter(|task| task.desired == TaskState::Running);
    let tasks = tasks.filter(|task| task.attachments.iter().any(|at| at.network_id == network.id));
    if users.is_empty() {
        users.extend(tasks.map(|task| format!("task '{}'", task.name())));
    }
    if !users.is_empty() {
        users.sort();
        return Err(CommandError::NetworkInUse { network: network.spec.name.clone(), users: users.join(", ") });
    }
    if is_vacant(after, &network.id) {
        forget(after, &network.id);
    } else if let Some(network) = after.networks.get_mut(&network.id) {
        network.removing = true;
    }
    // A spec that could be rolled back to must not name what is gone: the network would be missing without a word.
    let names_it = |spec: &crate::model::ServiceSpec| spec.networks.iter().any(|at| at.network == network.id.as_str());
    let naming = after.services.values().filter(|service| service.previous_spec.as_deref().is_some_and(names_it));
    let naming: Vec<Id> = naming.map(|service| service.id.clone()).collect();
    for id in &naming {
        after.services[id].previous_spec = None;
    }
    Ok(())
}
