//! Who is alive: SWIM with suspicion, by foca. Pure: time comes in, datagrams and timers come out.
//!
//! Each period one member is pinged, by way of others where it stays silent; who answers to nobody is suspected, and is down
//! unless it objects in time. With [`PROBE_PERIOD`] and [`SUSPICION`] a dead agent among few is noticed in 2 to 4 s.
//! A node that was wrongly declared down takes a new life and comes back at once; [`Swim::announce`] to members believed gone
//! is what merges the halves of a partition.
//!
//! Invariant: one member per node id; of two lives of a node the later wins.

mod codec;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::num::{NonZeroU8, NonZeroUsize};
use std::time::{Duration, Instant};

use chacha20poly1305::aead::rand_core::TryRng;
use foca::{Config, Foca, Identity, NoCustomBroadcast, Notification, Runtime, Timer};

use super::wire::{MAX_SWIM_BYTES, RawId};
use codec::PeerCodec;

/// One probe is sent per this time.
const PROBE_PERIOD: Duration = Duration::from_millis(600);
/// A direct answer later than this is asked for through others.
const PROBE_RTT: Duration = Duration::from_millis(200);
/// Time to object to a suspicion, for up to ten members; grows with the logarithm of their number.
const SUSPICION: Duration = Duration::from_millis(2000);
/// While there is news, it is passed on this often; without news nothing is sent, and nobody wakes up.
const GOSSIP_PERIOD: Duration = Duration::from_millis(200);

/// A member as SWIM knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub id: RawId,
    pub addr: SocketAddr,
    /// Generation of its agent, plus one for each time it was declared down and came back.
    pub life: u64,
}

impl Identity for Peer {
    type Addr = RawId;

    fn renew(&self) -> Option<Self> {
        Some(Peer { life: self.life.saturating_add(1), ..self.clone() })
    }

    fn addr(&self) -> RawId {
        self.id
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        self.life > adversary.life
    }
}

/// Randomness for the choice of members; foca wants the traits of another version of rand than the rest of the house.
struct Dice;

impl TryRng for Dice {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(rand::random())
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(rand::random())
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        rand::RngCore::fill_bytes(&mut rand::rng(), bytes);
        Ok(())
    }
}

/// What foca wants done.
#[derive(Default)]
struct Effects {
    sends: Vec<(SocketAddr, Vec<u8>)>,
    timers: Vec<(Timer<Peer>, Duration)>,
    changed: bool,
    rejoined: bool,
}

impl Runtime<Peer> for &mut Effects {
    fn notify(&mut self, notification: Notification<'_, Peer>) {
        self.changed = true;
        match notification {
            Notification::Rejoin(me) => {
                log::info!("the cluster took this node for gone; it is back with life {}", me.life);
                self.rejoined = true;
            }
            Notification::MemberDown(peer) => log::info!("gossip: node {} is gone", peer.id),
            Notification::MemberUp(peer) => log::info!("gossip: node {} is alive at {}", peer.id, peer.addr),
            _ => {}
        }
    }

    fn send_to(&mut self, to: Peer, data: &[u8]) {
        self.sends.push((to.addr, data.to_vec()));
    }

    fn submit_after(&mut self, event: Timer<Peer>, after: Duration) {
        self.timers.push((event, after));
    }
}

/// The state machine with its timers.
pub(super) struct Swim {
    foca: Foca<Peer, PeerCodec, Dice, NoCustomBroadcast>,
    effects: Effects,
    /// By deadline, then by kind as foca wants them, then in order of arrival.
    timers: BTreeSet<(Instant, Timer<Peer>, u64)>,
    submitted: u64,
    gossip_at: Option<Instant>,
    members: usize,
}

impl Swim {
    pub fn new(me: Peer) -> Self {
        Swim {
            foca: Foca::new(me, config(1), Dice, PeerCodec),
            effects: Effects::default(),
            timers: BTreeSet::new(),
            submitted: 0,
            gossip_at: None,
            members: 0,
        }
    }

    /// Takes a message in; the error means it was none of this version, and had no effect.
    pub fn receive(&mut self, message: &[u8], now: Instant) -> Result<(), foca::Error> {
        let result = self.foca.handle_data(message, &mut self.effects);
        self.settle(now);
        result
    }

    /// Says hello: to a seed, or to a member that is believed gone.
    pub fn announce(&mut self, id: RawId, addr: SocketAddr, now: Instant) {
        let result = self.foca.announce(Peer { id, addr, life: 0 }, &mut self.effects);
        log_own_fault(result);
        self.settle(now);
    }

    /// Runs every timer that is due, in order.
    pub fn tick(&mut self, now: Instant) {
        while self.timers.first().is_some_and(|(at, ..)| *at <= now) {
            if let Some((_, timer, _)) = self.timers.pop_first() {
                let result = self.foca.handle_timer(timer, &mut self.effects);
                log_own_fault(result);
                self.settle(now);
            }
        }
        if self.gossip_at.is_some_and(|at| at <= now) {
            self.gossip_at = None;
            let result = self.foca.gossip(&mut self.effects);
            log_own_fault(result);
            self.settle(now);
        }
    }

    /// Tells the others that this node goes; nothing is sent on its own afterwards.
    pub fn leave(&mut self, now: Instant) {
        for result in [self.foca.leave_cluster(&mut self.effects), self.foca.gossip(&mut self.effects)] {
            log_own_fault(result);
        }
        self.settle(now);
    }

    /// When [`Self::tick`] is due; None while alone.
    pub fn deadline(&self) -> Option<Instant> {
        self.timers.first().map(|(at, ..)| *at).into_iter().chain(self.gossip_at).min()
    }

    /// The others that are alive (or only suspected).
    pub fn alive(&self) -> BTreeMap<RawId, SocketAddr> {
        self.foca.iter_members().map(|member| (member.id().id, member.id().addr)).collect()
    }

    /// Datagrams to send now.
    pub fn take_sends(&mut self) -> Vec<(SocketAddr, Vec<u8>)> {
        std::mem::take(&mut self.effects.sends)
    }

    /// Whether the set of members may have changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.effects.changed)
    }

    /// Whether this node has taken a new life since the last call: time to say hello to all.
    pub fn take_rejoined(&mut self) -> bool {
        std::mem::take(&mut self.effects.rejoined)
    }

    fn settle(&mut self, now: Instant) {
        for (timer, after) in self.effects.timers.drain(..) {
            self.submitted += 1;
            self.timers.insert((now + after, timer, self.submitted));
        }
        if self.gossip_at.is_none() && self.foca.updates_backlog() > 0 && self.foca.num_members() > 0 {
            self.gossip_at = Some(now + GOSSIP_PERIOD);
        }
        if self.members != self.foca.num_members() {
            self.members = self.foca.num_members();
            log_own_fault(self.foca.set_config(config(self.members + 1)));
        }
    }
}

/// foca reports what only a mistake of ours can cause; the state machine recovers by itself.
fn log_own_fault(result: Result<(), foca::Error>) {
    if let Err(error) = result {
        log::debug!("gossip: {error}");
    }
}

fn config(members: usize) -> Config {
    let decades = (members.max(1) as f64).log10().max(1.0);
    // As foca's own new_lan: a little more than it takes to reach everybody.
    let transmissions = ((members as f64 + 1.0).log10() * 4.0).clamp(2.0, 60.0) as u8;
    Config {
        probe_period: PROBE_PERIOD,
        probe_rtt: PROBE_RTT,
        num_indirect_probes: NonZeroUsize::new(3).expect("not zero"),
        max_transmissions: NonZeroU8::new(transmissions).unwrap_or(NonZeroU8::MIN),
        suspect_to_down_after: SUSPICION.mul_f64(decades),
        remove_down_after: Some(Duration::from_secs(24 * 3600)),
        max_packet_size: NonZeroUsize::new(MAX_SWIM_BYTES).expect("not zero"),
        notify_down_members: true,
        periodic_announce: None,
        periodic_announce_to_down_members: None,
        periodic_gossip: None,
    }
}

#[cfg(test)]
mod tests;
