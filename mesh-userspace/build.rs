//! Tells the crate where the packet programs' object is: `aya::include_bytes_aligned!(env!("MESH_EBPF_OBJECT_PATH"))`.
//!
//! The object is built beforehand by `cargo xtask build-ebpf`, never from here: it needs another compiler, and a build
//! script that installs things surprises. Named by `MESH_EBPF_OBJECT`
//! (relative to the workspace), or found as `bpf/mesh-ebpf` in the target directory.

use std::path::{Path, PathBuf};

fn main() {
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
