//! Stacks: the networks and services of one manifest, deployed and removed together, all or nothing.

use crate::leader::Ctx;
use crate::model::{Cluster, Network, NetworkSpec, Service, ServiceSpec, Stack, UpdateState};

use super::{CommandError, Commit, network, resolve, scale, service};

/// What a deployment did, by name, in the manifest's order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StackOutcome {
    pub created_networks: Vec<String>,
    pub created_services: Vec<String>,
    pub updated_services: Vec<String>,
    pub unchanged_services: Vec<String>,
    /// Services and networks that the manifest names no more; only where pruning was asked.
    pub removed: Vec<String>,
}

fn is_of(labels: &std::collections::BTreeMap<String, String>, stack: &str) -> bool {
    labels.get(Stack::LABEL).is_some_and(|name| name == stack)
}

fn services_of(cluster: &Cluster, stack: &str) -> Vec<Service> {
    cluster.services.values().filter(|service| is_of(&service.spec.labels, stack)).cloned().collect()
}

fn networks_of(cluster: &Cluster, stack: &str) -> Vec<Network> {
    cluster.shown_networks().filter(|network| is_of(&network.spec.labels, stack)).cloned().collect()
}

/// `stack deploy`: creates what is missing, updates what is there; with `prune` removes what the manifest names no more.
pub fn deploy_stack(
    cluster: &Cluster,
    stack: Stack,
    prune: bool,
    ctx: &mut Ctx,
) -> Result<Commit<StackOutcome>, CommandError> {
    let rule = "use letters, digits, '-' and '_', at most 63, beginning and ending with a letter or digit";
    if !super::check::is_name(&stack.name, &['-', '_']) {
        return Err(CommandError::BadName { kind: "stack", name: stack.name, rule });
    }
    let mut after = cluster.clone();
    let mut outcome = StackOutcome::default();
    let dropped = |service: &Service| !stack.services.iter().any(|spec| spec.name == service.spec.name);
    if prune {
        for service in services_of(cluster, &stack.name).into_iter().filter(dropped) {
            scale::take_out(&mut after, &service);
            outcome.removed.push(service.spec.name);
        }
    }
    for spec in &stack.networks {
        if deploy_network(&mut after, &stack.name, spec.clone(), ctx)? {
            outcome.created_networks.push(spec.name.clone());
        }
    }
    // Services of one stack may hand a port to each other: what the manifest drops is free before anybody asks for it.
    for service in services_of(&after, &stack.name) {
        let wanted = stack.services.iter().find(|spec| spec.name == service.spec.name);
        if let (Some(wanted), Some(service)) = (wanted, after.services.get_mut(&service.id)) {
            service.ports.retain(|port| wanted.ports.iter().any(|spec| port.is_for(spec)));
        }
    }
    for spec in stack.services {
        let name = spec.name.clone();
        match deploy_service(&mut after, &stack.name, spec, ctx)? {
            Deployed::Created => outcome.created_services.push(name),
            Deployed::Updated => outcome.updated_services.push(name),
            Deployed::Unchanged => outcome.unchanged_services.push(name),
        }
    }
    if prune {
        let named = |network: &Network| stack.networks.iter().any(|spec| spec.name == network.spec.name);
        for old in networks_of(cluster, &stack.name).into_iter().filter(|network| !named(network)) {
            network::take_out(&mut after, &old)?;
            outcome.removed.push(old.spec.name);
        }
    }
    Ok(Commit::of(cluster, &after, outcome))
}

/// True where the network was created; one that is there must be the stack's, and as the manifest has it.
fn deploy_network(
    after: &mut Cluster,
    stack: &str,
    mut spec: NetworkSpec,
    ctx: &mut Ctx,
) -> Result<bool, CommandError> {
    spec.labels.insert(Stack::LABEL.to_string(), stack.to_string());
    let Some(there) = after.network_named(&spec.name) else {
        return network::add(after, spec, ctx).map(|_| true);
    };
    if !is_of(&there.spec.labels, stack) {
        return Err(CommandError::NotOfStack { stack: stack.to_string(), kind: "network", name: spec.name });
    }
    if there.spec != spec {
        return Err(CommandError::NetworkDiffers { stack: stack.to_string(), network: spec.name });
    }
    Ok(false)
}

enum Deployed {
    Created,
    Updated,
    Unchanged,
}

fn deploy_service(
    after: &mut Cluster,
    stack: &str,
    mut spec: ServiceSpec,
    ctx: &mut Ctx,
) -> Result<Deployed, CommandError> {
    spec.labels.insert(Stack::LABEL.to_string(), stack.to_string());
    let Some(there) = after.service_named(&spec.name).cloned() else {
        return service::add(after, spec, ctx).map(|_| Deployed::Created);
    };
    if !is_of(&there.spec.labels, stack) {
        return Err(CommandError::NotOfStack { stack: stack.to_string(), kind: "service", name: spec.name });
    }
    // `service update --force` of before is no reason to replace the tasks again.
    spec.task.force_update = there.spec.task.force_update;
    let now = service::replace_spec(after, &there.id, spec, UpdateState::Updating, ctx)?;
    Ok(if now.version == there.version { Deployed::Unchanged } else { Deployed::Updated })
}

/// `stack rm`: the answer names what went. Refused while services outside the stack are on its networks.
pub fn remove_stack(cluster: &Cluster, stack: &str) -> Result<Commit<Vec<String>>, CommandError> {
    let (services, networks) = (services_of(cluster, stack), networks_of(cluster, stack));
    if services.is_empty() && networks.is_empty() {
        return Err(CommandError::NoSuchStack { stack: stack.to_string() });
    }
    let mut after = cluster.clone();
    let mut removed = Vec::new();
    for service in services {
        scale::take_out(&mut after, &service);
        removed.push(service.spec.name);
    }
    for there in networks {
        let there = resolve::network(&after, there.id.as_str())?.clone();
        network::take_out(&mut after, &there)?;
        removed.push(there.spec.name);
    }
    Ok(Commit::of(cluster, &after, removed))
}
