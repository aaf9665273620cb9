//! Whether the data path to each peer works: an echo frame every 300 ms, answered by the peer's from_overlay program. Agents of peers
//! may be dead meanwhile; this is about packets.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use mesh_common::parse::ETHERTYPE_ECHO;
use mesh_common::wire::mac;
use nix::time::{ClockId, clock_gettime};
use tokio::time::{MissedTickBehavior, interval};

use super::member::Member;
use super::now;
use crate::model::{Id, UnixMs};

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
    let mut peers: BTreeMap<u32, Peer> = BTreeMap::new();
    let mut socket: Option<(u32, OwnedFd)> = None;
    let mut last_sequence = sequence();
    loop {
        ticks.tick().await;
        let Some((node, mesh0)) = member.kernel.mesh0() else { continue };
        let sequence = sequence();
        if sequence > last_sequence + MISSED {
            // This process itself was stopped for a while: its silence is not the peers'.
            peers.values_mut().for_each(|peer| peer.first_asked = sequence);
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

/// Peers whose last answer is older than allowed. The echo of this very moment is still on its way.
fn unanswered(peers: &BTreeMap<u32, Peer>, echoes: &BTreeMap<u32, u64>, sequence: u64) -> Vec<Id> {
    let is_silent = |number: &u32, peer: &Peer| {
        // A number that was not sent yet is a forgery.
        let answered = echoes.get(number).copied().filter(|answered| *answered <= sequence).unwrap_or(0);
        let allowed = if answered < peer.first_asked { GRACE } else { MISSED };
        answered.max(peer.first_asked) + allowed < sequence
    };
    peers.iter().filter(|(number, peer)| is_silent(number, peer)).map(|(_, peer)| peer.id.clone()).collect()
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
fn sequence() -> u64 {
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
}
