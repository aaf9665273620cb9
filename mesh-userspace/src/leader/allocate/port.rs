//! Published ports that the user leaves to us.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;

use crate::model::{Cluster, Protocol};

/// Swarm's range of automatic published ports.
const AUTOMATIC: RangeInclusive<u16> = 30000..=32767;

/// No automatic port is free.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no port of 30000-32767 is free for a service: name the published port yourself, or remove services")]
pub struct PortsUsedUp;

/// The next automatic port that no service has under this protocol, mesh itself doesn't need, and that is not in `also_held`.
pub fn next_port(cluster: &mut Cluster, protocol: Protocol, also_held: &BTreeSet<u16>) -> Result<u16, PortsUsedUp> {
    let ports = cluster.services.values().flat_map(|service| &service.ports);
    let held: BTreeSet<u16> = ports.filter(|port| port.protocol == protocol).map(|port| port.published).collect();
    let nodes = cluster.nodes.values().flat_map(|node| [node.ports.api, node.ports.gossip]);
    let ours: BTreeSet<u16> = nodes.chain(cluster.settings.as_ref().map(|settings| settings.data_path_port)).collect();
    let last = cluster.counters.port;
    let (first, end) = (*AUTOMATIC.start(), *AUTOMATIC.end());
    let start = if last < first || last >= end { first } else { last + 1 };
    let is_held = |port: &u16| [&held, &ours, also_held].iter().any(|ports| ports.contains(port));
    let free = (start..=end).chain(first..start).find(|port| !is_held(port));
    let port = free.ok_or(PortsUsedUp)?;
    cluster.counters.port = port;
    Ok(port)
}
