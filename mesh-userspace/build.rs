//! Tells the crate where the packet programs' object is: `aya::include_bytes_aligned!(env!("MESH_EBPF_OBJECT_PATH"))`.
//!
//! The object is built beforehand by `cargo xtask build-ebpf`, never from here: it needs another compiler, and a build
//! script that installs things surprises. Named by `MESH_EBPF_OBJECT`
//! (relative to the workspace), or found as `bpf/mesh-ebpf` in the target directory.
//!
//! The gate that goes before the commands of containers is built from here, as `MESH_GATE_PATH`: the compiler at hand makes it in a
//! moment. A cargo target of its own would ask every user to build it first, with the right flags.

use std::path::{Path, PathBuf};
use std::process::Command;

fn main() {
    build_gate();
    println!("cargo::rerun-if-env-changed=MESH_EBPF_OBJECT");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let named = std::env::var_os("MESH_EBPF_OBJECT").map(|path| root.join(path));
    let object = named.unwrap_or_else(|| default_object(&root));
    // Also when it is missing: the build goes on by itself once it is there.
    println!("cargo::rerun-if-changed={}", object.display());
    if object.is_file() {
        println!("cargo::rustc-env=MESH_EBPF_OBJECT_PATH={}", object.display());
    } else {
        println!(
            "cargo::error=the packet programs are not built ({} is missing): run `cargo xtask build-ebpf`",
            object.display()
        );
    }
}

/// A static program without a libc: see `gate/main.rs`.
fn build_gate() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("gate/main.rs");
    println!("cargo::rerun-if-changed={}", source.display());
    let variable = |name: &str| std::env::var_os(name).unwrap_or_else(|| panic!("cargo sets {name} for build scripts"));
    let gate = PathBuf::from(variable("OUT_DIR")).join("mesh-gate");
    let mut command = Command::new(variable("RUSTC"));
    command.args(["--edition=2024", "--crate-type=bin", "--crate-name=mesh_gate", "--target"]).arg(variable("TARGET"));
    command.args(["-Cpanic=abort", "-Copt-level=z", "-Cstrip=symbols", "-Crelocation-model=static"]);
    command.args([
        "-Ctarget-feature=+crt-static",
        "-Clink-arg=-nostartfiles",
        "-Clink-arg=-nostdlib",
        "-Clink-arg=-static",
    ]);
    if let Some(linker) = std::env::var_os("RUSTC_LINKER") {
        command.arg("-Clinker").arg(linker);
    }
    match command.arg("-o").arg(&gate).arg(&source).status() {
        Ok(status) if status.success() => println!("cargo::rustc-env=MESH_GATE_PATH={}", gate.display()),
        Ok(status) => println!("cargo::error=building the gate of containers ({}) failed: {status}", source.display()),
        Err(error) => println!("cargo::error=running the compiler for {}: {error}", source.display()),
    }
}

/// `bpf/mesh-ebpf` in the target directory: the nearest folder above our output that has one, else the one cargo marks
/// as a target directory, else the workspace's `target`.
fn default_object(root: &Path) -> PathBuf {
    let output = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR for build scripts"));
    let at = |folder: &Path| folder.join("bpf").join("mesh-ebpf");
    let above = || output.ancestors().skip(1);
    let target = above()
        .find(|folder| at(folder).is_file())
        .or_else(|| above().find(|folder| folder.join("CACHEDIR.TAG").is_file()))
        .map(Path::to_path_buf);
    at(&target.unwrap_or_else(|| root.join("target")))
}
