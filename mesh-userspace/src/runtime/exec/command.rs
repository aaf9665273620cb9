//! From a specification to a running program: environment, search path, and the last steps of a child before execve.
//!
//! Shared by a task's command and by `mesh exec`, so that both see the same world. Runs in processes that have one
//! thread, where everything may be called after a fork.
//! Must not: know of tasks on disk or of the supervisor.

use std::ffi::{CString, NulError};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::unistd::execve;

use super::identity::Identity;
use super::privileges;

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A command ready to be run.
#[derive(Clone, Debug)]
pub struct Command {
    pub arguments: Vec<String>,
    /// `KEY=value`.
    pub env: Vec<String>,
    pub identity: Identity,
    pub workdir: String,
}

/// Why it does not run, with the exit code a shell gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotRun {
    pub code: i32,
    pub reason: String,
}

/// Environment of a command: Docker's defaults, then each layer over the one before.
pub fn environment(hostname: &str, home: &str, terminal: bool, layers: &[&[String]]) -> Vec<String> {
    let mut env = vec![format!("PATH={DEFAULT_PATH}"), format!("HOSTNAME={hostname}"), format!("HOME={home}")];
    if terminal {
        env.push("TERM=xterm".to_owned());
    }
    for entry in layers.iter().copied().flatten() {
        let Some((key, _)) = entry.split_once('=') else { continue };
        match env.iter_mut().find(|known| known.split_once('=').is_some_and(|(name, _)| name == key)) {
            Some(known) => known.clone_from(entry),
            None => env.push(entry.clone()),
        }
    }
    env
}

impl Command {
    /// Becomes the command; returns only if that fails. The caller has arranged descriptors 0, 1 and 2.
    pub fn run(&self) -> NotRun {
        match self.become_it() {
            Ok(never) => match never {},
            Err(not_run) => not_run,
        }
    }

    fn become_it(&self) -> Result<std::convert::Infallible, NotRun> {
        let cannot = |attempt: &str, error: io::Error| NotRun { code: 126, reason: format!("{attempt}: {error}") };
        let with_nul = |_: NulError| NotRun { code: 126, reason: "exec: a zero byte in command or environment".into() };
        let c_strings =
            |texts: &[String]| texts.iter().map(|text| CString::new(text.as_str())).collect::<Result<Vec<_>, _>>();
        let arguments = c_strings(&self.arguments).map_err(with_nul)?;
        let env = c_strings(&self.env).map_err(with_nul)?;

        reset_signals().map_err(|error| cannot("resetting signals", error))?;
        close_all_but_stdio().map_err(|error| cannot("closing descriptors", error))?;
        privileges::become_user(&self.identity).map_err(|error| cannot("changing to the user", error))?;
        // Changing the user made the kernel forget it.
        privileges::die_with_parent().map_err(|error| cannot("tying the command to its parent", error))?;
        // As the user: a directory the user may not enter is not a way in.
        std::env::set_current_dir(&self.workdir)
            .map_err(|error| NotRun { code: 126, reason: format!("working directory {}: {error}", self.workdir) })?;
        Err(self.try_candidates(&arguments, &env))
    }

    /// execvpe(3) by the command's own PATH, with an error that says what was looked for.
    fn try_candidates(&self, arguments: &[CString], env: &[CString]) -> NotRun {
        let Some(program) = self.arguments.first().filter(|program| !program.is_empty()) else {
            return NotRun { code: 127, reason: "exec: no command given".into() };
        };
        let mut seen = Errno::ENOENT;
        let mut last = PathBuf::from(program);
        for candidate in candidates(program, &self.env) {
            let Ok(path) = CString::new(candidate.as_os_str().as_bytes()) else { continue };
            // On success the call does not return.
            let Err(error) = execve(&path, arguments, env);
            if error != Errno::ENOENT && error != Errno::ENOTDIR {
                (seen, last) = (error, candidate);
            }
        }
        not_run(program, &last, seen)
    }
}

fn candidates(program: &str, env: &[String]) -> Vec<PathBuf> {
    if program.contains('/') {
        return vec![PathBuf::from(program)];
    }
    let path = env.iter().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    path.split(':').map(|dir| Path::new(if dir.is_empty() { "." } else { dir }).join(program)).collect()
}

fn not_run(program: &str, tried: &Path, error: Errno) -> NotRun {
    match error {
        Errno::ENOENT if !program.contains('/') => {
            NotRun { code: 127, reason: format!("exec: command not found in PATH: {program}") }
        }
        Errno::ENOENT if tried.exists() => {
            NotRun { code: 127, reason: format!("exec: the interpreter that {program} names does not exist") }
        }
        Errno::ENOENT => NotRun { code: 127, reason: format!("exec: no such file or directory: {program}") },
        Errno::EACCES => NotRun { code: 126, reason: format!("exec: permission denied: {}", tried.display()) },
        Errno::ENOEXEC => {
            let reason = format!("exec: {} is neither a program for this machine nor has a #! line", tried.display());
            NotRun { code: 126, reason }
        }
        other => NotRun { code: 126, reason: format!("exec: {}: {}", tried.display(), other.desc()) },
    }
}

/// Every signal as a fresh login has it: Rust ignores SIGPIPE, and whoever started the agent may have ignored more.
fn reset_signals() -> io::Result<()> {
    for number in 1..=libc::SIGRTMAX() {
        // SAFETY: the default action runs no code of ours; a signal that can't be set is answered with an error.
        unsafe { libc::signal(number, libc::SIG_DFL) };
    }
    nix::sys::signal::sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)?;
    Ok(())
}

/// Marks everything above 2 close-on-exec (one system call from Linux 5.11, one per descriptor before).
fn close_all_but_stdio() -> io::Result<()> {
    // SAFETY: integers only; the descriptors stay open until execve, so no owner in this process is surprised.
    let result = unsafe { libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 {
        return Ok(());
    }
    for entry in std::fs::read_dir("/proc/self/fd")?.filter_map(Result::ok) {
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()).filter(|fd| *fd > 2) else {
            continue;
        };
        // SAFETY: integers only; a descriptor closed meanwhile is answered with EBADF.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn later_layers_win_and_defaults_stand() {
        let service = ["HOME=/data".to_string(), "A=1".to_string(), "without-value".to_string()];
        let request = ["A=2".to_string(), "B=x=y".to_string()];
        let env = environment("abc", "/root", true, &[&service, &request]);
        assert_eq!(env[1..], ["HOSTNAME=abc", "HOME=/data", "TERM=xterm", "A=2", "B=x=y"]);
        assert!(env[0].starts_with("PATH=/usr/local/sbin:"));
    }

    #[test]
    fn a_path_is_taken_as_it_is_and_a_name_is_searched() {
        let env = ["PATH=/a:/b".to_string()];
        assert_eq!(candidates("./x", &env), [PathBuf::from("./x")]);
        assert_eq!(candidates("x", &env), [PathBuf::from("/a/x"), PathBuf::from("/b/x")]);
    }

    #[test]
    fn errors_name_what_was_looked_for() {
        let missing = not_run("/x/y", Path::new("/x/y"), Errno::ENOENT);
        assert_eq!(missing, NotRun { code: 127, reason: "exec: no such file or directory: /x/y".into() });
        assert_eq!(not_run("zz", Path::new("zz"), Errno::ENOENT).reason, "exec: command not found in PATH: zz");
        assert_eq!(not_run("/etc/passwd", Path::new("/etc/passwd"), Errno::EACCES).code, 126);
    }
}
