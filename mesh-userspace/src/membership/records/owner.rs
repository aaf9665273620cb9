//! The records of one owner, as one reader has them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Delta, Fact, Record, Snapshot, Subject, Version};
use crate::membership::wire::RawId;

/// Changes that arrived before their predecessors; more gaps than this are left to the next exchange.
const MAX_AHEAD: usize = 64;

#[derive(Debug)]
pub(super) struct Entry {
    pub version: Version,
    pub body: Vec<u8>,
    pub fact: Fact,
}

#[derive(Debug, Default)]
pub(super) struct Owned {
    /// Nothing is missing up to here.
    pub through: Version,
    pub live: BTreeMap<Subject, Entry>,
    /// Deletions newer than `through`: an older write that is still under way must not undo them.
    graves: BTreeMap<Subject, u64>,
    /// Ranges (after, upto] newer than `through`.
    ahead: Vec<(u64, u64)>,
    /// Subjects whose record came, went or changed and was not looked at since.
    pub touched: Vec<Subject>,
}

impl Owned {
    /// Nothing written yet in this life.
    pub fn begin(generation: u64) -> Self {
        Owned { through: Version { generation, sequence: 0 }, ..Owned::default() }
    }

    /// Applies what the owner sent; true where something visible changed.
    pub fn apply(&mut self, delta: Delta) -> bool {
        if !self.enter(delta.generation) {
            return false;
        }
        let mut changed = false;
        for record in delta.records {
            changed |= self.take(record);
        }
        self.advance(delta.after, delta.upto);
        changed
    }

    /// Applies all that another reader has of this owner; true where something visible changed.
    pub fn replace(&mut self, snapshot: Snapshot) -> bool {
        let through = snapshot.through;
        if through <= self.through || !self.enter(through.generation) {
            return false;
        }
        // What the snapshot's writer would have known of and does not list is deleted.
        let listed: BTreeSet<Subject> = snapshot.records.iter().map(|record| record.subject).collect();
        let before = self.live.len();
        let touched = &mut self.touched;
        self.live.retain(|subject, entry| {
            let stays = entry.version.generation != through.generation
                || entry.version.sequence > through.sequence
                || listed.contains(subject);
            touched.extend((!stays).then_some(*subject));
            stays
        });
        let mut changed = before != self.live.len();
        for record in snapshot.records {
            changed |= self.take(record);
        }
        self.advance(self.through.sequence, through.sequence);
        changed
    }

    /// All that is known, for another reader.
    pub fn snapshot(&self, owner: RawId) -> Snapshot {
        let record = |(subject, entry): (&Subject, &Entry)| Record {
            subject: *subject,
            version: entry.version,
            body: Some(entry.body.clone()),
        };
        Snapshot { owner, through: self.through, records: self.live.iter().map(record).collect() }
    }

    /// Makes `generation` the current one unless a later one is; false for a life that is over.
    fn enter(&mut self, generation: u64) -> bool {
        if generation > self.through.generation {
            self.through = Version { generation, sequence: 0 };
            self.graves.clear();
            self.ahead.clear();
        }
        generation == self.through.generation
    }

    fn take(&mut self, record: Record) -> bool {
        let Record { subject, version, body } = record;
        let is_current = version.generation == self.through.generation;
        let is_known = self.live.get(&subject).is_some_and(|entry| entry.version >= version);
        let is_dead = is_current && self.graves.get(&subject).is_some_and(|&died| died >= version.sequence);
        // Of the current life everything up to `through` is known, deletions too; of an earlier life, nothing is sure.
        let is_old = is_current && version.sequence <= self.through.sequence;
        if version.generation > self.through.generation || is_known || is_dead || is_old {
            return false;
        }
        if !is_current && self.live.get(&Subject::Inventory).is_some_and(|e| e.version.generation > version.generation)
        {
            return false;
        }
        match body {
            Some(body) => {
                if is_current {
                    self.graves.remove(&subject);
                }
                let fact = Fact::read(subject, &body);
                self.live.insert(subject, Entry { version, body, fact });
                self.touched.push(subject);
                if subject == Subject::Inventory {
                    let touched = &mut self.touched;
                    self.live.retain(|subject, entry| {
                        let stays = entry.version.generation >= version.generation;
                        touched.extend((!stays).then_some(*subject));
                        stays
                    });
                }
                true
            }
            None => {
                if is_current {
                    self.graves.insert(subject, version.sequence);
                }
                self.touched.push(subject);
                self.live.remove(&subject).is_some()
            }
        }
    }

    /// Notes that the changes in (after, upto] are known.
    fn advance(&mut self, after: u64, upto: u64) {
        if after > self.through.sequence {
            if self.ahead.len() < MAX_AHEAD {
                self.ahead.push((after, upto));
            }
            return;
        }
        self.through.sequence = self.through.sequence.max(upto);
        while let Some(next) = self.ahead.iter().position(|(after, _)| *after <= self.through.sequence) {
            let (_, upto) = self.ahead.swap_remove(next);
            self.through.sequence = self.through.sequence.max(upto);
        }
        let through = self.through.sequence;
        self.graves.retain(|_, died| *died > through);
    }
}
