//! `cargo xtask bench [micro|e2e|scale|all]`: what things cost, beside what they are compared with; a table, JSON and a plot.
//!
//! The measuring is mesh-bench's (tests/suites/src/bench); this verb makes a release build of it, of the agent and of the lab's servers, and runs
//! it as root: it starts the agent that lies beside it. Files go to target/bench. How to read them stands in docs/performance.md.

use anyhow::Result;

use crate::setup::{self, Consent};
use crate::workspace::{Profile, Workspace};
use crate::{build, process};

#[derive(clap::Args)]
pub struct Options {
    /// What to measure
    #[arg(value_enum, default_value = "all")]
    part: Part,
    /// Fewer and shorter readings: does it work, not how fast is it
    #[arg(long)]
    quick: bool,
    /// Also what takes ten minutes and more
    #[arg(long)]
    long: bool,
    /// Only rows whose name contains this
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Part {
    /// Nanoseconds a packet, of every hook and walk
    Micro,
    /// What programs get in the lab, beside other ways of the same machine (wrk, iperf3)
    E2e,
    /// Thousands of services, a million flows
    Scale,
    All,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Part::Micro => "micro",
            Part::E2e => "e2e",
            Part::Scale => "scale",
            Part::All => "all",
        }
    }
}

pub fn run(workspace: &Workspace, options: &Options, consent: Consent) -> Result<()> {
    if matches!(options.part, Part::E2e | Part::All) {
        setup::rivals::ensure(consent)?;
    }
    build::released(workspace, consent)?;
    let mut command = process::as_root(&workspace.built(Profile::Release, "mesh-bench").to_string_lossy())?;
    command.arg(options.part.name()).arg("--out").arg(workspace.target.join("bench"));
    if options.quick {
        command.arg("--quick");
    }
    if options.long {
        command.arg("--long");
    }
    if let Some(only) = &options.only {
        command.args(["--only", only]);
    }
    process::run(&mut command)
}
