//! Why a node can't take a task, in the words of `service ps`: how many nodes have which obstacle, and who they are.

use crate::model::Node;

/// Who is named; a large cluster would fill the screen.
const MOST_NAMES: usize = 5;

/// What stands against a node. In the order in which they are told: what an operator can mend by adding something first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Obstacle {
    /// No such runtime answers there.
    LacksRuntime(&'static str),
    Constraints,
    MostReplicas,
    HostPort,
    Drained,
    Paused,
    Down,
    NotHeard,
}

impl Obstacle {
    /// `2 nodes lack the docker runtime: n1, n2`, `1 drained: n3`.
    pub(super) fn of(self, nodes: &[&Node]) -> String {
        let count = nodes.len();
        let (noun, lack) = if count == 1 { ("node", "lacks") } else { ("nodes", "lack") };
        let what = match self {
            Obstacle::LacksRuntime(runtime) => format!("{noun} {lack} the {runtime} runtime"),
            Obstacle::Constraints => "not matching the constraints".to_owned(),
            Obstacle::MostReplicas => "with the most replicas a node may have".to_owned(),
            Obstacle::HostPort => "where the host port is in use".to_owned(),
            Obstacle::Drained => "drained".to_owned(),
            Obstacle::Paused => "paused".to_owned(),
            Obstacle::Down => "down".to_owned(),
            Obstacle::NotHeard => "not heard from".to_owned(),
        };
        let mut names: Vec<&str> = nodes.iter().map(|node| node.name.as_str()).collect();
        names.sort_unstable();
        let more = if count > MOST_NAMES { ", …" } else { "" };
        names.truncate(MOST_NAMES);
        format!("{count} {what}: {}{more}", names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leader::world;

    #[test]
    fn nodes_are_counted_and_some_named() {
        let nodes: Vec<Node> = (1..=6).rev().map(world::node).collect();
        let nodes: Vec<&Node> = nodes.iter().collect();
        let docker = Obstacle::LacksRuntime("docker");
        assert_eq!(docker.of(&nodes[..2]), "2 nodes lack the docker runtime: n5, n6");
        assert_eq!(docker.of(&nodes[5..]), "1 node lacks the docker runtime: n1");
        assert_eq!(Obstacle::Drained.of(&nodes), "6 drained: n1, n2, n3, n4, n5, …");
    }
}
