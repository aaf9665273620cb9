//! `cargo xtask test`: sets up, builds, and runs the tests, tier by tier.
//!
//! | tier | what | when |
//! |---|---|---|
//! | xtask | the rules of `tidy`, the counting of this verb | always |
//! | unit | unit tests, properties and documentation of every other crate | always |
//! | scripts | `script_*.rs`: manifest in, text of the maps out | always |
//! | packets | `packet_*.rs`: packet in, packet out, on the loaded programs | always |
//! | smoke | `lab_smoke.rs`: one small lab | always |
//! | lab, scenarios | `lab_*.rs`, `scenario_*.rs`, one test at a time | `--all` |
//!
//! Names of files in tests/suites/tests decide the tier, so a new suite needs no list. A file of any other name is an error: it
//! would never run. Debug profile throughout: `demo` and `lab` use the same binaries, so nothing is built twice.
//! Every tier runs even where an earlier one failed; each ends with its count, and one failure fails the verb.

use std::collections::BTreeSet;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::setup::Consent;
use crate::workspace::{Workspace, in_ci};
use crate::{build, package, process};

const SUITES: &str = "tests/suites/tests";
const SUITES_PACKAGE: &str = "mesh-tests";
const SMOKE: &str = "lab_smoke";

#[derive(clap::Args)]
pub struct Options {
    /// Every tier: also the lab and the scenarios
    #[arg(long)]
    all: bool,
    /// Only tests whose name contains this
    filter: Option<String>,
}

/// One tier: what cargo is told to test.
struct Tier {
    name: &'static str,
    cargo: Vec<String>,
    /// Labs share a machine: their times are only true when nothing else runs.
    one_at_a_time: bool,
}

/// What the test binaries of a tier counted.
#[derive(Default, Debug, PartialEq, Eq)]
struct Count {
    passed: u32,
    failed: u32,
    ignored: u32,
}

pub fn run(workspace: &Workspace, options: &Options, consent: Consent) -> Result<()> {
    let suites = suites(workspace)?;
    build::everything(workspace, consent)?;
    if options.all {
        package::for_tests(workspace)?;
    }
    let mut failed = Vec::new();
    let mut lines = Vec::new();
    for tier in tiers(&suites, options.all) {
        let started = Instant::now();
        let (count, succeeded) = run_tier(workspace, &tier, options.filter.as_deref())?;
        let line = count.line(tier.name, started.elapsed().as_secs());
        println!("\n{line}\n");
        lines.push(line);
        if !succeeded || count.failed > 0 {
            failed.push(tier.name);
        }
    }
    println!("{}", lines.join("\n"));
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}

impl Count {
    /// Reads libtest's closing lines: `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". ")) else {
            return;
        };
        for part in counts.split("; ") {
            let Some((number, what)) = part.trim().split_once(' ') else { continue };
            let Ok(number) = number.parse::<u32>() else { continue };
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }

    fn line(&self, tier: &str, seconds: u64) -> String {
        let ignored = if self.ignored > 0 { format!(", {} ignored", self.ignored) } else { String::new() };
        format!("{tier}: {} passed, {} failed{ignored} ({seconds} s)", self.passed, self.failed)
    }
}

/// The suites by name. A name that belongs to no tier is refused.
fn suites(workspace: &Workspace) -> Result<BTreeSet<String>> {
    let folder = workspace.root.join(SUITES);
    let mut names = BTreeSet::new();
    let Ok(entries) = std::fs::read_dir(&folder) else { return Ok(names) };
    for entry in entries {
        let path = entry.with_context(|| format!("listing {SUITES}"))?.path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(path.file_stem().map(|stem| stem.to_string_lossy().into_owned()));
        }
    }
    let known = ["script_", "packet_", "lab_", "scenario_"];
    if let Some(stray) = names.iter().find(|name| !known.iter().any(|prefix| name.starts_with(prefix))) {
        bail!("{SUITES}/{stray}.rs would never run: a suite is named script_*, packet_*, lab_* or scenario_*");
    }
    Ok(names)
}

fn tiers(suites: &BTreeSet<String>, all: bool) -> Vec<Tier> {
    let named = |flag: &str, name: &str| [flag.to_owned(), name.to_owned()];
    let packages: Vec<String> = build::PACKAGES.iter().flat_map(|package| named("--package", package)).collect();
    let libraries = build::PACKAGES.iter().filter(|package| **package != SUITES_PACKAGE);
    let unit = libraries.flat_map(|package| named("--package", package)).collect();
    let tool = named("--package", "xtask").to_vec();
    let mut tiers = vec![
        Tier { name: "xtask", cargo: tool, one_at_a_time: false },
        Tier { name: "unit", cargo: unit, one_at_a_time: false },
    ];
    let mut add = |name, one_at_a_time, wanted: &dyn Fn(&str) -> bool| {
        let chosen: Vec<String> =
            suites.iter().filter(|suite| wanted(suite)).flat_map(|suite| named("--test", suite)).collect();
        if !chosen.is_empty() {
            tiers.push(Tier { name, cargo: [packages.clone(), chosen].concat(), one_at_a_time });
        }
    };
    add("scripts", false, &|suite| suite.starts_with("script_"));
    add("packets", false, &|suite| suite.starts_with("packet_"));
    add("smoke", true, &|suite| suite == SMOKE);
    if all {
        add("lab", true, &|suite| suite.starts_with("lab_") && suite != SMOKE);
        add("scenarios", true, &|suite| suite.starts_with("scenario_"));
    }
    tiers
}

fn run_tier(workspace: &Workspace, tier: &Tier, filter: Option<&str>) -> Result<(Count, bool)> {
    let mut command = build::cargo_as_root_runner(workspace)?;
    if in_ci() {
        // There, a test that can't run must fail rather than say so.
        command.env("MESH_MUST_RUN", "1");
    }
    command.arg("test").arg("--no-fail-fast").args(&tier.cargo).arg("--").args(filter);
    if tier.one_at_a_time {
        command.arg("--test-threads=1");
    }
    let mut count = Count::default();
    let status = process::follow(&mut command, |line| count.add(line))?;
    Ok((count, status.success()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_of_all_binaries_are_added() {
        let mut count = Count::default();
        count.add("test result: ok. 30 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.10s");
        count.add("test result: FAILED. 2 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s");
        count.add("running 5 tests");
        assert_eq!(count, Count { passed: 32, failed: 3, ignored: 1 });
        assert_eq!(count.line("unit", 7), "unit: 32 passed, 3 failed, 1 ignored (7 s)");
    }

    #[test]
    fn names_of_suites_decide_the_tier() {
        let suites = ["script_a", "packet_b", "lab_smoke", "lab_c", "scenario_d"].map(str::to_owned).into();
        let names = |all| tiers(&suites, all).iter().map(|tier| tier.name).collect::<Vec<_>>();
        assert_eq!(names(false), ["xtask", "unit", "scripts", "packets", "smoke"]);
        assert_eq!(names(true), ["xtask", "unit", "scripts", "packets", "smoke", "lab", "scenarios"]);
        let lab = tiers(&suites, true).into_iter().find(|tier| tier.name == "lab").unwrap();
        assert!(lab.one_at_a_time && lab.cargo.contains(&"lab_c".to_owned()) && !lab.cargo.contains(&SMOKE.to_owned()));
    }

    #[test]
    fn a_tier_without_suites_is_left_out() {
        assert_eq!(tiers(&BTreeSet::new(), true).len(), 2);
    }
}
