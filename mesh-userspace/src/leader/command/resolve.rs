//! How users name objects: full id, name, or a prefix of an id or of a task's name that only one object has – in this order.

use crate::model::{Cluster, Id, Network, Node, Service, Task};

use super::CommandError;

/// One object a reference may mean.
struct Candidate<'a, T> {
    id: &'a Id,
    name: String,
    object: &'a T,
}

fn resolve<'a, T>(
    kind: &'static str,
    reference: &str,
    candidates: impl Iterator<Item = Candidate<'a, T>> + Clone,
) -> Result<&'a T, CommandError> {
    if let Some(exact) = candidates.clone().find(|candidate| candidate.id.as_str() == reference) {
        return Ok(exact.object);
    }
    let named = unique(kind, reference, candidates.clone().filter(|candidate| candidate.name == reference))?;
    let by_prefix = || candidates.filter(|candidate| candidate.id.as_str().starts_with(reference));
    match named {
        Some(object) => Ok(object),
        None if reference.is_empty() => Err(CommandError::NotFound { kind, reference: String::new() }),
        None => unique(kind, reference, by_prefix())?
            .ok_or_else(|| CommandError::NotFound { kind, reference: reference.to_string() }),
    }
}

/// The only candidate; None where there is none.
fn unique<'a, T>(
    kind: &'static str,
    reference: &str,
    candidates: impl Iterator<Item = Candidate<'a, T>>,
) -> Result<Option<&'a T>, CommandError> {
    let found: Vec<_> = candidates.collect();
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(one.object)),
        several => {
            let mut names: Vec<_> = several.iter().map(|one| format!("{} ({})", one.name, one.id.short())).collect();
            names.sort();
            Err(CommandError::Ambiguous { kind, reference: reference.to_string(), candidates: names.join(", ") })
        }
    }
}

/// The network of this name, id or id prefix.
pub fn network<'a>(cluster: &'a Cluster, reference: &str) -> Result<&'a Network, CommandError> {
    let all = cluster.shown_networks();
    resolve("network", reference, all.map(|one| Candidate { id: &one.id, name: one.spec.name.clone(), object: one }))
}

/// The node of this name, id or id prefix.
pub fn node<'a>(cluster: &'a Cluster, reference: &str) -> Result<&'a Node, CommandError> {
    let all = cluster.nodes.values();
    resolve("node", reference, all.map(|one| Candidate { id: &one.id, name: one.name.clone(), object: one }))
}

/// The service of this name, id or id prefix.
pub fn service<'a>(cluster: &'a Cluster, reference: &str) -> Result<&'a Service, CommandError> {
    let all = cluster.services.iter().map(|(_, service)| service);
    resolve("service", reference, all.map(|one| Candidate { id: &one.id, name: one.spec.name.clone(), object: one }))
}

/// The task of this id, id prefix, or name (`web.1`, `web.1.<id>`); a name means the task of the slot that shall run.
pub fn task<'a>(cluster: &'a Cluster, reference: &str) -> Result<&'a Task, CommandError> {
    let all = cluster.tasks.iter().map(|(_, task)| task);
    // A global task is also found by its node's name: web.n1.
    let by_node_name = |task: &Task| {
        let node = task.node_id.as_ref().and_then(|id| cluster.nodes.get(id));
        task.slot == 0 && node.is_some_and(|node| format!("{}.{}", task.service_name, node.name) == reference)
    };
    let wanted = |task: &&Task| task.desired == crate::model::TaskState::Running;
    let named = all.clone().filter(wanted).filter(|task| task.name() == reference || by_node_name(task));
    // While an update starts the new task first, the slot has two: the older one is the one that answers.
    if let Some(task) = named.min_by_key(|task| (task.created_at, &task.id)) {
        return Ok(task);
    }
    let full = |task: &Task| format!("{}.{}", task.name(), task.id);
    resolve("task", reference, all.map(|one| Candidate { id: &one.id, name: full(one), object: one }))
}
