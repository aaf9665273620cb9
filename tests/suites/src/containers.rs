//! A stage for the runtime `docker` by itself: an Engine of its own, a runtime on it, and verbs for tests.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Engine, Lab, Namespace, lacks_engine, scenario, skip};
use mesh_userspace::model::{Container, ExecEvent, ExecRequest, Id, LogStream, Mount, Resources};
use mesh_userspace::runtime::docker::{DockerConfig, DockerRuntime};
use mesh_userspace::runtime::{
    ExecStreams, LogRequest, Prepared, RuntimeError, StopRequest, TaskEvent, TaskExit, TaskLaunch, TaskRuntime,
};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

pub const SOON: Duration = Duration::from_secs(20);
pub const TERM: StopRequest = StopRequest { signal: libc::SIGTERM, grace: Duration::from_secs(10) };

/// An Engine with the image `busybox`, and a runtime on it.
pub struct Stage<'a> {
    pub engine: &'a Engine,
    pub namespace: &'a Namespace,
    pub folder: PathBuf,
    pub config: DockerConfig,
    pub runtime: DockerRuntime,
    pub events: UnboundedReceiver<TaskEvent>,
}

/// An Engine without networks of its own.
pub fn with_engine(title: &str, flags: &[&str], play: impl AsyncFnOnce(Stage<'_>) -> Result<()>) {
    with_started(title, |engine| engine.start(flags), play);
}

/// An Engine as it is when it has just been installed: with a bridge.
pub fn with_bridged_engine(title: &str, flags: &[&str], play: impl AsyncFnOnce(Stage<'_>) -> Result<()>) {
    with_started(title, |engine| engine.start_with_bridge(flags), play);
}

fn with_started(
    title: &str,
    start: impl FnOnce(&Engine) -> Result<()>,
    play: impl AsyncFnOnce(Stage<'_>) -> Result<()>,
) {
    if let Some(reason) = lacks_engine() {
        return skip(title, &reason);
    }
    scenario(title, Lab::builder().nodes(["n1"]), |lab| {
        let node = lab.node("n1");
        start(node.engine())?;
        node.engine().import_busybox()?;
        let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let done = threads.block_on(async {
            // Not the agent's own: no agent runs here, and none is to be asked to purge.
            let folder = node.dir().join("runtime");
            std::fs::create_dir_all(&folder)?;
            let host = Some(node.engine().address());
            let config = DockerConfig { state_dir: folder.clone(), node: Id::from_bytes([9; 16]), host };
            let runtime = DockerRuntime::new(config.clone())?;
            let events = runtime.events();
            let (engine, namespace) = (node.engine(), node.namespace());
            play(Stage { engine, namespace, folder, config, runtime, events }).await
        });
        threads.shutdown_background();
        done
    });
}

pub fn launch(number: u8, words: &[&str]) -> TaskLaunch {
    let task_id = Id::from_bytes([number; 16]);
    TaskLaunch {
        name: format!("web.{number}.{task_id}"),
        hostname: task_id.short().to_owned(),
        task_id,
        image: "busybox".into(),
        container: Container::default(),
        command: words.iter().map(|word| (*word).to_owned()).collect(),
        env: vec![],
        user: None,
        workdir: None,
        mounts: vec![],
        resources: Resources::default(),
        health: None,
        nameservers: vec!["10.0.0.1".parse().expect("an address")],
        search: vec![],
        addresses: vec!["10.0.0.7".parse().expect("an address")],
        extra_hosts: vec![],
        stop_signal: None,
        stop_grace_ms: 10_000,
        exit_matters: true,
    }
}

pub fn mount(kind: &str, source: &Path, target: &str, read_only: bool) -> Mount {
    let source = source.display().to_string();
    Mount { kind: kind.into(), source, target: target.into(), read_only, ..Mount::default() }
}

pub fn request(words: &[&str]) -> ExecRequest {
    ExecRequest {
        command: words.iter().map(|word| (*word).to_owned()).collect(),
        env: vec!["FROM=exec".into()],
        user: None,
        workdir: None,
        interactive: false,
        tty: None,
    }
}

/// What a command in the task said, and its exit code.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Said {
    pub out: String,
    pub err: String,
    pub code: Option<i32>,
}

/// Until the command ends, or `enough` is in its output.
pub async fn hear(streams: &mut ExecStreams, enough: Option<&str>) -> Result<Said> {
    let mut said = Said::default();
    while said.code.is_none() && enough.is_none_or(|text| !said.out.contains(text)) {
        let event = timeout(SOON, streams.1.recv()).await.with_context(|| format!("no more after {said:?}"))?;
        match event.with_context(|| format!("no exit code after {said:?}"))? {
            ExecEvent::Stdout(bytes) => said.out += &String::from_utf8_lossy(&bytes),
            ExecEvent::Stderr(bytes) => said.err += &String::from_utf8_lossy(&bytes),
            ExecEvent::Exit(code) => said.code = Some(code),
        }
    }
    Ok(said)
}

impl Stage<'_> {
    pub async fn run(&self, launch: &TaskLaunch) -> Result<Prepared, RuntimeError> {
        let prepared = self.runtime.prepare(launch.clone()).await?;
        self.runtime.start(&launch.task_id).await?;
        Ok(prepared)
    }

    pub async fn exec(&self, launch: &TaskLaunch, words: &[&str]) -> Result<Said> {
        hear(&mut self.runtime.exec(&launch.task_id, request(words)).await?, None).await
    }

    /// Output of a command that must succeed.
    pub async fn inside(&self, launch: &TaskLaunch, script: &str) -> Result<String> {
        let said = self.exec(launch, &["sh", "-c", script]).await?;
        ensure!(said.code == Some(0), "{script}: {said:?}");
        Ok(said.out)
    }

    pub async fn lines(&self, launch: &TaskLaunch, request: LogRequest) -> Result<Vec<(LogStream, String)>> {
        let mut lines = self.runtime.logs(&launch.task_id, request).await?;
        let mut read = Vec::new();
        while let Some(line) = timeout(SOON, lines.recv()).await.with_context(|| format!("no more after {read:?}"))? {
            read.push((line.stream, line.text));
        }
        Ok(read)
    }

    pub async fn event(&mut self) -> Result<TaskEvent> {
        timeout(SOON, self.events.recv()).await.context("no event")?.context("the runtime ended")
    }

    /// As `run`, until the task has said its first word: before, it has no handlers for signals yet.
    pub async fn run_until_up(&self, launch: &TaskLaunch) -> Result<()> {
        self.run(launch).await?;
        let mut lines = self.runtime.logs(&launch.task_id, LogRequest { follow: true, tail: None }).await?;
        timeout(SOON, lines.recv()).await.context("silence")?.context("it ended without a word").map(drop)
    }

    /// The next end that is told.
    pub async fn end(&mut self) -> Result<(Id, TaskExit)> {
        loop {
            if let TaskEvent::Exited { task_id, exit } = self.event().await? {
                return Ok((task_id, exit));
            }
        }
    }

    pub fn inspect(&self, launch: &TaskLaunch, template: &str) -> Result<String> {
        Ok(self.engine.docker(["inspect", "-f", template, &launch.name])?.ok()?.trim().to_owned())
    }
}
