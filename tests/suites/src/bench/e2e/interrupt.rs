//! Ctrl-C and SIGTERM: the benchmark stops between two runs and takes its lab down, instead of leaving it.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{SigHandler, Signal, signal};

static ASKED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_: i32) {
    ASKED.store(true, Ordering::Relaxed);
}

/// While this lives, the two signals only leave a note.
pub struct Watch([(Signal, SigHandler); 2]);

pub fn watch() -> Result<Watch> {
    let catch = |one: Signal| -> Result<(Signal, SigHandler)> {
        // SAFETY: the handler stores to an atomic, which is allowed in a signal handler.
        let before = unsafe { signal(one, SigHandler::Handler(note)) }.with_context(|| format!("catching {one}"))?;
        Ok((one, before))
    };
    Ok(Watch([catch(Signal::SIGINT)?, catch(Signal::SIGTERM)?]))
}

impl Drop for Watch {
    fn drop(&mut self) {
        for (one, before) in self.0 {
            // SAFETY: what stood there before us is put back. Where that fails, the note stays, which ends the run too.
            let _ = unsafe { signal(one, before) };
        }
    }
}

/// A signal came.
pub fn was_asked() -> bool {
    ASKED.load(Ordering::Relaxed)
}

/// An error once a signal came.
pub fn check() -> Result<()> {
    ensure!(!was_asked(), "interrupted: the lab is taken down, nothing is written");
    Ok(())
}
