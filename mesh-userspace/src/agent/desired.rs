//! The desired state as this node knows it: its own store's, or followed from the store's node, and kept on disk so that a restart
//! without the store goes on where it was.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context;
use axum::body::Body;
use http_body_util::BodyExt;
use hyper::{Request, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::kept::Kept;
use super::now;
use crate::api::tls::{Dialer, Expect};
use crate::model::{Change, Cluster, Id, Node, UnixMs};
use crate::store::{EmbeddedStore, Store, StoreError, objects};

/// How long a request waits at the store's node for news.
pub const WAIT: Duration = Duration::from_secs(20);
/// Snapshots kept, so that a follower a few steps behind gets changes and not everything.
const HISTORY: usize = 64;
/// Wait before the store's node is asked again.
const RETRY: Duration = Duration::from_millis(500);
/// How long a user's change waits for a store that was away when it was last asked.
const AGAIN: Duration = Duration::from_secs(2);

/// News of the desired state.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum News {
    Snapshot(Box<Cluster>),
    /// From the state of revision `after`.
    Changes {
        after: u64,
        revision: u64,
        changes: Vec<Change>,
    },
}

/// The desired state, to read and to watch.
pub struct Desired {
    now: watch::Sender<Arc<Cluster>>,
    history: Mutex<VecDeque<Arc<Cluster>>>,
    cache: Kept<Cluster>,
    /// Since when the store does not answer; None while it does.
    away_since: watch::Sender<Option<UnixMs>>,
    /// The store has been heard since this agent started: what it does not know is really gone.
    is_fresh: AtomicBool,
}

impl Desired {
    pub fn new(cluster: Cluster, state_dir: &Path, is_fresh: bool) -> Self {
        Desired {
            now: watch::Sender::new(Arc::new(cluster)),
            history: Mutex::default(),
            cache: Kept::new(cache_path(state_dir), true),
            away_since: watch::Sender::new(None),
            is_fresh: AtomicBool::new(is_fresh),
        }
    }

    pub fn get(&self) -> Arc<Cluster> {
        self.now.borrow().clone()
    }

    pub fn watch(&self) -> watch::Receiver<Arc<Cluster>> {
        self.now.subscribe()
    }

    pub fn away_since(&self) -> Option<UnixMs> {
        *self.away_since.borrow()
    }

    pub fn is_fresh(&self) -> bool {
        self.is_fresh.load(Ordering::Relaxed)
    }

    /// Takes a newer state; an older one changes nothing.
    pub fn set(&self, cluster: Cluster) {
        self.is_fresh.store(true, Ordering::Relaxed);
        let cluster = Arc::new(cluster);
        let is_newer = self.now.send_if_modified(|current| {
            let is_newer = cluster.revision > current.revision;
            if is_newer {
                *current = cluster.clone();
            }
            is_newer
        });
        if !is_newer {
            return;
        }
        let mut history = self.history.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        history.push_back(cluster.clone());
        while history.len() > HISTORY {
            history.pop_front();
        }
        drop(history);
        self.cache.set(cluster);
    }

    /// What is known is on disk, and nothing is written any more.
    pub fn close(&self) {
        self.cache.close();
    }

    /// What happened after `after`; None: nothing yet.
    pub fn news(&self, after: u64) -> Option<News> {
        let current = self.get();
        if current.revision <= after {
            return None;
        }
        let history = self.history.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let known = history.iter().find(|cluster| cluster.revision == after);
        Some(match known {
            Some(known) => {
                News::Changes { after, revision: current.revision, changes: Change::between(known, &current) }
            }
            None => News::Snapshot(Box::new((*current).clone())),
        })
    }

    fn take(&self, news: News) {
        match news {
            News::Snapshot(cluster) => self.set(cluster.sharing()),
            News::Changes { after, revision, changes } => {
                let mut cluster = (*self.get()).clone();
                if cluster.revision != after {
                    return; // another answer was faster; the next request brings the rest
                }
                cluster.apply(&changes);
                cluster.revision = revision;
                self.set(cluster);
            }
        }
    }

    /// Asks the store's node once; `wait` for news there.
    pub async fn fetch(&self, dialer: &Dialer, store: &Node, after: u64, wait: Duration) -> anyhow::Result<()> {
        let uri = format!("/cluster/desired?after={after}&wait_ms={}", wait.as_millis());
        let request = Request::get(uri).header(hyper::header::HOST, "mesh").body(Body::empty())?;
        let expect = Expect::Node(store.id.clone());
        let asked = dialer.request(store.api_addr(), &expect, request);
        let answer =
            tokio::time::timeout(wait + Duration::from_secs(5), asked).await.context("no answer in time")??;
        let status = answer.status();
        let body = answer.into_body().collect().await?.to_bytes();
        match status {
            StatusCode::OK => self.take(serde_json::from_slice(&body).context("the answer can't be read")?),
            StatusCode::NO_CONTENT => self.is_fresh.store(true, Ordering::Relaxed),
            other => anyhow::bail!("{other}: {}", String::from_utf8_lossy(&body)),
        }
        Ok(())
    }

    /// Follows the store's node for ever.
    pub async fn follow(&self, dialer: &Dialer) {
        loop {
            let cluster = self.get();
            let Some(store) = cluster.nodes.values().find(|node| node.holds_store) else {
                tokio::time::sleep(RETRY).await;
                continue;
            };
            // The first word after an absence comes at once, so that "away" ends at once.
            let wait = if self.away_since().is_some() { Duration::ZERO } else { WAIT };
            // A wait that the echo has shown to be in vain is given up, so that the store's return is noticed at once.
            let mut away = self.away_since.subscribe();
            let fetched = tokio::select! {
                fetched = self.fetch(dialer, store, cluster.revision, wait) => fetched,
                _ = away.changed() => continue,
            };
            match fetched {
                Ok(()) => self.note_back(),
                Err(error) => {
                    let is_new = self.away_since.send_if_modified(|since| {
                        let is_new = since.is_none();
                        since.get_or_insert_with(now);
                        is_new
                    });
                    if is_new {
                        log::warn!("the store on {} does not answer: {error:#}", store.name);
                    }
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    }

    /// A store that was away answers now; given up after two seconds.
    pub async fn is_back(&self, dialer: &Dialer) -> bool {
        let cluster = self.get();
        let Some(store) = cluster.nodes.values().find(|node| node.holds_store) else {
            return false;
        };
        let fetch = || self.fetch(dialer, store, cluster.revision, Duration::ZERO);
        // The first may go by a connection of before, which a node that was reset knows nothing of.
        let either = async { fetch().await.is_ok() || fetch().await.is_ok() };
        let is_back = tokio::time::timeout(AGAIN, either).await == Ok(true);
        if is_back {
            self.note_back();
        }
        is_back
    }

    fn note_back(&self) {
        self.away_since.send_if_modified(|since| since.take().is_some());
    }

    /// The store's node is known to be cut off before a request to it has timed out.
    pub fn note_unreachable(&self, nodes: &std::collections::BTreeMap<Id, UnixMs>) {
        let cluster = self.get();
        let Some(since) = cluster.nodes.values().find(|node| node.holds_store).and_then(|node| nodes.get(&node.id))
        else {
            return;
        };
        self.away_since.send_if_modified(|away| {
            let is_new = away.is_none();
            away.get_or_insert(*since);
            is_new
        });
    }

    /// Copies what this node's own store says, for ever.
    pub async fn mirror(&self, store: &EmbeddedStore) {
        loop {
            if let Err(error) = self.mirror_until_error(store).await {
                log::error!("read the store: {error}");
                tokio::time::sleep(RETRY).await;
            }
        }
    }

    async fn mirror_until_error(&self, store: &EmbeddedStore) -> Result<(), StoreError> {
        let mut cluster = objects::load_cluster(store).await?;
        let mut watch = store.watch(cluster.revision).await?;
        self.set(cluster.clone());
        while let Some(batch) = watch.next().await {
            if let Some((revision, changes)) = objects::read_batch(batch?)? {
                cluster.apply(&changes);
                cluster.revision = revision;
                self.set(cluster.clone());
            }
        }
        Ok(())
    }
}

fn cache_path(state_dir: &Path) -> PathBuf {
    state_dir.join("cluster-cache.json")
}

/// What a former agent knew; nothing where there is none.
pub fn load_cache(state_dir: &Path) -> anyhow::Result<Cluster> {
    let path = cache_path(state_dir);
    match std::fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map(Cluster::sharing).with_context(|| {
            format!("{} can't be read: remove it and the identity directory beside it, and join again", path.display())
        }),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Cluster::default()),
        Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
    }
}

/// Forgets it, as `swarm leave` does.
pub fn remove_cache(state_dir: &Path) {
    let _ = std::fs::remove_file(cache_path(state_dir)); // absent is as good
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Settings;

    fn at(revision: u64) -> Cluster {
        let settings = Settings {
            cluster_id: Id::from_bytes([revision as u8; 16]),
            address_pool: "10.0.0.0/8".parse().expect("a prefix"),
            subnet_len: 20,
            address_pool6: None,
            data_path_port: 4789,
        };
        Cluster { revision, settings: Some(settings), ..Cluster::default() }
    }

    #[test]
    fn a_follower_gets_changes_when_it_is_close_and_everything_when_not() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Desired::new(Cluster::default(), dir.path(), true);
        store.set(at(1));
        store.set(at(2));
        let follower = Desired::new(at(1), dir.path(), false);
        assert!(matches!(store.news(1), Some(News::Changes { revision: 2, .. })));
        follower.take(store.news(1).expect("news"));
        assert_eq!(*follower.get(), at(2));
        assert!(store.news(2).is_none());
        let stranger = Desired::new(Cluster::default(), dir.path(), false);
        stranger.take(store.news(0).expect("news"));
        assert_eq!(*stranger.get(), at(2));
    }

    #[test]
    fn an_older_state_changes_nothing_and_a_restart_finds_the_newest() {
        let dir = tempfile::tempdir().expect("a directory");
        let desired = Desired::new(Cluster::default(), dir.path(), false);
        desired.set(at(5));
        desired.set(at(3));
        assert_eq!(desired.get().revision, 5);
        desired.close();
        assert_eq!(load_cache(dir.path()).expect("readable"), at(5));
    }
}
