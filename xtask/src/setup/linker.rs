//! bpf-linker: makes one BPF object with BTF out of LLVM bitcode. Built from source against Debian's LLVM.
//!
//! Invariant: its LLVM is at least as new as the compiler's, else it can't read the compiler's bitcode.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::{Consent, debian};
use crate::process;
use crate::workspace::Workspace;

/// The LLVM that our linker is built against: that of Debian's compiler.
pub const LLVM: u32 = 22;
const VERSION: &str = "0.13.0";
/// Headers and libraries of that LLVM, and what a C++ library needs to be linked.
const PACKAGES: [&str; 4] = ["llvm-22-dev", "libpolly-22-dev", "g++", "zlib1g-dev"];

/// Ours in the target directory, else one of at least our version on the path (an older one has an older LLVM).
pub fn find(workspace: &Workspace) -> Option<PathBuf> {
    let ours = place(workspace);
    if version(&ours).is_some_and(|found| found == VERSION) {
        return Some(ours);
    }
    let other = process::find("bpf-linker")?;
    (numbers(&version(&other)?) >= numbers(VERSION)).then_some(other)
}

/// Builds ours: some 40 seconds on two cores.
pub fn build(workspace: &Workspace, consent: Consent) -> Result<PathBuf> {
    debian::ensure_installed(&PACKAGES, "LLVM, to build bpf-linker with", consent)?;
    let prefix = format!("/usr/lib/llvm-{LLVM}");
    let scratch = workspace.tools().join("build");
    process::run(
        Command::new(crate::workspace::cargo())
            .env("LLVM_PREFIX", &prefix)
            .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
            .env("RUSTFLAGS", format!("-L{prefix}/lib"))
            .args(["install", &format!("bpf-linker@{VERSION}"), "--locked", "--force"])
            .args(["--no-default-features", "--features", &format!("llvm-{LLVM}")])
            .arg("--target-dir")
            .arg(&scratch)
            .arg("--root")
            .arg(workspace.tools()),
    )?;
    std::fs::remove_dir_all(&scratch).with_context(|| format!("removing {}", scratch.display()))?;
    let linker = place(workspace);
    version(&linker).with_context(|| format!("{} was built but does not run", linker.display()))?;
    Ok(linker)
}

fn place(workspace: &Workspace) -> PathBuf {
    workspace.tools().join("bin").join("bpf-linker")
}

fn version(linker: &Path) -> Option<String> {
    let text = process::read(Command::new(linker).arg("--version")).ok()?;
    Some(text.trim().strip_prefix("bpf-linker ")?.to_owned())
}

fn numbers(version: &str) -> Vec<u32> {
    version.split('.').map_while(|part| part.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_number_not_by_letter() {
        assert!(numbers("0.13.0") > numbers("0.9.15"));
        assert!(numbers("0.13.1") > numbers(VERSION));
    }
}
