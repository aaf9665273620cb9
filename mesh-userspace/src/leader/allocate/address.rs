//! Addresses of VIPs and tasks inside a network's subnet.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use crate::model::{Cluster, Id, Network};

/// No address is free on this network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "network '{network}' has no address left ({held} of {usable} in use): remove services or make a larger network"
)]
pub struct AddressesUsedUp {
    pub network: String,
    pub held: usize,
    pub usable: usize,
}

/// How many addresses VIPs and tasks can have: all but network, broadcast and gateway.
pub fn usable_addresses(subnet: Ipv4Net) -> usize {
    (1usize << (32 - subnet.prefix_len())).saturating_sub(3)
}

/// Every address that somebody on the network has; tasks that are ending still have theirs.
fn held<'a>(cluster: &'a Cluster, network: &'a Id) -> impl Iterator<Item = Ipv4Addr> + 'a {
    let vips = cluster.services.values().flat_map(|service| &service.vips);
    let vips = vips.filter(move |vip| vip.network_id == *network).map(|vip| vip.addr);
    let tasks = cluster.tasks.values().flat_map(|task| &task.attachments);
    vips.chain(tasks.filter(move |at| at.network_id == *network).map(|at| at.addr))
}

/// The next free address after the last one given out on this network.
pub fn next_address(cluster: &mut Cluster, network: &Network) -> Result<Ipv4Addr, AddressesUsedUp> {
    let (first, end) = (u32::from(network.subnet.network()), u32::from(network.subnet.broadcast()));
    let last = cluster.counters.addresses.get(&network.id).map_or(first, |last| u32::from(*last));
    let start = if last <= first || last >= end { first + 1 } else { last + 1 };
    let candidates = (start..end).chain(first + 1..start).map(Ipv4Addr::from);
    let mut candidates = candidates.filter(|address| *address != network.gateway);
    // Nearly always the first one is free; only otherwise a set of all is worth its making.
    let free = candidates.next().filter(|address| !held(cluster, &network.id).any(|held| held == *address));
    let free = free.or_else(|| {
        let held: BTreeSet<Ipv4Addr> = held(cluster, &network.id).collect();
        candidates.find(|address| !held.contains(address))
    });
    let address = free.ok_or_else(|| AddressesUsedUp {
        network: network.spec.name.clone(),
        held: held(cluster, &network.id).count(),
        usable: usable_addresses(network.subnet),
    })?;
    cluster.counters.addresses.insert(network.id.clone(), address);
    Ok(address)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leader::world::World;

    #[test]
    fn addresses_come_back_as_late_as_possible() {
        let mut world = World::of_nodes(1);
        let network = world.network("small", Some("172.16.0.0/29"));
        let mut take = || next_address(&mut world.cluster, &network).expect("a free address").octets()[3];
        // Nothing holds them, and still the same address comes only after all others; .1 is the gateway.
        let taken: Vec<u8> = (0..7).map(|_| take()).collect();
        assert_eq!(taken, [2, 3, 4, 5, 6, 2, 3]);
    }
}
