//! `mesh exec` in a container: the Engine runs the command and carries its streams; we watch its process.
//!
//! Invariant: [`ExecEvent::Exit`] is sent exactly once and last, unless the caller is gone; then the command is ended (SIGHUP, then SIGKILL: the
//! Engine itself would leave it running). Must not: know who the caller is.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use bollard::Docker;
use bollard::exec::{CreateExecOptions, ResizeExecOptions};
use bytes::Bytes;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWriteExt, Interest};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::attach::{self, AttachError, Input, Output};
use super::engine::{Connected, words};
use crate::model::{ExecEvent, ExecInput, ExecRequest, Id, WindowSize};
use crate::runtime::process::{pidfd_open, pidfd_signal};
use crate::runtime::{ExecStreams, RuntimeError};

/// Events and inputs that wait for the other side.
const QUEUE: usize = 32;
/// After the command's end its output is taken until none comes for so long: something it left in the background may keep the pipe open.
const QUIET_AFTER_EXIT: Duration = Duration::from_millis(200);
/// What a command has between the hang-up and the kill when its caller is gone.
const AFTER_HANG_UP: Duration = Duration::from_secs(2);
/// How long the Engine has to say what became of a command.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
const ASK_EVERY: Duration = Duration::from_millis(10);

/// Runs `request` in the container.
pub async fn open(
    engine: &Connected,
    task_id: &Id,
    container: &str,
    request: &ExecRequest,
) -> Result<ExecStreams, RuntimeError> {
    let attempt = "running a command in it";
    let engine_error = |words: String| RuntimeError::Engine { task_id: task_id.clone(), attempt, words };
    let options = CreateExecOptions {
        attach_stdin: Some(request.interactive),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        tty: Some(request.tty.is_some()),
        env: Some(request.env.clone()),
        cmd: Some(request.command.clone()),
        user: request.user.clone(),
        working_dir: request.workdir.clone(),
        ..CreateExecOptions::default()
    };
    let created = engine.docker.create_exec(container, options).await;
    let created = created.map_err(|error| engine_error(words(&error)))?;
    let (input, input_receiver) = mpsc::channel(QUEUE);
    let (event_sender, events) = mpsc::channel(QUEUE);
    let is_terminal = request.tty.is_some();
    let (stdin, output) = match attach::start(engine, &created.id, is_terminal).await {
        Ok(streams) => streams,
        // The command is none, which is its caller's affair: told as a shell tells it.
        Err(AttachError::Refused(words)) => {
            tokio::spawn(async move {
                let code = if words.contains("not found") || words.contains("no such file") { 127 } else { 126 };
                let _ = event_sender.send(ExecEvent::Stderr(format!("{words}\n").into())).await;
                let _ = event_sender.send(ExecEvent::Exit(code)).await;
            });
            return Ok((input, events));
        }
        Err(AttachError::Connection(error)) => return Err(engine_error(error.to_string())),
    };
    let exec = Exec { docker: engine.docker.clone(), id: created.id };
    let session = Session { exec, output, is_terminal };
    tokio::spawn(session.run(stdin, request.tty, input_receiver, event_sender));
    Ok((input, events))
}

/// One command at the Engine.
#[derive(Clone)]
struct Exec {
    docker: Docker,
    id: String,
}

struct Session {
    exec: Exec,
    output: Output,
    is_terminal: bool,
}

impl Exec {
    /// Its process, once it runs; None where it has ended or never did.
    async fn process(&self) -> Option<OwnedFd> {
        let deadline = Instant::now() + TOLD_WITHIN;
        while Instant::now() < deadline {
            let found = self.docker.inspect_exec(&self.id).await.ok()?;
            match (found.running, found.pid.and_then(|pid| i32::try_from(pid).ok())) {
                (Some(true), Some(pid)) if pid > 0 => {
                    let pidfd = pidfd_open(pid).ok()?;
                    // Asked again: now the number can't have gone to another process before we had it.
                    let again = self.docker.inspect_exec(&self.id).await.ok()?;
                    return (again.running == Some(true)).then_some(pidfd);
                }
                (_, _) if found.exit_code.is_some() => return None,
                _ => tokio::time::sleep(ASK_EVERY).await,
            }
        }
        None
    }

    /// Exit code of a command that has ended; 126 where the Engine does not say.
    async fn code(&self) -> i32 {
        let deadline = Instant::now() + TOLD_WITHIN;
        while Instant::now() < deadline {
            match self.docker.inspect_exec(&self.id).await {
                Ok(found) if found.running != Some(true) && found.exit_code.is_some() => {
                    return found.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or(126);
                }
                Ok(_) => tokio::time::sleep(ASK_EVERY).await,
                Err(error) => {
                    log::warn!("how a command of 'mesh exec' ended: {}", words(&error));
                    return 126;
                }
            }
        }
        126
    }

    async fn resize(&self, size: WindowSize) -> Result<(), bollard::errors::Error> {
        let options = ResizeExecOptions { height: size.rows, width: size.columns };
        self.docker.resize_exec(&self.id, options).await
    }
}

impl Session {
    async fn run(
        mut self,
        stdin: Input,
        size: Option<WindowSize>,
        input: mpsc::Receiver<ExecInput>,
        events: mpsc::Sender<ExecEvent>,
    ) {
        let process = self.exec.process().await.map(Arc::new);
        if let Some(size) = size
            && process.is_some()
            && let Err(error) = self.exec.resize(size).await
        {
            log::debug!("resizing a terminal of 'mesh exec': {}", words(&error));
        }
        let feeding = tokio::spawn(feed(input, stdin, self.exec.clone(), process.clone(), self.is_terminal));
        relay(&mut self.output, process.as_deref(), &events).await;
        feeding.abort();
        let code = self.exec.code().await;
        // A caller that is gone does not want to know.
        let _ = events.send(ExecEvent::Exit(code)).await;
    }
}

/// Passes output on until the command has ended and all of it is sent.
async fn relay<Source: AsyncRead + Unpin>(
    output: &mut Output<Source>,
    process: Option<&OwnedFd>,
    events: &mpsc::Sender<ExecEvent>,
) {
    let own = process.and_then(|fd| fd.try_clone().ok());
    let ended = own.and_then(|fd| {
        // SAFETY: the owned descriptor stays open, and the same, until the AsyncFd is dropped.
        unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }.ok()
    });
    let (mut has_ended, mut kill_at) = (process.is_none(), None::<Instant>);
    loop {
        let end = async {
            match &ended {
                Some(pidfd) => drop(pidfd.readable().await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            piece = output.next() => match piece {
                Ok(None) => return,
                Ok(Some(event)) => {
                    let _ = events.send(event).await;
                }
                Err(error) => {
                    log::warn!("output of a command of 'mesh exec': {error}");
                    return;
                }
            },
            () = end, if !has_ended => has_ended = true,
            () = tokio::time::sleep(QUIET_AFTER_EXIT), if has_ended => return,
            // What it left behind may write for ever: to nobody.
            () = events.closed(), if has_ended => return,
            () = events.closed(), if kill_at.is_none() => {
                signal(process, libc::SIGHUP);
                kill_at = Some(Instant::now() + AFTER_HANG_UP);
            }
            () = tokio::time::sleep_until(kill_at.unwrap_or_else(Instant::now)), if kill_at.is_some() && !has_ended => {
                signal(process, libc::SIGKILL);
                kill_at = Some(Instant::now() + AFTER_HANG_UP);
            }
        }
    }
}
fn signal(process: Option<&OwnedFd>, number: i32) {
    if let Some(Err(error)) = process.map(|process| pidfd_signal(process, number)) {
        log::warn!("signal {number} for a command of 'mesh exec': {error}");
    }
}

/// Passes the caller's input on; the end of the channel is the end of the input.
async fn feed(
    mut input: mpsc::Receiver<ExecInput>,
    stdin: Input,
    exec: Exec,
    process: Option<Arc<OwnedFd>>,
    is_terminal: bool,
) {
    let mut stdin = Some(stdin);
    while let Some(message) = input.recv().await {
        match message {
            ExecInput::Stdin(bytes) => {
                if let Some(writer) = &mut stdin
                    && write(writer, &bytes).await.is_err()
                {
                    // The command reads no more; what still comes is for nobody.
                    stdin = None;
                }
            }
            // A terminal has no half that could be closed: its user types Ctrl-D.
            ExecInput::CloseStdin if is_terminal => {}
            ExecInput::CloseStdin => close(&mut stdin).await,
            ExecInput::Resize(size) => {
                if let Err(error) = exec.resize(size).await {
                    log::debug!("resizing a terminal of 'mesh exec': {}", words(&error));
                }
            }
            ExecInput::Signal(number) => signal(process.as_deref(), number),
        }
    }
    if !is_terminal {
        close(&mut stdin).await;
    }
    // Dropping our half of the connection would end the other one as well.
    std::future::pending::<()>().await;
}

async fn write(writer: &mut Input, bytes: &Bytes) -> std::io::Result<()> {
    writer.write_all(bytes).await?;
    writer.flush().await
}

/// Half-closes the connection: the Engine closes the command's standard input.
async fn close(stdin: &mut Option<Input>) {
    if let Some(writer) = stdin {
        let _ = writer.shutdown().await; // the command may have ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_command_left_behind_is_not_read_for_nobody() {
        // `sh -c 'yes &'`: ended, and never quiet.
        let mut output = Output::new(tokio::io::repeat(b'y'), true);
        let (sender, mut events) = mpsc::channel(1);
        let relaying = tokio::spawn(async move { relay(&mut output, None, &sender).await });
        assert!(matches!(events.recv().await, Some(ExecEvent::Stdout(_))));
        drop(events);
        tokio::time::timeout(Duration::from_secs(10), relaying).await.expect("it returns").expect("no panic");
    }
}
