//! How packets are read, changed and sent; the only place that names `sk_buff` and `xdp_buff`.

pub mod tc;
pub mod tunnel;
pub mod xdp;

use mesh_common::parse::{Cursor, Plain};
use mesh_common::verdict::DropReason;

/// What every kind of packet lets a stage change.
pub trait Rewrite: Cursor {
    /// Overwrites bytes whose change a checksum in the packet makes up for, which is the caller's business.
    fn store<T: Plain>(&self, offset: usize, value: &T) -> Result<(), DropReason>;
    /// Replaces a 16-bit word (host order values) in the transport checksum at `offset`.
    fn replace_word(&self, offset: usize, old: u16, new: u16, is_udp: bool) -> Result<(), DropReason>;
}
