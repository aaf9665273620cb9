//! Leaving: after `service rm`, `swarm leave` and `purge` a machine is what it was before.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_lab::{Footprint, Lab, Node, Swarm, eventually, scenario, step};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn nothing_is_left() {
    scenario("nothing is left", Lab::builder(), |lab| {
        let before = lab.nodes().iter().map(Footprint::settled).collect::<Result<Vec<_>>>()?;
        let swarm = Swarm::form(lab)?;
        step("everything that leaves traces: networks, ports, names, ways out, an agent that was killed");
        swarm.mesh(["network", "create", "demo"])?;
        swarm.mesh(["network", "create", "--internal", "back"])?;
        let flags = ["--network", "demo", "-p", "8000:8000", "-p", "8000:8000/udp", "--replicas", "3"];
        swarm.create_whoami("whoami", &flags)?;
        swarm.create_client("client", &["--network", "demo", "--network", "back", "--replicas", "3"])?;
        lab.serve(lab.outside(), 8080)?;
        let inside = swarm.inside("client.1");
        inside.get("whoami", 8000, 6)?;
        inside.get(lab.outside().address(), 8080, 1)?;
        for node in lab.nodes() {
            lab.client().ask(node.address(), 8000)?;
            node.ask("127.0.0.1", 8000)?;
        }
        lab.node("n2").kill()?;
        lab.node("n2").start()?;

        step("mesh service rm: tasks and links go, the nodes stay");
        swarm.mesh(["service", "rm", "whoami", "client"])?;
        for node in lab.nodes() {
            no_task_left(node)?;
            ensure!(lab.client().tcp_connect(node.address(), 8000)?.is_refused());
        }
        swarm.mesh(["network", "rm", "demo", "back"])?;

        step("mesh swarm leave on n2 and n3: n1 lists them no longer as Ready");
        lab.node("n2").mesh(["swarm", "leave"])?.ok()?;
        let said = lab.node("n3").mesh(["swarm", "leave"])?.complaint()?;
        ensure!(said.contains("--force"), "a manager leaves only with --force: {said}");
        lab.node("n3").mesh(["swarm", "leave", "--force"])?.ok()?;
        eventually(SOON, "one Ready node", || {
            let nodes = swarm.nodes()?;
            ensure!(nodes.iter().filter(|(_, status)| status == "Ready").count() == 1, "{nodes:?}");
            Ok(())
        })?;
        lab.node("n1").mesh(["swarm", "leave", "--force"])?.ok()?;
        let said = lab.node("n1").mesh(["node", "ls"])?.complaint()?;
        ensure!(said.contains("swarm"), "{said}");

        step("mesh purge: no link, route, pin, namespace, cgroup, sysctl or process is left");
        for (node, before) in lab.nodes().iter().zip(&before) {
            node.mesh(["purge"])?.ok()?;
            if node.is_running() {
                node.stop()?;
            }
            nothing_left(node, before)?;
        }
        Ok(())
    });
}

#[test]
fn a_purge_in_the_midst_of_work_leaves_nothing_either() {
    scenario("a purge in the midst of work leaves nothing either", Lab::builder().nodes(["n1"]), |lab| {
        let n1 = lab.node("n1");
        let before = Footprint::settled(n1)?;
        let swarm = Swarm::form(lab)?;
        swarm.mesh(["network", "create", "demo"])?;
        swarm.create_whoami("whoami", &["--network", "demo", "-p", "8000:8000", "--replicas", "2"])?;
        lab.client().ask(n1.address(), 8000)?;

        step("an address and a route that are the user's own stay");
        n1.namespace().ip("address add 192.168.99.1/32 dev lo\nroute add blackhole 192.168.98.0/24")?;
        step("mesh purge while tasks run");
        n1.mesh(["purge"])?.ok()?;
        if n1.is_running() {
            n1.stop()?;
        }
        let left = Footprint::of(n1)?.since(&before);
        ensure!(left.to_string().contains("192.168.99.1") && left.to_string().contains("192.168.98.0"), "{left}");
        n1.namespace().ip("address delete 192.168.99.1/32 dev lo\nroute delete blackhole 192.168.98.0/24")?;
        nothing_left(n1, &before)
    });
}

fn no_task_left(node: &Node) -> Result<()> {
    eventually(SOON, &format!("no task on {}", node.name()), || {
        let processes = node.processes();
        let tasks: Vec<_> = processes
            .iter()
            .filter(|(_, command)| command.contains("--port 8000") || command == "sleep 3600")
            .collect();
        ensure!(tasks.is_empty(), "{tasks:?}");
        let links = node.run(["ip", "-o", "link"])?.ok()?;
        ensure!(!links.contains(" mv"), "{links}");
        Ok(())
    })
}

fn nothing_left(node: &Node, before: &Footprint) -> Result<()> {
    eventually(SOON, &format!("{} to be as it was", node.name()), || {
        let left = Footprint::of(node)?.since(before);
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
}
