//! A Docker Engine of a node's own: Debian's dockerd in the node's network namespace, with its own socket and data, and images from
//! files, so that no registry is needed.
//!
//! ```text
//! <lab folder>/n1/docker/   sock  log  data/  exec/ (its containerd)
//! ```
//! The node's agent always gets this socket as DOCKER_HOST: a lab never meets an Engine of the machine it runs on.
//! Invariant: the Engine changes nothing of the host: no bridge, no firewall, no forwarding, cgroups of the lab's own name. With
//! [`Engine::start_with_bridge`] it has all of these in the node's namespace, as an Engine that is installed and started has.

use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::binaries;
use crate::command::{self, Output, wait_for_pid};
use crate::eventually::eventually;
use crate::host::COMMAND_LIMIT;
use crate::namespace::Namespace;
use crate::process::MARK;
use crate::teardown::remove_engine_cgroups;

/// It starts a containerd first; on a busy machine that takes seconds.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// It stops its containers first, each with its grace time.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// What a lab with Engines runs: program, Debian package.
const NEEDED: [(&str, &str); 3] = [("dockerd", "docker.io"), ("docker", "docker.io"), ("busybox", "busybox-static")];

#[derive(Debug)]
pub struct Engine {
    namespace: Namespace,
    dir: PathBuf,
    child: Mutex<Option<Child>>,
}

/// Why Engines can't be started here; None where they can.
pub fn lacks_engine() -> Option<String> {
    let missing = NEEDED.iter().find(|(program, _)| find(program).is_none());
    missing.map(|(program, package)| format!("{program} is missing: apt-get install --no-install-recommends {package}"))
}

impl Engine {
    pub(crate) fn new(namespace: &Namespace, node_dir: &Path) -> Engine {
        Engine { namespace: namespace.clone(), dir: node_dir.join("docker"), child: Mutex::default() }
    }

    /// As DOCKER_HOST has it.
    pub fn address(&self) -> String {
        format!("unix://{}", self.dir.join("sock").display())
    }

    /// Everything it printed, over all its lives.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Starts it and waits until it answers; `flags` are dockerd's, such as `--live-restore`.
    pub fn start(&self, flags: &[&str]) -> Result<()> {
        self.begin(&["--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false"], flags)
    }

    /// The same with Docker's networks: `docker0`, those that users make, its firewall rules and forwarding.
    pub fn start_with_bridge(&self, flags: &[&str]) -> Result<()> {
        // The address that it would choose, said: it must not depend on the routes of the node.
        self.begin(&["--bip=172.17.0.1/16"], flags)
    }

    /// Makes it the first manager of a Docker Swarm of its own; it must have been started with a bridge.
    pub fn swarm_init(&self, advertised: Ipv4Addr) -> Result<()> {
        self.docker(["swarm", "init", "--advertise-addr", &advertised.to_string()])?.ok().map(drop)
    }

    fn begin(&self, network: &[&str], flags: &[&str]) -> Result<()> {
        ensure!(!self.is_running(), "the Engine of {} runs already", self.namespace.name());
        fs::create_dir_all(&self.dir)?;
        let log = OpenOptions::new().create(true).append(true).open(self.dir.join("log"))?;
        let is_remapped = flags.iter().any(|flag| flag.starts_with("--userns-remap"));
        let mut command = if is_remapped { self.remapped()? } else { self.namespace.command("dockerd")? };
        command.arg("--host").arg(self.address());
        for (flag, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
            command.arg(flag).arg(self.dir.join(name));
        }
        command.arg("--config-file").arg(self.config_file()?);
        command.arg(format!("--cgroup-parent=/{}", self.namespace.name())).args(network).args(flags);
        command.env(MARK, format!("{}/", self.dir.display())).env_remove("DOCKER_HOST");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let child = command.spawn().context("can't start dockerd")?;
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        let ready = eventually(READY_LIMIT, "the Engine", || {
            // One that ended will not answer any more.
            if self.is_running() { self.docker(["version"])?.ok().map(|_| true) } else { Ok(false) }
        });
        ensure!(ready?, "dockerd on {} ended at once; its log:\n{}", self.namespace.name(), self.log());
        Ok(())
    }

    pub fn is_running(&self) -> bool {
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// As systemd stops it: SIGTERM. Without live restore it stops its containers.
    pub fn stop(&self) -> Result<()> {
        self.signal(Signal::SIGTERM)
    }

    /// Its containers, itself, and the cgroups it made: the machine is as before it first started.
    pub fn take_away(&self) -> Result<()> {
        self.remove_containers()?;
        self.stop()?;
        remove_engine_cgroups(self.namespace.name());
        Ok(())
    }

    /// SIGKILL for it and its containerd, which would keep its database locked. Containers live on.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::SIGKILL)?;
        let file = self.dir.join("exec/containerd/containerd.pid");
        let text = fs::read_to_string(&file).unwrap_or_default();
        let Ok(pid) = text.trim().parse::<u32>() else { return Ok(()) };
        let words = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        if words.contains(&self.dir.display().to_string()) {
            let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL); // gone meanwhile is as good
            ensure!(wait_for_pid(pid, STOP_LIMIT)?, "containerd {pid} did not end");
        }
        // Where nobody reaps orphans, the next dockerd would take the dead one for alive.
        fs::remove_file(&file).with_context(|| file.display().to_string())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let Some(mut child) = self.child.lock().unwrap_or_else(PoisonError::into_inner).take() else { return Ok(()) };
        kill(Pid::from_raw(child.id().cast_signed()), signal).context("a signal to dockerd")?;
        ensure!(wait_for_pid(child.id(), STOP_LIMIT)?, "dockerd did not end within {STOP_LIMIT:?} of {signal}");
        child.wait()?;
        Ok(())
    }

    /// Docker's own command line: `engine.docker(["ps", "-a"])`.
    pub fn docker<S: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = S>) -> Result<Output> {
        let mut command = Command::new("docker");
        command.arg("--host").arg(self.address()).args(words);
        command::run(command, "", COMMAND_LIMIT)
    }

    /// Names of all containers, those that ended included.
    pub fn containers(&self) -> Result<Vec<String>> {
        let text = self.docker(["ps", "-a", "--format", "{{.Names}}"])?.ok()?;
        Ok(text.lines().map(str::to_owned).collect())
    }

    /// Every container, running or not.
    pub(crate) fn remove_containers(&self) -> Result<()> {
        let names = if self.is_running() { self.containers()? } else { Vec::new() };
        if names.is_empty() {
            return Ok(());
        }
        self.docker(["rm", "-f", "-v"].into_iter().map(str::to_owned).chain(names))?.ok().map(drop)
    }

    /// Image `busybox`: Debian's static one, with a name for each of its tools.
    pub fn import_busybox(&self) -> Result<()> {
        let root = self.fresh_root("busybox")?;
        let busybox = find("busybox").context("busybox is missing: apt-get install busybox-static")?;
        fs::copy(&busybox, root.join("bin/busybox"))?;
        let tools = command::run(list_tools(&busybox), "", COMMAND_LIMIT)?.ok()?;
        for tool in tools.lines().filter(|tool| *tool != "busybox") {
            symlink("busybox", root.join("bin").join(tool))?;
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nguest:x:1000:1000::/tmp:/bin/sh\n")?;
        fs::write(root.join("etc/group"), "root:x:0:\nguest:x:1000:\n")?;
        self.import(&root, "busybox", &["CMD [\"sh\"]"])
    }

    /// Image `jwilder/whoami`, which answers on port 8000 as the original does: the lab's own test server and the libraries it needs.
    pub fn import_whoami(&self) -> Result<()> {
        let root = self.fresh_root("whoami")?;
        let program = binaries::whoami();
        fs::copy(&program, root.join("bin/whoami"))
            .with_context(|| format!("no test server at {}", program.display()))?;
        let mut ldd = Command::new("ldd");
        ldd.arg(&program);
        let libraries = command::run(ldd, "", COMMAND_LIMIT)?.ok()?;
        for library in libraries.split_whitespace().filter(|word| word.starts_with('/')).map(Path::new) {
            let inside = root.join(library.strip_prefix("/")?);
            fs::create_dir_all(inside.parent().context("a library is in a folder")?)?;
            fs::copy(library, inside)?;
        }
        self.import(&root, "jwilder/whoami", &["CMD [\"/bin/whoami\", \"--port\", \"8000\"]"])
    }

    /// `FROM base`, and what `changes` say, as image `name`.
    pub fn derive(&self, base: &str, name: &str, changes: &[&str]) -> Result<()> {
        let file = changes.iter().fold(format!("FROM {base}\n"), |file, change| file + change + "\n");
        let mut command = Command::new("docker");
        command.arg("--host").arg(self.address()).env("DOCKER_BUILDKIT", "0").args(["build", "-q", "-t", name, "-"]);
        command::run(command, &file, COMMAND_LIMIT)?.ok().map(drop)
    }

    fn import(&self, root: &Path, name: &str, changes: &[&str]) -> Result<()> {
        let file = root.with_extension("tar");
        let mut tar = Command::new("tar");
        tar.arg("-C").arg(root).args(["--owner=0", "--group=0", "-cf"]).arg(&file).arg(".");
        command::run(tar, "", COMMAND_LIMIT)?.ok()?;
        let mut words: Vec<String> = vec!["import".into()];
        words.extend(changes.iter().flat_map(|change| ["--change".to_owned(), (*change).to_owned()]));
        words.extend([file.display().to_string(), name.to_owned()]);
        self.docker(words)?.ok().map(drop)
    }

    fn fresh_root(&self, name: &str) -> Result<PathBuf> {
        let root = self.dir.join("images").join(name);
        let _ = fs::remove_dir_all(&root); // absent is as good
        for folder in ["bin", "etc", "tmp", "root", "proc", "sys", "dev"] {
            fs::create_dir_all(root.join(folder))?;
        }
        Ok(root)
    }

    /// User namespaces need a line in /etc/subuid: there is one where only this Engine sees it.
    fn remapped(&self) -> Result<Command> {
        let file = self.dir.join("subuid");
        fs::write(&file, "nobody:100000:65536\nnogroup:100000:65536\n")?;
        let script = "mount --bind \"$0\" /etc/subuid && mount --bind \"$0\" /etc/subgid && exec dockerd \"$@\"";
        let mut command = self.namespace.command("unshare")?;
        command.args(["--mount", "sh", "-c", script]).arg(file);
        Ok(command)
    }

    /// The machine's own daemon.json is none of the lab's.
    fn config_file(&self) -> Result<PathBuf> {
        let file = self.dir.join("daemon.json");
        fs::write(&file, "{}")?;
        Ok(file)
    }
}

fn list_tools(busybox: &Path) -> Command {
    let mut command = Command::new(busybox);
    command.arg("--list");
    command
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(usual).map(|folder| folder.join(program)).find(|file| file.is_file())
}
