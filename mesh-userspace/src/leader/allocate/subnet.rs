//! Subnets of networks: cut from the pool, or asked for; never over another network or what a node routes elsewhere.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::Cluster;

use super::span::{address, number, span};

/// What a subnet would collide with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Overlap {
    Network { name: String, subnet: IpNet },
    Route { node: String, prefix: IpNet },
    NodeAddress { node: String, address: IpAddr },
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
    pub pool: IpNet,
    pub len: u8,
}

fn overlaps(one: IpNet, other: IpNet) -> bool {
    one.contains(&other.network()) || other.contains(&one.network())
}

/// The first thing that this subnet would collide with. A default route collides with nothing.
pub fn overlap(cluster: &Cluster, subnet: IpNet) -> Option<Overlap> {
    let mut networks = cluster.networks.values().flat_map(|network| {
        network.subnets.each().map(|subnet| Overlap::Network { name: network.spec.name.clone(), subnet })
    });
    let is_hit =
        |overlap: &Overlap| matches!(overlap, Overlap::Network { subnet: taken, .. } if overlaps(*taken, subnet));
    if let Some(network) = networks.find(is_hit) {
        return Some(network);
    }
    cluster.nodes.values().find_map(|node| {
        let routes = node.routed_prefixes.iter().copied();
        let routes = routes.filter(|prefix| prefix.prefix_len() > 0 && overlaps(*prefix, subnet));
        let mut addresses = [node.advertise_addr, node.data_path_addr].into_iter();
        let route = routes.max_by_key(IpNet::prefix_len);
        let route = route.map(|prefix| Overlap::Route { node: node.name.clone(), prefix });
        let address = addresses.find(|address| subnet.contains(address));
        route.or_else(|| address.map(|address| Overlap::NodeAddress { node: node.name.clone(), address }))
    })
}

/// The next free subnet of the pool after the last one cut. Blocks of a route are jumped over, so a large one costs one step.
pub fn next_subnet(cluster: &mut Cluster, pool: IpNet, len: u8) -> Result<IpNet, SubnetsUsedUp> {
    let used_up = SubnetsUsedUp { pool, len };
    let step = 1u128 << (pool.max_prefix_len() - len);
    let (first, last) = span(pool);
    let end = last.saturating_add(1);
    let former = cluster.counters.subnet.each().find(|former| pool.contains(former)).map(number);
    let start = former.map_or(first, |former| former + step);
    let start = if start < first || start >= end { first } else { start };
    for (from, to) in [(start, end), (first, start)] {
        let mut at = from;
        while at + step <= to {
            let base = address(pool, at);
            let subnet = IpNet::new(base, len).map_err(|_| used_up.clone())?;
            let taken = match overlap(cluster, subnet) {
                None => {
                    cluster.counters.subnet.set(base);
                    return Ok(subnet);
                }
                Some(Overlap::Network { subnet: taken, .. }) => taken,
                Some(Overlap::Route { prefix, .. }) => prefix,
                Some(Overlap::NodeAddress { .. }) => subnet,
            };
            let behind = span(taken).1.saturating_add(1);
            at = (at + step).max(behind.checked_next_multiple_of(step).unwrap_or(u128::MAX - step));
        }
    }
    Err(used_up)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

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
    fn sixty_fours_are_cut_the_same_way() {
        let mut cluster = cluster_routing(&["::/0", "fd12:3456:789a::/63", "fd12:3456:789a:3::1/128"]);
        let mut take = || next(&mut cluster, "fd12:3456:789a::/48", 64);
        assert_eq!(take().as_deref(), Some("fd12:3456:789a:2::/64"));
        assert_eq!(take().as_deref(), Some("fd12:3456:789a:4::/64"));
        cluster.counters.subnet.set("fd12:3456:789a:ffff::".parse().expect("an address"));
        assert_eq!(next(&mut cluster, "fd12:3456:789a::/48", 64).as_deref(), Some("fd12:3456:789a:2::/64"));
        let mut covered = cluster_routing(&["fd00::/8"]);
        assert_eq!(next(&mut covered, "fd12:3456:789a::/48", 64), None);
    }

    #[test]
    fn the_scan_starts_again_at_the_front_and_ends_in_words() {
        let mut cluster = cluster_routing(&[]);
        cluster.counters.subnet = Ipv4Addr::new(10, 1, 1, 0).into();
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
