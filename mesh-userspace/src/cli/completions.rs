//! `mesh completions SHELL` and the manual pages: both read from the command tree, so they can't be out of date.

use std::path::PathBuf;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::fault::Fault;
use super::{Cli, Screen};

#[derive(Debug, Args)]
pub(super) struct Completions {
    /// For bash: source <(mesh completions bash)
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub(super) fn run(flags: &Completions, screen: &mut Screen) -> Result<(), Fault> {
    let mut script = Vec::new();
    clap_complete::generate(flags.shell, &mut Cli::command(), "mesh", &mut script);
    screen.print(String::from_utf8_lossy(&script))
}

#[derive(Debug, Args)]
pub(super) struct ManualPages {
    /// Where to write them; it must be there
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// `mesh.1`, and a page for each command and each of its verbs: `mesh-service-create.1`.
pub(super) fn manual_pages(flags: &ManualPages) -> Result<(), Fault> {
    clap_mangen::generate_to(Cli::command(), &flags.dir)
        .map_err(|error| Fault::failed(format!("cannot write the manual pages to {}: {error}", flags.dir.display())))
}
