//! What `test`, `lab`, `demo` and `bench` share: everything built once, and a way to run it as root. All but `bench` have one profile, the debug
//! build; what is measured is what users get, the release build.
//!
//! Building is done as the user who called, running as root: a target directory full of root's files is a nuisance.

use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::{self, Consent};
use crate::workspace::{Profile, Workspace};
use crate::{build_ebpf, process};

/// Everything of the workspace but the packet programs, which have another target, and ourselves, who must not be replaced while
/// running. Always built as this one set: cargo then resolves the same features each time and builds nothing twice.
pub const PACKAGES: [&str; 5] = ["mesh-common", "mesh-userspace", "mesh-packet", "mesh-lab", "mesh-tests"];

/// Sets up what is missing, builds the packet programs and the binaries: `mesh`, `whoami`.
pub fn everything(workspace: &Workspace, consent: Consent) -> Result<()> {
    binaries(workspace, Profile::Debug, &PACKAGES, consent)
}

/// The same as users get it, for measurements: the agent, the lab's servers and the benchmark itself.
pub fn released(workspace: &Workspace, consent: Consent) -> Result<()> {
    binaries(workspace, Profile::Release, &["mesh-userspace", "mesh-lab", "mesh-tests"], consent)
}

fn binaries(workspace: &Workspace, profile: Profile, packages: &[&str], consent: Consent) -> Result<()> {
    setup::runtime::ensure(consent)?;
    build_ebpf::run(workspace, &build_ebpf::Options::default(), consent)?;
    let packages = packages.iter().flat_map(|package| ["--package", package]);
    let mut command = workspace.cargo();
    command.args(["build", "--bins"]).args(packages);
    if profile == Profile::Release {
        command.arg("--release");
    }
    process::run(&mut command)?;
    for name in ["mesh", "whoami"] {
        let binary = workspace.built(profile, name);
        if !binary.is_file() {
            bail!("the build left no {}", binary.display());
        }
    }
    Ok(())
}

/// A cargo that builds as the caller and runs what it built as root.
pub fn cargo_as_root_runner(workspace: &Workspace) -> Result<Command> {
    let mut cargo = workspace.cargo();
    if process::is_root() {
        return Ok(cargo);
    }
    if process::find("sudo").is_none() {
        bail!("the tests load BPF programs and make network namespaces: run them as root (there is no sudo here)");
    }
    let version = process::read(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).context("`rustc -vV` names no host")?;
    let variable = format!("CARGO_TARGET_{}_RUNNER", host.to_uppercase().replace('-', "_"));
    cargo.env(variable, "sudo --preserve-env");
    Ok(cargo)
}

/// Where we are not root: runs this same verb again as root, through sudo, and ends with its exit code.
/// For verbs that act themselves, after all that needs no root is done.
pub fn become_root(arguments: &[&str]) -> Result<()> {
    if process::is_root() {
        return Ok(());
    }
    if process::find("sudo").is_none() {
        bail!("the lab makes network namespaces and loads BPF programs: run this as root (there is no sudo here)");
    }
    let ourselves = std::env::current_exe().context("finding our own program")?;
    let mut command = Command::new("sudo");
    command.arg("--preserve-env").arg(ourselves).args(arguments);
    eprintln!("$ {}", process::show(&command));
    let status = command.status().context("starting sudo")?;
    std::process::exit(status.code().unwrap_or(1));
}
