//! Counters: one per hook and drop reason.

use mesh_common::verdict::{Hook, STRIDE};

use crate::maps::DROPS;

/// Counts a dropped or refused packet; `reason` is a `DropReason` as a number.
#[inline(always)]
pub fn drop(hook: Hook, reason: u32) {
    if let Some(counter) = DROPS.get_ptr_mut(hook as u32 * STRIDE + reason) {
        // SAFETY: per-CPU slot, and the program is not preempted by another user of it on this CPU's path.
        unsafe { *counter += 1 };
    }
}
