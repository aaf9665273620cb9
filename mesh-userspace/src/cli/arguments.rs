//! The command tree. A line of the contract that is not built yet is absent here, and so from help.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use super::agent::AgentFlags;
use super::{
    completions, doctor, exec, explain, flows, logs, monitor, network, node, purge, service, stack, status, swarm, task,
};

/// Service networks in eBPF: overlay, VIPs, DNS and routing mesh as Docker Swarm has them.
///
/// Take a Docker Swarm tutorial, write `mesh` where it says `docker`.
#[derive(Debug, Parser)]
#[command(name = "mesh", version, max_term_width = 100, propagate_version = false, infer_long_args = false)]
pub struct Cli {
    /// The agent's unix socket; whoever may open it is as good as root
    #[arg(long, global = true, env = "MESH_SOCKET", value_name = "PATH", default_value = "/run/mesh/mesh.sock")]
    pub(super) socket: PathBuf,

    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Run this node's agent (as root, in the foreground)
    Agent(AgentFlags),
    /// Start, enter and leave a cluster
    #[command(subcommand)]
    Swarm(swarm::Verb),
    /// Start a cluster with this node (short for 'swarm init')
    Init(swarm::Init),
    /// Enter a cluster (short for 'swarm join')
    Join(swarm::Join),
    /// Leave the cluster (short for 'swarm leave')
    Leave(swarm::Leave),
    /// Show or rotate a join token (short for 'swarm join-token')
    JoinToken(swarm::JoinToken),
    /// The cluster's nodes
    #[command(subcommand)]
    Node(node::Verb),
    /// Overlay networks
    #[command(subcommand)]
    Network(network::Verb),
    /// Services: what runs, how often, behind which name and ports
    #[command(subcommand)]
    Service(service::Verb),
    /// Stacks: the services and networks of a Compose file
    #[command(subcommand)]
    Stack(stack::Verb),
    /// This node's tasks
    Ps(task::Ps),
    /// Run a command in a task
    Exec(exec::Exec),
    /// Show the output of a service's or a task's processes
    Logs(logs::Logs),
    /// One screen: this node, its peers, services, warnings
    Status(status::Status),
    /// This node's flow table: who talks with whom, by which task; or how full it is
    Flows(flows::Flows),
    /// Packets' verdicts and drops as they happen, until interrupted
    Monitor(monitor::Monitor),
    /// Where a packet would go now, as this node's programs decide: service, task, node, way back – or why it would be dropped
    Explain(explain::Explain),
    /// Check this machine and the way to the other nodes; each trouble comes with its remedy
    Doctor(doctor::Doctor),
    /// Stop this node's tasks and remove every trace of mesh from its kernel
    Purge(purge::Purge),
    /// Print the completions of this command line for a shell
    Completions(completions::Completions),
    /// Write the manual pages of all commands into a folder, for packages
    #[command(hide = true)]
    ManualPages(completions::ManualPages),
}
