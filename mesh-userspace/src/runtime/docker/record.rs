//! What the agent writes down about a container, so that its successor knows the task also while the Engine is away.
//!
//! ```text
//! <state-dir>/containers/<task id>.json
//! ```
//! Invariant: a record is there from before the container is made until after it is removed. Must not: speak with the Engine.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use crate::model::{Id, TaskHealth, UnixMs};
use crate::runtime::json_file::{read_if_there, write_json};
use crate::runtime::process::ProcessRef;
use crate::runtime::{TaskExit, TaskLaunch};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    pub task_id: Id,
    /// None: the container was found by its labels alone.
    pub launch: Option<TaskLaunch>,
    /// The Engine was asked to make the container; it may have been without our hearing of it.
    #[serde(default = "yes")]
    pub is_asked_for: bool,
    /// The container's id, once the Engine has made it.
    pub container: Option<String>,
    /// The container's first process.
    pub process: Option<ProcessRef>,
    /// The gate, which may be a child of the first process.
    pub gate: Option<ProcessRef>,
    /// When the command was let go.
    pub started_at: Option<UnixMs>,
    /// The Engine runs a healthcheck in it.
    pub is_checked: bool,
    /// The last verdict of that healthcheck on the command; None: there is none yet.
    #[serde(default)]
    pub health: Option<TaskHealth>,
    /// What the image says ends it, where the service says nothing.
    pub stop_signal: Option<i32>,
    pub exit: Option<TaskExit>,
}

/// Records of agents that did not write it down.
fn yes() -> bool {
    true
}

impl Record {
    pub fn new(task_id: Id, launch: Option<TaskLaunch>) -> Self {
        Record {
            task_id,
            launch,
            is_asked_for: false,
            container: None,
            process: None,
            gate: None,
            started_at: None,
            is_checked: false,
            health: None,
            stop_signal: None,
            exit: None,
        }
    }
}

/// The folder of records.
pub struct Records {
    folder: PathBuf,
    /// A record is read, changed and written by one at a time.
    changing: Mutex<()>,
}

impl Records {
    pub fn of(state_dir: &Path) -> Self {
        Records { folder: state_dir.join("containers"), changing: Mutex::default() }
    }

    pub fn file(&self, task_id: &Id) -> PathBuf {
        self.folder.join(format!("{}.json", task_id.as_str()))
    }

    pub fn contains(&self, task_id: &Id) -> bool {
        self.file(task_id).exists()
    }

    pub fn ids(&self) -> io::Result<Vec<Id>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let name = |entry: fs::DirEntry| entry.file_name().into_string().ok();
        let id = |name: String| Id::try_from(name.strip_suffix(".json")?.to_owned()).ok();
        let mut ids: Vec<Id> = entries.filter_map(Result::ok).filter_map(name).filter_map(id).collect();
        ids.sort();
        Ok(ids)
    }

    /// None where there is none.
    pub fn read(&self, task_id: &Id) -> io::Result<Option<Record>> {
        read_if_there(&self.file(task_id))
    }

    /// A first record; one that is there already is an error.
    pub fn create(&self, record: &Record) -> io::Result<()> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        if self.contains(&record.task_id) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        write_json(&self.file(&record.task_id), record)
    }

    /// Changes a record; one that was removed meanwhile stays removed.
    pub fn change(&self, task_id: &Id, work: impl FnOnce(&mut Record)) -> io::Result<()> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut record) = self.read(task_id)? else { return Ok(()) };
        work(&mut record);
        write_json(&self.file(task_id), &record)
    }

    pub fn remove(&self, task_id: &Id) -> io::Result<()> {
        let _turn = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        match fs::remove_file(self.file(task_id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_made_once_changed_and_gone() {
        let dir = tempfile::tempdir().expect("a directory");
        let records = Records::of(dir.path());
        let id = Id::from_bytes([7; 16]);
        assert_eq!(records.ids().expect("listed"), []);
        assert_eq!(records.read(&id).expect("read"), None);
        let record = Record::new(id.clone(), None);
        records.create(&record).expect("made");
        assert!(records.create(&record).is_err(), "a second container of one task is noticed");
        records.change(&id, |record| record.started_at = Some(5)).expect("changed");
        assert_eq!(records.read(&id).expect("read").and_then(|record| record.started_at), Some(5));
        assert_eq!(records.ids().expect("listed").as_slice(), std::slice::from_ref(&id));
        records.remove(&id).expect("removed");
        records.change(&id, |record| record.started_at = Some(6)).expect("no error");
        assert!(!records.contains(&id), "a late change does not bring it back");
    }
}
