//! rustup's nightly with `rust-src`: the usual way to build eBPF in Rust, where rustup has it or can fetch it.
//!
//! Touches only the user's rustup, never the system; offline it gives up within a bound so that setup goes on.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::linker;
use crate::process;

/// A component is a few megabytes, a whole toolchain hundreds.
const COMPONENT_LIMIT: Duration = Duration::from_secs(45);
const TOOLCHAIN_LIMIT: Duration = Duration::from_secs(300);

/// Whether there is a nightly whose sources of core are here and whose bitcode our linker can read.
pub fn usable() -> bool {
    let Some(sysroot) = rustc(&["--print", "sysroot"]) else { return false };
    let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
    core.is_file() && linker_reads_it()
}

/// Tries to make nightly usable: the missing component where nightly is installed, and the whole toolchain only where
/// there is no Debian to give a released compiler.
pub fn obtain(debian: bool) -> bool {
    if process::find("rustup").is_none() {
        return false;
    }
    let fetched = if rustc(&["-vV"]).is_some() {
        let add = ["component", "add", "rust-src", "--toolchain", "nightly"];
        linker_reads_it() && process::succeeds_within(Command::new("rustup").args(add), COMPONENT_LIMIT)
    } else if !debian {
        let install = ["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"];
        process::succeeds_within(Command::new("rustup").args(install), TOOLCHAIN_LIMIT)
    } else {
        false
    };
    fetched && usable()
}

/// An LLVM reads bitcode of its own version and older.
fn linker_reads_it() -> bool {
    rustc(&["-vV"]).and_then(|text| llvm_of(&text)).is_some_and(|version| version <= linker::LLVM)
}

fn llvm_of(version_text: &str) -> Option<u32> {
    let line = version_text.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    line.split('.').next()?.trim().parse().ok()
}

/// What nightly's compiler prints, or none where rustup has no nightly. Never installs one on the way.
fn rustc(arguments: &[&str]) -> Option<String> {
    process::find("rustup")?;
    let mut command = Command::new("rustup");
    command.args(["run", "nightly", "rustc"]).args(arguments).env("RUSTUP_AUTO_INSTALL", "0");
    process::read(&mut command).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_of_a_compiler_is_read_from_its_version_text() {
        assert_eq!(llvm_of("rustc 1.97.0-nightly\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n"), Some(22));
        assert_eq!(llvm_of("rustc 1.97.0-nightly\n"), None);
    }
}
