//! What a task asks of the runtime that runs it: mounts, and what only a container of the Docker Engine has.
//!
//! Runtime `exec` has less; [`TaskSpec::lacking_on_exec`] says what, so that command line, manifest and leader refuse the same
//! things. Invariant: what is asked is done, refused, or named in a warning; nothing is dropped in silence.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::TaskSpec;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// `bind`, `volume` or `tmpfs`.
    pub kind: String,
    /// A path of the host, or a volume's name; a volume without a name belongs to its container alone.
    pub source: String,
    pub target: String,
    pub read_only: bool,
    #[serde(default)]
    pub options: MountOptions,
}

/// What a mount can say beyond where it comes from and goes to; each kind has its own part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountOptions {
    /// Of a volume that is made with the task; None: the Engine's own.
    pub driver: Option<String>,
    pub driver_opts: BTreeMap<String, String>,
    /// Labels of the volume.
    pub labels: BTreeMap<String, String>,
    /// A new volume stays empty instead of getting what the image has at the target.
    pub no_copy: bool,
    /// Only this folder of the volume.
    pub subpath: Option<String>,
    pub tmpfs_size_bytes: Option<u64>,
    /// Permission bits of the tmpfs' root.
    pub tmpfs_mode: Option<u32>,
    /// Of a bind: `private`, `rprivate`, `shared`, `rshared`, `slave`, `rslave`.
    pub propagation: Option<String>,
}

/// A limit of the processes in a container, as `setrlimit(2)` has it; -1: none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    pub soft: i64,
    pub hard: i64,
}

/// What only a container of the Docker Engine has.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Container {
    /// Instead of the image's own, whose command is left out then; None: the image's; empty: none at all. The spec's
    /// `command` follows it, as in Compose.
    pub entrypoint: Option<Vec<String>>,
    /// Labels of the container, not of the service.
    pub labels: BTreeMap<String, String>,
    pub tty: bool,
    /// Standard input stays open.
    pub stdin_open: bool,
    /// None: as the Engine is configured.
    pub init: Option<bool>,
    pub read_only: bool,
    /// Names with or without `CAP_`.
    pub cap_add: Vec<String>,
    pub cap_drop: Vec<String>,
    /// No program gets more rights than the one that started it.
    pub no_new_privileges: bool,
    /// Further groups of the user, by name or number.
    pub group_add: Vec<String>,
    /// `name:address`, further lines of `/etc/hosts`.
    pub extra_hosts: Vec<String>,
    pub sysctls: BTreeMap<String, String>,
    /// By Docker's names: `nofile`, `memlock`.
    pub ulimits: BTreeMap<String, Ulimit>,
    /// Size of `/dev/shm`.
    pub shm_size_bytes: Option<u64>,
    /// Most processes and threads at a time.
    pub pids_limit: Option<u64>,
}

/// Something a task asks for that runtime `exec` does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecLack {
    /// As a manifest has it.
    pub key: &'static str,
    /// As `service create` has it.
    pub flag: &'static str,
    /// Without it data would be lost, or the task be less confined than asked: to be refused, not warned of.
    pub harms: bool,
    pub remedy: &'static str,
}

impl TaskSpec {
    /// What this task asks for and would not get as a command of the host.
    pub fn lacking_on_exec(&self) -> Vec<ExecLack> {
        let mut lacks = Vec::new();
        let mut lack = |asked: bool, key, flag, harms, remedy| {
            if asked {
                lacks.push(ExecLack { key, flag, harms, remedy });
            }
        };
        let asked = &self.container;
        let volume = "volumes need runtime docker; bind a folder of the host (/host/path:/path)";
        lack(self.mounts.iter().any(|mount| mount.kind == "volume"), "volumes", "--mount", true, volume);
        let confined = "it needs runtime docker; take it out to run with the default";
        lack(asked.read_only, "read_only", "--read-only", true, confined);
        lack(!asked.cap_drop.is_empty(), "cap_drop", "--cap-drop", true, confined);
        lack(asked.pids_limit.is_some(), "deploy.resources.limits.pids", "--limit-pids", true, confined);
        let hosts = "it takes NAME:ADDRESS";
        lack(asked.extra_hosts.len() != self.host_lines().len(), "extra_hosts", "--host", true, hosts);
        let ignored = "it needs runtime docker";
        lack(!asked.cap_add.is_empty(), "cap_add", "--cap-add", false, ignored);
        lack(!asked.labels.is_empty(), "labels", "--container-label", false, ignored);
        lack(asked.tty, "tty", "--tty", false, ignored);
        lack(asked.stdin_open, "stdin_open", "--interactive", false, ignored);
        lack(asked.init.is_some(), "init", "--init", false, ignored);
        lack(!asked.group_add.is_empty(), "group_add", "--group", false, ignored);
        lack(!asked.sysctls.is_empty(), "sysctls", "--sysctl", false, ignored);
        lack(!asked.ulimits.is_empty(), "ulimits", "--ulimit", false, ignored);
        lack(asked.shm_size_bytes.is_some(), "shm_size", "--shm-size", false, ignored);
        let propagates = self.mounts.iter().any(|mount| mount.options.propagation.is_some());
        lack(propagates, "volumes", "--mount bind-propagation", false, ignored);
        lacks
    }

    /// `extra_hosts` as lines of `/etc/hosts`, as far as they have an address.
    pub fn host_lines(&self) -> Vec<(IpAddr, String)> {
        let line = |entry: &String| {
            let (name, address) = entry.split_once(':')?;
            Some((address.parse().ok()?, name.to_string()))
        };
        self.container.extra_hosts.iter().filter_map(line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Runtime;

    #[test]
    fn volumes_and_confinement_are_not_dropped_on_exec() {
        let mut task = TaskSpec::new(Runtime::Exec);
        assert_eq!(task.lacking_on_exec(), []);
        task.mounts = vec![Mount { kind: "volume".into(), target: "/data".into(), ..Mount::default() }];
        task.container.read_only = true;
        task.container.tty = true;
        task.container.extra_hosts = vec!["db:10.9.8.7".into(), "six:fd00::6".into()];
        let lacks: Vec<_> = task.lacking_on_exec().iter().map(|lack| (lack.key, lack.harms)).collect();
        assert_eq!(lacks, [("volumes", true), ("read_only", true), ("tty", false)]);
        assert_eq!(
            task.host_lines(),
            [
                ("10.9.8.7".parse().expect("an address"), "db".to_string()),
                ("fd00::6".parse().expect("an address"), "six".to_string())
            ]
        );
        task.container.extra_hosts.push("up:host-gateway".into());
        assert!(task.lacking_on_exec().iter().any(|lack| lack.key == "extra_hosts" && lack.harms));
    }

    #[test]
    fn specs_of_before_are_read() {
        let mount: Mount =
            serde_json::from_str(r#"{"kind":"bind","source":"/a","target":"/b","read_only":true}"#).expect("a mount");
        assert_eq!(mount.options, MountOptions::default());
        let container: Container = serde_json::from_str(r#"{"tty":true}"#).expect("a container");
        assert_eq!(container, Container { tty: true, ..Container::default() });
    }
}
