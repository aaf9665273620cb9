//! How large maps are made whose memory is taken at once: by what the machine has.
//!
//! Asked when programs are loaded and a map is not there yet. One that is pinned keeps its size, whatever it is: who reads or fills it
//! asks the map. Must not: know what is in a map.

use mesh_common::schema::{MAX_RING_SLOTS, MIN_RING_SLOTS};

/// Memory of a slot of `RINGS`: the kernel rounds values of arrays up to 8 bytes.
const SLOT_BYTES: u64 = 8;
/// `RINGS` takes this part of the machine's memory at most (but for its least size).
const SHARE: u64 = 512;

/// Slots of `RINGS` on a machine with so much memory: a power of two. 8 GiB have 2 Mi slots, which are lists and rings of 10,000 services
/// with ten backends each.
pub fn ring_slots(memory_bytes: u64) -> u32 {
    let slots = (memory_bytes / SHARE / SLOT_BYTES).clamp(MIN_RING_SLOTS as u64, MAX_RING_SLOTS as u64);
    1 << slots.ilog2()
}

/// Memory of this machine, in bytes; 0 where it can't be told.
pub fn memory_bytes() -> u64 {
    // SAFETY: no pointers.
    let (pages, page_bytes) = unsafe { (libc::sysconf(libc::_SC_PHYS_PAGES), libc::sysconf(libc::_SC_PAGESIZE)) };
    u64::try_from(pages).unwrap_or(0) * u64::try_from(page_bytes).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_grow_with_the_machine_between_bounds() {
        let gib = |n: u64| n << 30;
        let sizes = [0, gib(1), gib(4), gib(8), gib(23), gib(64), gib(1024)].map(ring_slots);
        assert_eq!(sizes, [1 << 20, 1 << 20, 1 << 20, 1 << 21, 1 << 22, 1 << 24, 1 << 24]);
    }
}
