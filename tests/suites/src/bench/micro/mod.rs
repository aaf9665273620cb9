//! Nanoseconds a packet of each packet hook, on the established path, as docs of `cargo xtask bench` promise.
//!
//! BPF_PROG_TEST_RUN repeats a program on one buffer and never restores it: a hook would see its own output. So a wrapper stands before
//! the hook: it writes the next flow's frame over the buffer, takes the mark off, sets the tunnel key where there is one, and jumps. The
//! same wrapper before an empty program is timed next to every reading and subtracted; what remains is the hook with its maps, without
//! the device (a redirect is decided, not carried out). Invariant: a reading in which a packet was dropped or took another way is none.

mod restore;
mod walks;

use std::os::fd::AsFd;

use anyhow::{Context, Result, ensure};
use mesh_common::schema::MAX_FLOWS;

use super::{PAIRS, Row, Wish};
use crate::rig::Rig;
pub use restore::Restore;
pub use walks::{Walk, walks};

/// Distinct flows that a walk goes through, in turn.
pub const FLOWS: u32 = 10_000;

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Packets a reading.
    pub repeats: u32,
    /// Readings a walk.
    pub readings: usize,
}

/// Measures every walk that is wanted, each in a world of its own.
pub fn rows(wish: &Wish) -> Result<Vec<Row>> {
    let effort = Effort { repeats: if wish.quick { 30_000 } else { 300_000 }, readings: PAIRS };
    let mut rows = Vec::new();
    for make in walks() {
        let mut rig = Rig::with_flow_table(MAX_FLOWS as u32).context("measuring needs root")?;
        let walk = make(&mut rig);
        if wish.wants(walk.name) {
            rows.push(measure(&mut rig, &walk, effort)?);
        }
    }
    let mut rig = Rig::new().context("measuring needs root")?;
    for program in programs(&mut rig)? {
        let name = |what: &str| format!("{}: {what}", program.name);
        rows.push(Row::alone(name("verified instructions"), "instructions", &[f64::from(program.verified)]));
        rows.push(Row::alone(name("machine code"), "bytes", &[f64::from(program.jited)]));
    }
    rows.retain(|row| wish.wants(&row.name));
    Ok(rows)
}

/// A program's size, as the kernel sees it.
#[derive(Clone, Debug)]
pub struct Program {
    pub name: &'static str,
    /// Instructions that the verifier walked.
    pub verified: u32,
    /// Bytes of machine code.
    pub jited: u32,
}

/// Measures one walk in a world of its own.
pub fn measure(rig: &mut Rig, walk: &Walk, effort: Effort) -> Result<Row> {
    rig.load(walk.hook.name());
    let hook = rig.program(walk.hook.name()).fd()?.try_clone()?;
    let wrapper = Restore::before(hook.as_fd(), FLOWS, walk.tunnel)?;
    let empty = Restore::before_nothing(FLOWS, walk.tunnel)?;
    wrapper.frames(&walk.opening)?;
    if !walk.opening.is_empty() {
        let opened = wrapper.run(walk.ifindex, FLOWS)?;
        ensure!(opened.code == walk.action, "{}: opening a flow ended in {}", walk.name, opened.code);
    }
    wrapper.frames(&walk.established)?;
    empty.frames(&walk.established)?;
    let (drops, flows) = (rig.drops(), rig.flows().len());
    ensure!(flows >= walk.entries, "{}: {flows} flow entries, not {}", walk.name, walk.entries);
    let mut net = Vec::new();
    // The first reading fills caches and is thrown away.
    for reading in 0..=effort.readings {
        let with = wrapper.run(walk.ifindex, effort.repeats)?;
        let without = empty.run(walk.ifindex, effort.repeats)?;
        ensure!(with.code == walk.action, "{}: the last packet ended in {}", walk.name, with.code);
        if reading > 0 {
            net.push(f64::from(with.duration_ns) - f64::from(without.duration_ns));
        }
    }
    ensure!(rig.drops() == drops, "{}: packets were dropped: {:?}", walk.name, rig.drops());
    ensure!(rig.flows().len() == flows, "{}: the flow table changed while established packets ran", walk.name);
    Ok(Row::alone(format!("{}: {}", walk.hook.name(), walk.name), "ns", &net))
}

/// Sizes of all packet programs.
pub fn programs(rig: &mut Rig) -> Result<Vec<Program>> {
    let names = mesh_common::verdict::Hook::ALL.map(|hook| hook.name());
    let each = names.into_iter().map(|name| {
        rig.load(name);
        let info = rig.program(name).info().with_context(|| format!("asking the kernel about {name}"))?;
        let verified = info.verified_instruction_count().unwrap_or(0);
        Ok(Program { name, verified, jited: info.size_jitted() })
    });
    each.collect()
}
