//! A pseudo-terminal whose slave lies in a task's own /dev/pts, so that `tty` and /dev/tty work inside.
//!
//! The agent holds the master: when it closes (the caller is gone, the agent dies), the kernel hangs the session up.

use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::model::WindowSize;
use crate::runtime::process::ProcessRef;

/// The master side.
pub struct Terminal(AsyncFd<OwnedFd>);

impl Terminal {
    /// Opens a terminal in the mount namespace of `init`; gives the slave too, for the command.
    pub fn open_in(init: &ProcessRef, size: WindowSize) -> io::Result<(Self, OwnedFd)> {
        let path = format!("/proc/{}/root/dev/pts/ptmx", init.pid);
        let flags = libc::O_NOCTTY | libc::O_NONBLOCK;
        let master: OwnedFd = OpenOptions::new().read(true).write(true).custom_flags(flags).open(path)?.into();
        if !init.is_alive() {
            // The path may have led into another process's world.
            return Err(io::Error::other("the task has ended"));
        }
        let unlocked: libc::c_int = 0;
        // SAFETY: TIOCSPTLCK reads one int, which lives during the call.
        check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) })?;
        let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
        // SAFETY: TIOCGPTPEER takes an integer (Linux 4.13).
        let slave = check(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) })?;
        // SAFETY: the kernel just gave us this descriptor, nobody else owns it.
        let slave = unsafe { OwnedFd::from_raw_fd(slave) };
        // SAFETY: the owned descriptor stays open, and the same, until the AsyncFd is dropped.
        let terminal = Terminal(unsafe { AsyncFd::register(master) }?);
        terminal.resize(size)?;
        Ok((terminal, slave))
    }

    /// Tells the command, with SIGWINCH, that its window has another size.
    pub fn resize(&self, size: WindowSize) -> io::Result<()> {
        let size = libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
        // SAFETY: TIOCSWINSZ reads one winsize, which lives during the call.
        check(unsafe { libc::ioctl(self.0.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }).map(|_| ())
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// One direction of a terminal as a stream.
pub struct Half(pub Arc<Terminal>);

impl AsyncRead for Half {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut guard = ready!(self.0.0.poll_read_ready(context))?;
            let read = guard.try_io(|fd| {
                match nix::unistd::read(fd, buffer.initialize_unfilled()) {
                    // Nobody has the slave open any more: that is a terminal's end of file.
                    Err(Errno::EIO) => Ok(0),
                    result => result.map_err(io::Error::from),
                }
            });
            if let Ok(result) = read {
                return Poll::Ready(result.map(|length| buffer.advance(length)));
            }
        }
    }
}

impl AsyncWrite for Half {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let mut guard = ready!(self.0.0.poll_write_ready(context))?;
            if let Ok(result) = guard.try_io(|fd| nix::unistd::write(fd, bytes).map_err(io::Error::from)) {
                return Poll::Ready(result);
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
