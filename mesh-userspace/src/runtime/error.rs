//! Why a runtime could not do as asked: each says what was attempted, on what, and what to do.

use std::io;
use std::path::PathBuf;

use crate::model::Id;

#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The task's specification can't be run on this node: another try will not help. The task is rejected.
    #[error("task {}: {reason}", .task_id.short())]
    Rejected { task_id: Id, reason: String },

    /// The task was well formed but could not be set up or started.
    #[error("task {}: {reason}", .task_id.short())]
    Failed { task_id: Id, reason: String },

    #[error("task {} is not on this node: look with 'mesh service ps' where it runs", .task_id.short())]
    NotFound { task_id: Id },

    #[error("task {} exists already on this node: remove it first", .task_id.short())]
    Exists { task_id: Id },

    #[error("task {} is not running ({phase}): wait until it runs, or choose another task", .task_id.short())]
    NotRunning { task_id: Id, phase: &'static str },

    #[error("{attempt} {}: {source}: check that the directory exists and that mesh runs as root", .path.display())]
    File { attempt: &'static str, path: PathBuf, source: io::Error },

    #[error(
        "no cgroup2 file system is mounted here: mount one with 'mount -t cgroup2 none /sys/fs/cgroup' (or on an \
         empty directory, on a machine with version 1), or name one with --cgroup"
    )]
    NoCgroup2,

    #[error("task {}: {attempt}: {source}: try again, or remove the task", .task_id.short())]
    Supervisor { task_id: Id, attempt: &'static str, source: io::Error },

    /// The task may be well: it can't be asked or changed now.
    #[error("task {}: {reason}", .task_id.short())]
    NoEngine { task_id: Id, reason: String },

    #[error("task {}: {attempt}: the Docker Engine says: {words}", .task_id.short())]
    Engine { task_id: Id, attempt: &'static str, words: String },

    #[error("task {}: still not gone after {seconds} s: {left}: look for a process in uninterruptible sleep", .task_id.short())]
    StillThere { task_id: Id, seconds: u64, left: String },
}
