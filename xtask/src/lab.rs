//! `cargo xtask lab up|shell NODE|down`: the lab of the tests, left to the user.
//!
//! Three nodes with running agents, a client and an outside, each a network namespace. Not a swarm yet: making it one is the
//! fun. One such lab at a time; those of the tests and the demo stand beside it.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use mesh_lab::{Host, Lab};

use crate::build;
use crate::setup::Consent;
use crate::workspace::Workspace;

/// The lab's name, by which the later verbs find it.
const NAME: &str = "user";

#[derive(clap::Args)]
pub struct Options {
    #[command(subcommand)]
    verb: Verb,
    /// Nothing is to be set up or built any more: root's half of this verb
    #[arg(long, hide = true)]
    built: bool,
}

#[derive(Subcommand)]
enum Verb {
    /// Build, and start three nodes with an agent each
    Up,
    /// A shell on n1, n2, n3, client or outside, with `mesh` on its path
    Shell { host: String },
    /// Take it down, with everything in it
    Down,
}

pub fn run(workspace: &Workspace, options: &Options, consent: Consent) -> Result<()> {
    match &options.verb {
        Verb::Up => up(workspace, options.built, consent),
        Verb::Shell { host } => {
            build::become_root(&["lab", "--built", "shell", host])?;
            shell(workspace, host)
        }
        Verb::Down => {
            build::become_root(&["lab", "--built", "down"])?;
            Lab::attach(NAME)?.down()
        }
    }
}

fn up(workspace: &Workspace, built: bool, consent: Consent) -> Result<()> {
    if !built {
        build::everything(workspace, consent)?;
    }
    build::become_root(&["lab", "--built", "up"])?;
    let lab = Lab::builder().name(NAME).mesh_binary(workspace.binary("mesh")).up()?;
    lab.start_agents()?;
    println!("The lab is up: every node runs an agent, none is in a swarm yet.\n");
    for host in lab.hosts() {
        println!("  {:8} {:16} cargo xtask lab shell {}", host.name(), host.address().to_string(), host.name());
    }
    println!("\nBegin with `mesh swarm init` on n1. The test server is {}.", workspace.binary("whoami").display());
    println!("Agents' logs, sockets and state: {}. `cargo xtask lab down` ends it.", lab.dir().display());
    lab.keep()
}

fn shell(workspace: &Workspace, name: &str) -> Result<()> {
    let lab = Lab::attach(NAME).context("start one with `cargo xtask lab up`")?;
    let Some(host) = find(&lab, name) else {
        let names: Vec<&str> = lab.hosts().iter().map(|host| host.name()).collect();
        bail!("the lab has no {name}: it has {}", names.join(", "));
    };
    let program = std::env::var("SHELL").unwrap_or_else(|_| "/bin/sh".to_owned());
    let mut command = command_on(&lab, host, &program, &workspace.binary("mesh"))?;
    command.env("PS1", format!("{name}$ "));
    if program.ends_with("bash") {
        // Its start-up files would set another prompt.
        command.arg("--norc");
    }
    Err(command.exec()).with_context(|| format!("starting {program}"))
}

/// The host of the lab with this name: a node, the client or the outside.
pub fn find<'a>(lab: &'a Lab, name: &str) -> Option<&'a Host> {
    lab.hosts().into_iter().find(|host| host.name() == name)
}

/// A program on a host, with this `mesh` on its path; on a node also with the way to its agent.
pub fn command_on(lab: &Lab, host: &Host, program: &str, mesh: &Path) -> Result<Command> {
    let folder = mesh.parent().context("the mesh binary lies in a folder")?;
    let others = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(std::iter::once(folder.to_owned()).chain(std::env::split_paths(&others)))
        .with_context(|| format!("putting {} on the path", folder.display()))?;
    let mut command = host.command(program)?;
    command.env("PATH", path);
    if let Some(node) = lab.nodes().iter().find(|node| node.name() == host.name()) {
        command.env("MESH_SOCKET", node.socket());
    }
    Ok(command)
}
