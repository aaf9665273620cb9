//! Nodes come, change and go.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::leader::allocate::{next_node_number, overlap};
use crate::leader::{Ctx, Health, node_health};
use crate::model::{Availability, Cluster, ControlPorts, Id, Node, Observed, PortSpec, Protocol, Role, Runtime};

use super::{CommandError, Commit, resolve};

/// What a node brings when it enters; its certificate was made for this id and role before.
#[derive(Clone, Debug, PartialEq)]
pub struct NewNode {
    pub id: Id,
    pub name: String,
    pub role: Role,
    pub advertise_addr: IpAddr,
    pub ports: ControlPorts,
    pub data_path_addr: IpAddr,
    pub cert_fingerprint: String,
    pub runtimes: Vec<Runtime>,
    pub routed_prefixes: Vec<IpNet>,
}

/// The answer to `swarm join`.
#[derive(Clone, Debug, PartialEq)]
pub struct Joined {
    pub node: Node,
    /// What the user should know: networks that hide something the node routes elsewhere.
    pub warnings: Vec<String>,
}

/// What `node update` changes; None and empty: left as it is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NodeUpdate {
    pub availability: Option<Availability>,
    pub role: Option<Role>,
    pub label_add: BTreeMap<String, String>,
    pub label_rm: Vec<String>,
}

/// Puts a node into the cluster, under a number of its own.
pub(super) fn enter(after: &mut Cluster, new: NewNode, holds_store: bool, ctx: &Ctx) -> Result<Node, CommandError> {
    let rule =
        "use letters, digits, '-', '_' and '.', at most 63, beginning and ending with a letter or digit (--name)";
    if !super::check::is_name(&new.name, &['-', '_', '.']) {
        return Err(CommandError::BadName { kind: "node", name: new.name, rule });
    }
    let same_id = after.nodes.get(&new.id);
    if let Some(node) = same_id.or(after.node_named(&new.name)) {
        let (name, id) = (node.name.clone(), node.id.short().to_string());
        return Err(CommandError::NameTaken { kind: "node", name, id });
    }
    let same_address =
        |node: &&Node| node.data_path_addr == new.data_path_addr || node.advertise_addr == new.advertise_addr;
    if let Some(node) = after.nodes.values().find(same_address) {
        return Err(CommandError::AddressTaken { address: new.advertise_addr, node: node.name.clone() });
    }
    // Tunnel packets go to every peer from one address.
    let other_family = |node: &&Node| node.data_path_addr.is_ipv4() != new.data_path_addr.is_ipv4();
    if let Some(node) = after.nodes.values().find(other_family) {
        let (address, other, node) = (new.data_path_addr, node.data_path_addr, node.name.clone());
        return Err(CommandError::OtherFamily { address, other, node });
    }
    check_ports(after, &new.name, &new.ports)?;
    let node = Node {
        number: next_node_number(after).ok_or(CommandError::NodeNumbersUsedUp)?,
        id: new.id,
        name: new.name,
        role: new.role,
        availability: Availability::Active,
        labels: BTreeMap::new(),
        advertise_addr: new.advertise_addr,
        ports: new.ports,
        data_path_addr: new.data_path_addr,
        cert_fingerprint: new.cert_fingerprint,
        renewed_fingerprint: None,
        holds_store,
        runtimes: new.runtimes,
        routed_prefixes: new.routed_prefixes,
        joined_at: ctx.now,
    };
    after.nodes.insert(node.id.clone(), node.clone());
    Ok(node)
}

/// A node's API and gossip leave each other, the tunnel and published ports alone.
fn check_ports(cluster: &Cluster, node: &str, ports: &ControlPorts) -> Result<(), CommandError> {
    let bad = |port, rule| CommandError::BadNodePort { node: node.to_string(), port, rule };
    if ports.api == ports.gossip {
        return Err(bad(ports.api, "API and gossip need one each (--listen-addr, --gossip-port)".to_string()));
    }
    if let Some(port) = [ports.api, ports.gossip].into_iter().find(|port| *port == 0) {
        return Err(bad(port, "give one from 1 to 65535".to_string()));
    }
    let data_path_port = cluster.settings.as_ref().map(|settings| settings.data_path_port);
    if let Some(port) = data_path_port.filter(|port| [ports.api, ports.gossip].contains(port)) {
        return Err(bad(port, "the cluster's tunnel has it (--data-path-port of mesh swarm init)".to_string()));
    }
    let has = |port: &PortSpec| match port.protocol {
        Protocol::Tcp => [ports.api, ports.gossip].contains(&port.published),
        Protocol::Udp => port.published == ports.gossip,
        Protocol::Sctp => false,
    };
    let clash = |service: &crate::model::Service| {
        Some((service.ports.iter().find(|port| has(port))?.published, service.spec.name.clone()))
    };
    match cluster.services.values().find_map(clash) {
        None => Ok(()),
        Some((port, service)) => Err(bad(port, format!("service '{service}' publishes it; take another one"))),
    }
}

/// A further node enters. Token and certificate were judged before.
pub fn join_node(cluster: &Cluster, new: NewNode, ctx: &mut Ctx) -> Result<Commit<Joined>, CommandError> {
    if cluster.settings.is_none() {
        return Err(CommandError::NotInitialised);
    }
    let mut after = cluster.clone();
    let node = enter(&mut after, new, false, ctx)?;
    let alone = Cluster { nodes: BTreeMap::from([(node.id.clone(), node.clone())]), ..Cluster::default() };
    let hidden =
        cluster.networks.values().flat_map(|network| network.subnets.each().map(move |subnet| (network, subnet)));
    let hidden = hidden.filter_map(|(network, subnet)| {
        let (name, with) = (&network.spec.name, overlap(&alone, subnet)?);
        Some(format!("network '{name}' ({subnet}) overlaps with {with}: tasks and this node can't reach both"))
    });
    let warnings = hidden.collect();
    Ok(Commit::of(cluster, &after, Joined { node, warnings }))
}

/// `node update`: availability, role, labels.
pub fn update_node(cluster: &Cluster, reference: &str, update: &NodeUpdate) -> Result<Commit<Node>, CommandError> {
    let mut node = resolve::node(cluster, reference)?.clone();
    if node.holds_store && update.role == Some(Role::Worker) {
        let (asked, remedy) = ("it can't become a worker", "it stays a manager as long as the cluster lives");
        return Err(CommandError::HoldsStore { node: node.name, asked, remedy });
    }
    for label in &update.label_rm {
        let missing = || CommandError::NoSuchLabel { node: node.name.clone(), label: label.clone() };
        node.labels.remove(label).ok_or_else(missing)?;
    }
    node.labels.extend(update.label_add.clone());
    node.availability = update.availability.unwrap_or(node.availability);
    node.role = update.role.unwrap_or(node.role);
    let mut after = cluster.clone();
    after.nodes.insert(node.id.clone(), node.clone());
    Ok(Commit::of(cluster, &after, node))
}

/// `node rm`: takes a node out that is gone, or any node by force. Its tasks are replaced by the next tick.
pub fn remove_node(
    cluster: &Cluster,
    observed: &Observed,
    reference: &str,
    force: bool,
    ctx: &Ctx,
) -> Result<Commit<Node>, CommandError> {
    let node = resolve::node(cluster, reference)?;
    if node.holds_store {
        let (asked, remedy) = ("it can't be removed", "mesh swarm leave --force on it ends the cluster");
        return Err(CommandError::HoldsStore { node: node.name.clone(), asked, remedy });
    }
    let agent_gone = observed.agent_alive.get(&node.id) == Some(&false);
    let gone = agent_gone || node_health(cluster, observed, node, ctx.now, ctx.timing) == Health::Lost;
    if !gone && !force {
        return Err(CommandError::NodeAlive { node: node.name.clone() });
    }
    Ok(take_out(cluster, node))
}

/// `swarm leave`, asked by the node itself after it stopped its tasks. The store's node leaves only by force, as the last thing
/// the cluster does.
pub fn leave_node(cluster: &Cluster, id: &Id, force: bool) -> Result<Commit<Node>, CommandError> {
    let node = resolve::node(cluster, id.as_str())?;
    if node.holds_store && !force {
        let (asked, remedy) = ("the cluster ends when it leaves", "say so with --force");
        return Err(CommandError::HoldsStore { node: node.name.clone(), asked, remedy });
    }
    Ok(take_out(cluster, node))
}

/// A node that was proven by the certificate `shown` gets another one. The one it shows stays good: the answer may be lost, and it asks again.
pub fn renew_certificate(cluster: &Cluster, id: &Id, shown: &str, renewed: &str) -> Result<Commit<()>, CommandError> {
    let node = resolve::node(cluster, id.as_str())?;
    let mut after = cluster.clone();
    if let Some(node) = after.nodes.get_mut(&node.id) {
        node.cert_fingerprint = shown.to_string();
        node.renewed_fingerprint = Some(renewed.to_string());
    }
    Ok(Commit::of(cluster, &after, ()))
}

fn take_out(cluster: &Cluster, node: &Node) -> Commit<Node> {
    let mut after = cluster.clone();
    after.nodes.remove(&node.id);
    Commit::of(cluster, &after, node.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leader::world::{World, node_id};

    #[test]
    fn a_node_keeps_the_certificate_it_showed_beside_the_renewed_one() {
        let mut world = World::of_nodes(2);
        let renew = |world: &mut World, shown: &str, renewed: &str| {
            let outcome = world.command(|cluster, _| renew_certificate(cluster, &node_id(2), shown, renewed));
            outcome.expect("renewed");
            world.cluster.nodes[&node_id(2)].clone()
        };
        // The first answer was lost: the old one asks again.
        renew(&mut world, "old", "lost");
        let node = renew(&mut world, "old", "new");
        assert!(node.has_certificate("old") && node.has_certificate("new") && !node.has_certificate("lost"));
        let node = renew(&mut world, "new", "newer");
        assert!(node.has_certificate("new") && node.has_certificate("newer") && !node.has_certificate("old"));
        assert!(world.command(|cluster, _| renew_certificate(cluster, &node_id(9), "a", "b")).is_err());
    }
}
