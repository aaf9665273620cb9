//! The embedded store's file: tables, transactions, log. Blocking; `embedded` keeps it off the runtime's threads.
//!
//! ```text
//!   data   key → (created, modified, value)        meta   format, revision, oldest, log_bytes
//!   log    revision → events of that transaction   bounded: the oldest go as new ones come
//! ```
//! Durability is redb's: copy-on-write pages, checksums, and an fsync before `commit` returns.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{Builder, Database, ReadableDatabase, ReadableTable, TableDefinition};

use super::{Batch, Compare, Entry, Event, Op, Outcome, Snapshot, StoreError};

const DATA: TableDefinition<&str, (u64, u64, &[u8])> = TableDefinition::new("data");
const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

/// Format of the tables above.
const FORMAT: u64 = 1;
/// The whole of a large cluster's objects; redb's own default would be a gigabyte.
const CACHE_BYTES: usize = 4 << 20;

/// How much of the log is kept.
#[derive(Clone, Copy, Debug)]
pub struct LogBounds {
    pub transactions: u64,
    pub bytes: u64,
}

impl Default for LogBounds {
    fn default() -> Self {
        LogBounds { transactions: 1_000, bytes: 16 << 20 }
    }
}

/// The open file. One process has it at a time.
pub(super) struct StoreFile {
    database: Database,
    path: PathBuf,
    bounds: LogBounds,
}

impl StoreFile {
    /// Opens the file, made with mode 0600 where there is none, and checks every page of it.
    pub(super) fn open(path: &Path, bounds: LogBounds) -> Result<Self, StoreError> {
        let io = |source| StoreError::Io { attempted: "open", path: path.to_path_buf(), source };
        let mut options = OpenOptions::new();
        // Made here for its mode; an empty file is a new database to redb.
        options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path).map_err(io)?;
        // The name must be on disk before the first transaction is answered.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(io)?;
        // A file that something else wrote over may make redb panic; for the user that is damage like any other.
        let opened = catch_unwind(AssertUnwindSafe(|| {
            Builder::new().set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true).create(path)
        }));
        let damaged = |_| StoreError::Damaged { path: path.to_path_buf(), reason: "its pages make no sense".into() };
        let database = opened.map_err(damaged)?.map_err(|error| StoreError::of("open", path, error.into()))?;
        let store = StoreFile { database, path: path.to_path_buf(), bounds };
        match store.run("open", prepare)? {
            FORMAT => Ok(store),
            found => Err(StoreError::OtherFormat { path: store.path, found, known: FORMAT }),
        }
    }

    fn run<T>(
        &self,
        attempted: &'static str,
        work: impl FnOnce(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        work(&self.database).map_err(|error| StoreError::of(attempted, &self.path, error))
    }

    /// Revision of the last transaction that wrote.
    pub(super) fn revision(&self) -> Result<u64, StoreError> {
        self.run("read", |database| meta(&database.begin_read()?, "revision"))
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.run("read", |database| {
            let data = database.begin_read()?.open_table(DATA)?;
            let found = ReadableTable::get(&data, key)?;
            Ok(found.map(|guard| entry(key, guard.value())))
        })
    }

    pub(super) fn range(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        self.run("read", |database| {
            let transaction = database.begin_read()?;
            let revision = meta(&transaction, "revision")?;
            let data = transaction.open_table(DATA)?;
            let mut entries = Vec::new();
            for found in ReadableTable::range(&data, prefix..)? {
                let (key, value) = found?;
                if !key.value().starts_with(prefix) {
                    break;
                }
                entries.push(entry(key.value(), value.value()));
            }
            Ok(Snapshot { revision, entries })
        })
    }

    pub(super) fn transact(&self, compares: &[Compare], ops: &[Op]) -> Result<Outcome, StoreError> {
        let encoded = |error: postcard::Error| StoreError::Failed {
            attempted: "write",
            path: self.path.clone(),
            reason: error.to_string(),
        };
        let record = postcard::to_stdvec(&events(ops)).map_err(encoded)?;
        self.run("write", |database| {
            let transaction = database.begin_write()?;
            let outcome = {
                let mut meta = transaction.open_table(META)?;
                let mut data = transaction.open_table(DATA)?;
                let read = |name: &str| meta.get(name).map(|found| found.map_or(0, |value| value.value()));
                let revision = read("revision")?;
                for compare in compares {
                    let modified = data.get(compare.key.as_str())?.map_or(0, |found| found.value().1);
                    if modified != compare.modified {
                        return Ok(Outcome::Conflict);
                    }
                }
                if ops.is_empty() {
                    return Ok(Outcome::Committed { revision });
                }
                let revision = revision + 1;
                for op in ops {
                    match op {
                        Op::Put { key, value } => {
                            let created = data.get(key.as_str())?.map_or(revision, |found| found.value().0);
                            data.insert(key.as_str(), (created, revision, value.as_slice()))?;
                        }
                        Op::Delete { key } => drop(data.remove(key.as_str())?),
                    }
                }
                let mut log = transaction.open_table(LOG)?;
                log.insert(revision, record.as_slice())?;
                let (mut oldest, mut bytes) = (read("oldest")?, read("log_bytes")? + record.len() as u64);
                while revision - oldest > self.bounds.transactions || bytes > self.bounds.bytes {
                    // The newest stays, however large it is.
                    if oldest + 1 == revision {
                        break;
                    }
                    let Some((gone, record)) = log.pop_first()? else { break };
                    (oldest, bytes) = (gone.value(), bytes.saturating_sub(record.value().len() as u64));
                }
                for (name, value) in [("revision", revision), ("oldest", oldest), ("log_bytes", bytes)] {
                    meta.insert(name, value)?;
                }
                Outcome::Committed { revision }
            };
            transaction.commit()?;
            Ok(outcome)
        })
    }

    /// The logged transactions after `from`, at most `most` of them.
    pub(super) fn log(&self, from: u64, most: usize) -> Result<Vec<Batch>, StoreError> {
        let (oldest, records) = self.run("read", |database| {
            let transaction = database.begin_read()?;
            let oldest = meta(&transaction, "oldest")?;
            let log = transaction.open_table(LOG)?;
            let mut records = Vec::new();
            for found in ReadableTable::range(&log, from + 1..)?.take(most) {
                let (revision, record) = found?;
                records.push((revision.value(), record.value().to_vec()));
            }
            Ok((oldest, records))
        })?;
        if from < oldest {
            return Err(StoreError::Compacted { from, oldest });
        }
        let decode = |(revision, record): (u64, Vec<u8>)| match postcard::from_bytes(&record) {
            Ok(events) => Ok(Batch { revision, events }),
            Err(error) => {
                let reason = format!("log of revision {revision}: {error}");
                Err(StoreError::Damaged { path: self.path.clone(), reason })
            }
        };
        records.into_iter().map(decode).collect()
    }
}

/// Makes the tables of a new file; gives the format of any.
fn prepare(database: &Database) -> Result<u64, redb::Error> {
    let transaction = database.begin_write()?;
    let format = {
        let mut meta = transaction.open_table(META)?;
        let found = meta.get("format")?.map(|value| value.value());
        if found.is_none() {
            meta.insert("format", FORMAT)?;
            meta.insert("revision", 0)?;
            transaction.open_table(DATA)?;
            transaction.open_table(LOG)?;
        }
        found.unwrap_or(FORMAT)
    };
    transaction.commit()?;
    Ok(format)
}

fn meta(transaction: &redb::ReadTransaction, name: &str) -> Result<u64, redb::Error> {
    let table = transaction.open_table(META)?;
    Ok(ReadableTable::get(&table, name)?.map_or(0, |value| value.value()))
}

fn entry(key: &str, (created, modified, value): (u64, u64, &[u8])) -> Entry {
    Entry { key: key.to_string(), value: value.to_vec(), created, modified }
}

fn events(ops: &[Op]) -> Vec<Event> {
    let event = |op: &Op| match op {
        Op::Put { key, value } => Event { key: key.clone(), value: Some(value.clone()) },
        Op::Delete { key } => Event { key: key.clone(), value: None },
    };
    ops.iter().map(event).collect()
}
