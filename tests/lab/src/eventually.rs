//! Waiting: for something to become true, or to stay true, with a deadline.
//!
//! The only place of the lab that sleeps. Invariant: when the deadline passes, the error holds the last thing seen, so that a
//! failed test says what was there instead of what was wanted.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Pause between two looks: short against what people notice, long against what a look costs.
const PAUSE: Duration = Duration::from_millis(50);

/// So many times longer things may take where the machine is emulated: all packet programs are loaded in 3 seconds here, and in 20 there.
const EMULATED: u32 = 6;

/// A deadline as this machine can keep it: who plays tests in an emulated one (`cargo xtask verify`) says so in the environment.
fn fair(within: Duration) -> Duration {
    if std::env::var_os("MESH_EMULATED").is_some() { within * EMULATED } else { within }
}

/// Looks until `look` succeeds. `what` completes the sentence "waited N s for …".
pub fn eventually<T>(within: Duration, what: &str, mut look: impl FnMut() -> Result<T>) -> Result<T> {
    let (started, within) = (Instant::now(), fair(within));
    loop {
        let last = match look() {
            Ok(value) => return Ok(value),
            Err(last) => last,
        };
        if started.elapsed() >= within {
            return Err(last).with_context(|| format!("waited {:.1?} for {what}; last seen", started.elapsed()));
        }
        thread::sleep(PAUSE.min(within.saturating_sub(started.elapsed())));
    }
}

/// Looks for the whole of `time`; the first failed look ends it.
pub fn steadily(time: Duration, what: &str, mut look: impl FnMut() -> Result<()>) -> Result<()> {
    let started = Instant::now();
    while started.elapsed() < time {
        look().with_context(|| format!("{what}: no longer so after {:.1?}", started.elapsed()))?;
        thread::sleep(PAUSE);
    }
    Ok(())
}

/// Lets `time` pass because the scenario says so ("start it again after 30 s"), not to wait for something.
pub fn let_pass(time: Duration) {
    thread::sleep(time);
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    #[test]
    fn a_look_that_succeeds_ends_the_waiting() {
        let mut looks = 0;
        let value = eventually(Duration::from_secs(5), "the third look", || {
            looks += 1;
            if looks < 3 { bail!("look {looks}") } else { Ok(looks) }
        });
        assert_eq!(value.unwrap(), 3);
    }

    #[test]
    fn the_error_holds_the_last_thing_seen() {
        let error = eventually::<()>(Duration::from_millis(120), "two tasks", || bail!("one task")).unwrap_err();
        let text = format!("{error:#}");
        assert!(text.contains("for two tasks; last seen: one task"), "{text}");
    }

    #[test]
    fn what_must_stay_is_watched() {
        assert!(steadily(Duration::from_millis(120), "calm", || Ok(())).is_ok());
        assert!(steadily(Duration::from_millis(120), "calm", || bail!("storm")).is_err());
    }
}
