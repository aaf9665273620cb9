//! A store in memory, for tests of those who use one: the contract without the disk.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::lease::Leases;
use super::{Batch, Compare, Entry, Event, Lease, Op, Outcome, Snapshot, Store, StoreError, Watch};

#[derive(Default)]
struct State {
    revision: u64,
    data: BTreeMap<String, Entry>,
    log: Vec<Batch>,
}

/// Everything in a mutex; forgets nothing.
pub(crate) struct MemoryStore {
    state: Arc<Mutex<State>>,
    newest: watch::Sender<u64>,
    leases: Leases,
}

impl MemoryStore {
    pub(crate) fn new() -> Self {
        MemoryStore { state: Arc::default(), newest: watch::Sender::new(0), leases: Leases::default() }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        Ok(self.state.lock().expect("no panic").data.get(key).cloned())
    }

    async fn range(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        let state = self.state.lock().expect("no panic");
        let entries = state.data.values().filter(|entry| entry.key.starts_with(prefix)).cloned().collect();
        Ok(Snapshot { revision: state.revision, entries })
    }

    async fn transact(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<Outcome, StoreError> {
        let mut state = self.state.lock().expect("no panic");
        let modified = |key: &String| state.data.get(key).map_or(0, |entry| entry.modified);
        if compares.iter().any(|compare| modified(&compare.key) != compare.modified) {
            return Ok(Outcome::Conflict);
        }
        if ops.is_empty() {
            return Ok(Outcome::Committed { revision: state.revision });
        }
        state.revision += 1;
        let revision = state.revision;
        let mut events = Vec::new();
        for op in ops {
            let (key, value) = match op {
                Op::Put { key, value } => (key, Some(value)),
                Op::Delete { key } => (key, None),
            };
            match value.clone() {
                Some(value) => {
                    let created = state.data.get(&key).map_or(revision, |entry| entry.created);
                    state.data.insert(key.clone(), Entry { key: key.clone(), value, created, modified: revision });
                }
                None => drop(state.data.remove(&key)),
            }
            events.push(Event { key, value });
        }
        state.log.push(Batch { revision, events });
        self.newest.send_replace(revision);
        Ok(Outcome::Committed { revision })
    }

    async fn watch(&self, from: u64) -> Result<Watch, StoreError> {
        let state = Arc::clone(&self.state);
        Ok(Watch::over(from, self.newest.subscribe(), move |from| {
            let state = state.lock().expect("no panic");
            let batches = state.log.iter().filter(|batch| batch.revision > from).cloned().collect();
            std::future::ready(Ok(batches))
        }))
    }

    async fn lease(&self, name: &str, holder: &str, ttl: Duration) -> Result<Lease, StoreError> {
        Ok(self.leases.take(name, holder, ttl))
    }
}
