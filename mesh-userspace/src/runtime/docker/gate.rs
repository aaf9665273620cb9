//! The gate's other side: putting the program where containers find it, seeing that one waits in it, and letting it go.
//!
//! See `gate/main.rs` for the program and docs/decisions/0013 for why. Everything is seen from the host: `/proc/PID/exe` says whether a process
//! is still the gate, its mask of blocked signals whether the gate listens. That also proves that the Engine's runtime runs containers as
//! processes of this kernel: in a virtual machine there would be no gate to find.
//!
//! Invariant: a container is let go once, by its pidfd, when its gate listens. Must not: speak with the Engine.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::runtime::process::{ProcessRef, pidfd_signal};

/// Where the gate is in every container.
pub const INSIDE: &str = "/.mesh-gate";
/// SIGUSR2, as the gate has it.
const RELEASE: i32 = libc::SIGUSR2;
/// SIGUSR1 among the blocked: the gate listens.
const READY: u64 = 1 << (libc::SIGUSR1 - 1);

/// For everybody: containers have users of their own.
const MODE: u32 = 0o755;

static PROGRAM: &[u8] = include_bytes!(env!("MESH_GATE_PATH"));

/// Where [`install`] puts the gate.
pub fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("gate")
}

/// Writes the gate, unless it is there. A container that waits in an older one keeps that: its file is replaced, not changed.
pub fn install(state_dir: &Path) -> io::Result<PathBuf> {
    let path = path(state_dir);
    let has_mode = |there: fs::Metadata| there.permissions().mode() & 0o7777 == MODE;
    if fs::read(&path).is_ok_and(|there| there == PROGRAM) && fs::metadata(&path).is_ok_and(has_mode) {
        return Ok(path);
    }
    let beside = path.with_extension("new");
    let _ = fs::remove_file(&beside); // left by an agent that died here: its mode may be anything
    let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&beside)?;
    // Whatever the agent's umask: the command may be any user's.
    file.set_permissions(Permissions::from_mode(MODE))?;
    file.write_all(PROGRAM)?;
    file.sync_data()?;
    drop(file); // while it is open for writing nobody can run it
    fs::rename(&beside, &path)?;
    Ok(path)
}

/// Whether this process is the gate and not yet the command.
pub fn is_gate(pid: i32) -> bool {
    // The path is one of the container's own mount namespace; where the gate was replaced meanwhile, a remark follows it.
    fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe.to_string_lossy().split(' ').next() == Some(INSIDE))
}

/// Whether the gate has become the command. A process that is ending shows no program any more and is neither.
pub fn is_gone(pid: i32) -> bool {
    fs::read_link(format!("/proc/{pid}/exe")).is_ok() && !is_gate(pid)
}

/// The gate of the container whose first process is `pid`, once it listens: that process, or its child where the Engine put an init before it.
pub fn listening(pid: i32) -> Option<ProcessRef> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let candidates = std::iter::once(pid).chain(children.split_whitespace().filter_map(|word| word.parse().ok()));
    let gate = candidates.into_iter().find(|candidate| is_gate(*candidate) && blocked(*candidate) & READY != 0)?;
    ProcessRef::of(gate).ok()
}

/// Lets the command run; false where the gate has ended.
pub fn release(gate: &ProcessRef) -> io::Result<bool> {
    let Some(pidfd) = gate.pidfd()? else { return Ok(false) };
    pidfd_signal(&pidfd, RELEASE)?;
    Ok(true)
}

/// Mask of blocked signals; bit 0 is signal 1.
fn blocked(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Child, Command, Output, Stdio};
    use std::time::{Duration, Instant};

    fn eventually<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(found) = look() {
                return found;
            }
            assert!(Instant::now() < deadline, "{what}");
            std::thread::yield_now();
        }
    }

    /// The gate as a plain program: found by its mask, since it is not at its place in a container.
    fn gated(words: &[&str], variables: &[(&str, &str)]) -> (Child, ProcessRef) {
        let dir = tempfile::tempdir().expect("a directory");
        let program = install(dir.path()).expect("installed");
        let mut command = Command::new(&program);
        command.args(words).env_clear().envs(variables.iter().copied());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        // A process that another test begins at this moment still has our open file, until it executes its own.
        let is_busy = |error: &io::Error| error.kind() == io::ErrorKind::ExecutableFileBusy;
        let child = eventually("the gate runs", || match command.spawn() {
            Err(error) if is_busy(&error) => None,
            spawned => Some(spawned.expect("the gate runs")),
        });
        let pid = child.id().cast_signed();
        eventually("the gate listens", || (blocked(pid) & READY != 0).then_some(()));
        (child, ProcessRef::of(pid).expect("it runs"))
    }

    fn let_go(words: &[&str], variables: &[(&str, &str)]) -> Output {
        let (child, gate) = gated(words, variables);
        assert!(release(&gate).expect("released"));
        child.wait_with_output().expect("it ends")
    }

    #[test]
    fn the_command_gets_arguments_environment_and_a_clean_mask() {
        let script = "echo $A $1 $0; grep SigBlk /proc/self/status; exit 3";
        let output = let_go(&["sh", "-c", script, "zero", "one"], &[("A", "b"), ("PATH", "/nowhere:/usr/bin:/bin")]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, "b one zero\nSigBlk:\t0000000000000000\n");
        assert_eq!(output.status.code(), Some(3));
    }

    #[test]
    fn it_waits_past_other_signals_and_runs_nothing_before() {
        let (mut child, gate) = gated(&["sh", "-c", "exit 7"], &[]);
        let pidfd = gate.pidfd().expect("asked").expect("alive");
        for signal in [libc::SIGCONT, libc::SIGWINCH, libc::SIGUSR1] {
            pidfd_signal(&pidfd, signal).expect("sent");
        }
        assert!(child.try_wait().expect("asked").is_none());
        assert!(release(&gate).expect("released"));
        // SIGUSR1 was held back; let go, it meets the command, as one that comes early meets any program.
        let status = child.wait().expect("it ends");
        assert!(!release(&gate).expect("nobody is left"), "{status}");
    }

    #[test]
    fn a_command_that_is_not_there_is_127_and_one_that_may_not_run_126() {
        let path = [("PATH", "/usr/bin:/bin")];
        let missing = let_go(&["no-such-program"], &path);
        assert_eq!(missing.status.code(), Some(127));
        let said = String::from_utf8_lossy(&missing.stderr).into_owned();
        assert_eq!(said, "mesh-gate: cannot run 'no-such-program': executable file not found in $PATH\n");
        assert_eq!(let_go(&["/no/such"], &path).status.code(), Some(127));
        assert_eq!(let_go(&["/etc/passwd"], &path).status.code(), Some(126));
        assert_eq!(let_go(&["/etc"], &path).status.code(), Some(126));
        assert_eq!(let_go(&[], &path).status.code(), Some(127));
    }

    #[test]
    fn an_installed_gate_is_kept_and_a_spoilt_one_replaced() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = install(dir.path()).expect("installed");
        let written = fs::metadata(&path).expect("there").modified().expect("a time");
        install(dir.path()).expect("installed");
        assert_eq!(fs::metadata(&path).expect("there").modified().expect("a time"), written);
        fs::write(&path, "spoilt").expect("written");
        install(dir.path()).expect("installed");
        assert_eq!(fs::read(&path).expect("there"), PROGRAM);
    }

    #[test]
    fn every_user_may_run_the_gate() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = install(dir.path()).expect("installed");
        let mode = || fs::metadata(&path).expect("there").permissions().mode() & 0o7777;
        assert_eq!(mode(), 0o755);
        // As an agent with umask 077 has left it.
        fs::set_permissions(&path, Permissions::from_mode(0o700)).expect("changed");
        install(dir.path()).expect("installed");
        assert_eq!(mode(), 0o755);
    }
}
