//! `mesh-verifier OBJECT`: a line of JSON for each packet program, for `cargo xtask verify`.

use std::path::PathBuf;

use anyhow::{Context, Result};
use mesh_tests::verifier;

fn main() -> Result<()> {
    let object = std::env::args_os().nth(1).map(PathBuf::from).context("name the object with the packet programs")?;
    for answer in verifier::ask(&object)? {
        println!("{answer}");
    }
    Ok(())
}
