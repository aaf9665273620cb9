//! Whether the data path to each peer works: an echo frame every 300 ms, answered by the peer's from_overlay program. Agents of peers
//! may be dead meanwhile; this is about packets.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use mesh_common::parse::ETHERTYPE_ECHO;
use mesh_common::wire::mac;
use nix::time::{ClockId, clock_gettime};
use tokio::time::{MissedTickBehavior, interval};

use super::member::Member;
use super::now;
use crate::model::{Cluster, Id, UnixMs};

/// Time between echoes.
const EVERY: Duration = Duration::from_millis(300);
/// So many unanswered in a row: unreachable.
const MISSED: u64 = 3;
/// A peer newly heard of has so many echoes' time to learn of us.
const GRACE: u64 = 17;

/// What is known of one peer's answers.
struct Peer {
    id: Id,
    first_asked: u64,
}

/// Asks for ever, and publishes who does not answer.
pub async fn run(member: &Member) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut peers: BTreeMap<u32, Peer> = known_silent(&member.desired.get(), &member.unreachable.borrow());
    let mut socket: Option<(u32, OwnedFd)> = None;
    let mut last_sequence = sequence();
    loop {
        ticks.tick().await;
        let Some((node, mesh0)) = member.kernel.mesh0() else { continue };
        let sequence = sequence();
        if sequence > last_sequence + MISSED {
            // This process itself was stopped for a while: its silence is not the peers'.
            let silent = member.unreachable.borrow().clone();
            let heard = peers.values_mut().filter(|peer| !silent.contains_key(&peer.id));
            heard.for_each(|peer| peer.first_asked = sequence);
        }
        last_sequence = sequence;
        let cluster = member.desired.get();
        peers.retain(|number, peer| cluster.nodes.get(&peer.id).is_some_and(|node| node.number == *number));
        for other in cluster.nodes.values().filter(|other| other.id != member.id) {
            peers.entry(other.number).or_insert(Peer { id: other.id.clone(), first_asked: sequence });
        }
        if socket.as_ref().is_none_or(|(ifindex, _)| *ifindex != mesh0) {
            socket = open(mesh0).map_err(|error| log::warn!("open a packet socket on mesh0 for echoes: {error}")).ok();
        }
        let Some((_, socket)) = &socket else { continue };
        for number in peers.keys() {
            // A full queue or a device that is down shows as a missing answer.
            let _ = send(socket, &frame(node, *number, sequence));
        }
        match member.kernel.echoes() {
            Ok(echoes) => publish(member, &unanswered(&peers, &echoes, sequence)),
            Err(error) => log::warn!("read the echoes: {error}"),
        }
    }
}

/// Peers that a former agent's programs hold for unreachable: they stay so from this agent's start until they answer, since a call to one
/// of them would only hang. The leader's grace time begins anew: they may have come back while nobody asked.
pub fn seed(cluster: &Cluster, numbers: &BTreeSet<u32>, now: UnixMs) -> BTreeMap<Id, UnixMs> {
    let silent = cluster.nodes.values().filter(|node| numbers.contains(&node.number));
    silent.map(|node| (node.id.clone(), now)).collect()
}

/// They were asked before this agent's time, and have no grace left.
fn known_silent(cluster: &Cluster, silent: &BTreeMap<Id, UnixMs>) -> BTreeMap<u32, Peer> {
    let nodes = cluster.nodes.values().filter(|node| silent.contains_key(&node.id));
    nodes.map(|node| (node.number, Peer { id: node.id.clone(), first_asked: 0 })).collect()
}

/// Peers whose last answer is older than allowed. The echo of this very moment is still on its way.
fn unanswered(peers: &BTreeMap<u32, Peer>, echoes: &BTreeMap<u32, u64>, sequence: u64) -> Vec<Id> {
    let is_silent = |number: &u32, peer: &Peer| is_silent(peer.first_asked, echoes.get(number).copied(), sequence);
    peers.iter().filter(|(number, peer)| is_silent(number, peer)).map(|(_, peer)| peer.id.clone()).collect()
}

/// Whether a peer asked since echo `first_asked` and last heard of with `answered` is silent when echo `sequence` is sent.
pub(super) fn is_silent(first_asked: u64, answered: Option<u64>, sequence: u64) -> bool {
    // A number that was not sent yet is a forgery.
    let answered = answered.filter(|answered| *answered <= sequence).unwrap_or(0);
    let allowed = if answered < first_asked { GRACE } else { MISSED };
    answered.max(first_asked) + allowed < sequence
}

fn publish(member: &Member, silent: &[Id]) {
    let changed = member.unreachable.send_if_modified(|unreachable| {
        let before: Vec<Id> = unreachable.keys().cloned().collect();
        unreachable.retain(|id, _| silent.contains(id));
        for id in silent {
            unreachable.entry(id.clone()).or_insert_with(now);
        }
        before != unreachable.keys().cloned().collect::<Vec<_>>()
    });
    if changed {
        let unreachable: BTreeMap<Id, UnixMs> = member.unreachable.borrow().clone();
        let names: Vec<&str> = unreachable.keys().map(Id::short).collect();
        log::info!(
            "nodes that do not answer on the data path: {}",
            if names.is_empty() { "none".into() } else { names.join(", ") }
        );
        member.desired.note_unreachable(&unreachable);
    }
}

/// Counts echo times of the monotonic clock, so that a restarted agent goes on in the same row.
pub(super) fn sequence() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
    (time.as_millis() / EVERY.as_millis()) as u64
}

/// An echo frame: from our number to the peer's, with the sequence number behind the Ethernet header (docs/reference/wire.md).
pub(super) fn frame(node: u32, peer: u32, sequence: u64) -> [u8; 60] {
    let mut frame = [0; 60];
    frame[..6].copy_from_slice(&mac::of(mac::KIND_ECHO, peer));
    frame[6..12].copy_from_slice(&mac::of(mac::KIND_ECHO, node));
    frame[12..14].copy_from_slice(&ETHERTYPE_ECHO.to_be_bytes());
    frame[14..22].copy_from_slice(&sequence.to_be_bytes());
    frame
}

/// A packet socket bound to mesh0 that receives nothing (protocol 0).
pub(super) fn open(ifindex: u32) -> io::Result<(u32, OwnedFd)> {
    // SAFETY: plain values; the result is checked before it is owned.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else has.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: all-zero is a valid address.
    let mut addr: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    addr.sll_family = libc::AF_PACKET as u16;
    addr.sll_ifindex = ifindex as i32;
    let size = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the address is `size` bytes long.
    let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const addr).cast(), size) };
    if bound < 0 { Err(io::Error::last_os_error()) } else { Ok((ifindex, fd)) }
}

pub(super) fn send(socket: &OwnedFd, frame: &[u8]) -> io::Result<()> {
    // SAFETY: the buffer is as long as said.
    let sent = unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers(first_asked: u64) -> BTreeMap<u32, Peer> {
        BTreeMap::from([(2, Peer { id: Id::from_bytes([2; 16]), first_asked })])
    }

    #[test]
    fn three_missed_echoes_make_a_peer_unreachable() {
        let answered = |sequence| BTreeMap::from([(2, sequence)]);
        assert!(unanswered(&peers(1), &answered(97), 100).is_empty());
        assert_eq!(unanswered(&peers(1), &answered(96), 100).len(), 1);
    }

    #[test]
    fn a_new_peer_has_time_to_learn_of_us() {
        assert!(unanswered(&peers(100), &BTreeMap::new(), 110).is_empty());
        assert_eq!(unanswered(&peers(100), &BTreeMap::new(), 118).len(), 1);
    }
    #[test]
    fn what_a_former_agent_knew_to_be_silent_stays_so_until_it_answers() {
        let mut cluster = Cluster::default();
        for number in [2, 3] {
            let node = crate::leader::world::node(number);
            cluster.nodes.insert(node.id.clone(), node);
        }
        let seeded = seed(&cluster, &BTreeSet::from([2]), 7);
        assert_eq!(seeded.len(), 1);
        let peers = known_silent(&cluster, &seeded);
        let silent = |answered| unanswered(&peers, &BTreeMap::from([(2, answered)]), 1_000);
        assert_eq!(silent(900), seeded.into_keys().collect::<Vec<_>>(), "an answer of long ago");
        assert!(silent(999).is_empty());
    }
}
