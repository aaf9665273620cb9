//! `cargo xtask package`: the Debian package: binary, unit, manual pages, completions.
//!
//! What belongs into it stands in mesh-userspace/Cargo.toml (`package.metadata.deb`) and mesh-userspace/packaging/. Manual pages and
//! completions are written by the binary that is packed, so they say what it does. Everything is laid out in a target directory of its own
//! first: the packager takes a release build from there, and does not mind which profile made it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup::{self, Consent};
use crate::workspace::Workspace;
use crate::{build_ebpf, process};

const CRATE: &str = "mesh-userspace";
const SHELLS: [&str; 3] = ["bash", "zsh", "fish"];

#[derive(clap::Args)]
pub struct Options {
    /// The package's version, where it is not the workspace's
    #[arg(long, value_name = "VERSION")]
    deb_version: Option<String>,
    /// Pack the debug build: quicker to make, larger; for trying the package itself
    #[arg(long)]
    debug: bool,
}

pub fn run(workspace: &Workspace, options: &Options, consent: Consent) -> Result<()> {
    build_ebpf::run(workspace, &build_ebpf::Options::default(), consent)?;
    let profile: &[&str] = if options.debug { &[] } else { &["--release"] };
    process::run(workspace.cargo().args(["build", "--package", CRATE, "--bin", "mesh"]).args(profile))?;
    let binary = workspace.target.join(if options.debug { "debug" } else { "release" }).join("mesh");
    let package = pack(workspace, &binary, options.deb_version.as_deref(), &workspace.target.join("debian"))?;
    println!("{}", package.display());
    Ok(())
}

/// Two packages of the debug build, one newer than the other, for the tests of installing and upgrading. None on a machine that knows no
/// such packages: there the tests say that they can't run.
pub fn for_tests(workspace: &Workspace) -> Result<()> {
    if !can_pack() {
        return Ok(());
    }
    let folder = workspace.target.join("debian-tests");
    if folder.exists() {
        std::fs::remove_dir_all(&folder).with_context(|| format!("removing {}", folder.display()))?;
    }
    for version in ["0.0.1~test", "0.0.2~test"] {
        pack(workspace, &workspace.binary("mesh"), Some(version), &folder)?;
    }
    Ok(())
}

/// Whether this machine has what reads and makes such packages.
pub fn can_pack() -> bool {
    process::find("dpkg-deb").is_some() && process::find("strip").is_some()
}

fn pack(workspace: &Workspace, binary: &Path, version: Option<&str>, into: &Path) -> Result<PathBuf> {
    if !can_pack() {
        bail!("making a Debian package needs dpkg-deb and strip: on Debian, apt-get install dpkg binutils");
    }
    let packager = setup::packager::ensure(workspace)?;
    let stage = workspace.target.join("package");
    lay_out(binary, &stage.join("release"))?;
    std::fs::create_dir_all(into).with_context(|| format!("making {}", into.display()))?;
    let mut command = Command::new(packager);
    command.current_dir(&workspace.root).env("CARGO_TARGET_DIR", &stage);
    command.args(["--no-build", "--strip", "--no-dbgsym", "--package", CRATE]).arg("--output").arg(into);
    if let Some(version) = version {
        command.args(["--deb-version", version]);
    }
    eprintln!("$ {}", process::show(&command));
    let said = process::read(&mut command)?;
    let package = PathBuf::from(said.lines().last().unwrap_or_default().trim());
    let package = workspace.root.join(package);
    if !package.is_file() {
        bail!("the packager left no package; it said: {said}");
    }
    Ok(package)
}

/// The binary, and what it writes about itself, where the assets look for them.
fn lay_out(binary: &Path, release: &Path) -> Result<()> {
    let texts = release.join("package");
    if texts.exists() {
        std::fs::remove_dir_all(&texts).with_context(|| format!("removing {}", texts.display()))?;
    }
    let man = texts.join("man");
    std::fs::create_dir_all(&man).with_context(|| format!("making {}", man.display()))?;
    let packed = release.join("mesh");
    std::fs::copy(binary, &packed).with_context(|| format!("copying {} to {}", binary.display(), packed.display()))?;
    process::run(Command::new(&packed).arg("manual-pages").arg(&man))?;
    let pages = std::fs::read_dir(&man).with_context(|| format!("listing {}", man.display()))?;
    let pages: Vec<PathBuf> = pages.filter_map(|page| Some(page.ok()?.path())).collect();
    // Without a time stamp: the same sources make the same package.
    process::read(Command::new("gzip").args(["-9", "--no-name", "--quiet"]).args(pages))?;
    for shell in SHELLS {
        let script = process::read(Command::new(&packed).args(["completions", shell]))?;
        let file = texts.join(format!("mesh.{shell}"));
        std::fs::write(&file, script).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(())
}
