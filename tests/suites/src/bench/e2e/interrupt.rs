//! Ctrl-C and SIGTERM: the benchmark stops between two runs and takes its lab down, instead of leaving it.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{SigHandler, Signal, signal};

static ASKED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: i32) {
    ASKED.store(true, Ordering::Relaxed);
}

/// From here on the two signals only leave a note.
pub fn watch() -> Result<()> {
    for one in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler stores to an atomic, which is allowed in a signal handler.
        unsafe { signal(one, SigHandler::Handler(note)) }.with_context(|| format!("catching {one}"))?;
    }
    Ok(())
}

/// An error once a signal came.
pub fn check() -> Result<()> {
    ensure!(!ASKED.load(Ordering::Relaxed), "interrupted: the lab is taken down, nothing is written");
    Ok(())
}
