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
    ("busybox", "busybox-static"),
    ("traceroute", "traceroute"),
];
/// What Debian's docker.io would start on a machine with systemd. Tests start Engines of their own; the machine gets none.
const ENGINE_UNITS: [&str; 3] = ["docker.service", "docker.socket", "containerd.service"];
const BPFFS: &str = "/sys/fs/bpf";

/// Installs missing tools, mounts a missing bpffs, checks for cgroup2.
pub fn ensure(consent: Consent) -> Result<()> {
    let missing: Vec<&str> =
        TOOLS.iter().filter(|(program, _)| process::find(program).is_none()).map(|(_, package)| *package).collect();
    if !missing.is_empty() {
        debian::ensure_installed(&missing, "tools of the tests and the lab", consent)?;
    }
    if process::find("dockerd").is_none() {
        install_engine(consent)?;
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

/// Debian's Engine, for the tests of containers, without starting it: its bridge and firewall rules are no business of ours.
fn install_engine(consent: Consent) -> Result<()> {
    if !Path::new("/run/systemd/system").is_dir() {
        return debian::ensure_installed(&["docker.io"], "the Docker Engine, for tests of containers", consent);
    }
    let units = |verb: &str| process::run(process::as_root("systemctl")?.args(["--quiet", verb]).args(ENGINE_UNITS));
    consent.obtain("keeping the Docker Engine from being started", "systemctl mask docker.service docker.socket …")?;
    units("mask")?;
    let installed = debian::ensure_installed(&["docker.io"], "the Docker Engine, for tests of containers", consent);
    units("unmask")?;
    installed?;
    eprintln!("setup: the Docker Engine is installed and disabled; to use it: systemctl enable --now docker");
    units("disable")
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
