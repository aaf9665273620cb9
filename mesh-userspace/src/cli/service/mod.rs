//! `mesh service …`

mod container;
mod create;
mod flags;
mod mount;
mod update;

use clap::{Args, Subcommand};

pub(super) use create::Registry;

use super::fault::Fault;
use super::render::{Look, Table, pretty};
use super::{Screen, inspect, logs, ports, progress, task};
use crate::api::{Client, ScaleItem, ServiceRow};
use crate::model::Mode;

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Start a service
    Create(Box<create::Create>),
    /// List the services
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// List the tasks of services, with their history
    Ps(Ps),
    /// Show services in full, as JSON
    Inspect(Inspect),
    /// Set how many tasks services have
    Scale(Scale),
    /// Change a service
    Update(Box<update::Update>),
    /// Take back a service's last change
    Rollback(Rollback),
    /// Show the output of a service's or a task's processes
    Logs(logs::Logs),
    /// Remove services
    #[command(visible_alias = "remove")]
    Rm(Rm),
}

#[derive(Debug, Args)]
pub(super) struct Ls {
    #[command(flatten)]
    look: Look,
}

#[derive(Debug, Args)]
pub(super) struct Ps {
    #[command(flatten)]
    look: Look,
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Inspect {
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Scale {
    #[command(flatten)]
    wait: progress::Wait,
    #[arg(required = true, value_name = "SERVICE=REPLICAS", value_parser = parse_scale)]
    items: Vec<ScaleItem>,
}

#[derive(Debug, Args)]
pub(super) struct Rollback {
    #[command(flatten)]
    wait: progress::Wait,
    service: String,
}

#[derive(Debug, Args)]
pub(super) struct Rm {
    #[arg(required = true, value_name = "SERVICE")]
    services: Vec<String>,
}

fn parse_scale(text: &str) -> Result<ScaleItem, String> {
    let fail = || format!("'{text}' is not SERVICE=REPLICAS, e.g. whoami=2");
    let (service, replicas) = text.split_once('=').ok_or_else(fail)?;
    Ok(ScaleItem { service: service.to_string(), replicas: replicas.parse().map_err(|_| fail())? })
}

pub(super) async fn run(verb: Verb, client: &Client, screen: &mut Screen<'_>) -> Result<(), Fault> {
    match verb {
        Verb::Create(flags) => create::run(*flags, client, screen).await,
        Verb::Ls(flags) => {
            let rows = client.services().await?.rows;
            flags.look.show(&table(&rows, &flags.look), screen)
        }
        Verb::Ps(flags) => ps(flags, client, screen).await,
        Verb::Inspect(flags) => {
            let mut values = Vec::new();
            for service in &flags.services {
                values.push(inspect::service(&client.service(service).await?));
            }
            screen.print(pretty(&values.into()))
        }
        Verb::Scale(flags) => scale(flags, client, screen).await,
        Verb::Update(flags) => update::run(*flags, client, screen).await,
        Verb::Rollback(flags) => rollback(flags, client, screen).await,
        Verb::Logs(flags) => logs::run(flags, client, screen).await,
        Verb::Rm(flags) => {
            for service in &flags.services {
                client.service_remove(service).await?;
                screen.line(service)?;
            }
            Ok(())
        }
    }
}

async fn ps(flags: Ps, client: &Client, screen: &mut Screen<'_>) -> Result<(), Fault> {
    let (mut at, mut rows) = (0, Vec::new());
    for service in &flags.services {
        let detail = client.service(service).await?;
        if let Some(reason) = &detail.service.pending_reason {
            screen.remark(format!("mesh: service {}: {reason}", detail.service.spec.name));
        }
        at = detail.at;
        rows.extend(detail.tasks);
    }
    flags.look.show(&task::table(at, &rows, &flags.look), screen)
}

async fn scale(flags: Scale, client: &Client, screen: &mut Screen<'_>) -> Result<(), Fault> {
    client.service_scale(&flags.items).await?;
    for item in &flags.items {
        screen.line(format!("{} scaled to {}", item.service, item.replicas))?;
    }
    let mut ids = Vec::new();
    for item in &flags.items {
        ids.push(client.service(&item.service).await?.service.id);
    }
    flags.wait.for_services(&ids, client, screen).await
}

async fn rollback(flags: Rollback, client: &Client, screen: &mut Screen<'_>) -> Result<(), Fault> {
    let id = client.service(&flags.service).await?.service.id;
    client.service_rollback(id.as_str()).await?;
    screen.line(&flags.service)?;
    flags.wait.for_services(&[id], client, screen).await
}

pub(super) fn table(rows: &[ServiceRow], look: &Look) -> Table {
    let mut table = Table::new(&[
        ("ID", "ID"),
        ("NAME", "Name"),
        ("MODE", "Mode"),
        ("REPLICAS", "Replicas"),
        ("IMAGE", "Image"),
        ("PORTS", "Ports"),
    ]);
    for row in rows {
        let mode = match row.mode {
            Mode::Replicated { .. } => "replicated",
            Mode::Global => "global",
            Mode::Adopted => "adopted",
        };
        let id = look.id(&row.id);
        let cells = [
            id.clone(),
            row.name.clone(),
            mode.to_string(),
            format!("{}/{}", row.running, row.desired),
            row.image.clone(),
            ports::column(&row.ports),
        ];
        table.row(id, cells);
    }
    table
}
