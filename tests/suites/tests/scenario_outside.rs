//! A task reaches the world through its node, though the node forwards nothing; an internal network reaches nothing.

use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_lab::{Lab, Swarm, scenario, step};

const PORT: u16 = 8080;

#[test]
fn a_task_reaches_the_outside_unless_its_network_is_internal() {
    scenario("a task reaches the outside unless its network is internal", Lab::builder().nodes(["n1", "n2"]), |lab| {
        step("nodes with ip_forward off, rp_filter strict and FORWARD DROP");
        for node in lab.nodes() {
            node.set_sysctl("net.ipv4.conf.all.rp_filter", "1")?;
            node.drop_forwarded()?;
        }
        let swarm = Swarm::form(lab)?;
        lab.serve(lab.outside(), PORT)?;
        swarm.mesh(["network", "create", "demo"])?;
        swarm.mesh(["network", "create", "--internal", "back"])?;
        for (name, network, node) in
            [("client", "demo", "n1"), ("other", "demo", "n2"), ("inner", "back", "n1"), ("both", "back", "n2")]
        {
            let second: &[&str] = if name == "both" { &["--network", "demo"] } else { &[] };
            let place = format!("node.hostname=={node}");
            swarm.create_client(name, &[&["--network", network, "--constraint", &place], second].concat())?;
        }

        for (task, node) in [("client.1", "n1"), ("other.1", "n2"), ("both.1", "n2")] {
            step(&format!("{task} reaches the host outside, which sees {node}"));
            let inside = swarm.inside(task);
            ensure!(inside.ping(lab.outside().address(), 3)? == 3);
            for seen in
                [inside.get(lab.outside().address(), PORT, 3)?, inside.udp(lab.outside().address(), PORT, 3)?].concat()
            {
                ensure!(seen.caller.ip() == lab.node(node).address(), "{seen:?}");
            }
            let (word, _) = inside.connect(lab.outside().address(), PORT + 1)?;
            ensure!(word == "refused", "a closed port outside: {word}");
            inside.upload(lab.outside().address(), PORT, 3_000_000)?;
            inside.download(lab.outside().address(), PORT, 3_000_000)?;
        }
        step("many tasks' connections at once keep apart");
        let seen = swarm.inside("client.1").get(lab.outside().address(), PORT, 50)?;
        ensure!(seen.len() == 50);

        step("inner.1, on an internal network, reaches nobody outside");
        let inside = swarm.inside("inner.1");
        ensure!(inside.ping(lab.outside().address(), 1)? == 0);
        let (word, took) = inside.connect(lab.outside().address(), PORT)?;
        ensure!(word != "connected", "{word}");
        step(&format!("(it was told: {word}, after {took:?})"));
        ensure!(inside.names("example.org").is_err());

        step("the node still forwards nothing");
        for node in lab.nodes() {
            still_closed(lab, node.name())?;
        }
        Ok(())
    });
}

/// The switches that a lazy implementation would have turned.
fn still_closed(lab: &Lab, node: &str) -> Result<()> {
    let node = lab.node(node);
    for (name, wanted) in [
        ("net.ipv4.ip_forward", "0"),
        ("net.ipv4.conf.eth0.forwarding", "0"),
        ("net.ipv4.conf.all.route_localnet", "0"),
        ("net.ipv4.conf.all.rp_filter", "1"),
    ] {
        let value = node.sysctl(name)?;
        ensure!(value == wanted, "{name} on {} is {value}", node.name());
    }
    // The client, as a stranger, tries to be forwarded by the node.
    lab.client().namespace().ip(&format!("route replace 198.51.100.0/24 via {}", node.address()))?;
    let attempt = lab
        .client()
        .run_inside(|| mesh_lab::traffic::tcp_connect(([198, 51, 100, 1], 80).into(), Duration::from_millis(500)))??;
    ensure!(!attempt.is_connected(), "{attempt:?}");
    lab.client().namespace().ip("route delete 198.51.100.0/24")
}
