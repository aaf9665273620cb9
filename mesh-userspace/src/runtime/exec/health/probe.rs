//! One run of a task's check: the command inside the task, as `mesh exec` runs one, and what it came to.
//!
//! The helper kills the command and what it started when its time is over, also where no agent lives any more. Must not: judge.

use std::time::{Duration, Instant};

use super::judge::Probe;
use crate::model::{ExecEvent, ExecRequest, HealthCheck, UnixMs};
use crate::runtime::exec::config::ExecConfig;
use crate::runtime::exec::process::ProcessRef;
use crate::runtime::exec::record::TaskDir;
use crate::runtime::exec::session;

/// As much output as Docker keeps of a probe.
const MOST_OUTPUT: usize = 4096;
/// As much of it as goes into the line for people.
const MOST_WORDS: usize = 200;
/// What the helper has to end after the command's time; then it is the one that hangs.
const HELPER_ENDS_WITHIN: Duration = Duration::from_secs(5);
/// Exit code of a command that was killed.
const KILLED: i32 = 128 + libc::SIGKILL;

/// Runs the check once; `check` has its defaults filled in.
pub async fn run(config: &ExecConfig, dir: &TaskDir, init: &ProcessRef, check: &HealthCheck, now: UnixMs) -> Probe {
    let failure = failure(config, dir, init, check).await;
    Probe { began_at: now, failure }
}

async fn failure(config: &ExecConfig, dir: &TaskDir, init: &ProcessRef, check: &HealthCheck) -> Option<String> {
    let request = ExecRequest {
        command: check.command.clone(),
        env: Vec::new(),
        user: None,
        workdir: None,
        interactive: false,
        tty: None,
    };
    let mut helper = config.helper("enter");
    helper.arg("--within-ms").arg(check.timeout_ms.to_string());
    let began = Instant::now();
    let timeout = Duration::from_millis(check.timeout_ms);
    let (_input, mut events) = match session::open(dir, init, helper, &request) {
        Ok(streams) => streams,
        Err(error) => return Some(format!("the check could not be run: {error}")),
    };
    let mut output = Vec::new();
    let ended = tokio::time::timeout(timeout + HELPER_ENDS_WITHIN, async {
        while let Some(event) = events.recv().await {
            match event {
                ExecEvent::Stdout(bytes) | ExecEvent::Stderr(bytes) => {
                    let room = MOST_OUTPUT.saturating_sub(output.len());
                    output.extend(bytes.iter().take(room));
                }
                ExecEvent::Exit(code) => return code,
            }
        }
        KILLED
    });
    match ended.await {
        Ok(0) => None,
        Ok(code) if code != KILLED || began.elapsed() < timeout => Some(told(&format!("exit {code}"), &output)),
        // Dropping the streams hangs up.
        Ok(_) | Err(_) => Some(told(&format!("timed out after {} ms", check.timeout_ms), &output)),
    }
}

/// `exit 1: connection refused`: what happened and the last line that was said.
fn told(what: &str, output: &[u8]) -> String {
    let output = String::from_utf8_lossy(output);
    let last = output.lines().rev().map(str::trim).find(|line| !line.is_empty());
    match last {
        Some(line) => {
            format!("{what}: {}", line.chars().filter(|c| !c.is_control()).take(MOST_WORDS).collect::<String>())
        }
        None => what.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_is_told_and_nothing_that_moves_a_terminal() {
        assert_eq!(told("exit 1", b""), "exit 1");
        assert_eq!(told("exit 1", b"trying\nrefused\r\n\n"), "exit 1: refused");
        assert_eq!(told("exit 7", b"\x1b[2Jgone\xff"), "exit 7: [2Jgone\u{fffd}");
        assert_eq!(told("exit 1", &[b'x'; 4096]).len(), "exit 1: ".len() + MOST_WORDS);
    }
}
