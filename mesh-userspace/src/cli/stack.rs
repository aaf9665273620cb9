//! `mesh stack …`

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::fault::Fault;
use super::render::{Look, Table};
use super::{Screen, progress, service, task};
use crate::api::{Client, StackAnswer, StackDeploy, StepAction, StepKind};
use crate::manifest::{self, Around, Manifest};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Start or change a stack as its manifest says
    #[command(visible_alias = "up")]
    Deploy(Deploy),
    /// Check a manifest and print it as understood
    Config(Config),
    /// List the stacks
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// List the services of a stack
    Services(Of),
    /// List the tasks of a stack
    Ps(Of),
    /// Remove stacks: their services and networks
    #[command(visible_aliases = ["remove", "down"])]
    Rm(Rm),
}

#[derive(Debug, Args)]
pub(super) struct Deploy {
    #[command(flatten)]
    source: Source,
    /// Remove services of the stack that the manifest no longer has
    #[arg(long)]
    prune: bool,
    #[command(flatten)]
    wait: progress::Wait,
    #[command(flatten)]
    registry: service::Registry,
    #[arg(long, hide = true, value_parser = ["always", "changed", "never"])]
    resolve_image: Option<String>,
    #[arg(value_name = "STACK")]
    name: String,
}

/// Where the manifest is.
#[derive(Debug, Args)]
struct Source {
    /// The manifest, a Compose file; '-' reads it from standard input; of several the later one wins
    #[arg(short, long, required = true, value_name = "FILE|-")]
    compose_file: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Config {
    #[command(flatten)]
    source: Source,
}

#[derive(Debug, Args)]
pub(super) struct Ls {
    #[command(flatten)]
    look: Look,
}

#[derive(Debug, Args)]
pub(super) struct Of {
    #[command(flatten)]
    look: Look,
    #[arg(value_name = "STACK")]
    stack: String,
}

#[derive(Debug, Args)]
pub(super) struct Rm {
    #[arg(required = true, value_name = "STACK")]
    stacks: Vec<String>,
}

pub(super) async fn run(verb: Verb, client: &Client, screen: &mut Screen<'_>) -> Result<(), Fault> {
    match verb {
        Verb::Deploy(flags) => deploy(flags, client, screen).await,
        Verb::Config(flags) => {
            let manifest = flags.source.read(screen)?;
            screen.print(manifest.to_yaml())
        }
        Verb::Ls(flags) => {
            let mut table = Table::new(&[("NAME", "Name"), ("SERVICES", "Services")]);
            for row in client.stacks().await?.rows {
                table.row(row.name.clone(), [row.name, row.services.to_string()]);
            }
            flags.look.show(&table, screen)
        }
        Verb::Services(flags) => {
            let rows = client.stack_services(&flags.stack).await?.rows;
            flags.look.show(&service::table(&rows, &flags.look), screen)
        }
        Verb::Ps(flags) => {
            let listing = client.stack_tasks(&flags.stack).await?;
            flags.look.show(&task::table(listing.at, &listing.rows, &flags.look), screen)
        }
        Verb::Rm(flags) => {
            for stack in &flags.stacks {
                let answer = client.stack_remove(stack).await?;
                tell(&answer, screen)?;
            }
            Ok(())
        }
    }
}

async fn deploy(flags: Deploy, client: &Client, screen: &mut Screen<'_>) -> Result<(), Fault> {
    flags.registry.remark(screen);
    let manifest = flags.source.read(screen)?;
    let stack = manifest.stack(&flags.name).map_err(|error| Fault::failed(error.to_string()))?;
    let answer = client.stack_deploy(&StackDeploy { stack, prune: flags.prune }).await?;
    tell(&answer, screen)?;
    let services = answer.steps.into_iter().filter(|step| step.kind == StepKind::Service);
    let there = services.filter(|step| step.action != StepAction::Removed);
    flags.wait.for_services(&there.map(|step| step.id).collect::<Vec<_>>(), client, screen).await
}

impl Source {
    /// Reads and understands the manifest; warnings go to standard error, errors each with its place.
    fn read(&self, screen: &mut Screen<'_>) -> Result<Manifest, Fault> {
        let mut texts = Vec::new();
        for path in &self.compose_file {
            texts.push(if path == "-" { ("<stdin>", from_input()?) } else { (path.as_str(), from_file(path)?) });
        }
        let manifests: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (*name, text.as_str())).collect();
        let around = Around {
            // Of the first one, as Docker has it.
            folder: self.compose_file.first().and_then(|path| folder(path)),
            variable: &|name| std::env::var(name).ok(),
            read: &|path| std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display())),
        };
        let manifest = manifest::parse_all(&manifests, &around).map_err(|errors| Fault::failed(errors.to_string()))?;
        manifest.warnings().iter().for_each(|warning| screen.remark(format!("mesh: warning: {warning}")));
        Ok(manifest)
    }
}

fn from_file(path: &str) -> Result<String, Fault> {
    std::fs::read_to_string(path).map_err(|error| Fault::failed(format!("cannot read the manifest {path}: {error}")))
}

fn from_input() -> Result<String, Fault> {
    let mut text = String::new();
    match std::io::stdin().read_to_string(&mut text) {
        Ok(_) => Ok(text),
        Err(error) => Err(Fault::failed(format!("cannot read the manifest from standard input: {error}"))),
    }
}

/// The manifest's folder; for standard input the one that the command was given in.
fn folder(path: &str) -> Option<PathBuf> {
    let path = if path == "-" { Path::new("x") } else { Path::new(path) };
    std::path::absolute(path).ok()?.parent().map(Path::to_path_buf)
}

/// Docker's words for what was done.
fn tell(answer: &StackAnswer, screen: &mut Screen<'_>) -> Result<(), Fault> {
    answer.warnings.iter().for_each(|warning| screen.remark(format!("mesh: warning: {warning}")));
    for step in &answer.steps {
        let kind = match step.kind {
            StepKind::Network => "network",
            StepKind::Service => "service",
        };
        match step.action {
            StepAction::Created => screen.line(format!("Creating {kind} {}", step.name))?,
            StepAction::Updated => screen.line(format!("Updating {kind} {} (id: {})", step.name, step.id.short()))?,
            StepAction::Unchanged if step.kind == StepKind::Service => {
                screen.line(format!("Unchanged {kind} {} (id: {})", step.name, step.id.short()))?;
            }
            StepAction::Unchanged => {}
            StepAction::Removed => screen.line(format!("Removing {kind} {}", step.name))?,
        }
    }
    Ok(())
}
