//! The agent's end: finds or starts the resolver process, and hands it zones.
//!
//! Adopted is what answers on the socket with our version, in our network namespace. Whatever else holds the run
//! directory's lock (another version, a hung process, one of a namespace that is gone) is ended and replaced; the
//! zone on disk lets the new one answer at once.
//!
//! Must not end the resolver when the agent ends: only [`ResolverHandle::stop`] does.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, setsid};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep, timeout};

use super::protocol::{FrameError, PROTOCOL, Request, Status, VERSION, read_frame, write_frame};
use super::resolver::{ResolverOptions, netns};
use super::run_dir::RunDir;
use super::zone::Zone;

/// A resolver that takes longer to say anything is hung. Parsing a zone of thousands of services takes a fraction.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// A resolver that greets later than this is hung.
const GREET_WITHIN: Duration = Duration::from_secs(2);
const START_WITHIN: Duration = Duration::from_secs(5);
const END_WITHIN: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// The log starts anew above this size.
const MAX_LOG_BYTES: u64 = 1 << 20;

/// Why there is no resolver, or it doesn't take the zone.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error("the resolver {program} can't be started: {source}")]
    Spawn { program: PathBuf, source: io::Error },
    #[error("the resolver's files in {run_dir} can't be used: {source}")]
    RunDir { run_dir: PathBuf, source: io::Error },
    #[error("the resolver does not come up: see {log}; its last words: {last_words}")]
    NotUp { log: PathBuf, last_words: String },
    #[error("the old resolver (pid {pid}) can't be ended: {reason}; end it by hand")]
    NotEnded { pid: Pid, reason: String },
    #[error("the resolver does not take requests: {0}")]
    Talk(#[from] FrameError),
    #[error("the resolver hung up")]
    HungUp,
    #[error("the resolver did not answer within {ANSWER_WITHIN:?}")]
    Slow,
}

/// What was found when the agent looked for its resolver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The connection stands already.
    Connected,
    /// It ran already.
    Adopted,
    /// It was started, possibly in place of one that could not be adopted.
    Started,
}

/// The agent's hold on the resolver process of its run directory.
pub struct ResolverHandle {
    program: PathBuf,
    options: ResolverOptions,
    run_dir: RunDir,
    connection: Option<UnixStream>,
    /// Kept so that the runtime reaps it when it ends.
    child: Option<Child>,
    generation: u64,
}

impl ResolverHandle {
    /// `program` is the mesh binary; it is called as `PROGRAM resolver --run-dir …`. Nothing is started yet.
    pub fn new(program: PathBuf, options: ResolverOptions) -> Self {
        let run_dir = RunDir::new(&options.run_dir);
        ResolverHandle { program, options, run_dir, connection: None, child: None, generation: 0 }
    }

    /// Sees to it that a resolver runs and is connected to.
    pub async fn ensure(&mut self) -> Result<Found, PushError> {
        if self.connection.is_some() {
            return Ok(Found::Connected);
        }
        if self.adopt().await? {
            return Ok(Found::Adopted);
        }
        self.end_owner().await?;
        self.start()?;
        let deadline = Instant::now() + START_WITHIN;
        while !self.adopt().await? {
            let ended = self.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)));
            if ended || Instant::now() > deadline {
                let log = self.run_dir.log();
                return Err(PushError::NotUp { last_words: last_line(&log), log });
            }
            sleep(LOOK_EVERY).await;
        }
        Ok(Found::Started)
    }

    /// Hands over a zone; the answer has its generation, and which gateways could be listened on.
    pub async fn push(&mut self, zone: &Zone) -> Result<Status, PushError> {
        self.ask(|generation| Request::Push { generation, zone: std::borrow::Cow::Borrowed(zone) }).await
    }

    /// How the resolver fares. Called now and then, this is also what brings a resolver back that has died.
    pub async fn status(&mut self) -> Result<Status, PushError> {
        self.ask(|_| Request::Status).await
    }

    /// Ends the resolver and removes its files: for `mesh purge` and `swarm leave`.
    pub async fn stop(&mut self) -> Result<(), PushError> {
        self.connection = None;
        self.end_owner().await?;
        self.run_dir.clear().map_err(|source| self.unusable(source))
    }

    /// A connection that broke since it was last used is not an error: the resolver is found or started again, once.
    async fn ask<'a>(&mut self, request: impl Fn(u64) -> Request<'a>) -> Result<Status, PushError> {
        let found = self.ensure().await?;
        match self.exchange(&request(self.generation + 1)).await {
            Err(error) if found == Found::Connected => {
                log::warn!("{error}; it is looked for again");
                self.ensure().await?;
                self.exchange(&request(self.generation + 1)).await
            }
            result => result,
        }
    }

    async fn exchange(&mut self, request: &Request<'_>) -> Result<Status, PushError> {
        let mut stream = self.connection.take().ok_or(PushError::HungUp)?;
        let talk = async {
            write_frame(&mut stream, request).await?;
            read_frame::<Status>(&mut stream).await?.ok_or(PushError::HungUp)
        };
        let status = timeout(ANSWER_WITHIN, talk).await.map_err(|_| PushError::Slow)??;
        self.generation = status.generation;
        self.connection = Some(stream);
        Ok(status)
    }

    /// Connects if a resolver answers that can be kept.
    async fn adopt(&mut self) -> Result<bool, PushError> {
        let Ok(mut stream) = UnixStream::connect(self.run_dir.socket()).await else {
            return Ok(false);
        };
        let status = match timeout(GREET_WITHIN, read_frame::<Status>(&mut stream)).await {
            Ok(Ok(Some(status))) => status,
            _ => return Ok(false),
        };
        let ours = netns().map_err(|source| self.unusable(source))?;
        if (status.protocol, status.version.as_str(), status.netns) != (PROTOCOL, VERSION, ours) {
            log::info!("resolver {} (pid {}) is not ours to keep and is replaced", status.version, status.pid);
            return Ok(false);
        }
        log::info!("resolver (pid {}) serves zone generation {}", status.pid, status.generation);
        self.generation = status.generation;
        self.connection = Some(stream);
        Ok(true)
    }

    fn start(&mut self) -> Result<(), PushError> {
        let log_path = self.run_dir.log();
        let begin_anew = std::fs::metadata(&log_path).is_ok_and(|metadata| metadata.len() > MAX_LOG_BYTES);
        if begin_anew {
            std::fs::remove_file(&log_path).map_err(|source| self.unusable(source))?;
        }
        let open = || OpenOptions::new().create(true).append(true).mode(0o600).open(&log_path);
        let (out, err) = open().and_then(|out| Ok((out, open()?))).map_err(|source| self.unusable(source))?;
        let mut command = Command::new(&self.program);
        command.arg("resolver").arg("--run-dir").arg(&self.options.run_dir);
        command.arg("--port").arg(self.options.port.to_string());
        command.arg("--resolv-conf").arg(&self.options.resolv_conf);
        command.arg("--upstream-port").arg(self.options.upstream_port.to_string());
        command.stdin(Stdio::null()).stdout(out).stderr(err).current_dir("/").kill_on_drop(false);
        // SAFETY: setsid(2) is async-signal-safe, and the closure touches no memory of the parent.
        unsafe { command.pre_exec(|| setsid().map(drop).map_err(io::Error::from)) };
        let child = command.spawn().map_err(|source| PushError::Spawn { program: self.program.clone(), source })?;
        self.child = Some(child);
        Ok(())
    }

    /// Ends whoever holds the run directory: politely, then not.
    async fn end_owner(&mut self) -> Result<(), PushError> {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            let deadline = Instant::now() + END_WITHIN;
            let Some(pid) = self.owner()? else { return Ok(()) };
            match kill(pid, signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(PushError::NotEnded { pid, reason: error.to_string() }),
            }
            while self.owner()?.is_some() && Instant::now() < deadline {
                sleep(LOOK_EVERY).await;
            }
        }
        match self.owner()? {
            None => Ok(()),
            Some(pid) => Err(PushError::NotEnded { pid, reason: "SIGKILL did not end it".to_string() }),
        }
    }

    fn owner(&self) -> Result<Option<Pid>, PushError> {
        self.run_dir.owner().map_err(|source| self.unusable(source))
    }

    fn unusable(&self, source: io::Error) -> PushError {
        PushError::RunDir { run_dir: self.options.run_dir.clone(), source }
    }
}

fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("none").to_string()
}
