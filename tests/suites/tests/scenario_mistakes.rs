//! Mistakes of people and machines: each gets one line with the remedy, a non-zero exit, and no half-done change.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_lab::{Footprint, Lab, Node, Swarm, eventually, run_command, scenario, step};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn mistakes_are_told_in_one_line_with_the_remedy() {
    scenario("mistakes are told in one line with the remedy", Lab::builder().nodes(["n1", "n2"]), |lab| {
        let n1 = lab.node("n1");
        step("no agent runs");
        let said = n1.mesh(["node", "ls"])?.complaint()?;
        ensure!(said.contains("agent") && said.contains("mesh.sock"), "{said}");

        lab.start_agents()?;
        step("no such command, no such flag: exit 2");
        for words in [&["swarm", "innit"][..], &["service", "create", "--replcas", "2", "x"], &["servce"]] {
            let output = n1.mesh(words)?;
            ensure!(output.status == 2 && !output.stderr.is_empty(), "{}", output.describe());
        }
        step("a second agent on the same state is told of the first");
        second_agent(n1)?;

        let swarm = Swarm::seen_from(lab, "n1");
        swarm.mesh(["swarm", "init"])?;
        swarm.mesh(["network", "create", "demo"])?;
        services_and_networks_that_are_not_there(n1)?;
        manifests(lab, &swarm)?;
        not_root(n1)?;
        a_port_in_use(lab)?;
        a_corrupt_store(lab, &swarm)
    });
}

#[test]
fn what_the_machine_lacks_is_told_with_the_remedy() {
    let builder = Lab::builder().nodes(["n1"]);
    scenario("what the machine lacks is told with the remedy", builder, |lab| {
        let n1 = lab.node("n1");
        let before = Footprint::settled(n1)?;
        for (kind, remedy) in [("bpf", "mount -t bpf"), ("cgroup2", "mount -t cgroup2")] {
            step(&format!("an agent where no file system of type {kind} is mounted"));
            // A mount namespace of its own: the machine keeps its mounts.
            let script = format!("umount -l -a -t {kind} && exec \"$@\"");
            let mut command = n1.command("unshare")?;
            command.args(["--mount", "--propagation=private", "sh", "-ec", &script, "sh"]).args(n1.agent_command());
            let output = run_command(command, "", SOON)?;
            ensure!(output.status == 1 && output.stderr.contains(remedy), "{}", output.describe());
            ensure!(output.stderr.trim_end().lines().count() == 1, "not one line: {}", output.stderr);
            ensure!(!n1.socket().exists(), "the refused agent left a socket");
        }
        let left = Footprint::settled(n1)?.since(&before);
        ensure!(left.is_empty(), "{left}");
        Ok(())
    });
}

fn second_agent(node: &Node) -> Result<()> {
    let words = node.agent_command();
    let mut command = node.command(&words[0])?;
    command.args(&words[1..]);
    let output = run_command(command, "", SOON)?;
    ensure!(output.status == 1 && output.stderr.contains("agent"), "{}", output.describe());
    ensure!(node.mesh(["status"])?.success(), "the first agent was disturbed");
    Ok(())
}

fn services_and_networks_that_are_not_there(node: &Node) -> Result<()> {
    step("what is not there is named");
    for words in [
        &["service", "rm", "nothing"][..],
        &["service", "inspect", "nothing"],
        &["service", "scale", "nothing=2"],
        &["service", "ps", "nothing"],
        &["network", "rm", "nothing"],
        &["node", "inspect", "nothing"],
        &["stack", "rm", "nothing"],
        &["exec", "nothing.1", "true"],
        &["service", "create", "--runtime", "exec", "--network", "nothing", "--name", "x", "sleep", "1"],
    ] {
        let said = node.mesh(words)?.complaint()?;
        ensure!(said.contains("nothing"), "{words:?}: {said}");
    }
    Ok(())
}

fn manifests(lab: &Lab, swarm: &Swarm) -> Result<()> {
    step("manifests: place, key, what is allowed – and nothing is applied");
    let whoami = lab.whoami().display().to_string();
    let head = format!("services:\n  web:\n    command: [{whoami}]\n    x-mesh: {{runtime: exec}}\n");
    for (tail, wanted) in [
        ("    replica: 2\n", &[":5:", "replica"][..]),
        ("    ports: [\"8000:http\"]\n", &[":5:", "'http'"]),
        ("    networks: [nowhere]\n", &[":5:", "nowhere"]),
        ("    privileged: true\n", &[":5:", "privileged"]),
        ("    deploy: {replicas: many}\n", &[":5:", "replicas"]),
    ] {
        let output = swarm.node().mesh_with_input(["stack", "deploy", "-c", "-", "bad"], &(head.clone() + tail))?;
        let said = output.refused()?;
        for part in wanted {
            ensure!(said.contains(part), "{part} is not in: {said}");
        }
    }
    let network = "networks:\n  back:\n    ipam: {config: [{subnet: 10.9.0.0/33}]}\n";
    let output = swarm.node().mesh_with_input(["stack", "deploy", "-c", "-", "bad"], &(head + network))?;
    let said = output.refused()?;
    ensure!(said.contains("10.9.0.0/33") && said.contains(":7:"), "{said}");
    let listed = swarm.mesh(["service", "ls"])? + &swarm.mesh(["network", "ls"])?;
    ensure!(!listed.contains("bad_"), "half of a refused manifest is there: {listed}");
    Ok(())
}

/// As the user nobody, with setpriv of util-linux.
fn not_root(node: &Node) -> Result<()> {
    step("an agent that is not root says so");
    let as_nobody = |words: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]).args(words);
        run_command(command, "", SOON)
    };
    let mesh = &node.agent_command()[0];
    if !as_nobody(&["test", "-x", mesh])?.success() {
        step(&format!("(not tried: nobody may not enter the folder of {mesh})"));
        return Ok(());
    }
    let output = as_nobody(&[
        mesh,
        "agent",
        "--socket=/tmp/mesh-lab-nobody/mesh.sock",
        "--state-dir=/tmp/mesh-lab-nobody/state",
    ])?;
    ensure!(output.status == 1 && output.stderr.contains("root"), "{}", output.describe());
    ensure!(!std::path::Path::new("/tmp/mesh-lab-nobody").exists(), "the refused agent made a folder");
    Ok(())
}

/// Ports of the control plane and of the tunnel, each in use by a plain socket: one line says so, and nothing is begun or left.
fn a_port_in_use(lab: &Lab) -> Result<()> {
    let n2 = lab.node("n2");
    let swarm = Swarm::seen_from(lab, "n1");
    let before = Footprint::settled(n2)?;
    let join = ["swarm", "join", "--token", &swarm.token("manager")?, &swarm.join_address()].map(str::to_owned);
    let init = ["swarm", "init"].map(str::to_owned);
    for (port, transport) in [(2377, "tcp"), (7946, "tcp"), (7946, "udp"), (4789, "udp")] {
        step(&format!("port {port}/{transport} is in use on n2: init and join say so and leave nothing"));
        let taken = n2.run_inside(|| occupy(port, transport))??;
        for words in [&init[..], &join[..]] {
            let said = n2.mesh(words)?.complaint()?;
            ensure!(said.contains(&port.to_string()) && said.contains("in use"), "{said}");
        }
        drop(taken);
        eventually(SOON, "n2 to be as it was", || {
            let left = Footprint::of(n2)?.since(&before);
            ensure!(left.is_empty(), "{left}");
            Ok(())
        })?;
        let nodes = swarm.nodes()?;
        ensure!(nodes.len() == 1, "a join that failed was not taken back: {nodes:?}");
    }
    step("an error when the programs are in the kernel already takes them out again");
    let in_the_way = n2.state_dir().join("tasks");
    std::fs::write(&in_the_way, "no folder")?;
    for words in [&init[..], &join[..]] {
        let said = n2.mesh(words)?.complaint()?;
        ensure!(said.contains("tasks"), "{said}");
        let left = Footprint::settled(n2)?.since(&before);
        ensure!(left.is_empty(), "{left}");
    }
    let nodes = swarm.nodes()?;
    ensure!(nodes.len() == 1, "a join that failed was not taken back: {nodes:?}");
    std::fs::remove_file(in_the_way)?;
    step("with free ports the same command works");
    n2.mesh(&join)?.ok()?;
    n2.mesh(["swarm", "leave", "--force"])?.ok()?;
    Ok(())
}

/// A socket of the calling thread's namespace; the port is free again when it is dropped.
fn occupy(port: u16, transport: &str) -> std::io::Result<std::os::fd::OwnedFd> {
    match transport {
        "tcp" => std::net::TcpListener::bind(("0.0.0.0", port)).map(Into::into),
        _ => std::net::UdpSocket::bind(("0.0.0.0", port)).map(Into::into),
    }
}

fn a_corrupt_store(lab: &Lab, swarm: &Swarm) -> Result<()> {
    step("a corrupt store file is named; the file is left as it is");
    let n1 = lab.node("n1");
    swarm.mesh(["network", "ls"])?;
    n1.stop()?;
    let file = n1.state_dir().join("store.redb");
    let whole = std::fs::read(&file)?;
    let mut spoilt = whole.clone();
    spoilt.truncate(whole.len() / 2);
    spoilt[..64.min(whole.len() / 2)].fill(0xee);
    std::fs::write(&file, &spoilt)?;
    n1.launch()?;
    eventually(SOON, "the agent to say what is wrong", || {
        let log = n1.log();
        ensure!(log.contains("store.redb"), "{log}");
        Ok(())
    })?;
    ensure!(std::fs::read(&file)? == spoilt, "the file was changed");
    if n1.is_running() {
        n1.stop()?;
    }
    step("with the right file it runs again");
    std::fs::write(&file, &whole)?;
    n1.start()?;
    eventually(SOON, "the network that was there", || {
        let listing = swarm.mesh(["network", "ls"])?;
        ensure!(listing.contains("demo"), "{listing}");
        Ok(())
    })
}
