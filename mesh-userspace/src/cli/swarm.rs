//! `mesh swarm …` and its short forms.

use std::io::Read;

use clap::{Args, Subcommand, ValueEnum};
use ipnet::IpNet;

use super::Screen;
use super::agent::host_port;
use super::fault::Fault;
use crate::api::{Client, InitRequest, JoinRequest, JoinTokenRequest, LeaveRequest};
use crate::model::{Role, Subnets};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Start a cluster with this node as its first manager; prints the join command
    Init(Init),
    /// Enter a cluster
    Join(Join),
    /// Leave the cluster; this node's tasks end
    Leave(Leave),
    /// Show or rotate a join token
    JoinToken(JoinToken),
}

#[derive(Debug, Args)]
pub(super) struct Init {
    /// Address or interface that other nodes reach this one at, and the port of its API
    #[arg(long, value_name = "IP|IFACE[:PORT]", value_parser = host_port)]
    advertise_addr: Option<String>,
    /// Where this node's API and gossip listen, and the API's port [default: 0.0.0.0:2377]
    #[arg(long, value_name = "IP|IFACE[:PORT]", value_parser = host_port)]
    listen_addr: Option<String>,
    /// UDP and TCP port of this node's gossip [default: 7946]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    gossip_port: Option<u16>,
    /// Pool that networks come from, one of each family at most [default: 10.0.0.0/8 and a unique local /48]
    #[arg(long, value_name = "CIDR")]
    default_addr_pool: Vec<IpNet>,
    /// Prefix length of each network's IPv4 subnet [default: 20]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(8..=29))]
    default_addr_pool_mask_length: Option<u8>,
    /// UDP port of tunnel packets [default: 4789]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1024..=49151))]
    data_path_port: Option<u16>,
    /// Where desired state is kept
    #[arg(long, value_name = "STORE", value_parser = ["embedded"], default_value = "embedded")]
    store: String,
}

#[derive(Debug, Args)]
pub(super) struct Join {
    /// The join token ('mesh swarm join-token' on a manager shows it)
    #[arg(long, required_unless_present = "token_file", conflicts_with = "token_file")]
    token: Option<String>,
    /// File with the join token; '-' reads it from standard input
    #[arg(long, value_name = "FILE|-")]
    token_file: Option<String>,
    /// Address or interface that other nodes reach this one at, and the port of its API
    #[arg(long, value_name = "IP|IFACE[:PORT]", value_parser = host_port)]
    advertise_addr: Option<String>,
    /// Where this node's API and gossip listen, and the API's port [default: 0.0.0.0:2377]
    #[arg(long, value_name = "IP|IFACE[:PORT]", value_parser = host_port)]
    listen_addr: Option<String>,
    /// UDP and TCP port of this node's gossip [default: 7946]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    gossip_port: Option<u16>,
    /// A manager of the cluster
    #[arg(value_name = "HOST[:2377]")]
    remote: String,
}

#[derive(Debug, Args)]
pub(super) struct Leave {
    /// Leave although this node is a manager, or the cluster can't be told
    #[arg(short, long)]
    force: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum RoleWord {
    Worker,
    Manager,
}

#[derive(Debug, Args)]
pub(super) struct JoinToken {
    /// What a node that joins with the token becomes
    #[arg(default_value = "worker")]
    role: RoleWord,
    /// Make a new token; the old one is refused from then on
    #[arg(long)]
    rotate: bool,
    /// Only the token
    #[arg(short, long)]
    quiet: bool,
}

pub(super) async fn run(verb: Verb, client: &Client, screen: &mut Screen<'_>) -> Result<(), Fault> {
    match verb {
        Verb::Init(flags) => init(flags, client, screen).await,
        Verb::Join(flags) => join(flags, client, screen).await,
        Verb::Leave(flags) => leave(flags, client, screen).await,
        Verb::JoinToken(flags) => join_token(flags, client, screen).await,
    }
}

pub(super) async fn init(flags: Init, client: &Client, screen: &mut Screen<'_>) -> Result<(), Fault> {
    let mut pools = Subnets::default();
    for pool in flags.default_addr_pool {
        if pools.each().any(|other| other.addr().is_ipv4() == pool.addr().is_ipv4()) {
            let told = format!("--default-addr-pool {pool}: one pool of each family; leave one out");
            return Err(Fault::failed(told));
        }
        pools.set(pool);
    }
    let request = InitRequest {
        advertise_addr: flags.advertise_addr,
        listen_addr: flags.listen_addr,
        gossip_port: flags.gossip_port,
        default_addr_pool: pools,
        default_addr_pool_mask_length: flags.default_addr_pool_mask_length,
        data_path_port: flags.data_path_port,
    };
    let answer = client.swarm_init(&request).await?;
    screen.print(format!(
        "Swarm initialized: current node ({}) is now a manager.\n\n\
         To add a worker to this swarm, run the following command:\n\n    \
         mesh swarm join --token {} {}\n\n\
         To add a manager to this swarm, run 'mesh swarm join-token manager' and follow the instructions.\n",
        answer.node_id.short(),
        answer.worker_token,
        answer.join_addr
    ))
}

pub(super) async fn join(flags: Join, client: &Client, screen: &mut Screen<'_>) -> Result<(), Fault> {
    let token = match (flags.token, flags.token_file) {
        (Some(token), _) => token,
        (None, Some(path)) => read_token(&path)?,
        (None, None) => return Err(Fault::usage("join needs --token or --token-file")),
    };
    let request = JoinRequest {
        token,
        remote: flags.remote,
        advertise_addr: flags.advertise_addr,
        listen_addr: flags.listen_addr,
        gossip_port: flags.gossip_port,
    };
    let answer = client.swarm_join(&request).await?;
    screen.line(match answer.role {
        Role::Worker => "This node joined a swarm as a worker.",
        Role::Manager => "This node joined a swarm as a manager.",
    })
}

fn read_token(path: &str) -> Result<String, Fault> {
    let mut text = String::new();
    let read = match path {
        "-" => std::io::stdin().read_to_string(&mut text),
        path => std::fs::File::open(path).and_then(|mut file| file.read_to_string(&mut text)),
    };
    read.map_err(|error| Fault::failed(format!("cannot read the token from {path}: {error}")))?;
    match text.trim() {
        "" => Err(Fault::failed(format!("there is no token in {path}"))),
        token => Ok(token.to_string()),
    }
}

pub(super) async fn leave(flags: Leave, client: &Client, screen: &mut Screen<'_>) -> Result<(), Fault> {
    client.swarm_leave(&LeaveRequest { force: flags.force }).await?;
    screen.line("Node left the swarm.")
}

pub(super) async fn join_token(flags: JoinToken, client: &Client, screen: &mut Screen<'_>) -> Result<(), Fault> {
    let (role, name) = match flags.role {
        RoleWord::Worker => (Role::Worker, "worker"),
        RoleWord::Manager => (Role::Manager, "manager"),
    };
    let answer = client.join_token(&JoinTokenRequest { role, rotate: flags.rotate }).await?;
    if flags.quiet {
        return screen.line(answer.token);
    }
    if flags.rotate {
        screen.line(format!("Successfully rotated {name} join token.\n"))?;
    }
    screen.print(format!(
        "To add a {name} to this swarm, run the following command:\n\n    mesh swarm join --token {} {}\n\n",
        answer.token, answer.join_addr
    ))
}
