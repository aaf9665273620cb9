//! Packet programs as filters: how they get onto devices where the kernel has no TCX (before Linux 6.6, docs/decisions/0012-kernels.md).
//!
//! What `bpf` asks for and `net` does, which don't know each other. A filter is no link: it can't be pinned. It lives and dies with its device, is
//! known by a place of ours, and swapped in one step. Invariant: at most one of ours at a device's ingress and one at its egress.

use std::io;
use std::os::fd::BorrowedFd;

/// At which end of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    Ingress,
    Egress,
}

/// A filter of ours on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filter {
    pub direction: Direction,
    /// Of the program, as in the object.
    pub program: String,
    /// By which the kernel knows the program at work.
    pub program_id: u32,
}

/// Filters of the calling thread's network namespace.
pub trait Filters: Send + Sync {
    /// Ours on this device.
    fn ours(&self, ifindex: u32) -> io::Result<Vec<Filter>>;

    /// Puts a program there, in place of ours where there is one: no packet misses both. Fails where somebody else's filter has our place.
    fn put(&self, ifindex: u32, direction: Direction, program: &str, fd: BorrowedFd<'_>) -> io::Result<()>;

    /// Takes ours away, and what was made for it; none there is as good.
    fn remove(&self, ifindex: u32, direction: Direction) -> io::Result<()>;
}
