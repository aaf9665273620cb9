//! The first process of a task's PID namespace: makes the task's world, runs the command, reaps, passes signals on.
//!
//! It exists because a command that were process 1 itself would ignore every signal it has no handler for: `sleep` could
//! not be stopped but by the grace time's end. When the command ends, init ends, and the kernel with it all that is left in
//! the namespace. Dies with its supervisor: a task never runs without one.
//! Has one thread, so everything may be called after fork. Must not: outlive the command, hold more privileges than it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::SigSet;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, dup2_stderr, dup2_stdin, dup2_stdout, fchown, fork, pipe2, setsid};

use super::message::{Channel, FromInit, ToInit};
use super::mounts::FileSystem;
use super::world;
use crate::runtime::exec::cgroup::TaskCgroup;
use crate::runtime::exec::command::{Command, NotRun};
use crate::runtime::exec::privileges;
use crate::runtime::exec::record::{LaunchRecord, TaskDir};

/// What init is given by the supervisor it was forked from.
pub struct Init<'a> {
    pub dir: &'a TaskDir,
    pub launch: &'a LaunchRecord,
    pub command: Command,
    pub channel: Channel,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
}

/// Why the task's world could not be made.
#[derive(Debug, thiserror::Error)]
enum WorldError {
    #[error("{attempt}: {source}")]
    Kernel { attempt: String, source: io::Error },
    #[error(transparent)]
    Mount(#[from] super::mounts::MountError),
}

fn step<T, E: Into<io::Error>>(attempt: &str, result: Result<T, E>) -> Result<T, WorldError> {
    result.map_err(|error| WorldError::Kernel { attempt: attempt.to_owned(), source: error.into() })
}

impl Init<'_> {
    /// Runs to the end of the task; the result is the process's exit code.
    pub fn run(self) -> i32 {
        let told = match self.make_world() {
            Ok(()) => self.channel.send(&FromInit::Prepared),
            Err(error) => {
                let _ = self.channel.send(&FromInit::NotPrepared { reason: error.to_string() });
                return 1;
            }
        };
        // Without a supervisor to tell there is nothing to live for.
        if told.is_err() || self.serve().is_err() { 1 } else { 0 }
    }

    fn make_world(&self) -> Result<(), WorldError> {
        let task = &self.launch.task;
        step("tying init to its supervisor", privileges::die_with_parent())?;
        step("naming init", privileges::set_name(c"mesh-init"))?;
        step("forbidding tracing", privileges::forbid_tracing())?;
        let group = TaskCgroup::at(self.launch.cgroup.clone()).task();
        step("joining the task's cgroup", TaskCgroup::join(&group))?;
        // The agent's protection from the out-of-memory killer is not the task's.
        let _ = fs::write("/proc/self/oom_score_adj", "0");
        step("starting a session", setsid())?;
        let namespaces =
            CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWUTS | CloneFlags::CLONE_NEWCGROUP;
        step("making the task's namespaces", unshare(namespaces))?;
        step("setting the hostname", nix::unistd::sethostname(&task.hostname))?;
        step("bringing lo up", world::loopback_up())?;
        let etc = self.dir.etc();
        let file_system = FileSystem { etc: &etc, masked: &self.launch.masked, mounts: &task.mounts };
        file_system.make_private()?;
        world::network_settings()
            .map_err(|(path, source)| WorldError::Kernel { attempt: format!("writing {path}"), source })?;
        file_system.arrange()?;
        step("entering /", std::env::set_current_dir("/"))?;
        step("dropping capabilities", privileges::restrict())
    }

    fn serve(&self) -> io::Result<()> {
        // Blocked signals wait for us here, also those that process 1 would never be sent: see signal(7), pid_namespaces(7).
        let all = SigSet::all();
        all.thread_block()?;
        let signals = SignalFd::with_flags(&all, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let mut command: Option<Pid> = None;
        loop {
            let mut polled = [
                PollFd::new(self.channel.0.as_fd(), PollFlags::POLLIN),
                PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            ];
            match poll(&mut polled, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
            let [has_message, has_signal] = polled.map(|fd| fd.any().unwrap_or(false));
            if has_message {
                match self.channel.receive()? {
                    None => return Ok(()),
                    Some(ToInit::Start) if command.is_none() => match self.start() {
                        Ok(pid) => {
                            command = Some(pid);
                            self.channel.send(&FromInit::Started)?;
                        }
                        Err(NotRun { code, reason }) => {
                            return self.channel.send(&FromInit::NotStarted { code, reason });
                        }
                    },
                    Some(ToInit::Start) => {}
                    Some(ToInit::Signal(number)) => pass_on(command, number),
                }
            }
            if has_signal {
                while let Some(info) = signals.read_signal()? {
                    let number = info.ssi_signo.cast_signed();
                    if number != libc::SIGCHLD {
                        pass_on(command, number);
                    }
                }
                if let Some(exited) = reap(command)? {
                    return self.channel.send(&exited);
                }
            }
        }
    }

    /// Forks the command and waits until it runs or says why not.
    fn start(&self) -> Result<Pid, NotRun> {
        let cannot = |error: Errno| NotRun { code: 126, reason: format!("starting the command: {error}") };
        let (told, tell) = pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(cannot)?;
        // SAFETY: this process has one thread, so no lock can be held by another at the moment of the fork.
        match unsafe { fork() }.map_err(cannot)? {
            ForkResult::Child => {
                drop(told);
                let not_run = self.become_command();
                let message = serde_json::to_vec(&(not_run.code, &not_run.reason)).unwrap_or_default();
                let _ = nix::unistd::write(&tell, &message);
                // SAFETY: ends this process without running the supervisor's exit handlers, of which we have a copy.
                unsafe { libc::_exit(not_run.code) }
            }
            ForkResult::Parent { child } => {
                drop(tell);
                let mut text = Vec::new();
                // The pipe closes by itself when the command runs.
                let read = io::Read::read_to_end(&mut File::from(told), &mut text);
                if matches!(read, Ok(0)) {
                    return Ok(child);
                }
                let (code, reason) = serde_json::from_slice(&text)
                    .unwrap_or_else(|_| (126, "starting the command: it ended before it ran".to_owned()));
                Err(NotRun { code, reason })
            }
        }
    }

    fn become_command(&self) -> NotRun {
        let arrange = || -> io::Result<()> {
            setsid()?;
            // `echo > /dev/stderr` opens the pipe anew, as the command's own user.
            fchown(&self.stdout, Some(self.command.identity.uid), None)?;
            fchown(&self.stderr, Some(self.command.identity.uid), None)?;
            dup2_stdin(File::open("/dev/null")?)?;
            dup2_stdout(&self.stdout)?;
            dup2_stderr(&self.stderr)?;
            Ok(())
        };
        match arrange() {
            Ok(()) => self.command.run(),
            Err(error) => NotRun { code: 126, reason: format!("connecting the command's output: {error}") },
        }
    }
}

/// A signal for the task is a signal for its command.
fn pass_on(command: Option<Pid>, number: i32) {
    if let Some(pid) = command {
        // SAFETY: integers only. Not nix::kill: it knows no real-time signals. The command is unreaped, so the pid is its.
        unsafe { libc::kill(pid.as_raw(), number) };
    }
}

/// Collects every child that has ended, orphans of the task included; Some when the command was among them.
fn reap(command: Option<Pid>) -> io::Result<Option<FromInit>> {
    let mut exited = None;
    loop {
        let (pid, code, signal) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, code, None),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32, Some(signal as i32)),
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(exited),
            Ok(_) | Err(Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        if Some(pid) == command {
            exited = Some(FromInit::Exited { code, signal });
        }
    }
}
