//! The only way desired facts change: a list of whole objects put or deleted.
//!
//! The leader proposes changes, the store commits them all or none, a watch hands them to every node, and each applies
//! them to its copy. Invariant: `before.apply(between(before, after)) == after`, but for the revision, which the store gives.

use std::collections::BTreeMap;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use serde::{Deserialize, Serialize};

use super::{Cluster, Counters, Id, Network, Node, Service, Settings, Task, UpdateStatus};

/// One object put or deleted. Whole objects, never fields: applying twice is applying once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    PutSettings(Settings),
    PutCounters(Counters),
    PutNode(Node),
    DeleteNode(Id),
    PutNetwork(Network),
    DeleteNetwork(Id),
    PutService(Box<Service>),
    DeleteService(Id),
    PutTask(Box<Task>),
    DeleteTask(Id),
    /// Of the service with this id.
    PutUpdate(Id, UpdateStatus),
    DeleteUpdate(Id),
}

impl Change {
    /// The changes that make `after` out of `before`; objects that are equal are left out.
    pub fn between(before: &Cluster, after: &Cluster) -> Vec<Change> {
        let mut changes = Vec::new();
        if let Some(settings) = after.settings.as_ref().filter(|_| after.settings != before.settings) {
            changes.push(Change::PutSettings(settings.clone()));
        }
        if after.counters != before.counters {
            changes.push(Change::PutCounters(after.counters.clone()));
        }
        let put_node = |_: &Id, node: &Node| Change::PutNode(node.clone());
        let put_network = |_: &Id, network: &Network| Change::PutNetwork(network.clone());
        let put_service = |_: &Id, service: &Service| Change::PutService(Box::new(service.clone()));
        let put_update = |id: &Id, update: &UpdateStatus| Change::PutUpdate(id.clone(), update.clone());
        let put_task = |_: &Id, task: &Task| Change::PutTask(Box::new(task.clone()));
        compare(&before.nodes, &after.nodes, put_node, Change::DeleteNode, &mut changes);
        compare(&before.networks, &after.networks, put_network, Change::DeleteNetwork, &mut changes);
        differ(&before.services, &after.services, put_service, Change::DeleteService, &mut changes);
        differ(&before.updates, &after.updates, put_update, Change::DeleteUpdate, &mut changes);
        differ(&before.tasks, &after.tasks, put_task, Change::DeleteTask, &mut changes);
        changes
    }
}

/// Appends what makes `after` out of `before`, in order of ids, puts before deletes.
fn compare<T: PartialEq>(
    before: &BTreeMap<Id, T>,
    after: &BTreeMap<Id, T>,
    put: impl Fn(&Id, &T) -> Change,
    delete: impl Fn(Id) -> Change,
    changes: &mut Vec<Change>,
) {
    changes
        .extend(after.iter().filter(|(id, object)| before.get(id) != Some(object)).map(|(id, object)| put(id, object)));
    changes.extend(before.keys().filter(|id| !after.contains_key(id)).map(|id| delete(id.clone())));
}

/// The same for maps that share what they have in common: costs what differs.
fn differ<T: PartialEq>(
    before: &OrdMap<Id, T>,
    after: &OrdMap<Id, T>,
    put: impl Fn(&Id, &T) -> Change,
    delete: impl Fn(Id) -> Change,
    changes: &mut Vec<Change>,
) {
    let mut gone = Vec::new();
    for item in before.diff(after) {
        match item {
            DiffItem::Add(id, object) | DiffItem::Update { new: (id, object), .. } => changes.push(put(id, object)),
            DiffItem::Remove(id, _) => gone.push(delete(id.clone())),
        }
    }
    changes.append(&mut gone);
}

impl Cluster {
    /// Puts and deletes objects; the revision is the caller's to set.
    pub fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match change.clone() {
                Change::PutSettings(settings) => self.settings = Some(settings),
                Change::PutCounters(counters) => self.counters = counters,
                Change::PutNode(node) => drop(self.nodes.insert(node.id.clone(), node)),
                Change::DeleteNode(id) => drop(self.nodes.remove(&id)),
                Change::PutNetwork(network) => drop(self.networks.insert(network.id.clone(), network)),
                Change::DeleteNetwork(id) => drop(self.networks.remove(&id)),
                Change::PutService(service) => drop(self.services.insert(service.id.clone(), *service)),
                Change::DeleteService(id) => {
                    self.specs.forget(&id);
                    self.services.remove(&id);
                }
                Change::PutTask(mut task) => {
                    self.specs.share(&mut task);
                    self.tasks.insert(task.id.clone(), *task);
                }
                Change::DeleteTask(id) => drop(self.tasks.remove(&id)),
                Change::PutUpdate(id, update) => drop(self.updates.insert(id, update)),
                Change::DeleteUpdate(id) => drop(self.updates.remove(&id)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::{Runtime, TaskSpec, TaskState, UpdateState};

    fn update(started_at: u64) -> UpdateStatus {
        UpdateStatus {
            state: UpdateState::Updating,
            started_at,
            completed_at: None,
            message: String::new(),
            ready_since: Default::default(),
        }
    }

    #[test]
    fn tasks_of_a_service_share_what_they_run() {
        let id = |byte: u8| Id::from_bytes([byte; 16]);
        let task = |number: u8, image: &str| {
            let spec = TaskSpec { image: image.to_string(), ..TaskSpec::new(Runtime::Docker) };
            Change::PutTask(Box::new(Task {
                id: id(number),
                service_id: id(9),
                service_name: "web".to_string(),
                slot: number.into(),
                node_id: None,
                spec: spec.into(),
                adopted: None,
                service_version: 1,
                attachments: Vec::new(),
                desired: TaskState::Running,
                draining: false,
                leader_state: None,
                message: String::new(),
                created_at: 0,
                not_before: 0,
            }))
        };
        let mut cluster = Cluster::default();
        cluster.apply(&[task(1, "web:1"), task(2, "web:1"), task(3, "web:2"), task(4, "web:2")]);
        let shares = |cluster: &Cluster, one: u8, other: u8| {
            Arc::ptr_eq(&cluster.tasks[&id(one)].spec, &cluster.tasks[&id(other)].spec)
        };
        assert!(shares(&cluster, 1, 2) && shares(&cluster, 3, 4) && !shares(&cluster, 2, 3));
        let text = serde_json::to_string(&cluster).expect("JSON");
        let read: Cluster = serde_json::from_str(&text).expect("what was written");
        let read = read.sharing();
        assert!(read == cluster && shares(&read, 1, 2));
    }

    #[test]
    fn the_difference_applied_gives_the_other_state() {
        let id = |byte: u8| Id::from_bytes([byte; 16]);
        let mut before = Cluster::default();
        before.updates.insert(id(1), update(1));
        before.updates.insert(id(2), update(2));
        let mut after = before.clone();
        after.counters.vni = 4097;
        after.updates.remove(&id(1));
        after.updates.insert(id(2), update(20));
        after.updates.insert(id(3), update(3));

        let changes = Change::between(&before, &after);
        assert_eq!(changes.len(), 4, "counters, two puts, one delete: {changes:?}");
        before.apply(&changes);
        assert_eq!(before, after);
        before.apply(&changes);
        assert_eq!(before, after, "applying twice is applying once");
        assert!(Change::between(&before, &after).is_empty());
    }
}
