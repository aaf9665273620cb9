//! Where the binaries are that the lab runs: said by the environment, or beside the running program.

use std::env;
use std::path::{Path, PathBuf};

/// The product: MESH_BIN, else `mesh` of the same build.
pub fn mesh() -> PathBuf {
    said_or_beside("MESH_BIN", "mesh")
}

/// The test server: WHOAMI_BIN, else `whoami` of the same build.
pub fn whoami() -> PathBuf {
    said_or_beside("WHOAMI_BIN", "whoami")
}

/// The client that runs inside tasks: ASK_BIN, else `ask` of the same build.
pub fn ask() -> PathBuf {
    said_or_beside("ASK_BIN", "ask")
}

/// Folder of this build: `target/debug`. Tests run from its `deps`.
pub(crate) fn build_dir() -> PathBuf {
    let program = env::current_exe().unwrap_or_default();
    let dir = program.parent().unwrap_or(Path::new("."));
    if dir.ends_with("deps") { dir.parent().unwrap_or(dir).to_owned() } else { dir.to_owned() }
}

fn said_or_beside(variable: &str, name: &str) -> PathBuf {
    env::var_os(variable).map_or_else(|| build_dir().join(name), PathBuf::from)
}
