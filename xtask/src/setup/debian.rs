//! Debian's compiler for the BPF target, and Debian packages at large.
//!
//! `rustc-web` is a released compiler whose packages carry a precompiled core for `bpfel-unknown-none`. It conflicts with
//! Debian's `rustc` and `rustup` packages (not with rustup's own installation): where those are installed, its packages
//! are unpacked into the target directory instead, and nothing of the system changes.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Consent;
use crate::process;
use crate::workspace::Workspace;

/// The compiler and core for the BPF target.
const PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];
/// Packages that can't be installed beside `rustc-web`.
const CONFLICTING: [&str; 2] = ["rustc", "rustup"];
/// Where a core for the target is, below a root.
const CORE: &str = "usr/lib/rustlib/bpfel-unknown-none/lib";

/// A Debian compiler that has core for the BPF target.
pub struct Compiler {
    pub rustc: PathBuf,
    /// Where its shared libraries are, when it is unpacked rather than installed.
    pub libraries: Option<PathBuf>,
}

/// Whether this is a machine with Debian's package tools.
pub fn is_here() -> bool {
    process::find("apt-get").is_some() && process::find("dpkg-query").is_some()
}

/// The compiler, installed or unpacked earlier.
pub fn find(workspace: &Workspace) -> Option<Compiler> {
    let installed = Path::new("/").join(CORE).is_dir() && PACKAGES.iter().all(|package| is_installed(package));
    if installed {
        return Some(Compiler { rustc: PathBuf::from("/usr/bin/rustc"), libraries: None });
    }
    let root = unpack_root(workspace);
    let rustc = root.join("usr/bin/rustc");
    (rustc.is_file() && root.join(CORE).is_dir())
        .then(|| Compiler { rustc, libraries: Some(root.join(library_folder())) })
}

/// Installs the compiler, or unpacks it where it would push out the user's own.
pub fn install(workspace: &Workspace, consent: Consent) -> Result<Compiler> {
    if !is_here() {
        bail!(
            "no compiler for the BPF target here, and no apt-get to install Debian's. Install rustup, then: \
             rustup toolchain install nightly --component rust-src   (or name a prebuilt object in {})",
            super::PREBUILT
        );
    }
    if CONFLICTING.iter().any(|package| is_installed(package)) {
        // The unpacked compiler runs with the system's LLVM library, which conflicts with nothing.
        ensure_installed(&["libllvm22"], "the library of Debian's LLVM, for the compiler", consent)?;
        unpack(workspace)?;
    } else {
        ensure_installed(&PACKAGES, "Debian's compiler for the BPF target", consent)?;
    }
    find(workspace)
        .context("Debian's packages are there, but they hold no compiler for the BPF target: is this bookworm?")
}

/// Installs those of the packages that are not installed.
pub fn ensure_installed(packages: &[&str], purpose: &str, consent: Consent) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let by_hand = format!("apt-get update && apt-get install --no-install-recommends {}", missing.join(" "));
    if !is_here() {
        bail!("missing: {} ({purpose}); on Debian: {by_hand}", missing.join(" "));
    }
    if !process::is_root() && process::find("sudo").is_none() {
        bail!("missing: {} ({purpose}). As root: {by_hand}", missing.join(" "));
    }
    consent.obtain(&format!("installing Debian packages ({purpose})"), &by_hand)?;
    if !known(&missing) {
        update()?;
    }
    if install_packages(&missing).is_err() {
        // Lists older than the mirror name files that are gone.
        update()?;
        install_packages(&missing)?;
    }
    Ok(())
}

fn install_packages(packages: &[&str]) -> Result<()> {
    let mut command = process::as_root("env")?;
    command.args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "-q", "--no-install-recommends"]);
    process::run(command.args(packages))
}

pub(super) fn update() -> Result<()> {
    process::run(process::as_root("apt-get")?.args(["update", "-q"]))
}

/// Whether the package lists of this machine, if there are any, know all of these.
pub(super) fn known(packages: &[&str]) -> bool {
    packages
        .iter()
        .all(|package| process::read(Command::new("apt-cache").args(["show", "--no-all-versions", package])).is_ok())
}

fn is_installed(package: &str) -> bool {
    process::read(Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}\n", package]))
        .is_ok_and(|status| status.lines().any(|line| line == "installed"))
}

fn unpack_root(workspace: &Workspace) -> PathBuf {
    workspace.tools().join("debian")
}

/// Downloads the compiler's packages and unpacks them below the target directory.
fn unpack(workspace: &Workspace) -> Result<()> {
    eprintln!(
        "setup: Debian's rustc or rustup package is installed: unpacking rustc-web beside it, into the target directory"
    );
    if !known(&PACKAGES) {
        update()?;
    }
    let (fresh, downloads) = (workspace.tools().join("debian.new"), workspace.tools().join("debs"));
    for folder in [&fresh, &downloads] {
        std::fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    }
    let mut packages: Vec<String> = PACKAGES.map(str::to_owned).to_vec();
    // The host's standard library, for build scripts and macros, and the compiler's own shared libraries.
    packages.extend(standard_libraries("rustc-web")?);
    packages.extend(standard_libraries("libstd-rust-web-dev")?);
    process::run(Command::new("apt-get").args(["download", "-q"]).args(&packages).current_dir(&downloads))?;
    for entry in std::fs::read_dir(&downloads).with_context(|| format!("listing {}", downloads.display()))? {
        let file = entry.with_context(|| format!("listing {}", downloads.display()))?.path();
        process::run(Command::new("dpkg").arg("-x").arg(&file).arg(&fresh))?;
    }
    std::fs::remove_dir_all(&downloads).with_context(|| format!("removing {}", downloads.display()))?;
    // Last, so that an interrupted unpacking is never taken for a whole compiler.
    let root = unpack_root(workspace);
    std::fs::rename(&fresh, &root).with_context(|| format!("putting {} in place", root.display()))
}

/// The packages of the standard library that a package depends on: their names carry the version.
fn standard_libraries(package: &str) -> Result<Vec<String>> {
    let depends = process::read(Command::new("apt-cache").args(["depends", "--important", package]))?;
    Ok(depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .filter(|name| name.starts_with("libstd-rust-web"))
        .map(str::to_owned)
        .collect())
}

/// Debian's folder of shared libraries, below a root.
fn library_folder() -> PathBuf {
    Path::new("usr/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH))
}
