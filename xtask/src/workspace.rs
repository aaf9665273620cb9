//! Where things are: the clone, cargo's target directory, and what our verbs put there.
//!
//! Cargo is asked, so `CARGO_TARGET_DIR` and `build.target-dir` hold. Nothing is written outside the target directory.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// The places of one clone. All paths are absolute.
pub struct Workspace {
    /// The folder of the workspace's `Cargo.toml`.
    pub root: PathBuf,
    /// Cargo's target directory.
    pub target: PathBuf,
}

/// How the workspace's binaries are compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// For whatever asks whether something works.
    Debug,
    /// For whatever asks how fast it is.
    Release,
}

impl Workspace {
    /// Asks cargo, from wherever in the tree the verb was called.
    pub fn find() -> Result<Self> {
        let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
        let answer = process::read(
            Command::new(cargo())
                .args(["metadata", "--no-deps", "--format-version", "1", "--manifest-path"])
                .arg(&manifest),
        )?;
        let metadata: serde_json::Value = serde_json::from_str(&answer).context("reading `cargo metadata`")?;
        let place = |key: &str| {
            let text = metadata[key].as_str().with_context(|| format!("`cargo metadata` names no {key}"))?;
            anyhow::Ok(PathBuf::from(text))
        };
        Ok(Self { root: place("workspace_root")?, target: place("target_directory")? })
    }

    /// The object of a crate of packet programs, where `build-ebpf` leaves it; mesh-userspace/build.rs looks for mesh-ebpf's.
    pub fn object(&self, name: &str) -> PathBuf {
        self.target.join("bpf").join(name)
    }

    /// Programs that `setup` built or unpacked for this clone alone.
    pub fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// A binary of the workspace's debug build: the one profile of tests, lab and demo, so nothing is built twice.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.built(Profile::Debug, name)
    }

    /// A binary of either build.
    pub fn built(&self, profile: Profile, name: &str) -> PathBuf {
        let folder = match profile {
            Profile::Debug => "debug",
            Profile::Release => "release",
        };
        self.target.join(folder).join(name)
    }

    /// A cargo command in the clone's root.
    pub fn cargo(&self) -> Command {
        let mut command = Command::new(cargo());
        command.current_dir(&self.root);
        command
    }
}

/// The cargo that runs us; by name where we were started without one.
pub fn cargo() -> OsString {
    std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// Whether a CI runs us: nobody can be asked, and a test that can't run is a failure.
pub fn in_ci() -> bool {
    std::env::var_os("CI").is_some_and(|value| !value.is_empty() && value != "false" && value != "0")
}
