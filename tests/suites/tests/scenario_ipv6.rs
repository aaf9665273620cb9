//! IPv6 as users have it: networks of both families and of IPv6 alone over two nodes, names, echo, and published ports at ::1 and from outside.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Inside, Lab, Swarm, eventually, scenario, skip, step};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn networks_of_both_families_and_of_ipv6_alone_span_nodes() {
    scenario("networks of both families and of IPv6 alone span nodes", Lab::builder().nodes(["n1", "n2"]), |lab| {
        let swarm = Swarm::form(lab)?;
        step("mesh network create --ipv6 both; --ipv6 --ipv4=false six");
        swarm.mesh(["network", "create", "--ipv6", "both"])?;
        swarm.mesh(["network", "create", "--ipv6", "--ipv4=false", "six"])?;
        for (network, families) in [("both", 2), ("six", 1)] {
            let (server, client) = (format!("web-{network}"), format!("client-{network}"));
            swarm.create_whoami(&server, &["--network", network, "--mode", "global"])?;
            swarm.create_client(&client, &["--network", network, "--constraint", "node.hostname==n1"])?;
            let task = format!("{client}.1");
            let inside = swarm.inside(&task);

            step("names have an address of each family of their network, and addresses have names again");
            let addresses = inside.names(&server)?;
            ensure!(addresses.len() == families, "{addresses:?}");
            let vip = of_ipv6(&addresses)?;
            if swarm.node().run(["sh", "-c", "command -v getent"])?.success() {
                let found = inside.run(&["getent", "hosts", &vip.to_string()])?;
                ensure!(found.contains(&server), "{found}");
            } else {
                mesh_lab::skip("names of addresses, asked by a task", "there is no getent");
            }

            step("calls by the address and by the name take turns over both nodes, and show who calls");
            let own = of_ipv6(&inside.names(&format!("tasks.{client}"))?)?;
            let seen = inside.get(vip, 8000, 4)?;
            let tasks: BTreeSet<&str> = seen.iter().map(|seen| seen.task.as_str()).collect();
            ensure!(tasks.len() == 2 && seen.iter().all(|seen| seen.caller.ip() == IpAddr::V6(own)), "{seen:?}");
            let seen = inside.udp(vip, 8000, 4)?;
            ensure!(seen.iter().map(|seen| seen.task.as_str()).collect::<BTreeSet<_>>() == tasks, "{seen:?}");
            curl(&swarm, &inside, &format!("http://{server}:8000/"))?;

            step("each task by its own address: calls and echo; and the VIP answers echo");
            let each: Vec<Ipv6Addr> = inside.names(&format!("tasks.{server}"))?.iter().filter_map(v6).collect();
            ensure!(each.len() == 2, "{each:?}");
            for addr in each.iter().chain([&vip]) {
                ensure!(!inside.get(addr, 8000, 1)?.is_empty());
                ping(&swarm, &inside, &addr.to_string())?;
            }

            step("what nobody listens to is refused at once: by the tasks' stacks, by the VIP for them");
            for addr in each.iter().chain([&vip]) {
                let (outcome, _) = inside.connect(addr, 9)?;
                ensure!(outcome == "refused", "{addr}: {outcome}");
                let told = inside.udp(addr, 9, 1).err().with_context(|| format!("{addr} answered a datagram"))?;
                ensure!(format!("{told:#}").contains("refused"), "{addr}: {told:#}");
            }

            step("bulk both ways, to the task here and to the one there");
            for addr in &each {
                inside.upload(addr, 8000, 8 << 20)?;
                inside.download(addr, 8000, 8 << 20)?;
            }
        }
        step("a network is not reached from another one, and who tries is told");
        let other = of_ipv6(&swarm.inside("client-six.1").names("web-six")?)?;
        let (outcome, _) = swarm.inside("client-both.1").connect(other, 8000)?;
        ensure!(outcome == "refused", "{outcome}");
        Ok(())
    });
}

#[test]
fn a_published_port_answers_over_ipv6() {
    scenario("a published port answers over IPv6", Lab::builder().nodes(["n1", "n2"]), |lab| {
        let swarm = Swarm::form(lab)?;
        let [n1, n2] = ["n1", "n2"].map(|name| lab.node(name));
        step("nodes and the client have addresses of IPv6, too");
        for (place, host) in [(1, &**n1), (2, &**n2), (9, lab.client())] {
            host.run(["ip", "-6", "addr", "add", &format!("fd99::{place}/64"), "dev", "eth0", "nodad"])?.ok()?;
        }
        swarm.mesh(["network", "create", "--ipv6", "both"])?;
        swarm.mesh(["network", "create", "four"])?;
        swarm.create_whoami(
            "web",
            &["--network", "both", "-p", "8000:8000", "--replicas", "1", "--constraint", "node.hostname==n2"],
        )?;
        swarm.create_whoami("old", &["--network", "four", "-p", "8001:8000"])?;
        let task = swarm.running("web")?.pop().context("a task")?;

        step("::1 and 127.0.0.1 of the node with the task and of the other one");
        for node in [n1, n2] {
            for host in ["::1", "127.0.0.1"] {
                eventually(SOON, &format!("an answer at {host} of {}", node.name()), || {
                    let (who, _) = node.ask(host, 8000)?;
                    ensure!(task.id.starts_with(&who.task), "{who:?}");
                    Ok(())
                })?;
            }
        }
        step("from outside, by either node: the task sees the caller's own address");
        for place in [1, 2] {
            let (who, _) = eventually(SOON, &format!("an answer of node {place}"), || {
                lab.client().ask(format!("fd99::{place}"), 8000)
            })?;
            ensure!(who.caller.ip() == "fd99::9".parse::<IpAddr>()?, "{who:?}");
        }
        step("and both are explained");
        for (from, to) in [("host", "[::1]:8000"), ("fd99::9", "[fd99::1]:8000")] {
            let said = n1.mesh(["explain", from, to, "--format", "json"])?.ok()?;
            let said: Vec<serde_json::Value> = serde_json::from_str(&said)?;
            ensure!(said[0]["Verdict"] == "delivered" && said[0]["Node"] == "n2", "{said:?}");
            ensure!(said[0]["Task"] == task.name.as_str(), "{said:?}");
        }
        step("a service of IPv4 alone refuses ::1 at once");
        ensure!(n1.ask("127.0.0.1", 8001).is_ok());
        let refused = n1.ask("::1", 8001).err().context("::1 was answered")?;
        ensure!(format!("{refused:#}").contains("refused"), "{refused:#}");
        Ok(())
    });
}

fn v6(addr: &IpAddr) -> Option<Ipv6Addr> {
    if let IpAddr::V6(addr) = addr { Some(*addr) } else { None }
}

fn of_ipv6(addresses: &[IpAddr]) -> Result<Ipv6Addr> {
    addresses.iter().find_map(v6).with_context(|| format!("no IPv6 address among {addresses:?}"))
}

fn curl(swarm: &Swarm, inside: &Inside, url: &str) -> Result<()> {
    if !swarm.node().run(["sh", "-c", "command -v curl"])?.success() {
        skip("curl in a task", "there is no curl");
        return Ok(());
    }
    let page = inside.run(&["curl", "-6", "-s", "-m", "5", url])?;
    ensure!(page.starts_with("I'm "), "{page}");
    Ok(())
}

fn ping(swarm: &Swarm, inside: &Inside, host: &str) -> Result<()> {
    if !swarm.node().run(["sh", "-c", "command -v ping"])?.success() {
        skip("ping in a task", "there is no ping");
        return Ok(());
    }
    inside.run(&["ping", "-6", "-c", "2", "-W", "2", host]).map(drop)
}
