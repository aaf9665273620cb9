//! `mesh exec`: one more command inside a running task, with and without a terminal.

use std::time::{Duration, Instant};

use mesh_userspace::model::{ExecEvent, ExecInput, ExecRequest, Id, WindowSize};
use mesh_userspace::runtime::{RuntimeError, TaskRuntime};

use crate::stage::{Stage, eventually, finish, launch, request, say, shell, stage, text, until};

async fn sleeping(stage: &Stage) -> Id {
    stage.run(launch(&["sleep", "3600"])).await.0
}

fn terminal(command: &[&str]) -> ExecRequest {
    ExecRequest { interactive: true, tty: Some(WindowSize { rows: 24, columns: 80 }), ..request(command) }
}

#[tokio::test]
async fn a_command_shares_the_tasks_world() {
    let Some(stage) = stage() else { return };
    let script = "for ns in net mnt pid uts cgroup; do readlink /proc/self/ns/$ns; done; hostname; cat /etc/resolv.conf; \
                  grep -E 'Cap(Eff|Bnd)|NoNew' /proc/self/status; cat /proc/self/cgroup | grep ^0; echo $A; pwd";
    let mut task = shell(&format!("{script}; sleep 3600"));
    task.env = vec!["A=of the task".into()];
    task.workdir = Some("/usr".into());
    let (id, _) = stage.run(task).await;
    let mut printed = Vec::new();
    eventually("the task has printed", async || {
        printed = stage.lines(&id, Default::default()).await;
        (printed.last().map(|line| line.text.as_str()) == Some("/usr")).then_some(())
    })
    .await;
    let (code, out, err) = stage.exec(&id, request(&["sh", "-c", script])).await;
    assert_eq!((code, err.as_str()), (0, ""));
    assert_eq!(out.lines().collect::<Vec<_>>(), text(&printed));
}

#[tokio::test]
async fn exit_codes_are_a_shells() {
    let Some(stage) = stage() else { return };
    let id = sleeping(&stage).await;
    for (command, code, word) in [
        (&["sh", "-c", "exit 3"][..], 3, ""),
        (&["sh", "-c", "kill -TERM $$"], 143, ""),
        (&["/x/y"], 127, "exec: no such file or directory: /x/y"),
        (&["/etc/passwd"], 126, "exec: permission denied"),
    ] {
        let (got, _, err) = stage.exec(&id, request(command)).await;
        assert_eq!(got, code, "{command:?}: {err}");
        assert!(err.contains(word), "{err}");
    }
    let as_user = ExecRequest { user: Some("no-such-user".into()), ..request(&["true"]) };
    let (code, _, err) = stage.exec(&id, as_user).await;
    assert!(code == 126 && err.contains("no-such-user"), "{code} {err}");
}

#[tokio::test]
async fn streams_are_separate_and_the_input_can_be_closed() {
    let Some(stage) = stage() else { return };
    let id = sleeping(&stage).await;
    let command = request(&["sh", "-c", "echo out; echo err >&2; cat; echo end"]);
    let streams = stage.runtime.exec(&id, ExecRequest { interactive: true, ..command }).await.expect("exec");
    say(&streams, "to be ").await;
    say(&streams, "copied\n").await;
    streams.0.send(ExecInput::CloseStdin).await.expect("sent");
    assert_eq!(finish(streams).await, (0, "out\nto be copied\nend\n".into(), "err\n".into()));

    let (code, out, _) = stage.exec(&id, request(&["wc", "-c"])).await;
    assert_eq!((code, out.trim()), (0, "0"), "without input there is none");

    let whole: String = std::iter::repeat_n("0123456789abcde\n", 64 * 1024).collect();
    let (code, out, _) = stage.exec(&id, request(&["sh", "-c", "yes 0123456789abcde | head -65536"])).await;
    assert!(code == 0 && out == whole, "a megabyte arrives whole: {}", out.len());
}

#[tokio::test]
async fn a_background_process_does_not_hold_the_caller() {
    let Some(stage) = stage() else { return };
    let id = sleeping(&stage).await;
    let begin = Instant::now();
    let (code, out, _) = stage.exec(&id, request(&["sh", "-c", "sleep 3600 & echo left"])).await;
    assert_eq!((code, out.as_str()), (0, "left\n"));
    assert!(begin.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_shell_on_a_terminal_has_job_control_interrupt_and_size() {
    let Some(stage) = stage() else { return };
    let id = sleeping(&stage).await;
    let mut streams = stage.runtime.exec(&id, terminal(&["sh"])).await.expect("exec");
    say(&streams, "stty size; tty; echo $TERM; echo done-$((1+1))\n").await;
    let seen = until(&mut streams, "done-2").await;
    assert!(seen.contains("24 80") && seen.contains("/dev/pts/0") && seen.contains("xterm"), "{seen:?}");
    assert!(!seen.contains("job control"), "the shell has a controlling terminal: {seen:?}");

    streams.0.send(ExecInput::Resize(WindowSize { rows: 50, columns: 132 })).await.expect("sent");
    say(&streams, "stty size; echo done-$((1+2))\n").await;
    assert!(until(&mut streams, "done-3").await.contains("50 132"));

    // Ctrl-C ends the command, not the shell.
    say(&streams, "sh -c 'echo up-$((3+3)); exec sleep 3600'\n").await;
    until(&mut streams, "up-6").await;
    say(&streams, "\u{3}").await;
    say(&streams, "echo code-$?\n").await;
    until(&mut streams, "code-130").await;

    // Ctrl-Z and jobs.
    say(&streams, "sh -c 'echo up-$((4+4)); exec sleep 3600'\n").await;
    until(&mut streams, "up-8").await;
    say(&streams, "\u{1a}").await;
    say(&streams, "jobs\n").await;
    until(&mut streams, "topped").await;
    say(&streams, "kill %1; exit 11\n").await;
    say(&streams, "exit 11\n").await;
    let (code, ..) = finish(streams).await;
    assert_eq!(code, 11);
}

#[tokio::test]
async fn another_user_owns_the_terminal_it_is_given() {
    let Some(stage) = stage() else { return };
    let id = sleeping(&stage).await;
    let command = terminal(&["sh", "-c", "id -un; echo direct > /dev/tty; echo again > /dev/stderr"]);
    let (code, out, _) = stage.exec(&id, ExecRequest { user: Some("nobody".into()), ..command }).await;
    assert_eq!((code, out.as_str()), (0, "nobody\r\ndirect\r\nagain\r\n"));
}

#[tokio::test]
async fn a_signal_reaches_the_command() {
    let Some(stage) = stage() else { return };
    let id = sleeping(&stage).await;
    let command = request(&["sh", "-c", "trap 'echo got; exit 4' USR1; echo ready; while :; do sleep 0.05; done"]);
    let mut streams = stage.runtime.exec(&id, command).await.expect("exec");
    assert_eq!(streams.1.recv().await, Some(ExecEvent::Stdout("ready\n".into())));
    streams.0.send(ExecInput::Signal(libc::SIGUSR1)).await.expect("sent");
    assert_eq!(finish(streams).await, (4, "got\n".into(), String::new()));
}

#[tokio::test]
async fn a_caller_that_goes_away_takes_its_command_along() {
    let Some(stage) = stage() else { return };
    let id = sleeping(&stage).await;
    let processes = stage.cgroup(&id).join("task/cgroup.procs");
    let count = || std::fs::read_to_string(&processes).expect("processes").lines().count();
    let before = count();
    for command in [
        request(&["sh", "-c", "echo ready; exec sleep 3600"]),
        request(&["sh", "-c", "trap '' HUP; echo ready; while :; do sleep 0.1; done"]),
        terminal(&["sh", "-c", "echo ready; exec sleep 3600"]),
        // Whatever it left writes to nobody, and not for ever.
        request(&["sh", "-c", "yes & echo ready"]),
    ] {
        let mut streams = stage.runtime.exec(&id, command).await.expect("exec");
        assert!(matches!(streams.1.recv().await, Some(ExecEvent::Stdout(_))));
        drop(streams);
        eventually("the command is gone", async || (count() == before).then_some(())).await;
    }
}

#[tokio::test]
async fn there_is_no_entering_a_task_that_does_not_run() {
    let Some(stage) = stage() else { return };
    let (id, _) = stage.run(shell("true")).await;
    stage.exit_of(&id).await;
    let error = stage.runtime.exec(&id, request(&["true"])).await.expect_err("ended");
    assert!(matches!(error, RuntimeError::NotRunning { phase: "exited", .. }), "{error}");
}
