//! Programs run to their end, with a deadline and everything they printed.
//!
//! Under every verb that calls `ip`, `mesh` or a user's tool. Invariant: a program that hangs costs its deadline and no more, and
//! whatever it had printed until then is in the error. It must not interpret output: that is the caller's business.

use std::io::Read;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// What a program left behind.
#[derive(Clone, Debug)]
pub struct Output {
    /// The command as a user would type it.
    pub command: String,
    /// Exit code as a shell has it: 128 + signal where a signal ended it.
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
    pub took: Duration,
}

impl Output {
    pub fn success(&self) -> bool {
        self.status == 0
    }

    /// Standard output of a command that must succeed.
    pub fn ok(self) -> Result<String> {
        if self.success() { Ok(self.stdout) } else { bail!("{}", self.describe()) }
    }

    /// Standard error of a command that must be refused.
    pub fn refused(self) -> Result<String> {
        if self.success() {
            bail!("should have been refused, but succeeded: {}", self.describe());
        }
        Ok(self.stderr)
    }

    /// The one line on standard error of a request that is refused with exit code 1.
    pub fn complaint(self) -> Result<String> {
        let said = self.stderr.trim_end();
        ensure!(self.status == 1, "should be refused with exit code 1: {}", self.describe());
        ensure!(!said.is_empty() && said.lines().count() == 1, "should say one line: {}", self.describe());
        Ok(said.to_owned())
    }

    /// Everything, for people.
    pub fn describe(&self) -> String {
        format!(
            "`{}` ended with {} after {:.1?}\nstdout: {}\nstderr: {}",
            self.command,
            self.status,
            self.took,
            self.stdout.trim_end(),
            self.stderr.trim_end()
        )
    }
}

/// Runs `command` to its end, but no longer than `limit`; feeds it `input`. An error is a program that could not be
/// started or did not end in time; a non-zero exit is an [`Output`].
pub fn run(mut command: Command, input: &str, limit: Duration) -> Result<Output> {
    let shown = shown(&command);
    let started = Instant::now();
    command.stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("can't start `{shown}`: is the program installed?"))?;
    let (stdout, stderr) = (collect(child.stdout.take()), collect(child.stderr.take()));
    if let Some(mut stdin) = child.stdin.take() {
        // A program that does not read all of its input is judged by its exit code.
        let _ = std::io::Write::write_all(&mut stdin, input.as_bytes());
    }
    let in_time = wait_for_end(&child, limit)?;
    if !in_time {
        child.kill().with_context(|| format!("can't end `{shown}`"))?;
    }
    let status = child.wait()?;
    let output = Output {
        command: shown,
        status: status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0)),
        stdout: text(&stdout),
        stderr: text(&stderr),
        took: started.elapsed(),
    };
    if !in_time {
        bail!("did not end within {limit:?}: {}", output.describe());
    }
    Ok(output)
}

/// True where the process ended within `limit`; it stays to be waited for.
pub(crate) fn wait_for_end(child: &Child, limit: Duration) -> Result<bool> {
    wait_for_pid(child.id(), limit)
}

/// As [`wait_for_end`], also for a process that is not our child.
pub(crate) fn wait_for_pid(pid: u32, limit: Duration) -> Result<bool> {
    // SAFETY: pidfd_open takes a pid and flags and returns a new descriptor or -1.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        // The process is gone already.
        return Ok(true);
    }
    // SAFETY: the descriptor is new and nobody else's.
    let fd = unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).context("pidfd_open")?) };
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) if left.is_zero() => return Ok(false),
            Ok(0) | Err(nix::errno::Errno::EINTR) => {}
            Ok(_) => return Ok(true),
            Err(error) => return Err(error).context("can't wait for a process"),
        }
    }
}

/// A thread reads the stream, so that a full pipe never blocks the program.
fn collect(stream: Option<impl Read + Send + 'static>) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    if let Some(mut stream) = stream {
        thread::spawn(move || {
            let mut buffer = [0; 8192];
            while let Ok(size @ 1..) = stream.read(&mut buffer) {
                if sender.send(buffer[..size].to_vec()).is_err() {
                    break;
                }
            }
        });
    }
    receiver
}

/// What the stream said. A grandchild that keeps the pipe open (a daemon) is not waited for longer than a moment.
fn text(stream: &Receiver<Vec<u8>>) -> String {
    let mut bytes = Vec::new();
    while let Ok(part) = stream.recv_timeout(Duration::from_millis(300)) {
        bytes.extend(part);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| quoted(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{word}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, limit: Duration) -> Result<Output> {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        run(command, "fed\n", limit)
    }

    #[test]
    fn output_and_exit_code_are_kept() {
        let output = shell("cat; echo no >&2; exit 3", Duration::from_secs(5)).unwrap();
        assert_eq!((output.status, output.stdout.as_str(), output.stderr.as_str()), (3, "fed\n", "no\n"));
        assert_eq!(output.clone().refused().unwrap(), "no\n");
        assert!(output.ok().unwrap_err().to_string().contains("`sh -c 'cat; echo no >&2; exit 3'` ended with 3"));
    }

    #[test]
    fn a_hanging_program_costs_its_deadline() {
        let error = shell("echo begun; exec sleep 60", Duration::from_millis(300)).unwrap_err().to_string();
        assert!(error.contains("did not end within 300ms") && error.contains("begun"), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = run(Command::new("no-such-program"), "", Duration::from_secs(1)).unwrap_err().to_string();
        assert!(error.contains("`no-such-program`"), "{error}");
    }
}
