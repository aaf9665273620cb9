//! Healthchecks: a command inside the task says whether it is well, and the runtime tells when that changes.

use std::fs;
use std::path::Path;

use mesh_userspace::model::{HealthCheck, Id, TaskHealth};
use mesh_userspace::runtime::{TaskEvent, TaskLaunch, TaskRuntime};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::stage::{PATIENCE, Stage, eventually, launch, request, shell, stage};

/// A sleeping task that this script judges, twice in a row, every 50 ms.
fn judged_by(script: &str) -> TaskLaunch {
    let check = HealthCheck {
        command: ["/bin/sh", "-c", script].map(str::to_owned).into(),
        interval_ms: 50,
        timeout_ms: 10_000,
        retries: 2,
        start_period_ms: 0,
        start_interval_ms: 0,
    };
    TaskLaunch { health: Some(check), ..launch(&["sleep", "3600"]) }
}

/// The next verdict of the task.
async fn verdict(events: &mut UnboundedReceiver<TaskEvent>, id: &Id) -> TaskHealth {
    loop {
        match tokio::time::timeout(PATIENCE, events.recv()).await.expect("a verdict in time") {
            Some(TaskEvent::Health { task_id, health }) if task_id == *id => return health,
            Some(TaskEvent::Health { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn health(stage: &Stage, id: &Id) -> Option<TaskHealth> {
    stage.runtime.health(id).await.expect("known")
}

/// A file outside the task's masked directories, which the host shares with it.
fn flag(stage: &Stage) -> std::path::PathBuf {
    let name = stage.state_dir.path().file_name().expect("a name").to_string_lossy().into_owned();
    Path::new("/tmp").join(format!("{name}.ok"))
}

#[tokio::test]
async fn the_verdict_follows_the_check() {
    let Some(stage) = stage() else { return };
    let (mut events, flag) = (stage.runtime.events(), flag(&stage));
    let (id, _) = stage.run(judged_by(&format!("test -f {} || {{ echo no flag; exit 3; }}", flag.display()))).await;
    // As many failures as make it unhealthy would do it; the flag comes before or after them.
    assert!(health(&stage, &id).await.is_some_and(|health| health != TaskHealth::Healthy));
    fs::write(&flag, "").expect("written");
    while verdict(&mut events, &id).await != TaskHealth::Healthy {}
    assert_eq!(health(&stage, &id).await, Some(TaskHealth::Healthy));
    assert_eq!(stage.runtime.last_failure(&id).await, None);
    fs::remove_file(&flag).expect("removed");
    assert_eq!(verdict(&mut events, &id).await, TaskHealth::Unhealthy);
    assert_eq!(stage.runtime.last_failure(&id).await.as_deref(), Some("exit 3: no flag"));
    assert_eq!(health(&stage, &id).await, Some(TaskHealth::Unhealthy));
    stage.runtime.remove(&id).await.expect("removed");
    assert!(
        matches!(events.recv().await, Some(TaskEvent::Exited { task_id, .. }) if task_id == id),
        "probing has ended"
    );
}

#[tokio::test]
async fn the_check_is_inside_the_task() {
    let Some(stage) = stage() else { return };
    let mut events = stage.runtime.events();
    let mut task =
        judged_by(r#"test "$A" = b && test "$(id -u)" = 65534 && test "$(hostname)" = inside && test "$$" != 1"#);
    task.env = vec!["A=b".into()];
    task.user = Some("65534".into());
    task.hostname = "inside".into();
    let (id, _) = stage.run(task).await;
    assert_eq!(verdict(&mut events, &id).await, TaskHealth::Healthy, "{:?}", stage.runtime.last_failure(&id).await);
}

#[tokio::test]
async fn a_check_that_takes_too_long_has_failed_and_leaves_nothing() {
    let Some(stage) = stage() else { return };
    let mut events = stage.runtime.events();
    // The shell ignores what it can and has a child.
    let mut task = judged_by("trap '' HUP TERM INT; echo patience; sleep 4242; exit 0");
    task.health.as_mut().expect("a check").timeout_ms = 300;
    let (id, _) = stage.run(task).await;
    assert_eq!(verdict(&mut events, &id).await, TaskHealth::Unhealthy);
    assert_eq!(stage.runtime.last_failure(&id).await.as_deref(), Some("timed out after 300 ms: patience"));
    let sleepers = || {
        let processes = fs::read_to_string(stage.cgroup(&id).join("task/cgroup.procs")).expect("processes");
        let command = |pid: &str| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        processes.lines().filter(|pid| command(pid).starts_with(b"sleep\x004242")).count()
    };
    // Probes go on, one at a time: more than one would be a child left behind.
    eventually("at most one probe's child is there", async || (sleepers() <= 1).then_some(())).await;
    assert_eq!(stage.exec(&id, request(&["true"])).await.0, 0, "the task itself lives");
}

#[tokio::test]
async fn a_check_that_can_not_be_run_has_failed() {
    let Some(stage) = stage() else { return };
    let mut events = stage.runtime.events();
    let mut task = judged_by("");
    task.health.as_mut().expect("a check").command = vec!["/nowhere/check".into()];
    let (id, _) = stage.run(task).await;
    assert_eq!(verdict(&mut events, &id).await, TaskHealth::Unhealthy);
    let words = stage.runtime.last_failure(&id).await.expect("words");
    assert!(words.starts_with("exit 127: ") && words.contains("/nowhere/check"), "{words}");
}

#[tokio::test]
async fn another_agent_finds_a_healthy_task_healthy_and_goes_on_probing() {
    let Some(stage) = stage() else { return };
    let (mut events, flag) = (stage.runtime.events(), flag(&stage));
    fs::write(&flag, "").expect("written");
    let (id, _) = stage.run(judged_by(&format!("test -f {}", flag.display()))).await;
    assert_eq!(verdict(&mut events, &id).await, TaskHealth::Healthy);
    let next = stage.another_agent();
    let mut events = next.events();
    assert_eq!(next.list().await.expect("list")[0].health, Some(TaskHealth::Healthy));
    fs::remove_file(&flag).expect("removed");
    assert_eq!(verdict(&mut events, &id).await, TaskHealth::Unhealthy);
    assert_eq!(stage.another_agent().list().await.expect("list")[0].health, Some(TaskHealth::Unhealthy));
}

#[tokio::test]
async fn without_a_check_or_with_none_there_is_no_verdict() {
    let Some(stage) = stage() else { return };
    let none = TaskLaunch { health: Some(HealthCheck::disabled()), ..shell("sleep 3600") };
    for task in [shell("sleep 3600"), none] {
        let (id, _) = stage.run(task).await;
        assert_eq!(health(&stage, &id).await, None);
        assert!(stage.runtime.list().await.expect("list").iter().all(|found| found.health.is_none()));
    }
}
