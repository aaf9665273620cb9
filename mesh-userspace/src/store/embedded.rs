//! The embedded store: one file, kept by the node that made the cluster.
//!
//! A transaction that was answered survives kill -9 and power loss. One process has the file; other nodes ask this one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;

use super::file::{LogBounds, StoreFile};
use super::lease::Leases;
use super::{Compare, Entry, Lease, Op, Outcome, Snapshot, Store, StoreError, Watch};

/// Transactions read from the log at once.
const READ_AT_ONCE: usize = 64;

/// The store in one file. Cheap to clone: the clones are one store.
#[derive(Clone)]
pub struct EmbeddedStore {
    file: Arc<StoreFile>,
    path: PathBuf,
    newest: Arc<watch::Sender<u64>>,
    leases: Arc<Leases>,
}

impl EmbeddedStore {
    /// Opens the store's file, or makes a new one.
    pub async fn open(path: impl Into<PathBuf>) -> Result<Self, StoreError> {
        Self::open_bounded(path.into(), LogBounds::default()).await
    }

    pub(super) async fn open_bounded(path: PathBuf, bounds: LogBounds) -> Result<Self, StoreError> {
        let at = path.clone();
        let (file, revision) = off_thread("open", &path, move || {
            let file = StoreFile::open(&at, bounds)?;
            let revision = file.revision()?;
            Ok((file, revision))
        })
        .await?;
        let newest = Arc::new(watch::Sender::new(revision));
        Ok(EmbeddedStore { file: Arc::new(file), path, newest, leases: Arc::default() })
    }

    async fn with_file<T: Send + 'static>(
        &self,
        attempted: &'static str,
        work: impl FnOnce(&StoreFile) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let file = Arc::clone(&self.file);
        off_thread(attempted, &self.path, move || work(&file)).await
    }
}

/// Runs blocking work on a thread made for it.
async fn off_thread<T: Send + 'static>(
    attempted: &'static str,
    path: &std::path::Path,
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let failed = |error: tokio::task::JoinError| StoreError::Failed {
        attempted,
        path: path.to_path_buf(),
        reason: error.to_string(),
    };
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

#[async_trait]
impl Store for EmbeddedStore {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let key = key.to_string();
        self.with_file("read", move |file| file.get(&key)).await
    }

    async fn range(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        let prefix = prefix.to_string();
        self.with_file("read", move |file| file.range(&prefix)).await
    }

    async fn transact(&self, compares: Vec<Compare>, ops: Vec<Op>) -> Result<Outcome, StoreError> {
        let newest = Arc::clone(&self.newest);
        // Told to the watches where it was written: a caller that doesn't wait for the answer must not keep it from them.
        self.with_file("write", move |file| {
            let outcome = file.transact(&compares, &ops)?;
            if let Outcome::Committed { revision } = outcome {
                newest.send_if_modified(|newest| {
                    let later = revision > *newest;
                    *newest = revision.max(*newest);
                    later
                });
            }
            Ok(outcome)
        })
        .await
    }

    async fn watch(&self, from: u64) -> Result<Watch, StoreError> {
        // A watch that can't begin says so at once.
        self.with_file("read", move |file| file.log(from, 1)).await?;
        let (file, path) = (Arc::downgrade(&self.file), self.path.clone());
        Ok(Watch::over(from, self.newest.subscribe(), move |from| {
            let (file, path) = (file.clone(), path.clone());
            async move {
                // Not the watch keeps the store open.
                let Some(file) = file.upgrade() else { return Ok(Vec::new()) };
                off_thread("read", &path, move || file.log(from, READ_AT_ONCE)).await
            }
        }))
    }

    async fn lease(&self, name: &str, holder: &str, ttl: Duration) -> Result<Lease, StoreError> {
        Ok(self.leases.take(name, holder, ttl))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    use super::*;

    fn put(key: String) -> Vec<Op> {
        vec![Op::Put { key, value: vec![0; 100] }]
    }

    async fn reopened(path: &std::path::Path) -> Result<EmbeddedStore, StoreError> {
        EmbeddedStore::open(path).await
    }

    #[tokio::test]
    async fn what_was_written_is_there_after_a_restart_and_for_nobody_else_to_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.redb");
        let store = EmbeddedStore::open(&path).await.expect("open");
        store.transact(Vec::new(), put("k".into())).await.expect("write");
        let second = EmbeddedStore::open(&path).await.err().expect("one process at a time");
        assert!(matches!(second, StoreError::InUse { .. }), "{second}");
        drop(store);
        let store = reopened(&path).await.expect("open again");
        assert_eq!(store.get("k").await.expect("get").expect("there").modified, 1);
        assert_eq!(std::fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
    }

    #[tokio::test]
    async fn the_log_is_bounded_and_a_late_watch_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let bounds = LogBounds { transactions: 10, bytes: 1 << 20 };
        let store = EmbeddedStore::open_bounded(folder.path().join("s"), bounds).await.expect("open");
        for n in 0..25 {
            store.transact(Vec::new(), put(format!("{n}"))).await.expect("write");
        }
        let late = store.watch(3).await.err().expect("too late");
        assert!(matches!(late, StoreError::Compacted { from: 3, oldest: 15 }), "{late}");
        let mut watch = store.watch(15).await.expect("just in time");
        assert_eq!(watch.next().await.expect("goes on").expect("no error").revision, 16);
        // Large transactions push out others too, but never themselves.
        let bounds = LogBounds { transactions: 10, bytes: 250 };
        let store = EmbeddedStore::open_bounded(folder.path().join("t"), bounds).await.expect("open");
        for n in 0..5 {
            store.transact(Vec::new(), put(format!("{n}"))).await.expect("write");
        }
        assert!(store.watch(3).await.is_ok());
        assert!(store.watch(2).await.is_err());
    }

    #[tokio::test]
    async fn a_damaged_file_is_refused_with_words() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.redb");
        std::fs::write(&path, "this is no store, ".repeat(1000)).expect("write");
        let error = reopened(&path).await.err().expect("refused");
        assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
        std::fs::remove_file(&path).expect("remove");

        let store = EmbeddedStore::open(&path).await.expect("open");
        for n in 0..50 {
            store.transact(Vec::new(), put(format!("{n}"))).await.expect("write");
        }
        drop(store);
        let whole = std::fs::read(&path).expect("read");
        let mut scribbled = whole.clone();
        scribbled[4096..].iter_mut().for_each(|byte| *byte ^= 0x5a);
        for bytes in [&scribbled[..], &whole[..whole.len() / 3]] {
            std::fs::write(&path, bytes).expect("write");
            let error = reopened(&path).await.err().expect("refused");
            assert!(matches!(error, StoreError::Damaged { .. }), "{error}");
            assert!(error.to_string().contains("put back a copy"));
        }
    }

    /// Not a test by itself: what the next one starts and kills.
    #[tokio::test]
    #[ignore = "is run, and killed, by a_killed_writer_loses_nothing_it_was_told_is_written"]
    async fn writer_to_be_killed() {
        let Ok(path) = std::env::var("MESH_TEST_STORE") else { return };
        let store = EmbeddedStore::open(path).await.expect("open");
        loop {
            let outcome = store.transact(Vec::new(), put("k".into())).await.expect("write");
            let Outcome::Committed { revision } = outcome else { panic!("no condition was given") };
            println!("written {revision}");
        }
    }

    #[tokio::test]
    async fn a_killed_writer_loses_nothing_it_was_told_is_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("store.redb");
        let mut last = 0;
        for round in 0..5 {
            let mut child = Command::new(std::env::current_exe().expect("this test"))
                .args(["--exact", "store::embedded::tests::writer_to_be_killed", "--ignored", "--nocapture"])
                .env("MESH_TEST_STORE", &path)
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("start the writer");
            let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
            let written = |line: String| line.strip_prefix("written ").and_then(|text| text.parse::<u64>().ok());
            for _ in 0..20 + 7 * round {
                let line = lines.next().expect("the writer goes on").expect("text");
                last = written(line).unwrap_or(last);
            }
            child.kill().expect("kill -9");
            // What it said before it died counts too.
            last = lines.map_while(Result::ok).filter_map(written).last().unwrap_or(last);
            child.wait().expect("gone");
            let store = reopened(&path).await.expect("the file is whole");
            let modified = store.get("k").await.expect("get").expect("there").modified;
            assert!(modified >= last, "revision {last} was answered, {modified} is on disk");
        }
        assert!(last > 50);
    }
}
