//! Which processes of this machine belong to a lab, and ending them.
//!
//! A lab's agents leave children that outlive them on purpose (resolver, supervisors, tasks), so parenthood is not enough. A
//! process belongs to a place of the lab (a node, or the whole lab) if its command line or environment names the place's folder,
//! if it lives in one of the place's network namespaces, or if it descends from such a process.
//! Invariant: never this process nor one it descends from.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::wait_for_pid;
use crate::namespace::Namespace;

/// Set in the environment of every agent, to the node's folder.
pub(crate) const MARK: &str = "MESH_LAB_NODE";

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Process {
    pub pid: u32,
    pub command: String,
    /// Path of its cgroup below the cgroup2 mount.
    pub cgroup: String,
}

/// The processes that belong to `folder` (a lab's or a node's) or live in `namespaces`.
pub(crate) fn belonging_to(folder: &Path, namespaces: &[Namespace]) -> Vec<Process> {
    let inodes: BTreeSet<u64> = namespaces.iter().filter_map(|ns| Some(fs::metadata(ns.path()).ok()?.ino())).collect();
    // The trailing slash keeps node n1 apart from n10.
    let name = format!("{}/", folder.display());
    let parents = parents();
    let mut ours: BTreeSet<u32> =
        parents.keys().copied().filter(|pid| names(*pid, &name) || lives_in(*pid, &inodes)).collect();
    loop {
        let children = parents.iter().filter(|(pid, parent)| ours.contains(parent) && !ours.contains(pid));
        let found: Vec<u32> = children.map(|(pid, _)| *pid).collect();
        if found.is_empty() {
            break;
        }
        ours.extend(found);
    }
    let mut here = Some(std::process::id());
    while let Some(pid) = here {
        ours.remove(&pid);
        here = parents.get(&pid).copied().filter(|parent| *parent != 0);
    }
    ours.into_iter().map(|pid| Process { pid, command: command_line(pid), cgroup: cgroup_of(pid) }).collect()
}

/// Ends them at once. A task is often the first process of a PID namespace and deaf to anything but SIGKILL.
pub(crate) fn end(processes: &[Process]) {
    for process in processes {
        // Gone in the meantime is as good.
        let _ = kill(Pid::from_raw(process.pid as i32), Signal::SIGKILL);
    }
    for process in processes {
        let _ = wait_for_pid(process.pid, Duration::from_secs(2));
    }
}

/// Start time of a process in clock ticks since boot: tells a process from a later one with the same number.
pub(crate) fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold blanks; the start time is the 20th field after it.
    stat.rsplit_once(')')?.1.split_whitespace().nth(19)?.parse().ok()
}

fn parents() -> BTreeMap<u32, u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some((pid, stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()?))
    })
    .collect()
}

fn names(pid: u32, folder: &str) -> bool {
    ["cmdline", "environ"].iter().any(|file| {
        // A zero byte ends each word; a slash lets a word that ends with the folder's name match too.
        let text = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        String::from_utf8_lossy(&text).replace('\0', "/\n").contains(folder)
    })
}

fn lives_in(pid: u32, namespaces: &BTreeSet<u64>) -> bool {
    fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|found| namespaces.contains(&found.ino()))
}

fn command_line(pid: u32) -> String {
    let text = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&text).trim_end_matches('\0').replace('\0', " ")
}

fn cgroup_of(pid: u32) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_is_found_by_the_folder_it_names_and_ended() {
        let folder = Path::new("/run/mesh-lab/self-test-of-process");
        let script = "true /run/mesh-lab/self-test-of-process/n1; sleep 60";
        let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        let found = crate::eventually(Duration::from_secs(5), "both processes", || {
            let found = belonging_to(folder, &[]);
            anyhow::ensure!(found.len() == 2, "{found:?}");
            Ok(found)
        });
        end(&belonging_to(folder, &[]));
        child.wait().unwrap();
        assert!(found.unwrap().iter().any(|process| process.pid == child.id()));
        assert_eq!(belonging_to(folder, &[]), []);
    }

    #[test]
    fn a_start_time_tells_processes_apart() {
        assert!(start_time(std::process::id()) > start_time(1));
    }
}
