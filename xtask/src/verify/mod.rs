//! `cargo xtask verify`: what the verifiers of our kernels say of the packet programs, and the core walks on the oldest kernel.
//!
//! Every program is loaded on this machine's kernel and, in a machine under QEMU without KVM, on Debian 12's stock kernel; there packets, two nodes with filters
//! of clsact and tunnels in a VLAN are played, too. What was counted is compared with
//! docs/reference/verifier.md. Invariant: a program that some kernel refuses, or that goes beyond its budget, fails the verb.

mod guest;
mod image;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::setup::{self, Consent};
use crate::workspace::Workspace;
use crate::{build, process};
use table::{Count, Counts, Table, budget};

/// The page.
const PAGE: &str = "docs/reference/verifier.md";

#[derive(clap::Args)]
pub struct Options {
    /// Write what was counted into docs/reference/verifier.md
    #[arg(long)]
    record: bool,
    /// Only count: no walks in the machine
    #[arg(long)]
    counts_only: bool,
}

pub fn run(workspace: &Workspace, options: &Options, consent: Consent) -> Result<()> {
    let kernel = setup::guest::ensure(workspace, consent)?;
    build::everything(workspace, consent)?;
    let mut kernels = BTreeMap::new();
    let (release, counts) = here(workspace)?;
    kernels.insert(table::series(&release)?, counts);
    let said = guest::run(workspace, &kernel, !options.counts_only)?;
    kernels.insert(table::series(&said.release)?, said.counts);
    let counted = Table { kernels };

    let page = workspace.root.join(PAGE);
    let recorded = Table::parse(&std::fs::read_to_string(&page).unwrap_or_default());
    print!("\n{}", counted.markdown());
    for jump in counted.jumps(&recorded) {
        println!("changed much: {jump}; if it is meant to be so, `cargo xtask verify --record` writes it down");
    }
    for (walk, _) in said.walks.iter().filter(|(_, is_well)| *is_well) {
        println!("{walk}: as it should be on Linux {}", said.release);
    }
    let mut wrong = judge(&counted);
    let failed = said.walks.iter().filter(|(_, is_well)| !is_well);
    wrong.extend(failed.map(|(walk, _)| format!("{walk} failed on Linux {}: what it said stands above", said.release)));
    wrong.extend(said.not_run.iter().map(|what| format!("not run on Linux {}, where it must: {what}", said.release)));
    if !wrong.is_empty() {
        bail!("the packet programs are not right for every kernel:\n  {}", wrong.join("\n  "));
    }
    if options.record {
        std::fs::write(&page, recorded.with(&counted).page()).with_context(|| format!("writing {}", page.display()))?;
        println!("written to {PAGE}");
    }
    Ok(())
}

/// What this machine's kernel says: its release, and the counts.
fn here(workspace: &Workspace) -> Result<(String, Counts)> {
    let mut command = process::as_root(&workspace.binary("mesh-verifier").to_string_lossy())?;
    let said = process::read(command.arg(workspace.object("mesh-ebpf")))?;
    let release = process::read(Command::new("uname").arg("-r"))?;
    Ok((release.trim().to_owned(), said.lines().map(counted).collect::<Result<_>>()?))
}

/// A line of mesh-verifier's.
fn counted(line: &str) -> Result<(String, Result<Count, String>)> {
    let value: Value = serde_json::from_str(line).with_context(|| format!("reading `{line}`"))?;
    let program = value["program"].as_str().with_context(|| format!("`{line}` names no program"))?;
    let count = match (value["refused"].as_str(), value["walked"].as_u64(), value["machine_bytes"].as_u64()) {
        (Some(reason), ..) => Err(reason.to_owned()),
        (None, Some(walked), Some(machine_bytes)) => Ok(Count { walked, machine_bytes }),
        _ => bail!("`{line}` has neither counts nor a refusal"),
    };
    Ok((program.to_owned(), count))
}

/// What can't stay as it is.
fn judge(counted: &Table) -> Vec<String> {
    let mut wrong = Vec::new();
    let all: BTreeSet<&String> = counted.kernels.values().flat_map(BTreeMap::keys).collect();
    for (kernel, counts) in &counted.kernels {
        let missing = all.iter().filter(|program| !counts.contains_key(**program));
        wrong.extend(missing.map(|program| {
            format!("{program} was not counted on Linux {kernel}: what mesh-verifier said there stands above")
        }));
        for (program, count) in counts {
            match count {
                Err(reason) => wrong.push(format!("{program} is refused by Linux {kernel}: {reason}")),
                Ok(count) if count.walked > budget(program) => wrong.push(format!(
                    "{program} costs Linux {kernel} {} instructions, more than its {}: keep rare things in real calls \
                     (docs/decisions/0006-real-calls.md)",
                    count.walked,
                    budget(program)
                )),
                Ok(_) => {}
            }
        }
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_and_a_program_over_its_budget_are_named() {
        let most = budget("from_task");
        let lines = [
            format!(r#"{{"program":"from_task","walked":{most},"machine_bytes":9}}"#),
            format!(r#"{{"program":"sweep","walked":{most},"machine_bytes":9}}"#),
            r#"{"program":"from_uplink","refused":"stack size of 4 calls is 544"}"#.to_string(),
        ];
        let counts = lines.iter().map(|line| counted(line).unwrap()).collect();
        let wrong = judge(&Table { kernels: [("6.1".into(), counts)].into() });
        assert!(wrong.len() == 2 && wrong[0].contains("544") && wrong[1].contains("sweep"), "{wrong:?}");
        assert!(counted(r#"{"program":"x"}"#).is_err() && counted("{}").is_err());
    }

    #[test]
    fn a_program_that_one_kernel_says_nothing_of_is_missed() {
        let count = || Ok(Count { walked: 9, machine_bytes: 9 });
        let both = [("from_task".to_owned(), count()), ("sweep".to_owned(), count())];
        let one = [("sweep".to_owned(), count())];
        let wrong = judge(&Table { kernels: [("6.1".into(), one.into()), ("6.18".into(), both.into())].into() });
        assert!(wrong.len() == 1 && wrong[0].contains("from_task was not counted on Linux 6.1"), "{wrong:?}");
    }
}
