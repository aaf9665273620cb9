//! The supervisor's loop: output to the log, questions of agents, the end of the task.
//!
//! Waits in poll(2) and wakes only when something happened. Invariant: when [`Supervisor::run`] returns, nothing of the
//! task runs and `state.json` says how it ended.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;

use super::message::{Channel, FromInit, ToInit};
use crate::model::{LogStream, UnixMs};
use crate::runtime::exec::cgroup::TaskCgroup;
use crate::runtime::exec::control::{self, Answer, Question};
use crate::runtime::exec::output::LogWriter;
use crate::runtime::exec::record::{StateRecord, TaskDir};
use crate::runtime::process::pidfd_signal;
use crate::runtime::{Phase, TaskExit, TaskLaunch};

/// As much as a pipe holds by default.
const READ_BYTES: usize = 64 * 1024;

/// The supervisor's ends of everything it waits on.
pub struct Ends {
    pub channel: Channel,
    pub stdout: OwnedFd,
    pub stderr: OwnedFd,
    pub listener: UnixListener,
    pub init_fd: OwnedFd,
}

pub struct Supervisor {
    dir: TaskDir,
    group: TaskCgroup,
    task: TaskLaunch,
    state: StateRecord,
    init: Pid,
    init_fd: OwnedFd,
    listener: UnixListener,
    signals: SignalFd,
    /// None once the other end is closed.
    channel: Option<Channel>,
    outputs: [(LogStream, Option<OwnedFd>); 2],
    log: LogWriter,
    /// The agent that waits to hear whether the command runs.
    starting: Option<UnixStream>,
    /// When the grace time is over.
    kill_at: Option<Instant>,
    /// What init said about the end.
    ending: Option<TaskExit>,
}

impl Supervisor {
    pub fn new(
        dir: TaskDir,
        group: TaskCgroup,
        task: TaskLaunch,
        state: StateRecord,
        init: Pid,
        ends: Ends,
        log: LogWriter,
    ) -> io::Result<Self> {
        let mut handled = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            handled.add(signal);
        }
        handled.thread_block()?;
        let signals = SignalFd::with_flags(&handled, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Supervisor {
            dir,
            group,
            task,
            state,
            init,
            init_fd: ends.init_fd,
            listener: ends.listener,
            signals,
            channel: Some(ends.channel),
            outputs: [(LogStream::Stdout, Some(ends.stdout)), (LogStream::Stderr, Some(ends.stderr))],
            log,
            starting: None,
            kill_at: None,
            ending: None,
        })
    }

    pub fn init_pid(&self) -> i32 {
        self.init.as_raw()
    }

    /// Serves until the task has ended.
    pub fn run(mut self) -> io::Result<()> {
        loop {
            let ready = self.wait()?;
            if ready.output {
                self.take_output();
            }
            if ready.message {
                self.hear_init()?;
            }
            if ready.init_ended {
                return self.finish();
            }
            if ready.signal {
                self.take_signals()?;
            }
            if ready.question {
                self.take_question();
            }
            if self.kill_at.is_some_and(|at| at <= Instant::now()) {
                self.kill_at = None;
                self.kill()?;
            }
        }
    }

    fn wait(&self) -> io::Result<Ready> {
        let readable = |fd| PollFd::new(fd, PollFlags::POLLIN);
        let mut polled =
            vec![readable(self.init_fd.as_fd()), readable(self.listener.as_fd()), readable(self.signals.as_fd())];
        polled.extend(self.channel.iter().map(|channel| readable(channel.0.as_fd())));
        polled.extend(self.outputs.iter().filter_map(|(_, fd)| fd.as_ref()).map(|fd| readable(fd.as_fd())));
        match poll(&mut polled, self.timeout()) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut hit = polled.iter().map(|fd| fd.any().unwrap_or(false));
        let mut next = || hit.next().unwrap_or(false);
        Ok(Ready {
            init_ended: next(),
            question: next(),
            signal: next(),
            message: self.channel.is_some() && next(),
            output: hit.any(|is_hit| is_hit),
        })
    }

    /// Rounded up: waking a little too early would spin.
    fn timeout(&self) -> PollTimeout {
        let Some(at) = self.kill_at else { return PollTimeout::NONE };
        let left = at.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    }

    /// Reads each output once; a log that can't be written loses lines, but never holds the task up.
    fn take_output(&mut self) -> bool {
        let mut buffer = vec![0; READ_BYTES];
        let mut took_any = false;
        for (stream, output) in &mut self.outputs {
            let Some(fd) = output else { continue };
            match nix::unistd::read(&*fd, &mut buffer) {
                Ok(0) => *output = None,
                Ok(length) => {
                    took_any = true;
                    if let Err(error) = self.log.take(*stream, now(), &buffer[..length]) {
                        eprintln!("mesh supervise: writing the log: {error}: lines are lost");
                    }
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                Err(error) => {
                    eprintln!("mesh supervise: reading the task's output: {error}");
                    *output = None;
                }
            }
        }
        took_any
    }

    fn hear_init(&mut self) -> io::Result<()> {
        let Some(channel) = &self.channel else { return Ok(()) };
        match channel.receive()? {
            None => self.channel = None,
            Some(FromInit::Started) => {
                self.state.phase = Phase::Running;
                self.state.started_at = Some(now());
                if let Err(error) = self.dir.write_state(&self.state) {
                    // A full disk must not end a task that runs.
                    eprintln!(
                        "mesh supervise: writing state.json: {error}: the task runs, but is on record as prepared"
                    );
                }
                self.tell_starter(&Answer::Done);
            }
            Some(FromInit::NotStarted { code, reason }) => {
                self.ending = Some(TaskExit { code, signal: None, error: Some(reason), at: now() });
            }
            Some(FromInit::Exited { code, signal }) => {
                self.ending = Some(TaskExit { code, signal, error: None, at: now() });
            }
            // Said once, before this loop.
            Some(FromInit::Prepared | FromInit::NotPrepared { .. }) => {}
        }
        Ok(())
    }

    fn tell_starter(&mut self, answer: &Answer) {
        if let Some(stream) = self.starting.take() {
            // An agent that has gone meanwhile reads state.json when it is back.
            let _ = control::answer(stream, answer);
        }
    }

    fn take_signals(&mut self) -> io::Result<()> {
        while let Some(info) = self.signals.read_signal()? {
            // The machine goes down, or somebody wants this task gone: as if an agent had asked. A hang-up is nothing to us.
            if info.ssi_signo.cast_signed() != libc::SIGHUP {
                let signal = self.task.stop_signal.unwrap_or(libc::SIGTERM);
                self.stop(signal, Duration::from_millis(self.task.stop_grace_ms))?;
            }
        }
        Ok(())
    }

    fn take_question(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else { return };
        let answer = match control::read_question(&stream) {
            Ok(Question::Start) => match self.start() {
                Ok(()) => {
                    self.starting = Some(stream);
                    return;
                }
                Err(answer) => answer,
            },
            Ok(Question::Stop { signal, grace_ms }) => match self.stop(signal, Duration::from_millis(grace_ms)) {
                Ok(()) => Answer::Done,
                Err(error) => Answer::Refused { reason: format!("stopping: {error}") },
            },
            Err(error) => Answer::Refused { reason: format!("no question we know: {error}") },
        };
        let _ = control::answer(stream, &answer);
    }

    fn start(&mut self) -> Result<(), Answer> {
        let refused = |reason: &str| Answer::Refused { reason: reason.to_owned() };
        match (&self.state.phase, &self.starting, &self.channel) {
            (Phase::Prepared, None, Some(channel)) => {
                channel.send(&ToInit::Start).map_err(|error| refused(&format!("telling init: {error}")))
            }
            (Phase::Prepared, Some(_), _) => Err(refused("the task is being started already")),
            (phase, ..) => Err(refused(&format!("the task is {}, not prepared", phase.word()))),
        }
    }

    /// Asks the command to end and sets the time after which it is not asked any more.
    fn stop(&mut self, signal: i32, grace: Duration) -> io::Result<()> {
        let is_running = self.state.phase == Phase::Running;
        match &self.channel {
            Some(channel) if is_running && !grace.is_zero() && signal != libc::SIGKILL => {
                channel.send(&ToInit::Signal(signal))?;
                let at = Instant::now() + grace;
                self.kill_at = Some(self.kill_at.map_or(at, |earlier| earlier.min(at)));
                Ok(())
            }
            _ => self.kill(),
        }
    }

    /// Init's death ends its PID namespace; the group is killed too, for what may have left the namespace.
    fn kill(&self) -> io::Result<()> {
        pidfd_signal(&self.init_fd, libc::SIGKILL)?;
        self.group.kill_task()
    }

    fn finish(mut self) -> io::Result<()> {
        while self.channel.is_some() {
            self.hear_init()?;
        }
        // Init is dead only when every process of its namespace is: whatever they wrote is in the pipes now.
        while self.take_output() {}
        if let Err(error) = self.log.finish(now()) {
            eprintln!("mesh supervise: writing the log: {error}: the last line is lost");
        }
        let status = waitpid(self.init, None)?;
        let exit = self.ending.take().unwrap_or_else(|| self.killed_exit(status));
        let not_started = Answer::NotStarted { code: exit.code, reason: exit.error.clone().unwrap_or_default() };
        self.state.phase = Phase::Exited(exit);
        self.dir.write_state(&self.state)?;
        self.tell_starter(&not_started);
        Ok(())
    }

    /// The end of a task whose init could not say it.
    fn killed_exit(&self, status: WaitStatus) -> TaskExit {
        let (code, signal) = match status {
            WaitStatus::Signaled(_, signal, _) => (128 + signal as i32, Some(signal as i32)),
            WaitStatus::Exited(_, code) => (code, None),
            _ => (1, None),
        };
        let error = (self.state.phase == Phase::Prepared).then(|| "ended before its command was started".to_owned());
        TaskExit { code, signal, error, at: now() }
    }
}

/// What [`Supervisor::wait`] woke for.
struct Ready {
    init_ended: bool,
    question: bool,
    signal: bool,
    message: bool,
    output: bool,
}

fn now() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis().try_into().unwrap_or(UnixMs::MAX)
}
