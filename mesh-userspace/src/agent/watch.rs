//! Who listens to the programs' events: one task reads the ring buffer while anybody does, and hands each listener what it asked for.
//!
//! Switched on by words that hold for a few seconds and are said again every second, so that the programs fall silent by themselves when the agent
//! dies. Invariant: a listener that reads slowly loses events, is told how many, and holds nobody up.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use mesh_common::schema::Event;
use tokio::sync::mpsc;

use super::member::Member;
use super::now;
use crate::api::{ApiError, EventFeed, MonitorQuery, Told};
use crate::kernel::bpf::{BpfError, Events, clock};

/// Between two looks into the ring buffer: it holds far more than the programs tell in that time.
const LOOK: Duration = Duration::from_millis(50);
/// Looks between two times that the programs are told to go on.
const LOOKS_A_SAYING: u32 = 20;
/// Seconds that a saying holds.
const HOLDS_S: u32 = 3;
/// Pieces on their way to a listener.
const WINDOW: usize = 64;

struct Listener {
    query: MonitorQuery,
    sender: mpsc::Sender<Result<Vec<Told>, ApiError>>,
    /// Events that it was not told.
    lost: u64,
}

/// The listeners of this node; empty: nobody reads.
#[derive(Default)]
pub struct Watch(Mutex<Option<Vec<Listener>>>);

impl Watch {
    fn with<T>(&self, change: impl FnOnce(&mut Option<Vec<Listener>>) -> T) -> T {
        let mut listeners = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut listeners)
    }

    /// Listens from now on until the feed is dropped.
    pub fn listen(member: &Arc<Member>, query: MonitorQuery) -> Result<EventFeed, ApiError> {
        let failed = |error: BpfError| ApiError::internal(format!("the programs' events can't be read: {error}"));
        let (kernel, (sender, feed)) = (&member.kernel, mpsc::channel(WINDOW));
        let listener = Listener { query, sender, lost: 0 };
        let is_first = kernel.watch().with(|listeners| {
            let is_first = listeners.is_none();
            listeners.get_or_insert_default().push(listener);
            is_first
        });
        if is_first {
            let opened = kernel.events().and_then(|events| Ok((events.lost()?, events)));
            let (lost, events) = opened.inspect_err(|_| kernel.watch().with(|it| *it = None)).map_err(failed)?;
            tokio::spawn(read(Arc::downgrade(member), events, lost));
        }
        // The smallest number holds, from now on.
        kernel.tell(kernel.watch().sample(), clock::now_s() + HOLDS_S).map_err(failed)?;
        Ok(feed)
    }

    /// Each how manieth packet is asked for by anybody; 0: none.
    fn sample(&self) -> u32 {
        self.with(|listeners| {
            let asked = listeners.iter().flatten().map(|listener| listener.query.sample);
            asked.filter(|sample| *sample != 0).min().unwrap_or(0)
        })
    }

    /// Forgets who is gone; false: nobody is left.
    fn is_heard(&self) -> bool {
        self.with(|listeners| {
            let left = listeners.get_or_insert_default();
            left.retain(|listener| !listener.sender.is_closed());
            let is_heard = !left.is_empty();
            if !is_heard {
                *listeners = None;
            }
            is_heard
        })
    }

    fn hand_out(&self, told: &[Told], lost: u64) {
        self.with(|listeners| {
            for listener in listeners.iter_mut().flatten() {
                listener.lost += lost;
                listener.hand_out(told);
            }
        });
    }
}

impl Listener {
    fn hand_out(&mut self, told: &[Told]) {
        let wanted = told.iter().filter(|told| match told {
            Told::Event { event, .. } => self.query.wants(event),
            Told::Lost(_) => true,
        });
        let mut piece: Vec<Told> = wanted.copied().collect();
        let events = piece.len() as u64;
        if self.lost != 0 {
            piece.insert(0, Told::Lost(self.lost));
        }
        if piece.is_empty() {
            return;
        }
        match self.sender.try_send(Ok(piece)) {
            Ok(()) => self.lost = 0,
            Err(_) => self.lost += events,
        }
    }
}

/// Reads while anybody listens and the node is a member.
async fn read(member: Weak<Member>, mut events: Events, mut lost_before: u64) {
    // What lies there from before nobody asked for.
    events.take(|_| {});
    let mut looks = 0u32;
    while let Some(member) = member.upgrade() {
        let kernel = &member.kernel;
        let is_heard = kernel.watch().is_heard();
        if !is_heard || looks.is_multiple_of(LOOKS_A_SAYING) {
            let until_s = if is_heard { clock::now_s() + HOLDS_S } else { 0 };
            if let Err(error) = kernel.tell(kernel.watch().sample(), until_s) {
                log::warn!("monitor: {error}; the programs fall silent by themselves within {HOLDS_S} s");
            }
        }
        if !is_heard {
            return;
        }
        looks = looks.wrapping_add(1);
        let (wall, monotonic_ns) = (now(), clock::monotonic_ns());
        let mut told = Vec::new();
        events.take(|event: Event| {
            let ago_ms = monotonic_ns.saturating_sub(event.at_ns) / 1_000_000;
            told.push(Told::Event { event, at: wall.saturating_sub(ago_ms) });
        });
        let lost = events.lost().unwrap_or(lost_before);
        kernel.watch().hand_out(&told, lost.saturating_sub(lost_before));
        lost_before = lost;
        drop(member);
        tokio::time::sleep(LOOK).await;
    }
}
