//! `mesh doctor`: asked of the agent where one answers (it knows the other nodes), else done by this process itself.

use std::path::PathBuf;

use clap::Args;

use super::agent::AgentFlags;
use super::fault::Fault;
use super::render::{Format, Table, parse_format};
use super::{Entries, Screen, chain, on_runtime};
use crate::api::{Client, ErrorKind};
use crate::doctor::{Finding, State};

#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// 'table', or 'json' for one JSON array
    #[arg(long, value_name = "FORMAT", value_parser = parse_format, default_value = "table", hide_default_value = true)]
    format: Format,
    /// How the agent would be started, where none runs: its flags
    #[command(flatten)]
    agent: AgentFlags,
}

pub(super) fn run(flags: Doctor, socket: PathBuf, entries: &Entries, screen: &mut Screen) -> Result<(), Fault> {
    let client = Client::unix(&socket);
    let (findings, is_alone) = match on_runtime(async { Ok(client.doctor().await) })? {
        Ok(findings) => (findings, false),
        Err(error) if error.kind == ErrorKind::Unavailable => {
            let args = flags.agent.resolve(socket.clone())?;
            ((entries.doctor)(args).map_err(|error| Fault::failed(chain(&error)))?, true)
        }
        Err(error) => return Err(error.into()),
    };
    screen.print(match flags.format {
        Format::Table => text(&findings),
        Format::Json => table(&findings).json(),
    })?;
    if is_alone {
        screen.remark(format!("no agent answers at {}: the machine alone was checked", socket.display()));
    }
    if findings.iter().any(|finding| finding.state == State::Failed) { Err(Fault::Exit(1)) } else { Ok(()) }
}

fn table(findings: &[Finding]) -> Table {
    let mut table = Table::new(&[("CHECK", "Check"), ("STATE", "State"), ("FOUND", "Found")]);
    for finding in findings {
        let cells = [finding.check.clone(), word(finding.state).to_string(), finding.found.clone()];
        let remedy = finding.remedy.clone().unwrap_or_default();
        table.row(finding.check.clone(), cells).json_only("Remedy", remedy);
    }
    table
}

fn word(state: State) -> &'static str {
    match state {
        State::Ok => "ok",
        State::Warning => "warning",
        State::Failed => "failed",
    }
}

/// The table, with each remedy below its row.
fn text(findings: &[Finding]) -> String {
    let rows = table(findings).text();
    let mut text = String::new();
    for (line, row) in rows.lines().enumerate() {
        text.push_str(row);
        text.push('\n');
        // The first line has the headings.
        let remedy = line.checked_sub(1).and_then(|row| findings.get(row)?.remedy.as_ref());
        if let Some(remedy) = remedy {
            text.push_str(&format!("    → {remedy}\n"));
        }
    }
    text
}
