//! The runtime `docker` by itself, against an Engine of its own: what a service asks for is what a container is, and how it ends.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use mesh_lab::step;
use mesh_tests::containers::{SOON, Said, TERM, hear, launch, mount, request, with_engine};
use mesh_userspace::model::{
    Container, ExecInput, ExecRequest, HealthCheck, Id, LogStream, Resources, TaskHealth, WindowSize,
};
use mesh_userspace::runtime::docker::{DockerConfig, DockerRuntime};
use mesh_userspace::runtime::{
    LogRequest, Phase, RuntimeError, StopRequest, TaskEvent, TaskExit, TaskLaunch, TaskRuntime,
};
use tokio::time::timeout;

#[test]
fn what_a_service_asks_for_is_seen_inside() {
    with_engine("what a service asks for is seen inside", &[], async |stage| {
        let source = stage.folder.join("files");
        std::fs::create_dir_all(&source)?;
        std::fs::write(source.join("note"), "from the host\n")?;
        let mut task = launch(1, &["echo started as $(id -u) >&2; echo out; exec sleep 1000"]);
        task.container = Container {
            entrypoint: Some(vec!["sh".into(), "-c".into()]),
            labels: BTreeMap::from([("tier".into(), "front".into())]),
            init: Some(true),
            read_only: true,
            cap_add: vec!["NET_ADMIN".into()],
            cap_drop: vec!["CAP_MKNOD".into()],
            extra_hosts: vec!["db:10.9.9.9".into()],
            sysctls: BTreeMap::from([("net.ipv4.tcp_keepalive_time".into(), "77".into())]),
            ..Container::default()
        };
        task.hostname = "front-1".into();
        task.env = vec!["COLOUR=green".into()];
        task.user = Some("1000:1000".into());
        task.workdir = Some("/tmp".into());
        task.mounts = vec![
            mount("bind", &source, "/files", true),
            mount("volume", Path::new("data"), "/data", false),
            mount("tmpfs", Path::new(""), "/scratch", false),
        ];
        task.resources = Resources {
            limit_nano_cpus: Some(500_000_000),
            limit_memory_bytes: Some(64 << 20),
            reserve_memory_bytes: Some(32 << 20),
            ..Resources::default()
        };

        step("prepared: namespaces, no command");
        let prepared = stage.runtime.prepare(task.clone()).await?;
        ensure!(std::fs::read_link(&prepared.netns)? != std::fs::read_link("/proc/self/ns/net")?);
        let listed = stage.runtime.list().await?;
        ensure!(listed.len() == 1 && listed[0].phase == Phase::Prepared, "{listed:?}");
        ensure!(stage.exec(&task, &["true"]).await.is_err(), "nothing runs in it yet");
        ensure!(stage.engine.docker(["logs", &task.name])?.ok()?.is_empty());

        step("started: everything is as asked for");
        stage.runtime.start(&task.task_id).await?;
        ensure!(stage.runtime.list().await?[0].phase == Phase::Running);
        ensure!(
            stage.inside(&task, "echo $COLOUR $FROM; id -u; id -g; pwd; hostname").await?
                == "green exec\n1000\n1000\n/tmp\nfront-1\n"
        );
        ensure!(stage.inside(&task, "cat /files/note").await? == "from the host\n");
        let said = stage.exec(&task, &["sh", "-c", "echo x > /files/note"]).await?;
        ensure!(said.code == Some(1) && said.err.contains("Read-only"), "{said:?}");
        let said = stage.exec(&task, &["sh", "-c", "echo x > /etc/note"]).await?;
        ensure!(said.code == Some(1), "{said:?}");
        let mounts = stage.inside(&task, "cat /proc/mounts").await?;
        ensure!(mounts.contains(" /scratch tmpfs ") && mounts.contains(" /data "), "{mounts}");
        let hosts = stage.inside(&task, "cat /etc/hosts").await?;
        ensure!(hosts.contains("10.0.0.7\tfront-1") && hosts.contains("10.9.9.9\tdb"), "{hosts}");
        let resolv = stage.inside(&task, "cat /etc/resolv.conf").await?;
        ensure!(resolv == "nameserver 10.0.0.1\noptions ndots:0\n", "{resolv}");
        ensure!(stage.inside(&task, "cat /proc/sys/net/ipv4/tcp_keepalive_time").await? == "77\n");
        ensure!(stage.inside(&task, "cat /proc/1/comm").await?.contains("init"));
        let set = |task: &TaskLaunch, template| stage.inspect(task, template);
        ensure!(
            set(&task, "{{.HostConfig.NanoCpus}} {{.HostConfig.Memory}} {{.HostConfig.MemoryReservation}}")?
                == "500000000 67108864 33554432"
        );
        let capabilities = set(&task, "{{.HostConfig.CapAdd}} {{.HostConfig.CapDrop}}")?.replace("CAP_", "");
        ensure!(capabilities == "[NET_ADMIN] [MKNOD]", "{capabilities}");
        ensure!(
            set(&task, "{{index .Config.Labels \"tier\"}} {{index .Config.Labels \"mesh.service\"}}")? == "front web"
        );
        ensure!(set(&task, "{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.NetworkMode}}")? == "no none");

        step("its output, by stream; and the last line alone");
        let lines = stage.lines(&task, LogRequest::default()).await?;
        ensure!(lines.contains(&(LogStream::Stderr, "started as 1000".into())), "{lines:?}");
        ensure!(lines.contains(&(LogStream::Stdout, "out".into())) && lines.len() == 2, "{lines:?}");
        let last = stage.lines(&task, LogRequest { tail: Some(1), follow: false }).await?;
        ensure!(last.len() == 1, "{last:?}");

        step("removed: no container, no record; the named volume stays");
        stage.runtime.remove(&task.task_id).await?;
        ensure!(stage.engine.containers()?.is_empty() && stage.runtime.list().await?.is_empty());
        ensure!(stage.engine.docker(["volume", "ls", "-q"])?.ok()? == "data\n");
        stage.runtime.remove(&task.task_id).await?;
        Ok(())
    });
}

#[test]
fn a_command_in_a_container_behaves_as_in_a_terminal() {
    with_engine("exec: streams, exit codes, signals, terminals", &[], async |stage| {
        let task = launch(1, &["sleep", "1000"]);
        stage.run(&task).await?;
        step("streams and exit codes");
        let said = stage.exec(&task, &["sh", "-c", "echo out; echo err >&2; exit 3"]).await?;
        ensure!(said == Said { out: "out\n".into(), err: "err\n".into(), code: Some(3) }, "{said:?}");
        let said = stage.exec(&task, &["no-such-program"]).await?;
        ensure!(matches!(said.code, Some(126 | 127)) && (said.err + &said.out).contains("no-such-program"));
        step("standard input reaches its end");
        let mut cat = stage.runtime.exec(&task.task_id, ExecRequest { interactive: true, ..request(&["cat"]) }).await?;
        cat.0.send(ExecInput::Stdin("one\n".into())).await?;
        let said = hear(&mut cat, Some("one\n")).await?;
        ensure!(said.code.is_none(), "{said:?}");
        cat.0.send(ExecInput::Stdin("two\n".into())).await?;
        cat.0.send(ExecInput::CloseStdin).await?;
        let said = hear(&mut cat, None).await?;
        ensure!((said.out.as_str(), said.code) == ("two\n", Some(0)), "{said:?}");
        step("a signal");
        let mut wait = stage
            .runtime
            .exec(&task.task_id, request(&["sh", "-c", "trap 'exit 9' INT; echo up; while :; do sleep 0.1; done"]))
            .await?;
        hear(&mut wait, Some("up")).await?;
        wait.0.send(ExecInput::Signal(libc::SIGINT)).await?;
        ensure!(hear(&mut wait, None).await?.code == Some(9));
        step("a terminal, its size, and a new one");
        let size = WindowSize { rows: 30, columns: 100 };
        let shell = ExecRequest { interactive: true, tty: Some(size), ..request(&["sh"]) };
        let mut shell = stage.runtime.exec(&task.task_id, shell).await?;
        // The size comes after the start; and a shell may be at its prompt before.
        shell.0.send(ExecInput::Stdin("until stty size | grep '30 100'; do sleep 0.1; done\n".into())).await?;
        hear(&mut shell, Some("\n30 100")).await?;
        shell.0.send(ExecInput::Resize(WindowSize { rows: 40, columns: 120 })).await?;
        shell.0.send(ExecInput::Stdin("until stty size | grep '40 120'; do sleep 0.1; done\n".into())).await?;
        hear(&mut shell, Some("\n40 120")).await?;
        step("bytes that look like a frame's head are only bytes");
        shell
            .0
            .send(ExecInput::Stdin(
                "printf '\\001\\000\\000\\000\\377\\377\\377\\377'; sleep 0.3; echo be''hind\n".into(),
            ))
            .await?;
        hear(&mut shell, Some("behind")).await?;
        shell.0.send(ExecInput::Stdin("exit 5\n".into())).await?;
        ensure!(hear(&mut shell, None).await?.code == Some(5));
        step("a caller that goes takes its command along");
        let streams = stage.runtime.exec(&task.task_id, request(&["sh", "-c", "trap '' HUP; sleep 999"])).await?;
        let processes = || stage.engine.docker(["top", &task.name])?.ok();
        mesh_lab::eventually(SOON, "the command runs", || {
            ensure!(processes()?.contains("sleep 999"));
            Ok(())
        })?;
        drop(streams);
        // On this thread, while the runtime's own work on theirs.
        mesh_lab::eventually(SOON, "it ends", || {
            ensure!(!processes()?.contains("sleep 999"), "{}", processes()?);
            Ok(())
        })?;
        step("what is left in the background does not keep the caller");
        let asked = Instant::now();
        let said = stage.exec(&task, &["sh", "-c", "sleep 100 & echo done"]).await?;
        ensure!(said.out == "done\n" && said.code == Some(0) && asked.elapsed() < Duration::from_secs(5), "{said:?}");
        Ok(())
    });
}

#[test]
fn a_task_ends_as_asked_or_says_why() {
    with_engine("a task ends as asked, or says why", &[], async |mut stage| {
        step("the image's own signal, where the service names none");
        stage.engine.derive("busybox", "polite", &["STOPSIGNAL SIGQUIT"])?;
        let script = "trap 'exit 3' QUIT; trap 'exit 4' TERM; echo up; while :; do sleep 0.1; done";
        let mut task = launch(1, &["sh", "-c", script]);
        task.image = "polite".into();
        stage.run_until_up(&task).await?;
        ensure!(stage.runtime.stop(&task.task_id, TERM).await?.code == 3);
        ensure!(stage.event().await? == TaskEvent::Gone { task_id: task.task_id.clone() });
        ensure!(matches!(stage.event().await?, TaskEvent::Exited { exit: TaskExit { code: 3, .. }, .. }));
        let mut named = launch(2, &["sh", "-c", script]);
        (named.image, named.stop_signal) = ("polite".into(), Some(libc::SIGTERM));
        stage.run_until_up(&named).await?;
        ensure!(stage.runtime.stop(&named.task_id, TERM).await?.code == 4);

        step("one that does not listen is killed after its grace time");
        let deaf = launch(3, &["sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"]);
        stage.run_until_up(&deaf).await?;
        let asked = Instant::now();
        let request = StopRequest { grace: Duration::from_millis(700), ..TERM };
        let exit = stage.runtime.stop(&deaf.task_id, request).await?;
        let took = asked.elapsed();
        ensure!(exit.code == 137 && took > request.grace && took < Duration::from_secs(5), "{exit:?} after {took:?}");

        step("one that waits in the gate ends at once");
        let gated = launch(4, &["sleep", "1"]);
        stage.runtime.prepare(gated.clone()).await?;
        let asked = Instant::now();
        stage.runtime.stop(&gated.task_id, TERM).await?;
        ensure!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());

        step("ends that nobody asked for");
        let short = launch(5, &["sh", "-c", "exit 7"]);
        stage.run(&short).await?;
        loop {
            let (task_id, exit) = stage.end().await?;
            if task_id == short.task_id {
                ensure!((exit.code, exit.error.as_deref()) == (7, None), "{exit:?}");
                break;
            }
        }
        let mut greedy = launch(6, &["tail", "/dev/zero"]);
        greedy.resources.limit_memory_bytes = Some(16 << 20);
        stage.run(&greedy).await?;
        let (_, exit) = stage.end().await?;
        ensure!(exit.code == 137 && exit.error.as_ref().is_some_and(|error| error.contains("memory")), "{exit:?}");

        step("a command that is none is named");
        let error = stage.run(&launch(7, &["no-such-program"])).await.expect_err("no such program").to_string();
        ensure!(error.contains("'no-such-program'") && error.contains("$PATH"), "{error}");

        step("what can't be is refused in the Engine's words, and leaves nothing");
        let before = stage.engine.containers()?.len();
        let refused = async |task: TaskLaunch| match stage.run(&task).await {
            Err(RuntimeError::Rejected { reason, .. }) => Ok(reason),
            other => anyhow::bail!("{other:?}"),
        };
        let reason = refused(TaskLaunch { image: "localhost:1/nosuch:9".into(), ..launch(8, &[]) }).await?;
        ensure!(reason.starts_with("No such image: localhost:1/nosuch:9: "), "{reason}");
        let reason = refused(TaskLaunch {
            mounts: vec![mount("bind", Path::new("/no/such"), "/x", false)],
            ..launch(9, &["true"])
        })
        .await?;
        ensure!(reason.contains("/no/such"), "{reason}");
        let reason = refused(TaskLaunch { user: Some("nobody-here".into()), ..launch(10, &["true"]) }).await?;
        ensure!(reason.contains("nobody-here"), "{reason}");
        ensure!(stage.engine.containers()?.len() == before);
        Ok(())
    });
}

#[test]
fn tasks_outlive_agent_and_engine() {
    with_engine("tasks outlive agent and Engine", &["--live-restore"], async |mut stage| {
        let script = "i=0; while :; do i=$((i+1)); echo line $i; sleep 0.2; done";
        let (stays, dies, waits) =
            (launch(1, &["sh", "-c", script]), launch(2, &["sleep", "1000"]), launch(3, &["true"]));
        stage.run(&stays).await?;
        let pid = stage.run(&dies).await?.pid;
        stage.runtime.prepare(waits.clone()).await?;

        step("an agent that was killed is followed by one that finds them");
        stage.runtime.close();
        stage.runtime = DockerRuntime::new(stage.config.clone())?;
        stage.events = stage.runtime.events();
        let listed = stage.runtime.list().await?;
        let phases: Vec<_> = listed.iter().map(|task| task.phase.word()).collect();
        ensure!(phases == ["running", "running", "prepared"], "{phases:?}");
        ensure!(
            listed[0].launch.as_ref() == Some(&stays) && listed[1].prepared.as_ref().map(|one| one.pid) == Some(pid)
        );

        step("the Engine goes; a follower of the output waits; one task dies meanwhile");
        let mut lines = stage.runtime.logs(&stays.task_id, LogRequest { follow: true, tail: None }).await?;
        ensure!(timeout(SOON, lines.recv()).await?.is_some());
        stage.engine.stop()?;
        ensure!(stage.runtime.list().await?.iter().filter(|task| task.phase == Phase::Running).count() == 2);
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid.cast_signed()), nix::sys::signal::Signal::SIGKILL)?;
        ensure!(stage.event().await? == TaskEvent::Gone { task_id: dies.task_id.clone() });
        let error =
            stage.runtime.exec(&stays.task_id, request(&["true"])).await.err().context("no Engine")?.to_string();
        ensure!(error.contains("no Docker Engine answers at") && error.contains("systemctl start docker"), "{error}");
        ensure!(stage.runtime.remove(&dies.task_id).await.is_err(), "its container is still there");

        step("an agent that starts without the Engine knows them as well");
        let second = DockerRuntime::new(stage.config.clone())?;
        let phases: Vec<_> = second.list().await?.iter().map(|task| task.phase.word()).collect();
        ensure!(phases == ["running", "exited", "prepared"], "{phases:?}");
        second.close();

        step("the Engine comes back: exec, output without a gap or a double, removal");
        stage.engine.start(&["--live-restore"])?;
        mesh_lab::eventually(SOON, "the runtime sees it", || stage.runtime.version().context("not yet"))?;
        let (task_id, exit) = stage.end().await?;
        ensure!(task_id == dies.task_id && (exit.code, &exit.error) == (137, &None), "it knows how: {exit:?}");
        ensure!(stage.inside(&stays, "echo here").await? == "here\n");
        let mut seen = vec![];
        while seen.len() < 30 {
            let line = timeout(SOON, lines.recv()).await?.context("the output ended")?;
            let number: u32 = line.text.trim_start_matches("line ").parse().with_context(|| line.text.clone())?;
            seen.push(number);
        }
        ensure!(seen.windows(2).all(|pair| pair[1] == pair[0] + 1), "{seen:?}");
        stage.runtime.remove(&dies.task_id).await?;
        stage.runtime.start(&waits.task_id).await?;
        let (task_id, exit) = stage.end().await?;
        ensure!(task_id == waits.task_id && exit.code == 0, "{exit:?}");

        step("a lost state directory: the container is found by its labels");
        stage.runtime.close();
        // The agents before, which live on in this process, may be writing an end down.
        mesh_lab::eventually(SOON, "no records", || Ok(std::fs::remove_dir_all(stage.folder.join("containers"))?))?;
        stage.runtime = DockerRuntime::new(stage.config.clone())?;
        let listed = stage.runtime.list().await?;
        let found: Vec<_> = listed.iter().map(|task| (&task.task_id, task.phase.word())).collect();
        ensure!(found == [(&stays.task_id, "running"), (&waits.task_id, "exited")], "{found:?}");

        step("another cluster's agent on this machine removes what the first has left");
        stage.runtime.close();
        std::fs::remove_dir_all(stage.folder.join("containers"))?;
        let config = DockerConfig { node: Id::from_bytes([8; 16]), ..stage.config.clone() };
        let next = DockerRuntime::new(config)?;
        mesh_lab::eventually(SOON, "no container", || {
            ensure!(stage.engine.containers()?.is_empty());
            Ok(())
        })?;
        ensure!(next.list().await?.is_empty());
        Ok(())
    });
}

#[test]
fn an_engine_without_live_restore_takes_its_containers_along() {
    with_engine("an Engine without live restore takes its containers along", &[], async |mut stage| {
        let task = launch(1, &["sleep", "1000"]);
        let mut polite = launch(2, &["sh", "-c", "trap 'exit 5' USR1; while :; do sleep 0.1; done"]);
        (polite.stop_signal, polite.stop_grace_ms) = (Some(libc::SIGUSR1), 5_000);
        let mut quick = task.clone();
        quick.stop_grace_ms = 1_000;
        stage.run(&quick).await?;
        stage.run(&polite).await?;
        stage.engine.stop()?;
        let (mut gone, mut ended) = (vec![], std::collections::BTreeMap::new());
        while gone.len() < 2 {
            match stage.event().await? {
                TaskEvent::Gone { task_id } => gone.push(task_id),
                TaskEvent::Exited { task_id, exit } => drop(ended.insert(task_id, exit.code)),
                other => anyhow::bail!("{other:?}"),
            }
        }
        step("a task that starts meanwhile waits for it");
        let next = launch(3, &["sleep", "1000"]);
        let (runtime, late) = (stage.runtime.clone(), next.clone());
        let preparing = tokio::spawn(async move { runtime.prepare(late).await });
        let waits = "waiting for the Docker Engine".to_owned();
        loop {
            match stage.event().await? {
                TaskEvent::Exited { task_id, exit } => drop(ended.insert(task_id, exit.code)),
                other => break ensure!(other == TaskEvent::Progress { task_id: next.task_id.clone(), text: waits }),
            }
        }
        stage.engine.start(&[])?;
        preparing.await??;
        step("an Engine that is back says how they ended");
        while ended.len() < 2 {
            let (task_id, exit) = stage.end().await?;
            ended.insert(task_id, exit.code);
        }
        ensure!(ended[&polite.task_id] == 5, "{ended:?}");
        stage.runtime.start(&next.task_id).await?;
        let phases: Vec<_> = stage.runtime.list().await?.iter().map(|task| task.phase.word()).collect();
        ensure!(phases == ["exited", "exited", "running"], "{phases:?}");
        step("killed, it leaves them running until it is back");
        stage.engine.kill()?;
        mesh_lab::eventually(SOON, "the runtime sees it", || {
            ensure!(stage.runtime.version().is_none());
            Ok(())
        })?;
        ensure!(stage.runtime.list().await?[2].phase == Phase::Running);
        stage.engine.start(&[])?;
        let (task_id, _) = stage.end().await?;
        ensure!(task_id == next.task_id);
        Ok(())
    });
}

#[test]
fn the_engines_verdict_is_told() {
    with_engine("the Engine's verdict is told", &[], async |mut stage| {
        let check = |interval_ms| HealthCheck {
            command: vec!["test".into(), "-e".into(), "/tmp/well".into()],
            interval_ms,
            timeout_ms: 1_000,
            retries: 2,
            ..HealthCheck::default()
        };
        step("starting, healthy, unhealthy: by the service's own check");
        let mut task = launch(1, &["sh", "-c", "touch /tmp/well; sleep 1000"]);
        task.health = Some(check(300));
        stage.run(&task).await?;
        let told = |health| TaskEvent::Health { task_id: task.task_id.clone(), health };
        ensure!(stage.event().await? == told(TaskHealth::Starting));
        ensure!(stage.event().await? == told(TaskHealth::Healthy));
        ensure!(stage.runtime.list().await?[0].health == Some(TaskHealth::Healthy));
        stage.inside(&task, "rm /tmp/well").await?;
        ensure!(stage.event().await? == told(TaskHealth::Unhealthy));
        step("a check that passed behind the gate passes once more, on the command");
        let mut gated = launch(4, &["sleep", "1000"]);
        gated.health = Some(HealthCheck { command: vec!["true".into()], ..check(300) });
        stage.runtime.prepare(gated.clone()).await?;
        mesh_lab::eventually(SOON, "healthy, as the Engine sees it", || {
            ensure!(stage.inspect(&gated, "{{.State.Health.Status}}")? == "healthy");
            Ok(())
        })?;
        stage.runtime.start(&gated.task_id).await?;
        let told = |health| TaskEvent::Health { task_id: gated.task_id.clone(), health };
        ensure!(stage.event().await? == told(TaskHealth::Starting));
        ensure!(stage.runtime.health(&gated.task_id).await?.is_some());
        ensure!(stage.event().await? == told(TaskHealth::Healthy));
        stage.runtime.remove(&gated.task_id).await?;
        while !matches!(stage.event().await?, TaskEvent::Exited { .. }) {}
        step("the image's check, and none where the service says so");
        let images = "HEALTHCHECK --interval=300ms --retries=1 CMD true";
        stage.engine.derive("busybox", "checked", &[images])?;
        let mut of_image = launch(2, &["sleep", "1000"]);
        of_image.image = "checked".into();
        stage.run(&of_image).await?;
        let told = |health| TaskEvent::Health { task_id: of_image.task_id.clone(), health };
        ensure!(stage.event().await? == told(TaskHealth::Starting));
        ensure!(stage.event().await? == told(TaskHealth::Healthy));
        let mut unchecked = launch(3, &["sleep", "1000"]);
        (unchecked.image, unchecked.health) = ("checked".into(), Some(HealthCheck { command: vec![], ..check(300) }));
        stage.run(&unchecked).await?;
        ensure!(stage.runtime.list().await?[2].health.is_none());
        step("a verdict given while nobody listened");
        stage.runtime.close();
        stage.inside(&task, "touch /tmp/well").await?;
        mesh_lab::eventually(SOON, "healthy again", || {
            ensure!(stage.inspect(&task, "{{.State.Health.Status}}")? == "healthy");
            Ok(())
        })?;
        stage.runtime = DockerRuntime::new(stage.config.clone())?;
        stage.events = stage.runtime.events();
        ensure!(stage.runtime.list().await?[0].health == Some(TaskHealth::Healthy));
        Ok(())
    });
}

#[test]
fn user_namespaces_and_other_runtimes_work_or_are_refused() {
    let title = "user namespaces and other runtimes work or are refused";
    with_engine(title, &["--userns-remap=nobody:nogroup"], async |stage| {
        step("root inside is nobody outside; the network namespace is ours to set up");
        let task = launch(1, &["sleep", "1000"]);
        let prepared = stage.run(&task).await?;
        ensure!(stage.inside(&task, "id -u; cat /etc/hostname").await? == format!("0\n{}\n", task.hostname));
        let status = std::fs::read_to_string(format!("/proc/{}/status", prepared.pid))?;
        ensure!(status.contains("Uid:\t100000\t"), "{status}");
        let link = format!("nsenter --net={} ip link add eth0 type veth peer name other", prepared.netns.display());
        stage.namespace.run(|| std::process::Command::new("sh").args(["-c", &link]).status())??;
        ensure!(stage.inside(&task, "ip link show eth0").await?.contains("eth0"));
        ensure!(stage.runtime.stop(&task.task_id, StopRequest { grace: Duration::ZERO, ..TERM }).await?.code == 137);
        Ok(())
    });
    // runc by another name, and one that does not run what it is told, as a machine of its own would not.
    let runtimes = std::env::temp_dir().join(format!("mesh-runtime-{}", std::process::id()));
    let script = "#!/bin/sh\nfor word; do case $last in --bundle) sed -i 's#\"/.mesh-gate\",##' \"$word/config.json\";; esac; last=$word; done\nexec runc \"$@\"\n";
    std::fs::write(&runtimes, script).expect("written");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&runtimes, mode).expect("made a program");
    let flag = format!("--add-runtime=strange={}", runtimes.display());
    with_engine("a runtime that is none of processes", &[&flag, "--default-runtime=strange"], async |stage| {
        let error = stage.run(&launch(1, &["sleep", "1000"])).await.expect_err("no gate to find").to_string();
        ensure!(
            error.contains("does not run as processes of this machine's kernel") && error.contains("runc"),
            "{error}"
        );
        ensure!(stage.engine.containers()?.is_empty());
        Ok(())
    });
    with_engine("runc by another name", &["--add-runtime=other=runc", "--default-runtime=other"], async |stage| {
        let task = launch(1, &["sleep", "1000"]);
        stage.run(&task).await?;
        ensure!(stage.inspect(&task, "{{.HostConfig.Runtime}}")? == "other");
        Ok(())
    });
    std::fs::remove_file(runtimes).expect("removed");
}
