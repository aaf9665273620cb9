//! Books that talk to each other without a network.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::book::Refusal;
use super::*;
use crate::model::{Id, Observed, TaskState};

const ROOM: usize = 1200;

fn id(byte: u8) -> RawId {
    RawId([byte; 16])
}

fn task(number: u8) -> Subject {
    Subject::Task(id(number))
}

fn status(message: &str) -> Vec<u8> {
    let status =
        TaskStatus { message: message.to_string(), pid: Some(1), ..TaskStatus::new(TaskState::Running, true, 5) };
    serde_json::to_vec(&status).unwrap()
}

/// An owner's book with shorter words.
struct Owner {
    book: Book,
}

impl Owner {
    fn new(byte: u8, generation: u64) -> Owner {
        Owner { book: Book::new(id(byte), generation) }
    }
    fn set(&mut self, subject: Subject, message: &str) {
        self.book.set(subject, status(message));
    }
    fn remove(&mut self, subject: Subject) {
        self.book.remove(subject);
    }
    fn tell(&mut self) -> Vec<Delta> {
        self.book.fresh(ROOM)
    }
}

fn tasks(book: &Book) -> BTreeMap<String, String> {
    let mut observed = Observed::default();
    book.observe(&mut observed);
    assert_eq!(observed.tasks, book.tasks_anew(), "the view follows the records");
    observed.tasks.into_iter().map(|(id, status)| (id.as_str()[..2].to_string(), status.message)).collect()
}

fn shown(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(id, message)| (id.to_string(), message.to_string())).collect()
}

fn exchange(from: &Book, to: &mut Book) -> bool {
    let news = from.news_for(&to.marks());
    news.into_iter().fold(false, |changed, snapshot| to.replace(snapshot).unwrap_or(false) | changed)
}

#[test]
fn a_change_travels_and_a_deletion_too() {
    let (mut owner, mut reader) = (Owner::new(1, 100), Book::new(id(2), 1));
    owner.set(task(1), "one");
    owner.set(task(2), "two");
    assert!(!owner.book.set(task(2), status("two")), "saying the same again is no change");
    for delta in owner.tell() {
        assert_eq!(reader.apply(id(1), delta), Ok(true));
    }
    assert_eq!(tasks(&reader), shown(&[("01", "one"), ("02", "two")]));
    owner.remove(task(1));
    let deltas = owner.tell();
    assert_eq!(deltas.len(), 1);
    assert_eq!(reader.apply(id(1), deltas[0].clone()), Ok(true));
    assert_eq!(reader.apply(id(1), deltas[0].clone()), Ok(false), "twice is once");
    assert_eq!(tasks(&reader), shown(&[("02", "two")]));
    assert!(reader.news_for(&owner.book.marks()).iter().all(|snapshot| snapshot.owner == id(2)));
    assert!(owner.tell().is_empty());
}

#[test]
fn who_missed_something_has_another_digest_until_an_exchange() {
    let (mut owner, mut one, mut two) = (Owner::new(1, 100), Book::new(id(2), 1), Book::new(id(2), 1));
    owner.set(task(1), "old");
    let lost = owner.tell();
    owner.remove(task(1));
    owner.set(task(2), "new");
    for delta in owner.tell() {
        one.apply(id(1), delta.clone()).unwrap();
        two.apply(id(1), delta).unwrap();
    }
    for delta in lost {
        two.apply(id(1), delta).unwrap();
    }
    assert_eq!(tasks(&two), shown(&[("02", "new")]), "the late write does not undo the deletion");
    assert_ne!(one.digest(), two.digest());
    // Any reader can help, not only the owner.
    exchange(&two, &mut one);
    assert_eq!(one.digest(), two.digest());
    assert_eq!(tasks(&one), tasks(&two));
}

#[test]
fn a_restarted_owner_leaves_no_gap_and_no_ghost() {
    let (mut old, mut reader) = (Owner::new(1, 100), Book::new(id(2), 1));
    for (number, word) in [(1, "adopted"), (2, "died meanwhile")] {
        old.set(task(number), word);
    }
    old.tell().into_iter().for_each(|delta| assert_eq!(reader.apply(id(1), delta), Ok(true)));

    let mut new = Owner::new(1, 200);
    new.set(task(1), "adopted, pid 7");
    new.tell().into_iter().for_each(|delta| assert_eq!(reader.apply(id(1), delta), Ok(true)));
    assert_eq!(tasks(&reader), shown(&[("01", "adopted, pid 7"), ("02", "died meanwhile")]));
    // A third node that never heard of the first life sees the same.
    let mut third = Book::new(id(3), 1);
    exchange(&reader, &mut third);
    assert_eq!(tasks(&third), tasks(&reader));

    new.book.set(Subject::Inventory, vec![]);
    new.tell().into_iter().for_each(|delta| assert_eq!(reader.apply(id(1), delta), Ok(true)));
    assert_eq!(tasks(&reader), shown(&[("01", "adopted, pid 7")]));
    exchange(&reader, &mut third);
    assert_eq!(tasks(&third), tasks(&reader));
    // The first life is over: neither its late words nor a stale snapshot come back.
    old.set(task(2), "ghost");
    old.tell().into_iter().for_each(|delta| assert_eq!(reader.apply(id(1), delta), Ok(false)));
    assert!(!exchange(&old.book, &mut reader));
    assert!(old.book.is_haunted(&reader.marks()));
}

#[test]
fn nobody_speaks_for_another_and_strangers_are_not_believed() {
    let (mut owner, mut reader) = (Owner::new(1, 100), Book::new(id(2), 1));
    owner.set(task(1), "one");
    let delta = owner.tell().remove(0);
    assert_eq!(reader.apply(id(3), delta.clone()), Err(Refusal::NotByOwner));
    let own = Delta { owner: id(2), ..delta.clone() };
    assert_eq!(reader.apply(id(2), own), Err(Refusal::Ours));
    assert_eq!(reader.apply(id(1), delta.clone()), Ok(true));
    assert!(reader.set_members(BTreeSet::from([id(2), id(3)])), "a removed node's records are dropped");
    assert!(tasks(&reader).is_empty());
    assert_eq!(reader.apply(id(1), delta), Err(Refusal::NoMember));
    assert_eq!(reader.replace(owner.book.news_for(&[]).remove(0)), Err(Refusal::NoMember));
}

#[test]
fn a_record_too_large_for_a_datagram_is_left_to_the_exchange() {
    let (mut owner, mut reader) = (Owner::new(1, 100), Book::new(id(2), 1));
    owner.set(task(1), "small");
    owner.set(task(2), &"x".repeat(5000));
    owner.set(task(3), "small too");
    for number in 10..40 {
        owner.set(task(number), &"y".repeat(100));
    }
    let deltas = owner.tell();
    assert!(deltas.len() > 4);
    for delta in deltas {
        assert!(crate::membership::wire::encode(&delta).len() < ROOM + 60);
        reader.apply(id(1), delta).unwrap();
    }
    assert_eq!(tasks(&reader).len(), 32, "all but the large one");
    assert_ne!(reader.marks()[0].through, owner.book.marks()[0].through);
    exchange(&owner.book, &mut reader);
    assert_eq!(tasks(&reader).len(), 33);
    assert_eq!(reader.marks()[0].through, owner.book.marks()[0].through);
}

#[test]
fn a_status_of_a_newer_agent_is_passed_on_even_if_not_understood() {
    let (mut owner, mut one, mut two) = (Owner::new(1, 100), Book::new(id(2), 1), Book::new(id(3), 1));
    owner.book.set(task(1), b"{\"state\":\"hibernating\"}".to_vec());
    let mut more: serde_json::Value = serde_json::from_slice(&status("known")).unwrap();
    more["cpu"] = 7.into();
    owner.book.set(task(2), serde_json::to_vec(&more).unwrap());
    exchange(&owner.book, &mut one);
    exchange(&one, &mut two);
    assert_eq!(tasks(&two), shown(&[("02", "known")]));
    assert_eq!(two.news_for(&[]).iter().find(|s| s.owner == id(1)).unwrap().records.len(), 2);
}

#[derive(Clone, Debug)]
enum Step {
    Set(u8, u8),
    Remove(u8),
    Tell,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (0..6u8, 0..4u8).prop_map(|(task, word)| Step::Set(task, word)),
        (0..6u8).prop_map(Step::Remove),
        Just(Step::Tell),
    ];
    proptest::collection::vec(step, 1..60)
}

proptest! {
    /// Datagrams lost, doubled and out of order, then one exchange: the reader has exactly what the owner has.
    #[test]
    fn readers_agree_whatever_the_network_does(steps in steps(), order in proptest::collection::vec(any::<(u16, bool, bool)>(), 60)) {
        let (mut owner, mut reader, mut late) = (Owner::new(1, 100), Book::new(id(2), 1), Book::new(id(3), 1));
        let mut sent = Vec::new();
        for step in steps {
            match step {
                Step::Set(number, word) => owner.set(task(number), &word.to_string()),
                Step::Remove(number) => owner.remove(task(number)),
                Step::Tell => sent.extend(owner.tell()),
            }
        }
        sent.extend(owner.tell());
        let mut arriving: Vec<_> = sent.into_iter().zip(order).collect();
        arriving.sort_by_key(|(_, (at, ..))| *at);
        for (delta, (_, lost, doubled)) in arriving {
            for _ in 0..(u8::from(!lost) + u8::from(doubled)) {
                reader.apply(id(1), delta.clone()).unwrap();
            }
            exchange(&reader, &mut late);
        }
        exchange(&owner.book, &mut reader);
        prop_assert_eq!(tasks(&reader), tasks(&owner.book));
        exchange(&reader, &mut late);
        prop_assert_eq!(tasks(&late), tasks(&owner.book));
        prop_assert_eq!(reader.marks()[0], owner.book.marks()[0]);
    }
}

#[test]
fn an_id_of_the_model_is_a_raw_id() {
    assert_eq!(RawId::from(&Id::from_bytes([0xa5; 16])), id(0xa5));
}
