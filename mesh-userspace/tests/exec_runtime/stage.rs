//! What the tests of runtime exec share: a runtime in a directory of its own, and words to ask it with.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mesh_userspace::model::{ExecEvent, ExecInput, ExecRequest, Id, LogLine, Resources};
use mesh_userspace::runtime::exec::{ExecConfig, ExecRuntime, cgroup2_root};
use mesh_userspace::runtime::{ExecStreams, LogRequest, Prepared, TaskExit, TaskLaunch, TaskRuntime};

/// The longest any single step may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One agent's runtime; what it made is removed at the end, also of a failed test.
pub struct Stage {
    pub runtime: ExecRuntime,
    pub config: ExecConfig,
    pub state_dir: tempfile::TempDir,
}

/// None, with a word why, where these tests can't run; `MESH_MUST_RUN=1` makes that a failure.
pub fn stage() -> Option<Stage> {
    let must_run = std::env::var_os("MESH_MUST_RUN").is_some_and(|value| value == "1");
    let missing = match (nix::unistd::geteuid().is_root(), cgroup2_root()) {
        (false, _) => "needs root",
        (_, None) => "needs a cgroup2 mount",
        (true, Some(root)) => return Some(Stage::with_program(root, vec![env!("CARGO_BIN_EXE_mesh").into()])),
    };
    assert!(!must_run, "runtime exec: {missing}, and MESH_MUST_RUN=1");
    eprintln!("skipped: {missing}");
    None
}

impl Stage {
    pub fn with_program(cgroup_root: PathBuf, program: Vec<OsString>) -> Self {
        let state_dir = tempfile::Builder::new().prefix("mesh-runtime-").tempdir().expect("temporary directory");
        let masked = vec![state_dir.path().to_owned()];
        let config = ExecConfig {
            program,
            log_max_bytes: 1 << 20,
            ..ExecConfig::new(state_dir.path().to_owned(), &random_id(), cgroup_root, masked)
        };
        Stage { runtime: ExecRuntime::new(config.clone()).expect("runtime"), config, state_dir }
    }

    /// A second agent's view of the same tasks.
    pub fn another_agent(&self) -> ExecRuntime {
        ExecRuntime::new(self.config.clone()).expect("runtime")
    }

    pub fn cgroup(&self, id: &Id) -> PathBuf {
        self.config.cgroup_root.join("mesh").join(&self.config.node).join(id.as_str())
    }

    pub async fn run(&self, launch: TaskLaunch) -> (Id, Prepared) {
        let id = launch.task_id.clone();
        let prepared = self.runtime.prepare(launch).await.expect("prepared");
        self.runtime.start(&id).await.expect("started");
        (id, prepared)
    }

    /// Runs to the end and gives what was printed.
    pub async fn output_of(&self, launch: TaskLaunch) -> (TaskExit, Vec<LogLine>) {
        let (id, _) = self.run(launch).await;
        let lines = self.lines(&id, LogRequest { follow: true, tail: None }).await;
        let exit = self.exit_of(&id).await;
        (exit, lines)
    }

    pub async fn exit_of(&self, id: &Id) -> TaskExit {
        let mut found = None;
        eventually("the task has ended", async || {
            let phase = self.runtime.list().await.expect("list").into_iter().find(|task| task.task_id == *id)?.phase;
            match phase {
                mesh_userspace::runtime::Phase::Exited(exit) => {
                    found = Some(exit);
                    Some(())
                }
                _ => None,
            }
        })
        .await;
        found.expect("found")
    }

    pub async fn lines(&self, id: &Id, request: LogRequest) -> Vec<LogLine> {
        let mut receiver = self.runtime.logs(id, request).await.expect("logs");
        let mut lines = Vec::new();
        while let Some(line) = tokio::time::timeout(PATIENCE, receiver.recv()).await.expect("the log goes on") {
            lines.push(line);
        }
        lines
    }

    /// A command in a running task: exit code, output, errors.
    pub async fn exec(&self, id: &Id, request: ExecRequest) -> (i32, String, String) {
        let streams = self.runtime.exec(id, request).await.expect("exec");
        finish(streams).await
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // By cgroup, because a failed test may have lost its runtime: then whatever holds the cgroups.
        let node = self.config.cgroup_root.join("mesh").join(&self.config.node);
        let _ = fs::write(node.join("cgroup.kill"), "1");
        let deadline = Instant::now() + Duration::from_secs(5);
        while node.exists() && Instant::now() < deadline {
            remove_groups(&node);
            std::thread::yield_now();
        }
        let _ = fs::remove_dir(self.config.cgroup_root.join("mesh"));
    }
}

fn remove_groups(group: &Path) {
    for entry in fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    let _ = fs::remove_dir(group);
}

pub async fn finish((_input, mut events): ExecStreams) -> (i32, String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    loop {
        match tokio::time::timeout(PATIENCE, events.recv()).await.expect("exec ends") {
            Some(ExecEvent::Stdout(bytes)) => out.extend(bytes),
            Some(ExecEvent::Stderr(bytes)) => err.extend(bytes),
            Some(ExecEvent::Exit(code)) => {
                assert_eq!(events.recv().await, None, "the exit is the last event");
                return (code, String::from_utf8_lossy(&out).into(), String::from_utf8_lossy(&err).into());
            }
            None => panic!("no exit event; so far {:?}", String::from_utf8_lossy(&out)),
        }
    }
}

/// Reads a terminal until it shows `wanted`.
pub async fn until(streams: &mut ExecStreams, wanted: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(wanted) {
        match tokio::time::timeout(PATIENCE, streams.1.recv()).await {
            Ok(Some(ExecEvent::Stdout(bytes))) => seen.push_str(&String::from_utf8_lossy(&bytes)),
            other => panic!("waited for {wanted:?}, got {other:?} after {seen:?}"),
        }
    }
    seen
}

pub async fn say(streams: &ExecStreams, text: &str) {
    streams.0.send(ExecInput::Stdin(text.as_bytes().to_vec().into())).await.expect("sent");
}

/// Polls with a deadline.
pub async fn eventually(what: &str, mut check: impl AsyncFnMut() -> Option<()>) {
    let deadline = Instant::now() + PATIENCE;
    while check().await.is_none() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub fn random_id() -> Id {
    let text = fs::read_to_string("/proc/sys/kernel/random/uuid").expect("uuid");
    Id::try_from(text.trim().replace('-', "")).expect("hex")
}

pub fn launch(command: &[&str]) -> TaskLaunch {
    let task_id = random_id();
    TaskLaunch {
        name: format!("test.1.{task_id}"),
        hostname: task_id.short().to_owned(),
        image: String::new(),
        container: Default::default(),
        health: None,
        command: command.iter().map(ToString::to_string).collect(),
        env: Vec::new(),
        user: None,
        workdir: None,
        mounts: Vec::new(),
        resources: Resources::default(),
        nameservers: vec!["10.0.16.1".parse().expect("address")],
        search: Vec::new(),
        addresses: vec!["10.0.16.7".parse().expect("address")],
        extra_hosts: Vec::new(),
        stop_signal: None,
        stop_grace_ms: 10_000,
        exit_matters: false,
        task_id,
    }
}

pub fn shell(script: &str) -> TaskLaunch {
    launch(&["/bin/sh", "-c", script])
}

pub fn request(command: &[&str]) -> ExecRequest {
    ExecRequest {
        command: command.iter().map(ToString::to_string).collect(),
        env: Vec::new(),
        user: None,
        workdir: None,
        interactive: false,
        tty: None,
    }
}

pub fn text(lines: &[LogLine]) -> Vec<&str> {
    lines.iter().map(|line| line.text.as_str()).collect()
}
