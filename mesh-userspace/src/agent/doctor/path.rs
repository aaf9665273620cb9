//! How large a packet gets through to a peer and back: an echo padded to full size, answered by the peer's program.
//!
//! The programs remember only the last answer of each peer, and the reachability check lives by it. So a padded echo bears the number
//! before the last ordinary one answered: to that check it is a fairly new answer, which harms nobody; to us it is ours, for it was answered
//! after we asked. The next ordinary answer overwrites it within 300 ms, so the memory is looked at far more often than that.
//! Invariant: numbers never count down from one padded echo to the next, however many pass between two ordinary ones.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use mesh_common::parse::ETHERNET_LEN;
use nix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, sleep};

use crate::agent::reach;
use crate::agent::reconcile::Kernel;
use crate::doctor::PathMtu;

const LOOK_EVERY: Duration = Duration::from_millis(5);
/// An answer slower than this is as good as none: three ordinary echoes lost make a peer unreachable, too.
const PATIENCE: Duration = Duration::from_millis(900);
/// A lost packet is no narrow path; two in a row of one size are.
const TRIES: u32 = 2;
/// Every IPv4 host takes a packet of this size (RFC 791, 3.1): nothing smaller is of interest.
const SMALLEST: u32 = 576;
/// Sizes are told apart to this many bytes: fine enough to name the usual tunnels.
const STEP: u32 = 4;

/// The largest inner packet, up to `whole`, that passes to the node with this number and back.
pub async fn largest(kernel: &Kernel, peer: u32, whole: u32) -> PathMtu {
    let Some((node, mesh0)) = kernel.mesh0() else { return PathMtu::NotTried };
    let Ok((_, socket)) = reach::open(mesh0) else { return PathMtu::NotTried };
    let probe = Probe { kernel, socket, node, peer, newest: AtomicU64::new(0) };
    match probe.passes(whole).await {
        None => return PathMtu::NotTried,
        Some(true) => return PathMtu::Whole,
        Some(false) => {}
    }
    let (mut passes, mut is_lost) = (0, whole);
    while is_lost > passes.max(SMALLEST) + STEP {
        let size = if passes == 0 { SMALLEST } else { (passes + is_lost) / 2 };
        match probe.passes(size).await {
            Some(true) => passes = size,
            Some(false) if size == SMALLEST => break,
            Some(false) => is_lost = size,
            None => return PathMtu::NotTried,
        }
    }
    // Not even the smallest: that is no matter of size, and the peer may just have gone.
    if passes == 0 { PathMtu::NotTried } else { PathMtu::Only(passes) }
}

struct Probe<'a> {
    kernel: &'a Kernel,
    socket: OwnedFd,
    node: u32,
    peer: u32,
    /// The highest number seen answered: padded echoes overwrite it in the programs' memory.
    newest: AtomicU64,
}

impl Probe<'_> {
    /// None where ordinary echoes are not answered, either.
    async fn passes(&self, size: u32) -> Option<bool> {
        for _ in 0..TRIES {
            self.answer()?;
            let number = padded(self.newest.load(Relaxed), reach::sequence());
            let asked_ns = monotonic_ns();
            let mut frame = reach::frame(self.node, self.peer, number).to_vec();
            frame.resize(ETHERNET_LEN + size as usize, 0);
            // A packet that this host itself refuses as too long is one that does not pass.
            let _ = reach::send(&self.socket, &frame);
            let deadline = Instant::now() + PATIENCE;
            while Instant::now() < deadline {
                if self.answer().is_some_and(|(seen, at_ns)| seen == number && at_ns >= asked_ns) {
                    return Some(true);
                }
                sleep(LOOK_EVERY).await;
            }
        }
        Some(false)
    }

    /// Number and time of the peer's last answer.
    fn answer(&self) -> Option<(u64, u64)> {
        let (number, at_ns) = self.kernel.echo_of(self.peer)?;
        // A number that was not sent yet is a forgery.
        if number <= reach::sequence() {
            self.newest.fetch_max(number, Relaxed);
        }
        Some((number, at_ns))
    }
}

/// The number of a padded echo, where `newest` is the highest one answered and `sequence` the ordinary echo's at the moment: one whose
/// ordinary answer has come already. An earlier search may have left a number of its own behind, so the clock has a word, too.
fn padded(newest: u64, sequence: u64) -> u64 {
    newest.max(sequence.saturating_sub(1)).saturating_sub(1)
}

/// The clock that the programs stamp answers with.
fn monotonic_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| Duration::from(time).as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_pass_in_a_row_never_make_the_peer_look_silent() {
        let after = |searches| {
            let (mut memory, sequence) = (100, 100);
            for _search in 0..searches {
                // A search remembers nothing of the one before; many sizes pass within one ordinary echo's time.
                let mut newest = 0;
                for _size in 0..10 {
                    newest = memory.max(newest);
                    memory = padded(newest, sequence);
                }
            }
            memory
        };
        assert!(!reach::is_silent(1, Some(after(1)), 102), "one ordinary answer is lost, the next is on its way");
        assert!(!reach::is_silent(1, Some(after(5)), 101), "asked again and again by hand");
    }

    #[test]
    fn a_padded_echo_is_not_taken_for_an_ordinary_one_on_its_way() {
        assert_eq!(padded(100, 100), 99);
        // The answer takes longer than the time between two echoes: number 99 is still to come.
        assert_eq!(padded(98, 100), 98);
        assert_eq!(padded(0, 0), 0);
    }
}
