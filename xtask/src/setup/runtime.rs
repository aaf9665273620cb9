//! What running needs, tests and lab alike: a few programs of Debian, bpffs and cgroup2.
//!
//! Mounts bpffs where it is missing, and says so; a missing cgroup2 is only told, because where it belongs is the
//! machine's business.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::{Consent, debian};
use crate::process;

/// Program, Debian package.
const TOOLS: [(&str, &str); 8] = [
    ("ip", "iproute2"),
    ("ping", "iputils-ping"),
    ("curl", "curl"),
    ("bpftool", "bpftool"),
    ("tcpdump", "tcpdump"),
    ("ps", "procps"),
    ("dockerd", "docker.io"),
    ("busybox", "busybox-static"),
];
const BPFFS: &str = "/sys/fs/bpf";

/// Installs missing tools, mounts a missing bpffs, checks for cgroup2.
pub fn ensure(consent: Consent) -> Result<()> {
    let missing: Vec<&str> =
        TOOLS.iter().filter(|(program, _)| process::find(program).is_none()).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        debian::ensure_installed(&missing, "tools of the tests and the lab", consent)?;
    }
    let mounts = std::fs::read_to_string("/proc/self/mounts").context("reading /proc/self/mounts")?;
    if !is_mounted(&mounts, "bpf", Some(BPFFS)) {
        eprintln!("setup: no bpffs at {BPFFS}: mounting it");
        process::run(process::as_root("mount")?.args(["-t", "bpf", "bpf", BPFFS]))?;
    }
    if !is_mounted(&mounts, "cgroup2", None) {
        let place =
            if Path::new("/sys/fs/cgroup/unified").is_dir() { "/sys/fs/cgroup/unified" } else { "/sys/fs/cgroup" };
        bail!("cgroup2 is not mounted anywhere: as root, mount -t cgroup2 cgroup2 {place}");
    }
    Ok(())
}

fn is_mounted(mounts: &str, kind: &str, at: Option<&str>) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        let place = fields.next();
        fields.next() == Some(kind) && (at.is_none() || place == at)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\nbpf /run/bpf bpf rw 0 0\n";

    #[test]
    fn a_mount_is_known_by_kind_and_place() {
        assert!(is_mounted(MOUNTS, "cgroup2", None));
        assert!(is_mounted(MOUNTS, "bpf", Some("/run/bpf")));
        assert!(!is_mounted(MOUNTS, "bpf", Some(BPFFS)));
    }
}
