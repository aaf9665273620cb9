//! A task's life without an agent: the runtime is dropped, or its process killed, and another takes over.

use std::fs;
use std::time::Duration;

use mesh_userspace::model::Id;
use mesh_userspace::runtime::{LogRequest, Phase, StopRequest, TaskEvent, TaskRuntime};

use crate::stage::{PATIENCE, Stage, eventually, request, shell, stage};

const ASK: StopRequest = StopRequest { signal: libc::SIGTERM, grace: Duration::from_secs(20) };

/// Process ids that the task's state names: supervisor and init.
fn pids(stage: &Stage, id: &Id) -> (i32, i32) {
    let path = stage.state_dir.path().join("tasks").join(id.as_str()).join("state.json");
    let state: serde_json::Value = serde_json::from_slice(&fs::read(path).expect("state")).expect("JSON");
    let pid = |who: &str| state[who]["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).expect("pid");
    (pid("supervisor"), pid("init"))
}

#[tokio::test]
async fn another_agent_finds_a_running_task_and_hears_its_end() {
    let Some(stage) = stage() else { return };
    let task = shell("trap 'exit 9' TERM; echo ready; while :; do sleep 0.05; done");
    let (id, prepared) = stage.run(task.clone()).await;
    let agent = stage.another_agent();
    let mut lines = agent.logs(&id, LogRequest { follow: true, tail: None }).await.expect("logs");
    assert_eq!(lines.recv().await.expect("line").text, "ready");
    let mut events = agent.events();
    let found = agent.list().await.expect("list");
    assert_eq!(found.len(), 1);
    assert_eq!(
        (&found[0].phase, &found[0].launch, &found[0].prepared),
        (&Phase::Running, &Some(task), &Some(prepared))
    );
    assert!(found[0].started_at.is_some());
    assert_eq!(agent.stop(&id, ASK).await.expect("stopped").code, 9);
    let event = tokio::time::timeout(PATIENCE, events.recv()).await.expect("in time");
    assert!(matches!(event, Some(TaskEvent::Exited { task_id, exit }) if task_id == id && exit.code == 9));
}

#[tokio::test]
async fn a_prepared_task_is_started_by_another_agent() {
    let Some(stage) = stage() else { return };
    let task = shell("exit 5");
    let id = task.task_id.clone();
    stage.runtime.prepare(task).await.expect("prepared");
    let agent = stage.another_agent();
    assert_eq!(agent.list().await.expect("list")[0].phase, Phase::Prepared);
    agent.start(&id).await.expect("started");
    assert_eq!(stage.exit_of(&id).await.code, 5);
}

#[tokio::test]
async fn an_exit_while_no_agent_is_there_is_on_record() {
    let Some(stage) = stage() else { return };
    let (id, _) = stage.run(shell("exit 6")).await;
    let path = stage.state_dir.path().join("tasks").join(id.as_str()).join("state.json");
    eventually("the supervisor wrote the end", async || {
        fs::read_to_string(&path).ok().filter(|text| text.contains("exited")).map(|_| ())
    })
    .await;
    let found = stage.another_agent().list().await.expect("list");
    assert!(matches!(&found[0].phase, Phase::Exited(exit) if exit.code == 6), "{found:?}");
    assert_eq!(found[0].prepared, None);
}

#[tokio::test]
async fn a_task_does_not_outlive_its_supervisor() {
    let Some(stage) = stage() else { return };
    let mut events = stage.runtime.events();
    let (id, prepared) = stage.run(shell("sleep 3600")).await;
    let (supervisor, init) = pids(&stage, &id);
    assert_eq!(init, prepared.pid.cast_signed());
    // SAFETY: integers only; the process is the supervisor this test started.
    assert_eq!(unsafe { libc::kill(supervisor, libc::SIGKILL) }, 0);
    let event = tokio::time::timeout(PATIENCE, events.recv()).await.expect("in time");
    let Some(TaskEvent::Exited { exit, .. }) = event else { panic!("no event") };
    assert!(exit.error.as_deref().is_some_and(|error| error.contains("supervisor")), "{exit:?}");
    eventually("no process of the task is left", async || {
        let left = fs::read_to_string(stage.cgroup(&id).join("task/cgroup.procs")).ok()?;
        left.is_empty().then_some(())
    })
    .await;
    let found = stage.another_agent().list().await.expect("list");
    assert_eq!(found[0].phase, Phase::Exited(exit));
}

#[tokio::test]
async fn the_supervisor_is_nobodys_child_small_and_silent() {
    let Some(stage) = stage() else { return };
    let (id, _) = stage.run(shell("sleep 3600")).await;
    let (supervisor, _) = pids(&stage, &id);
    let status = fs::read_to_string(format!("/proc/{supervisor}/status")).expect("status");
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).expect("field");
        line[name.len()..].trim().trim_end_matches(" kB").trim().to_owned()
    };
    assert_ne!(field("PPid:"), std::process::id().to_string(), "it left the agent");
    assert_eq!(field("Threads:"), "1");
    eprintln!("supervisor: VmRSS {} kB, RssAnon {} kB", field("VmRSS:"), field("RssAnon:"));
    assert!(field("RssAnon:").parse::<u64>().expect("kB") < 1024, "{status}");
    let said = fs::read_to_string(stage.state_dir.path().join("tasks").join(id.as_str()).join("supervisor.log"));
    assert_eq!(said.expect("supervisor.log"), "");
    assert_eq!(stage.exec(&id, request(&["true"])).await.0, 0);
}
