//! The file system as a task sees it: the host's, but for what is the task's own and what is none of its business.
//!
//! Called by init in the new mount namespace, before privileges are dropped. Nothing is written to the host's files: where
//! a mount point is missing in /etc, the task gets an overlay of /etc that has it.
//! Order matters: masks come before the task's own mounts (which then can't reach behind them), /etc files come last.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::model::Mount;

/// Where name service daemons listen: asked there, a task's name would be resolved in the host's view.
const RESOLVER_DIRS: [&str; 4] = ["/run/nscd", "/var/run/nscd", "/var/cache/nscd", "/run/systemd/resolve"];
/// Kernel interfaces that a container of Docker's may read but not write.
const READ_ONLY_PROC: [&str; 5] = ["bus", "fs", "irq", "sys", "sysrq-trigger"];
/// And those it may not even read.
const HIDDEN_PROC: [&str; 6] = ["acpi", "kcore", "keys", "latency_stats", "timer_list", "sched_debug"];
const ETC_FILES: [&str; 3] = ["hostname", "hosts", "resolv.conf"];
const MAX_LINKS: usize = 40;

/// Why the file system could not be made as asked.
#[derive(Debug, thiserror::Error)]
pub enum MountError {
    #[error("{attempt} {}: {source}", .path.display())]
    Kernel { attempt: &'static str, path: PathBuf, source: io::Error },
    #[error("mount target {} does not exist on this node: make it first, on every node the service may run on", .0.display())]
    NoTarget(PathBuf),
    #[error("mount source {} does not exist on this node: make it first, on every node the service may run on", .0.display())]
    NoSource(PathBuf),
    #[error("mounts of type '{0}' are not there with runtime exec: use type=bind or type=tmpfs")]
    Kind(String),
    #[error("{} is missing, and /etc can't be overlaid ({source}): make the file on the host, empty will do", .path.display())]
    NoEtcFile { path: PathBuf, source: io::Error },
}

/// What to arrange.
#[derive(Debug)]
pub struct FileSystem<'a> {
    /// Folder with the task's own `hostname`, `hosts` and `resolv.conf`.
    pub etc: &'a Path,
    /// Folders the task finds empty.
    pub masked: &'a [PathBuf],
    pub mounts: &'a [Mount],
}

impl FileSystem<'_> {
    /// The first half: private mounts, fresh /proc and /sys; /proc/sys is writable still.
    pub fn make_private(&self) -> Result<(), MountError> {
        set_flags(Path::new("/"), MsFlags::MS_REC | MsFlags::MS_PRIVATE, "making mounts private below")?;
        let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount_new("proc", Path::new("/proc"), quiet, None)
    }

    /// The second half: everything else.
    pub fn arrange(&self) -> Result<(), MountError> {
        // Opened while the path still leads there: it is about to be masked.
        let etc = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(self.etc)
            .map_err(failed("opening", self.etc))?;
        // bpffs can be anywhere; below /sys it goes with the host's /sys.
        let bpf_dirs = mount_points("bpf");
        renew_sys()?;
        renew_devpts()?;
        restrict_proc()?;

        let resolver_dirs = RESOLVER_DIRS.iter().map(PathBuf::from);
        let mut masks: Vec<PathBuf> = Vec::new();
        for dir in self.masked.iter().cloned().chain(bpf_dirs).chain(resolver_dirs) {
            if let Ok(dir) = fs::canonicalize(&dir)
                && dir.is_dir()
                && !masks.contains(&dir)
            {
                let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
                mount_new("tmpfs", &dir, flags, Some("size=64k,mode=755"))?;
                masks.push(dir);
            }
        }
        for asked in self.mounts {
            add(asked)?;
        }
        for name in ETC_FILES {
            bind_etc_file(&etc, name, &masks)?;
        }
        for mask in &masks {
            set_flags(mask, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY, "closing the mask on")?;
        }
        Ok(())
    }
}

fn failed(attempt: &'static str, path: &Path) -> impl FnOnce(io::Error) -> MountError {
    let path = path.to_owned();
    move |source| MountError::Kernel { attempt, path, source }
}

fn mount_new(kind: &str, at: &Path, flags: MsFlags, options: Option<&str>) -> Result<(), MountError> {
    mount(Some(kind), at, Some(kind), flags, options)
        .map_err(|error| failed("mounting a file system of the task's own on", at)(error.into()))
}

fn bind(from: &Path, to: &Path, flags: MsFlags) -> Result<(), MountError> {
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | flags, None::<&str>)
        .map_err(|error| failed("mounting on", to)(error.into()))
}

fn set_flags(at: &Path, flags: MsFlags, attempt: &'static str) -> Result<(), MountError> {
    mount(None::<&str>, at, None::<&str>, flags, None::<&str>).map_err(|error| failed(attempt, at)(error.into()))
}

/// Mount points of one kind of file system.
fn mount_points(kind: &str) -> Vec<PathBuf> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let of_kind = mountinfo.lines().filter_map(|line| {
        let (mount, rest) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        (rest.split(' ').next() == Some(kind)).then(|| PathBuf::from(point))
    });
    of_kind.collect()
}

/// The network devices below /sys are those of the namespace that mounted it.
fn renew_sys() -> Result<(), MountError> {
    let sys = Path::new("/sys");
    // Whatever can't be detached is covered.
    let _ = umount2(sys, MntFlags::MNT_DETACH);
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    mount_new("sysfs", sys, quiet, None)?;
    let cgroup = Path::new("/sys/fs/cgroup");
    if cgroup.is_dir() {
        // Its root is the task's own group. Runtimes that size themselves by it do without where it can't be mounted.
        let _ = mount(Some("cgroup2"), cgroup, Some("cgroup2"), quiet, None::<&str>);
    }
    Ok(())
}

/// Terminals of its own: a task must not write to those of the host.
fn renew_devpts() -> Result<(), MountError> {
    let pts = Path::new("/dev/pts");
    if !pts.is_dir() {
        return Ok(());
    }
    let options = "newinstance,ptmxmode=0666,mode=0620,gid=5";
    mount_new("devpts", pts, MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC, Some(options))
}

fn restrict_proc() -> Result<(), MountError> {
    let proc = Path::new("/proc");
    for path in READ_ONLY_PROC.iter().map(|name| proc.join(name)).filter(|path| path.exists()) {
        bind(&path, &path, MsFlags::MS_REC)?;
        let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        set_flags(&path, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | quiet, "closing")?;
    }
    for path in HIDDEN_PROC.iter().map(|name| proc.join(name)) {
        match fs::metadata(&path) {
            Ok(meta) if meta.is_dir() => mount_new("tmpfs", &path, MsFlags::MS_RDONLY, Some("size=4k"))?,
            Ok(_) => bind(Path::new("/dev/null"), &path, MsFlags::empty())?,
            Err(_) => {}
        }
    }
    Ok(())
}

fn add(asked: &Mount) -> Result<(), MountError> {
    let target = Path::new(&asked.target);
    if !target.exists() {
        return Err(MountError::NoTarget(target.to_owned()));
    }
    match asked.kind.as_str() {
        "bind" => {
            let source = Path::new(&asked.source);
            if !source.exists() {
                return Err(MountError::NoSource(source.to_owned()));
            }
            bind(source, target, MsFlags::MS_REC)?;
        }
        "tmpfs" => {
            let size = asked.options.tmpfs_size_bytes.map(|bytes| format!("size={bytes}"));
            let mode = asked.options.tmpfs_mode.map(|mode| format!("mode={mode:o}"));
            let options: Vec<String> = size.into_iter().chain(mode).collect();
            mount_new("tmpfs", target, MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(&options.join(",")))?;
        }
        other => return Err(MountError::Kind(other.to_owned())),
    }
    if asked.read_only {
        set_flags(target, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY, "making read-only")?;
    }
    Ok(())
}

/// Puts the task's own file where a program that opens `/etc/NAME` arrives.
fn bind_etc_file(etc: &File, name: &str, masks: &[PathBuf]) -> Result<(), MountError> {
    let source = PathBuf::from(format!("/proc/self/fd/{}/{name}", etc.as_raw_fd()));
    let path = Path::new("/etc").join(name);
    let target = follow_links(&path);
    if target.is_file() {
        return bind(&source, &target, MsFlags::empty());
    }
    if masks.iter().any(|mask| target.starts_with(mask)) {
        // A link into what we masked, as of systemd-resolved: the mask is ours to write to.
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent).map_err(failed("making", parent))?;
        }
        File::create(&target).map_err(failed("making", &target))?;
        return bind(&source, &target, MsFlags::empty());
    }
    let no_file = |source| MountError::NoEtcFile { path: path.clone(), source };
    overlay_etc(etc).map_err(no_file)?;
    if fs::symlink_metadata(&path).is_ok() {
        fs::remove_file(&path).map_err(no_file)?;
    }
    File::create(&path).map_err(no_file)?;
    bind(&source, &path, MsFlags::empty())
}

/// Covers /etc with itself and a writable layer in the task's own folder.
fn overlay_etc(etc: &File) -> io::Result<()> {
    let base = format!("/proc/self/fd/{}/overlay", etc.as_raw_fd());
    let (upper, work) = (format!("{base}/upper"), format!("{base}/work"));
    fs::create_dir_all(&upper)?;
    fs::create_dir_all(&work)?;
    let options = CString::new(format!("lowerdir=/etc,upperdir={upper},workdir={work}")).map_err(io::Error::other)?;
    mount(Some("overlay"), "/etc", Some("overlay"), MsFlags::empty(), Some(options.as_c_str()))?;
    Ok(())
}

/// The end of a chain of symbolic links, also where that does not exist.
fn follow_links(path: &Path) -> PathBuf {
    let mut at = path.to_owned();
    for _ in 0..MAX_LINKS {
        let Ok(link) = fs::read_link(&at) else { break };
        let joined = at.parent().unwrap_or(Path::new("/")).join(link);
        at = normal(&joined);
    }
    // A link among the folders above counts too, as /var/run does.
    match (at.parent().map(fs::canonicalize), at.file_name()) {
        (Some(Ok(parent)), Some(name)) => parent.join(name),
        _ => at,
    }
}

/// Without `.` and `..`.
fn normal(path: &Path) -> PathBuf {
    let mut parts = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                parts.pop();
            }
            std::path::Component::CurDir => {}
            part => parts.push(part),
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_are_followed_to_where_a_file_would_be() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let base = fs::canonicalize(dir.path()).expect("canonical");
        fs::create_dir_all(base.join("etc")).expect("made");
        fs::create_dir_all(base.join("run/systemd")).expect("made");
        symlink("run", base.join("var-run")).expect("linked");
        symlink("../var-run/systemd/stub.conf", base.join("etc/resolv.conf")).expect("linked");
        assert_eq!(follow_links(&base.join("etc/resolv.conf")), base.join("run/systemd/stub.conf"));
        assert_eq!(follow_links(&base.join("etc/none")), base.join("etc/none"));
        symlink("loop", base.join("etc/loop")).expect("linked");
        assert_eq!(follow_links(&base.join("etc/loop")), base.join("etc/loop"), "a loop ends");
        assert_eq!(normal(Path::new("/a/./b/../c")), PathBuf::from("/a/c"));
    }
}
