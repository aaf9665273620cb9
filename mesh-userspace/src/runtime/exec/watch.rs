//! Who waits for which task's end: one pidfd per supervisor, no polling.
//!
//! Invariant: each watched task's end is told once to every subscriber, and to everyone who waits for that task; to subscribers only if the task was
//! not removed before, for then nothing is left that says how it ended.
//! Must not: decide whether a task should run.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{io, os::fd::OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch};

use super::cgroup::TaskCgroup;
use super::record::{StateRecord, TaskDir};
use crate::model::Id;
use crate::runtime::{Phase, TaskEvent, TaskExit};

/// The tasks of this agent's life.
#[derive(Clone, Default)]
pub struct Watches(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    ends: HashMap<Id, watch::Receiver<Option<TaskExit>>>,
    preparing: HashSet<Id>,
    subscribers: Vec<mpsc::UnboundedSender<TaskEvent>>,
}

/// A task's end, to wait for.
#[derive(Clone)]
pub struct End(watch::Receiver<Option<TaskExit>>);

/// Marks a task as being prepared, until dropped.
pub struct Preparing(Watches, Id);

impl Watches {
    fn table(&self) -> MutexGuard<'_, Table> {
        // Every change is a single insertion or removal: the table is whole even if a holder panicked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn subscribe(&self) -> mpsc::UnboundedReceiver<TaskEvent> {
        let (sender, receiver) = mpsc::unbounded_channel();
        self.table().subscribers.push(sender);
        receiver
    }

    pub fn preparing(&self, task_id: &Id) -> Preparing {
        self.table().preparing.insert(task_id.clone());
        Preparing(self.clone(), task_id.clone())
    }

    pub fn is_preparing(&self, task_id: &Id) -> bool {
        self.table().preparing.contains(task_id)
    }

    pub fn forget(&self, task_id: &Id) {
        self.table().ends.remove(task_id);
    }

    /// Watches a task's supervisor, once however often it is asked for.
    pub fn add(&self, task_id: Id, dir: TaskDir, group: TaskCgroup, state: &StateRecord) -> io::Result<End> {
        let mut table = self.table();
        if let Some(end) = table.ends.get(&task_id) {
            return Ok(End(end.clone()));
        }
        let register = |fd| {
            // SAFETY: the owned descriptor stays open, and the same, until the AsyncFd is dropped.
            unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) }
        };
        let pidfd = state.supervisor.pidfd()?.map(register).transpose()?;
        let (sender, receiver) = watch::channel(None);
        table.ends.insert(task_id.clone(), receiver.clone());
        let watches = self.clone();
        tokio::spawn(async move {
            if let Some(Err(error)) = await_end(pidfd).await {
                log::warn!("watching task {}: {error}: it is taken for ended", task_id.short());
            }
            let id = task_id.clone();
            let concluded = tokio::task::spawn_blocking(move || conclude(&id, &dir, &group)).await;
            let Ok(exit) = concluded else { return };
            // Asked before anybody who waits for the end can go on to the removal.
            let is_there = watches.table().ends.contains_key(&task_id);
            sender.send_replace(Some(exit.clone()));
            if is_there {
                watches.tell(TaskEvent::Exited { task_id, exit });
            }
        });
        Ok(End(receiver))
    }

    /// To every subscriber.
    pub fn tell(&self, event: TaskEvent) {
        self.table().subscribers.retain(|subscriber| subscriber.send(event.clone()).is_ok());
    }
}

impl Drop for Preparing {
    fn drop(&mut self) {
        self.0.table().preparing.remove(&self.1);
    }
}

impl End {
    pub async fn ended(mut self) {
        // An error is a watch that was given up: the task is nobody's any more.
        let _ = self.0.wait_for(Option::is_some).await;
    }

    /// How the task ended; None if it has not within this time.
    pub async fn within(mut self, patience: Duration) -> Option<TaskExit> {
        let ended = tokio::time::timeout(patience, self.0.wait_for(Option::is_some)).await;
        ended.ok()?.ok()?.clone()
    }
}

/// A pidfd becomes readable when its process has ended; None is a process that had ended before.
async fn await_end(pidfd: Option<AsyncFd<OwnedFd>>) -> Option<io::Result<()>> {
    let pidfd = pidfd?;
    let ended = pidfd.readable().await.map(|_ready| ());
    Some(ended)
}

/// How a task ended whose supervisor is gone. If that left without a word, what it left behind is killed and written down.
pub fn conclude(task_id: &Id, dir: &TaskDir, group: &TaskCgroup) -> TaskExit {
    let state = dir.read_state().unwrap_or_default();
    if let Some(StateRecord { phase: Phase::Exited(exit), .. }) = &state {
        return exit.clone();
    }
    if let Err(error) = group.kill_all() {
        log::warn!("{}: {error}: processes of task {} may be left", group.path().display(), task_id.short());
    }
    let error = match &state {
        Some(state) => format!("its supervisor (process {}) was killed or the machine restarted", state.supervisor.pid),
        None => "the agent ended while the task was prepared".to_owned(),
    };
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let at = at.try_into().unwrap_or(u64::MAX);
    let exit = TaskExit { code: 128 + libc::SIGKILL, signal: Some(libc::SIGKILL), error: Some(error), at };
    if let Some(state) = state
        && let Err(error) = dir.write_state(&StateRecord { phase: Phase::Exited(exit.clone()), ..state })
    {
        log::warn!("{}: {error}: the end of the task is not on record", dir.state_file().display());
    }
    exit
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::runtime::process::ProcessRef;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn id(text: &str) -> Id {
        Id::try_from(text.repeat(32)).expect("an id")
    }

    /// Removed at once after its command could not be started, before its supervisor's end was heard of.
    #[tokio::test]
    async fn of_a_task_that_was_removed_nothing_is_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let watches = Watches::default();
        let mut events = watches.subscribe();
        let (removed, left) = (id("a"), id("b"));
        for task_id in [&removed, &left] {
            let mut supervisor = Command::new("sleep").arg("60").spawn().expect("sleep runs");
            let process = ProcessRef::of(supervisor.id().cast_signed()).expect("it is alive");
            let state =
                StateRecord { phase: Phase::Running, supervisor: process.clone(), init: process, started_at: None };
            let (folder, group) = (TaskDir::at(dir.path().into()), TaskCgroup::at(dir.path().join("no cgroup")));
            let end = watches.add(task_id.clone(), folder, group, &state).expect("it can be watched");
            if *task_id == removed {
                watches.forget(task_id);
            }
            supervisor.kill().expect("it is ours");
            supervisor.wait().expect("it is ours");
            assert!(end.within(PATIENCE).await.is_some(), "who waits hears of it in any case");
        }
        let told = tokio::time::timeout(PATIENCE, events.recv()).await.expect("in time");
        let Some(TaskEvent::Exited { task_id, .. }) = told else { panic!("no end: {told:?}") };
        assert_eq!(task_id, left);
    }
}
