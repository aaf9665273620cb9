//! A file that follows a value: the newest one is on disk soon, and nobody waits for it.
//!
//! A thread of its own writes what was handed over last. What comes while it writes replaces what still waits, and after a write it
//! rests for twenty times as long as the write took: a small state is there in a moment, a large one costs a twentieth of a CPU at most.
//! Invariant: the file is whole at any moment, the old one or the new one. Must not: know what is kept.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde::Serialize;

/// Rest after a write, in multiples of its own time.
const REST: u32 = 20;

/// The file's writer; when it is dropped, the newest value is on disk.
pub struct Kept<T> {
    shared: Arc<Shared<T>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    news: Condvar,
}

struct State<T> {
    newest: Option<Arc<T>>,
    is_closed: bool,
}

impl<T> Shared<T> {
    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T: Serialize + Send + Sync + 'static> Kept<T> {
    /// `is_durable`: a power cut shall not take it back either.
    pub fn new(path: PathBuf, is_durable: bool) -> Self {
        let shared =
            Arc::new(Shared { state: Mutex::new(State { newest: None, is_closed: false }), news: Condvar::new() });
        let follower = shared.clone();
        let writer = std::thread::Builder::new().name("mesh-keep".to_string()).spawn(move || {
            follow(&follower, &path, is_durable);
        });
        let writer = writer.inspect_err(|error| log::error!("start the writer of what is kept: {error}")).ok();
        Kept { shared, writer: Mutex::new(writer) }
    }

    pub fn set(&self, value: Arc<T>) {
        self.shared.state().newest = Some(value);
        self.shared.news.notify_one();
    }
}

impl<T> Kept<T> {
    /// Brings the newest value to disk; nothing is written afterwards.
    pub fn close(&self) {
        self.shared.state().is_closed = true;
        self.shared.news.notify_one();
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            let _ = writer.join(); // its panic has been told
        }
    }
}

impl<T> Drop for Kept<T> {
    fn drop(&mut self) {
        self.close();
    }
}

fn follow<T: Serialize>(shared: &Shared<T>, path: &Path, is_durable: bool) {
    let mut rests_until = Instant::now();
    loop {
        let newest = {
            let mut state = shared.state();
            loop {
                let rest = rests_until.saturating_duration_since(Instant::now());
                if state.newest.is_some() && (state.is_closed || rest.is_zero()) {
                    break;
                }
                if state.newest.is_none() && state.is_closed {
                    return;
                }
                let wait = if state.newest.is_some() { rest } else { Duration::from_secs(3_600) };
                state = match shared.news.wait_timeout(state, wait) {
                    Ok((state, _)) => state,
                    Err(poisoned) => poisoned.into_inner().0,
                };
            }
            state.newest.take()
        };
        let Some(newest) = newest else { continue };
        let began = Instant::now();
        if let Err(error) = write(path, &*newest, is_durable) {
            log::warn!("keep what is known in {}: {error}", path.display());
        }
        rests_until = Instant::now() + began.elapsed() * REST;
    }
}

/// Beside, then in its place. For root alone: environments of services are in it.
fn write<T: Serialize>(path: &Path, value: &T, is_durable: bool) -> std::io::Result<()> {
    let next = path.with_extension("new");
    let file = std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&next)?;
    // In pieces: the text of a large state is larger than the state.
    let mut text = std::io::BufWriter::with_capacity(1 << 16, file);
    serde_json::to_writer(&mut text, value)?;
    text.flush()?;
    if is_durable {
        text.get_ref().sync_all()?;
    }
    std::fs::rename(next, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_many_is_what_is_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("kept.json");
        let kept = Kept::new(path.clone(), false);
        (0..=1_000u32).for_each(|number| kept.set(Arc::new(vec![number; 1_000])));
        kept.close();
        kept.set(Arc::new(Vec::new()));
        let found: Vec<u32> = serde_json::from_slice(&std::fs::read(path).expect("a file")).expect("whole");
        assert_eq!(found, [1_000; 1_000]);
        assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 1, "nothing is left beside it");
    }

    #[test]
    fn nothing_said_is_nothing_written() {
        let dir = tempfile::tempdir().expect("a directory");
        drop(Kept::<u32>::new(dir.path().join("kept.json"), true));
        assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 0);
    }
}
