//! Tasks as tables: `service ps`, `stack ps`, `node ps`, and `mesh ps` for this node's own.

use clap::Args;

use super::fault::Fault;
use super::render::{Look, Table};
use super::{Screen, age, ports};
use crate::api::{Client, TaskRow};
use crate::model::{TaskHealth, TaskState};

#[derive(Debug, Args)]
pub(super) struct Ps {
    #[command(flatten)]
    look: Look,
}

/// `mesh ps`: nearest is Docker's `ps`, so the words are too; READY says whether services balance to it.
pub(super) async fn ps(flags: Ps, client: &Client, screen: &mut Screen<'_>) -> Result<(), Fault> {
    let listing = client.local_tasks().await?;
    let mut table = Table::new(&[
        ("TASK ID", "ID"),
        ("NAME", "Name"),
        ("IMAGE", "Image"),
        ("CREATED", "Created"),
        ("STATUS", "Status"),
        ("READY", "Ready"),
        ("PORTS", "Ports"),
    ]);
    for row in &listing.rows {
        let ready = match (row.ready, row.draining) {
            (_, true) => "draining",
            (true, _) => "yes",
            (false, _) => "no",
        };
        let cells = [
            flags.look.id(&row.id),
            row.name.clone(),
            row.image.clone(),
            age::ago(listing.at, row.created_at),
            state_and_health(listing.at, row),
            ready.to_string(),
            ports::column(&row.ports),
        ];
        table
            .row(flags.look.id(&row.id), cells)
            .json_only("Status", current_state(listing.at, row))
            .json_only("Health", health_name(row));
    }
    flags.look.show(&table, screen)
}

/// Swarm's task table; a slot's history stands indented below its present task. Rows come sorted from the agent.
pub(super) fn table(at: u64, rows: &[TaskRow], look: &Look) -> Table {
    let mut table = Table::new(&[
        ("ID", "ID"),
        ("NAME", "Name"),
        ("IMAGE", "Image"),
        ("NODE", "Node"),
        ("DESIRED STATE", "DesiredState"),
        ("CURRENT STATE", "CurrentState"),
        ("ERROR", "Error"),
        ("PORTS", "Ports"),
    ]);
    let mut above: Option<&str> = None;
    for row in rows {
        let is_history = above == Some(&row.name);
        above = Some(&row.name);
        let error = match (row.error.as_str(), row.ports_not_taken.as_slice()) {
            ("", []) => String::new(),
            ("", taken) => format!("\"port used by the host itself: {}\"", taken.join(", ")),
            (error, _) => format!("\"{}\"", shorten(error, look)),
        };
        let cells = [
            look.id(&row.id),
            if is_history { format!(" \\_ {}", row.name) } else { row.name.clone() },
            row.image.clone(),
            row.node.clone(),
            state_name(row.desired).to_string(),
            state_and_health(at, row),
            error,
            ports::column(&row.ports),
        ];
        table
            .row(look.id(&row.id), cells)
            .json_only("Name", row.name.clone())
            .json_only("CurrentState", current_state(at, row))
            .json_only("Health", health_name(row))
            .json_only("Error", row.error.clone());
    }
    table
}

/// Docker cuts errors in tables at 30 characters; we at 60, whole with --no-trunc.
fn shorten(error: &str, look: &Look) -> String {
    const LIMIT: usize = 60;
    if look.is_whole() || error.chars().count() <= LIMIT {
        return error.to_string();
    }
    format!("{}…", error.chars().take(LIMIT - 1).collect::<String>())
}

fn current_state(at: u64, row: &TaskRow) -> String {
    format!("{} {}", state_name(row.state), age::ago(at, row.since))
}

/// For people: with the healthcheck's verdict, as Docker's `ps` words it.
fn state_and_health(at: u64, row: &TaskRow) -> String {
    let health = match row.health {
        None => "",
        Some(TaskHealth::Starting) => " (health: starting)",
        Some(TaskHealth::Healthy) => " (healthy)",
        Some(TaskHealth::Unhealthy) => " (unhealthy)",
    };
    format!("{}{health}", current_state(at, row))
}

/// For programs, Docker's words; empty where a task has no healthcheck.
fn health_name(row: &TaskRow) -> &'static str {
    match row.health {
        None => "",
        Some(TaskHealth::Starting) => "starting",
        Some(TaskHealth::Healthy) => "healthy",
        Some(TaskHealth::Unhealthy) => "unhealthy",
    }
}

pub(super) fn state_name(state: TaskState) -> &'static str {
    match state {
        TaskState::New => "New",
        TaskState::Pending => "Pending",
        TaskState::Assigned => "Assigned",
        TaskState::Accepted => "Accepted",
        TaskState::Ready => "Ready",
        TaskState::Preparing => "Preparing",
        TaskState::Starting => "Starting",
        TaskState::Running => "Running",
        TaskState::Complete => "Complete",
        TaskState::Shutdown => "Shutdown",
        TaskState::Failed => "Failed",
        TaskState::Rejected => "Rejected",
        TaskState::Orphaned => "Orphaned",
        TaskState::Remove => "Remove",
    }
}
