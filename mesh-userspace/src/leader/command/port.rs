//! Published ports: one service per port and protocol on all nodes, or at one address, and none that mesh itself needs.

use std::collections::BTreeMap;

use crate::leader::allocate::networks_of;
use crate::model::{Cluster, ControlPorts, Id, PortSpec, PublishMode, ServiceSpec};

use super::CommandError;
use super::error::port_name;

/// Checks the spec's ports in themselves, against what mesh listens on, and against every other service.
pub(super) fn check(cluster: &Cluster, spec: &ServiceSpec, own: Option<&Id>) -> Result<(), CommandError> {
    let service = || spec.name.clone();
    let usual = ControlPorts::default();
    let ports = || cluster.nodes.values().map(|node| &node.ports).chain([&usual]);
    let data_path_port = cluster.settings.as_ref().map(|settings| settings.data_path_port);
    let mut seen: BTreeMap<_, Vec<&PortSpec>> = BTreeMap::new();
    for port in &spec.ports {
        if port.target == 0 {
            return Err(CommandError::PortWithoutTarget { service: service() });
        }
        if let Some(network) = lacks_family(cluster, spec, port) {
            return Err(CommandError::PortOfNoFamily { service: service(), port: port_name(port), network });
        }
        let purpose = match port.published {
            // Mesh will choose one.
            0 => continue,
            // The usual ones are kept for nodes that join without choosing.
            published if ports().any(|of| of.api == published) => Some("cluster API"),
            published if ports().any(|of| of.gossip == published) => Some("membership"),
            published if Some(published) == data_path_port => Some("tunnels between nodes"),
            _ => None,
        };
        if let Some(purpose) = purpose {
            return Err(CommandError::PortReserved { service: service(), port: port_name(port), purpose });
        }
        let others = seen.entry((port.protocol, port.published)).or_default();
        if others.iter().any(|other| port.meets(other)) {
            return Err(CommandError::PortTwice { service: service(), port: port_name(port) });
        }
        others.push(port);
        if let Some(owner) = owner(cluster, port, own) {
            return Err(CommandError::PortTaken { service: service(), port: port_name(port), owner });
        }
    }
    Ok(())
}

/// Who has this port already. Two services may both publish it on the hosts of their own tasks: the scheduler keeps those apart.
fn owner(cluster: &Cluster, port: &PortSpec, own: Option<&Id>) -> Option<String> {
    let others = cluster.services.values().filter(|other| Some(&other.id) != own);
    let clash = |other: &PortSpec| {
        other.meets(port) && (other.mode == PublishMode::Ingress || port.mode == PublishMode::Ingress)
    };
    others.into_iter().find(|other| other.ports.iter().any(clash)).map(|other| other.spec.name.clone())
}

/// The network by which its port is called, if that has no addresses of the family of the port's own.
fn lacks_family(cluster: &Cluster, spec: &ServiceSpec, port: &PortSpec) -> Option<String> {
    let is_ipv4 = port.address?.is_ipv4();
    let network = cluster.networks.get(networks_of(cluster, spec).first()?)?;
    let has_it = network.subnets.each().any(|subnet| subnet.addr().is_ipv4() == is_ipv4);
    (!has_it).then(|| network.spec.name.clone())
}
