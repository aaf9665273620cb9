//! What can go wrong with the store: what was attempted, on what, and what to do.

use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "store {path} is in use by another process: stop the other mesh agent, or give this one a --state-dir of its own"
    )]
    InUse { path: PathBuf },
    #[error(
        "store {path} is damaged ({reason}): put back a copy of the file, or move it away and begin anew (mesh swarm init, or join)"
    )]
    Damaged { path: PathBuf, reason: String },
    #[error("store {path} has format {found}, this mesh knows {known}: run the version of mesh that wrote it")]
    OtherFormat { path: PathBuf, found: u64, known: u64 },
    #[error("could not {attempted} store {path}: {source}; check that the disk has room and the file is writable")]
    Io { attempted: &'static str, path: PathBuf, source: std::io::Error },
    #[error("could not {attempted} store {path}: {reason}; restart the agent")]
    Failed { attempted: &'static str, path: PathBuf, reason: String },
    #[error("changes after revision {from} are not known any more (oldest: {oldest}): read everything again")]
    Compacted { from: u64, oldest: u64 },
    #[error(
        "the store's object '{key}' can't be read: {reason}; it was written by another version of mesh, run that one"
    )]
    BadObject { key: String, reason: String },
    #[error("the dump can't be imported: {reason}")]
    BadDump { reason: String },
}

impl StoreError {
    /// Sorts the database's errors into those that a user can do something about.
    pub(super) fn of(attempted: &'static str, path: &Path, error: redb::Error) -> Self {
        let path = path.to_path_buf();
        match error {
            redb::Error::DatabaseAlreadyOpen => StoreError::InUse { path },
            redb::Error::Corrupted(reason) => StoreError::Damaged { path, reason },
            redb::Error::UpgradeRequired(version) => {
                StoreError::Damaged { path, reason: format!("its file format {version} is not one of ours") }
            }
            // The database says so of a file that is none: wrong magic number, cut short.
            redb::Error::Io(source)
                if matches!(source.kind(), std::io::ErrorKind::InvalidData | std::io::ErrorKind::UnexpectedEof) =>
            {
                StoreError::Damaged { path, reason: source.to_string() }
            }
            redb::Error::Io(source) => StoreError::Io { attempted, path, source },
            other => StoreError::Failed { attempted, path, reason: other.to_string() },
        }
    }
}
