//! The terminal this process runs in: its size, and raw mode while a remote shell has it.

use std::io::stdin;

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use crate::model::WindowSize;

nix::ioctl_read_bad!(read_window_size, nix::libc::TIOCGWINSZ, nix::libc::winsize);

/// None where standard input is no terminal.
pub(super) fn window_size() -> Option<WindowSize> {
    let mut size = nix::libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ writes one `winsize`, into one that lives longer than the call.
    unsafe { read_window_size(nix::libc::STDIN_FILENO, &mut size) }.ok()?;
    (size.ws_row > 0).then_some(WindowSize { rows: size.ws_row, columns: size.ws_col })
}

/// Every key goes through unread until this is dropped.
pub(super) struct RawMode {
    before: Termios,
}

impl RawMode {
    pub(super) fn enter() -> nix::Result<Self> {
        let before = tcgetattr(stdin())?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(stdin(), SetArg::TCSANOW, &raw)?;
        Ok(RawMode { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // The terminal may be gone; there is nothing to restore then.
        let _ = tcsetattr(stdin(), SetArg::TCSADRAIN, &self.before);
    }
}
