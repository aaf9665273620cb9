//! A task on disk: `<state dir>/tasks/<task id>/` with what was asked (`launch.json`, by the agent) and what became of it
//! (`state.json`, by the supervisor, who alone outlives an agent; `health.json`, by the agent that probes).
//!
//! Invariant: a file is either whole or not there (written beside, then renamed). Must not: decide what a state means.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::health::HealthRecord;
use super::process::ProcessRef;
use crate::model::{Id, UnixMs};
use crate::runtime::json_file::{read_if_there, read_json, write_json};
use crate::runtime::{Phase, TaskLaunch};

/// The folder of one task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskDir(PathBuf);

/// `launch.json`: the task, and what of this node's settings its supervisor needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LaunchRecord {
    pub task: TaskLaunch,
    /// `<cgroup root>/mesh/<node>/<task id>`.
    pub cgroup: PathBuf,
    /// Directories the task finds empty.
    pub masked: Vec<PathBuf>,
    /// Size at which the log is rotated; one old file is kept.
    pub log_max_bytes: u64,
}

/// `state.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StateRecord {
    pub phase: Phase,
    pub supervisor: ProcessRef,
    /// The first process of the task's PID namespace.
    pub init: ProcessRef,
    pub started_at: Option<UnixMs>,
}

impl TaskDir {
    pub fn of(state_dir: &Path, task_id: &Id) -> Self {
        TaskDir(Self::all(state_dir).join(task_id.as_str()))
    }

    /// The folder that holds every task's.
    pub fn all(state_dir: &Path) -> PathBuf {
        state_dir.join("tasks")
    }

    pub fn at(path: PathBuf) -> Self {
        TaskDir(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn launch_file(&self) -> PathBuf {
        self.0.join("launch.json")
    }

    pub fn state_file(&self) -> PathBuf {
        self.0.join("state.json")
    }

    pub fn health_file(&self) -> PathBuf {
        self.0.join("health.json")
    }

    /// The control socket's name inside the folder.
    pub const CONTROL: &'static str = "control.sock";

    pub fn log_file(&self) -> PathBuf {
        self.0.join("log")
    }

    pub fn old_log_file(&self) -> PathBuf {
        self.0.join("log.1")
    }

    /// What the supervisor itself has to say.
    pub fn supervisor_log_file(&self) -> PathBuf {
        self.0.join("supervisor.log")
    }

    /// The task's own hostname, hosts and resolv.conf.
    pub fn etc(&self) -> PathBuf {
        self.0.join("etc")
    }

    /// Makes the folder, readable by root only: environments hold secrets.
    pub fn create(&self) -> io::Result<()> {
        if let Some(parent) = self.0.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        }
        fs::DirBuilder::new().mode(0o700).create(&self.0)
    }

    pub fn read_launch(&self) -> io::Result<LaunchRecord> {
        read_json(&self.launch_file())
    }

    pub fn write_launch(&self, launch: &LaunchRecord) -> io::Result<()> {
        write_json(&self.launch_file(), launch)
    }

    /// None while the supervisor has not prepared the task.
    pub fn read_state(&self) -> io::Result<Option<StateRecord>> {
        read_if_there(&self.state_file())
    }

    pub fn write_state(&self, state: &StateRecord) -> io::Result<()> {
        write_json(&self.state_file(), state)
    }

    /// None while no probe has said anything.
    pub fn read_health(&self) -> io::Result<Option<HealthRecord>> {
        read_if_there(&self.health_file())
    }

    pub fn write_health(&self, health: &HealthRecord) -> io::Result<()> {
        write_json(&self.health_file(), health)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_back_as_written_and_absent_before() {
        let state_dir = tempfile::tempdir().expect("temporary directory");
        let dir = TaskDir::of(state_dir.path(), &Id::from_bytes([7; 16]));
        dir.create().expect("created");
        assert_eq!(dir.read_state().expect("no error"), None);
        let own = ProcessRef::own().expect("own");
        let state = StateRecord { phase: Phase::Running, supervisor: own.clone(), init: own, started_at: Some(5) };
        dir.write_state(&state).expect("written");
        assert_eq!(dir.read_state().expect("read"), Some(state));
        assert!(dir.create().is_err(), "a second task of one id is noticed");
    }
}
