//! Taking a lab down: first as a user would, then by force.
//!
//! The agent is asked to purge its node, which is the product's own way; then every process, mount, cgroup, pin and namespace of the
//! lab goes, whether the product did well or not. Invariant: nothing outside the lab's own names is touched, and one failure
//! does not keep the rest from being removed.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};

use crate::command;
use crate::lab::DIRECTORY;
use crate::namespace::{self, Namespace};
use crate::node::Node;
use crate::process::{self, Process};
use crate::wiring::PREFIX;

/// A purge ends tasks without their grace; one that takes longer is replaced by force.
const PURGE_LIMIT: Duration = Duration::from_secs(15);

/// Best effort: `mesh purge`, then the end of the agent. Where the agent is gone already, purge gets the flags it had.
pub(crate) fn purge(node: &Node) {
    if !node.state_dir().exists() {
        return; // No agent ever ran here.
    }
    let mut words = vec!["purge".to_owned()];
    if !node.is_running() {
        words.extend(node.agent_flags());
    }
    let asked = node.mesh_command(words).and_then(|command| command::run(command, "", PURGE_LIMIT));
    match asked {
        Ok(output) if output.success() => {}
        Ok(output) => eprintln!("lab: {}: {}", node.name(), output.describe()),
        Err(error) => eprintln!("lab: {}: {error:#}", node.name()),
    }
    if node.is_running()
        && let Err(error) = node.stop().or_else(|_| node.kill())
    {
        eprintln!("lab: {error:#}");
    }
}

/// Ends the node's Engine in order: containers first, whose shims would leave sockets of theirs on the machine.
pub(crate) fn end_engine(node: &Node) {
    if let Err(error) = node.engine().remove_containers().and_then(|()| node.engine().stop()) {
        eprintln!("lab: {error:#}");
    }
}

/// Removes everything that bears the lab's name.
pub(crate) fn remove(id: &str, nodes: &[String]) -> Result<()> {
    let dir = Path::new(DIRECTORY).join(id);
    let namespaces = namespaces_of(id);
    let mut failed = Vec::new();
    let mut note = |what: String, result: Result<()>| {
        if let Err(error) = result {
            failed.push(format!("{what}: {error:#}"));
        }
    };
    let mut cgroups = Vec::new();
    // Twice: a supervisor may start something between our look and its end.
    for _ in 0..2 {
        let processes = process::belonging_to(&dir, &namespaces);
        cgroups.extend(processes.iter().filter_map(own_cgroup));
        process::end(&processes);
    }
    note("cgroups".into(), remove_cgroups(cgroups));
    for namespace in &namespaces {
        remove_engine_cgroups(namespace.name());
    }
    for node in nodes {
        let pins = Path::new("/sys/fs/bpf").join(crate::wiring::namespace_name(id, node));
        note(pins.display().to_string(), remove_tree(&pins));
    }
    for namespace in &namespaces {
        note(namespace.name().to_owned(), namespace.delete());
    }
    unmount_below(&dir);
    note(dir.display().to_string(), remove_tree(&dir));
    // The common folder goes with the last lab.
    let _ = fs::remove_dir(DIRECTORY);
    if failed.is_empty() { Ok(()) } else { bail!("could not be removed: {}", failed.join("; ")) }
}

fn namespaces_of(id: &str) -> Vec<Namespace> {
    let prefix = format!("{PREFIX}-{id}-");
    let entries = fs::read_dir(namespace::DIRECTORY).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    // The rest is a host's name, which holds no dash: lab `a` must not take down lab `a-b`.
    names
        .filter(|name| name.strip_prefix(&prefix).is_some_and(|host| !host.contains('-')))
        .map(|name| Namespace::existing(&name))
        .collect()
}

/// Labs that have namespaces and no folder. The folder is made first and removed last, so nobody is at work on these.
pub(crate) fn homeless_labs() -> Vec<String> {
    let entries = fs::read_dir(namespace::DIRECTORY).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let ids = names.filter_map(|name| Some(name.strip_prefix(&format!("{PREFIX}-"))?.rsplit_once('-')?.0.to_owned()));
    let mut homeless: Vec<String> = ids.filter(|id| !Path::new(DIRECTORY).join(id).exists()).collect();
    homeless.sort();
    homeless.dedup();
    homeless
}

/// The process's cgroup, if mesh made it: one that bears its name.
fn own_cgroup(process: &Process) -> Option<PathBuf> {
    let root = cgroup_root()?;
    process.cgroup.contains("mesh").then(|| root.join(process.cgroup.trim_start_matches('/')))
}

/// Where cgroup2 is mounted: hybrid machines have it in a folder of its own.
pub(crate) fn cgroup_root() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|line| line.split(" - ").nth(1).is_some_and(|rest| rest.starts_with("cgroup2 ")))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

/// Empty ones only, and their parents up to the first that is in use or not mesh's.
fn remove_cgroups(mut cgroups: Vec<PathBuf>) -> Result<()> {
    cgroups.sort();
    cgroups.dedup();
    for cgroup in cgroups.iter().rev() {
        let mut here = Some(cgroup.as_path());
        while let Some(dir) = here.filter(|dir| dir.to_string_lossy().contains("mesh")) {
            // Gone already, or another lab's tasks live beside it.
            if fs::remove_dir(dir).is_err() && dir.exists() {
                break;
            }
            here = dir.parent();
        }
    }
    Ok(())
}

/// An Engine's containers live in cgroups that bear the node's name, on machines with version 1 in one of each controller.
pub(crate) fn remove_engine_cgroups(name: &str) {
    let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") else { return };
    let is_cgroup = |line: &&str| line.split(" - ").nth(1).is_some_and(|rest| rest.starts_with("cgroup"));
    for root in mounts.lines().filter(is_cgroup).filter_map(|line| line.split(' ').nth(4)) {
        let group = Path::new(root).join(name);
        for child in fs::read_dir(&group).into_iter().flatten().flatten() {
            let _ = fs::remove_dir(child.path()); // its files go with it; one in use stays, and shows in the next line
        }
        if let Err(error) = fs::remove_dir(&group)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("lab: {}: {error}", group.display());
        }
    }
}

fn unmount_below(dir: &Path) {
    let Ok(mounts) = fs::read_to_string("/proc/self/mountinfo") else { return };
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
    let mut below: Vec<&Path> = points.filter(|point| point.starts_with(dir)).collect();
    below.sort();
    for point in below.into_iter().rev() {
        // What stays mounted shows as a folder that can't be removed, which is reported.
        let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
    }
}

fn remove_tree(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
