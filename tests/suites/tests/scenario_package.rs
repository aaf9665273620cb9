//! The Debian package: installed, started as its unit says, upgraded under a living connection, removed, purged.
//!
//! The machine is a node of the lab with a file system of its own: an overlay over the real one, in a mount namespace, so that dpkg does
//! its work and the real machine keeps its own. systemd does not run there; what it would do (start with the unit's rights, SIGTERM to the
//! agent alone, start again) is done here.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Footprint, Lab, Node, eventually, run_command, scenario, skip, step};

const TITLE: &str = "a package is installed, upgraded, removed and purged";
const SOON: Duration = Duration::from_secs(15);
/// dpkg unpacks some thirty megabytes and runs the scripts.
const DPKG: Duration = Duration::from_secs(120);
const UNIT: &str = "usr/lib/systemd/system/mesh.service";

#[test]
fn a_package_is_installed_upgraded_removed_and_purged() {
    let (old, new) = (package("0.0.1~test"), package("0.0.2~test"));
    if !old.is_file() || !new.is_file() {
        return skip(
            TITLE,
            "no packages were made: `cargo xtask test --all` makes them, where dpkg and strip are there",
        );
    }
    scenario(TITLE, Lab::builder().nodes(["n1"]), |lab| {
        let node = lab.node("n1");
        let before = Footprint::settled(node)?;
        let machine = Machine::new(lab, node, &[&old, &new])?;
        install(&machine)?;
        let agent = machine.start_agent()?;
        machine.ok(&["mesh", "swarm", "init"])?;
        machine.ok(&["mesh", "network", "create", "-d", "overlay", "demo"])?;
        let create = ["mesh", "service", "create", "--runtime", "exec", "--name", "whoami", "--network", "demo"];
        machine.ok(&[&create[..], &["-p", "8000:8000", "/srv/whoami", "--port", "8000"]].concat())?;
        let agent = upgrade(lab, node, &machine, agent)?;
        remove(&machine, agent)?;
        drop(machine);
        let left = eventually(SOON, "a clean machine", || {
            let left = Footprint::of(node)?.since(&before);
            ensure!(left.is_empty(), "after removing:\n{left}");
            Ok(left)
        })?;
        ensure!(left.is_empty());
        Ok(())
    });
}

fn install(machine: &Machine) -> Result<()> {
    step("dpkg -i: files, group, a configuration file that is the user's");
    machine.dpkg(&["-i", "/srv/mesh_0.0.1~test_amd64.deb"])?;
    ensure!(machine.ok(&["mesh", "--version"])?.starts_with("mesh "));
    machine.ok(&["getent", "group", "mesh"])?;
    for file in [
        "/usr/share/man/man1/mesh.1.gz",
        "/usr/share/man/man1/mesh-service-create.1.gz",
        "/usr/share/bash-completion/completions/mesh",
        "/usr/share/zsh/vendor-completions/_mesh",
        "/usr/share/fish/vendor_completions.d/mesh.fish",
        "/usr/share/doc/mesh/copyright",
    ] {
        machine.ok(&["test", "-s", file])?;
    }
    ensure!(machine.ok(&["dpkg-query", "-W", "-f", "${Conffiles}", "mesh"])?.contains("/etc/default/mesh"));
    step("mesh doctor, before anything runs");
    machine.ok(&["mesh", "doctor"]).map(drop)
}

fn upgrade(lab: &Lab, node: &Node, machine: &Machine, agent: Agent) -> Result<Agent> {
    step("dpkg -i of a newer version, under a connection; the agent is restarted as the package asks systemd to");
    machine.ok(&["sh", "-c", "echo '# mine' >> /etc/default/mesh"])?;
    let mut session = lab.client().http_session(node.address(), 8000)?;
    let task = session.get("/")?.whoami()?.task;
    let probe = lab.client().probe(node.address(), 8000, Duration::from_millis(50))?;
    machine.dpkg(&["--force-confold", "-i", "/srv/mesh_0.0.2~test_amd64.deb"])?;
    ensure!(session.get("/")?.whoami()?.task == task, "unpacking the new version disturbed the task");
    agent.stop()?;
    ensure!(session.get("/")?.whoami()?.task == task, "the task went with the agent");
    let agent = machine.start_agent()?;
    eventually(SOON, "the task in the new agent's listing", || {
        let listed = machine.ok(&["mesh", "service", "ps", "whoami"])?;
        ensure!(listed.contains(&task[..12]) && listed.contains("Running"), "{listed}");
        Ok(())
    })?;
    ensure!(session.get("/")?.whoami()?.task == task, "the connection moved");
    let timeline = probe.stop();
    ensure!(timeline.failures().is_empty(), "{}", timeline.describe());
    ensure!(machine.ok(&["dpkg-query", "-W", "-f", "${Version}", "mesh"])? == "0.0.2~test");
    ensure!(machine.ok(&["cat", "/etc/default/mesh"])?.contains("# mine"), "the user's configuration was overwritten");
    Ok(agent)
}

fn remove(machine: &Machine, agent: Agent) -> Result<()> {
    step("dpkg -r: tasks, links and programs go; identity and configuration stay");
    agent.stop()?;
    machine.dpkg(&["-r", "mesh"])?;
    let links = machine.ok(&["ip", "-o", "link"])?;
    ensure!(!links.contains("mesh0") && !links.contains(" mv"), "{links}");
    machine.ok(&["test", "!", "-e", "/sys/fs/bpf/mesh"])?;
    machine.ok(&["test", "-s", "/var/lib/mesh/store.redb"])?;
    machine.ok(&["test", "-e", "/etc/default/mesh"])?;
    step("dpkg -P: nothing is left");
    machine.dpkg(&["-P", "mesh"])?;
    for gone in ["/var/lib/mesh", "/etc/default/mesh", "/usr/bin/mesh", "/run/mesh"] {
        machine.ok(&["test", "!", "-e", gone])?;
    }
    Ok(())
}

/// Made by `cargo xtask test --all`, beside the build that the lab uses.
fn package(version: &str) -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let target = program.ancestors().nth(3).unwrap_or(Path::new("."));
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    target.join("debian-tests").join(format!("mesh_{version}_{architecture}.deb"))
}

/// A node with a root file system of its own. Its first process holds the namespaces; it ends with this value.
struct Machine {
    init: Child,
    folder: PathBuf,
}

/// `$1` is an empty folder; what is in `$1.srv` comes along. /run is empty, so that nobody finds the real machine's systemd.
const FIRST_PROCESS: &str = r#"
set -e
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cp -a "$1.srv/." "$1/root/srv/"
for dir in proc sys dev; do mount --rbind "/$dir" "$1/root/$dir"; done
mount -t tmpfs tmpfs "$1/root/run"
mount -t bpf bpf "$1/root/sys/fs/bpf"
mkdir "$1/root/before"
cd "$1/root"
pivot_root . before
umount -l /before
touch /run/ready
exec sleep 100000
"#;

impl Machine {
    fn new(lab: &Lab, node: &Node, packages: &[&Path]) -> Result<Machine> {
        step("a machine of its own: an overlay over this one's files");
        let folder = lab.dir().join("machine");
        let luggage = lab.dir().join("machine.srv");
        std::fs::create_dir_all(&folder)?;
        std::fs::create_dir_all(&luggage)?;
        for package in packages {
            // The architecture's name is of no interest to the steps.
            let name = package.file_name().context("a package has a name")?.to_string_lossy().replace("arm64", "amd64");
            std::fs::copy(package, luggage.join(name))?;
        }
        std::fs::copy(lab.whoami(), luggage.join("whoami"))?;
        let mut command = node.command("unshare")?;
        command.args(["--mount", "sh", "-c", FIRST_PROCESS, "sh"]).arg(&folder).stdin(Stdio::null());
        let machine = Machine { init: command.spawn().context("unshare of util-linux")?, folder };
        eventually(SOON, "the machine", || machine.ok(&["test", "-e", "/run/ready"]).map(drop))?;
        Ok(machine)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.init.id().to_string(), "--mount", "--net", "--wd=/", "--"]).args(words);
        command.env_remove("MESH_SOCKET").env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("LC_ALL", "C");
        command
    }

    fn ok(&self, words: &[&str]) -> Result<String> {
        run_command(self.command(words), "", DPKG)?.ok()
    }

    /// Without triggers: the index of all manual pages is not ours to test.
    fn dpkg(&self, words: &[&str]) -> Result<String> {
        self.ok(&[&["dpkg", "--no-triggers"], words].concat())
    }

    /// With the rights that the unit leaves it, and its options.
    fn start_agent(&self) -> Result<Agent> {
        let unit = self.ok(&["cat", &format!("/{UNIT}")])?;
        let value =
            |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)).with_context(|| format!("no {key}"));
        let rights: String = value("CapabilityBoundingSet=")?
            .split_whitespace()
            .map(|name| format!(",+{}", name.trim_start_matches("CAP_").to_lowercase()))
            .collect();
        let rights = format!("--bounding-set=-all{rights}");
        let start = value("ExecStart=")?.replace("$MESH_AGENT_OPTS", "--name n1");
        let words: Vec<&str> = ["setpriv", &rights].into_iter().chain(start.split_whitespace()).collect();
        let mut command = self.command(&words);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.folder.with_extension("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let agent = Agent(command.spawn().context("nsenter and setpriv of util-linux")?);
        eventually(SOON, "the agent's socket", || self.ok(&["mesh", "status"]).map(drop)).with_context(|| {
            format!("its log: {}", std::fs::read_to_string(self.folder.with_extension("log")).unwrap_or_default())
        })?;
        Ok(agent)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Its mounts go with the last process in them. It may have ended by itself.
        let _ = self.init.kill();
        let _ = self.init.wait();
    }
}

/// nsenter and setpriv became it: the child is the agent itself.
struct Agent(Child);

impl Agent {
    /// As systemd with KillMode=process.
    fn stop(mut self) -> Result<()> {
        let mut command = Command::new("kill");
        command.arg(self.0.id().to_string());
        run_command(command, "", SOON)?.ok()?;
        let ended = eventually(SOON, "the agent's end", || self.0.try_wait()?.context("it runs still"))?;
        ensure!(ended.success(), "the agent ended with {ended}");
        Ok(())
    }
}
