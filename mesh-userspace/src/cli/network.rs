//! `mesh network …`

use std::collections::BTreeMap;
use std::net::IpAddr;

use clap::{Args, Subcommand};
use ipnet::IpNet;

use super::fault::Fault;
use super::node::split_label;
use super::render::{Look, Table, pretty};
use super::{Screen, age, inspect};
use crate::api::Client;
use crate::model::{Addresses, NetworkSpec, Subnets};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make an overlay network
    Create(Create),
    /// List the networks
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Show networks in full, as JSON
    Inspect(Inspect),
    /// Remove networks
    #[command(visible_alias = "remove")]
    Rm(Rm),
}

#[derive(Debug, Args)]
pub(super) struct Create {
    /// There is one driver: overlay
    #[arg(short, long, value_name = "DRIVER", default_value = "overlay")]
    driver: String,
    /// The network's subnet, one of each family at most [default: one from the pool]
    #[arg(long, value_name = "CIDR")]
    subnet: Vec<IpNet>,
    /// The network's gateway, one in each subnet at most [default: the subnet's first address]
    #[arg(long, value_name = "IP")]
    gateway: Vec<IpAddr>,
    /// Its tasks have IPv6 addresses; a --subnet of IPv6 says so, too
    #[arg(long)]
    ipv6: bool,
    /// Its tasks have IPv4 addresses; --ipv4=false makes a network of IPv6 alone
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_value_t = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    ipv4: bool,
    /// Its tasks don't reach the outside
    #[arg(long)]
    internal: bool,
    /// Others than services may enter it
    #[arg(long)]
    attachable: bool,
    /// mtu=N: MTU of its tasks' interfaces
    #[arg(short, long, value_name = "K=V")]
    opt: Vec<String>,
    #[arg(long, value_name = "K=V")]
    label: Vec<String>,
    name: String,
}

#[derive(Debug, Args)]
pub(super) struct Ls {
    #[command(flatten)]
    look: Look,
}

#[derive(Debug, Args)]
pub(super) struct Inspect {
    /// Also services and tasks on it, as this node believes them
    #[arg(short, long)]
    verbose: bool,
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

#[derive(Debug, Args)]
pub(super) struct Rm {
    #[arg(required = true, value_name = "NETWORK")]
    networks: Vec<String>,
}

pub(super) async fn run(verb: Verb, client: &Client, screen: &mut Screen<'_>) -> Result<(), Fault> {
    match verb {
        Verb::Create(flags) => {
            let created = client.network_create(&spec(flags)?).await?;
            created.warnings.iter().for_each(|warning| screen.remark(format!("mesh: warning: {warning}")));
            screen.line(created.id.to_string())
        }
        Verb::Ls(flags) => ls(&flags.look, client, screen).await,
        Verb::Inspect(flags) => {
            let mut values = Vec::new();
            for network in &flags.networks {
                values.push(inspect::network(&client.network(network).await?, flags.verbose));
            }
            screen.print(pretty(&values.into()))
        }
        Verb::Rm(flags) => {
            for network in &flags.networks {
                client.network_remove(network).await?;
                screen.line(network)?;
            }
            Ok(())
        }
    }
}

async fn ls(look: &Look, client: &Client, screen: &mut Screen<'_>) -> Result<(), Fault> {
    let mut table = Table::new(&[("NETWORK ID", "ID"), ("NAME", "Name"), ("DRIVER", "Driver"), ("SCOPE", "Scope")]);
    for row in client.networks().await?.rows {
        let id = look.id(&row.id);
        table
            .row(id.clone(), [id, row.name, "overlay".into(), "swarm".into()])
            .json_only("Subnet", row.subnets.to_string())
            .json_only("VNI", row.vni)
            .json_only("Internal", row.internal)
            .json_only("Attachable", row.attachable)
            .json_only("Ingress", row.ingress)
            .json_only("CreatedAt", age::rfc3339(row.created_at));
    }
    look.show(&table, screen)
}

fn spec(flags: Create) -> Result<NetworkSpec, Fault> {
    if flags.driver != "overlay" {
        return Err(Fault::failed(format!(
            "network driver '{}' is not there: the one driver is overlay",
            flags.driver
        )));
    }
    let mut subnets = Subnets::default();
    for subnet in flags.subnet {
        if subnet.trunc() != subnet {
            let meant = subnet.trunc();
            let told = format!("--subnet {subnet}: bits are set behind the prefix; did you mean {meant}?");
            return Err(Fault::failed(told));
        }
        if subnets.each().any(|other| other.addr().is_ipv4() == subnet.addr().is_ipv4()) {
            let told = format!("--subnet {subnet}: a network has one subnet of each family; leave one out");
            return Err(Fault::failed(told));
        }
        subnets.set(subnet);
    }
    let mut gateways = Addresses::default();
    for gateway in flags.gateway {
        if gateways.each().any(|other| other.is_ipv4() == gateway.is_ipv4()) {
            let told = format!("--gateway {gateway}: a subnet has one gateway; leave one out");
            return Err(Fault::failed(told));
        }
        gateways.set(gateway);
    }
    let mut options: BTreeMap<String, String> = flags.opt.iter().map(|opt| split_label(opt)).collect();
    let mtu = match options.remove("mtu") {
        None => None,
        Some(text) => Some(
            text.parse::<u32>()
                .ok()
                .filter(|mtu| (576..=65_535).contains(mtu))
                .ok_or_else(|| Fault::failed(format!("--opt mtu={text}: a number from 576 to 65535 is allowed")))?,
        ),
    };
    Ok(NetworkSpec {
        name: flags.name,
        subnets,
        gateways,
        ipv4: flags.ipv4,
        ipv6: flags.ipv6,
        internal: flags.internal,
        attachable: flags.attachable,
        mtu,
        labels: flags.label.iter().map(|label| split_label(label)).collect(),
        options,
    })
}
