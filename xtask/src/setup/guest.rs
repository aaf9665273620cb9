//! What `verify` emulates: QEMU, and Debian 12's stock kernel, unpacked into the target directory. The kernel is never installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{Consent, debian};
use crate::process;
use crate::workspace::Workspace;

/// The machine, what its first process is, and what takes debug information out of programs.
const PACKAGES: [&str; 4] = ["qemu-system-x86", "seabios", "busybox-static", "binutils"];
/// The package that stands for the newest build.
const KERNEL: &str = "linux-image-amd64";

/// An unpacked kernel.
pub struct Kernel {
    pub image: PathBuf,
    /// Below it are its modules.
    pub modules: PathBuf,
}

/// Installs what emulates, and finds or downloads the kernel.
pub fn ensure(workspace: &Workspace, consent: Consent) -> Result<Kernel> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("Debian 12's kernel is emulated for x86_64 only, and this is {}", std::env::consts::ARCH);
    }
    debian::ensure_installed(&PACKAGES, "to run Debian 12's kernel in a machine of its own", consent)?;
    let refresh = || {
        consent.obtain("refreshing the package lists, for Debian 12's kernel", "apt-get update")?;
        debian::update()
    };
    if !debian::known(&[KERNEL]) {
        refresh()?;
    }
    match found(workspace) {
        Err(_) => {
            // Lists older than the mirror name files that are gone.
            refresh()?;
            found(workspace)
        }
        kernel => kernel,
    }
}

/// The newest build, unpacked before or now.
fn found(workspace: &Workspace) -> Result<Kernel> {
    let name = build()?;
    let root = workspace.tools().join(format!("linux-{name}"));
    if !root.is_dir() {
        unpack(workspace, &name, &root)?;
    }
    Ok(Kernel::at(&root, &name))
}

/// The newest build that apt knows: `6.1.0-56-amd64`.
fn build() -> Result<String> {
    let depends = process::read(Command::new("apt-cache").args(["depends", "--important", KERNEL]))?;
    let name = depends.lines().find_map(|line| line.trim().strip_prefix("Depends: linux-image-"));
    let name = name.with_context(|| format!("apt knows no build of {KERNEL}: `verify` wants a Debian 12's kernel"))?;
    if !name.starts_with("6.1.") {
        bail!(
            "apt's {KERNEL} is {name}, which is not Debian 12's: `verify` wants the kernel that we promise to run on"
        );
    }
    Ok(name.to_owned())
}

fn unpack(workspace: &Workspace, name: &str, root: &Path) -> Result<()> {
    let (fresh, download) = (root.with_extension("new"), workspace.tools().join("linux-deb"));
    for folder in [&fresh, &download] {
        // Of a run that was interrupted.
        let _ = std::fs::remove_dir_all(folder);
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let package = format!("linux-image-{name}");
    process::run(Command::new("apt-get").args(["download", "-q", &package]).current_dir(&download))?;
    for entry in std::fs::read_dir(&download).with_context(|| format!("listing {}", download.display()))? {
        let file = entry.with_context(|| format!("listing {}", download.display()))?.path();
        process::run(Command::new("dpkg").arg("-x").arg(&file).arg(&fresh))?;
    }
    std::fs::remove_dir_all(&download).with_context(|| format!("removing {}", download.display()))?;
    // Last, so that half a kernel is never taken for a whole one.
    std::fs::rename(&fresh, root).with_context(|| format!("putting {} in place", root.display()))
}

impl Kernel {
    fn at(root: &Path, name: &str) -> Self {
        Kernel { image: root.join("boot").join(format!("vmlinuz-{name}")), modules: root.join("lib/modules") }
    }

    /// A module's file.
    pub fn module(&self, name: &str) -> Result<PathBuf> {
        let mut folders = vec![self.modules.clone()];
        while let Some(folder) = folders.pop() {
            let entries = std::fs::read_dir(&folder).with_context(|| format!("listing {}", folder.display()))?;
            for path in entries.flatten().map(|entry| entry.path()) {
                if path.is_dir() && !path.is_symlink() {
                    folders.push(path);
                } else if path.file_name().is_some_and(|file| *file == *format!("{name}.ko")) {
                    return Ok(path);
                }
            }
        }
        bail!("the kernel below {} has no module {name}", self.modules.display())
    }
}
