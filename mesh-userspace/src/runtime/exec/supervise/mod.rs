//! The supervisor: one small process a task, `mesh supervise`, that lives as long as the task and needs no agent.
//!
//! ```text
//! agent ── spawns ──► supervisor (host's namespaces) ── forks ──► init (the task's namespaces) ── forks ──► command
//!    ◄── state.json, pidfd ──┘ ◄──── messages, output ──────────────┘
//! ```
//! It makes the task's namespaces, runs the command when told, keeps its output, ends it when asked and writes down how it
//! ended. An agent that was away reads that from disk. Single-threaded on purpose: fork is safe only so, and
//! the process stays small though it is the same binary as the agent.
//!
//! Invariants: the task ends with its supervisor; the end is on disk before this process ends.
//! Must not: start a thread or a tokio runtime, use the network.

mod init;
mod message;
mod mounts;
mod serve;
mod world;

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fork, pipe2, setsid};
use serde::{Deserialize, Serialize};

use self::init::Init;
use self::message::{Channel, FromInit};
use super::cgroup::TaskCgroup;
use super::command::{Command, environment};
use super::identity::Identity;
use super::output::LogWriter;
use super::privileges;
use super::process::{ProcessRef, pidfd_open};
use super::record::{LaunchRecord, StateRecord, TaskDir};
use crate::runtime::Phase;

/// The one line a supervisor prints, for the agent that spawned it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Report {
    Prepared {
        pid: u32,
    },
    /// The task can't be run on this node as it is.
    Rejected {
        reason: String,
    },
}

#[derive(Debug, thiserror::Error)]
enum SuperviseError {
    #[error(
        "this is started by 'mesh agent' for each task, as 'mesh supervise --dir FOLDER': there is nothing to do by hand"
    )]
    Usage,
    #[error("the process has {0} threads before it forks: supervise must be dispatched first in main")]
    Threads(usize),
    #[error("{attempt}: {source}")]
    Io { attempt: &'static str, source: io::Error },
    #[error("{0}")]
    Rejected(String),
}

fn doing<E: Into<io::Error>>(attempt: &'static str) -> impl FnOnce(E) -> SuperviseError {
    move |error| SuperviseError::Io { attempt, source: error.into() }
}

/// Entry of `mesh supervise --dir FOLDER`. Call it before anything that starts a thread; it returns at once in the
/// process that was called, and at the task's end in the one that supervises.
pub fn supervise_main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    match supervise(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Standard error is the task's supervisor.log.
            eprintln!("mesh supervise: {error}");
            ExitCode::FAILURE
        }
    }
}

fn supervise(mut arguments: impl Iterator<Item = OsString>) -> Result<(), SuperviseError> {
    let dir = match (arguments.next(), arguments.next(), arguments.next()) {
        (Some(flag), Some(dir), None) if flag == "--dir" => TaskDir::at(PathBuf::from(dir)),
        _ => return Err(SuperviseError::Usage),
    };
    let threads = fs::read_dir("/proc/self/task").map_err(doing("counting threads"))?.count();
    if threads != 1 {
        return Err(SuperviseError::Threads(threads));
    }
    // Away from the agent: it may end, be killed or leave its session without taking the task along.
    // SAFETY: there is one thread, as just counted.
    if let ForkResult::Parent { .. } = unsafe { fork() }.map_err(doing("leaving the agent"))? {
        return Ok(());
    }
    setsid().map_err(doing("starting a session"))?;
    privileges::set_name(c"mesh-supervise").map_err(doing("naming the process"))?;
    std::env::set_current_dir("/").map_err(doing("entering /"))?;
    nix::sys::stat::umask(nix::sys::stat::Mode::from_bits_truncate(0o022));

    match prepare(dir) {
        Ok(supervisor) => {
            // An agent that died meanwhile knows nothing of this task: then it must not be.
            let pid = supervisor.init_pid().cast_unsigned();
            report(&Report::Prepared { pid }).map_err(doing("reporting to the agent"))?;
            supervisor.run().map_err(doing("supervising"))
        }
        Err(error) => {
            let _ = report(&Report::Rejected { reason: error.to_string() });
            Err(error)
        }
    }
}

/// Prints the report and lets go of the agent's pipe.
fn report(report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report).map_err(io::Error::other)?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line)?;
    stdout.flush()?;
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    Ok(())
}

/// Makes the task's world and writes down that it exists.
fn prepare(dir: TaskDir) -> Result<serve::Supervisor, SuperviseError> {
    let launch = dir.read_launch().map_err(doing("reading launch.json"))?;
    let command = command_of(&launch)?;
    write_etc(&dir, &launch).map_err(doing("writing the task's files of /etc"))?;
    let group = TaskCgroup::at(launch.cgroup.clone());
    TaskCgroup::join(&group.supervisor()).map_err(doing("joining the supervisor's cgroup"))?;
    // The last to go when memory is short: it is small, and without it the task ends too.
    let _ = fs::write("/proc/self/oom_score_adj", "-900");

    let log = LogWriter::open(dir.clone(), launch.log_max_bytes).map_err(doing("opening the log"))?;
    let (channel, init_channel) = Channel::pair().map_err(doing("making the channel to init"))?;
    let (stdout, init_stdout) = output_pipe().map_err(doing("making the pipe for output"))?;
    let (stderr, init_stderr) = output_pipe().map_err(doing("making the pipe for errors"))?;
    unshare(CloneFlags::CLONE_NEWPID).map_err(doing("making the PID namespace"))?;
    // SAFETY: still one thread.
    let init = match unsafe { fork() }.map_err(doing("starting init"))? {
        ForkResult::Child => {
            drop((channel, stdout, stderr, log));
            let init = Init {
                dir: &dir,
                launch: &launch,
                command,
                channel: init_channel,
                stdout: init_stdout,
                stderr: init_stderr,
            };
            let code = if detach_stdio().is_ok() { init.run() } else { 1 };
            // SAFETY: ends this process without running exit handlers copied from the supervisor.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => child,
    };
    drop((init_channel, init_stdout, init_stderr));
    await_world(&channel, init)?;

    let state = StateRecord {
        phase: Phase::Prepared,
        supervisor: ProcessRef::own().map_err(doing("finding out who we are"))?,
        init: ProcessRef::of(init.as_raw()).map_err(doing("finding out who init is"))?,
        started_at: None,
    };
    let listener = super::control::listen(&dir).map_err(doing("opening the control socket"))?;
    let init_fd = pidfd_open(init.as_raw()).map_err(doing("watching init"))?;
    dir.write_state(&state).map_err(doing("writing state.json"))?;
    let ends = serve::Ends { channel, stdout, stderr, listener, init_fd };
    serve::Supervisor::new(dir, group, launch.task, state, init, ends, log).map_err(doing("watching signals"))
}

fn command_of(launch: &LaunchRecord) -> Result<Command, SuperviseError> {
    let task = &launch.task;
    if task.command.is_empty() {
        return Err(SuperviseError::Rejected(
            "runtime exec needs a command: there is no image to take one from".into(),
        ));
    }
    let identity =
        Identity::resolve(task.user.as_deref()).map_err(|error| SuperviseError::Rejected(error.to_string()))?;
    Ok(Command {
        arguments: task.command.clone(),
        env: environment(&task.hostname, &identity.home, false, &[&task.env]),
        identity,
        workdir: task.workdir.clone().unwrap_or_else(|| "/".to_owned()),
    })
}

fn write_etc(dir: &TaskDir, launch: &LaunchRecord) -> io::Result<()> {
    let (task, etc) = (&launch.task, dir.etc());
    fs::create_dir_all(&etc)?;
    fs::write(etc.join("hostname"), format!("{}\n", task.hostname))?;
    fs::write(etc.join("hosts"), world::hosts(&task.hostname, &task.addresses, &task.extra_hosts))?;
    fs::write(etc.join("resolv.conf"), world::resolv_conf(&task.nameservers, &task.search))
}

/// A pipe whose reading end never blocks us.
fn output_pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    Ok((read, write))
}

/// Init is inside the task: nothing of the agent's or the host's may stay open in it.
fn detach_stdio() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    Ok(())
}

fn await_world(channel: &Channel, init: Pid) -> Result<(), SuperviseError> {
    let reason = match channel.receive().map_err(doing("hearing from init"))? {
        Some(FromInit::Prepared) => return Ok(()),
        Some(FromInit::NotPrepared { reason }) => reason,
        other => {
            format!("init ended before the task was prepared ({other:?}, {:?})", nix::sys::wait::waitpid(init, None))
        }
    };
    Err(SuperviseError::Rejected(reason))
}
