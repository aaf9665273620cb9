//! `mesh node …`

use clap::{Args, Subcommand, ValueEnum};

use super::fault::Fault;
use super::render::{Look, Table, pretty};
use super::{Screen, inspect, task};
use crate::api::{Client, ManagerStatus, NodeRow, NodeState, NodeUpdate};
use crate::model::Availability;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List the nodes
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Show nodes in full, as JSON
    Inspect(Inspect),
    /// List the tasks on nodes
    Ps(Ps),
    /// Remove nodes from the cluster
    #[command(visible_alias = "remove")]
    Rm(Rm),
    /// Change a node
    Update(Update),
}

#[derive(Debug, Args)]
pub(super) struct Ls {
    #[command(flatten)]
    look: Look,
}

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// Name, id or 'self'
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Ps {
    #[command(flatten)]
    look: Look,
    /// Name, id or 'self'
    #[arg(default_value = "self", value_name = "NODE")]
    nodes: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Rm {
    /// Remove it although it is not down
    #[arg(short, long)]
    force: bool,
    #[arg(required = true, value_name = "NODE")]
    nodes: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum AvailabilityWord {
    /// Takes tasks
    Active,
    /// Keeps its tasks, takes no new ones
    Pause,
    /// Gives its tasks away
    Drain,
}

#[derive(Debug, Args)]
pub(super) struct Update {
    #[arg(long)]
    availability: Option<AvailabilityWord>,
    /// Set a label
    #[arg(long, value_name = "K=V")]
    label_add: Vec<String>,
    /// Remove a label
    #[arg(long, value_name = "K")]
    label_rm: Vec<String>,
    #[arg(value_name = "NODE")]
    node: String,
}

pub(super) async fn run(verb: Verb, client: &Client, screen: &mut Screen<'_>) -> Result<(), Fault> {
    match verb {
        Verb::Ls(flags) => flags.look.show(&table(&client.nodes().await?.rows, &flags.look), screen),
        Verb::Inspect(flags) => {
            let mut values = Vec::new();
            for node in &flags.nodes {
                values.push(inspect::node(&client.node(node).await?));
            }
            screen.print(pretty(&values.into()))
        }
        Verb::Ps(flags) => {
            let (mut at, mut rows) = (0, Vec::new());
            for node in &flags.nodes {
                let listing = client.tasks_of_node(node).await?;
                at = listing.at;
                rows.extend(listing.rows);
            }
            flags.look.show(&task::table(at, &rows, &flags.look), screen)
        }
        Verb::Rm(flags) => {
            for node in &flags.nodes {
                client.node_remove(node, flags.force).await?;
                screen.line(node)?;
            }
            Ok(())
        }
        Verb::Update(flags) => update(flags, client, screen).await,
    }
}

async fn update(flags: Update, client: &Client, screen: &mut Screen<'_>) -> Result<(), Fault> {
    let availability = flags.availability.map(|word| match word {
        AvailabilityWord::Active => Availability::Active,
        AvailabilityWord::Pause => Availability::Pause,
        AvailabilityWord::Drain => Availability::Drain,
    });
    let label_add = flags.label_add.iter().map(|label| split_label(label)).collect();
    let update = NodeUpdate { availability, label_add, label_rm: flags.label_rm };
    if update == NodeUpdate::default() {
        return Err(Fault::usage("node update changes nothing; give --availability, --label-add or --label-rm"));
    }
    client.node_update(&flags.node, &update).await?;
    screen.line(flags.node)
}

/// `K=V`, or `K` for an empty value, as Docker takes labels.
pub(super) fn split_label(label: &str) -> (String, String) {
    let (key, value) = label.split_once('=').unwrap_or((label, ""));
    (key.to_string(), value.to_string())
}

pub(super) fn table(rows: &[NodeRow], look: &Look) -> Table {
    let mut table = Table::new(&[
        ("ID", "ID"),
        ("HOSTNAME", "Hostname"),
        ("STATUS", "Status"),
        ("AVAILABILITY", "Availability"),
        ("MANAGER STATUS", "ManagerStatus"),
        ("ENGINE VERSION", "EngineVersion"),
    ]);
    for row in rows {
        let id = look.id(&row.id);
        let shown = if row.is_self { format!("{id} *") } else { id.clone() };
        let cells = [
            shown,
            row.hostname.clone(),
            state_name(row.state).to_string(),
            availability_name(row.availability, true).to_string(),
            row.manager.map_or("", manager_name).to_string(),
            // Docker's heading: the Engine's where one answers, else what stands in for it.
            row.engine_version.clone().unwrap_or_else(|| row.agent_version.clone()),
        ];
        table
            .row(id.clone(), cells)
            .json_only("ID", id)
            .json_only("Self", row.is_self)
            .json_only("MeshVersion", row.agent_version.clone())
            .json_only("Address", row.address.to_string());
    }
    table
}

pub(super) fn state_name(state: NodeState) -> &'static str {
    match state {
        NodeState::Ready => "Ready",
        NodeState::Down => "Down",
        NodeState::Unknown => "Unknown",
    }
}

pub(super) fn availability_name(availability: Availability, capital: bool) -> &'static str {
    match (availability, capital) {
        (Availability::Active, true) => "Active",
        (Availability::Pause, true) => "Pause",
        (Availability::Drain, true) => "Drain",
        (Availability::Active, false) => "active",
        (Availability::Pause, false) => "pause",
        (Availability::Drain, false) => "drain",
    }
}

pub(super) fn manager_name(status: ManagerStatus) -> &'static str {
    match status {
        ManagerStatus::Leader => "Leader",
        ManagerStatus::Reachable => "Reachable",
        ManagerStatus::Unreachable => "Unreachable",
    }
}
