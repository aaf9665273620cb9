//! What a former life of this agent had heard, for nodes that have not spoken yet: a restarted agent must not take running tasks out of its
//! tables just because gossip is a moment late, or because the agents of other nodes are away too.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::model::{Cluster, Id, Observed};

/// The last view of a former life.
pub struct Remembered {
    path: PathBuf,
    former: Observed,
}

fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("observed-cache.json")
}

impl Remembered {
    /// Nothing where there is none or it can't be read: it only bridges a gap.
    pub fn load(state_dir: &Path) -> Self {
        let path = path(state_dir);
        let former = std::fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Remembered { path, former: former.unwrap_or_default() }
    }

    /// Adds the tasks of nodes that this life has not heard yet.
    pub fn complete(&self, observed: &mut Observed, cluster: &Cluster, me: &Id) {
        for (task, status) in &self.former.tasks {
            let node = cluster.tasks.get(task).and_then(|task| task.node_id.as_ref());
            if node.is_some_and(|node| node != me && !observed.nodes.contains_key(node)) {
                observed.tasks.entry(task.clone()).or_insert_with(|| status.clone());
            }
        }
    }

    /// Keeps a view for the next life. Not synced: after a power cut nothing that it tells of runs any more.
    pub fn keep(&self, observed: &Observed) -> std::io::Result<()> {
        let next = self.path.with_extension("new");
        let mut file = std::fs::OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(&next)?;
        file.write_all(&serde_json::to_vec(observed)?)?;
        std::fs::rename(next, &self.path)
    }
}

/// Forgets it, as `swarm leave` does.
pub fn remove(state_dir: &Path) {
    let _ = std::fs::remove_file(path(state_dir)); // absent is as good
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{NodeStatus, TaskState, TaskStatus};

    fn id(byte: u8) -> Id {
        Id::from_bytes([byte; 16])
    }

    fn running() -> TaskStatus {
        TaskStatus {
            state: TaskState::Running,
            ready: true,
            message: String::new(),
            error: None,
            exit_code: None,
            pid: None,
            health: None,
            since: 1,
        }
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
        Remembered::load(dir.path()).keep(&seen).expect("written");

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
            warnings: Vec::new(),
        };
        spoken.nodes.insert(id(2), status);
        next_life.complete(&mut spoken, &cluster(), &id(1));
        assert!(spoken.tasks.is_empty(), "what the node itself says counts");
    }
}
