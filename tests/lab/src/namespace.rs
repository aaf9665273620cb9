//! Network namespaces: the raw material of the lab.
//!
//! Named as `ip netns` names them, so that a person can enter one. Code runs inside by a thread that entered it, programs by a child
//! that entered it before exec. Never through `ip netns exec`: that mounts a new /sys, and the bpffs would be out of sight.
//! Invariant: the calling thread never changes its own namespace. It must not know nodes, switches or mesh.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use crate::command::{self, Output};

/// Where `ip netns` keeps its handles.
pub const DIRECTORY: &str = "/run/netns";

/// `ip` never takes long; where it hangs, the kernel's netlink lock is stuck.
const LIMIT: Duration = Duration::from_secs(20);

/// A named network namespace. Dropping the value leaves the namespace alone; [`Namespace::delete`] ends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    pub fn create(name: &str) -> Result<Namespace> {
        ip(&["netns", "add", name])?;
        let namespace = Namespace::existing(name);
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// A handle for a namespace that another process made.
    pub fn existing(name: &str) -> Namespace {
        Namespace { name: name.to_owned() }
    }

    pub fn delete(&self) -> Result<()> {
        if self.path().exists() { ip(&["netns", "delete", &self.name]) } else { Ok(()) }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn path(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// The command that lets a person look inside.
    pub fn nsenter(&self) -> String {
        format!("nsenter --net={} bash", self.path().display())
    }

    fn open(&self) -> Result<File> {
        File::open(self.path()).with_context(|| format!("network namespace {} is not there", self.name))
    }

    /// Runs `work` inside, on a thread of its own; sockets it returns stay inside. A panic goes on in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let target = self.open()?;
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                setns(target.as_fd(), CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            });
            match inside.join() {
                Ok(result) => result.map_err(|error: nix::Error| {
                    anyhow::Error::new(error).context(format!("can't enter {}; the lab needs root", self.name))
                }),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// A command whose process starts inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Result<Command> {
        let target = self.open()?;
        let mut command = Command::new(program);
        // SAFETY: between fork and exec only `setns` is called, which is a bare system call.
        unsafe { command.pre_exec(move || Ok(setns(target.as_fd(), CloneFlags::CLONE_NEWNET)?)) };
        Ok(command)
    }

    /// A batch of `ip` commands, one a line, without the word `ip`.
    pub fn ip(&self, batch: &str) -> Result<()> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name, "-batch", "-"]);
        let output = command::run(command, batch, LIMIT)?;
        output.ok().with_context(|| format!("in {}: {}", self.name, batch.trim()))?;
        Ok(())
    }

    /// What one `ip` command prints, for example `ip_show(&["-o", "address"])`.
    pub fn ip_show(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name]).args(arguments);
        command::run(command, "", LIMIT)
    }

    /// Reads a sysctl by its dotted name; a `/` stands for a dot inside an interface's name, as with sysctl(8).
    pub fn sysctl(&self, name: &str) -> Result<String> {
        let path = sysctl_path(name);
        let text = self.run(|| std::fs::read_to_string(&path))?;
        Ok(text.with_context(|| format!("can't read {}", path.display()))?.trim_end().to_owned())
    }

    pub fn set_sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = sysctl_path(name);
        self.run(|| std::fs::write(&path, value))?.with_context(|| format!("can't write {value} to {}", path.display()))
    }
}

fn sysctl_path(name: &str) -> PathBuf {
    let swapped = name.chars().map(|c| match c {
        '.' => '/',
        '/' => '.',
        other => other,
    });
    Path::new("/proc/sys").join(swapped.collect::<String>())
}

fn ip(arguments: &[&str]) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(arguments);
    command::run(command, "", LIMIT).context("the lab needs iproute2")?.ok()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_names_are_paths() {
        assert_eq!(sysctl_path("net.ipv4.ip_forward"), Path::new("/proc/sys/net/ipv4/ip_forward"));
        assert_eq!(sysctl_path("net.ipv4.conf.eth0/7.mtu"), Path::new("/proc/sys/net/ipv4/conf/eth0.7/mtu"));
    }

    #[test]
    fn a_missing_namespace_is_named() {
        let error = Namespace::existing("mesh-lab-none").run(|| ()).unwrap_err().to_string();
        assert_eq!(error, "network namespace mesh-lab-none is not there");
    }
}
