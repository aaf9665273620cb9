//! Starting other programs: what is run is shown, how it ended is checked.
//!
//! Every verb goes through here, so the user sees each command that changes something as a line they could type.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Shows and runs a command; an end other than success is an error that repeats the command.
pub fn run(command: &mut Command) -> Result<()> {
    let line = show(command);
    eprintln!("$ {line}");
    let status = command.status().with_context(|| format!("starting `{line}`"))?;
    if !status.success() {
        bail!("`{line}` failed ({})", ending(status));
    }
    Ok(())
}

/// Runs a command silently and returns what it printed; its stderr goes into the error.
pub fn read(command: &mut Command) -> Result<String> {
    let line = show(command);
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting `{line}`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{line}` failed ({}): {}", ending(output.status), said.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{line}` printed bytes that are not UTF-8"))
}

/// Shows and runs a command that may fail or hang: true where it succeeded within `limit`; it is killed at the limit.
pub fn succeeds_within(command: &mut Command, limit: Duration) -> bool {
    eprintln!("$ {}   (at most {} s)", show(command), limit.as_secs());
    let Ok(mut child) = command.stdin(Stdio::null()).spawn() else { return false };
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(50)),
            Ok(None) | Err(_) => {
                // The child may have ended in between: then there is nothing left to end.
                let _ = child.kill();
                let _ = child.wait();
                return false;
            }
        }
    }
}

/// Shows and runs a command, passing its stdout through line by line while `each` sees every line too.
pub fn follow(command: &mut Command, mut each: impl FnMut(&str)) -> Result<ExitStatus> {
    let line = show(command);
    eprintln!("$ {line}");
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("starting `{line}`"))?;
    let stdout = child.stdout.take().context("the child's stdout was asked for as a pipe")?;
    for text in BufReader::new(stdout).split(b'\n') {
        let text = String::from_utf8_lossy(&text.with_context(|| format!("reading from `{line}`"))?).into_owned();
        println!("{text}");
        each(&text);
    }
    child.wait().with_context(|| format!("waiting for `{line}`"))
}

/// The command as a user would type it: the variables it sets, then its words.
pub fn show(command: &Command) -> String {
    let variables = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={}", name.to_string_lossy(), quote(&value?.to_string_lossy()))));
    let words =
        std::iter::once(command.get_program()).chain(command.get_args()).map(|word| quote(&word.to_string_lossy()));
    variables.chain(words).collect::<Vec<_>>().join(" ")
}

fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,@+%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

fn ending(status: ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| format!("exit {code}"))
}

/// Finds a program on the path, and where administrators' programs live, which a plain user's path often lacks.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// Whether we run as root.
pub fn is_root() -> bool {
    // SAFETY: geteuid reads the caller's credentials, takes no pointer and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// A command with root's rights: itself where we are root, through sudo where there is one.
pub fn as_root(program: &str) -> Result<Command> {
    if is_root() {
        return Ok(Command::new(program));
    }
    if find("sudo").is_none() {
        bail!("`{program}` needs root and there is no sudo here");
    }
    let mut command = Command::new("sudo");
    command.arg(program);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_it_would_be_typed() {
        let mut command = Command::new("cargo");
        command.env("RUSTFLAGS", "-C linker=x").arg("build").arg("it's");
        assert_eq!(show(&command), r"RUSTFLAGS='-C linker=x' cargo build 'it'\''s'");
    }

    #[test]
    fn a_command_that_hangs_is_ended_at_its_limit() {
        let started = Instant::now();
        assert!(!succeeds_within(Command::new("sleep").arg("30"), Duration::from_millis(100)));
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_failed_command_names_itself_and_what_it_said() {
        let error = read(Command::new("sh").args(["-c", "echo no such luck >&2; exit 3"])).unwrap_err().to_string();
        assert!(error.contains("exit 3") && error.contains("no such luck"), "{error}");
    }
}
