//! What is known of containers while no Engine answers: real processes and records, and a socket where nobody listens.

use std::process::{Child, Command};

use super::*;

/// A runtime whose Engine is away, as after the agent's restart.
struct World {
    dir: tempfile::TempDir,
    runtime: DockerRuntime,
    process: Child,
}

impl World {
    /// One container whose first process runs, with what `write` makes of its record.
    fn with(write: impl FnOnce(&mut Record)) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let process = Command::new("sleep").arg("600").spawn().expect("a process");
        let mut record = Record::new(id(), None);
        record.container = Some("c0ffee".to_owned());
        record.process = Some(ProcessRef::of(process.id().cast_signed()).expect("it runs"));
        record.started_at = Some(1_000);
        write(&mut record);
        Records::of(dir.path()).create(&record).expect("written");
        World { runtime: runtime(&dir), dir, process }
    }

    async fn listed(&self) -> TaskInstance {
        self.runtime.list().await.expect("listed").pop().expect("one task")
    }

    fn inner(&self) -> &Arc<Inner> {
        &self.runtime.0
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = self.process.kill().and_then(|()| self.process.wait()); // it may have ended
    }
}

fn id() -> Id {
    Id::from_bytes([7; 16])
}

fn runtime(dir: &tempfile::TempDir) -> DockerRuntime {
    let host = Some(format!("unix://{}/docker.sock", dir.path().display()));
    let config = DockerConfig { state_dir: dir.path().to_owned(), node: Id::from_bytes([1; 16]), host };
    DockerRuntime::new(config).expect("a runtime")
}

#[tokio::test]
async fn a_healthy_task_is_healthy_with_the_next_agents_first_word() {
    let world = World::with(|record| (record.is_checked, record.health) = (true, Some(TaskHealth::Healthy)));
    assert_eq!(world.listed().await.health, Some(TaskHealth::Healthy));
    let unasked = World::with(|record| record.is_checked = true);
    assert_eq!(unasked.listed().await.health, Some(TaskHealth::Starting));
}

#[tokio::test]
async fn a_verdict_is_on_record_when_it_is_told() {
    let world = World::with(|record| record.is_checked = true);
    let mut events = world.runtime.events();
    let record = world.inner().record(&id()).expect("there");
    world.inner().judged(&record, TaskHealth::Healthy);
    assert_eq!(events.try_recv(), Ok(TaskEvent::Health { task_id: id(), health: TaskHealth::Healthy }));
    assert_eq!(runtime(&world.dir).health(&id()).await.expect("known"), Some(TaskHealth::Healthy));
}
