//! Our own ways: a cluster of the lab's nodes, formed and used by the command line as a user would.
//!
//! Tasks are of the runtime `exec` and run the very servers of the rivals. The client is a task; the tools run in its network namespace,
//! as a program in the task would.

use std::net::SocketAddrV4;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use mesh_lab::{Lab, Node, Swarm};

use super::server::{self, STREAM, WEB};
use super::tool::Call;

const NETWORK: &str = "bench";
/// From the join to a listing of two Ready nodes.
const READY: Duration = Duration::from_secs(20);

/// Services on `servers`, a client task on `client`; the name begins the services' names.
pub fn vip(lab: &Lab, swarm: &Swarm, folder: &Path, name: &str, client: &str, servers: &str) -> Result<Call> {
    let web = format!("{name}-web");
    create(swarm, &web, servers, &["--replicas", "2"], &server::web(folder, "$(hostname)"))?;
    call(lab, swarm, name, client, servers, &[web])
}

/// The same with a service for each server, so that each of the client's threads has one of them, as where nobody balances.
pub fn vips(lab: &Lab, swarm: &Swarm, folder: &Path, name: &str, client: &str, servers: &str) -> Result<Call> {
    let web = ["one", "two"].map(|which| format!("{name}-{which}"));
    for service in &web {
        create(swarm, service, servers, &[], &server::web(folder, "$(hostname)"))?;
    }
    call(lab, swarm, name, client, servers, &web)
}

/// From a client task to these web services, and to one for streams.
fn call(lab: &Lab, swarm: &Swarm, name: &str, client: &str, servers: &str, web: &[String]) -> Result<Call> {
    let stream = format!("{name}-stream");
    create(swarm, &stream, servers, &[], &server::stream())?;
    let asking = format!("{name}-client");
    // A time to sleep that no other process of the node names.
    let mark = format!("863{}", name.bytes().map(u32::from).sum::<u32>());
    create(swarm, &asking, client, &[], &["sleep".to_owned(), mark.clone()])?;
    Ok(Call {
        namespace: namespace_of(lab.node(client), &mark)?,
        web: web.iter().map(|web| Ok(SocketAddrV4::new(swarm.vip(web)?, WEB))).collect::<Result<_>>()?,
        stream: SocketAddrV4::new(swarm.vip(&stream)?, STREAM),
    })
}

/// Published ports of services on `servers`, asked by the lab's client at `entry`, which has no task of theirs.
pub fn published(lab: &Lab, swarm: &Swarm, folder: &Path, entry: &str, servers: &str) -> Result<Call> {
    create_web(swarm, "pub-web", WEB, servers, folder)?;
    let publish = [format!("{STREAM}:{STREAM}"), format!("{STREAM}:{STREAM}/udp")];
    create(swarm, "pub-stream", servers, &["--publish", &publish[0], "--publish", &publish[1]], &server::stream())?;
    let entry = lab.node(entry).address();
    Ok(Call {
        namespace: lab.client().namespace().path(),
        web: vec![SocketAddrV4::new(entry, WEB)],
        stream: SocketAddrV4::new(entry, STREAM),
    })
}

/// Two web servers on this node, published at `port`.
pub fn create_web(swarm: &Swarm, name: &str, port: u16, servers: &str, folder: &Path) -> Result<()> {
    let words = server::web(folder, "$(hostname)");
    create(swarm, name, servers, &["--replicas", "2", "--publish", &format!("{port}:{WEB}")], &words)
}

/// A cluster of these nodes of the lab, and the network that all services are on.
pub fn form<'a>(lab: &'a Lab, nodes: &[&str]) -> Result<Swarm<'a>> {
    let nodes: Vec<&Node> = nodes.iter().map(|name| lab.node(name)).collect();
    let (first, others) = nodes.split_first().context("a cluster has a node")?;
    nodes.iter().try_for_each(|node| node.launch())?;
    nodes.iter().try_for_each(|node| node.wait_ready())?;
    let swarm = Swarm::seen_from(lab, first.name());
    swarm.mesh(["swarm", "init"])?;
    for node in others {
        node.mesh(["swarm", "join", "--token", &swarm.token("worker")?, &swarm.join_address()])?.ok()?;
    }
    swarm.wait_ready(nodes.len(), READY)?;
    swarm.mesh(["network", "create", "-d", "overlay", NETWORK])?;
    Ok(swarm)
}

fn create(swarm: &Swarm, name: &str, node: &str, flags: &[&str], words: &[String]) -> Result<()> {
    let place = format!("node.hostname=={node}");
    let head = ["service", "create", "--runtime", "exec", "--name", name, "--network", NETWORK, "--constraint", &place];
    let words = words.iter().map(String::as_str);
    swarm.mesh(head.into_iter().chain(flags.iter().copied()).chain(words)).map(drop)
}

/// The network namespace of a task whose command holds `word`: not the node's own, where its supervisor is.
fn namespace_of(node: &Node, word: &str) -> Result<PathBuf> {
    let inode = |path: &Path| std::fs::metadata(path).map(|found| found.ino()).ok();
    let own = inode(&node.namespace().path());
    let processes = node.processes();
    let found =
        processes.iter().filter(|(_, command)| command.split(' ').any(|one| one == word)).find_map(|(pid, _)| {
            let path = PathBuf::from(format!("/proc/{pid}/ns/net"));
            inode(&path).filter(|inode| Some(*inode) != own).map(|_| path)
        });
    found.with_context(|| format!("no client task on {}: {processes:#?}", node.name()))
}
