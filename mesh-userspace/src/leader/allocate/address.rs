//! Addresses of VIPs and tasks inside a network's subnets.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{Addresses, Cluster, Id, Network};

use super::span::{address, number, span};

/// No address is free on this network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "network '{network}' has no address left ({held} of the {usable} of {subnet} are in use): remove services or make a larger network"
)]
pub struct AddressesUsedUp {
    pub network: String,
    pub subnet: IpNet,
    pub held: usize,
    pub usable: u128,
}

/// How many addresses VIPs and tasks can have: all but the first, the last and the gateway.
pub fn usable_addresses(subnet: IpNet) -> u128 {
    let (first, last) = span(subnet);
    (last - first + 1).saturating_sub(3)
}

/// Every address that somebody on the network has; tasks that are ending still have theirs.
fn held<'a>(cluster: &'a Cluster, network: &'a Id) -> impl Iterator<Item = IpAddr> + 'a {
    let vips = cluster.services.values().flat_map(|service| &service.vips);
    let vips = vips.filter(move |vip| vip.network_id == *network).map(|vip| vip.addrs);
    let tasks = cluster.tasks.values().flat_map(|task| &task.attachments);
    let tasks = tasks.filter(move |at| at.network_id == *network).map(|at| at.addrs);
    vips.chain(tasks).flat_map(|addrs| addrs.each())
}

/// The next free address after the last one given out on this network, of each of its families.
pub fn next_addresses(cluster: &mut Cluster, network: &Network) -> Result<Addresses, AddressesUsedUp> {
    let last = cluster.counters.addresses.get(&network.id).copied().unwrap_or_default();
    let addresses = network.subnets.each().map(|subnet| next_in(cluster, network, subnet, last));
    let addresses: Addresses = addresses.collect::<Result<Vec<_>, _>>()?.into_iter().collect();
    cluster.counters.addresses.insert(network.id.clone(), addresses);
    Ok(addresses)
}

fn next_in(cluster: &Cluster, network: &Network, subnet: IpNet, last: Addresses) -> Result<IpAddr, AddressesUsedUp> {
    let (first, end) = span(subnet);
    let last = last.each().find(|last| subnet.contains(last)).map_or(first, number);
    let start = if last <= first || last >= end { first + 1 } else { last + 1 };
    let candidates = (start..end).chain(first + 1..start).map(|number| address(subnet, number));
    let mut candidates = candidates.filter(|address| network.gateways.each().all(|gateway| gateway != *address));
    // Nearly always the first one is free; only otherwise a set of all is worth its making.
    let free = candidates.next().filter(|address| !held(cluster, &network.id).any(|held| held == *address));
    let free = free.or_else(|| {
        let held: BTreeSet<IpAddr> = held(cluster, &network.id).collect();
        candidates.find(|address| !held.contains(address))
    });
    free.ok_or_else(|| AddressesUsedUp {
        network: network.spec.name.clone(),
        subnet,
        held: held(cluster, &network.id).filter(|held| subnet.contains(held)).count(),
        usable: usable_addresses(subnet),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leader::world::World;

    /// The numbers of the addresses that come one after the other.
    fn taken(world: &mut World, network: &Network, times: usize) -> Vec<(Option<u8>, Option<u16>)> {
        let mut take = || {
            let next = next_addresses(&mut world.cluster, network).expect("a free address");
            (next.v4.map(|v4| v4.octets()[3]), next.v6.map(|v6| v6.segments()[7]))
        };
        (0..times).map(|_| take()).collect()
    }

    #[test]
    fn addresses_come_back_as_late_as_possible() {
        let mut world = World::of_nodes(1);
        let network = world.network("small", Some("172.16.0.0/29"));
        // Nothing holds them, and still the same address comes only after all others; .1 is the gateway.
        let v4 = [2, 3, 4, 5, 6, 2, 3].map(|number| (Some(number), None));
        assert_eq!(taken(&mut world, &network, 7), v4);
        let both = world.network("both", Some("172.16.1.0/29,fd00:1::/112"));
        let taken_of_both = taken(&mut world, &both, 7);
        assert_eq!(taken_of_both[..2], [(Some(2), Some(2)), (Some(3), Some(3))]);
        assert_eq!(taken_of_both[5..], [(Some(2), Some(7)), (Some(3), Some(8))], "each family by itself");
    }

    #[test]
    fn the_last_address_of_a_family_is_missed_in_words() {
        let mut world = World::of_nodes(1);
        let network = world.network("six", Some("fd00:1::/112"));
        world.cluster.counters.addresses.insert(network.id.clone(), "fd00:1::fffe".parse().expect("an address"));
        assert_eq!(
            taken(&mut world, &network, 2),
            [(None, Some(2)), (None, Some(3))],
            "after the last comes the first"
        );
        let tiny = Network { subnets: "fd00:2::/127".parse().expect("a prefix"), ..network };
        let error = next_addresses(&mut world.cluster, &tiny).expect_err("no host fits").to_string();
        assert!(error.contains("'six'") && error.contains("fd00:2::/127") && error.contains("larger"), "{error}");
    }
}
