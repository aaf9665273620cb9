//! What we are compared with, each built beside our nodes on the same kernel: its own namespaces, two backends, the same servers.
//!
//! Namespaces bear the lab's name, so the lab's end is theirs. A rival is set up as its users set it up, never slower.

pub mod haproxy;
pub mod ingress;
pub mod iptables;
pub mod nftables;
pub mod overlay;
pub mod routed;

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use mesh_lab::{Lab, Namespace, wiring};

const LIMIT: Duration = Duration::from_secs(10);

/// Where rivals are built.
#[derive(Clone, Copy)]
pub struct Ground<'a> {
    pub lab: &'a Lab,
    /// The benchmark's files.
    pub folder: &'a Path,
}

impl Ground<'_> {
    /// A new namespace that ends with the lab; `name` is letters and digits.
    pub fn namespace(&self, name: &str) -> Result<Namespace> {
        Namespace::create(&wiring::namespace_name(self.lab.id(), name))
    }
}

/// Runs a program in a namespace, with text for its input; it must succeed.
fn run(namespace: &Namespace, words: &[&str], input: &str) -> Result<()> {
    let mut command = namespace.command(words[0])?;
    command.args(&words[1..]);
    mesh_lab::run_command(command, input, LIMIT)?.ok().map(drop)
}
