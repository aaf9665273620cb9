//! `mesh exec`, the agent's side: spawns the helper, connects the caller with the command's streams or terminal.
//!
//! Invariant: [`ExecEvent::Exit`] is sent exactly once and last, unless the caller is gone; then the command is ended.
//! Must not: know who the caller is or how its bytes travel.

mod terminal;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::terminal::Terminal;
use super::process::{ProcessRef, pidfd_open, pidfd_signal};
use super::record::TaskDir;
use crate::model::{ExecEvent, ExecInput, ExecRequest};
use crate::runtime::ExecStreams;

/// Events and inputs that wait for the other side.
const QUEUE: usize = 32;
const READ_BYTES: usize = 16 * 1024;
/// After the command's end its output is taken until none comes for so long: something it left in the
/// background may keep the pipe open for ever.
const QUIET_AFTER_EXIT: Duration = Duration::from_millis(200);
/// What a command has between the hang-up and the kill when its caller is gone.
const AFTER_HANG_UP: Duration = Duration::from_secs(2);

type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// The running helper and what it is connected to.
struct Session {
    helper: Child,
    helper_fd: Arc<OwnedFd>,
    stdout: Option<Reader>,
    stderr: Option<Reader>,
    stdin: Option<Writer>,
    terminal: Option<Arc<Terminal>>,
}

/// Runs `request` in the task of `dir`; `command` is the helper `enter` without arguments.
pub fn open(dir: &TaskDir, init: &ProcessRef, command: Command, request: &ExecRequest) -> io::Result<ExecStreams> {
    let session = spawn(dir, init, command, request)?;
    let (input, input_receiver) = mpsc::channel(QUEUE);
    let (event_sender, events) = mpsc::channel(QUEUE);
    tokio::spawn(session.run(input_receiver, event_sender));
    Ok((input, events))
}

fn spawn(dir: &TaskDir, init: &ProcessRef, mut command: Command, request: &ExecRequest) -> io::Result<Session> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let request_file = dir.path().join(format!("exec-{}-{number}.json", std::process::id()));

    command.arg("--dir").arg(dir.path()).arg("--request").arg(&request_file);
    let terminal = match request.tty {
        Some(size) => {
            let (terminal, slave) = Terminal::open_in(init, size)?;
            command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave);
            Some(Arc::new(terminal))
        }
        None => {
            command.stdin(if request.interactive { Stdio::piped() } else { Stdio::null() });
            command.stdout(Stdio::piped()).stderr(Stdio::piped());
            None
        }
    };
    write_request(&request_file, request)?;
    let spawned = command.spawn();
    // Its copies of the terminal would keep us from seeing the command's end.
    drop(command);
    let mut helper = match spawned {
        Ok(helper) => helper,
        Err(error) => {
            let _ = std::fs::remove_file(&request_file);
            return Err(error);
        }
    };
    let pid = helper.id().ok_or_else(|| io::Error::other("the helper has no pid"))?;
    let helper_fd = Arc::new(pidfd_open(pid.cast_signed())?);
    let (stdin, stdout, stderr): (Option<Writer>, Option<Reader>, Option<Reader>) = match &terminal {
        Some(terminal) => {
            let stdin = request.interactive.then(|| Box::new(terminal::Half(terminal.clone())) as Writer);
            (stdin, Some(Box::new(terminal::Half(terminal.clone()))), None)
        }
        None => (
            helper.stdin.take().map(|stdin| Box::new(stdin) as Writer),
            helper.stdout.take().map(|stdout| Box::new(stdout) as Reader),
            helper.stderr.take().map(|stderr| Box::new(stderr) as Reader),
        ),
    };
    Ok(Session { helper, helper_fd, stdout, stderr, stdin, terminal })
}

/// For the helper, which removes it: nothing that must survive a power cut, so nobody waits for a disk.
fn write_request(path: &Path, request: &ExecRequest) -> io::Result<()> {
    let text = serde_json::to_vec(request).map_err(io::Error::other)?;
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(&text)
}

impl Session {
    async fn run(mut self, input: mpsc::Receiver<ExecInput>, events: mpsc::Sender<ExecEvent>) {
        let feeding = tokio::spawn(feed(input, self.stdin.take(), self.terminal.take(), self.helper_fd.clone()));
        let code = self.relay(&events).await;
        feeding.abort();
        // A caller that is gone does not want to know.
        let _ = events.send(ExecEvent::Exit(code)).await;
    }

    /// Passes output on until the command has ended and all of it is sent.
    async fn relay(&mut self, events: &mpsc::Sender<ExecEvent>) -> i32 {
        let mut code = None;
        let mut kill_at: Option<Instant> = None;
        let (mut out, mut err) = (vec![0; READ_BYTES], vec![0; READ_BYTES]);
        loop {
            if let Some(code) = code
                && self.stdout.is_none()
                && self.stderr.is_none()
            {
                return code;
            }
            tokio::select! {
                read = read_some(&mut self.stdout, &mut out) => {
                    if let Some(bytes) = read {
                        let _ = events.send(ExecEvent::Stdout(bytes)).await;
                    }
                }
                read = read_some(&mut self.stderr, &mut err) => {
                    if let Some(bytes) = read {
                        let _ = events.send(ExecEvent::Stderr(bytes)).await;
                    }
                }
                status = self.helper.wait(), if code.is_none() => {
                    code = Some(status.map_or(126, |status| {
                        status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(126)
                    }));
                }
                () = tokio::time::sleep(QUIET_AFTER_EXIT), if code.is_some() => return code.unwrap_or(126),
                // What it left behind may write for ever: to nobody.
                () = events.closed(), if code.is_some() => return code.unwrap_or(126),
                () = events.closed(), if kill_at.is_none() => {
                    self.signal(libc::SIGHUP);
                    kill_at = Some(Instant::now() + AFTER_HANG_UP);
                }
                () = tokio::time::sleep_until(kill_at.unwrap_or_else(Instant::now)), if kill_at.is_some() && code.is_none() => {
                    // The command dies with its helper.
                    self.signal(libc::SIGKILL);
                    kill_at = Some(Instant::now() + AFTER_HANG_UP);
                }
            }
        }
    }

    fn signal(&self, number: i32) {
        if let Err(error) = pidfd_signal(&self.helper_fd, number) {
            log::warn!("signal {number} for a command of 'mesh exec': {error}");
        }
    }
}

/// The next bytes; never ready where there is no stream, which is also set where it ends.
async fn read_some(stream: &mut Option<Reader>, buffer: &mut [u8]) -> Option<Bytes> {
    let Some(reader) = stream else { return std::future::pending().await };
    match reader.read(buffer).await {
        Ok(length) if length > 0 => Some(Bytes::copy_from_slice(&buffer[..length])),
        _ => {
            *stream = None;
            None
        }
    }
}

/// Passes the caller's input on; the end of the channel is the end of the input.
async fn feed(
    mut input: mpsc::Receiver<ExecInput>,
    mut stdin: Option<Writer>,
    terminal: Option<Arc<Terminal>>,
    helper: Arc<OwnedFd>,
) {
    while let Some(message) = input.recv().await {
        match message {
            ExecInput::Stdin(bytes) => {
                if let Some(writer) = &mut stdin
                    && (writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err())
                {
                    // The command reads no more; what still comes is for nobody.
                    stdin = None;
                }
            }
            // A terminal has no half that could be closed: its user types Ctrl-D.
            ExecInput::CloseStdin => stdin = stdin.filter(|_| terminal.is_some()),
            ExecInput::Resize(size) => {
                if let Some(Err(error)) = terminal.as_ref().map(|terminal| terminal.resize(size)) {
                    log::warn!("resizing a terminal of 'mesh exec': {error}");
                }
            }
            ExecInput::Signal(number) => {
                if let Err(error) = pidfd_signal(&helper, number) {
                    log::warn!("signal {number} for a command of 'mesh exec': {error}");
                }
            }
        }
    }
}
