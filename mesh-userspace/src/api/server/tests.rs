//! Routes, rights, exec and logs over a real unix socket and over an in-memory connection.

use std::time::Duration;

use bytes::Bytes;
use tokio::net::UnixListener;

use super::fake::Fake;
use super::{bind_unix, router, serve_connection, serve_unix};
use crate::api::view::fixture;
use crate::api::*;
use crate::model::*;

/// Long enough for a loaded machine, short enough for a hang to be told.
const LIMIT: Duration = Duration::from_secs(20);

/// A client whose other end sees it as `caller`.
fn client_as(fake: &std::sync::Arc<Fake>, caller: Caller) -> Client {
    let (near, far) = tokio::io::duplex(64 * 1024);
    tokio::spawn(serve_connection(far, router(fake.clone()), caller));
    Client::over(near)
}

fn remote(role: Role) -> Caller {
    Caller::Node { id: fixture::id(0xb2), role, fingerprint: "ab".into() }
}

fn exec_request(command: &[&str]) -> ExecRequest {
    ExecRequest {
        command: command.iter().map(|word| word.to_string()).collect(),
        env: Vec::new(),
        user: None,
        workdir: None,
        interactive: true,
        tty: None,
    }
}

#[tokio::test]
async fn rights_follow_the_connection() {
    let fake = Fake::new(fixture::facts());
    let create = |caller| {
        let client = client_as(&fake, caller);
        async move { client.service_create(&fixture::service_spec("web", 1)).await.map(|_| ()).map_err(|e| e.kind) }
    };
    assert_eq!(create(Caller::Local).await, Ok(()));
    assert_eq!(create(remote(Role::Manager)).await, Ok(()));
    assert_eq!(create(remote(Role::Worker)).await, Err(ErrorKind::Forbidden));
    assert_eq!(create(Caller::Anonymous).await, Err(ErrorKind::Forbidden));
    assert!(client_as(&fake, remote(Role::Worker)).services().await.is_ok());
    let error = client_as(&fake, Caller::Anonymous).services().await.expect_err("a stranger");
    assert_eq!(error.message, "refused for an unknown caller: only members of the cluster may read it");
    let error = client_as(&fake, remote(Role::Manager)).purge().await.expect_err("from elsewhere");
    assert_eq!(error.kind, ErrorKind::Forbidden);
}

#[tokio::test]
async fn a_worker_reads_refuses_changes_and_serves_its_own_tasks() {
    let mut facts = fixture::facts();
    facts.me = Some(fixture::id(0xb2));
    let fake = Fake::new(facts);
    let local = || client_as(&fake, Caller::Local);
    assert_eq!(local().services().await.expect("a listing").rows.len(), 1);
    let error = local().network_remove("demo").await.expect_err("a change");
    assert_eq!(error.message, "this node is a worker: run it on a manager, e.g. n1");
    assert!(local().exec("whoami.2", &exec_request(&["exit", "0"])).await.is_ok());
    let error = local().exec("whoami.1", &exec_request(&["exit", "0"])).await.expect_err("elsewhere");
    assert_eq!(
        error.message,
        "task whoami.1 is on n1 and this node is a worker: run it on a manager or on the task's node"
    );
}

#[tokio::test]
async fn without_a_cluster_everything_says_what_to_do() {
    let mut facts = fixture::facts();
    facts.me = None;
    facts.cluster = Default::default();
    let fake = Fake::new(facts);
    let error = client_as(&fake, Caller::Local).nodes().await.expect_err("no cluster");
    assert!(error.message.contains("'mesh swarm init'"), "{error}");
    assert!(client_as(&fake, Caller::Local).status().await.expect("a status").swarm.is_none());
    let init = client_as(&fake, Caller::Local).swarm_init(&InitRequest::default()).await.expect("an answer");
    assert_eq!(init.join_addr, "192.168.99.1:2377");
}

#[tokio::test]
async fn exec_round_trip_and_exit_code() {
    let fake = Fake::new(fixture::facts());
    let talk = async {
        let mut session = client_as(&fake, Caller::Local).exec("whoami.1", &exec_request(&["cat"])).await?;
        let big = Bytes::from(vec![b'x'; 300_000]);
        session.input.send(ExecInput::Stdin(big.clone())).await.expect("open");
        assert_eq!(session.events.recv().await, Some(ExecEvent::Stdout(big)));
        session.input.send(ExecInput::CloseStdin).await.expect("open");
        assert_eq!(session.events.recv().await, Some(ExecEvent::Exit(0)));
        let mut session = client_as(&fake, Caller::Local).exec("whoami.1", &exec_request(&["exit", "7"])).await?;
        assert_eq!(session.events.recv().await, Some(ExecEvent::Exit(7)));
        assert_eq!(session.events.recv().await, None);
        Ok::<(), ApiError>(())
    };
    tokio::time::timeout(LIMIT, talk).await.expect("in time").expect("a session");
    let error = client_as(&fake, Caller::Local).exec("nope.1", &exec_request(&["cat"])).await.expect_err("no task");
    assert_eq!(error.kind, ErrorKind::NotFound);
}

#[tokio::test]
async fn a_caller_that_goes_away_is_noticed_by_the_task() {
    let (input, mut inputs) = tokio::sync::mpsc::channel::<ExecInput>(1);
    drop(input);
    assert_eq!(inputs.recv().await, None);
    let fake = Fake::new(fixture::facts());
    let session = client_as(&fake, Caller::Local).exec("whoami.1", &exec_request(&["wait"])).await.expect("a session");
    let ExecSession { input, mut events } = session;
    drop(input);
    // The task's end learns it, ends, and nothing hangs; an exit may or may not still arrive.
    let rest = async { while events.recv().await.is_some() {} };
    tokio::time::timeout(LIMIT, rest).await.expect("in time");
}

#[tokio::test]
async fn logs_carry_names_and_end_with_an_error_where_there_is_one() {
    let fake = Fake::new(fixture::facts());
    let request = |tail| LogRequest { target: "whoami".into(), tail, ..LogRequest::default() };
    let mut records = client_as(&fake, Caller::Local).logs(&request(None)).await.expect("a stream");
    let mut seen = Vec::new();
    while let Some(record) = records.recv().await {
        let record = record.expect("no error");
        seen.push(format!("{}@{} {}", record.task, record.node, record.line.text));
    }
    assert_eq!(seen, ["whoami.1@n1 line 0", "whoami.2@n2 line 1", "whoami.1@n2 line 2"]);
    let mut records = client_as(&fake, Caller::Local).logs(&request(Some(0))).await.expect("a stream");
    let mut last = None;
    while let Some(record) = records.recv().await {
        last = Some(record);
    }
    assert_eq!(last, Some(Err(ApiError::unavailable("n2 is away"))));
    let missing = LogRequest { target: "nope".into(), ..LogRequest::default() };
    let error = client_as(&fake, Caller::Local).logs(&missing).await.expect_err("nothing there");
    assert!(error.message.starts_with("no such task or service: nope"), "{error}");
}

/// n3 passes what it is asked on to n1, upgrades included.
#[tokio::test]
async fn requests_are_forwarded_whole() {
    let store = Fake::new(fixture::facts());
    let (near, far) = tokio::io::duplex(64 * 1024);
    let passing = axum::Router::new().fallback({
        let store = store.clone();
        move |request: axum::extract::Request| {
            let client = client_as(&store, remote(Role::Manager));
            async move { client::forward(&client, request).await }
        }
    });
    tokio::spawn(serve_connection(far, passing, Caller::Local));
    let client = Client::over(near);
    let talk = async {
        let mut session = client.exec("whoami.1", &exec_request(&["cat"])).await.expect("a session");
        session.input.send(ExecInput::Stdin(Bytes::from_static(b"hello"))).await.expect("open");
        assert_eq!(session.events.recv().await, Some(ExecEvent::Stdout(Bytes::from_static(b"hello"))));
        session.input.send(ExecInput::CloseStdin).await.expect("open");
        assert_eq!(session.events.recv().await, Some(ExecEvent::Exit(0)));
    };
    tokio::time::timeout(LIMIT, talk).await.expect("in time");
}

#[tokio::test]
async fn the_unix_socket_is_0660_and_a_living_agent_keeps_it() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("run/mesh.sock");
    let listener: UnixListener = bind_unix(&path).expect("a socket");
    let mode = std::fs::metadata(&path).expect("there").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let served = tokio::spawn(serve_unix(listener, router(Fake::new(fixture::facts())), async {
        let _ = stopped.await;
    }));
    assert_eq!(Client::unix(&path).nodes().await.expect("an answer").rows.len(), 2);
    let error = bind_unix(&path).expect_err("it is taken");
    assert!(error.message.starts_with("another agent answers at"), "{error}");
    stop.send(()).expect("still served");
    tokio::time::timeout(LIMIT, served).await.expect("in time").expect("no panic");
    assert!(bind_unix(&path).is_ok(), "a dead agent's socket is replaced");
}
