//! Who should be there, who is, and since when the others are not. Pure: time comes in.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Seed;
use super::wire::RawId;
use crate::model::{Id, Observed, UnixMs};

/// A member of the store's that was never heard of is reported as gone after this time.
const FIRST_WORD: Duration = Duration::from_secs(5);

/// A moment on both clocks: the steady one for waiting, the wall's for people.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    pub steady: Instant,
    pub wall_ms: UnixMs,
}

#[derive(Debug)]
struct Known {
    addr: SocketAddr,
    since: Moment,
}

/// The members of the cluster, without this node.
#[derive(Debug, Default)]
pub struct Roster {
    /// By the store or by the join answer.
    known: BTreeMap<RawId, Known>,
    /// `known` is the store's list: who is not on it does not count.
    is_whole: bool,
    /// By SWIM.
    alive: BTreeMap<RawId, SocketAddr>,
    gone: BTreeMap<RawId, UnixMs>,
}

impl Roster {
    /// Replaces the list of known members.
    pub fn set_known(&mut self, me: RawId, members: &[Seed], is_whole: bool, now: Moment) {
        let mut before = std::mem::take(&mut self.known);
        for Seed { id, addr } in members {
            let id = RawId::from(id);
            if id != me {
                let since = before.remove(&id).map_or(now, |known| known.since);
                self.known.insert(id, Known { addr: *addr, since });
            }
        }
        self.is_whole = is_whole;
        if is_whole {
            self.gone.retain(|id, _| self.known.contains_key(id));
        }
    }

    /// Takes SWIM's opinion; the addresses of those that have come.
    pub fn set_alive(&mut self, alive: BTreeMap<RawId, SocketAddr>, now: Moment) -> Vec<SocketAddr> {
        for id in self.alive.keys().filter(|id| !alive.contains_key(id)) {
            self.gone.insert(*id, now.wall_ms);
        }
        self.gone.retain(|id, _| !alive.contains_key(id));
        let new = alive.iter().filter(|(id, _)| !self.alive.contains_key(id)).map(|(_, &addr)| addr).collect();
        self.alive = alive;
        new
    }

    pub fn known_ids(&self) -> BTreeSet<RawId> {
        self.known.keys().copied().collect()
    }

    /// Where a live member is.
    pub fn live_addr(&self, id: RawId) -> Option<SocketAddr> {
        self.alive.get(&id).copied()
    }

    pub fn live_addrs(&self) -> Vec<SocketAddr> {
        self.alive.values().copied().collect()
    }

    /// Nobody else is alive here.
    pub fn is_lonely(&self) -> bool {
        self.alive.is_empty()
    }

    /// Known members that are not alive here.
    pub fn missing(&self) -> impl Iterator<Item = (RawId, SocketAddr)> {
        let missing = self.known.iter().filter(|(id, _)| !self.alive.contains_key(id));
        missing.map(|(&id, known)| (id, known.addr))
    }

    /// Fills in who is alive and since when others are gone.
    pub fn observe(&self, me: RawId, now: Instant, observed: &mut Observed) {
        let counts = |id: &RawId| !self.is_whole || self.known.contains_key(id);
        observed.agent_alive.insert(me.into(), true);
        for id in self.alive.keys().filter(|id| counts(id)) {
            observed.agent_alive.insert(Id::from(*id), true);
        }
        let is_unheard = |id: &RawId| !self.alive.contains_key(id) && !self.gone.contains_key(id);
        let unheard = self.known.iter().filter(|(id, known)| is_unheard(id) && now - known.since.steady >= FIRST_WORD);
        let unheard = unheard.map(|(&id, known)| (id, known.since.wall_ms));
        for (id, since) in self.gone.iter().filter(|(id, _)| counts(id)).map(|(&id, &since)| (id, since)).chain(unheard)
        {
            observed.agent_alive.insert(id.into(), false);
            observed.agent_gone_since.insert(id.into(), since);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(byte: u8) -> RawId {
        RawId([byte; 16])
    }

    fn seed(byte: u8) -> Seed {
        Seed { id: id(byte).into(), addr: SocketAddr::new([192, 0, 2, byte].into(), 7946) }
    }

    #[test]
    fn who_is_gone_and_since_when() {
        let start = Instant::now();
        let at = |seconds: u64| Moment { steady: start + Duration::from_secs(seconds), wall_ms: 1000 * seconds };
        let mut roster = Roster::default();
        roster.set_known(id(1), &[seed(1), seed(2), seed(3)], true, at(0));
        assert_eq!(roster.set_alive(BTreeMap::from([(id(2), seed(2).addr)]), at(1)), [seed(2).addr]);
        assert_eq!(roster.missing().collect::<Vec<_>>(), [(id(3), seed(3).addr)]);
        let view = |roster: &Roster, seconds| {
            let mut observed = Observed::default();
            roster.observe(id(1), at(seconds).steady, &mut observed);
            let alive: Vec<bool> = observed.agent_alive.values().copied().collect();
            (alive, observed.agent_gone_since.values().copied().collect::<Vec<_>>())
        };
        assert_eq!(view(&roster, 4), (vec![true, true], vec![]), "3 may still say its first word");
        assert_eq!(view(&roster, 5), (vec![true, true, false], vec![0]));
        roster.set_alive(BTreeMap::new(), at(7));
        assert!(roster.is_lonely());
        assert_eq!(view(&roster, 8), (vec![true, false, false], vec![7000, 0]));
        // Told again, nobody's absence begins anew; a removed member is no longer spoken of.
        roster.set_known(id(1), &[seed(3)], true, at(8));
        assert_eq!(view(&roster, 8), (vec![true, false], vec![0]));
    }
}
