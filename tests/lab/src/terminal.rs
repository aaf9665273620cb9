//! A program on a pseudo-terminal, driven as a person would: type, and wait until something is on the screen.
//!
//! For `mesh exec -it client.1 sh`. Invariant: [`Terminal::until`] only looks at what came after the last thing it found.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::pty::{Winsize, openpty};

use crate::command::wait_for_end;

/// A program with its terminal; dropping it hangs up.
#[derive(Debug)]
pub struct Terminal {
    child: Child,
    keyboard: File,
    screen: Receiver<Vec<u8>>,
    unread: String,
}

impl Terminal {
    /// Starts `command` as the leader of a session of its own, on a terminal of 24 lines and 80 columns.
    pub fn start(mut command: Command) -> Result<Terminal> {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&size), None).context("can't open a pseudo-terminal")?;
        // openpty(3) knows no close-on-exec: a child of another thread would keep the terminal open.
        for end in [&pair.master, &pair.slave] {
            fcntl(end, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        }
        let slave = File::from(pair.slave);
        command.env("TERM", "dumb");
        command.stdin(slave.try_clone()?).stdout(slave.try_clone()?).stderr(slave.try_clone()?);
        let terminal = slave.as_raw_fd();
        // SAFETY: between fork and exec only bare system calls are made; `slave` stays open until after the spawn.
        unsafe {
            command.pre_exec(move || {
                nix::unistd::setsid()?;
                if libc::ioctl(terminal, libc::TIOCSCTTY, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                // Whoever runs the tests in the background has a shell that ignores these, for itself and all its children.
                for signal in [libc::SIGINT, libc::SIGQUIT] {
                    if libc::signal(signal, libc::SIG_DFL) == libc::SIG_ERR {
                        return Err(std::io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        let child = command.spawn().context("can't start a program on a terminal")?;
        // The command holds copies of the slave's end: without them gone, the end of the program would not be seen.
        drop((command, slave));
        let keyboard = File::from(pair.master);
        let screen = read_in_background(keyboard.try_clone()?);
        Ok(Terminal { child, keyboard, screen, unread: String::new() })
    }

    /// Types a line and Return.
    pub fn line(&mut self, text: &str) -> Result<()> {
        self.keys(&format!("{text}\r"))
    }

    /// Types keys; `"\x03"` is Ctrl-C, `"\x04"` Ctrl-D.
    pub fn keys(&mut self, keys: &str) -> Result<()> {
        self.keyboard.write_all(keys.as_bytes()).context("can't type: the program has ended")
    }

    /// Changes the size; the program gets SIGWINCH.
    pub fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: the ioctl reads one winsize, which lives through the call.
        let result = unsafe { libc::ioctl(self.keyboard.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
        if result < 0 { Err(std::io::Error::last_os_error()).context("can't resize") } else { Ok(()) }
    }

    /// Waits until `text` is on the screen; gives what stood before it. Mind that what one types is shown too: wait for
    /// something that only the answer can hold.
    pub fn until(&mut self, text: &str, within: Duration) -> Result<String> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(place) = self.unread.find(text) {
                let before = self.unread[..place].to_owned();
                self.unread.drain(..place + text.len());
                return Ok(before);
            }
            match self.screen.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(part) => self.unread += &String::from_utf8_lossy(&part),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("waited {within:?} for {text:?}; the screen shows {:?}", self.unread)
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("ended before {text:?}; the screen shows {:?}", self.unread)
                }
            }
        }
    }

    /// Waits for the program's end; its exit code, 128 + signal where a signal ended it.
    pub fn end(mut self, within: Duration) -> Result<i32> {
        if !wait_for_end(&self.child, within)? {
            bail!("still running after {within:?}; the screen shows {:?}", self.unread);
        }
        let status = self.child.wait()?;
        Ok(status.code().unwrap_or_else(|| 128 + std::os::unix::process::ExitStatusExt::signal(&status).unwrap_or(0)))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // Both fail where the program has ended and was waited for already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn read_in_background(mut master: File) -> Receiver<Vec<u8>> {
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        let mut buffer = [0; 4096];
        // The master's end reads EIO once no program has the slave's end open.
        while let Ok(size @ 1..) = master.read(&mut buffer) {
            if sender.send(buffer[..size].to_vec()).is_err() {
                break;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    #[test]
    fn a_shell_is_typed_at_and_read() {
        let mut command = Command::new("sh");
        command.env("PS1", "ready> ");
        let mut terminal = Terminal::start(command).unwrap();
        terminal.until("ready> ", SOON).unwrap();
        terminal.line("echo $((40 + 2))").unwrap();
        terminal.until("42\r\n", SOON).unwrap();
        terminal.line("tty >/dev/null && stty size").unwrap();
        terminal.until("24 80", SOON).unwrap();
        terminal.resize(30, 100).unwrap();
        terminal.line("stty size").unwrap();
        terminal.until("30 100", SOON).unwrap();
        terminal.line("exit 7").unwrap();
        assert_eq!(terminal.end(SOON).unwrap(), 7);
    }

    #[test]
    fn a_program_is_interrupted_although_whoever_started_the_tests_is_not() {
        let mut command = Command::new("sleep");
        command.arg("60");
        // SAFETY: a bare system call. What a shell does to what it runs in the background.
        unsafe {
            command.pre_exec(|| {
                libc::signal(libc::SIGINT, libc::SIG_IGN);
                Ok(())
            });
        }
        let mut terminal = Terminal::start(command).unwrap();
        terminal.keys("\x03").unwrap();
        assert_eq!(terminal.end(SOON).unwrap(), 128 + libc::SIGINT);
    }

    #[test]
    fn what_does_not_come_is_told_with_the_screen() {
        let mut command = Command::new("echo");
        command.arg("hello");
        let mut terminal = Terminal::start(command).unwrap();
        let error = terminal.until("goodbye", SOON).unwrap_err().to_string();
        assert!(error.contains("hello"), "{error}");
    }
}
