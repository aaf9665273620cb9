//! What every store must do; run over each of them.

use std::time::{Duration, Instant};

use super::{Compare, Event, Lease, Op, Outcome, Store};

fn put(key: &str, value: &str) -> Op {
    Op::Put { key: key.into(), value: value.into() }
}

fn delete(key: &str) -> Op {
    Op::Delete { key: key.into() }
}

fn at(key: &str, modified: u64) -> Compare {
    Compare { key: key.into(), modified }
}

/// Plays the whole contract on an empty store.
pub(super) async fn contract(store: &dyn Store) {
    writes_and_reads(store).await;
    conflicts_change_nothing(store).await;
    watches(store).await;
    only_one_of_many_wins(store).await;
    leases(store).await;
}

async fn writes_and_reads(store: &dyn Store) {
    assert_eq!(store.get("a/1").await.expect("get"), None);
    let outcome = store.transact(vec![at("a/1", 0)], vec![put("a/1", "one"), put("a/2", "two"), put("b", "x")]).await;
    assert_eq!(outcome.expect("first"), Outcome::Committed { revision: 1 });
    let outcome = store.transact(vec![at("a/1", 1)], vec![put("a/1", "uno"), delete("b")]).await;
    assert_eq!(outcome.expect("second"), Outcome::Committed { revision: 2 });
    let entry = store.get("a/1").await.expect("get").expect("there");
    assert_eq!((entry.value.as_slice(), entry.created, entry.modified), (&b"uno"[..], 1, 2));
    let snapshot = store.range("a/").await.expect("range");
    let keys: Vec<_> = snapshot.entries.iter().map(|entry| (entry.key.as_str(), entry.modified)).collect();
    assert_eq!((snapshot.revision, keys), (2, vec![("a/1", 2), ("a/2", 1)]));
    assert!(store.range("b").await.expect("range").entries.is_empty());
}

async fn conflicts_change_nothing(store: &dyn Store) {
    for compares in [vec![at("a/1", 1)], vec![at("a/1", 0)], vec![at("a/1", 2), at("none", 7)]] {
        let outcome = store.transact(compares, vec![put("a/1", "lost"), put("c", "lost")]).await;
        assert_eq!(outcome.expect("no error"), Outcome::Conflict);
    }
    let outcome = store.transact(vec![at("a/1", 2), at("b", 0)], Vec::new()).await;
    assert_eq!(outcome.expect("compare only"), Outcome::Committed { revision: 2 });
    let snapshot = store.range("").await.expect("range");
    assert_eq!((snapshot.revision, snapshot.entries.len()), (2, 2));
}

async fn watches(store: &dyn Store) {
    let mut all = store.watch(0).await.expect("watch from the start");
    let mut new = store.watch(2).await.expect("watch from now");
    let first = all.next().await.expect("goes on").expect("no error");
    assert_eq!((first.revision, first.events.len()), (1, 3));
    let second = all.next().await.expect("goes on").expect("no error");
    assert_eq!(second.events[1], Event { key: "b".into(), value: None });
    store.transact(Vec::new(), vec![put("w", "1")]).await.expect("write");
    for watch in [&mut all, &mut new] {
        let batch = tokio::time::timeout(Duration::from_secs(5), watch.next()).await.expect("in time");
        let batch = batch.expect("goes on").expect("no error");
        assert_eq!((batch.revision, batch.events[0].key.as_str()), (3, "w"));
    }
}

async fn only_one_of_many_wins(store: &dyn Store) {
    let contenders = (0..8).map(|n| store.transact(vec![at("one", 0)], vec![put("one", &n.to_string())]));
    let outcomes = futures_util::future::join_all(contenders).await;
    let won = outcomes.into_iter().filter(|outcome| matches!(outcome, Ok(Outcome::Committed { .. })));
    assert_eq!(won.count(), 1);
}

/// Between two looks at what must come true before the deadline.
async fn eventually(deadline: Instant, what: &str) {
    assert!(Instant::now() < deadline, "{what}");
    tokio::time::sleep(Duration::from_millis(10)).await;
}

async fn leases(store: &dyn Store) {
    let long = Duration::from_secs(3600);
    assert_eq!(store.lease("leader", "n1", long).await.expect("lease"), Lease::Held);
    assert_eq!(store.lease("leader", "n1", Duration::from_millis(50)).await.expect("renewed"), Lease::Held);
    assert_eq!(store.lease("other", "n2", long).await.expect("another"), Lease::Held);
    let deadline = Instant::now() + Duration::from_secs(5);
    while store.lease("leader", "n2", long).await.expect("lease") != Lease::Held {
        eventually(deadline, "a lease that is not renewed ends").await;
    }
    assert_eq!(store.lease("leader", "n1", long).await.expect("lease"), Lease::HeldBy { holder: "n2".into() });
}

#[tokio::test]
async fn the_store_in_memory_keeps_the_contract() {
    contract(&super::memory::MemoryStore::new()).await;
}

#[tokio::test]
async fn the_embedded_store_keeps_the_contract() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = super::EmbeddedStore::open(folder.path().join("store.redb")).await.expect("open");
    contract(&store).await;
}
