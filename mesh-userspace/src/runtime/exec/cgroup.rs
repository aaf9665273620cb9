//! The control group of a task: where its processes are counted, limited and killed as one.
//!
//! ```text
//! <cgroup root>/mesh/<node>/<task id>/supervisor    our own process
//!                                    /task          the task's; the root of its cgroup namespace
//! ```
//! Two leaves, so that killing or limiting the task spares the process that reports its end. Version 2 only; on a machine
//! with both versions controllers may all belong to version 1: grouping and killing work all the same, limits do not.
//! Must not: read or change a group above `mesh`, but for switching controllers on where a limit asks for one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::model::{Id, Resources};

/// Period over which processor time is shared out.
const CPU_PERIOD_US: u64 = 100_000;
/// How long a killed group may take to become empty.
pub const EMPTY_WITHIN: Duration = Duration::from_secs(10);

/// A task's group; need not exist.
#[derive(Clone, Debug)]
pub struct TaskCgroup(PathBuf);

/// Why a limit can't be set.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error(
        "{what} is limited, but the cgroup2 hierarchy at {} has no '{controller}' controller on this machine: drop the \
         limit, or boot with systemd.unified_cgroup_hierarchy=1", .root.display()
    )]
    NoController { what: &'static str, controller: &'static str, root: PathBuf },

    #[error("{attempt} {}: {source}: check that it is on a cgroup2 file system and mesh runs as root", .path.display())]
    File { attempt: &'static str, path: PathBuf, source: io::Error },
}

/// Where cgroup version 2 is mounted in this mount namespace, on its own or beside version 1.
pub fn cgroup2_root() -> Option<PathBuf> {
    fs::read_to_string("/proc/self/mountinfo").ok().and_then(|text| cgroup2_in(&text))
}

fn cgroup2_in(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        // proc(5): "id parent dev root mountpoint options [tags…] - type source superoptions".
        let (mount, kind) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(3);
        let (root, point) = (fields.next()?, fields.next()?);
        (root == "/" && kind.split(' ').next() == Some("cgroup2")).then(|| PathBuf::from(point.replace("\\040", " ")))
    })
}

impl TaskCgroup {
    pub fn of(root: &Path, node: &str, task_id: &Id) -> Self {
        TaskCgroup(root.join("mesh").join(node).join(task_id.as_str()))
    }

    pub fn at(path: PathBuf) -> Self {
        TaskCgroup(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The group of the supervisor's process.
    pub fn supervisor(&self) -> PathBuf {
        self.0.join("supervisor")
    }

    /// The group of the task's processes.
    pub fn task(&self) -> PathBuf {
        self.0.join("task")
    }

    /// Makes the groups and sets the limits that are asked for.
    pub fn create(&self, root: &Path, resources: &Resources) -> Result<(), CgroupError> {
        for leaf in [self.supervisor(), self.task()] {
            create_dir_all_again(&leaf).map_err(|source| CgroupError::File {
                attempt: "making the group",
                path: leaf.clone(),
                source,
            })?;
        }
        if let Some(bytes) = resources.limit_memory_bytes {
            self.limit(root, "memory", "memory.max", "memory", bytes.to_string())?;
        }
        if let Some(nano_cpus) = resources.limit_nano_cpus {
            // 1e9 nano-CPUs are one processor, which has CPU_PERIOD_US in every period; the kernel's least is 1 ms.
            let quota_us = (nano_cpus / (1_000_000_000 / CPU_PERIOD_US)).max(1_000);
            self.limit(root, "processor time", "cpu.max", "cpu", format!("{quota_us} {CPU_PERIOD_US}"))?;
        }
        Ok(())
    }

    fn limit(
        &self,
        root: &Path,
        what: &'static str,
        file: &str,
        controller: &'static str,
        value: String,
    ) -> Result<(), CgroupError> {
        let available = fs::read_to_string(root.join("cgroup.controllers")).unwrap_or_default();
        if !available.split_whitespace().any(|name| name == controller) {
            return Err(CgroupError::NoController { what, controller, root: root.to_owned() });
        }
        // From the root down: a group has the controllers that its parent hands on.
        let mut group = root.to_owned();
        let below: Vec<_> = self.0.strip_prefix(root).map(|path| path.components().collect()).unwrap_or_default();
        for part in below {
            let path = group.join("cgroup.subtree_control");
            fs::write(&path, format!("+{controller}")).map_err(|source| CgroupError::File {
                attempt: "switching a controller on in",
                path,
                source,
            })?;
            group.push(part);
        }
        let path = self.0.join(file);
        fs::write(&path, value).map_err(|source| CgroupError::File { attempt: "setting the limit", path, source })
    }

    /// Moves the calling process into `leaf`.
    pub fn join(leaf: &Path) -> io::Result<()> {
        fs::write(leaf.join("cgroup.procs"), "0")
    }

    /// Kills every process of the task, not its supervisor.
    pub fn kill_task(&self) -> io::Result<()> {
        kill(&self.task())
    }

    /// Kills the supervisor too. None there is no error.
    pub fn kill_all(&self) -> io::Result<()> {
        if self.0.exists() { kill(&self.0) } else { Ok(()) }
    }

    /// Kills whatever is in the group and removes it. None there is no error.
    pub fn remove(&self) -> io::Result<()> {
        if !self.0.exists() {
            return Ok(());
        }
        let deadline = Instant::now() + EMPTY_WITHIN;
        loop {
            kill(&self.0)?;
            match remove_tree(&self.0) {
                Ok(()) => break,
                // Processes that were killed leave a moment later.
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(error),
            }
        }
        // The last task takes the folders above with it; others' keep them.
        for above in self.0.ancestors().skip(1).take(2) {
            if fs::remove_dir(above).is_err() {
                break;
            }
        }
        Ok(())
    }
}

fn kill(group: &Path) -> io::Result<()> {
    match fs::write(group.join("cgroup.kill"), "1") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => kill_one_by_one(group),
        result => result,
    }
}

/// Before Linux 5.14 there is no cgroup.kill.
fn kill_one_by_one(group: &Path) -> io::Result<()> {
    for child in subgroups(group)? {
        kill_one_by_one(&child)?;
    }
    let Ok(processes) = fs::read_to_string(group.join("cgroup.procs")) else { return Ok(()) };
    for pid in processes.lines().filter_map(|line| line.parse().ok()) {
        // One that ended meanwhile is what we want.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
    Ok(())
}

fn subgroups(group: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let directories = entries.filter_map(Result::ok).filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(directories.map(|entry| entry.path()).collect())
}

fn remove_tree(group: &Path) -> io::Result<()> {
    for child in subgroups(group)? {
        remove_tree(&child)?;
    }
    match fs::remove_dir(group) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// Another agent's last task may remove the shared folders while we make ours.
fn create_dir_all_again(path: &Path) -> io::Result<()> {
    let mut result = fs::create_dir_all(path);
    for _ in 0..10 {
        match &result {
            Err(error) if error.kind() == io::ErrorKind::NotFound => result = fs::create_dir_all(path),
            _ => break,
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn version_2_is_found_beside_version_1() {
        let mountinfo = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
                         40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
                         41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2_in(mountinfo), Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(cgroup2_in("22 27 0:21 / /proc rw - proc proc rw\n"), None);
        assert_eq!(cgroup2_in("41 31 0:38 /user.slice /x rw - cgroup2 cgroup2 rw\n"), None, "a part is not the root");
    }
}
