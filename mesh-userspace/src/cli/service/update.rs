//! `mesh service update`: the present spec with changes, sent back whole; refused if someone else changed it meanwhile.

use clap::Args;

use super::create::{Ports, RuntimeWord, check, from_environment};
use super::flags::{SpecFlags, parse_mount, parse_network};
use crate::api::{Client, ServiceUpdate};
use crate::cli::fault::Fault;
use crate::cli::node::split_label;
use crate::cli::{Screen, progress};
use crate::manifest::split_words;
use crate::model::{Mount, NetworkAttachment, Protocol, ServiceSpec};

#[derive(Debug, Args)]
pub(crate) struct Update {
    #[arg(long, value_name = "K=V")]
    env_add: Vec<String>,
    #[arg(long, value_name = "K")]
    env_rm: Vec<String>,
    #[arg(long, value_name = "PORT", value_parser = Ports::parse)]
    publish_add: Vec<Ports>,
    /// Target port [/protocol] that is no longer published
    #[arg(long, value_name = "TARGET", value_parser = parse_target)]
    publish_rm: Vec<(u16, Protocol)>,
    #[arg(long, value_name = "NETWORK", value_parser = parse_network)]
    network_add: Vec<NetworkAttachment>,
    #[arg(long, value_name = "NETWORK")]
    network_rm: Vec<String>,
    #[arg(long, value_name = "MOUNT", value_parser = parse_mount)]
    mount_add: Vec<Mount>,
    #[arg(long, value_name = "TARGET")]
    mount_rm: Vec<String>,
    #[arg(long, value_name = "EXPR")]
    constraint_add: Vec<String>,
    #[arg(long, value_name = "EXPR")]
    constraint_rm: Vec<String>,
    #[arg(long, value_name = "K=V")]
    label_add: Vec<String>,
    #[arg(long, value_name = "K")]
    label_rm: Vec<String>,
    /// New arguments of the command, as one shell word
    #[arg(long, value_name = "ARGS")]
    args: Option<String>,
    /// New command and arguments, as one shell word
    #[arg(long, value_name = "COMMAND", conflicts_with = "args")]
    command: Option<String>,
    #[arg(long, hide = true)]
    image: Option<String>,
    #[arg(long, hide = true)]
    runtime: Option<RuntimeWord>,
    /// Replace the tasks although nothing has changed
    #[arg(long)]
    force: bool,
    /// Take back the last change instead
    #[arg(long)]
    rollback: bool,
    /// Don't wait until it is so
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    flags: SpecFlags,
    service: String,
}

fn parse_target(text: &str) -> Result<(u16, Protocol), String> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let port = port.parse().map_err(|_| format!("'{port}' is not a port: 1 to 65535 are allowed"))?;
    Ok((port, crate::manifest::parse_protocol(protocol)?))
}

pub(super) async fn run(update: Update, client: &Client, screen: &mut Screen<'_>) -> Result<(), Fault> {
    let detail = client.service(&update.service).await?;
    let (id, detach, name) = (detail.service.id.clone(), update.detach, update.service.clone());
    if update.rollback {
        client.service_rollback(id.as_str()).await?;
    } else {
        let mut spec = detail.service.spec.clone();
        let gone = network_names(&update, client).await?;
        update.apply(&mut spec, &gone)?;
        client.service_update(id.as_str(), &ServiceUpdate { spec, version: detail.service.version }).await?;
    }
    screen.line(name)?;
    if detach { Ok(()) } else { progress::converge(&id, client, screen).await }
}

/// What `--network-rm` names, with the ids that the spec keeps instead.
async fn network_names(update: &Update, client: &Client) -> Result<Vec<String>, Fault> {
    let mut names = Vec::new();
    for name in &update.network_rm {
        names.push(name.clone());
        names.push(client.network(name).await?.network.id.to_string());
    }
    Ok(names)
}

impl Update {
    fn apply(self, spec: &mut ServiceSpec, networks_gone: &[String]) -> Result<(), Fault> {
        if let Some(image) = &self.image {
            return Err(Fault::failed(format!(
                "--image {image}: changing the image is not there yet; remove the service and create it again"
            )));
        }
        if self.runtime == Some(RuntimeWord::Docker) {
            return Err(Fault::failed(
                "--runtime docker: a service keeps its runtime; remove it and create it again from an image",
            ));
        }
        let task = &mut spec.task;
        let added: Vec<String> = self.env_add.into_iter().filter_map(from_environment).collect();
        let key = |variable: &str| variable.split('=').next().unwrap_or_default().to_string();
        let is_replaced = |variable: &String| added.iter().any(|new| key(new) == key(variable));
        task.env.retain(|variable| !self.env_rm.contains(&key(variable)) && !is_replaced(variable));
        task.env.extend(added);
        task.mounts.retain(|mount| {
            !self.mount_rm.contains(&mount.target) && !self.mount_add.iter().any(|new| new.target == mount.target)
        });
        task.mounts.extend(self.mount_add);
        task.constraints.retain(|constraint| !self.constraint_rm.contains(constraint));
        task.constraints.extend(self.constraint_add);
        if let Some(text) = self.command {
            task.command = split_words(&text).map_err(|error| Fault::failed(format!("--command: {error}")))?;
        }
        if let Some(text) = self.args {
            let args = split_words(&text).map_err(|error| Fault::failed(format!("--args: {error}")))?;
            task.command.truncate(1);
            task.command.extend(args);
        }
        if task.image.is_empty() && task.command.is_empty() {
            return Err(Fault::failed("--command: an empty command can't be run"));
        }
        if self.force {
            task.force_update += 1;
        }
        spec.networks.retain(|attachment| !networks_gone.contains(&attachment.network));
        spec.networks.extend(self.network_add);
        spec.ports.retain(|port| !self.publish_rm.contains(&(port.target, port.protocol)));
        spec.ports.extend(self.publish_add.into_iter().flat_map(|ports| ports.0));
        spec.labels.retain(|key, _| !self.label_rm.contains(key));
        spec.labels.extend(self.label_add.iter().map(|label| split_label(label)));
        self.flags.apply(spec)?;
        check(spec)
    }
}
