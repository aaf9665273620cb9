//! What the leader believes of a node, from what its own node observes.
//!
//! *Agent alive* (membership) and *node reachable* (data plane) are two facts. Only an unreachable node loses its tasks; a
//! node whose agent alone is gone keeps them, but gets no new ones. The view is one node's, so it may be the viewer that is
//! cut off: while more than half of the nodes seem lost, none is taken as lost.

use crate::model::{Cluster, Id, Node, Observed, UnixMs};

use super::Timing;

/// What the leader may do with a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Agent alive and node reachable: new tasks may come.
    Ready,
    /// Something is silent, or was never heard: tasks stay, new ones don't come.
    Uncertain,
    /// Silent for too long: its tasks are replaced elsewhere.
    Lost,
}

/// The belief about one node, before the question who is cut off.
fn symptom(node: &Node, observed: &Observed, now: UnixMs, timing: Timing) -> Health {
    let for_ms = |since: Option<&UnixMs>| since.map(|since| now.saturating_sub(*since));
    let unreachable_ms = for_ms(observed.unreachable_since.get(&node.id));
    let gone_ms = for_ms(observed.agent_gone_since.get(&node.id));
    // The node with the store runs the leader: where nobody says otherwise, it is alive.
    let alive = observed.agent_alive.get(&node.id).copied().unwrap_or(node.holds_store);
    match unreachable_ms {
        Some(ms) if ms >= timing.unreachable_grace_ms => Health::Lost,
        Some(_) if !alive && gone_ms.is_some_and(|ms| ms >= timing.agent_gone_ms) => Health::Lost,
        None if alive => Health::Ready,
        _ => Health::Uncertain,
    }
}

/// The node ids that seem lost, and how many nodes there are.
fn lost<'a>(cluster: &'a Cluster, observed: &Observed, now: UnixMs, timing: Timing) -> (Vec<&'a Id>, usize) {
    let lost = cluster.nodes.values().filter(|node| symptom(node, observed, now, timing) == Health::Lost);
    (lost.map(|node| &node.id).collect(), cluster.nodes.len())
}

/// The belief about one node.
pub fn node_health(cluster: &Cluster, observed: &Observed, node: &Node, now: UnixMs, timing: Timing) -> Health {
    match symptom(node, observed, now, timing) {
        Health::Lost if isolation(cluster, observed, now, timing).is_some() => Health::Uncertain,
        health => health,
    }
}

/// Words, where so many nodes seem lost that rather the viewer is cut off; then nothing is moved.
pub fn isolation(cluster: &Cluster, observed: &Observed, now: UnixMs, timing: Timing) -> Option<String> {
    let (lost, all) = lost(cluster, observed, now, timing);
    (lost.len() * 2 > all).then(|| {
        format!(
            "the leader reaches {} of {all} nodes and may be cut off itself: tasks stay where they are",
            all - lost.len()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leader::world::World;

    fn health(world: &World, number: u32) -> Health {
        let node = world.cluster.nodes.values().find(|node| node.number == number).expect("there is such a node");
        node_health(&world.cluster, &world.observed, node, world.now, Timing::default())
    }

    #[test]
    fn an_unreachable_node_is_lost_after_the_grace_time_only() {
        let mut world = World::of_nodes(3);
        assert_eq!(health(&world, 2), Health::Ready);
        world.cut(2);
        assert_eq!(health(&world, 2), Health::Uncertain);
        world.pass(5_000);
        assert_eq!(health(&world, 2), Health::Lost);
        world.mend(2);
        assert_eq!(health(&world, 2), Health::Ready);
    }

    #[test]
    fn a_node_whose_agent_alone_is_gone_is_never_lost() {
        let mut world = World::of_nodes(3);
        world.kill_agent(2);
        world.pass(60_000);
        assert_eq!(health(&world, 2), Health::Uncertain);
    }

    #[test]
    fn a_node_never_heard_of_is_uncertain_and_the_stores_node_is_ready() {
        let mut world = World::of_nodes(3);
        world.observed = Observed::default();
        assert_eq!(health(&world, 1), Health::Ready);
        assert_eq!(health(&world, 2), Health::Uncertain);
    }

    #[test]
    fn who_loses_most_nodes_at_once_is_cut_off_itself() {
        let mut world = World::of_nodes(3);
        world.cut(2);
        world.cut(3);
        world.pass(60_000);
        assert_eq!(health(&world, 2), Health::Uncertain);
        assert!(isolation(&world.cluster, &world.observed, world.now, Timing::default()).is_some());
    }
}
