//! What is known of containers while no Engine answers: real processes and records, and a socket where nobody listens.

use std::process::{Child, Command};

use super::*;

const SOON: Duration = Duration::from_secs(20);

/// A runtime whose Engine is away, as after the agent's restart.
struct World {
    dir: tempfile::TempDir,
    runtime: DockerRuntime,
    process: Child,
}

impl World {
    /// One container whose first process runs, with what `write` makes of its record.
    fn with(write: impl FnOnce(&mut Record)) -> Self {
        let mut command = Command::new("sleep");
        command.arg("600");
        Self::of(tempfile::tempdir().expect("a directory"), command, write)
    }

    fn of(dir: tempfile::TempDir, mut command: Command, write: impl FnOnce(&mut Record)) -> Self {
        let process = command.spawn().expect("a process");
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

/// An Engine as far as one container's state goes: says its version, and `answer` to requests for `path`; other lists are empty.
fn engine(world: &World, path: &'static str, answer: &'static str) -> tokio::task::JoinHandle<()> {
    use http_body_util::Full;
    use hyper::{Request, Response, body::Incoming, service::service_fn};
    let listener = tokio::net::UnixListener::bind(world.dir.path().join("docker.sock")).expect("listening");
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let answering = service_fn(move |request: Request<Incoming>| async move {
                let asked = request.uri().path();
                let mut status = 200;
                let text = match asked {
                    asked if asked.ends_with("/unread/logs") => {
                        status = 501;
                        r#"{"message": "configured logging driver does not support reading"}"#
                    }
                    asked if asked.ends_with(path) => answer,
                    asked if asked.ends_with("/version") => r#"{"Version": "28.0.0", "ApiVersion": "1.44"}"#,
                    // No event comes; the connection stays.
                    asked if asked.ends_with("/events") => std::future::pending().await,
                    _ => "[]",
                };
                Response::builder().status(status).body(Full::new(bytes::Bytes::from(text)))
            });
            let connection = hyper_util::rt::TokioIo::new(connection);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(connection, answering));
        }
    })
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

/// Killed after it had written down that it would let the command go, and before it did.
#[tokio::test]
async fn a_container_that_waits_at_its_gate_is_not_running_whatever_is_on_record() {
    let dir = tempfile::tempdir().expect("a directory");
    let gate = gate::install(dir.path()).expect("installed");
    // A root of its own: where the gate is, is asked of the kernel.
    let script = "mount -t tmpfs none /mnt && cd /mnt && cp \"$0\" .mesh-gate && mkdir old && pivot_root . old && exec /.mesh-gate x";
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]).arg(gate);
    let world = World::of(dir, command, |_| {});
    let pid = world.process.id().cast_signed();
    let deadline = Instant::now() + Duration::from_secs(10);
    while gate::listening(pid).is_none() {
        assert!(Instant::now() < deadline, "the gate listens: needs root, or user namespaces for everybody");
        tokio::task::yield_now().await;
    }
    assert_eq!(world.listed().await.phase, Phase::Prepared);
    let stop = StopRequest { signal: libc::SIGTERM, grace: Duration::from_secs(600) };
    let stopped = tokio::time::timeout(Duration::from_secs(60), world.runtime.stop(&id(), stop)).await;
    stopped.expect("nobody is asked to end in order").expect("stopped");
}

#[tokio::test]
async fn that_a_container_ended_is_told_at_once_and_how_when_the_engine_is_back() {
    let mut world =
        World::with(|record| record.launch = Some(TaskLaunch { exit_matters: true, ..request::tests::launch() }));
    let mut events = world.runtime.events();
    assert_eq!(world.listed().await.phase, Phase::Running);
    world.process.kill().and_then(|()| world.process.wait()).expect("killed");
    let first = tokio::time::timeout(Duration::from_secs(10), events.recv()).await.expect("told");
    assert_eq!(first, Some(TaskEvent::Gone { task_id: id() }));
    // Longer than an Engine that answers may take.
    let end = world.inner().watch(&id(), None).expect("watched").by(Instant::now() + Duration::from_secs(4)).await;
    assert_eq!(end, None, "an Engine that is restarted knows how");
    let engine = engine(&world, "/containers/c0ffee/json", r#"{"State": {"Running": false, "Pid": 0, "ExitCode": 0}}"#);
    let exited = tokio::time::timeout(SOON, events.recv()).await.expect("told");
    assert!(matches!(&exited, Some(TaskEvent::Exited { exit, .. }) if exit.code == 0), "{exited:?}");
    assert_eq!(world.inner().record(&id()).expect("there").exit.map(|exit| exit.code), Some(0));
    engine.abort();
}

#[tokio::test]
async fn what_is_run_again_anyway_is_not_waited_for() {
    let mut world = World::with(|_| {});
    let mut events = world.runtime.events();
    assert_eq!(world.listed().await.phase, Phase::Running);
    world.process.kill().and_then(|()| world.process.wait()).expect("killed");
    let mut told = async || tokio::time::timeout(Duration::from_secs(20), events.recv()).await.expect("told");
    assert_eq!(told().await, Some(TaskEvent::Gone { task_id: id() }));
    let exited = told().await;
    assert!(matches!(&exited, Some(TaskEvent::Exited { exit, .. }) if exit.error.is_some()), "{exited:?}");
}

#[tokio::test]
async fn a_container_that_is_told_to_end_is_not_waited_for_longer_than_it_lives() {
    let world = World::with(|_| {});
    let begun = Instant::now();
    let stop = StopRequest { signal: libc::SIGTERM, grace: Duration::from_secs(600) };
    let exit = world.runtime.stop(&id(), stop).await.expect("stopped");
    assert!(exit.error.is_some_and(|error| error.contains("how is not known")));
    assert!(begun.elapsed() < Duration::from_secs(30), "the Engine is away");
}

#[tokio::test]
async fn many_containers_that_ended_are_waited_for_together() {
    let mut world = World::with(|_| {});
    world.process.kill().and_then(|()| world.process.wait()).expect("killed");
    let first = world.inner().record(&id()).expect("there");
    for byte in 20..60 {
        let record = Record { task_id: Id::from_bytes([byte; 16]), ..first.clone() };
        world.inner().records.create(&record).expect("written");
    }
    let begun = Instant::now();
    let listed = world.runtime.list().await.expect("listed");
    assert!(begun.elapsed() < LIST_WITHIN * 3, "{:?}", begun.elapsed());
    assert_eq!(listed.len(), 41);
    assert!(listed.iter().all(|instance| instance.phase == Phase::Gone), "{listed:?}");
}

#[tokio::test]
async fn output_of_a_quiet_container_is_not_followed_for_nobody() {
    let world = World::with(|_| {});
    let owners = Arc::strong_count(world.inner());
    let follow = LogRequest { follow: true, tail: None };
    let lines = logs::stream(world.inner().clone(), id(), "c0ffee".to_owned(), follow);
    tokio::task::yield_now().await; // it waits for the Engine now
    drop(lines);
    let deadline = Instant::now() + Duration::from_secs(10);
    while Arc::strong_count(world.inner()) > owners {
        assert!(Instant::now() < deadline, "somebody still follows");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn output_that_can_not_be_read_is_said_so_and_not_asked_for_again() {
    let world = World::with(|record| record.container = Some("unread".to_owned()));
    let engine = engine(&world, "/containers/unread/json", "{}");
    world.inner().engine.within(SOON).await.map(drop).expect("it answers");
    let follow = LogRequest { follow: true, tail: None };
    let error = world.runtime.logs(&id(), follow).await.expect_err("nothing to read").to_string();
    assert!(error.contains("configured logging driver does not support reading"), "{error}");
    let mut lines = logs::stream(world.inner().clone(), id(), "unread".to_owned(), follow);
    assert_eq!(tokio::time::timeout(SOON, lines.recv()).await, Ok(None), "the container lives on");
    engine.abort();
}

#[tokio::test]
async fn a_task_whose_container_was_never_asked_for_is_removed_without_an_engine() {
    let never = |record: &mut Record| {
        (record.launch, record.container, record.process) = (Some(request::tests::launch()), None, None);
    };
    let world = World::with(never);
    world.runtime.remove(&id()).await.expect("removed");
    assert!(!world.runtime.knows(&id()));
    let asked = World::with(|record| {
        never(record);
        record.is_asked_for = true;
    });
    asked.runtime.remove(&id()).await.expect_err("there may be one");
    assert!(asked.runtime.knows(&id()));
}
