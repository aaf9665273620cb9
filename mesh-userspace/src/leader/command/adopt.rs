//! Containers that join by their labels: a node says which of them it has, and the cluster is brought to that.
//!
//! ```text
//! listed, without a task   → joins the service of its label, which is made for the first one   or a refusal in words
//! a task, not listed       → the container is gone: so is the task
//! ```
//! Invariant: the same list again changes nothing, so a lost answer costs nothing. Who was sent away by `service rm` is not taken in again
//! while his node goes on listing him. Must not: touch a service with tasks of its own, or a container.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use crate::leader::Ctx;
use crate::leader::allocate::settle_service;
use crate::leader::tick::attach;
use crate::model::{
    Cluster, Id, LabelledContainer, Mode, NetworkAttachment, NotAdopted, PortSpec, Protocol, Runtime, Service,
    ServiceSpec, Task, TaskSpec, TaskState,
};

use super::check::check;
use super::{CommandError, Commit, resolve, service};

/// Brings the tasks of others' containers on this node to the list of those that run there.
pub fn adopt_containers(
    cluster: &Cluster,
    node: &Id,
    listed: &[LabelledContainer],
    ctx: &mut Ctx,
) -> Result<Commit<Vec<NotAdopted>>, CommandError> {
    resolve::node(cluster, node.as_str())?;
    let mut after = cluster.clone();
    release(&mut after, node, listed);
    let mut refused = Vec::new();
    for asking in listed {
        if has_joined(&after, node, &asking.container) {
            continue;
        }
        let mut trial = after.clone();
        match admit(&mut trial, node, asking, ctx) {
            Ok(()) => after = trial,
            Err(error) => refused.push(NotAdopted { container: asking.container.clone(), why: error.to_string() }),
        }
    }
    Ok(Commit::of(cluster, &after, refused))
}

/// The container of this node is a task already, is ending as one, or was sent away.
pub fn has_joined(cluster: &Cluster, node: &Id, container: &str) -> bool {
    let tasks = cluster.tasks.values().filter(|task| task.adopted.as_deref() == Some(container));
    let mut tasks = tasks.filter(|task| task.node_id.as_ref() == Some(node));
    tasks.any(|task| task.desired != TaskState::Shutdown || !task.attachments.is_empty())
}

fn release(after: &mut Cluster, node: &Id, listed: &[LabelledContainer]) {
    let listed: BTreeSet<&str> = listed.iter().map(|container| container.container.as_str()).collect();
    let is_gone = |task: &Task| {
        let container = task.adopted.as_deref().filter(|_| task.node_id.as_ref() == Some(node));
        container.is_some_and(|container| !listed.contains(container))
    };
    let gone: Vec<Id> = after.tasks.values().filter(|task| is_gone(task)).map(|task| task.id.clone()).collect();
    for id in &gone {
        let task = &after.tasks[id];
        match task.desired {
            TaskState::Remove if task.attachments.is_empty() => drop(after.tasks.remove(id)),
            TaskState::Running => {
                let task = &mut after.tasks[id];
                task.desired = TaskState::Shutdown;
                task.message = "its container stopped".to_string();
            }
            _ => {}
        }
    }
}

fn admit(after: &mut Cluster, node: &Id, asking: &LabelledContainer, ctx: &mut Ctx) -> Result<(), CommandError> {
    let spec = spec_of(after, asking)?;
    let service = match after.service_named(&spec.name).cloned() {
        None => service::add(after, spec, ctx)?,
        Some(there) if there.spec.mode != Mode::Adopted => {
            return Err(CommandError::NotAdopting { service: spec.name });
        }
        Some(there) if same_labels(&there.spec, &spec) => there,
        // Nobody is in it: the newcomer's labels count.
        Some(there) if live(after, &there).next().is_none() => change(after, &there, spec, ctx)?,
        Some(there) => return Err(difference(after, &there.spec, &spec)),
    };
    let refused = |reason| CommandError::NoPlaceToJoin { service: service.spec.name.clone(), reason };
    if let Some(reason) = service.pending_reason.clone() {
        return Err(refused(reason));
    }
    let task = Task {
        id: ctx.new_task_id(after),
        service_id: service.id.clone(),
        service_name: service.spec.name.clone(),
        slot: free_slot(after, &service),
        node_id: Some(node.clone()),
        spec: Arc::new(TaskSpec {
            image: asking.image.clone(),
            hostname: Some(asking.name.clone()),
            ..TaskSpec::new(Runtime::Docker)
        }),
        service_version: service.version,
        attachments: attach(after, &service).map_err(|used_up| refused(used_up.to_string()))?,
        desired: TaskState::Running,
        draining: false,
        leader_state: None,
        message: String::new(),
        created_at: ctx.now,
        not_before: 0,
        adopted: Some(asking.container.clone()),
    };
    after.tasks.insert(task.id.clone(), task);
    Ok(())
}

/// The service that the labels describe, with the ids of its networks.
fn spec_of(cluster: &Cluster, asking: &LabelledContainer) -> Result<ServiceSpec, CommandError> {
    let mut spec = ServiceSpec::new(&asking.service, Runtime::Docker);
    spec.mode = Mode::Adopted;
    spec.task.image = asking.image.clone();
    spec.ports = asking.ports.clone();
    for name in &asking.networks {
        let network = resolve::network(cluster, name).map_err(|error| match error {
            CommandError::NotFound { reference, .. } => CommandError::NoNetworkToJoin { network: reference },
            other => other,
        })?;
        if !network.spec.attachable && !network.ingress {
            return Err(CommandError::NotAttachable { network: network.spec.name.clone() });
        }
        spec.networks.push(NetworkAttachment { network: network.id.to_string(), aliases: asking.aliases.clone() });
    }
    let own = cluster.service_named(&spec.name).filter(|service| service.spec.mode == Mode::Adopted);
    match cluster.service_named(&spec.name) {
        Some(_) if own.is_none() => Err(CommandError::NotAdopting { service: spec.name }),
        _ => check(cluster, spec, own.map(|service| &service.id)),
    }
}

fn live<'a>(cluster: &'a Cluster, service: &'a Service) -> impl Iterator<Item = &'a Task> {
    cluster.tasks_of(&service.id).filter(|task| task.desired == TaskState::Running)
}

/// The lowest number that nobody has. A slot that was somebody's is free as soon as he is told to end.
fn free_slot(cluster: &Cluster, service: &Service) -> u32 {
    let taken: BTreeSet<u32> = live(cluster, service).map(|task| task.slot).collect();
    (1..).find(|slot| !taken.contains(slot)).unwrap_or(1) // there are fewer tasks than numbers
}

/// Addresses and ports that stay asked for stay the same.
fn change(after: &mut Cluster, there: &Service, spec: ServiceSpec, ctx: &Ctx) -> Result<Service, CommandError> {
    let mut service = there.clone();
    service.spec = spec;
    service.version += 1;
    service.updated_at = ctx.now;
    after.services.insert(service.id.clone(), service);
    settle_service(after, &there.id);
    Ok(after.services[&there.id].clone())
}

fn sorted(mut words: Vec<String>) -> Vec<String> {
    words.sort();
    words
}

fn networks(spec: &ServiceSpec) -> Vec<String> {
    sorted(spec.networks.iter().map(|at| at.network.clone()).collect())
}

fn aliases(spec: &ServiceSpec) -> Vec<String> {
    sorted(spec.networks.first().map_or(Vec::new(), |at| at.aliases.clone()))
}

fn ports(spec: &ServiceSpec) -> Vec<String> {
    sorted(spec.ports.iter().map(port_words).collect())
}

/// As the label has it.
fn port_words(port: &PortSpec) -> String {
    let protocol = match port.protocol {
        Protocol::Tcp => "",
        Protocol::Udp => "/udp",
        Protocol::Sctp => "/sctp",
    };
    let address = match port.address {
        Some(IpAddr::V6(addr)) => format!("[{addr}]:"),
        Some(addr) => format!("{addr}:"),
        None => String::new(),
    };
    if let Some(interface) = &port.interface {
        let protocol = protocol.strip_prefix('/').unwrap_or("tcp");
        let published = if port.published == 0 { String::new() } else { format!("published={},", port.published) };
        return format!("{published}target={},protocol={protocol},interface={interface}", port.target);
    }
    match port.published {
        0 if address.is_empty() => format!("{}{protocol}", port.target),
        0 => format!("{address}:{}{protocol}", port.target),
        published => format!("{address}{published}:{}{protocol}", port.target),
    }
}

fn same_labels(there: &ServiceSpec, asked: &ServiceSpec) -> bool {
    [networks, aliases, ports].iter().all(|of| of(there) == of(asked))
}

/// The first thing that two containers of one service don't agree on.
fn difference(cluster: &Cluster, there: &ServiceSpec, asked: &ServiceSpec) -> CommandError {
    let name_of = |id: &String| {
        let network = cluster.networks.values().find(|network| network.id.as_str() == id);
        network.map_or(id.clone(), |network| network.spec.name.clone())
    };
    let named = |spec: &ServiceSpec| sorted(networks(spec).iter().map(name_of).collect());
    let (what, there_is, asked_is) = if networks(there) != networks(asked) {
        ("networks", named(there), named(asked))
    } else if ports(there) != ports(asked) {
        ("ports", ports(there), ports(asked))
    } else {
        ("aliases", aliases(there), aliases(asked))
    };
    let words = |list: Vec<String>| if list.is_empty() { "none".to_string() } else { list.join(",") };
    CommandError::LabelsDiffer { service: asked.name.clone(), what, there: words(there_is), asked: words(asked_is) }
}
