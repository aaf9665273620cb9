//! `mesh exec`: a command in a task, with this process's streams, terminal, signals and exit code.

use std::io::{IsTerminal, Read};

use bytes::Bytes;
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::Screen;
use super::fault::Fault;
use super::terminal::{RawMode, window_size};
use crate::api::{Client, ExecSession};
use crate::model::{ExecEvent, ExecInput, ExecRequest, WindowSize};

#[derive(Debug, Args)]
pub(super) struct Exec {
    /// Connect standard input
    #[arg(short, long)]
    interactive: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Set an environment variable
    #[arg(short, long, value_name = "K=V")]
    env: Vec<String>,
    /// As this user
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// In this folder
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// whoami.1, a task's id, or a unique prefix of it
    task: String,
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(super) async fn run(flags: Exec, client: &Client, screen: &mut Screen<'_>) -> Result<(), Fault> {
    let on_terminal = std::io::stdin().is_terminal();
    if flags.tty && flags.interactive && !on_terminal {
        return Err(Fault::failed("exec -it: standard input is not a terminal; leave -t out"));
    }
    let size = window_size().unwrap_or(WindowSize { rows: 24, columns: 80 });
    let request = ExecRequest {
        command: flags.command,
        env: flags.env,
        user: flags.user,
        workdir: flags.workdir,
        interactive: flags.interactive,
        tty: flags.tty.then_some(size),
    };
    let ExecSession { input, mut events } = client.exec(&flags.task, &request).await?;
    // From here to the end of this function: the guard gives the terminal back however it ends.
    let _raw = (flags.tty && flags.interactive).then(RawMode::enter).transpose();
    let _raw = _raw.map_err(|error| Fault::failed(format!("exec -t: the terminal can't be made raw: {error}")))?;
    forward_signals(&input, flags.tty)?;
    if flags.interactive {
        forward_stdin(input);
    } else {
        // Kept for signals only; the session stays open through the senders in there.
        drop(input);
    }
    while let Some(event) = events.recv().await {
        match event {
            ExecEvent::Stdout(bytes) => {
                screen.out.write_all(&bytes).and_then(|()| screen.out.flush()).map_err(Fault::from_output)?;
            }
            // Nowhere to complain where standard error is closed.
            ExecEvent::Stderr(bytes) => drop(screen.err.write_all(&bytes).and_then(|()| screen.err.flush())),
            ExecEvent::Exit(0) => return Ok(()),
            ExecEvent::Exit(code) => return Err(Fault::Exit(u8::try_from(code).unwrap_or(1).max(1))),
        }
    }
    Err(Fault::failed(format!(
        "exec in {}: the connection was lost before the command ended; does its node still run ('mesh node ls')?",
        flags.task
    )))
}

/// A thread of its own: reads of a terminal can't be cancelled, and end with the process.
fn forward_stdin(input: mpsc::Sender<ExecInput>) {
    std::thread::spawn(move || {
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let frame = match std::io::stdin().read(&mut buffer) {
                Ok(0) | Err(_) => ExecInput::CloseStdin,
                Ok(length) => ExecInput::Stdin(Bytes::copy_from_slice(&buffer[..length])),
            };
            let is_end = frame == ExecInput::CloseStdin;
            if input.blocking_send(frame).is_err() || is_end {
                return;
            }
        }
    });
}

/// What the shell sends this process goes to the command; a resized window too.
fn forward_signals(input: &mpsc::Sender<ExecInput>, tty: bool) -> Result<(), Fault> {
    let fail = |error: std::io::Error| Fault::failed(format!("exec: signals can't be watched: {error}"));
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()] {
        let (mut arrivals, input) = (signal(kind).map_err(fail)?, input.clone());
        tokio::spawn(async move {
            while arrivals.recv().await.is_some() && input.send(ExecInput::Signal(kind.as_raw_value())).await.is_ok() {}
        });
    }
    if tty {
        let (mut resized, input) = (signal(SignalKind::window_change()).map_err(fail)?, input.clone());
        tokio::spawn(async move {
            while resized.recv().await.is_some() {
                let Some(size) = window_size() else { continue };
                if input.send(ExecInput::Resize(size)).await.is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}
