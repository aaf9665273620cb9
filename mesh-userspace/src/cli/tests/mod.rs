//! The command line against a fake control plane behind a real socket: what is printed, and how it ends.

mod explain;
mod flows;
mod monitor;
mod refusals;

use std::path::PathBuf;
use std::sync::Arc;

use super::{Entries, Screen, run_with};
use crate::api::server::fake::Fake;
use crate::api::server::{bind_unix, router, serve_unix};
use crate::api::view::{Facts, fixture};
use crate::model::{NodeStatus, Observed, Runtime, TaskHealth, TaskState};

struct Agent {
    fake: Arc<Fake>,
    socket: PathBuf,
    // Dropped last: the socket's folder, and the event loop that serves it.
    _folder: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

fn agent() -> Agent {
    agent_that_knows(fixture::facts())
}

fn agent_that_knows(facts: Facts) -> Agent {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a loop");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("mesh.sock");
    let fake = Fake::new(facts);
    let listener = runtime.block_on(async { bind_unix(&socket) }).expect("a socket");
    runtime.spawn(serve_unix(listener, router(fake.clone()), std::future::pending()));
    Agent { fake, socket, _folder: folder, _runtime: runtime }
}

#[derive(Debug, PartialEq, Eq)]
struct Said {
    code: u8,
    out: String,
    err: String,
}

fn mesh(socket: &std::path::Path, words: &[&str]) -> Said {
    let entries = Entries {
        agent: |_| anyhow::bail!("no agent in this test"),
        doctor: |_| Ok(vec![crate::doctor::Finding::ok("kernel", "6.12.9")]),
        purge: |_| Ok(vec!["cgroup /mesh".to_string()]),
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut arguments = vec!["mesh".into()];
    arguments.extend(words.iter().map(Into::into));
    arguments.splice(1..1, ["--socket".into(), socket.into()]);
    let code = run_with(arguments, &entries, &mut Screen { out: &mut out, err: &mut err, live: false });
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    Said { code, out: text(out), err: text(err) }
}

fn ok(socket: &std::path::Path, words: &[&str]) -> String {
    let said = mesh(socket, words);
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{words:?}: {said:?}");
    said.out
}

fn refused(words: &[&str]) -> (u8, String) {
    let said = mesh(&PathBuf::from("/nonexistent/mesh.sock"), words);
    assert_eq!(said.out, "", "{words:?}");
    (said.code, said.err.trim_end().to_string())
}

#[test]
fn listings_are_swarms() {
    let agent = agent();
    assert_eq!(
        ok(&agent.socket, &["node", "ls"]),
        "ID               HOSTNAME   STATUS    AVAILABILITY   MANAGER STATUS   ENGINE VERSION\n\
         a1a1a1a1a1a1 *   n1         Ready     Active         Leader\n\
         b2b2b2b2b2b2     n2         Ready     Active\n"
    );
    assert_eq!(
        ok(&agent.socket, &["service", "ls"]),
        "ID             NAME      MODE         REPLICAS   IMAGE     PORTS\n\
         5e5e5e5e5e5e   whoami    replicated   2/2        whoami    *:8000->8000/tcp\n"
    );
    assert_eq!(
        ok(&agent.socket, &["service", "ps", "whoami"]),
        "ID             NAME           IMAGE     NODE      DESIRED STATE   CURRENT STATE               ERROR                 PORTS\n\
         111111111111   whoami.1       whoami    n1        Running         Running 59 seconds ago\n\
         131313131313    \\_ whoami.1   whoami    n2        Shutdown        Failed about a minute ago   \"task: exit code 1\"\n\
         121212121212   whoami.2       whoami    n2        Running         Running 5 seconds ago\n"
    );
    assert_eq!(
        ok(&agent.socket, &["network", "ls"]),
        "NETWORK ID     NAME      DRIVER    SCOPE\nd0d0d0d0d0d0   demo      overlay   swarm\n"
    );
    assert_eq!(
        ok(&agent.socket, &["ps"]),
        "TASK ID        NAME       IMAGE     CREATED              STATUS                   READY     PORTS\n\
         111111111111   whoami.1   whoami    about a minute ago   Running 59 seconds ago   yes\n"
    );
    assert_eq!(ok(&agent.socket, &["service", "ls", "-q"]), "5e5e5e5e5e5e\n");
}

#[test]
fn json_has_swarms_keys() {
    let agent = agent();
    let json = |words: &[&str]| -> serde_json::Value { serde_json::from_str(&ok(&agent.socket, words)).expect("JSON") };
    let services = json(&["service", "ls", "--format", "json"]);
    assert_eq!(services[0]["Replicas"], "2/2");
    assert_eq!(services[0]["Ports"], "*:8000->8000/tcp");
    let tasks = json(&["service", "ps", "whoami", "--format", "json"]);
    assert_eq!(tasks[1]["Name"], "whoami.1");
    assert_eq!(tasks[1]["CurrentState"], "Failed about a minute ago");
    let nodes = json(&["node", "ls", "--format", "json"]);
    assert_eq!((&nodes[0]["ID"], &nodes[0]["Self"]), (&"a1a1a1a1a1a1".into(), &true.into()));
    let service = &json(&["service", "inspect", "whoami"])[0];
    assert_eq!(service["Spec"]["Mode"]["Replicated"]["Replicas"], 2);
    assert_eq!(service["Endpoint"]["VirtualIPs"][0]["Addr"], "10.0.16.2/20");
    assert_eq!(service["Endpoint"]["Ports"][0]["PublishedPort"], 8000);
    let network = &json(&["network", "inspect", "--verbose", "demo"])[0];
    assert_eq!(network["IPAM"]["Config"][0]["Subnet"], "10.0.16.0/20");
    assert_eq!(network["Options"]["com.docker.network.driver.overlay.vxlanid_list"], "4097");
    assert_eq!(network["Services"]["whoami"]["VIP"], "10.0.16.2");
    assert_eq!(network["Services"]["whoami"]["Tasks"].as_array().map(Vec::len), Some(2));
    assert_eq!(network["Peers"][1]["Name"], "n2");
}

/// Task 1 is healthy, task 2 waits for its first pass; n1 has a Docker Engine, n2 has none.
fn with_health_and_engines(observed: &mut Observed) {
    let status = |engine: Option<&str>| NodeStatus {
        generation: 1,
        agent_version: "0.1.0".into(),
        applied_revision: 7,
        layout_version: 1,
        ports_not_taken: Vec::new(),
        runtimes: Some(vec![Runtime::Exec]),
        engine_version: engine.map(str::to_string),
        without: Default::default(),
        interfaces: Default::default(),
        warnings: Vec::new(),
    };
    observed.nodes = [(fixture::id(0xa1), status(Some("29.0.1"))), (fixture::id(0xb2), status(None))].into();
    let task = |number| fixture::id(number);
    observed.tasks.get_mut(&task(0x11)).expect("task 1").health = Some(TaskHealth::Healthy);
    let second = observed.tasks.get_mut(&task(0x12)).expect("task 2");
    (second.state, second.ready, second.health) = (TaskState::Starting, false, Some(TaskHealth::Starting));
    observed.tasks.get_mut(&task(0x13)).expect("the failed one").health = Some(TaskHealth::Unhealthy);
}

#[test]
fn health_and_engines_are_told() {
    let mut facts = fixture::facts();
    with_health_and_engines(Arc::make_mut(&mut facts.observed));
    let agent = agent_that_knows(facts);
    assert_eq!(
        ok(&agent.socket, &["service", "ps", "whoami"]),
        "ID             NAME           IMAGE     NODE      DESIRED STATE   CURRENT STATE                               ERROR                 PORTS\n\
         111111111111   whoami.1       whoami    n1        Running         Running 59 seconds ago (healthy)\n\
         131313131313    \\_ whoami.1   whoami    n2        Shutdown        Failed about a minute ago                   \"task: exit code 1\"\n\
         121212121212   whoami.2       whoami    n2        Running         Starting 5 seconds ago (health: starting)\n"
    );
    assert!(ok(&agent.socket, &["ps"]).contains("Running 59 seconds ago (healthy)   yes"));
    let json = |words: &[&str]| -> serde_json::Value { serde_json::from_str(&ok(&agent.socket, words)).expect("JSON") };
    let tasks = json(&["service", "ps", "whoami", "--format", "json"]);
    let seen = |row: usize| (tasks[row]["CurrentState"].clone(), tasks[row]["Health"].clone());
    assert_eq!(seen(0), ("Running 59 seconds ago".into(), "healthy".into()));
    assert_eq!(seen(1), ("Failed about a minute ago".into(), "".into()));
    assert_eq!(seen(2), ("Starting 5 seconds ago".into(), "starting".into()));
    assert_eq!(json(&["service", "ls", "--format", "json"])[0]["Replicas"], "1/2");
    let nodes = json(&["node", "ls", "--format", "json"]);
    let seen = |row: usize| (nodes[row]["EngineVersion"].clone(), nodes[row]["MeshVersion"].clone());
    assert_eq!(seen(0), ("29.0.1".into(), "0.1.0".into()));
    assert_eq!(seen(1), ("0.1.0".into(), "0.1.0".into()));
    let node = &json(&["node", "inspect", "n1"])[0];
    assert_eq!(node["Description"]["Engine"]["EngineVersion"], "29.0.1");
    assert_eq!(node["Mesh"]["Runtimes"], serde_json::json!(["exec"]));
}

#[test]
fn a_healthcheck_is_given_changed_and_taken_away() {
    let agent = agent();
    let create = ["service", "create", "--runtime", "exec", "--name", "web", "--health-cmd", "check it"];
    let timed = ["--health-interval", "2s", "--health-start-period", "1m", "--health-start-interval", "500ms"];
    let said = mesh(&agent.socket, &[&create[..], &timed, &["-d", "sleep", "3600"]].concat());
    assert_eq!(said.code, 0, "{said:?}");
    let check = || -> serde_json::Value {
        let shown: serde_json::Value =
            serde_json::from_str(&ok(&agent.socket, &["service", "inspect", "web"])).expect("JSON");
        shown[0]["Spec"]["TaskTemplate"]["ContainerSpec"]["Healthcheck"].clone()
    };
    let wanted = serde_json::json!({
        "Test": ["CMD", "/bin/sh", "-c", "check it"], "Interval": 2_000_000_000_u64, "Timeout": 30_000_000_000_u64, "Retries": 3,
        "StartPeriod": 60_000_000_000_u64, "StartInterval": 500_000_000_u64
    });
    assert_eq!(check(), wanted);
    assert_eq!(mesh(&agent.socket, &["service", "update", "-d", "--health-retries", "5", "web"]).code, 0);
    assert_eq!((&check()["Retries"], &check()["Interval"]), (&5.into(), &2_000_000_000_u64.into()));
    assert_eq!(mesh(&agent.socket, &["service", "update", "-d", "--no-healthcheck", "web"]).code, 0);
    assert_eq!(check(), serde_json::json!({ "Test": ["NONE"] }));
    let said = mesh(&agent.socket, &["service", "update", "-d", "--health-retries", "5", "web"]);
    assert!(said.code == 1 && said.err.contains("give --health-cmd too"), "{said:?}");
}

#[test]
fn a_service_is_created_scaled_updated_and_waited_for() {
    let agent = agent();
    let create = ["service", "create", "--runtime", "exec", "--name", "web", "-p", "9000:9000", "--replicas", "2"];
    let said = mesh(&agent.socket, &[&create[..], &["sleep", "-x", "3600"]].concat());
    assert_eq!(said.out, "5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f\n", "{said:?}");
    assert_eq!(said.err, "overall progress: 2 out of 2 tasks\nverify: service web converged\n");
    let said = mesh(&agent.socket, &["service", "scale", "web=5"]);
    assert_eq!((said.code, said.out.as_str()), (0, "web scaled to 5\n"), "{said:?}");
    let said = mesh(&agent.socket, &["service", "update", "--env-add", "A=1", "--publish-rm", "9000", "web"]);
    assert_eq!(said.code, 0, "{said:?}");
    let spec = ok(&agent.socket, &["service", "inspect", "web"]);
    assert!(spec.contains("\"A=1\"") && spec.contains("\"-x\""), "{spec}");
    assert_eq!(ok(&agent.socket, &["service", "rm", "web"]), "web\n");
    let said = mesh(&agent.socket, &["service", "rm", "web"]);
    assert_eq!((said.code, said.err.as_str()), (1, "mesh: no such service: web; 'mesh service ls' lists them\n"));
}

#[test]
fn an_image_is_run_unless_a_command_of_the_host_is_asked_for() {
    let agent = agent();
    let create = [
        "service",
        "create",
        "--name",
        "db",
        "--detach=true",
        "--with-registry-auth",
        "--mount",
        "source=data,target=/data",
        "--container-label",
        "a=b",
        "--entrypoint",
        "/entry -x",
        "--tty",
        "--init=false",
        "--cap-drop",
        "ALL",
        "--host",
        "up:10.0.0.1",
        "--ulimit",
        "nofile=1:2",
        "--rollback-order",
        "start-first",
        "registry:5000/db:9",
        "--serve",
        "-v",
    ];
    let said = mesh(&agent.socket, &create);
    assert_eq!((said.code, said.out.as_str()), (0, "5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f5f\n"), "{said:?}");
    assert!(said.err.starts_with("mesh: warning: --with-registry-auth is ignored") && said.err.lines().count() == 1);
    let json = |words: &[&str]| -> serde_json::Value { serde_json::from_str(&ok(&agent.socket, words)).expect("JSON") };
    let service = &json(&["service", "inspect", "db"])[0];
    let container = &service["Spec"]["TaskTemplate"]["ContainerSpec"];
    assert_eq!(
        (&container["Image"], &service["Spec"]["TaskTemplate"]["Runtime"]),
        (&"registry:5000/db:9".into(), &"container".into())
    );
    assert_eq!(
        (&container["Command"], &container["Args"]),
        (&vec!["/entry", "-x"].into(), &vec!["--serve", "-v"].into())
    );
    assert_eq!((&container["TTY"], &container["Init"]), (&true.into(), &false.into()));
    assert_eq!(
        (&container["Mounts"][0]["Type"], &container["Mounts"][0]["Source"]),
        (&"volume".into(), &"data".into())
    );
    assert_eq!((&container["Ulimits"][0]["Hard"], &container["Hosts"][0]), (&2.into(), &"up:10.0.0.1".into()));
    assert_eq!(service["Spec"]["RollbackConfig"]["Order"], "start-first");
}

#[test]
fn inspect_tells_how_far_an_update_is() {
    let agent = agent();
    agent.fake.change(|facts| {
        let id = facts.cluster.service_named("whoami").expect("in the fixture").id.clone();
        let status = crate::model::UpdateStatus {
            state: crate::model::UpdateState::RollbackCompleted,
            started_at: 1_000,
            completed_at: Some(2_000),
            message: "rollback completed".into(),
            ready_since: Default::default(),
        };
        Arc::make_mut(&mut facts.cluster).updates.insert(id, status);
    });
    let said = ok(&agent.socket, &["service", "inspect", "whoami"]);
    let json: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    let update = &json[0]["UpdateStatus"];
    assert_eq!((&update["State"], &update["Message"]), (&"rollback_completed".into(), &"rollback completed".into()));
    assert_eq!(update["StartedAt"], "1970-01-01T00:00:01.000Z");
    assert_eq!(update["CompletedAt"], "1970-01-01T00:00:02.000Z");
}

#[test]
fn what_does_not_converge_says_why_and_exits_1() {
    let agent = agent();
    let create = ["service", "create", "--runtime", "exec", "--name", "broken", "--restart-condition", "none"];
    let said = mesh(&agent.socket, &[&create[..], &["/nowhere"]].concat());
    assert_eq!(said.code, 1);
    let last = said.err.lines().last().unwrap_or_default();
    assert_eq!(
        last,
        "mesh: service broken did not converge: 0 of 1 tasks run; broken.1 on n1 rejected: exec: no such file: \
         /nowhere; it stays as asked, 'mesh service ps broken' shows its tasks"
    );
    let said = mesh(&agent.socket, &[&create[..], &["-d", "/nowhere"]].concat());
    assert_eq!(said.code, 0, "-d does not wait: {said:?}");
}

#[test]
fn exec_passes_words_streams_and_the_exit_code() {
    let agent = agent();
    let said = mesh(&agent.socket, &["exec", "whoami.1", "exit", "42"]);
    assert_eq!((said.code, said.err.as_str()), (42, ""));
    let said = mesh(&agent.socket, &["exec", "whoami.1", "ping", "-c", "3", "--socket", "whoami"]);
    assert_eq!((said.code, said.err.as_str()), (0, "[\"ping\", \"-c\", \"3\", \"--socket\", \"whoami\"]\n"));
    let said = mesh(&agent.socket, &["exec", "nope.1", "true"]);
    assert_eq!(said.code, 1);
    assert_eq!(said.err, "mesh: no such task: nope.1; 'mesh ps' or 'mesh service ps' lists them\n");
}

#[test]
fn the_cluster_begins_grows_and_ends() {
    let agent = agent();
    let init = ok(&agent.socket, &["init", "--advertise-addr", "eth0"]);
    assert!(init.contains("    mesh swarm join --token MESHTKN-1-digest-worker 192.168.99.1:2377\n"), "{init}");
    assert_eq!(ok(&agent.socket, &["swarm", "join-token", "manager", "-q"]), "MESHTKN-1-digest-manager\n");
    let said = mesh(&agent.socket, &["join", "--token", "wrong", "192.168.99.1"]);
    assert_eq!(said.code, 1);
    assert!(said.err.starts_with("mesh: the join token is not the cluster's"), "{said:?}");
    assert_eq!(
        ok(&agent.socket, &["swarm", "join", "--token", "MESHTKN-1-digest-worker", "192.168.99.1:2377"]),
        "This node joined a swarm as a worker.\n"
    );
    assert_eq!(ok(&agent.socket, &["leave", "--force"]), "Node left the swarm.\n");
    let calls = agent.fake.calls.lock().expect("no panic").clone();
    assert_eq!(calls, ["init Some(\"eth0\")", "leave force=true"]);
}

#[test]
fn a_stack_is_deployed_from_its_manifest() {
    let agent = agent();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("demo.yaml");
    let manifest = "networks:\n  demo: {driver: overlay}\nservices:\n  whoami:\n    command: [whoami, --port, '8000']\n    \
                    networks: [demo]\n    deploy: {replicas: 2}\n    x-mesh: {runtime: exec}\n";
    std::fs::write(&path, manifest).expect("written");
    let path = path.to_str().expect("UTF-8");
    let said = mesh(&agent.socket, &["stack", "deploy", "-c", path, "tutorial"]);
    assert_eq!(said.code, 0, "{said:?}");
    assert_eq!(said.out, "Creating network tutorial_demo\nCreating service tutorial_whoami\n");
    assert!(said.err.ends_with("verify: service tutorial_whoami converged\n"), "{said:?}");
    assert!(ok(&agent.socket, &["stack", "ls"]).contains("tutorial   1"));
    assert!(ok(&agent.socket, &["stack", "services", "tutorial"]).contains("tutorial_whoami"));
    assert!(ok(&agent.socket, &["stack", "config", "-c", path]).contains("round-robin"));
    std::fs::write(path, "services:\n  web:\n    comand: x\n").expect("written");
    let said = mesh(&agent.socket, &["stack", "deploy", "-c", path, "tutorial"]);
    assert_eq!(said.code, 1);
    assert_eq!(
        said.err,
        format!("mesh: {path}:3:5: services.web.comand: this key is unknown; did you mean 'command'?\n")
    );
}

#[test]
fn status_shows_everything_on_one_screen() {
    let agent = agent();
    agent.fake.change(|facts| facts.warnings.push("store on n1 is away since 5 seconds".into()));
    let status = ok(&agent.socket, &["status"]);
    for part in ["Node:     n1 (mesh 0.1.0)", "NODES", "SERVICES", "TASKS HERE", "WARNINGS", "store on n1 is away"] {
        assert!(status.contains(part), "{part} in {status}");
    }
    assert_eq!(ok(&agent.socket, &["logs", "--raw", "whoami.1"]), "line 0\n");
    let logs = ok(&agent.socket, &["service", "logs", "whoami"]);
    assert!(logs.starts_with("whoami.1.111111111111@n1    | line 0\n"), "{logs}");
}

#[test]
fn purge_works_without_an_agent() {
    assert_eq!(ok(&PathBuf::from("/nonexistent/mesh.sock"), &["purge"]), "cgroup /mesh\n");
    let agent = agent();
    assert_eq!(ok(&agent.socket, &["purge", "--force"]), "link mesh0\n");
}

#[test]
fn help_shows_what_is_there_and_nothing_else() {
    use clap::CommandFactory;
    super::Cli::command().debug_assert();
    let help = ok(&PathBuf::from("/nonexistent"), &["--help"]);
    for verb in [
        "agent",
        "swarm",
        "node",
        "network",
        "service",
        "stack",
        "ps",
        "exec",
        "logs",
        "status",
        "flows",
        "explain",
        "monitor",
        "doctor",
        "purge",
        "completions",
    ] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(&format!("{verb} "))), "{verb} in {help}");
    }
    for later in ["top", "verify", "manual-pages", "supervise", "resolver"] {
        assert!(!help.lines().any(|line| line.trim_start().starts_with(later)), "{later} in {help}");
    }
    let help = ok(&PathBuf::from("/nonexistent"), &["agent", "--help"]);
    assert!(!help.contains("metrics") && help.contains("--data-path-addr"), "{help}");
    assert!(ok(&PathBuf::from("/nonexistent"), &["--version"]).starts_with("mesh 0."));
}

#[test]
fn the_doctor_puts_remedies_below_their_rows_and_fails_where_a_check_failed() {
    let agent = agent();
    let said = mesh(&agent.socket, &["doctor"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert_eq!(
        said.out,
        "CHECK     STATE     FOUND\n\
         kernel    ok        6.12.9, BTF, TCX\n\
         ports     failed    2377/tcp is in use by nginx (pid 7)\n    → stop it\n"
    );
    assert_eq!(said.err, "");
    let json: serde_json::Value =
        serde_json::from_str(&mesh(&agent.socket, &["doctor", "--format", "json"]).out).expect("JSON");
    assert_eq!(json[1]["Remedy"], "stop it");
    let alone = mesh(&PathBuf::from("/nonexistent/mesh.sock"), &["doctor"]);
    assert_eq!((alone.code, alone.out.contains("6.12.9")), (0, true), "{alone:?}");
    assert!(alone.err.contains("no agent answers"), "{alone:?}");
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let nowhere = PathBuf::from("/nonexistent/mesh.sock");
    for shell in ["bash", "zsh", "fish"] {
        let script = ok(&nowhere, &["completions", shell]);
        assert!(script.contains("doctor") && script.contains("join-token"), "{shell}: {script}");
    }
    let folder = tempfile::tempdir().expect("a temporary folder");
    assert_eq!(ok(&nowhere, &["manual-pages", &folder.path().display().to_string()]), "");
    let page = |name: &str| std::fs::read_to_string(folder.path().join(name)).expect(name);
    assert!(page("mesh.1").contains("doctor"));
    assert!(page("mesh-service-create.1").contains("replicas"));
    assert!(page("mesh-agent.1").contains("state\\-dir"));
}
