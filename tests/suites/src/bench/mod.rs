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
use serde_json::{Value, json};

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

/// A walk's numbers, nanoseconds a packet.
#[derive(Clone, Debug)]
pub struct Measured {
    pub name: &'static str,
    pub hook: &'static str,
    /// Net of the wrapper: smallest, middle, largest reading.
    pub net: [i64; 3],
    /// The kernel's own duration, wrapper included: the middle reading.
    pub raw: i64,
    /// The wrapper before an empty program: the middle reading.
    pub wrapper: i64,
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
pub fn measure(rig: &mut Rig, walk: &Walk, effort: Effort) -> Result<Measured> {
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
    let (mut net, mut raw, mut floor) = (Vec::new(), Vec::new(), Vec::new());
    // The first reading fills caches and is thrown away.
    for _ in 0..=effort.readings {
        let with = wrapper.run(walk.ifindex, effort.repeats)?;
        let without = empty.run(walk.ifindex, effort.repeats)?;
        ensure!(with.code == walk.action, "{}: the last packet ended in {}", walk.name, with.code);
        raw.push(i64::from(with.duration_ns));
        floor.push(i64::from(without.duration_ns));
        net.push(i64::from(with.duration_ns) - i64::from(without.duration_ns));
    }
    ensure!(rig.drops() == drops, "{}: packets were dropped: {:?}", walk.name, rig.drops());
    ensure!(rig.flows().len() == flows, "{}: the flow table changed while established packets ran", walk.name);
    let sorted = |mut readings: Vec<i64>| {
        readings.remove(0);
        readings.sort_unstable();
        readings
    };
    let (net, raw, floor) = (sorted(net), sorted(raw), sorted(floor));
    let middle = net.len() / 2;
    Ok(Measured {
        name: walk.name,
        hook: walk.hook.name(),
        net: [net[0], net[middle], net[net.len() - 1]],
        raw: raw[middle],
        wrapper: floor[middle],
    })
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

/// The table for people.
pub fn table(measured: &[Measured], programs: &[Program]) -> String {
    let mut text = format!(
        "{:<14} {:<44} {:>6} {:>6} {:>6} {:>6} {:>8}\n",
        "HOOK", "ESTABLISHED PATH (ns a packet, net)", "MIN", "MEDIAN", "MAX", "RAW", "WRAPPER"
    );
    for m in measured {
        let [min, median, max] = m.net;
        text += &format!("{:<14} {:<44} {min:>6} {median:>6} {max:>6} {:>6} {:>8}\n", m.hook, m.name, m.raw, m.wrapper);
    }
    text += &format!("\n{:<14} {:>22} {:>22}\n", "PROGRAM", "VERIFIED INSTRUCTIONS", "BYTES OF MACHINE CODE");
    for p in programs {
        text += &format!("{:<14} {:>22} {:>22}\n", p.name, p.verified, p.jited);
    }
    text
}

/// The same for machines.
pub fn record(facts: Value, measured: &[Measured], programs: &[Program]) -> Value {
    let rows = measured.iter().map(|m| {
        let [min, median, max] = m.net;
        json!({"hook": m.hook, "walk": m.name, "net_ns": {"min": min, "median": median, "max": max},
               "raw_ns": m.raw, "wrapper_ns": m.wrapper})
    });
    let programs = programs.iter().map(|p| json!({"name": p.name, "verified": p.verified, "jited_bytes": p.jited}));
    json!({"facts": facts, "walks": rows.collect::<Vec<_>>(), "programs": programs.collect::<Vec<_>>()})
}
