//! Whole memberships on loopback addresses, with real sockets and clocks. Waiting is always for a fact, with a deadline.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::envelope::{Channel, OVERHEAD};
use super::*;
use crate::model::TaskState;

const SOON: Duration = Duration::from_secs(5);

fn id(byte: u8) -> Id {
    Id::from_bytes([byte; 16])
}

fn status(message: &str) -> TaskStatus {
    TaskStatus { message: message.to_string(), ..TaskStatus::new(TaskState::Running, true, 1) }
}

fn node_status(generation: u64) -> NodeStatus {
    NodeStatus {
        generation,
        agent_version: "test".to_string(),
        applied_revision: 1,
        layout_version: 1,
        ports_not_taken: vec![],
        runtimes: None,
        engine_version: None,
        without: Default::default(),
        interfaces: Default::default(),
        warnings: vec![],
    }
}

/// A cluster of one port on 127.0.0.1, 127.0.0.2, …
struct Lab {
    port: u16,
    keys: GossipKeys,
    cut: Arc<AtomicBool>,
}

impl Lab {
    /// Finds a port that is free for the first member.
    async fn new() -> (Lab, Membership) {
        for _ in 0..50 {
            let port = rand::random_range(20_000..32_000);
            let lab = Lab { port, keys: GossipKeys::generate(), cut: Arc::new(AtomicBool::new(false)) };
            if let Ok(first) = lab.try_start(1, 1).await {
                return (lab, first);
            }
        }
        panic!("no free port in 50 tries");
    }

    fn addr(&self, byte: u8) -> SocketAddr {
        SocketAddr::new([127, 0, 0, byte].into(), self.port)
    }

    fn seed(&self, byte: u8) -> Seed {
        Seed { id: id(byte), addr: self.addr(byte) }
    }

    fn config(&self, byte: u8, generation: u64) -> Config {
        Config {
            node_id: id(byte),
            generation,
            advertise: self.addr(byte),
            keys: self.keys.clone(),
            seeds: vec![self.seed(1)],
        }
    }

    /// While `cut` is set, the cable between member 3 and the others is out.
    async fn try_start(&self, byte: u8, generation: u64) -> Result<Membership, MembershipError> {
        let cut = Arc::clone(&self.cut);
        let third = self.addr(3);
        let is_cut = move |to| cut.load(Ordering::Relaxed) && (byte == 3) != (to == third);
        let sockets = GossipSockets::bind(self.addr(byte)).await?;
        Ok(Membership::start_with(self.config(byte, generation), sockets, Cable(Some(Arc::new(is_cut)))))
    }

    async fn start(&self, byte: u8, generation: u64) -> Membership {
        // A member that was just dropped frees its port when its task ends.
        let deadline = Instant::now() + SOON;
        loop {
            match self.try_start(byte, generation).await {
                Ok(membership) => return membership,
                Err(error) => eventually_again(deadline, || error.to_string()).await,
            }
        }
    }
}

/// Between two looks at what must come true before the deadline; past it, `last` says what was seen.
async fn eventually_again(deadline: Instant, last: impl FnOnce() -> String) {
    assert!(Instant::now() < deadline, "{}", last());
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// Time whose passing is what is measured.
async fn let_pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// Waits until a view is as wanted; how long it took.
async fn eventually(member: &Membership, limit: Duration, what: &str, wanted: impl Fn(&Observed) -> bool) -> Duration {
    let (start, mut view) = (Instant::now(), member.observed());
    let found = tokio::time::timeout(limit, view.wait_for(|observed| wanted(observed))).await;
    if found.is_err() {
        panic!("after {limit:?} not {what}: {:#?} {:?}", member.view.borrow(), member.counters());
    }
    start.elapsed()
}

fn sees(observed: &Observed, alive: &[u8]) -> bool {
    let seen: BTreeSet<&Id> = observed.agent_alive.iter().filter(|(_, alive)| **alive).map(|(id, _)| id).collect();
    let wanted: Vec<Id> = alive.iter().map(|&byte| id(byte)).collect();
    seen == wanted.iter().collect()
}

async fn three() -> (Lab, [Membership; 3]) {
    let (lab, one) = Lab::new().await;
    let members = [one, lab.start(2, 1).await, lab.start(3, 1).await];
    for member in &members {
        member.set_members(vec![lab.seed(1), lab.seed(2), lab.seed(3)]);
        eventually(member, SOON, "three alive", |observed| sees(observed, &[1, 2, 3])).await;
    }
    (lab, members)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_meet_report_and_notice_a_death() {
    let (_lab, [one, two, three]) = three().await;
    for (byte, member) in [(1, &one), (2, &two), (3, &three)] {
        member.set_node_status(node_status(1));
        for task in 0..100u8 {
            member.set_task_status(
                Id::from_bytes([byte, task, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
                status("started"),
            );
        }
    }
    for member in [&one, &two, &three] {
        let took =
            eventually(member, SOON, "300 tasks", |observed| observed.tasks.len() == 300 && observed.nodes.len() == 3);
        println!("300 records everywhere after {:?}", took.await);
    }
    one.set_task_status(id(0xaa), status("one change"));
    let took = eventually(&three, SOON, "the change", |observed| observed.tasks.contains_key(&id(0xaa))).await;
    println!("one change after {took:?}");
    one.remove_task(id(0xaa));
    eventually(&three, SOON, "the removal", |observed| !observed.tasks.contains_key(&id(0xaa))).await;

    drop(three); // without a word: kill -9
    for member in [&one, &two] {
        let limit = Duration::from_secs(8);
        let took = eventually(member, limit, "two alive", |observed| sees(observed, &[1, 2])).await;
        println!("death noticed after {took:?}");
        let view = member.observed().borrow().clone();
        assert!(view.agent_gone_since.contains_key(&id(3)) && !view.agent_alive[&id(3)]);
        assert_eq!(view.tasks.len(), 300, "what it reported last stays known");
    }
    one.set_members(vec![_lab.seed(2)]);
    eventually(&one, SOON, "the removed node's records dropped", |observed| {
        observed.tasks.len() == 200 && !observed.agent_alive.contains_key(&id(3))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_parts_of_a_cut_network_merge_by_themselves() {
    let (lab, [one, two, three]) = three().await;
    lab.cut.store(true, Ordering::Relaxed);
    for member in [&one, &two] {
        eventually(member, Duration::from_secs(10), "3 gone", |observed| sees(observed, &[1, 2])).await;
    }
    eventually(&three, Duration::from_secs(10), "alone", |observed| sees(observed, &[3])).await;
    one.set_task_status(id(0xa1), status("while cut"));
    three.set_task_status(id(0xa3), status("while cut"));

    lab.cut.store(false, Ordering::Relaxed);
    for member in [&one, &two, &three] {
        let took = eventually(member, Duration::from_secs(10), "merged", |observed| {
            sees(observed, &[1, 2, 3]) && observed.tasks.len() == 2 && observed.agent_gone_since.is_empty()
        });
        println!("merged after {:?}", took.await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_agent_is_back_at_once_and_its_tasks_were_never_gone() {
    let (lab, [one, _two, three]) = three().await;
    for task in [0xa1, 0xa2] {
        three.set_task_status(id(task), status("first life"));
    }
    eventually(&one, SOON, "two tasks", |observed| observed.tasks.len() == 2).await;
    drop(three);
    let three = lab.start(3, 2).await;
    three.set_members(vec![lab.seed(1), lab.seed(2)]);
    three.set_node_status(node_status(2));
    three.set_task_status(id(0xa1), status("adopted"));
    eventually(&one, SOON, "the second life", |observed| {
        assert!(observed.tasks.contains_key(&id(0xa1)) && observed.tasks.contains_key(&id(0xa2)));
        observed.tasks[&id(0xa1)].message == "adopted" && observed.nodes.contains_key(&id(3))
    })
    .await;
    three.inventory_done();
    eventually(&one, SOON, "the lost task gone", |observed| !observed.tasks.contains_key(&id(0xa2))).await;
    eventually(&three, SOON, "all of it", |observed| sees(observed, &[1, 2, 3]) && observed.tasks.len() == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_and_replayed_datagrams_are_counted_and_harmless() {
    let (lab, [one, _two, _three]) = three().await;
    let enemy = UdpSocket::bind("127.0.0.9:0").await.unwrap();
    let before = one.counters();
    let stranger = GossipKeys::generate().ring();
    let ours = lab.keys.ring();
    let record = |message: wire::Message, sequence| {
        let sender = RawId::from(&id(2));
        wire::encode(&wire::Datagram { sender, generation: 1, sequence, message })
    };
    let mut tampered = ours.seal(Channel::Datagram, &record(wire::Message::Digest(1), 1));
    tampered[OVERHEAD - 16] ^= 1;
    let recorded = ours.seal(Channel::Datagram, &record(wire::Message::Digest(7), 1 << 40));
    let garbage = ours.seal(Channel::Datagram, b"\xff\xff\xff not postcard");
    let nonsense = ours.seal(Channel::Datagram, &record(wire::Message::Swim(vec![1, 2, 3]), (1 << 40) + 1));
    let other_owner = records::Delta { owner: RawId::from(&id(3)), generation: 9, after: 0, upto: 1, records: vec![] };
    let lie = ours.seal(Channel::Datagram, &record(wire::Message::Records(other_owner), (1 << 40) + 2));
    let datagrams: [&[u8]; 9] = [
        b"",
        b"GET / HTTP/1.1\r\n\r\n",
        &stranger.seal(Channel::Datagram, b"hello"),
        &tampered,
        &recorded,
        &recorded,
        &garbage,
        &nonsense,
        &lie,
    ];
    for datagram in datagrams {
        enemy.send_to(datagram, lab.addr(1)).await.unwrap();
    }
    // A stream that promises much, and one that says nothing of ours.
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    for bytes in [&[0xff; 8][..], &[0, 0, 0, 4, 1, 2, 3, 4]] {
        let mut stream = tokio::net::TcpStream::connect(lab.addr(1)).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let _ = stream.shutdown().await; // it may have been closed on us already
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await.expect("closed in time");
        assert!(answer.is_empty(), "strangers get no answer");
    }

    let deadline = Instant::now() + SOON;
    loop {
        let counters = one.counters();
        let counted = counters.not_ours - before.not_ours >= 3
            && counters.unknown_key > before.unknown_key
            && counters.forged > before.forged
            && counters.replayed > before.replayed
            && counters.malformed - before.malformed >= 2
            && counters.refused_records > before.refused_records
            && counters.failed_exchanges - before.failed_exchanges >= 2;
        if counted {
            break;
        }
        eventually_again(deadline, || format!("{before:?} {counters:?}")).await;
    }
    assert!(sees(&one.observed().borrow(), &[1, 2, 3]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_replaced_while_everybody_keeps_talking() {
    let (lab, members) = three().await;
    let (one, three) = (&members[0], &members[2]);
    let staged = lab.keys.staged();
    let mut serial = 0u8;
    for keys in [staged.clone(), staged.promoted(), staged.promoted().retired()] {
        for member in &members {
            member.set_keys(keys.clone());
            serial += 1;
            one.set_task_status(id(serial), status("said in between"));
            eventually(three, SOON, "heard", |observed| observed.tasks.contains_key(&id(serial))).await;
        }
    }
    // Who was left out of the rotation hears and says nothing any more.
    let outsider = lab.start(4, 1).await;
    let silence = Duration::from_millis(1500);
    let mut view = outsider.observed();
    let heard = tokio::time::timeout(silence, view.wait_for(|observed| observed.agent_alive.len() > 1)).await;
    assert!(heard.is_err(), "with a retired key nobody answers");
    assert!(one.counters().unknown_key > 0);
}

#[tokio::test]
async fn a_taken_port_is_named_and_who_leaves_is_gone_at_once() {
    let (lab, one) = Lab::new().await;
    let error = lab.try_start(1, 2).await.unwrap_err();
    assert!(matches!(error, MembershipError::PortInUse { transport: "udp", .. }), "{error}");
    assert!(error.to_string().contains(&format!("port {}/udp at 127.0.0.1 is in use", lab.port)), "{error}");

    let two = lab.start(2, 1).await;
    eventually(&one, SOON, "two alive", |observed| sees(observed, &[1, 2])).await;
    two.leave().await;
    let took = eventually(&one, SOON, "two gone", |observed| sees(observed, &[1])).await;
    assert!(took < Duration::from_millis(1500), "{took:?}");
    // The one that the store names but nobody ever heard of is reported too.
    one.set_members(vec![lab.seed(2), lab.seed(3)]);
    let limit = Duration::from_secs(12);
    eventually(&one, limit, "3 reported as gone", |observed| observed.agent_alive.get(&id(3)) == Some(&false)).await;
}

#[tokio::test]
#[ignore = "measures this whole process: run it alone, with --release for numbers that count"]
async fn idle_gossip_costs_next_to_nothing() {
    let (_lab, members) = three().await;
    for (byte, member) in (1..).zip(&members) {
        (0..100u8).for_each(|task| member.set_task_status(Id::from_bytes([byte + task; 16]), status("idle")));
    }
    let_pass(Duration::from_secs(2)).await;
    // Nanoseconds on a CPU, summed over this process's threads.
    let cpu = || -> f64 {
        let threads = std::fs::read_dir("/proc/self/task").unwrap();
        let spent = threads.map(|thread| std::fs::read_to_string(thread.unwrap().path().join("schedstat")).unwrap());
        spent.map(|text| text.split(' ').next().unwrap().parse::<f64>().unwrap()).sum::<f64>() / 1e9
    };
    let (start, before) = (Instant::now(), cpu());
    let_pass(Duration::from_secs(10)).await;
    let share = (cpu() - before) / start.elapsed().as_secs_f64() / members.len() as f64;
    println!("one member of three, idle: {:.3} % of a core; {:?}", share * 100.0, members[0].counters());
    assert!(share < 0.005, "{share}");
}
