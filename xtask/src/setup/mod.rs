//! `cargo xtask setup`: finds, or with consent installs, what eBPF in Rust and our tests need.
//!
//! Called by every other verb, so the check on a machine that has everything costs milliseconds and says nothing.
//! Order: rustup's nightly with `rust-src`, where rustup has or can give it; else Debian's packages. Both link with a
//! `bpf-linker` of the LLVM in [`linker::LLVM`]. Why: docs/decisions/0001-ebpf-toolchain.md.
//! Invariant: a system package is installed only after consent (`--yes`, `CI`, or the user's word), and the command is
//! shown. Everything else lands in the target directory, so `cargo clean` undoes it.

pub mod debian;
pub mod guest;
pub mod linker;
mod nightly;
pub mod packager;
pub mod rivals;
pub mod runtime;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// Names the toolchain to use, where both are there: `nightly` or `debian`.
const CHOICE: &str = "MESH_EBPF_TOOLCHAIN";
/// Names a prebuilt object; then no toolchain is needed.
pub const PREBUILT: &str = "MESH_EBPF_OBJECT";

#[derive(clap::Args)]
pub struct Options {
    /// Only what building needs: no tools of the tests, no mounts
    #[arg(long)]
    build_only: bool,
}

/// What compiles to the BPF target.
pub enum Compiler {
    /// rustup's nightly: core is built from its sources.
    Nightly,
    /// Debian's compiler, installed or unpacked: core is precompiled.
    Debian(debian::Compiler),
}

/// A compiler and a linker that fit each other.
pub struct Toolchain {
    pub compiler: Compiler,
    pub linker: PathBuf,
}

/// How the user agrees to changes of the system.
#[derive(Clone, Copy)]
pub struct Consent {
    given: bool,
}

impl Consent {
    /// Given by `--yes`, or by a CI that has nobody to ask.
    pub fn new(yes: bool) -> Self {
        Self { given: yes || crate::workspace::in_ci() }
    }

    /// Says what is about to be done to the system, and asks where consent was not given beforehand.
    pub fn obtain(self, what: &str, command: &str) -> Result<()> {
        eprintln!("setup: {what}:\n    {command}");
        if self.given {
            return Ok(());
        }
        if !std::io::stdin().is_terminal() {
            bail!("nobody to ask for consent: run the command above, or call this verb with --yes");
        }
        eprint!("Run it now? [y/N] ");
        std::io::stderr().flush().context("asking")?;
        let mut answer = String::new();
        std::io::stdin().read_line(&mut answer).context("reading the answer")?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            bail!("not installed: run the command above by hand, then call this verb again");
        }
        Ok(())
    }
}

pub fn run(workspace: &Workspace, options: &Options, consent: Consent) -> Result<()> {
    match std::env::var_os(PREBUILT) {
        Some(object) => println!("setup: {PREBUILT} names the object {}: no eBPF toolchain needed", object.display()),
        None => println!("setup: {}", toolchain(workspace, consent)?.describe()),
    }
    if !options.build_only {
        runtime::ensure(consent)?;
        println!("setup: tools of the tests, bpffs and cgroup2 are there");
    }
    Ok(())
}

impl Toolchain {
    /// One line for people: what compiles, what links.
    pub fn describe(&self) -> String {
        let compiler = match &self.compiler {
            Compiler::Nightly => "rustup's nightly, core built from rust-src".to_owned(),
            Compiler::Debian(debian) => format!("Debian's {}, precompiled core", debian.rustc.display()),
        };
        format!("eBPF is compiled by {compiler}; linked by {}", self.linker.display())
    }
}

/// The toolchain that builds the packet programs, installed where it is missing.
pub fn toolchain(workspace: &Workspace, consent: Consent) -> Result<Toolchain> {
    let compiler = compiler(workspace, consent)?;
    let linker = match linker::find(workspace) {
        Some(linker) => linker,
        None => linker::build(workspace, consent)?,
    };
    Ok(Toolchain { compiler, linker })
}

fn compiler(workspace: &Workspace, consent: Consent) -> Result<Compiler> {
    let choice = std::env::var(CHOICE).ok();
    match choice.as_deref() {
        Some("nightly") if nightly::usable() => return Ok(Compiler::Nightly),
        Some("nightly") => bail!(
            "{CHOICE}=nightly, but there is no nightly with rust-src and LLVM {} or older: \
             rustup toolchain install nightly --component rust-src",
            linker::LLVM
        ),
        None if nightly::usable() => return Ok(Compiler::Nightly),
        None | Some("debian") => {}
        Some(other) => bail!("{CHOICE}={other}: it is `nightly` or `debian`"),
    }
    if let Some(found) = debian::find(workspace) {
        return Ok(Compiler::Debian(found));
    }
    if choice.is_none() && nightly::obtain(debian::is_here()) {
        return Ok(Compiler::Nightly);
    }
    debian::install(workspace, consent).map(Compiler::Debian)
}
