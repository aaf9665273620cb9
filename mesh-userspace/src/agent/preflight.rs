//! What must be there before anything is begun: each lack is one line with its remedy.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::{Settings, tc};
use crate::doctor::{OLDEST_KERNEL, kernel_version};
use crate::kernel::bpf::{self, TcWay};
use crate::kernel::net::namespace;
use crate::runtime::exec::cgroup2_root;

/// What an agent takes from its machine.
pub struct Machine {
    /// That tasks live under.
    pub cgroup: PathBuf,
    pub tc: TcWay,
}

/// Checks this machine.
pub fn check(args: &Settings) -> anyhow::Result<Machine> {
    if !namespace::is_root() {
        bail!("mesh agent needs root: it loads packet programs and makes links; run it with sudo");
    }
    let release = nix::sys::utsname::uname()?.release().to_string_lossy().into_owned();
    if kernel_version(&release).is_some_and(|version| version < OLDEST_KERNEL) {
        bail!(
            "this kernel is {release}, mesh needs {}.{} or newer: install a newer kernel",
            OLDEST_KERNEL.0,
            OLDEST_KERNEL.1
        );
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        bail!(
            "this kernel has no BTF (/sys/kernel/btf/vmlinux is missing), mesh needs it: use a kernel with CONFIG_DEBUG_INFO_BTF"
        );
    }
    bpf::check_file_system(&args.bpf_dir)?;
    let cgroup = cgroup(args)?;
    Ok(Machine { cgroup, tc: tc::choose(args.tc)? })
}

fn cgroup(args: &Settings) -> anyhow::Result<PathBuf> {
    match &args.cgroup {
        Some(dir) => {
            std::fs::create_dir_all(dir).with_context(|| format!("make the cgroup {}", dir.display()))?;
            if !dir.join("cgroup.procs").exists() {
                bail!("--cgroup {} is not on a cgroup2 file system: name a directory below one", dir.display());
            }
            Ok(dir.clone())
        }
        None => cgroup2_root().context(
            "no cgroup2 file system is mounted: mount one with 'mount -t cgroup2 none /sys/fs/cgroup/unified', or name one with --cgroup",
        ),
    }
}
