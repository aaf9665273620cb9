//! Nodes whose API and gossip have ports of their own: they join, are balanced to, restart and are judged as those with the usual ones.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Lab, Node, Swarm, eventually, scenario, step};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);

#[test]
fn nodes_of_one_cluster_have_ports_of_their_own() {
    scenario("nodes of one cluster have ports of their own", Lab::builder(), |lab| {
        lab.start_agents()?;
        let [n1, n2, n3] = ["n1", "n2", "n3"].map(|name| lab.node(name));
        step("mesh swarm init --listen-addr 0.0.0.0:12377 --gossip-port 17946 --data-path-port 14789");
        let flags = ["--listen-addr", "0.0.0.0:12377", "--gossip-port", "17946", "--data-path-port", "14789"]
            .map(str::to_owned);
        let printed = n1.mesh(["swarm", "init"].map(str::to_owned).iter().chain(&flags))?.ok()?;
        let at = format!("{}:12377", n1.address());
        ensure!(printed.contains(&format!(" {at}\n")), "{printed}");
        let swarm = Swarm::seen_from(lab, "n1");
        ensure!(swarm.mesh(["swarm", "join-token", "worker"])?.contains(&format!(" {at}\n")));

        step("what can't work is refused, and leaves nothing");
        let token = swarm.token("worker")?;
        let join = |flags: &[&str]| -> Vec<String> {
            let words =
                ["swarm", "join", "--token", &token].into_iter().chain(flags.iter().copied()).chain([at.as_str()]);
            words.map(str::to_owned).collect()
        };
        for (flags, words) in [
            (&["--gossip-port", "14789"][..], &["14789", "tunnel"][..]),
            (&["--listen-addr", "127.0.0.1"], &["--listen-addr", "127.0.0.1"]),
            (&["--listen-addr", "eth7:1"], &["--listen-addr", "eth7"]),
            (&["--gossip-port", "2377"], &["2377", "--listen-addr"]),
        ] {
            let said = n2.mesh(join(flags))?.complaint()?;
            ensure!(words.iter().all(|word| said.contains(word)), "{said}");
        }
        let usage = n2.mesh(join(&["--listen-addr", "eth0:http"]))?;
        ensure!(usage.status == 2 && usage.stderr.contains("eth0:http"), "{}", usage.describe());

        step("n2 joins as a worker, on one address, by ports of its own; n3 as a manager by the usual ones");
        n2.mesh(join(&["--listen-addr", "eth0:22377", "--gossip-port", "27946"]))?.ok()?;
        n3.mesh(["swarm", "join", "--token", &swarm.token("manager")?, &at])?.ok()?;
        for node in ["n1", "n2", "n3"] {
            Swarm::seen_from(lab, node).wait_ready(3, SOON)?;
        }
        shows(n1, "n2", [22377, 27946])?;
        shows(n2, "n1", [12377, 17946])?;
        shows(n2, "n3", [2377, 7946])?;

        step("a service over all nodes; a change by n3 reaches the store at n1, n1 reaches a task at n2");
        let swarm_of_n3 = Swarm::seen_from(lab, "n3");
        swarm_of_n3.mesh(["network", "create", "demo"])?;
        swarm_of_n3.create_whoami("web", &["--network", "demo", "--mode", "global", "-p", "8000:8000"])?;
        swarm.create_client("asker", &["--network", "demo", "--constraint", "node.hostname==n2"])?;
        answered_by(&swarm, 3)?;

        step("ports of nodes are no service's");
        for (port, purpose) in [("22377", "cluster API"), ("17946", "membership"), ("2377", "cluster API")] {
            let refused = n1.mesh(["service", "update", "--publish-add", &format!("{port}:80"), "web"])?.complaint()?;
            ensure!(refused.contains(port) && refused.contains(purpose), "{refused}");
        }

        step("mesh doctor names each node's ports");
        for (node, ports) in [
            (n1, "12377/tcp, 17946/tcp, 17946/udp, 14789/udp held by this agent"),
            (n2, "22377/tcp, 27946/tcp, 27946/udp, 14789/udp held by this agent"),
        ] {
            eventually(SOON, &format!("a healthy {}", node.name()), || {
                let said = node.mesh(["doctor"])?.ok()?;
                ensure!(said.contains(ports) && said.contains("the ports of their API and gossip"), "{said}");
                Ok(())
            })?;
        }

        step("agents that restart are where they were, with and without flags of the agent");
        n1.kill()?;
        n2.kill()?;
        n2.start()?;
        n1.start()?;
        for node in ["n1", "n2", "n3"] {
            Swarm::seen_from(lab, node).wait_ready(3, SOON)?;
        }
        shows(n3, "n2", [22377, 27946])?;
        answered_by(&swarm, 3)?;
        swarm_of_n3.create_client("late", &["--network", "demo", "--constraint", "node.hostname==n2"])?;

        step("n2 leaves, and joins again by the usual ports");
        n2.mesh(["swarm", "leave"])?.ok()?;
        n2.mesh(join(&[]))?.ok()?;
        swarm.wait_ready(3, SOON)?;
        shows(n1, "n2", [2377, 7946])
    });
}

/// `mesh node inspect` on this node names these ports of API and gossip.
fn shows(node: &Node, of: &str, ports: [u16; 2]) -> Result<()> {
    let shown = serde_json::from_str::<Vec<Value>>(&node.mesh(["node", "inspect", of])?.ok()?)?;
    let shown = shown.first().context("an empty inspection")?;
    let said = ["APIPort", "GossipPort"].map(|key| shown["Mesh"][key].as_u64());
    ensure!(said == ports.map(|port| Some(port.into())), "{shown:#}");
    let manager = &shown["ManagerStatus"]["Addr"];
    ensure!(manager.as_str().is_none_or(|addr| addr.ends_with(&format!(":{}", ports[0]))), "{manager}");
    Ok(())
}

/// So many tasks of `web` answer a task of n2.
fn answered_by(swarm: &Swarm, count: usize) -> Result<()> {
    eventually(SOON, &format!("{count} tasks to answer"), || {
        let seen = swarm.inside("asker.1").get("web", 8000, 2 * count)?;
        let tasks: BTreeSet<String> = seen.into_iter().map(|one| one.task).collect();
        ensure!(tasks.len() == count, "{tasks:?}");
        Ok(())
    })
}
