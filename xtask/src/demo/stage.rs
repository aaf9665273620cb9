//! What the chapters play on: a command typed on a host, shown with its output, and judged.
//!
//! Commands are lines for a shell in the host's network namespace, with `mesh` on the path: what is shown is what a user could
//! type there. Waiting is polling with a deadline; of a command that is polled the last output is shown.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_lab::{Footprint, Lab, Output, eventually, run_command};
use serde_json::Value;

use crate::lab;
use crate::workspace::Workspace;

/// Above any command of the tutorial on a loaded machine.
const COMMAND: Duration = Duration::from_secs(60);
/// For what should be there at once, on a loaded machine.
pub const SOON: Duration = Duration::from_secs(10);

pub struct Stage<'a> {
    pub lab: &'a Lab,
    /// What was in the kernel of each node before its agent first started.
    pub untouched: Vec<Footprint>,
    /// The test server's binary.
    pub whoami: PathBuf,
    mesh: PathBuf,
}

/// A task as `service ps` tells it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Task {
    pub id: String,
    pub name: String,
    pub node: String,
}

impl<'a> Stage<'a> {
    pub fn new(workspace: &Workspace, lab: &'a Lab, untouched: Vec<Footprint>) -> Self {
        Self { lab, untouched, whoami: lab.whoami(), mesh: workspace.binary("mesh") }
    }

    /// A word to the one who watches.
    pub fn say(&self, text: &str) {
        println!("\n   {text}");
    }

    /// Shows a command and its output; it must succeed. Returns what it printed.
    pub fn done(&self, at: &str, line: &str) -> Result<String> {
        prompt(at, line);
        let output = self.run(at, line)?;
        print(&output);
        ensure!(output.success(), "on {at}, `{line}` ended with {}: {}", output.status, output.stderr.trim());
        Ok(output.stdout)
    }

    /// Shows a command and its output; it must be refused, with words. Returns the words.
    pub fn refused(&self, at: &str, line: &str) -> Result<String> {
        prompt(at, line);
        let output = self.run(at, line)?;
        print(&output);
        ensure!(!output.success(), "on {at}, `{line}` should have been refused");
        ensure!(!output.stderr.trim().is_empty(), "on {at}, `{line}` was refused without a word");
        Ok(output.stderr)
    }

    /// Runs a command until `check` is content with its output, then shows it. Returns what `check` made of it.
    pub fn until<T>(&self, at: &str, line: &str, within: Duration, check: impl Fn(&Output) -> Result<T>) -> Result<T> {
        prompt(at, line);
        let mut last = None;
        let started = Instant::now();
        let result = eventually(within, &format!("`{line}` on {at} to be as it should"), || {
            let output = self.run(at, line)?;
            let checked = check(&output);
            last = Some(output);
            checked
        });
        last.iter().for_each(print);
        let waited = started.elapsed();
        if waited > Duration::from_secs(1) && result.is_ok() {
            println!("   (after {:.1} s)", waited.as_secs_f32());
        }
        result
    }

    /// Runs a command without showing it.
    pub fn run(&self, at: &str, line: &str) -> Result<Output> {
        let host = lab::find(self.lab, at).with_context(|| format!("the lab has no host {at}"))?;
        let mut shell = lab::command_on(self.lab, host, "bash", &self.mesh)?;
        shell.args(["-c", line]);
        run_command(shell, "", COMMAND)
    }

    /// What a `mesh … --format json` or `inspect` says, unshown.
    pub fn json(&self, at: &str, line: &str) -> Result<Value> {
        let text = self.run(at, line)?.ok()?;
        serde_json::from_str(&text).with_context(|| format!("`{line}` prints no JSON: {text}"))
    }

    /// The tasks of a service that run and shall run.
    pub fn running(&self, at: &str, service: &str) -> Result<Vec<Task>> {
        let line = format!("mesh service ps {service} --no-trunc --format json");
        let rows = self.json(at, &line)?;
        let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
        let mut tasks: Vec<Task> = rows
            .as_array()
            .context("a listing is an array")?
            .iter()
            .filter(|row| text(row, "DesiredState") == "Running" && text(row, "CurrentState").starts_with("Running"))
            .map(|row| Task { id: text(row, "ID"), name: text(row, "Name"), node: text(row, "Node") })
            .collect();
        tasks.sort();
        Ok(tasks)
    }

    /// The first virtual address of a service, without its prefix length.
    pub fn vip(&self, at: &str, service: &str) -> Result<String> {
        let detail = self.json(at, &format!("mesh service inspect {service}"))?;
        let vip = detail.pointer("/0/Endpoint/VirtualIPs/0/Addr").and_then(Value::as_str);
        let vip = vip.with_context(|| format!("{service} has no virtual address: {detail}"))?;
        Ok(vip.split('/').next().unwrap_or(vip).to_owned())
    }

    pub fn address(&self, host: &str) -> Result<String> {
        let host = lab::find(self.lab, host).with_context(|| format!("the lab has no host {host}"))?;
        Ok(host.address().to_string())
    }
}

fn prompt(at: &str, line: &str) {
    println!("\n{at}$ {line}");
}

fn print(output: &Output) {
    for text in [&output.stdout, &output.stderr] {
        text.trim_end().lines().for_each(|line| println!("  {line}"));
    }
    if !output.success() {
        println!("  [exit {}]", output.status);
    }
}

/// An answer of the test server: the task's host name, and the caller that it saw.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub task: String,
    pub caller: String,
}

/// All answers of the test server in a text. Lines of other kinds are passed over.
pub fn answers(text: &str) -> Vec<Answer> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let pairs = lines.windows(2).filter_map(|pair| {
        let (task, caller) = (pair[0].strip_prefix("I'm ")?, pair[1].strip_prefix("from ")?);
        Some(Answer { task: task.to_owned(), caller: caller.to_owned() })
    });
    pairs.collect()
}

/// The tasks that answered, in order.
pub fn tasks(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| line.trim().strip_prefix("I'm ").map(str::to_owned)).collect()
}

/// So many tasks, taking turns strictly.
pub fn take_turns(tasks: &[String], count: usize) -> Result<()> {
    let mut first: Vec<&String> = tasks.iter().take(count).collect();
    first.sort();
    first.dedup();
    if first.len() != count || !tasks.iter().zip(tasks.iter().skip(count)).all(|(one, next)| one == next) {
        bail!("{count} tasks don't take turns: {}", tasks.join(" "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_from_among_other_lines() {
        let text = "I'm 0123456789ab\nfrom 192.168.77.11:40000\nlocal 192.168.77.11:40000\nI'm x\n";
        let answer = Answer { task: "0123456789ab".into(), caller: "192.168.77.11:40000".into() };
        assert_eq!(answers(text), [answer]);
        assert_eq!(tasks(text), ["0123456789ab", "x"]);
    }

    #[test]
    fn taking_turns_is_strict() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        assert!(take_turns(&words("a b a b a b"), 2).is_ok());
        assert!(take_turns(&words("a b b a a b"), 2).is_err());
        assert!(take_turns(&words("a a a a"), 2).is_err());
        assert!(take_turns(&words("a"), 2).is_err());
    }
}
