//! The records of all owners, our own among them.

use std::collections::{BTreeMap, BTreeSet};

use imbl::OrdMap;
use sha2::{Digest, Sha256};

use super::owner::{Entry, Owned};
use super::{Delta, Fact, Mark, Record, Snapshot, Subject, Version};
use crate::membership::wire::RawId;
use crate::model::{Id, Observed, TaskStatus};

/// Why a piece of news was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("its sender is not its owner")]
    NotByOwner,
    #[error("it claims to be ours")]
    Ours,
    #[error("its owner is no member")]
    NoMember,
}

#[derive(Debug)]
pub struct Book {
    me: RawId,
    owners: BTreeMap<RawId, Owned>,
    /// Members by the store; None until it was read: then everybody is believed.
    members: Option<BTreeSet<RawId>>,
    /// Our last change that was taken by [`Book::fresh`].
    told: u64,
    /// Our deletions since then, with their numbers.
    removed: BTreeMap<Subject, u64>,
    /// What all say of tasks. Follows the records one by one, so that views share what did not change.
    tasks: OrdMap<Id, TaskStatus>,
}

impl Book {
    pub fn new(me: RawId, generation: u64) -> Self {
        let owners = BTreeMap::from([(me, Owned::begin(generation))]);
        Book { me, owners, members: None, told: 0, removed: BTreeMap::new(), tasks: OrdMap::new() }
    }

    /// Writes one of our own records; false where it says so already.
    pub fn set(&mut self, subject: Subject, body: Vec<u8>) -> bool {
        let mine = self.owners.entry(self.me).or_default();
        if mine.live.get(&subject).is_some_and(|entry| entry.body == body) {
            return false;
        }
        mine.through.sequence += 1;
        let (version, fact) = (mine.through, Fact::read(subject, &body));
        mine.live.insert(subject, Entry { version, body, fact });
        self.removed.remove(&subject);
        self.look_at(&[subject]);
        true
    }

    /// Deletes one of our own records; false where there is none.
    pub fn remove(&mut self, subject: Subject) -> bool {
        let mine = self.owners.entry(self.me).or_default();
        let existed = mine.live.remove(&subject).is_some();
        if existed {
            mine.through.sequence += 1;
            self.removed.insert(subject, mine.through.sequence);
            self.look_at(&[subject]);
        }
        existed
    }

    /// Our changes since the last call, in pieces whose bodies have up to `room` bytes together. A record that is larger than
    /// that is left out, which the readers' digests will notice.
    pub fn fresh(&mut self, room: usize) -> Vec<Delta> {
        let Some(mine) = self.owners.get(&self.me) else { return Vec::new() };
        let removed = std::mem::take(&mut self.removed);
        let (told, through) = (std::mem::replace(&mut self.told, mine.through.sequence), mine.through);
        let written = mine.live.iter().filter(|(_, entry)| entry.version.sequence > told);
        let mut changes: BTreeMap<u64, Record> = written
            .map(|(&subject, entry)| (entry.version, subject, Some(entry.body.clone())))
            .map(|(version, subject, body)| (version.sequence, Record { subject, version, body }))
            .collect();
        changes.extend(removed.into_iter().map(|(subject, sequence)| {
            let version = Version { sequence, ..through };
            (sequence, Record { subject, version, body: None })
        }));

        let new = |after| Delta { owner: self.me, generation: through.generation, after, upto: after, records: vec![] };
        let (mut deltas, mut delta, mut used) = (Vec::new(), new(told), 0);
        for (sequence, record) in changes {
            // Subject, version, option and lengths take up to 42 bytes.
            let size = 42 + record.body.as_ref().map_or(0, Vec::len);
            if size > room {
                // Everything before it is told; it is not.
                delta.upto = sequence - 1;
                deltas.push(std::mem::replace(&mut delta, new(sequence)));
                used = 0;
                continue;
            }
            if used + size > room {
                deltas.push(std::mem::replace(&mut delta, new(sequence - 1)));
                used = 0;
            }
            used += size;
            delta.upto = sequence;
            delta.records.push(record);
        }
        delta.upto = through.sequence;
        deltas.push(delta);
        deltas.retain(|delta| delta.upto > delta.after);
        deltas
    }

    /// Takes what its sender says about itself; true where something visible changed.
    pub fn apply(&mut self, sender: RawId, delta: Delta) -> Result<bool, Refusal> {
        if delta.owner != sender {
            return Err(Refusal::NotByOwner);
        }
        self.check(sender)?;
        let owned = self.owners.entry(sender).or_default();
        let (changed, touched) = (owned.apply(delta), std::mem::take(&mut owned.touched));
        self.look_at(&touched);
        Ok(changed)
    }

    /// Takes what another reader has; true where something visible changed.
    pub fn replace(&mut self, snapshot: Snapshot) -> Result<bool, Refusal> {
        self.check(snapshot.owner)?;
        let owned = self.owners.entry(snapshot.owner).or_default();
        let (changed, touched) = (owned.replace(snapshot), std::mem::take(&mut owned.touched));
        self.look_at(&touched);
        Ok(changed)
    }

    fn check(&self, owner: RawId) -> Result<(), Refusal> {
        match &self.members {
            _ if owner == self.me => Err(Refusal::Ours),
            Some(members) if !members.contains(&owner) => Err(Refusal::NoMember),
            _ => Ok(()),
        }
    }

    /// From now on only these (and this node) are believed; records of others are dropped. True where some were.
    pub fn set_members(&mut self, members: BTreeSet<RawId>) -> bool {
        let me = self.me;
        let strangers = self.owners.extract_if(.., |owner, _| *owner != me && !members.contains(owner));
        let subjects: Vec<Vec<Subject>> = strangers.map(|(_, owned)| owned.live.into_keys().collect()).collect();
        self.members = Some(members);
        subjects.iter().for_each(|subjects| self.look_at(subjects));
        !subjects.is_empty()
    }

    /// How far we are with each owner.
    pub fn marks(&self) -> Vec<Mark> {
        self.owners.iter().map(|(&owner, owned)| Mark { owner, through: owned.through }).collect()
    }

    /// Equal for two readers that miss nothing of what the other has.
    pub fn digest(&self) -> u64 {
        let mut hash = Sha256::new();
        for Mark { owner, through } in self.marks() {
            hash.update(owner.0);
            hash.update(through.generation.to_be_bytes());
            hash.update(through.sequence.to_be_bytes());
        }
        let hash: [u8; 32] = hash.finalize().into();
        u64::from_be_bytes(std::array::from_fn(|at| hash[at]))
    }

    /// What a reader with these marks lacks.
    pub fn news_for(&self, marks: &[Mark]) -> Vec<Snapshot> {
        let theirs: BTreeMap<RawId, Version> = marks.iter().map(|mark| (mark.owner, mark.through)).collect();
        let lacks = |owner: &RawId, owned: &Owned| theirs.get(owner).is_none_or(|through| *through < owned.through);
        self.owners
            .iter()
            .filter(|(owner, owned)| lacks(owner, owned))
            .map(|(&owner, owned)| owned.snapshot(owner))
            .collect()
    }

    /// Whether others have records of a later life of ours: the clock went back, or another agent runs under our id.
    pub fn is_haunted(&self, marks: &[Mark]) -> bool {
        let mine = self.owners.get(&self.me).map(|mine| mine.through).unwrap_or_default();
        marks.iter().any(|mark| mark.owner == self.me && mark.through > mine)
    }

    /// Fills in what nodes and tasks are said to be.
    pub fn observe(&self, observed: &mut Observed) {
        for (&owner, owned) in &self.owners {
            if let Some(Entry { fact: Fact::Node(status), .. }) = owned.live.get(&Subject::Node) {
                observed.nodes.insert(owner.into(), status.clone());
            }
        }
        observed.tasks = self.tasks.clone();
    }

    /// Brings the view of these up to the records. Where two owners speak of one task, the last one counts.
    fn look_at(&mut self, subjects: &[Subject]) {
        for subject in subjects {
            let Subject::Task(task) = subject else { continue };
            let said = self.owners.values().rev().find_map(|owned| match &owned.live.get(subject)?.fact {
                Fact::Task(status) => Some(status),
                _ => None,
            });
            let id = Id::from(*task);
            match said {
                Some(status) if self.tasks.get(&id) == Some(status) => {}
                Some(status) => drop(self.tasks.insert(id, status.clone())),
                None => drop(self.tasks.remove(&id)),
            }
        }
    }

    /// The view, made of all records anew: what [`Book::observe`] must give.
    #[cfg(test)]
    pub fn tasks_anew(&self) -> OrdMap<Id, TaskStatus> {
        let records = self.owners.values().flat_map(|owned| &owned.live);
        let tasks = records.filter_map(|(subject, entry)| match (subject, &entry.fact) {
            (Subject::Task(task), Fact::Task(status)) => Some((Id::from(*task), status.clone())),
            _ => None,
        });
        tasks.collect()
    }
}
