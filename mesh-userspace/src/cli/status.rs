//! `mesh status`: one screen.

use clap::Args;

use super::fault::Fault;
use super::render::{Format, Look, parse_format, pretty};
use super::{Screen, node, service, task};
use crate::api::{Client, DropRow, StatusAnswer};
use crate::model::{Role, Settings};

#[derive(Debug, Args)]
pub(super) struct Status {
    /// 'table', or 'json' for everything as JSON
    #[arg(long, value_name = "FORMAT", value_parser = parse_format, default_value = "table", hide_default_value = true)]
    format: Format,
}

pub(super) async fn run(flags: Status, client: &Client, screen: &mut Screen<'_>) -> Result<(), Fault> {
    let status = client.status().await?;
    match flags.format {
        Format::Table => screen.print(text(&status)),
        Format::Json => {
            let value = serde_json::to_value(&status)
                .map_err(|error| Fault::failed(format!("the status can't be written as JSON: {error}")))?;
            screen.print(pretty(&value))
        }
    }
}

fn text(status: &StatusAnswer) -> String {
    let look = Look::default();
    let mut text = format!("Node:     {} (mesh {})\n", status.node_name, status.agent_version);
    match &status.swarm {
        None => text.push_str("Swarm:    none; 'mesh swarm init' starts one, 'mesh swarm join' enters one\n"),
        Some(swarm) => {
            let role = if swarm.role == Role::Manager { "manager" } else { "worker" };
            text.push_str(&format!(
                "Swarm:    {role} {}, {} nodes, {} managers, revision {}\n",
                swarm.node_id.short(),
                swarm.nodes,
                swarm.managers,
                swarm.revision
            ));
            if let Some(settings) = &swarm.settings {
                text.push_str(&format!(
                    "Networks: /{} each from {}, /{} from {}, tunnel on udp {}\n",
                    settings.subnet_len,
                    settings.address_pool,
                    Settings::SUBNET6_LEN,
                    settings.pool_of_ipv6(),
                    settings.data_path_port
                ));
            }
            if let Some(xdp) = &status.xdp {
                text.push_str(&format!("XDP:      {xdp}\n"));
            }
            text.push_str(&format!("\nNODES\n{}", node::table(&status.nodes, &look).text()));
            text.push_str(&format!("\nSERVICES\n{}", service::table(&status.services, &look).text()));
            text.push_str(&format!("\nTASKS HERE\n{}", task::table(status.at, &status.local_tasks, &look).text()));
        }
    }
    if !status.drops.is_empty() {
        text.push_str("\nDROPS since the packet programs were loaded\n");
        for row in &status.drops {
            let DropRow { hook, reason, packets, remedy, .. } = row;
            text.push_str(&format!("  {packets} {reason} at {hook}: {remedy}\n"));
        }
    }
    if !status.warnings.is_empty() {
        text.push_str("\nWARNINGS\n");
        status.warnings.iter().for_each(|warning| text.push_str(&format!("  {warning}\n")));
    }
    text
}
