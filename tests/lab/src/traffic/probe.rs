//! A steady stream of new connections in the background, and the story it tells: who answered when, and what failed.
//!
//! Scenarios start one, break something, mend it, stop the probe, and ask the [`Timeline`] how long users suffered.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;

/// One new connection with one request.
#[derive(Clone, Debug)]
pub struct Sample {
    /// When the attempt began.
    pub at: Instant,
    pub took: Duration,
    /// The task that answered, or what went wrong.
    pub outcome: Result<String, String>,
}

/// A probe that runs until it is stopped (or dropped).
#[derive(Debug)]
pub struct Probe {
    stop: Sender<()>,
    thread: JoinHandle<Vec<Sample>>,
}

impl Probe {
    /// Calls `ask` every `pace` on a thread that `on_thread` has prepared (put into a namespace). It is under way when this returns: what happens next finds
    /// the first call answered, or failed.
    pub fn start(
        pace: Duration,
        on_thread: impl FnOnce() -> Result<()> + Send + 'static,
        ask: impl Fn() -> Result<String> + Send + 'static,
    ) -> Probe {
        let (stop, stopped) = channel();
        let (begin, begun) = channel();
        let thread = std::thread::spawn(move || {
            let mut samples = Vec::new();
            if let Err(error) = on_thread() {
                samples.push(Sample { at: Instant::now(), took: Duration::ZERO, outcome: Err(format!("{error:#}")) });
                return samples;
            }
            loop {
                let at = Instant::now();
                let outcome = ask().map_err(|error| format!("{error:#}"));
                samples.push(Sample { at, took: at.elapsed(), outcome });
                let _ = begin.send(()); // heard once
                if stopped.recv_timeout(pace.saturating_sub(at.elapsed())) != Err(RecvTimeoutError::Timeout) {
                    return samples;
                }
            }
        });
        // An error where the thread ended before its first call: its samples tell why.
        let _ = begun.recv();
        Probe { stop, thread }
    }

    pub fn stop(self) -> Timeline {
        // The thread may have ended by itself; its samples tell why.
        let _ = self.stop.send(());
        Timeline { samples: self.thread.join().unwrap_or_default() }
    }
}

/// What a probe saw, in order.
#[derive(Clone, Debug, Default)]
pub struct Timeline {
    pub samples: Vec<Sample>,
}

impl Timeline {
    pub fn answered(&self) -> usize {
        self.samples.iter().filter(|sample| sample.outcome.is_ok()).count()
    }

    pub fn failures(&self) -> Vec<&Sample> {
        self.samples.iter().filter(|sample| sample.outcome.is_err()).collect()
    }

    /// How long after `event` the last failed attempt began; None where nothing failed since.
    pub fn last_failure_after(&self, event: Instant) -> Option<Duration> {
        self.failures().iter().rev().find_map(|sample| sample.at.checked_duration_since(event))
    }

    /// The tasks that answered attempts begun in `from..to`, each once.
    pub fn tasks_between(&self, from: Instant, to: Instant) -> Vec<String> {
        let mut tasks: Vec<String> = Vec::new();
        for sample in self.samples.iter().filter(|sample| sample.at >= from && sample.at < to) {
            if let Ok(task) = &sample.outcome
                && !tasks.contains(task)
            {
                tasks.push(task.clone());
            }
        }
        tasks
    }

    /// One line for people, and the first failures in words.
    pub fn describe(&self) -> String {
        let mut text = format!("{} of {} new connections answered", self.answered(), self.samples.len());
        if let Some(first) = self.samples.first() {
            for sample in self.failures().iter().take(8) {
                let Err(why) = &sample.outcome else { continue };
                let at = sample.at.duration_since(first.at);
                text += &format!("\n  {at:.1?}: after {:.1?}: {why}", sample.took);
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn a_timeline_knows_the_last_failure_after_an_event() {
        let calls = AtomicU32::new(0);
        let event = Instant::now();
        let probe = Probe::start(
            Duration::from_millis(5),
            || Ok(()),
            move || {
                if calls.fetch_add(1, Ordering::Relaxed) == 0 { anyhow::bail!("away") } else { Ok("t1".into()) }
            },
        );
        crate::eventually::let_pass(Duration::from_millis(60));
        let timeline = probe.stop();
        assert_eq!(timeline.failures().len(), 1);
        assert!(timeline.last_failure_after(event).unwrap() < Duration::from_secs(1));
        assert_eq!(timeline.last_failure_after(Instant::now()), None);
        assert_eq!(timeline.tasks_between(event, Instant::now()), ["t1"]);
        assert!(timeline.describe().contains("away"), "{}", timeline.describe());
    }
}
