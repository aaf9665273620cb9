//! The lab: nodes, a client and an outside, wired up, and taken down again whatever happens.
//!
//! ```no_run
//! # fn main() -> anyhow::Result<()> {
//! use mesh_lab::Lab;
//! let lab = Lab::builder().nodes(["n1", "n2", "n3"]).up()?;
//! lab.start_agents()?;
//! println!("{}", lab.node("n1").mesh(["status"])?.ok()?);
//! lab.node("n2").cut()?;
//! # Ok(()) }
//! ```
//! Dropping a lab takes it down, also while panicking, unless [`Lab::keep`] was said. Labs of several processes stand side by side.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use serde_json::json;

use crate::host::Host;
use crate::namespace::Namespace;
use crate::node::Node;
use crate::wiring::Shape;
use crate::{binaries, process, teardown, wiring};

/// Where labs keep their files: on a tmpfs, out of other users' reach.
pub(crate) const DIRECTORY: &str = "/run/mesh-lab";
const DESCRIPTION: &str = "lab.json";

/// What a lab is to be; [`Builder::up`] builds it.
#[derive(Clone, Debug)]
pub struct Builder {
    id: Option<String>,
    nodes: Vec<String>,
    mtu: u32,
    shape: Shape,
    mesh: PathBuf,
    agent_args: Vec<String>,
    /// By node.
    node_args: BTreeMap<String, Vec<String>>,
}

impl Builder {
    /// A fixed name, for a lab that another process will look for. Tests leave it out: then it holds the process's number.
    pub fn name(mut self, name: &str) -> Self {
        self.id = Some(name.to_owned());
        self
    }

    /// Names of the nodes; n1, n2 and n3 where nothing is said.
    pub fn nodes<S: AsRef<str>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.nodes = names.into_iter().map(|name| name.as_ref().to_owned()).collect();
        self
    }

    /// MTU of every cable on the switch; 1500 where nothing is said. In the wire shape nodes' cables take a tunnel's headers more.
    pub fn mtu(mut self, mtu: u32) -> Self {
        self.mtu = mtu;
        self
    }

    /// What frames on the cables are like; [`Shape::Kernel`] where nothing is said.
    pub fn shape(mut self, shape: Shape) -> Self {
        self.shape = shape;
        self
    }

    /// The binary under test; else MESH_BIN, else `mesh` beside the running program.
    pub fn mesh_binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.mesh = path.into();
        self
    }

    /// Further arguments of every agent.
    pub fn agent_args<S: AsRef<str>>(mut self, arguments: impl IntoIterator<Item = S>) -> Self {
        self.agent_args = arguments.into_iter().map(|word| word.as_ref().to_owned()).collect();
        self
    }

    /// Further arguments of this node's agent alone.
    pub fn node_args<S: AsRef<str>>(mut self, node: &str, arguments: impl IntoIterator<Item = S>) -> Self {
        let words = arguments.into_iter().map(|word| word.as_ref().to_owned()).collect();
        self.node_args.insert(node.to_owned(), words);
        self
    }

    /// Builds namespaces and cables. Agents are started by [`Lab::start_agents`] or [`Node::start`].
    pub fn up(self) -> Result<Lab> {
        ensure!(nix::unistd::geteuid().is_root(), "the lab needs root: run it through sudo");
        match Lab::clean_leftovers() {
            Ok(removed) => {
                removed.iter().for_each(|gone| eprintln!("lab: removed what an interrupted run left: {gone}"))
            }
            // Two runs may clean up at once; what is really stuck does not stand in this lab's way.
            Err(error) => eprintln!("lab: leftovers of an interrupted run: {error:#}"),
        }
        let id = self.id.clone().unwrap_or_else(next_id);
        let dir = Path::new(DIRECTORY).join(&id);
        if dir.join(DESCRIPTION).exists() {
            bail!("a lab {id} is up already: take it down first");
        }
        mount_bpffs()?;
        fs::create_dir_all(&dir).with_context(|| format!("can't make {}", dir.display()))?;
        let owner = std::process::id();
        let description = json!({
            "owner": owner, "owner_started": process::start_time(owner), "kept": false,
            "nodes": self.nodes, "mesh": self.mesh, "agent_args": self.agent_args,
            "node_args": self.node_args,
        });
        fs::write(dir.join(DESCRIPTION), description.to_string())?;
        // From here on, whatever is built belongs to a described lab and is found by `clean_leftovers`.
        let built = self.wire(&id).and_then(|()| {
            let arguments =
                |node: &str| [&self.agent_args[..], self.node_args.get(node).map_or(&[], Vec::as_slice)].concat();
            assemble(&id, &self.nodes, &self.mesh, &arguments)
        });
        built.inspect_err(|_| drop(teardown::remove(&id, &self.nodes)))
    }

    fn wire(&self, id: &str) -> Result<()> {
        let (switch, outside) = wiring::build_switch(id)?;
        let cable = match self.shape {
            Shape::Kernel => self.mtu,
            Shape::Wire => self.mtu + wiring::TUNNEL,
        };
        let mut hosts = Vec::new();
        for (place, name) in self.nodes.iter().enumerate() {
            ensure!(is_plain(name), "node name {name:?}: use up to 10 letters and digits");
            let node = wiring::plug_in(id, &switch, name, wiring::node_address(place), cable)?;
            hosts.push((name.as_str(), node));
        }
        hosts.push(("client", wiring::plug_in(id, &switch, "client", wiring::CLIENT, self.mtu)?));
        if self.shape == Shape::Wire {
            hosts.push(("outside", outside));
            hosts.iter().try_for_each(|(port, host)| wiring::make_wire(id, &switch, port, host))?;
        }
        Ok(())
    }
}

#[derive(Debug)]
pub struct Lab {
    id: String,
    dir: PathBuf,
    nodes: Vec<Node>,
    client: Host,
    outside: Host,
    switch: Namespace,
    kept: bool,
}

impl Lab {
    pub fn builder() -> Builder {
        let nodes = ["n1", "n2", "n3"].map(str::to_owned).to_vec();
        Builder {
            id: None,
            nodes,
            mtu: 1500,
            shape: Shape::Kernel,
            mesh: binaries::mesh(),
            agent_args: Vec::new(),
            node_args: BTreeMap::new(),
        }
    }

    /// The lab of this name that another process built and kept.
    pub fn attach(name: &str) -> Result<Lab> {
        let file = Path::new(DIRECTORY).join(name).join(DESCRIPTION);
        let text = fs::read_to_string(&file).with_context(|| format!("no lab {name} is up"))?;
        let description: serde_json::Value = serde_json::from_str(&text).with_context(|| file.display().to_string())?;
        let words = |key: &str| -> Vec<String> { serde_json::from_value(description[key].clone()).unwrap_or_default() };
        let mesh = PathBuf::from(description["mesh"].as_str().unwrap_or_default());
        let of_node = |node: &str| -> Vec<String> {
            serde_json::from_value(description["node_args"][node].clone()).unwrap_or_default()
        };
        let arguments = |node: &str| [words("agent_args"), of_node(node)].concat();
        let mut lab = assemble(name, &words("nodes"), &mesh, &arguments)?;
        lab.kept = description["kept"].as_bool().unwrap_or(false);
        Ok(lab)
    }

    /// Names of the labs that are up, of any process.
    pub fn names() -> Vec<String> {
        let entries = fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    /// Folder of the lab's files.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The node of this name. A name that the builder was not given is a mistake in the test.
    pub fn node(&self, name: &str) -> &Node {
        let found = self.nodes.iter().find(|node| node.name() == name);
        found.unwrap_or_else(|| panic!("the lab has no node {name}"))
    }

    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The machine on the switch that is no node.
    pub fn client(&self) -> &Host {
        &self.client
    }

    /// The machine behind the router; it knows no way to tasks' addresses.
    pub fn outside(&self) -> &Host {
        &self.outside
    }

    /// Nodes, client and outside.
    pub fn hosts(&self) -> Vec<&Host> {
        let others = [&self.client, &self.outside];
        self.nodes.iter().map(|node| &**node).chain(others).collect()
    }

    pub fn switch(&self) -> &Namespace {
        &self.switch
    }

    /// Path of the test server, for `service create … <whoami>`.
    pub fn whoami(&self) -> PathBuf {
        binaries::whoami()
    }

    /// Starts every agent that does not run, all at once, and waits for all.
    pub fn start_agents(&self) -> Result<()> {
        let starting: Vec<&Node> = self.nodes.iter().filter(|node| !node.is_running()).collect();
        starting.iter().try_for_each(|node| node.launch())?;
        starting.iter().try_for_each(|node| node.wait_ready())
    }

    /// A `whoami` of the lab's own on `host`, with no mesh in between; it ends with the lab.
    pub fn serve(&self, host: &Host, port: u16) -> Result<()> {
        let log = fs::File::create(self.dir.join(format!("{}-whoami-{port}.log", host.name())))?;
        let mut command = host.command(self.whoami())?;
        command.args(["--port", &port.to_string()]).stdin(std::process::Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut child = command.spawn().with_context(|| {
            format!(
                "no test server at {}: build it (`cargo build -p mesh-lab`) or set WHOAMI_BIN",
                self.whoami().display()
            )
        })?;
        // Reaped as soon as it ends; it is found by its namespace when the lab is taken down.
        std::thread::spawn(move || child.wait());
        let address = host.address();
        crate::eventually(crate::PATIENCE, "the test server", || host.ask(address, port).map(drop))
    }

    /// Leaves the lab running when this value, or the process, ends. [`Lab::attach`] finds it again by its name.
    pub fn keep(mut self) -> Result<()> {
        let file = self.dir.join(DESCRIPTION);
        let mut description: serde_json::Value = serde_json::from_str(&fs::read_to_string(&file)?)?;
        description["kept"] = json!(true);
        fs::write(&file, description.to_string())?;
        self.kept = true;
        Ok(())
    }

    /// Takes the lab down. Errors name what could not be removed; everything else is.
    pub fn down(mut self) -> Result<()> {
        self.kept = true; // Drop has nothing left to do.
        self.take_down()
    }

    fn take_down(&self) -> Result<()> {
        for node in &self.nodes {
            teardown::purge(node);
            teardown::end_engine(node);
        }
        let names: Vec<String> = self.nodes.iter().map(|node| node.name().to_owned()).collect();
        teardown::remove(&self.id, &names)
    }

    /// Removes every lab whose process is gone and which was not kept; gives their names.
    pub fn clean_leftovers() -> Result<Vec<String>> {
        let mut removed = Vec::new();
        for name in Lab::names() {
            if is_abandoned(&name) {
                teardown::remove(&name, &described_nodes(&name))?;
                removed.push(name);
            }
        }
        // Namespaces whose lab has no folder: the machine's /run was emptied.
        for id in teardown::homeless_labs() {
            teardown::remove(&id, &[])?;
            removed.push(id);
        }
        Ok(removed)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        if std::thread::panicking() {
            match self.save_failure("a test panicked") {
                Ok(folder) => eprintln!("lab: what was there is in {}", folder.display()),
                Err(error) => eprintln!("lab: can't save what was there: {error:#}"),
            }
        }
        if let Err(error) = self.take_down() {
            eprintln!("lab {}: {error:#}", self.id);
        }
    }
}

/// `arguments` gives those of a node's agent.
fn assemble(id: &str, names: &[String], mesh: &Path, arguments: &dyn Fn(&str) -> Vec<String>) -> Result<Lab> {
    let dir = Path::new(DIRECTORY).join(id);
    let inside = |host: &str| Namespace::existing(&wiring::namespace_name(id, host));
    let switch = inside("switch");
    let mut nodes = Vec::new();
    for (place, name) in names.iter().enumerate() {
        let host = Host::new(name, wiring::node_address(place), inside(name), &dir);
        nodes.push(Node::new(host, &switch, &dir, mesh, &arguments(name))?);
    }
    let client = Host::new("client", wiring::CLIENT, inside("client"), &dir);
    let outside = Host::new("outside", wiring::OUTSIDE, inside("outside"), &dir);
    Ok(Lab { id: id.to_owned(), dir, nodes, client, outside, switch, kept: false })
}

fn is_abandoned(name: &str) -> bool {
    let read = || -> Option<bool> {
        let text = fs::read_to_string(Path::new(DIRECTORY).join(name).join(DESCRIPTION)).ok()?;
        let description: serde_json::Value = serde_json::from_str(&text).ok()?;
        let owner = u32::try_from(description["owner"].as_u64()?).ok()?;
        let same = process::start_time(owner).is_some_and(|time| Some(time) == description["owner_started"].as_u64());
        Some(!same && description["kept"] != true)
    };
    // A folder without a readable description is being made or taken down by its owner.
    read().unwrap_or(false)
}

fn described_nodes(name: &str) -> Vec<String> {
    let text = fs::read_to_string(Path::new(DIRECTORY).join(name).join(DESCRIPTION)).unwrap_or_default();
    let description: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
    serde_json::from_value(description["nodes"].clone()).unwrap_or_default()
}

fn next_id() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    format!("p{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

/// It becomes the name of a device (15 bytes) and of files.
fn is_plain(name: &str) -> bool {
    (1..=10).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// Agents pin there. systemd mounts it on most machines; a bare one has only the folder.
fn mount_bpffs() -> Result<()> {
    const BPFFS_MAGIC: i64 = 0xcafe_4a11;
    let point = Path::new("/sys/fs/bpf");
    let found = nix::sys::statfs::statfs(point).context("/sys/fs/bpf is not there: this kernel has no BPF")?;
    if found.filesystem_type().0 as i64 == BPFFS_MAGIC {
        return Ok(());
    }
    let none = None::<&str>;
    nix::mount::mount(Some("bpf"), point, Some("bpf"), nix::mount::MsFlags::empty(), none).context("can't mount bpffs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_make_no_device_are_refused() {
        assert!(is_plain("n1") && is_plain("manager1"));
        assert!(!is_plain("") && !is_plain("a/b") && !is_plain("much-too-long"));
    }

    #[test]
    fn every_lab_of_a_process_has_a_name_of_its_own() {
        assert_ne!(next_id(), next_id());
    }
}
