//! From the word a user typed to the object: exact name, exact id, then unique prefix of an id, as Docker does.

use super::Facts;
use crate::api::ApiError;
use crate::model::{Id, Network, Node, Service, Task, TaskState};

impl Facts {
    pub fn find_node(&self, word: &str) -> Result<&Node, ApiError> {
        let me = self.member()?;
        if word == "self" {
            return self
                .cluster
                .nodes
                .get(me)
                .ok_or_else(|| ApiError::unavailable("this node's record has not arrived yet; try again in a moment"));
        }
        let nodes = self.cluster.nodes.values().map(|node| (&node.id, node.name.as_str(), node));
        find("node", "mesh node ls", word, nodes)
    }

    pub fn find_network(&self, word: &str) -> Result<&Network, ApiError> {
        self.member()?;
        let networks = self.cluster.shown_networks().map(|network| (&network.id, network.spec.name.as_str(), network));
        find("network", "mesh network ls", word, networks)
    }

    pub fn find_service(&self, word: &str) -> Result<&Service, ApiError> {
        self.member()?;
        let services = self.cluster.services.values().map(|service| (&service.id, service.spec.name.as_str(), service));
        find("service", "mesh service ls", word, services)
    }

    /// `whoami.1`, a task's id, or a unique prefix of it. A name means the slot's present task: the one that should
    /// run, or else the newest.
    pub fn find_task(&self, word: &str) -> Result<&Task, ApiError> {
        self.member()?;
        let by_name = self
            .cluster
            .tasks
            .values()
            .filter(|task| task.name() == word || self.swarm_name(task) == word)
            .max_by_key(|task| (task.desired == TaskState::Running, task.created_at, &task.id));
        if let Some(task) = by_name {
            return Ok(task);
        }
        let tasks = self.cluster.tasks.values().map(|task| (&task.id, "", task));
        find("task", "mesh ps' or 'mesh service ps", word, tasks)
    }

    /// `web.n1` for a global service's task, next to its full name with the node's id.
    fn swarm_name(&self, task: &Task) -> String {
        let node = task.node_id.as_ref().and_then(|id| self.cluster.nodes.get(id));
        match (task.slot, node) {
            (0, Some(node)) => format!("{}.{}", task.service_name, node.name),
            _ => format!("{}.{}.{}", task.service_name, task.slot, task.id),
        }
    }
}

fn find<'a, T>(
    noun: &str,
    listing: &str,
    word: &str,
    objects: impl Iterator<Item = (&'a Id, &'a str, &'a T)>,
) -> Result<&'a T, ApiError> {
    let mut by_prefix = Vec::new();
    for (id, name, object) in objects {
        if name == word || id.as_str() == word {
            return Ok(object);
        }
        if !word.is_empty() && id.as_str().starts_with(word) {
            by_prefix.push(object);
        }
    }
    match by_prefix.as_slice() {
        [object] => Ok(object),
        [] => Err(ApiError::not_found(format!("no such {noun}: {word}; '{listing}' lists them"))),
        many => Err(ApiError::conflict(format!(
            "{noun} {word} is ambiguous: {} ids begin with it; give more digits",
            many.len()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::facts;

    #[test]
    fn names_ids_and_prefixes_find_and_the_rest_is_told() {
        let facts = facts();
        let id = facts.cluster.service_named("whoami").expect("in the fixture").id.clone();
        assert_eq!(facts.find_service("whoami").expect("by name").id, id);
        assert_eq!(facts.find_service(id.as_str()).expect("by id").id, id);
        assert_eq!(facts.find_service(&id.as_str()[..6]).expect("by prefix").id, id);
        let error = facts.find_service("nope").expect_err("unknown");
        assert_eq!(error.message, "no such service: nope; 'mesh service ls' lists them");
        assert_eq!(facts.find_task("whoami.1").expect("by slot").service_name, "whoami");
        assert_eq!(facts.find_node("self").expect("self").name, "n1");
    }
}
