//! How an agent speaks to a supervisor: one JSON line each way on a unix socket in the task's folder.
//!
//! The socket lies in a folder only root may enter, so whoever connects may do as he asks.
//! Invariant: one question a connection. Must not: carry the task's output or its state (those are files).

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::record::TaskDir;

/// Long enough for a machine under load, short enough that a hung peer does not hold a task's end up.
const PEER_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Question {
    /// Run the command.
    Start,
    /// Signal, grace time, kill.
    Stop { signal: i32, grace_ms: u64 },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    /// Started, or the stop is under way.
    Done,
    /// The command could not be started: exit code and why.
    NotStarted { code: i32, reason: String },
    /// The question makes no sense in the phase the task is in.
    Refused { reason: String },
}

/// A path to the control socket that fits into `sockaddr_un` however deep the state directory lies.
struct ShortPath {
    path: PathBuf,
    _dir: File,
}

fn short_path(dir: &TaskDir) -> io::Result<ShortPath> {
    let dir = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(dir.path())?;
    let path = format!("/proc/self/fd/{}/{}", dir.as_raw_fd(), TaskDir::CONTROL).into();
    Ok(ShortPath { path, _dir: dir })
}

/// The supervisor's end.
pub fn listen(dir: &TaskDir) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(short_path(dir)?.path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Reads the question of a connection just accepted.
pub fn read_question(stream: &UnixStream) -> io::Result<Question> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(PEER_TIMEOUT))?;
    stream.set_write_timeout(Some(PEER_TIMEOUT))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    serde_json::from_str(&line).map_err(io::Error::other)
}

pub fn answer(mut stream: UnixStream, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// The agent's end: asks and waits for the answer. Blocks; `patience` bounds it.
pub fn ask(dir: &TaskDir, question: &Question, patience: Duration) -> io::Result<Answer> {
    let mut stream = UnixStream::connect(short_path(dir)?.path)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(PEER_TIMEOUT))?;
    let mut line = serde_json::to_vec(question).map_err(io::Error::other)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    serde_json::from_str(&line).map_err(io::Error::other)
}
