//! A task's life without an agent: the runtime is dropped, or its process killed, and another takes over.

use std::fs;
use std::time::Duration;

use mesh_userspace::model::{ExecRequest, Id, WindowSize};
use mesh_userspace::runtime::exec::{ExecConfig, ExecRuntime};
use mesh_userspace::runtime::{LogRequest, Phase, StopRequest, TaskEvent, TaskRuntime};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::stage::{PATIENCE, Stage, eventually, finish, request, shell, stage};

const ASK: StopRequest = StopRequest { signal: libc::SIGTERM, grace: Duration::from_secs(20) };

/// Names the state directory of the agent that is to be killed.
const KILLED_AGENT: &str = "MESH_TEST_KILLED_AGENT";

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

/// Not a test by itself: with the variable set, this process is the agent that the next test kills.
#[tokio::test]
async fn an_agent_to_be_killed() {
    let Some(state_dir) = std::env::var_os(KILLED_AGENT) else { return };
    let stage = stage().expect("the parent can run these tests");
    let config = ExecConfig { state_dir: state_dir.into(), ..stage.config.clone() };
    let runtime = ExecRuntime::new(config).expect("runtime");
    let task = shell("while sleep 0.05; do :; done");
    let id = task.task_id.clone();
    runtime.prepare(task).await.expect("prepared");
    runtime.start(&id).await.expect("started");
    let mut streams = Vec::new();
    for tty in [None, Some(WindowSize { rows: 24, columns: 80 })] {
        let command = ExecRequest { tty, interactive: true, ..request(&["sleep", "4242"]) };
        streams.push(runtime.exec(&id, command).await.expect("exec"));
    }
    println!("agent of {} {}", stage.config.node, id);
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_killed_agents_task_runs_on_and_its_execs_end() {
    let Some(mut stage) = stage() else { return };
    let mut agent = tokio::process::Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "adoption::an_agent_to_be_killed", "--nocapture"])
        .env(KILLED_AGENT, stage.state_dir.path())
        .env("TMPDIR", stage.state_dir.path())
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("agent");
    let mut lines = BufReader::new(agent.stdout.take().expect("piped")).lines();
    let (node, id) = loop {
        let line =
            tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("in time").expect("read").expect("line");
        if let Some((_, said)) = line.split_once("agent of ") {
            let (node, id) = said.split_once(' ').expect("node and task");
            break (node.to_owned(), Id::try_from(id.to_owned()).expect("id"));
        }
    };
    stage.config.node = node;
    let sleepers = || {
        let processes = fs::read_to_string(stage.cgroup(&id).join("task/cgroup.procs")).expect("processes");
        let command = |pid: &str| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        processes.lines().filter(|pid| command(pid).starts_with(b"sleep\x004242")).count()
    };
    eventually("both commands run", async || (sleepers() == 2).then_some(())).await;

    // SIGKILL.
    agent.kill().await.expect("killed");
    eventually("they end with the agent", async || (sleepers() == 0).then_some(())).await;
    let next = stage.another_agent();
    let found = next.list().await.expect("list");
    assert_eq!((found.len(), &found[0].phase), (1, &Phase::Running));
    let (code, out, _) = finish(next.exec(&id, request(&["echo", "here"])).await.expect("exec")).await;
    assert_eq!((code, out.as_str()), (0, "here\n"));
    assert_eq!(next.stop(&id, ASK).await.expect("stopped").code, 143);
    next.remove(&id).await.expect("removed");
    assert!(!stage.cgroup(&id).exists());
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
    assert_eq!((field("Name:").as_str(), field("Threads:").as_str()), ("mesh-supervise", "1"));
    eprintln!("supervisor: VmRSS {} kB, RssAnon {} kB", field("VmRSS:"), field("RssAnon:"));
    // Most of it is the binary's relocated data, which every mesh process has.
    assert!(field("RssAnon:").parse::<u64>().expect("kB") < 4096, "{status}");
    let said = fs::read_to_string(stage.state_dir.path().join("tasks").join(id.as_str()).join("supervisor.log"));
    assert_eq!(said.expect("supervisor.log"), "");
    assert_eq!(stage.exec(&id, request(&["true"])).await.0, 0);
}
