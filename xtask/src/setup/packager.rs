//! cargo-deb: makes the Debian package. Built from source into the target directory, as the linker is.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;
use crate::workspace::{Workspace, cargo};

const VERSION: &str = "3.8.0";

/// Ours in the target directory, built where it is missing: some two minutes on two cores.
pub fn ensure(workspace: &Workspace) -> Result<PathBuf> {
    let packager = workspace.tools().join("bin").join("cargo-deb");
    if version(&packager).is_some_and(|found| found == VERSION) {
        return Ok(packager);
    }
    let scratch = workspace.tools().join("build-cargo-deb");
    process::run(
        Command::new(cargo())
            .args(["install", &format!("cargo-deb@{VERSION}"), "--locked", "--force"])
            .arg("--target-dir")
            .arg(&scratch)
            .arg("--root")
            .arg(workspace.tools()),
    )?;
    std::fs::remove_dir_all(&scratch).with_context(|| format!("removing {}", scratch.display()))?;
    version(&packager).with_context(|| format!("{} was built but does not run", packager.display()))?;
    Ok(packager)
}

fn version(packager: &Path) -> Option<String> {
    let said = process::read(Command::new(packager).arg("--version")).ok()?;
    // `cargo-deb 3.8.0`, or the number alone.
    said.split_whitespace().last().map(str::to_owned)
}
