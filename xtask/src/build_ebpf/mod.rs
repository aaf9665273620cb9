//! `cargo xtask build-ebpf`: compiles the packet programs for the BPF target, with BTF: crate mesh-ebpf into `target/bpf/mesh-ebpf`, and the
//! benchmark's own programs (tests/bench-ebpf) into `target/bpf/mesh-bench-ebpf`.
//!
//! mesh-userspace/build.rs embeds the first. The build has its own target directory below `target/bpf`, so that the host's
//! build is not disturbed, and is incremental through cargo. The object's file is rewritten only when its bytes
//! changed: an unchanged one doesn't rebuild the agent. Always optimised: the verifier takes nothing else.

mod stack;

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;
use crate::setup::{self, Compiler, Consent, Toolchain};
use crate::workspace::Workspace;

const TARGET: &str = "bpfel-unknown-none";
/// The crates, each with one binary of its name: the product's, and the benchmark's.
const CRATES: [&str; 2] = ["mesh-ebpf", "mesh-bench-ebpf"];

#[derive(clap::Args, Default)]
pub struct Options {
    /// Lint the crate instead of building it: clippy where the compiler has one for the target, else rustc's own lints
    #[arg(long)]
    lint: bool,
    /// Forward the programs' log records (feature `log`): for development, costs thousands of verified instructions
    #[arg(long)]
    log: bool,
    /// Accepted for habit; every build is a release build
    #[arg(long, hide = true)]
    release: bool,
}

pub fn run(workspace: &Workspace, options: &Options, consent: Consent) -> Result<()> {
    if let Some(object) = std::env::var_os(setup::PREBUILT).map(|path| workspace.root.join(path)) {
        if !object.is_file() {
            bail!("{} names {}, which is not a file", setup::PREBUILT, object.display());
        }
        eprintln!("build-ebpf: {} names {}: nothing to build", setup::PREBUILT, object.display());
        return Ok(());
    }
    let toolchain = setup::toolchain(workspace, consent)?;
    if options.lint {
        return lint(workspace, &toolchain);
    }
    for name in CRATES {
        let mut command = cargo(workspace, &toolchain, "build", name);
        if options.log && name == CRATES[0] {
            command.args(["--features", "log"]);
        }
        process::run(&mut command)?;
        publish(workspace, name)?;
    }
    Ok(())
}

/// Copies the linked object to where the agent's build and the tests look for it.
fn publish(workspace: &Workspace, name: &str) -> Result<()> {
    let built = build_folder(workspace).join(TARGET).join("release").join(name);
    let object = std::fs::read(&built).with_context(|| format!("reading the object {}", built.display()))?;
    for section in [".BTF", ".BTF.ext"] {
        let name = [section.as_bytes(), b"\0"].concat();
        if !object.windows(name.len()).any(|window| window == name) {
            bail!(
                "{} has no section {section}: bpf-linker ran without --btf or the crate without debug info",
                built.display()
            );
        }
    }
    if name == CRATES[0] {
        stack::check(&object)?;
    }
    let place = workspace.object(name);
    if std::fs::read(&place).is_ok_and(|present| present == object) {
        eprintln!("build-ebpf: {} is unchanged", place.display());
        return Ok(());
    }
    // Beside it first: a build that reads at the same moment sees the old or the new object, never half of one.
    let fresh = place.with_extension("new");
    std::fs::write(&fresh, &object).with_context(|| format!("writing {}", fresh.display()))?;
    std::fs::rename(&fresh, &place).with_context(|| format!("putting {} in place", place.display()))?;
    eprintln!("build-ebpf: {} ({} bytes)", place.display(), object.len());
    Ok(())
}

fn lint(workspace: &Workspace, toolchain: &Toolchain) -> Result<()> {
    let has_clippy = matches!(toolchain.compiler, Compiler::Nightly)
        && process::read(Command::new("rustup").args(["run", "nightly", "cargo", "clippy", "--version"])).is_ok();
    if !has_clippy {
        eprintln!("build-ebpf: this compiler has no clippy for the BPF target: checking with rustc's own lints");
    }
    for name in CRATES {
        if has_clippy {
            process::run(cargo(workspace, toolchain, "clippy", name).args(["--", "-D", "warnings"]))?;
        } else {
            let mut command = cargo(workspace, toolchain, "rustc", name);
            // Only this crate's warnings are errors; metadata alone, so nothing is linked.
            process::run(command.args(["--bin", name, "--", "-D", "warnings", "--emit", "metadata"]))?;
        }
    }
    Ok(())
}

/// A cargo command on a crate for the BPF target, by this toolchain.
fn cargo(workspace: &Workspace, toolchain: &Toolchain, verb: &str, name: &str) -> Command {
    let mut command;
    match &toolchain.compiler {
        Compiler::Nightly => {
            command = Command::new("rustup");
            command.args(["run", "nightly", "cargo", verb, "-Z", "build-std=core"]);
            // Those of the cargo that runs us belong to the stable toolchain.
            command.env_remove("RUSTC").env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
        }
        Compiler::Debian(debian) => {
            command = workspace.cargo();
            command.arg(verb).env("RUSTC", &debian.rustc);
            // Lets the released compiler take the unstable features that every eBPF crate needs.
            command.env("RUSTC_BOOTSTRAP", "1");
            if let Some(libraries) = &debian.libraries {
                command.env("LD_LIBRARY_PATH", libraries);
            }
        }
    }
    command
        .current_dir(&workspace.root)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env(
            "RUSTFLAGS",
            format!("-C linker={} -C target-cpu=v3 -C debuginfo=2 -C link-arg=--btf", toolchain.linker.display()),
        )
        .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
        .args(["--release", "--package", name, "--target", TARGET, "--target-dir"])
        .arg(build_folder(workspace));
    command
}

fn build_folder(workspace: &Workspace) -> PathBuf {
    workspace.target.join("bpf").join("build")
}
