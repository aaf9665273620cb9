//! `mesh enter`: the helper that puts one more command into a running task, for `mesh exec`.
//!
//! ```text
//! agent ── spawns, owns the pipes or the terminal ──► enter (host's namespaces) ── forks ──► command (the task's)
//! ```
//! The helper stays outside, hands signals on, and exits with the command's code as a shell has it. The command has the
//! helper's standard streams, the task's namespaces, cgroup and privileges.
//! `--within-ms`: when this time is over, the command and what it started are killed (healthchecks).
//! Single-threaded, as the supervisor. Must not: outlive the agent that serves the caller, or leave its command behind.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fchown, fork, setsid};

use super::cgroup::TaskCgroup;
use super::command::{Command, NotRun, environment};
use super::identity::Identity;
use super::privileges;
use super::process::{pidfd_open, pidfd_signal};
use super::record::TaskDir;
use crate::model::ExecRequest;

/// Exit code of a shell for a command that exists but can't be run.
const CANNOT_RUN: u8 = 126;
/// How long a command has after the hang-up that follows the caller's or the agent's end.
const AFTER_HANG_UP: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
enum EnterError {
    #[error("this is started by 'mesh agent' for 'mesh exec': there is nothing to do by hand")]
    Usage,
    #[error("{attempt}: {source}")]
    Io { attempt: &'static str, source: io::Error },
    #[error("the task has ended")]
    Ended,
    #[error(transparent)]
    Identity(#[from] super::identity::IdentityError),
}

fn doing<E: Into<io::Error>>(attempt: &'static str) -> impl FnOnce(E) -> EnterError {
    move |error| EnterError::Io { attempt, source: error.into() }
}

/// The task, opened: after this no path and no pid is looked at again.
struct Door {
    init: OwnedFd,
    group: File,
}

/// Entry of `mesh enter [--within-ms N] --dir FOLDER --request FILE`. Call it before anything that starts a thread.
pub fn enter_main(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    match enter(arguments) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("mesh exec: {error}");
            ExitCode::from(CANNOT_RUN)
        }
    }
}

fn enter(arguments: impl Iterator<Item = OsString>) -> Result<u8, EnterError> {
    let arguments: Vec<_> = arguments.collect();
    let (within, arguments) = match &arguments[..] {
        [flag, within_ms, rest @ ..] if flag == "--within-ms" => {
            let within_ms = within_ms.to_str().and_then(|text| text.parse().ok()).ok_or(EnterError::Usage)?;
            (Some(Duration::from_millis(within_ms)), rest)
        }
        all => (None, all),
    };
    let (dir, request) = match arguments {
        [dir_flag, dir, request_flag, request] if dir_flag == "--dir" && request_flag == "--request" => {
            (TaskDir::at(PathBuf::from(dir)), read_request(Path::new(request))?)
        }
        _ => return Err(EnterError::Usage),
    };
    let launch = dir.read_launch().map_err(doing("reading launch.json"))?;
    let state = dir.read_state().map_err(doing("reading state.json"))?.ok_or(EnterError::Ended)?;
    let task = &launch.task;
    let identity = Identity::resolve(request.user.as_deref().or(task.user.as_deref()))?;
    let layers: [&[String]; 2] = [&task.env, &request.env];
    let command = Command {
        arguments: request.command,
        env: environment(&task.hostname, &identity.home, request.tty.is_some(), &layers),
        identity,
        workdir: request.workdir.or(task.workdir.clone()).unwrap_or_else(|| "/".to_owned()),
    };
    let group = TaskCgroup::at(launch.cgroup.clone()).task().join("cgroup.procs");
    let door = Door {
        init: state.init.pidfd().map_err(doing("finding the task"))?.ok_or(EnterError::Ended)?,
        group: OpenOptions::new().write(true).open(group).map_err(doing("opening the task's cgroup"))?,
    };
    let agent = pidfd_open(parent_id().cast_signed()).map_err(doing("watching the agent"))?;

    privileges::forbid_tracing().map_err(doing("forbidding tracing"))?;
    let all = SigSet::all();
    all.thread_block().map_err(doing("blocking signals"))?;
    // Only for children: whoever is in a PID namespace was born there.
    setns(&door.init, CloneFlags::CLONE_NEWPID).map_err(doing("entering the task's PID namespace"))?;
    // SAFETY: this process has one thread; main dispatches here before any other is made.
    match unsafe { fork() }.map_err(doing("starting the command"))? {
        ForkResult::Child => {
            let NotRun { code, reason } = run_inside(&door, &command, request.tty.is_some());
            eprintln!("mesh exec: {reason}");
            // SAFETY: ends this process without running the helper's exit handlers.
            unsafe { libc::_exit(code) }
        }
        ForkResult::Parent { child } => {
            drop(door);
            accompany(child, &all, &agent, within).map_err(doing("waiting for the command"))
        }
    }
}

/// Reads the request and removes it: its environment may hold secrets.
fn read_request(path: &Path) -> Result<ExecRequest, EnterError> {
    let text = fs::read(path).map_err(doing("reading the request"))?;
    fs::remove_file(path).map_err(doing("removing the request"))?;
    serde_json::from_slice(&text).map_err(doing("understanding the request"))
}

/// In the child: goes in and becomes the command.
fn run_inside(door: &Door, command: &Command, has_terminal: bool) -> NotRun {
    let go_in = || -> io::Result<()> {
        (&door.group).write_all(b"0")?;
        let namespaces =
            CloneFlags::CLONE_NEWCGROUP | CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWNS;
        setns(&door.init, namespaces)?;
        setsid()?;
        let stdin = io::stdin();
        if has_terminal {
            // SAFETY: TIOCSCTTY takes an integer.
            if unsafe { libc::ioctl(stdin.as_raw_fd(), libc::TIOCSCTTY, 0) } < 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // So that the command may open /dev/tty or /dev/stderr as its own user.
        for fd in [stdin.as_fd(), io::stdout().as_fd(), io::stderr().as_fd()] {
            // Except where it is a device of the host's, such as /dev/null.
            if has_terminal || is_pipe(fd)? {
                fchown(fd, Some(command.identity.uid), None)?;
            }
        }
        privileges::restrict()
    };
    match go_in() {
        Ok(()) => command.run(),
        Err(error) => NotRun { code: i32::from(CANNOT_RUN), reason: format!("entering the task: {error}") },
    }
}

fn is_pipe(fd: impl AsFd) -> io::Result<bool> {
    let kind = nix::sys::stat::fstat(fd)?.st_mode & libc::S_IFMT;
    Ok(kind == libc::S_IFIFO)
}

/// In the helper: hands signals on until the command has ended, or has to.
fn accompany(child: Pid, handled: &SigSet, agent: &OwnedFd, within: Option<Duration>) -> io::Result<u8> {
    // The streams are the command's alone: its end must be seen as theirs.
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    let command = pidfd_open(child.as_raw())?;
    let signals = SignalFd::with_flags(handled, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    let mut kill_at: Option<Instant> = None;
    let mut time_over = within.map(|within| Instant::now() + within);
    loop {
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut polled = vec![readable(command.as_fd()), readable(signals.as_fd())];
        if kill_at.is_none() {
            polled.push(readable(agent.as_fd()));
        }
        let next = kill_at.into_iter().chain(time_over).min();
        let timeout = next.map_or(PollTimeout::NONE, |at| {
            let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        });
        match poll(&mut polled, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let hits: Vec<bool> = polled.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        if hits[0] {
            return Ok(exit_code(waitpid(child, None)?));
        }
        while let Some(info) = signals.read_signal()? {
            let number = info.ssi_signo.cast_signed();
            if number != libc::SIGCHLD {
                pidfd_signal(&command, number)?;
            }
        }
        if hits.get(2) == Some(&true) {
            pidfd_signal(&command, libc::SIGHUP)?;
            kill_at = Some(Instant::now() + AFTER_HANG_UP);
        }
        if kill_at.is_some_and(|at| at <= Instant::now()) {
            pidfd_signal(&command, libc::SIGKILL)?;
        }
        if time_over.is_some_and(|at| at <= Instant::now()) {
            time_over = None;
            // It leads a session, so what a shell of it started is of its group; one that has not come so far has no group yet.
            let _ = killpg(child, Signal::SIGKILL);
            pidfd_signal(&command, libc::SIGKILL)?;
        }
    }
}

fn exit_code(status: WaitStatus) -> u8 {
    let code = match status {
        WaitStatus::Exited(_, code) => code,
        WaitStatus::Signaled(_, signal, _) => 128 + signal as i32,
        _ => i32::from(CANNOT_RUN),
    };
    code.try_into().unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        let pid = Pid::from_raw(1);
        assert_eq!(exit_code(WaitStatus::Exited(pid, 3)), 3);
        assert_eq!(exit_code(WaitStatus::Signaled(pid, Signal::SIGKILL, false)), 137);
    }
}
