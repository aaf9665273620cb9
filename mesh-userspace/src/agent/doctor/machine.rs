//! Facts of the machine itself. What takes long (a trial load) runs where waiting harms nobody.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use nix::unistd::{AccessFlags, access};

use crate::agent::{Settings, tc};
use crate::doctor::{Clock, Engine, Machine, Programs, StateDir};
use crate::kernel::bpf::survey;
use crate::kernel::net::namespace;
use crate::model::Runtime;
use crate::runtime::docker::{Unseen, look};
use crate::runtime::exec::cgroup2_root;

/// `runs`: an agent in a cluster has the programs loaded. `trial`: what a trial load came to that need not be done again.
pub async fn gather(args: &Settings, cgroup: Option<&Path>, runs: bool, trial: Option<Programs>) -> Machine {
    let is_root = namespace::is_root();
    let programs = match (runs, is_root, trial) {
        (true, ..) => Programs::Loaded,
        (false, false, _) => Programs::NotTried,
        (false, true, Some(trial)) => trial,
        (false, true, None) => {
            let tried = tokio::task::spawn_blocking(survey::try_load).await;
            Programs::Tried(match tried {
                Ok(loaded) => loaded.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            })
        }
    };
    let tcx = is_root.then(survey::tcx);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    Machine {
        is_root,
        capabilities: fs::read_to_string("/proc/self/status").ok().as_deref().and_then(effective),
        release: nix::sys::utsname::uname().map(|it| it.release().to_string_lossy().into_owned()).unwrap_or_default(),
        has_btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        clsact: if matches!(tcx, Some(Err(_))) { Some(tc::try_clsact()) } else { None },
        tcx,
        has_xdp: if is_root { survey::has_xdp() } else { None },
        programs,
        bpf_dir: args.bpf_dir.display().to_string(),
        is_bpffs: survey::is_on_bpffs(&args.bpf_dir),
        cgroup: match (cgroup, &args.cgroup) {
            (Some(dir), _) => Ok(dir.display().to_string()),
            (None, Some(dir)) if nearest(dir).join("cgroup.procs").exists() => Ok(dir.display().to_string()),
            (None, Some(dir)) => Err(format!("--cgroup {} is not on a cgroup2 file system", dir.display())),
            (None, None) => {
                let root = cgroup2_root().map(|dir| dir.display().to_string());
                root.ok_or_else(|| "no cgroup2 file system is mounted".to_string())
            }
        },
        is_cgroup_hybrid: mounts.lines().any(|line| line.contains(" - cgroup ")),
        engine: ask_engine().await,
        wants_engine: args.runtimes == [Runtime::Docker],
        state_dir: state_dir(&args.state_dir),
        clock: clock(),
    }
}

/// The `CapEff` line of /proc/self/status.
fn effective(status: &str) -> Option<u64> {
    let digits = status.lines().find_map(|line| line.strip_prefix("CapEff:"))?;
    u64::from_str_radix(digits.trim(), 16).ok()
}

async fn ask_engine() -> Engine {
    match look().await {
        (at, Ok(seen)) => Engine::Answers { at, version: seen.version, is_in_swarm: seen.is_in_swarm },
        (at, Err(Unseen::Absent)) => Engine::Absent { at },
        (at, Err(Unseen::Silent(why))) => Engine::Silent { at, why },
    }
}

/// The directory, or the nearest one above it that is there: where it would be made.
fn nearest(dir: &Path) -> &Path {
    dir.ancestors().find(|dir| dir.exists()).unwrap_or(dir)
}

/// Nothing is written: the kernel is asked whether it could be.
fn state_dir(dir: &Path) -> StateDir {
    let there = nearest(dir);
    let problem = if !there.is_dir() {
        Some(format!("{} is not a directory", there.display()))
    } else {
        access(there, AccessFlags::W_OK).err().map(|errno| format!("{}: {}", there.display(), errno.desc()))
    };
    let space = nix::sys::statvfs::statvfs(there).ok();
    StateDir {
        path: dir.display().to_string(),
        problem,
        mode: fs::metadata(dir).ok().map(|it| it.permissions().mode() & 0o7777),
        // Pseudo file systems have no blocks, and no room to run out of.
        free_bytes: space.filter(|it| it.blocks() > 0).map(|it| it.blocks_available() * it.fragment_size()),
    }
}

/// adjtimex(2), reading only: whether the kernel's clock is disciplined.
fn clock() -> Clock {
    // SAFETY: all-zero is a valid request; `modes` 0 changes nothing.
    let mut state: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: `state` lives through the call.
    match unsafe { libc::adjtimex(&raw mut state) } {
        -1 => Clock::Unknown,
        _ if state.status & libc::STA_UNSYNC != 0 => Clock::Alone,
        _ => Clock::Synchronised,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_status() {
        assert_eq!(effective("Name:\tx\nCapPrm:\t0\nCapEff:\t000001ffffffffff\n"), Some(0x1ff_ffff_ffff));
        assert_eq!(effective("Name:\tx\n"), None);
    }

    #[test]
    fn a_state_directory_that_is_a_file_is_told_and_one_to_be_made_is_fine() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let state = state_dir(&file.join("state"));
        assert!(state.problem.is_some_and(|problem| problem.contains("not a directory")));
        let state = state_dir(&folder.path().join("not/yet/there"));
        assert_eq!((state.problem, state.mode), (None, None));
        assert!(!folder.path().join("not").exists(), "the doctor made something");
    }
}
