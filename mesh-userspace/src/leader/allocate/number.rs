//! Numbers for maps and frames. Each counts up; after the last of its range it starts again, past those still held.

use mesh_common::schema::{MAX_FRONTENDS, MAX_NODES};
use mesh_common::wire::vni;

use crate::model::Cluster;

/// The next number after `last` in `first..=end` that nobody holds; None where all are held.
fn next(last: u32, first: u32, end: u32, is_held: impl Fn(u32) -> bool) -> Option<u32> {
    let start = if last < first || last >= end { first } else { last + 1 };
    (start..=end).chain(first..start).find(|number| !is_held(*number))
}

/// A node's number, which is its slot in the array `PEERS`. None with as many nodes as that has slots.
pub fn next_node_number(cluster: &mut Cluster) -> Option<u32> {
    let held = |number| cluster.nodes.values().any(|node| node.number == number);
    let number = next(cluster.counters.node, 1, MAX_NODES as u32 - 1, held)?;
    cluster.counters.node = number;
    Some(number)
}

/// A VNI for a user's network.
pub fn next_vni(cluster: &mut Cluster) -> Option<u32> {
    let held = |number| cluster.networks.values().any(|network| network.vni == number);
    let number = next(cluster.counters.vni, vni::FIRST_NETWORK, vni::LAST_NETWORK, held)?;
    cluster.counters.vni = number;
    Some(number)
}

/// A number for a (service, network) pair, which is its slot in the array `TURNS`. None with as many pairs as that has slots.
pub fn next_pool(cluster: &mut Cluster) -> Option<u32> {
    let held = |number| cluster.services.values().flat_map(|service| &service.vips).any(|vip| vip.pool == number);
    let number = next(cluster.counters.pool, 1, MAX_FRONTENDS as u32 - 1, held)?;
    cluster.counters.pool = number;
    Some(number)
}

/// A number for a task's attachment to a network.
pub fn next_endpoint(cluster: &mut Cluster) -> Option<u32> {
    let held = |number| cluster.tasks.values().flat_map(|task| &task.attachments).any(|at| at.endpoint == number);
    let number = next(cluster.counters.endpoint, 1, u32::MAX, held)?;
    cluster.counters.endpoint = number;
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_up_and_wrap_past_those_held() {
        let held = |number| number == 2 || number == 5;
        assert_eq!(next(0, 1, 6, held), Some(1));
        assert_eq!(next(1, 1, 6, held), Some(3), "2 is held");
        assert_eq!(next(4, 1, 6, held), Some(6), "5 is held");
        assert_eq!(next(6, 1, 6, held), Some(1), "after the last comes the first");
        assert_eq!(next(3, 1, 2, |_| true), None);
    }
}
