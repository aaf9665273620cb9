//! Nanoseconds a packet, of every hook and walk, beside bare programs of the same work.
//!
//! BPF_PROG_TEST_RUN repeats a program on one buffer and never restores it: a hook would see its own output. So a wrapper of ours
//! (tests/bench-ebpf/src/turn.rs) stands before it: it gives the packet its length back, writes the next flow's frame over it, and jumps.
//! The same wrapper before an empty program is timed next to every reading and subtracted; what remains is the hook with its maps, without
//! the device (a redirect is decided, not carried out). `measure.rs` reads, `walks.rs` says what, `floors.rs` what the machine can do at best.
//! Invariant: a reading in which a packet was dropped, took another way or changed the flow table stops the run: a benchmark of drops
//! would be a lie.

mod floors;
mod frames;
mod live;
mod measure;
mod programs;
mod walks;

use anyhow::{Context, Result};
use mesh_common::verdict::Hook;

use super::{Row, Wish, stay_on_last_cpu};
use crate::rig::Rig;
pub use floors::{Floor, floors};
pub use frames::Tuple;
pub(super) use frames::{Bytes, Template, shuffled};
pub use live::{LIVE_FLOWS, rows as live_rows};
pub use measure::{Bench, Effort};
pub(super) use programs::{Kind, Programs, clear as clear_flows, count as count_flows};
pub use walks::{Walk, flows_in_words};

/// Distinct flows, each number a row. The last is beyond every cache.
const FLOWS: [u32; 3] = [1, 10_000, walks::MOST_FLOWS];
/// Flow entries of a small node.
const FEW_ENTRIES: u32 = 1 << 18;
/// Flow entries that half a million flows need, two each, and as many free ones.
const MANY_ENTRIES: u32 = 1 << 21;

/// Measures every row that is wanted.
pub fn rows(wish: &Wish) -> Result<Vec<Row>> {
    stay_on_last_cpu()?;
    let mut rows = sizes()?;
    rows.retain(|row| wish.wants(&row.name));
    // Small tables first, as nodes have them; then those for many flows.
    let few: Vec<u32> = FLOWS[..2].to_vec();
    let many: Vec<u32> = if wish.quick { Vec::new() } else { FLOWS[2..].to_vec() };
    for (counts, entries) in [(few, FEW_ENTRIES), (many, MANY_ENTRIES)] {
        let Some(most) = counts.iter().max() else { continue };
        let mut bench = Bench::new(*most, entries, Effort::of(wish))?;
        for flows in &counts {
            for floor in floors() {
                if wish.wants(&floor.row_name(*flows)) && (floor.looks_up || *flows == 1) {
                    rows.push(bench.floor(&floor, *flows)?);
                }
            }
            for walk in bench.walks() {
                if wish.wants(&walk.row_name(walk.sort, *flows)) {
                    rows.push(bench.established(&walk, *flows)?);
                }
                // One flow is new once: nothing to repeat.
                if walk.is_opened_by_its_own() && *flows > 1 && wish.wants(&walk.row_name("new flow", *flows)) {
                    rows.push(bench.new_flows(&walk, *flows)?);
                }
                // As many as the overflow has room for, and more than a rig calls a flood.
                let is_flood = walk.is_opened_by_its_own() && *flows == FLOWS[1];
                if is_flood && wish.wants(&walk.row_name("new flow in flood mode", *flows)) {
                    rows.push(bench.new_flows_in_flood(&walk, *flows)?);
                }
            }
        }
    }
    let mut bench = Bench::new(live::LIVE_FLOWS, FEW_ENTRIES, Effort::of(wish))?;
    rows.extend(live::rows(&mut bench, wish)?);
    Ok(rows)
}

/// What the kernel made of each program.
fn sizes() -> Result<Vec<Row>> {
    let mut rig = Rig::new().context("measuring needs root")?;
    let mut rows = Vec::new();
    let mut names = Hook::ALL.map(Hook::name).to_vec();
    names.push("xdp_uplink");
    names.dedup();
    for name in names {
        let Some(info) = rig.info(name)? else {
            rows.push(Row::missing(
                format!("{name}: machine code"),
                "bytes",
                format!("the packet programs have no {name}"),
            ));
            continue;
        };
        let row = |what: &str, unit, size: u32| Row::alone(format!("{name}: {what}"), unit, &[f64::from(size)]);
        rows.push(row("verified instructions", "insns", info.verified_instruction_count().unwrap_or(0)));
        rows.push(row("machine code", "bytes", info.size_jitted()));
    }
    Ok(rows)
}
