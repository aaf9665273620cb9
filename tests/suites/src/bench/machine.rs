//! Where, when and of what something was measured: numbers of another machine are no match, those of a busy one worth little.

use std::process::Command;

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// Running tasks, on average over the last minute, from which numbers are doubtful.
const BUSY: f64 = 0.5;

/// The facts of a run, taken before it begins.
#[derive(Clone, Debug)]
pub struct Machine {
    pub kernel: String,
    pub cpu: String,
    pub cpus: usize,
    /// Of the clone that this was built from.
    pub commit: String,
    /// Ours as users get it, and not the debug build, whose times say nothing of our user space.
    pub is_release: bool,
    /// RFC 3339, UTC.
    pub when: String,
    /// Load average of the last minute.
    pub load: f64,
}

impl Machine {
    pub fn here() -> Result<Machine> {
        let read = |path: &str| std::fs::read_to_string(path).with_context(|| format!("reading {path}"));
        let cpus = read("/proc/cpuinfo")?;
        let load = read("/proc/loadavg")?;
        Ok(Machine {
            kernel: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            cpu: field(&cpus, "model name").unwrap_or("unknown").to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            commit: commit(),
            is_release: !cfg!(debug_assertions),
            when: jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            load: load.split(' ').next().and_then(|word| word.parse().ok()).context("/proc/loadavg has no number")?,
        })
    }

    /// Something else ran when we began.
    pub fn is_busy(&self) -> bool {
        self.load > BUSY
    }

    pub fn json(&self) -> Value {
        json!({"kernel": self.kernel, "cpu": self.cpu, "cpus": self.cpus, "commit": self.commit, "release": self.is_release, "when": self.when,
               "load": self.load, "busy": self.is_busy()})
    }

    /// For the head of tables and plots.
    pub fn line(&self) -> String {
        let busy = if self.is_busy() {
            " (BUSY: only ratios mean something, and those less than on a quiet machine)"
        } else {
            ""
        };
        let build = if self.is_release { "" } else { " (DEBUG BUILD)" };
        format!(
            "{}, kernel {}, {} × {}, commit {}{build}, load {}{busy}",
            self.when, self.kernel, self.cpus, self.cpu, self.commit, self.load
        )
    }
}

fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| Some(line.strip_prefix(name)?.split_once(": ")?.1.trim()))
}

fn commit() -> String {
    let git = |words: &[&str]| {
        let output = Command::new("git").arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(words).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let commit = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    let changed = git(&["status", "--porcelain"]).is_some_and(|status| !status.is_empty());
    if changed { format!("{commit} with changes") } else { commit }
}

/// One CPU, the last: the first takes most interrupts. And before others there, as far as we may.
pub fn stay_on_last_cpu() -> Result<()> {
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let mut set = CpuSet::new();
    set.set(count - 1)?;
    sched_setaffinity(Pid::from_raw(0), &set).context("staying on one CPU")?;
    // SAFETY: setpriority takes three numbers. Where it is refused we measure all the same, only less quietly.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -20) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_cpuinfo_is_read() {
        let text = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu\nprocessor\t: 1\nmodel name\t: Other\n";
        assert_eq!(field(text, "model name"), Some("AMD EPYC"));
        assert_eq!(field(text, "bogomips"), None);
    }

    #[test]
    fn this_machine_has_all_its_facts() {
        let machine = Machine::here().unwrap();
        assert!(!machine.kernel.is_empty() && machine.cpus > 0 && machine.when.ends_with('Z'), "{machine:?}");
        assert!(machine.line().contains(&machine.kernel));
    }
}
