//! What a former life of this agent had heard, for nodes that have not spoken yet: a restarted agent must not take running tasks out of its
//! tables just because gossip is a moment late, or because the agents of other nodes are away too.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use imbl::OrdMap;

use super::kept::Kept;
use crate::model::{Cluster, Id, Observed, TaskStatus};

/// The last view of a former life.
pub struct Remembered {
    kept: Kept<Observed>,
    /// Empty once everybody has spoken.
    former: Mutex<OrdMap<Id, TaskStatus>>,
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("observed-cache.json")
}

impl Remembered {
    /// Nothing where there is none or it can't be read: it only bridges a gap.
    pub fn load(state_dir: &Path) -> Self {
        let path = path(state_dir);
        let former = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Observed>(&bytes).ok());
        Remembered { kept: Kept::new(path, false), former: Mutex::new(former.unwrap_or_default().tasks) }
    }

    /// Adds the tasks of nodes that this life has not heard yet.
    pub fn complete(&self, observed: &mut Observed, cluster: &Cluster, me: &Id) {
        let mut former = self.former.lock().unwrap_or_else(PoisonError::into_inner);
        let mut others = cluster.nodes.keys().filter(|node| *node != me).peekable();
        if others.peek().is_some() && others.all(|node| observed.nodes.contains_key(node)) {
            former.clear();
        }
        for (task, status) in &*former {
            let node = cluster.tasks.get(task).and_then(|task| task.node_id.as_ref());
            if node.is_some_and(|node| node != me && !observed.nodes.contains_key(node)) {
                observed.tasks.entry(task.clone()).or_insert_with(|| status.clone());
            }
        }
    }

    /// Keeps a view for the next life. Not synced: after a power cut nothing that it tells of runs any more.
    pub fn keep(&self, observed: Arc<Observed>) {
        self.kept.set(observed);
    }

    /// The last view is on disk, and nothing is written any more.
    pub fn close(&self) {
        self.kept.close();
    }
}

/// Forgets it, as `swarm leave` does.
pub fn remove(state_dir: &Path) {
    let _ = std::fs::remove_file(path(state_dir)); // absent is as good
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NodeStatus, TaskState};

    fn id(byte: u8) -> Id {
        Id::from_bytes([byte; 16])
    }

    fn running() -> TaskStatus {
        TaskStatus::new(TaskState::Running, true, 1)
    }

    /// Task 7 on node 2.
    fn cluster() -> Cluster {
        let task = serde_json::json!({
            "id": id(7), "service_id": id(5), "service_name": "web", "slot": 1, "node_id": id(2),
            "spec": {"runtime": "exec", "image": "", "command": ["x"], "env": [], "user": null, "hostname": null, "workdir": null,
                "mounts": [], "health": null, "stop_signal": null, "stop_grace_period_ms": 1, "resources": {},
                "restart": {"condition": "any", "delay_ms": 1, "max_attempts": 0, "window_ms": 0}, "constraints": [],
                "max_replicas_per_node": 0, "force_update": 0},
            "service_version": 1, "attachments": [], "desired": "running", "draining": false, "leader_state": null,
            "message": "", "created_at": 0, "not_before": 0
        });
        let mut cluster = Cluster::default();
        cluster.tasks.insert(id(7), serde_json::from_value(task).expect("a task"));
        cluster
    }

    #[test]
    fn a_task_of_an_unheard_node_keeps_its_last_state_until_the_node_speaks() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut seen = Observed::default();
        seen.tasks.insert(id(7), running());
        Remembered::load(dir.path()).keep(Arc::new(seen));

        let next_life = Remembered::load(dir.path());
        let mut observed = Observed::default();
        next_life.complete(&mut observed, &cluster(), &id(1));
        assert_eq!(observed.tasks.get(&id(7)), Some(&running()));

        let mut spoken = Observed::default();
        let status = NodeStatus {
            generation: 1,
            agent_version: String::new(),
            applied_revision: 0,
            layout_version: 1,
            ports_not_taken: Vec::new(),
            runtimes: None,
            engine_version: None,
            without: Default::default(),
            interfaces: Default::default(),
            warnings: Vec::new(),
        };
        spoken.nodes.insert(id(2), status);
        next_life.complete(&mut spoken, &cluster(), &id(1));
        assert!(spoken.tasks.is_empty(), "what the node itself says counts");
    }
}
