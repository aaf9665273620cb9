//! What must be there before anything is begun: each lack is one line with its remedy.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use super::Settings;
use crate::kernel::bpf;
use crate::kernel::net::namespace;
use crate::runtime::exec::cgroup2_root;

/// The first kernel with TCX, whose links can be pinned and swapped: without them a restarted agent could not take over.
const OLDEST: (u32, u32) = (6, 6);

/// Checks this machine; gives the cgroup that tasks live under.
pub fn check(args: &Settings) -> anyhow::Result<PathBuf> {
    if !namespace::is_root() {
        bail!("mesh agent needs root: it loads packet programs and makes links; run it with sudo");
    }
    let release = nix::sys::utsname::uname()?.release().to_string_lossy().into_owned();
    if version(&release).is_some_and(|version| version < OLDEST) {
        bail!("this kernel is {release}, mesh needs {}.{} or newer: install a newer kernel", OLDEST.0, OLDEST.1);
    }
    if !Path::new("/sys/kernel/btf/vmlinux").exists() {
        bail!(
            "this kernel has no BTF (/sys/kernel/btf/vmlinux is missing), mesh needs it: use a kernel with CONFIG_DEBUG_INFO_BTF"
        );
    }
    bpf::check_file_system(&args.bpf_dir)?;
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

/// `6.18.44-fc` → (6, 18).
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_release_has_two_numbers() {
        assert_eq!(version("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(version("6.1.0-41-amd64"), Some((6, 1)));
        assert_eq!(version("weird"), None);
    }
}
