//! Three members in virtual time: no socket, no sleep.

use super::*;

fn id(byte: u8) -> RawId {
    RawId([byte; 16])
}

fn addr(byte: u8) -> SocketAddr {
    SocketAddr::new([127, 0, 0, byte].into(), 7946)
}

/// A network in virtual time that loses what `cut` says.
struct World {
    now: Instant,
    members: BTreeMap<u8, Swim>,
    cut: Box<dyn Fn(u8, u8) -> bool>,
}

impl World {
    fn of(members: &[u8]) -> World {
        let new = |&byte: &u8| (byte, Swim::new(Peer { id: id(byte), addr: addr(byte), life: 1 }));
        World { now: Instant::now(), members: members.iter().map(new).collect(), cut: Box::new(|_, _| false) }
    }

    fn deliver(&mut self) {
        loop {
            let mut sent = Vec::new();
            for (&from, swim) in &mut self.members {
                sent.extend(swim.take_sends().into_iter().map(|(to, bytes)| (from, to, bytes)));
            }
            if sent.is_empty() {
                return;
            }
            for (from, to, bytes) in sent {
                let SocketAddr::V4(to) = to else { continue };
                let to = to.ip().octets()[3];
                if !(self.cut)(from, to)
                    && let Some(swim) = self.members.get_mut(&to)
                {
                    let _ = swim.receive(&bytes, self.now);
                }
            }
        }
    }

    /// Runs until `done`; how long it took.
    fn run(&mut self, limit: Duration, done: impl Fn(&World) -> bool) -> Option<Duration> {
        let start = self.now;
        while self.now < start + limit {
            self.deliver();
            if done(self) {
                return Some(self.now - start);
            }
            self.now += Duration::from_millis(10);
            for swim in self.members.values_mut() {
                swim.tick(self.now);
            }
        }
        None
    }

    fn sees(&self, member: u8, others: &[u8]) -> bool {
        self.members[&member].alive().keys().copied().eq(others.iter().map(|&byte| id(byte)))
    }

    fn full(&self) -> bool {
        self.sees(1, &[2, 3]) && self.sees(2, &[1, 3]) && self.sees(3, &[1, 2])
    }

    fn announce(&mut self, from: u8, to: u8) {
        let now = self.now;
        self.members.get_mut(&from).unwrap().announce(id(to), addr(to), now);
    }
}

fn joined() -> World {
    let mut world = World::of(&[1, 2, 3]);
    world.announce(2, 1);
    world.announce(3, 1);
    assert!(world.run(Duration::from_secs(3), World::full).is_some());
    world
}

#[test]
fn a_dead_member_is_noticed_in_two_to_four_seconds() {
    for _ in 0..20 {
        let mut world = joined();
        world.members.remove(&3);
        let took = world.run(Duration::from_secs(10), |w| w.sees(1, &[2]) && w.sees(2, &[1])).unwrap();
        assert!((2000..=4500).contains(&took.as_millis()), "{took:?}");
    }
}

#[test]
fn who_loses_one_link_only_stays_a_member() {
    let mut world = joined();
    world.cut = Box::new(|from, to| matches!((from, to), (1, 3) | (3, 1)));
    assert_eq!(world.run(Duration::from_secs(60), |world| !world.full()), None, "probed through member 2");
}

#[test]
fn the_halves_of_a_partition_merge_when_somebody_says_hello() {
    let mut world = joined();
    world.cut = Box::new(|from, to| (from == 3) != (to == 3));
    assert!(world.run(Duration::from_secs(10), |w| w.sees(1, &[2]) && w.sees(2, &[1]) && w.sees(3, &[])).is_some());
    world.cut = Box::new(|_, _| false);
    for _ in 0..5 {
        world.announce(1, 3);
        world.announce(3, 1);
        if world.run(Duration::from_secs(2), World::full).is_some() {
            return;
        }
    }
    panic!("not merged: 1 sees {:?}, 3 sees {:?}", world.members[&1].alive(), world.members[&3].alive());
}

#[test]
fn a_restarted_member_replaces_its_earlier_life_at_once() {
    let mut world = joined();
    world.members.insert(3, Swim::new(Peer { id: id(3), addr: addr(3), life: 2 }));
    world.announce(3, 1);
    assert!(world.run(Duration::from_secs(3), World::full).is_some());
    let lost = world.run(Duration::from_secs(20), |world| !world.full());
    assert_eq!(lost, None, "the end of the first life must not be taken for the end of the second");
}

#[test]
fn who_leaves_is_gone_at_once() {
    let mut world = joined();
    let now = world.now;
    world.members.get_mut(&3).unwrap().leave(now);
    let took = world.run(Duration::from_secs(5), |w| w.sees(1, &[2]) && w.sees(2, &[1])).unwrap();
    assert!(took < Duration::from_millis(700), "{took:?}");
}
