//! A node: a host that runs an agent, with its own sockets, state and pins.
//!
//! ```text
//! <lab folder>/n1/run/mesh.sock   <lab folder>/n1/state/   <lab folder>/n1/agent.log   /sys/fs/bpf/mesh-lab-<id>-n1/
//! ```
//! The agent is only known from outside: its command line, its socket, its exit. Invariant: an agent that this lab started is
//! ended by its process number, never by name.

use std::fs::{self, File, OpenOptions};
use std::ops::Deref;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::command::{self, Output, wait_for_pid};
use crate::engine::Engine;
use crate::eventually::eventually;
use crate::host::{COMMAND_LIMIT, Host};
use crate::namespace::Namespace;
use crate::offload::{self, Offloads};
use crate::process::{self, MARK, start_time};
use crate::terminal::Terminal;
use crate::wiring;

/// An agent loads its programs and opens its socket in well under a second; a busy CI machine may take longer.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// After SIGTERM.
const STOP_LIMIT: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub struct Node {
    host: Host,
    switch: Namespace,
    dir: PathBuf,
    bpf_dir: PathBuf,
    mesh: PathBuf,
    agent_args: Vec<String>,
    agent: Mutex<Option<Agent>>,
    engine: Engine,
}

/// The process, and our handle to reap it where it is our child (it is not after `Lab::attach`).
#[derive(Debug)]
struct Agent {
    pid: u32,
    child: Option<Child>,
}

impl Deref for Node {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

impl Node {
    pub(crate) fn new(
        host: Host,
        switch: &Namespace,
        lab_dir: &Path,
        mesh: &Path,
        agent_args: &[String],
    ) -> Result<Node> {
        let dir = lab_dir.join(host.name());
        fs::create_dir_all(dir.join("run")).with_context(|| format!("can't make {}", dir.display()))?;
        let bpf_dir = Path::new("/sys/fs/bpf").join(host.namespace().name());
        let agent = Mutex::new(agent_of(&dir));
        let (mesh, agent_args) = (mesh.to_owned(), agent_args.to_vec());
        let engine = Engine::new(host.namespace(), &dir);
        Ok(Node { host, switch: switch.clone(), dir, bpf_dir, mesh, agent_args, agent, engine })
    }

    /// Its Docker Engine, which runs only where a test starts it.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Folder of the node's files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.join("run/mesh.sock")
    }

    pub fn state_dir(&self) -> PathBuf {
        self.dir.join("state")
    }

    pub fn bpf_dir(&self) -> &Path {
        &self.bpf_dir
    }

    /// Everything the agent printed, over all its lives.
    pub fn log(&self) -> String {
        fs::read(self.log_file()).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }

    pub(crate) fn log_file(&self) -> PathBuf {
        self.dir.join("agent.log")
    }

    /// The agent's command line, as `start` runs it.
    pub fn agent_command(&self) -> Vec<String> {
        let mut words = vec![self.mesh.display().to_string(), "agent".to_owned()];
        words.push(format!("--socket={}", self.socket().display()));
        words.extend(self.agent_flags());
        words
    }

    /// What tells this node's agent from the others', but for the socket.
    pub(crate) fn agent_flags(&self) -> Vec<String> {
        let mut flags = vec![
            format!("--name={}", self.name()),
            format!("--state-dir={}", self.state_dir().display()),
            format!("--bpf-dir={}", self.bpf_dir.display()),
            format!("--advertise-addr={}", self.address()),
        ];
        // By itself each node would take the flow table of a whole machine.
        if !self.agent_args.iter().any(|word| word.starts_with("--flow-entries")) {
            flags.push("--flow-entries=65536".to_owned());
        }
        flags.extend(self.agent_args.iter().cloned());
        flags
    }

    /// Starts the agent and waits until its socket answers.
    pub fn start(&self) -> Result<()> {
        self.launch()?;
        self.wait_ready()
    }

    /// Starts the agent without waiting, to start several at once.
    pub fn launch(&self) -> Result<()> {
        let mut agent = self.agent();
        ensure!(!alive(agent.as_mut()), "the agent of {} runs already", self.name());
        ensure!(
            self.mesh.is_file(),
            "no mesh binary at {}: build it (`cargo build -p mesh-userspace`) or set MESH_BIN",
            self.mesh.display()
        );
        let log = OpenOptions::new().create(true).append(true).open(self.log_file())?;
        let words = self.agent_command();
        let mut command = self.command(&words[0])?;
        command.args(&words[1..]).env(MARK, format!("{}/", self.dir.display())).env("RUST_BACKTRACE", "1");
        command.env("DOCKER_HOST", self.engine.address());
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // A process group of its own: Ctrl-C at the demo ends the demo, which then ends its agents in order.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().with_context(|| format!("can't start {}", self.mesh.display()))?;
        let pid = child.id();
        fs::write(self.pid_file(), format!("{pid} {}", start_time(pid).unwrap_or(0)))?;
        *agent = Some(Agent { pid, child: Some(child) });
        Ok(())
    }

    /// Waits until the agent's socket takes connections; an agent that ends instead is an error with the end of its log.
    pub fn wait_ready(&self) -> Result<()> {
        let ready = eventually(READY_LIMIT, &format!("the agent of {}", self.name()), || {
            if !self.is_running() {
                return Ok(false);
            }
            UnixStream::connect(self.socket()).context("its socket does not answer")?;
            Ok(true)
        });
        match ready {
            Ok(true) => Ok(()),
            Ok(false) => bail!("the agent of {} ended at once; its log ends with:\n{}", self.name(), self.log_tail()),
            Err(error) => Err(error.context(format!("log of {} ends with:\n{}", self.name(), self.log_tail()))),
        }
    }

    pub fn is_running(&self) -> bool {
        alive(self.agent().as_mut())
    }

    pub fn agent_pid(&self) -> Option<u32> {
        self.agent().as_ref().map(|agent| agent.pid)
    }

    /// Ends the agent as systemd does: SIGTERM, and an error where that is not enough.
    pub fn stop(&self) -> Result<()> {
        self.signal(Signal::SIGTERM, STOP_LIMIT)
    }

    /// Ends the agent without a word: `kill -9`.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::SIGKILL, STOP_LIMIT)
    }

    pub fn restart(&self) -> Result<()> {
        self.stop()?;
        self.start()
    }

    fn signal(&self, signal: Signal, limit: Duration) -> Result<()> {
        let mut agent = self.agent();
        let Some(running) = agent.as_mut() else { bail!("no agent runs on {}", self.name()) };
        kill(Pid::from_raw(running.pid as i32), signal)
            .with_context(|| format!("{signal} to the agent of {}", self.name()))?;
        ensure!(
            wait_for_pid(running.pid, limit)?,
            "the agent of {} did not end within {limit:?} of {signal}",
            self.name()
        );
        if let Some(child) = running.child.as_mut() {
            child.wait()?;
        }
        *agent = None;
        // A stale file would only be looked at by `attach`, which checks it.
        let _ = fs::remove_file(self.pid_file());
        Ok(())
    }

    /// Runs the command line on this node: `node.mesh(["service", "ls"])`.
    pub fn mesh<S: AsRef<str>>(&self, words: impl IntoIterator<Item = S>) -> Result<Output> {
        self.mesh_with_input(words, "")
    }

    /// As [`Node::mesh`], with text on standard input: a manifest for `stack deploy -c -`, a token for `join --token-file -`.
    pub fn mesh_with_input<S: AsRef<str>>(&self, words: impl IntoIterator<Item = S>, input: &str) -> Result<Output> {
        let mut output = command::run(self.mesh_command(words)?, input, COMMAND_LIMIT)?;
        output.command = output.command.replacen(&self.mesh.display().to_string(), "mesh", 1);
        Ok(output)
    }

    /// Runs the command line on a terminal: `node.mesh_terminal(["exec", "-it", "client.1", "sh"])`.
    pub fn mesh_terminal<S: AsRef<str>>(&self, words: impl IntoIterator<Item = S>) -> Result<Terminal> {
        Terminal::start(self.mesh_command(words)?)
    }

    /// The command line of this node, prepared: MESH_SOCKET is set, the namespace is the node's.
    pub fn mesh_command<S: AsRef<str>>(&self, words: impl IntoIterator<Item = S>) -> Result<Command> {
        let mut command = self.command(&self.mesh)?;
        command.args(words.into_iter().map(|word| word.as_ref().to_owned())).env("MESH_SOCKET", self.socket());
        command.env("DOCKER_HOST", self.engine.address());
        Ok(command)
    }

    /// Pulls the node's cable: no carrier at either end.
    pub fn cut(&self) -> Result<()> {
        wiring::set_cable(&self.switch, self.name(), false)
    }

    /// Plugs the cable in again, and heals a swallowing switch.
    pub fn mend(&self) -> Result<()> {
        wiring::set_cable(&self.switch, self.name(), true)?;
        wiring::set_swallowed(&self.switch, self.name(), false)
    }

    /// The switch swallows everything from and to the node, while its link stays up.
    pub fn swallow(&self) -> Result<()> {
        wiring::set_swallowed(&self.switch, self.name(), true)
    }

    /// Sets the offloads of the switch's port that faces the node.
    pub fn set_port_offloads(&self, offloads: Offloads) -> Result<()> {
        let port = self.name().to_owned();
        self.switch.run(|| offload::set(&port, offloads))?
    }

    /// Hides VLAN tags from the node's driver on a wire: the switch's port hands them over beside the frames, as a NIC does that takes them off.
    pub fn hide_tags(&self) -> Result<()> {
        let port = self.name().to_owned();
        self.switch.run(|| offload::put_tags_beside_frames(&port))?
    }

    /// The node's processes with their command lines: agent, resolver, supervisors, tasks.
    pub fn processes(&self) -> Vec<(u32, String)> {
        let found = process::belonging_to(&self.dir, std::slice::from_ref(self.namespace()));
        found.into_iter().map(|process| (process.pid, process.command)).collect()
    }

    pub(crate) fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(25)..].join("\n")
    }

    fn pid_file(&self) -> PathBuf {
        self.dir.join("agent.pid")
    }

    fn agent(&self) -> MutexGuard<'_, Option<Agent>> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The agent that an earlier process of the lab left running here, if it still is the same process.
fn agent_of(dir: &Path) -> Option<Agent> {
    let text = fs::read_to_string(dir.join("agent.pid")).ok()?;
    let (pid, started) = text.trim().split_once(' ')?;
    let pid = pid.parse().ok()?;
    (start_time(pid) == started.parse().ok()).then_some(Agent { pid, child: None })
}

fn alive(agent: Option<&mut Agent>) -> bool {
    match agent {
        None => false,
        Some(Agent { child: Some(child), .. }) => matches!(child.try_wait(), Ok(None)),
        Some(Agent { pid, child: None }) => File::open(format!("/proc/{pid}")).is_ok(),
    }
}
