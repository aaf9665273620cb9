//! The one task that owns gossip's sockets and clocks and drives the pure parts: [`super::swim`] and [`super::records`].
//!
//! A turn: whatever woke us → take in all waiting datagrams (so that a pause of ours is not taken for silence of others) → due
//! timers → changes of membership → fresh records out → the new view published. Without news it sleeps until the next probe.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rand::seq::{IndexedRandom, SliceRandom};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};

use super::counters::Counters;
use super::envelope::{Channel, GossipKeys, KeyRing, OVERHEAD, Refused};
use super::records::{Book, Subject};
use super::replay::Replays;
use super::roster::{Moment, Roster};
use super::swim::Swim;
use super::wire::{Datagram, MAX_DATAGRAM_BYTES, Message, RawId, decode, encode};
use super::{Seed, exchange};
use crate::model::{Id, NodeStatus, Observed, TaskStatus, UnixMs};

/// Digests are compared with one random member this often.
const DIGEST_PERIOD: Duration = Duration::from_secs(1);
/// Hello to known members that are not alive here.
const REJOIN_PERIOD: Duration = Duration::from_secs(2);
/// The same while nobody is alive here: this node may just have started.
const LONELY_PERIOD: Duration = Duration::from_millis(500);
/// Members that one round says hello to.
const REJOIN_MEMBERS: usize = 16;
/// Changes made within this time travel together.
const FLUSH_DELAY: Duration = Duration::from_millis(15);
/// Views are published at most this often.
const PUBLISH_DELAY: Duration = Duration::from_millis(10);
/// Records in one datagram, less the delta's own fields.
const RECORD_ROOM: usize = MAX_DATAGRAM_BYTES - OVERHEAD - 39 - 60;
/// Callers answered at once; one call of our own runs at a time.
const MAX_CALLERS: usize = 8;
/// Datagrams taken in before timers get their turn.
const MAX_BURST: usize = 256;

/// What the agent wants.
pub(super) enum Command {
    Node(Box<NodeStatus>),
    Task(Id, Box<TaskStatus>),
    RemoveTask(Id),
    Inventory,
    Members(Vec<Seed>),
    Keys(GossipKeys),
    Leave(oneshot::Sender<()>),
}

/// Where a test cuts the network; whole otherwise.
#[derive(Clone, Default)]
pub(super) struct Cable(pub Option<Arc<dyn Fn(SocketAddr) -> bool + Send + Sync>>);

impl Cable {
    fn is_cut(&self, to: SocketAddr) -> bool {
        self.0.as_ref().is_some_and(|cut| cut(to))
    }
}

/// What exchanges need of the driver.
pub(super) struct Shared {
    pub book: Mutex<Book>,
    pub ring: RwLock<Arc<KeyRing>>,
    pub counters: Counters,
    /// An exchange changed something visible.
    pub changed: Notify,
}

impl Shared {
    pub fn ring(&self) -> Arc<KeyRing> {
        Arc::clone(&self.ring.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn count_refused(&self, refused: Refused) {
        match refused {
            Refused::NotOurs => self.counters.not_ours.bump(),
            Refused::UnknownKey => self.counters.unknown_key.bump(),
            Refused::Forged => self.counters.forged.bump(),
        }
    }
}

pub(super) struct Driver {
    pub me: RawId,
    pub generation: u64,
    pub bind: SocketAddr,
    pub shared: Arc<Shared>,
    pub swim: Swim,
    pub udp: UdpSocket,
    pub tcp: TcpListener,
    pub commands: mpsc::UnboundedReceiver<Command>,
    pub view: watch::Sender<Arc<Observed>>,
    pub cable: Cable,
    pub state: State,
}

/// What changes from turn to turn.
pub(super) struct State {
    replays: Replays,
    /// Number of our last datagram.
    sequence: u64,
    roster: Roster,
    digest_at: Instant,
    rejoin_at: Instant,
    flush_at: Option<Instant>,
    publish_at: Option<Instant>,
    callers: Arc<Semaphore>,
    calling: Arc<Semaphore>,
}

impl State {
    pub fn new(now: Instant) -> Self {
        State {
            replays: Replays::default(),
            sequence: 0,
            roster: Roster::default(),
            digest_at: now + DIGEST_PERIOD,
            rejoin_at: now,
            flush_at: None,
            publish_at: Some(now),
            callers: Arc::new(Semaphore::new(MAX_CALLERS)),
            calling: Arc::new(Semaphore::new(1)),
        }
    }
}

impl Driver {
    /// Runs until [`Command::Leave`], or until the last handle is gone.
    pub async fn run(mut self) {
        let mut buffer = vec![0u8; 64 << 10];
        loop {
            let wake = tokio::time::Instant::from_std(self.deadline());
            let shared = Arc::clone(&self.shared);
            tokio::select! {
                _ = self.udp.readable() => {}
                command = self.commands.recv() => match command {
                    Some(Command::Leave(done)) => {
                        self.leave();
                        let _ = done.send(()); // nobody waits: fine
                        return;
                    }
                    Some(command) => self.obey(command),
                    None => return,
                },
                Ok((stream, addr)) = self.tcp.accept() => {
                    match Arc::clone(&self.state.callers).try_acquire_owned() {
                        Ok(place) => {
                            tokio::spawn(async move {
                                exchange::answer(shared, stream, addr).await;
                                drop(place);
                            });
                        }
                        // They come again in a second; the stream is closed here.
                        Err(_) => self.shared.counters.failed_exchanges.bump(),
                    }
                },
                () = shared.changed.notified() => self.publish_soon(),
                () = tokio::time::sleep_until(wake) => {}
            }
            self.turn(&mut buffer);
        }
    }

    fn deadline(&self) -> Instant {
        let State { roster, digest_at, rejoin_at, flush_at, publish_at, .. } = &self.state;
        let digest = (!roster.is_lonely()).then_some(*digest_at);
        let rejoin = roster.missing().next().is_some().then_some(*rejoin_at);
        let far = Instant::now() + Duration::from_secs(3600);
        [digest, rejoin, *flush_at, *publish_at, self.swim.deadline()].into_iter().flatten().min().unwrap_or(far)
    }

    fn turn(&mut self, buffer: &mut [u8]) {
        for _ in 0..MAX_BURST {
            match self.udp.try_recv_from(buffer) {
                Ok((length, _)) => self.receive(&buffer[..length]),
                Err(_) => break, // nothing more, or an ICMP error about an earlier datagram of ours
            }
        }
        let now = Instant::now();
        self.swim.tick(now);
        if self.swim.take_changed() {
            self.members_changed();
        }
        if self.swim.take_rejoined() {
            self.state.rejoin_at = now;
        }
        if self.state.rejoin_at <= now {
            self.rejoin(now);
        }
        for (addr, message) in self.swim.take_sends() {
            self.send(&[addr], Message::Swim(message));
        }
        if self.state.flush_at.is_some_and(|at| at <= now) {
            self.flush();
        }
        if self.state.digest_at <= now {
            self.state.digest_at = now + DIGEST_PERIOD;
            if let Some(&addr) = self.state.roster.live_addrs().choose(&mut rand::rng()) {
                let digest = self.shared.book().digest();
                self.send(&[addr], Message::Digest(digest));
            }
        }
        if self.state.publish_at.is_some_and(|at| at <= now) {
            self.publish(now);
        }
    }

    /// One datagram in. Whatever is wrong with it is counted, and that is all that happens.
    fn receive(&mut self, envelope: &[u8]) {
        let counters = &self.shared.counters;
        counters.received.bump();
        let message = match self.shared.ring().open(Channel::Datagram, envelope) {
            Ok(message) => message,
            Err(refused) => return self.shared.count_refused(refused),
        };
        let Some(Datagram { sender, generation, sequence, message }) = decode(&message) else {
            return counters.malformed.bump();
        };
        if sender == self.me || !self.state.replays.is_fresh(sender, generation, sequence) {
            return counters.replayed.bump();
        }
        match message {
            Message::Swim(message) => {
                if let Err(error) = self.swim.receive(&message, Instant::now()) {
                    counters.malformed.bump();
                    log::debug!("gossip from {sender}: {error}");
                }
            }
            Message::Records(delta) => {
                let applied = self.shared.book().apply(sender, delta);
                match applied {
                    Ok(true) => self.publish_soon(),
                    Ok(false) => {}
                    Err(_) => counters.refused_records.bump(),
                }
            }
            Message::Digest(theirs) => {
                let ours = self.shared.book().digest();
                if let Some(addr) = self.state.roster.live_addr(sender).filter(|_| theirs != ours) {
                    self.call(addr);
                }
            }
        }
    }

    fn call(&self, addr: SocketAddr) {
        // While one exchange runs, another would mostly repeat it; the next digest is a second away.
        if let Ok(place) = Arc::clone(&self.state.calling).try_acquire_owned()
            && !self.cable.is_cut(addr)
        {
            let (shared, from) = (Arc::clone(&self.shared), self.bind.ip());
            tokio::spawn(async move {
                exchange::call(shared, from, addr).await;
                drop(place);
            });
        }
    }

    /// Seals once, sends to all of `to`.
    fn send(&mut self, to: &[SocketAddr], message: Message) {
        self.state.sequence += 1;
        let datagram =
            Datagram { sender: self.me, generation: self.generation, sequence: self.state.sequence, message };
        let sealed = self.shared.ring().seal(Channel::Datagram, &encode(&datagram));
        for &addr in to.iter().filter(|addr| !self.cable.is_cut(**addr)) {
            match self.udp.try_send_to(&sealed, addr) {
                Ok(_) => self.shared.counters.sent.bump(),
                // Gossip is made for loss: the next probe or digest repeats what matters.
                Err(_) => self.shared.counters.not_sent.bump(),
            }
        }
    }

    fn obey(&mut self, command: Command) {
        let json = |result: serde_json::Result<Vec<u8>>| result.expect("statuses are plain data with string keys");
        let mut book = self.shared.book();
        let changed = match command {
            Command::Node(status) => book.set(Subject::Node, json(serde_json::to_vec(&status))),
            Command::Task(id, status) => book.set(Subject::Task(RawId::from(&id)), json(serde_json::to_vec(&status))),
            Command::RemoveTask(id) => book.remove(Subject::Task(RawId::from(&id))),
            Command::Inventory => book.set(Subject::Inventory, Vec::new()),
            Command::Members(members) => {
                drop(book);
                return self.set_known(&members, true);
            }
            Command::Keys(keys) => {
                drop(book);
                *self.shared.ring.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys.ring());
                return;
            }
            Command::Leave(_) => false, // ends the loop before it gets here
        };
        drop(book);
        if changed {
            self.state.flush_at.get_or_insert(Instant::now() + FLUSH_DELAY);
            self.publish_soon();
        }
    }

    /// Replaces the list of members that this node says hello to; the store's list also decides whose records count.
    pub fn set_known(&mut self, members: &[Seed], is_whole: bool) {
        let now = moment();
        self.state.roster.set_known(self.me, members, is_whole, now);
        self.state.rejoin_at = self.state.rejoin_at.min(now.steady + LONELY_PERIOD);
        if is_whole {
            let members = self.state.roster.known_ids();
            self.state.replays.retain(|id| members.contains(&id));
            self.shared.book().set_members(members);
            self.publish_soon();
        }
    }

    fn rejoin(&mut self, now: Instant) {
        let lonely = self.state.roster.is_lonely();
        self.state.rejoin_at = now + if lonely { LONELY_PERIOD } else { REJOIN_PERIOD };
        let mut missing: Vec<_> = self.state.roster.missing().collect();
        missing.shuffle(&mut rand::rng());
        for (id, addr) in missing.into_iter().take(REJOIN_MEMBERS) {
            self.swim.announce(id, addr, now);
            // Who was never heard of may have to be reported now.
            self.publish_soon();
        }
    }

    fn members_changed(&mut self) {
        let new = self.state.roster.set_alive(self.swim.alive(), moment());
        if !new.is_empty() {
            // Whoever has just come, or come back, is brought up to date without waiting for its turn.
            let digest = self.shared.book().digest();
            self.send(&new, Message::Digest(digest));
        }
        self.publish_soon();
    }

    fn flush(&mut self) {
        self.state.flush_at = None;
        let members = self.state.roster.live_addrs();
        let deltas = self.shared.book().fresh(RECORD_ROOM);
        for delta in deltas {
            self.send(&members, Message::Records(delta));
        }
    }

    fn publish_soon(&mut self) {
        self.state.publish_at.get_or_insert(Instant::now() + PUBLISH_DELAY);
    }

    fn publish(&mut self, now: Instant) {
        self.state.publish_at = None;
        let mut observed = Observed::default();
        self.shared.book().observe(&mut observed);
        self.state.roster.observe(self.me, now, &mut observed);
        self.view.send_if_modified(|current| {
            let changed = **current != observed;
            if changed {
                *current = Arc::new(observed);
            }
            changed
        });
    }

    fn leave(&mut self) {
        self.flush();
        self.swim.leave(Instant::now());
        for (addr, message) in self.swim.take_sends() {
            self.send(&[addr], Message::Swim(message));
        }
    }
}

fn moment() -> Moment {
    // A wall clock before 1970 is as wrong as one at 1970.
    let wall_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as UnixMs);
    Moment { steady: Instant::now(), wall_ms }
}
