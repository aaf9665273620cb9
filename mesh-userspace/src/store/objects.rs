//! The cluster's objects in the store: one key each, JSON values, and one key that every commit touches.
//!
//! ```text
//!   cluster/settings  cluster/counters  cluster/nodes/ID  cluster/networks/ID  cluster/services/ID  cluster/tasks/ID
//!   cluster/updates/ID  cluster/epoch
//! ```
//! `cluster/epoch` makes commits exclusive: each compares its revision and puts it, so of two that started from the same
//! snapshot one gets a conflict, whatever they touched. That is what makes the allocator's copy-and-compare safe.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Batch, Compare, Entry, Event, Op, Outcome, Store, StoreError};
use crate::model::{Change, Cluster, Id};

const PREFIX: &str = "cluster/";
const EPOCH: &str = "cluster/epoch";

/// Everything desired, as it was at one revision.
pub async fn load_cluster(store: &dyn Store) -> Result<Cluster, StoreError> {
    let mut cluster = Cluster::default();
    for Entry { key, value, modified, .. } in store.range(PREFIX).await?.entries {
        match key.as_str() {
            EPOCH => cluster.revision = modified,
            _ => cluster.apply(&[read(Event { key, value: Some(value) })?]),
        }
    }
    Ok(cluster)
}

/// Commits changes that were decided on a cluster of revision `expected`. A conflict: load again, decide again.
pub async fn commit(store: &dyn Store, changes: &[Change], expected: u64) -> Result<Outcome, StoreError> {
    let compares = vec![Compare { key: EPOCH.to_string(), modified: expected }];
    if changes.is_empty() {
        return Ok(Outcome::Committed { revision: expected });
    }
    let mut ops = changes.iter().map(write).collect::<Result<Vec<Op>, StoreError>>()?;
    ops.push(Op::Put { key: EPOCH.to_string(), value: Vec::new() });
    store.transact(compares, ops).await
}

/// What a watched transaction did to the cluster: apply the changes and set the revision. None: it was about other keys.
pub fn read_batch(batch: Batch) -> Result<Option<(u64, Vec<Change>)>, StoreError> {
    if !batch.events.iter().any(|event| event.key == EPOCH) {
        return Ok(None);
    }
    let ours = batch.events.into_iter().filter(|event| event.key.starts_with(PREFIX) && event.key != EPOCH);
    Ok(Some((batch.revision, ours.map(read).collect::<Result<_, _>>()?)))
}

fn write(change: &Change) -> Result<Op, StoreError> {
    match change {
        Change::PutSettings(settings) => put("settings".into(), settings),
        Change::PutCounters(counters) => put("counters".into(), counters),
        Change::PutNode(node) => put(format!("nodes/{}", node.id), node),
        Change::DeleteNode(id) => Ok(delete("nodes", id)),
        Change::PutNetwork(network) => put(format!("networks/{}", network.id), network),
        Change::DeleteNetwork(id) => Ok(delete("networks", id)),
        Change::PutService(service) => put(format!("services/{}", service.id), service.as_ref()),
        Change::DeleteService(id) => Ok(delete("services", id)),
        Change::PutTask(task) => put(format!("tasks/{}", task.id), task.as_ref()),
        Change::DeleteTask(id) => Ok(delete("tasks", id)),
        Change::PutUpdate(id, update) => put(format!("updates/{id}"), update),
        Change::DeleteUpdate(id) => Ok(delete("updates", id)),
    }
}

fn put(name: String, object: &impl Serialize) -> Result<Op, StoreError> {
    let key = format!("{PREFIX}{name}");
    match serde_json::to_vec(object) {
        Ok(value) => Ok(Op::Put { key, value }),
        Err(error) => Err(StoreError::BadObject { key, reason: error.to_string() }),
    }
}

fn delete(kind: &str, id: &Id) -> Op {
    Op::Delete { key: format!("{PREFIX}{kind}/{id}") }
}

fn read(event: Event) -> Result<Change, StoreError> {
    let bad = |reason: String| StoreError::BadObject { key: event.key.clone(), reason };
    let name = event.key.strip_prefix(PREFIX).unwrap_or_default();
    let (kind, id) = name.split_once('/').unwrap_or((name, ""));
    let id = || Id::try_from(id.to_string()).map_err(|error| bad(error.to_string()));
    match (kind, &event.value) {
        ("settings", Some(value)) => Ok(Change::PutSettings(object(&event.key, value)?)),
        ("counters", Some(value)) => Ok(Change::PutCounters(object(&event.key, value)?)),
        ("nodes", Some(value)) => Ok(Change::PutNode(object(&event.key, value)?)),
        ("nodes", None) => Ok(Change::DeleteNode(id()?)),
        ("networks", Some(value)) => Ok(Change::PutNetwork(object(&event.key, value)?)),
        ("networks", None) => Ok(Change::DeleteNetwork(id()?)),
        ("services", Some(value)) => Ok(Change::PutService(object(&event.key, value)?)),
        ("services", None) => Ok(Change::DeleteService(id()?)),
        ("tasks", Some(value)) => Ok(Change::PutTask(object(&event.key, value)?)),
        ("tasks", None) => Ok(Change::DeleteTask(id()?)),
        ("updates", Some(value)) => Ok(Change::PutUpdate(id()?, object(&event.key, value)?)),
        ("updates", None) => Ok(Change::DeleteUpdate(id()?)),
        _ => Err(bad("no object of this kind is known".to_string())),
    }
}

fn object<T: DeserializeOwned>(key: &str, value: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(value)
        .map_err(|error| StoreError::BadObject { key: key.to_string(), reason: error.to_string() })
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::model::{Settings, UpdateState, UpdateStatus};
    use crate::store::dump;
    use crate::store::memory::MemoryStore;

    fn id(byte: u8) -> Id {
        Id::from_bytes([byte; 16])
    }

    fn cluster() -> Cluster {
        let mut cluster = Cluster::default();
        let address_pool = "10.0.0.0/8".parse().expect("a pool");
        cluster.settings = Some(Settings {
            cluster_id: id(9),
            address_pool,
            subnet_len: 20,
            address_pool6: None,
            data_path_port: 4789,
        });
        cluster.counters.addresses.insert(id(1), Ipv4Addr::new(10, 0, 0, 9).into());
        let status = UpdateStatus {
            state: UpdateState::Paused,
            started_at: 1,
            completed_at: None,
            message: "why".into(),
            ready_since: Default::default(),
        };
        cluster.updates.insert(id(2), status);
        cluster
    }

    #[tokio::test]
    async fn a_cluster_written_is_the_cluster_read() {
        let store = MemoryStore::new();
        let mut wanted = cluster();
        let changes = Change::between(&Cluster::default(), &wanted);
        let outcome = commit(&store, &changes, 0).await.expect("commit");
        let Outcome::Committed { revision } = outcome else { panic!("nobody else commits") };
        wanted.revision = revision;
        assert_eq!(load_cluster(&store).await.expect("load"), wanted);
        assert_eq!(commit(&store, &changes, 0).await.expect("no error"), Outcome::Conflict, "an old snapshot is told");
        assert_eq!(
            commit(&store, &[], 7).await.expect("no error"),
            Outcome::Committed { revision: 7 },
            "nothing is nothing"
        );
    }

    #[tokio::test]
    async fn a_watch_brings_the_same_changes_and_nothing_of_others() {
        let store = MemoryStore::new();
        let mut copy = Cluster::default();
        let mut watch = store.watch(0).await.expect("watch");
        let other = Op::Put { key: "elsewhere".into(), value: vec![1] };
        store.transact(Vec::new(), vec![other]).await.expect("write");
        let batch = watch.next().await.expect("goes on").expect("no error");
        assert_eq!(read_batch(batch).expect("readable"), None);
        let mut after = cluster();
        commit(&store, &Change::between(&copy, &after), 0).await.expect("commit");
        let without = Cluster { updates: Default::default(), ..after.clone() };
        commit(&store, &Change::between(&after, &without), 2).await.expect("commit");
        for _ in 0..2 {
            let batch = watch.next().await.expect("goes on").expect("no error");
            let (revision, changes) = read_batch(batch).expect("readable").expect("of the cluster");
            copy.apply(&changes);
            copy.revision = revision;
        }
        after.updates.clear();
        after.revision = 3;
        assert_eq!(copy, after);
        assert_eq!(load_cluster(&store).await.expect("load"), after);
    }

    #[tokio::test]
    async fn a_dump_goes_into_an_empty_store_only() {
        let store = MemoryStore::new();
        commit(&store, &Change::between(&Cluster::default(), &cluster()), 0).await.expect("commit");
        let text = dump::export(&store).await.expect("export");
        assert!(text.contains("\"10.0.0.0/8\""), "people can read it: {text}");
        let fresh = MemoryStore::new();
        dump::import(&fresh, &text).await.expect("import");
        assert_eq!(load_cluster(&fresh).await.expect("load").settings, cluster().settings);
        assert!(dump::import(&fresh, &text).await.is_err(), "a second time is refused");
        assert!(dump::import(&MemoryStore::new(), "{}").await.is_err());
    }

    #[tokio::test]
    async fn an_object_of_another_version_is_named() {
        let store = MemoryStore::new();
        let strange = Op::Put { key: "cluster/nodes/x".into(), value: b"{}".to_vec() };
        store.transact(Vec::new(), vec![strange]).await.expect("write");
        let error = load_cluster(&store).await.expect_err("unreadable").to_string();
        assert!(error.contains("cluster/nodes/x"), "{error}");
    }
}
