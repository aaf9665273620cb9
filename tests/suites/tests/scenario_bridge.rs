//! Beside Docker's own networks: nodes whose Engines have bridges, firewall rules and published ports, as an Engine that was just
//! installed has. Neither takes anything from the other.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Lab, Node, Swarm, lacks_engine, scenario, skip, step};

const SOON: Duration = Duration::from_secs(10);
/// Published by mesh on every node.
const OURS: u16 = 8000;
/// Published by Docker on n1.
const DOCKERS: u16 = 8081;
/// Served by the host outside.
const OUTSIDE: u16 = 8080;

#[test]
fn mesh_and_dockers_bridge_leave_each_other_alone() {
    let title = "mesh and Docker's bridge leave each other alone";
    if let Some(reason) = lacks_engine() {
        return skip(title, &reason);
    }
    scenario(title, Lab::builder().nodes(["n1", "n2"]), |lab| {
        step("Engines with networks, a published container on n1");
        for node in lab.nodes() {
            node.engine().start_with_bridge(&[])?;
            node.engine().import_busybox()?;
        }
        let (n1, n2) = (lab.node("n1"), lab.node("n2"));
        n1.engine().import_whoami()?;
        lab.serve(lab.outside(), OUTSIDE)?;
        let publish = format!("{DOCKERS}:8000");
        n1.engine().docker(["run", "-d", "--name", "plain", "-p", &publish, "jwilder/whoami"])?.ok()?;
        for node in lab.nodes() {
            node.engine().docker(["run", "-d", "--name", "visitor", "busybox", "sleep", "1000"])?.ok()?;
        }
        dockers_own_answer(lab, "before mesh")?;

        step("mesh beside them: a service with a published port, a client on each node");
        let swarm = Swarm::form(lab)?;
        swarm.mesh(["network", "create", "demo"])?;
        let port = format!("{OURS}:8000");
        swarm.create_whoami("whoami", &["--network", "demo", "--replicas", "2", "-p", &port])?;
        for node in lab.nodes() {
            let place = format!("node.hostname=={}", node.name());
            swarm.create_client(&format!("on-{}", node.name()), &["--network", "demo", "--constraint", &place])?;
        }
        let tasks: Vec<String> = swarm.wait_running("whoami", 2, SOON)?.into_iter().map(|task| task.id).collect();
        dockers_own_answer(lab, "beside mesh")?;

        step("the published port: from outside and from nodes, with the caller's address");
        for node in [n1, n2] {
            for caller in [lab.client(), n1, n2] {
                let (told, _) = caller.ask(node.address(), OURS)?;
                ensure!(
                    tasks.contains(&told.task) && told.caller.ip() == caller.address(),
                    "{}: {told:?}",
                    caller.name()
                );
            }
        }

        step("from containers on Docker's bridge, on each node to each node");
        for node in [n1, n2] {
            for to in [n1, n2] {
                let said = wget(node, &format!("{}:{OURS}", to.address()))?;
                ensure!(
                    tasks.iter().any(|task| said.contains(task.as_str())),
                    "{} to {}: {said}",
                    node.name(),
                    to.name()
                );
            }
        }

        step("from tasks: each other, the world, Docker's published port on the other node");
        for client in ["on-n1.1", "on-n2.1"] {
            let inside = swarm.inside(client);
            ensure!(inside.get("whoami", 8000, 4)?.len() == 4);
            ensure!(inside.get(lab.outside().address(), OUTSIDE, 1)?.len() == 1, "{client}");
        }
        ensure!(swarm.inside("on-n2.1").get(n1.address(), DOCKERS, 1)?.len() == 1);

        step("a container on the bridge that is on no network of mesh reaches none of its addresses");
        let vip = swarm.vip("whoami")?;
        let said =
            n1.engine().docker(["exec", "visitor", "timeout", "2", "wget", "-qO-", &format!("http://{vip}:8000/")])?;
        ensure!(!said.success() && said.stdout.is_empty(), "{}", said.describe());

        step("a node that leaves takes nothing of Docker's along");
        n2.mesh(["swarm", "leave"])?.ok()?;
        dockers_own_answer(lab, "after n2 has left")
    });
}

/// What Docker alone gives: a published port, containers that reach the world and each other.
fn dockers_own_answer(lab: &Lab, when: &str) -> Result<()> {
    step(&format!("Docker's own ways, {when}"));
    let (n1, n2) = (lab.node("n1"), lab.node("n2"));
    let plain = n1.engine().docker(["inspect", "-f", "{{.Config.Hostname}}", "plain"])?.ok()?;
    for (caller, told) in [
        ("client", lab.client().ask(n1.address(), DOCKERS)),
        ("n2", n2.ask(n1.address(), DOCKERS)),
        ("n1", n1.ask(n1.address(), DOCKERS)),
    ] {
        let (told, _) = told.with_context(|| format!("{caller} to Docker's port"))?;
        ensure!(told.task == plain.trim(), "{caller}: {told:?} is not {plain}");
    }
    for node in [n1, n2] {
        wget(node, &format!("{}:{OUTSIDE}", lab.outside().address()))?;
        wget(node, &format!("{}:{DOCKERS}", n1.address()))?;
    }
    let address = n1.engine().docker(["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "plain"])?.ok()?;
    wget(n1, &format!("{}:8000", address.trim())).map(drop)
}

/// What a container on this node's bridge gets from an address and port.
fn wget(node: &Node, at: &str) -> Result<String> {
    let url = format!("http://{at}/");
    let said = node.engine().docker(["exec", "visitor", "wget", "-qO-", &url])?;
    said.ok().with_context(|| format!("a container on {} to {at}", node.name()))
}
