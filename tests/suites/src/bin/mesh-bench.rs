//! `mesh-bench [--repeats N] [--readings N] [--out FOLDER]`: the table of mesh_tests::bench, for `cargo xtask bench`.

use std::path::PathBuf;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use mesh_common::schema::MAX_FLOWS;
use mesh_tests::bench::{Effort, FLOWS, measure, programs, record, table, walks};
use mesh_tests::rig::Rig;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};

struct Options {
    effort: Effort,
    out: Option<PathBuf>,
}

fn options() -> Result<Options> {
    let mut options = Options { effort: Effort { repeats: 300_000, readings: 9 }, out: None };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} wants a value"))?;
        match word.as_str() {
            "--repeats" => options.effort.repeats = value.parse().context("--repeats wants a number")?,
            "--readings" => options.effort.readings = value.parse().context("--readings wants a number")?,
            "--out" => options.out = Some(PathBuf::from(value)),
            _ => bail!("unknown option {word}: there are --repeats, --readings and --out"),
        }
    }
    ensure!(
        options.effort.repeats > 0 && options.effort.readings > 0,
        "nothing is measured without repeats and readings"
    );
    Ok(options)
}

fn main() -> Result<()> {
    let options = options()?;
    let facts = facts(options.effort)?;
    stay_on_last_cpu()?;
    println!(
        "{} flows, 64-byte frames, {} packets a reading, {} readings; kernel {}, {}, commit {}\n",
        FLOWS,
        options.effort.repeats,
        options.effort.readings,
        text(&facts, "kernel"),
        text(&facts, "cpu"),
        text(&facts, "commit"),
    );
    let mut measured = Vec::new();
    let mut sizes = Vec::new();
    for make in walks() {
        let mut rig = Rig::with_flow_table(MAX_FLOWS as u32).context("measuring needs root")?;
        let walk = make(&mut rig);
        measured.push(measure(&mut rig, &walk, options.effort)?);
        if sizes.is_empty() {
            sizes = programs(&mut rig)?;
        }
    }
    println!("{}", table(&measured, &sizes));
    if let Some(folder) = options.out {
        std::fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let path = folder.join(format!("hooks-{seconds}.json"));
        let text = serde_json::to_string_pretty(&record(facts, &measured, &sizes))?;
        std::fs::write(&path, text + "\n").with_context(|| format!("writing {}", path.display()))?;
        println!("{}", path.display());
    }
    Ok(())
}

fn text<'a>(facts: &'a Value, key: &str) -> &'a str {
    facts[key].as_str().unwrap_or("unknown")
}

/// Where and of what this is measured: numbers of other machines are no match.
fn facts(effort: Effort) -> Result<Value> {
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").context("reading the kernel's release")?;
    let cpus = std::fs::read_to_string("/proc/cpuinfo").context("reading /proc/cpuinfo")?;
    let cpu = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1)).unwrap_or("unknown");
    let git = |words: &[&str]| {
        let output = Command::new("git").arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(words).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    let changed = git(&["status", "--porcelain"]).is_some_and(|status| !status.is_empty());
    let commit = if changed { format!("{commit} with changes") } else { commit };
    Ok(json!({"kernel": kernel.trim(), "cpu": cpu, "commit": commit, "flows": FLOWS, "frame_bytes": 64,
              "repeats": effort.repeats, "readings": effort.readings}))
}

/// One CPU, the last: the first takes most interrupts.
fn stay_on_last_cpu() -> Result<()> {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let mut set = CpuSet::new();
    set.set(count - 1)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("staying on one CPU")
}
