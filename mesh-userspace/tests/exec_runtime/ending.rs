//! How tasks end: by themselves, when asked, by force; and that nothing is left.

use std::fs;
use std::time::{Duration, Instant};

use mesh_userspace::model::LogStream;
use mesh_userspace::runtime::{LogRequest, Phase, RuntimeError, StopRequest, TaskEvent, TaskRuntime};

use crate::stage::{PATIENCE, eventually, launch, shell, stage, text};

const ASK: StopRequest = StopRequest { signal: libc::SIGTERM, grace: Duration::from_secs(20) };

#[tokio::test]
async fn exit_codes_and_signals_are_told_once() {
    let Some(stage) = stage() else { return };
    let mut events = stage.runtime.events();
    for (script, code, signal) in [("exit 7", 7, None), ("true", 0, None), ("kill -KILL $$", 137, Some(9))] {
        let (id, _) = stage.run(shell(script)).await;
        let event = tokio::time::timeout(PATIENCE, events.recv()).await.expect("in time").expect("event");
        let TaskEvent::Exited { task_id, exit } = event else { panic!("no end: {event:?}") };
        assert_eq!((task_id, exit.code, exit.signal, exit.error), (id, code, signal, None), "{script}");
    }
    assert!(events.try_recv().is_err(), "one event a task");
}

#[tokio::test]
async fn a_command_that_is_not_there_says_so() {
    let Some(stage) = stage() else { return };
    let mut wrong_dir = shell("true");
    wrong_dir.workdir = Some("/no/dir".into());
    for (task, code, reason) in [
        (launch(&["/x/y"]), 127, "exec: no such file or directory: /x/y"),
        (launch(&["no-such-command"]), 127, "exec: command not found in PATH: no-such-command"),
        (launch(&["/etc/passwd"]), 126, "exec: permission denied: /etc/passwd"),
        (wrong_dir, 126, "working directory /no/dir: No such file or directory (os error 2)"),
    ] {
        let id = task.task_id.clone();
        stage.runtime.prepare(task).await.expect("prepared");
        let error = stage.runtime.start(&id).await.expect_err("can't start");
        assert!(matches!(&error, RuntimeError::Failed { reason: said, .. } if said == reason), "{error}");
        let exit = stage.exit_of(&id).await;
        assert_eq!((exit.code, exit.error.as_deref()), (code, Some(reason)));
    }
}

#[tokio::test]
async fn a_command_without_handlers_stops_at_once() {
    let Some(stage) = stage() else { return };
    let (id, _) = stage.run(launch(&["sleep", "3600"])).await;
    let begin = Instant::now();
    let exit = stage.runtime.stop(&id, ASK).await.expect("stopped");
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    assert_eq!((exit.code, exit.signal), (143, Some(15)));
    assert_eq!(stage.runtime.stop(&id, ASK).await.expect("again"), exit, "a second stop answers the same");
}

#[tokio::test]
async fn a_handler_may_use_the_grace_time_and_its_exit_code_counts() {
    let Some(stage) = stage() else { return };
    let (id, _) = stage.run(shell("trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.05; done")).await;
    let mut lines = stage.runtime.logs(&id, LogRequest { follow: true, tail: None }).await.expect("logs");
    assert_eq!(lines.recv().await.expect("line").text, "ready");
    let exit = stage.runtime.stop(&id, ASK).await.expect("stopped");
    assert_eq!((exit.code, exit.signal), (3, None));
    assert_eq!(lines.recv().await.expect("line").text, "bye");
    assert_eq!(lines.recv().await, None, "following ends with the task");
}

#[tokio::test]
async fn a_command_that_ignores_the_signal_is_killed_after_the_grace_time() {
    let Some(stage) = stage() else { return };
    let (id, _) = stage.run(shell("trap '' TERM; echo ready; while :; do sleep 1; done")).await;
    let mut lines = stage.runtime.logs(&id, LogRequest { follow: true, tail: None }).await.expect("logs");
    assert_eq!(lines.recv().await.expect("line").text, "ready");
    let begin = Instant::now();
    let request = StopRequest { signal: libc::SIGTERM, grace: Duration::from_millis(700) };
    let exit = stage.runtime.stop(&id, request).await.expect("stopped");
    assert!(begin.elapsed() >= request.grace, "{:?}", begin.elapsed());
    assert_eq!((exit.code, exit.signal), (137, Some(9)));
}

#[tokio::test]
async fn what_a_command_left_in_the_background_ends_with_it() {
    let Some(stage) = stage() else { return };
    let (exit, lines) = stage.output_of(shell("setsid sleep 3600 & echo started; exit 4")).await;
    assert_eq!((exit.code, text(&lines)), (4, vec!["started"]));
}

#[tokio::test]
async fn nothing_is_left_after_remove() {
    let Some(stage) = stage() else { return };
    let mounts_before = fs::read_to_string("/proc/self/mountinfo").expect("mounts");
    let (id, prepared) = stage.run(shell("sleep 3600 & sleep 3600; true")).await;
    let mut pids: Vec<String> = Vec::new();
    eventually("the task's processes are there", async || {
        let read = |leaf| fs::read_to_string(stage.cgroup(&id).join(leaf).join("cgroup.procs")).expect("processes");
        pids = ["task", "supervisor"].map(read).concat().lines().map(str::to_owned).collect();
        // Supervisor, init, shell, two sleeps.
        (pids.len() == 5).then_some(())
    })
    .await;
    assert!(pids.contains(&prepared.pid.to_string()), "{pids:?}");
    stage.runtime.remove(&id).await.expect("removed");
    for pid in pids {
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z "), "process {pid} is left: {state}");
    }
    assert!(!stage.cgroup(&id).exists() && !stage.cgroup(&id).parent().expect("node").exists(), "a cgroup is left");
    assert_eq!(fs::read_dir(stage.state_dir.path().join("tasks")).expect("tasks").count(), 0);
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").expect("mounts"), mounts_before);
    stage.runtime.remove(&id).await.expect("a second remove is no error");
    let error = stage.runtime.start(&id).await.expect_err("gone");
    assert!(matches!(error, RuntimeError::NotFound { .. }), "{error}");
}

#[tokio::test]
async fn a_prepared_task_can_be_stopped_and_removed() {
    let Some(stage) = stage() else { return };
    let task = shell("true");
    let id = task.task_id.clone();
    let prepared = stage.runtime.prepare(task).await.expect("prepared");
    assert!(prepared.netns.exists());
    assert_eq!(stage.runtime.list().await.expect("list")[0].phase, Phase::Prepared);
    let exit = stage.runtime.stop(&id, ASK).await.expect("stopped");
    assert_eq!(exit.error.as_deref(), Some("ended before its command was started"));
    stage.runtime.remove(&id).await.expect("removed");
}

#[tokio::test]
async fn logs_have_streams_tail_and_rotation() {
    let Some(stage) = stage() else { return };
    let (id, _) = stage.run(shell("seq 1 5; echo oops >&2; printf unfinished")).await;
    let lines = stage.lines(&id, LogRequest { follow: true, tail: None }).await;
    let out: Vec<_> =
        lines.iter().filter(|line| line.stream == LogStream::Stdout).map(|line| line.text.as_str()).collect();
    assert_eq!(out, ["1", "2", "3", "4", "5", "unfinished"]);
    let tail = stage.lines(&id, LogRequest { follow: false, tail: Some(2) }).await;
    assert_eq!(text(&tail), text(&lines[lines.len() - 2..]));

    // About 3 MiB through files of 1 MiB: the newest lines are there, the oldest are not, none is torn.
    let (id, _) = stage.run(shell("seq 1000000 1150000")).await;
    stage.exit_of(&id).await;
    let kept = stage.lines(&id, LogRequest::default()).await;
    let numbers: Vec<u32> = kept.iter().map(|line| line.text.parse().expect("a whole line")).collect();
    assert_eq!(numbers.last(), Some(&1_150_000));
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "consecutive");
    assert!(numbers[0] > 1_000_000 && numbers.len() > 40_000, "{} from {}", numbers.len(), numbers[0]);
}
