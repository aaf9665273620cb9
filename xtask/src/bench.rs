//! `cargo xtask bench`: nanoseconds a packet of each packet hook on its established path; a table, and JSON under target/bench.
//!
//! The measuring is mesh-bench's (tests/suites); this verb builds it and the programs, and runs it as root. How it measures stands
//! in tests/suites/src/bench/mod.rs. Numbers of a machine that does other work meanwhile are worth little; it says how busy it was.

use anyhow::{Context, Result};

use crate::setup::Consent;
use crate::workspace::Workspace;
use crate::{build, process};

#[derive(clap::Args)]
pub struct Options {
    /// Packets a reading
    #[arg(long, default_value_t = 300_000)]
    repeats: u32,
    /// Readings a walk
    #[arg(long, default_value_t = 9)]
    readings: u32,
}

pub fn run(workspace: &Workspace, options: &Options, consent: Consent) -> Result<()> {
    build::everything(workspace, consent)?;
    let load = std::fs::read_to_string("/proc/loadavg").context("reading /proc/loadavg")?;
    println!("load before: {}", load.trim());
    let mut command = process::as_root(&workspace.binary("mesh-bench").to_string_lossy())?;
    command
        .args(["--repeats", &options.repeats.to_string(), "--readings", &options.readings.to_string(), "--out"])
        .arg(workspace.target.join("bench"));
    process::run(&mut command)
}
