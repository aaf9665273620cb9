//! Subnets of networks: cut from the pool, or asked for; never over another network or what a node routes elsewhere.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::model::Cluster;

/// What a subnet would collide with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Overlap {
    Network { name: String, subnet: Ipv4Net },
    Route { node: String, prefix: Ipv4Net },
    NodeAddress { node: String, address: Ipv4Addr },
}

impl std::fmt::Display for Overlap {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Overlap::Network { name, subnet } => write!(f, "{subnet} of network '{name}'"),
            Overlap::Route { node, prefix } => write!(f, "{prefix}, which node '{node}' routes elsewhere"),
            Overlap::NodeAddress { node, address } => write!(f, "{address}, the address of node '{node}'"),
        }
    }
}

/// The pool has no room for another network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no /{len} of the pool {pool} is free: remove networks, name a subnet (--subnet), or init with another --default-addr-pool"
)]
pub struct SubnetsUsedUp {
    pub pool: Ipv4Net,
    pub len: u8,
}

fn overlaps(one: Ipv4Net, other: Ipv4Net) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// The first thing that this subnet would collide with. A default route collides with nothing.
pub fn overlap(cluster: &Cluster, subnet: Ipv4Net) -> Option<Overlap> {
    let network = cluster.networks.values().find(|network| overlaps(network.subnet, subnet));
    if let Some(network) = network {
        return Some(Overlap::Network { name: network.spec.name.clone(), subnet: network.subnet });
    }
    cluster.nodes.values().find_map(|node| {
        let routes = node.routed_prefixes.iter().filter_map(|prefix| match prefix {
            IpNet::V4(prefix) if prefix.prefix_len() > 0 && overlaps(*prefix, subnet) => Some(*prefix),
            _ => None,
        });
        let mut addresses =
            [node.advertise_addr, node.data_path_addr].into_iter().filter_map(|address| match address {
                IpAddr::V4(address) if subnet.contains(&address) => Some(address),
                _ => None,
            });
        let route = routes.max_by_key(Ipv4Net::prefix_len);
        let route = route.map(|prefix| Overlap::Route { node: node.name.clone(), prefix });
        route.or_else(|| addresses.next().map(|address| Overlap::NodeAddress { node: node.name.clone(), address }))
    })
}

/// The next free subnet of the pool after the last one cut. Blocks of a route are jumped over, so a large one costs one step.
pub fn next_subnet(cluster: &mut Cluster, pool: Ipv4Net, len: u8) -> Result<Ipv4Net, SubnetsUsedUp> {
    let used_up = SubnetsUsedUp { pool, len };
    let step = 1u64 << (32 - len);
    let (first, end) = (u64::from(u32::from(pool.network())), u64::from(u32::from(pool.broadcast())) + 1);
    let last = cluster.counters.subnet.map(|last| u64::from(u32::from(last)));
    let start = last.map_or(first, |last| last + step);
    let start = if start < first || start >= end { first } else { start };
    for (from, to) in [(start, end), (first, start)] {
        let mut at = from;
        while at + step <= to {
            let base = Ipv4Addr::from(u32::try_from(at).map_err(|_| used_up.clone())?);
            let subnet = Ipv4Net::new(base, len).map_err(|_| used_up.clone())?;
            let taken = match overlap(cluster, subnet) {
                None => {
                    cluster.counters.subnet = Some(base);
                    return Ok(subnet);
                }
                Some(Overlap::Network { subnet: taken, .. }) => taken,
                Some(Overlap::Route { prefix, .. }) => prefix,
                Some(Overlap::NodeAddress { .. }) => subnet,
            };
            let behind = u64::from(u32::from(taken.broadcast())) + 1;
            at = (at + step).max(behind.next_multiple_of(step));
        }
    }
    Err(used_up)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leader::world::node;

    fn cluster_routing(prefixes: &[&str]) -> Cluster {
        let mut node = node(1);
        node.routed_prefixes = prefixes.iter().map(|prefix| prefix.parse().expect("a prefix")).collect();
        let mut cluster = Cluster::default();
        cluster.nodes.insert(node.id.clone(), node);
        cluster
    }

    fn next(cluster: &mut Cluster, pool: &str, len: u8) -> Option<String> {
        next_subnet(cluster, pool.parse().expect("a pool"), len).ok().map(|subnet| subnet.to_string())
    }

    #[test]
    fn subnets_are_cut_one_after_the_other_past_what_nodes_route() {
        let mut cluster = cluster_routing(&["0.0.0.0/0", "10.0.16.0/24", "10.0.40.0/21"]);
        let mut take = || next(&mut cluster, "10.0.0.0/8", 20);
        assert_eq!(take().as_deref(), Some("10.0.0.0/20"));
        assert_eq!(take().as_deref(), Some("10.0.48.0/20"), "10.0.16.0/20 and 10.0.32.0/20 hold routes");
    }

    #[test]
    fn the_scan_starts_again_at_the_front_and_ends_in_words() {
        let mut cluster = cluster_routing(&[]);
        cluster.counters.subnet = Some(Ipv4Addr::new(10, 1, 1, 0));
        assert_eq!(next(&mut cluster, "10.1.0.0/23", 24).as_deref(), Some("10.1.0.0/24"));
        let mut covered = cluster_routing(&["10.0.0.0/8"]);
        assert_eq!(next(&mut covered, "10.0.0.0/8", 24), None);
    }

    #[test]
    fn a_nodes_own_address_is_no_room_for_a_network() {
        let cluster = cluster_routing(&[]);
        let found = overlap(&cluster, "192.0.2.0/24".parse().expect("a prefix"));
        assert!(matches!(found, Some(Overlap::NodeAddress { .. })), "{found:?}");
    }
}
