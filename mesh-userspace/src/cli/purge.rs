//! `mesh purge`: asked of the agent where one answers, else done by this process itself (as root).

use std::path::PathBuf;

use clap::Args;

use super::agent::AgentFlags;
use super::fault::Fault;
use super::{Entries, Screen, chain, on_runtime};
use crate::api::{Client, ErrorKind};

#[derive(Debug, Args)]
pub(super) struct Purge {
    /// Accepted for scripts: purge never asks back
    #[arg(short, long)]
    force: bool,
    /// Where an agent that no longer runs kept its things: the flags it was started with
    #[command(flatten)]
    agent: AgentFlags,
}

pub(super) fn run(flags: Purge, socket: PathBuf, entries: &Entries, screen: &mut Screen) -> Result<(), Fault> {
    let client = Client::unix(&socket);
    let removed = match on_runtime(async { Ok(client.purge().await) })? {
        Ok(answer) => answer.removed,
        Err(error) if error.kind == ErrorKind::Unavailable && !answers(&socket) => {
            (entries.purge)(flags.agent.resolve(socket)?).map_err(|error| Fault::failed(chain(&error)))?
        }
        Err(error) => return Err(error.into()),
    };
    removed.iter().try_for_each(|line| screen.line(line))
}

/// An agent that is there but can't purge now must not be worked around.
fn answers(socket: &std::path::Path) -> bool {
    std::os::unix::net::UnixStream::connect(socket).is_ok()
}
