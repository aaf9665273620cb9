//! How large maps are made whose memory is taken at once: by what the machine has.
//!
//! Asked when programs are loaded and a map is not there yet. A hash map can't grow and its entries can't be moved while programs write them,
//! so an agent that finds its tables pinned keeps their size: flows that live are worth more than a new number, which counts once the tables are
//! made anew. Who reads or fills a map asks it for its size. Must not: know what is in a map.

use std::path::Path;

use aya::maps::MapInfo;
use mesh_common::schema::{EARLY_OF_A_CPU, MAX_FLOWS, MAX_RING_SLOTS, MIN_FLOWS, MIN_OVERFLOW, MIN_RING_SLOTS};

use super::{BpfError, pin};

/// Memory of a slot of `RINGS`: the kernel rounds values of arrays up to 8 bytes.
const SLOT_BYTES: u64 = 8;
/// `RINGS` takes this part of the machine's memory at most (but for its least size).
const SHARE: u64 = 512;

/// One flow entry for so much memory: 120 bytes an entry and 16 a bucket make that 1.7 to 1.9 % of it. nf_conntrack's rule has this shape
/// (Documentation/networking/nf_conntrack-sysctl.rst, nf_conntrack_buckets), with a bucket for 16 KiB.
const MEMORY_OF_AN_ENTRY: u64 = 8 << 10;
/// The overflow is a sixteenth of the table …
const OVERFLOW_SHARE: u32 = 16;
/// … and not more than this.
const MAX_OVERFLOW: u32 = 1 << 18;

/// Entries of a family's flow table and of what is beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowSizes {
    /// `FLOWS4` or `FLOWS6`, two a flow.
    pub table: u32,
    /// `OVERFLOW4` or `OVERFLOW6`.
    pub overflow: u32,
}

impl FlowSizes {
    /// A table of so many entries, and the overflow that belongs to it.
    pub fn of_table(table: u32) -> FlowSizes {
        FlowSizes { table, overflow: (table / OVERFLOW_SHARE).clamp(MIN_OVERFLOW as u32, MAX_OVERFLOW) }
    }

    /// What a machine with so much memory gets by itself.
    pub fn of_memory(bytes: u64) -> FlowSizes {
        let entries = (bytes / MEMORY_OF_AN_ENTRY).clamp(MIN_FLOWS as u64, MAX_FLOWS as u64);
        FlowSizes::of_table(entries as u32)
    }

    /// What is asked for, else what this machine gets by itself.
    pub fn wanted(asked: Option<u32>) -> FlowSizes {
        match asked {
            Some(entries) => FlowSizes::of_table(entries),
            None => FlowSizes::of_memory(memory_bytes()),
        }
    }

    /// For IPv6 beside these for IPv4: as large a table, whose entries take memory only when they come, and the least overflow, which takes
    /// it always (docs/decisions/0026).
    pub fn beside(self) -> FlowSizes {
        FlowSizes { table: self.table, overflow: self.overflow.min(MIN_OVERFLOW as u32) }
    }

    /// As pinned in this directory, where they are.
    pub(super) fn pinned_or(self, maps: &Path, names: [&str; 2]) -> Result<FlowSizes, BpfError> {
        let pinned = |name: &str| -> Result<Option<u32>, BpfError> {
            let path = maps.join(name);
            if !path.exists() {
                return Ok(None);
            }
            let info = MapInfo::from_pin(&path).map_err(|error| BpfError::Load(pin::chain(&error)))?;
            Ok(Some(info.max_entries()))
        };
        let found = FlowSizes {
            table: pinned(names[0])?.unwrap_or(self.table),
            overflow: pinned(names[1])?.unwrap_or(self.overflow),
        };
        if found.table != self.table {
            log::info!(
                "{} keeps the {} entries it was made with, and its flows; {} count after a restart of the machine or 'mesh purge'",
                names[0],
                found.table,
                self.table
            );
        }
        Ok(found)
    }
}

/// Slots of `RINGS` on a machine with so much memory: a power of two. 8 GiB have 2 Mi slots, which are lists and rings of 10,000 services
/// with ten backends each.
pub fn ring_slots(memory_bytes: u64) -> u32 {
    let slots = (memory_bytes / SHARE / SLOT_BYTES).clamp(MIN_RING_SLOTS as u64, MAX_RING_SLOTS as u64);
    1 << slots.ilog2()
}

/// Entries of `EARLY`: the same for each CPU that the kernel may have, as it wants them where each has a list.
pub fn early(possible_cpus: u32) -> u32 {
    possible_cpus * EARLY_OF_A_CPU as u32
}

/// CPUs that the kernel may have, also those to come; one where it does not tell.
pub fn possible_cpus() -> u32 {
    aya::util::nr_cpus().map_or(1, |cpus| cpus as u32)
}

/// The machine's memory; the least there is where the kernel does not tell.
pub fn memory_bytes() -> u64 {
    nix::sys::sysinfo::sysinfo().map_or(0, |info| info.ram_total())
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

    #[test]
    fn a_million_flows_fit_on_24_gib_by_default() {
        // What the kernel keeps for itself is not in the total: a machine sold as 24 GiB has about 23.5.
        let sizes = FlowSizes::of_memory(47 << 29);
        assert_eq!(sizes, FlowSizes { table: 3_080_192, overflow: 192_512 });
        assert!(sizes.table as usize / 10 * 8 > 2_000_000, "and below the pressure mark");
    }

    #[test]
    fn a_small_machine_has_a_floor_and_a_large_one_a_ceiling() {
        assert_eq!(FlowSizes::of_memory(0), FlowSizes { table: 65_536, overflow: 65_536 });
        assert_eq!(FlowSizes::of_memory(1 << 30), FlowSizes { table: 131_072, overflow: 65_536 });
        assert_eq!(FlowSizes::of_memory(1 << 42), FlowSizes { table: 8_388_608, overflow: 262_144 });
    }

    #[test]
    fn ipv6_has_as_large_a_table_and_the_least_overflow() {
        let large = FlowSizes::of_memory(1 << 42);
        assert_eq!(large.beside(), FlowSizes { table: 8_388_608, overflow: 65_536 });
        assert_eq!(FlowSizes { table: 4_096, overflow: 1_024 }.beside(), FlowSizes { table: 4_096, overflow: 1_024 });
    }

    #[test]
    fn what_was_asked_for_wins_over_the_rule() {
        assert_eq!(FlowSizes::wanted(Some(4_096)), FlowSizes { table: 4_096, overflow: 65_536 });
    }
}
