//! A command inside a task, and a task's output: what flows between command line, agents and runtimes.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{Id, UnixMs};

/// Size of a terminal in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    pub rows: u16,
    pub columns: u16,
}

/// `mesh exec`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    pub command: Vec<String>,
    pub env: Vec<String>,
    pub user: Option<String>,
    pub workdir: Option<String>,
    /// Standard input is connected.
    pub interactive: bool,
    /// A pseudo-terminal of this size; then standard error arrives as standard output.
    pub tty: Option<WindowSize>,
}

/// What the caller sends while the command runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecInput {
    Stdin(Bytes),
    CloseStdin,
    Resize(WindowSize),
    /// A signal number for the command.
    Signal(i32),
}

/// What the command sends back; `Exit` is the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecEvent {
    Stdout(Bytes),
    Stderr(Bytes),
    /// Exit code as a shell has it: 128 + signal where a signal ended it.
    Exit(i32),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStream {
    Stdout,
    Stderr,
}

/// One line of a task's output.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    pub task_id: Id,
    pub at: UnixMs,
    pub stream: LogStream,
    /// Without the newline; bytes that are not UTF-8 are replaced.
    pub text: String,
}
