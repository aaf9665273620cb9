//! Nodes that have addresses of IPv6 alone form a cluster: membership, API and tunnel over IPv6, networks of both families in it, published ports.
//! One of the nodes leaves all outer headers to the kernel's own VXLAN, so programs and kernel are each other's other end.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Host, Lab, Swarm, eventually, scenario, step, traffic};

const SOON: Duration = Duration::from_secs(10);
/// A round of the agent happens within 10 seconds.
const A_ROUND: Duration = Duration::from_secs(20);
const PORT: u16 = 8000;
const BULK: u64 = 3 << 20;

/// The only addresses that a host of the lab has from now on.
fn by_ipv6_alone(host: &Host, place: u8) -> Result<Ipv6Addr> {
    let address: Ipv6Addr = format!("fd99::{place}").parse()?;
    host.run(["ip", "-4", "addr", "flush", "dev", "eth0"])?.ok()?;
    host.run(["ip", "-6", "addr", "add", &format!("{address}/64"), "dev", "eth0", "nodad"])?.ok()?;
    Ok(address)
}

#[test]
fn nodes_connected_by_ipv6_alone_are_a_cluster() {
    let lab = Lab::builder().nodes(["n1", "n2", "n3"]).node_args("n2", ["--fast-path=off"]);
    scenario("nodes connected by IPv6 alone are a cluster", lab, |lab| {
        let [n1, n2, n3] = ["n1", "n2", "n3"].map(|name| lab.node(name));
        step("n1, n2 and the client have one address each, of IPv6; n3 has one of each family");
        let (first, second) = (by_ipv6_alone(n1, 1)?, by_ipv6_alone(n2, 2)?);
        let outside = by_ipv6_alone(lab.client(), 9)?;
        n3.run(["ip", "-6", "addr", "add", "fd99::3/64", "dev", "eth0", "nodad"])?.ok()?;
        lab.start_agents()?;

        step("mesh swarm init prints a join command with an address in brackets; n2 joins by it");
        let address = |place: u8| ["--advertise-addr".to_owned(), format!("fd99::{place}")];
        let printed = n1.mesh([&["swarm".to_owned(), "init".to_owned()][..], &address(1)].concat())?.ok()?;
        let at = format!("[{first}]:2377");
        ensure!(printed.contains(&at), "{printed}");
        let swarm = Swarm::seen_from(lab, "n1");
        let join = |role: &str| -> Result<Vec<String>> {
            Ok(["swarm", "join", "--token", &swarm.token(role)?, &at].map(str::to_owned).to_vec())
        };
        n2.mesh([join("worker")?, address(2).to_vec()].concat())?.ok()?;

        step("n3 would bring a tunnel of the other family and is refused in words, with its IPv6 address it joins");
        let said = n3.mesh(join("manager")?)?.complaint()?;
        ensure!(said.contains("families") && said.contains("--data-path-addr"), "{said}");
        n3.mesh([join("manager")?, address(3).to_vec()].concat())?.ok()?;
        swarm.wait_ready(3, SOON)?;

        step("networks of both families span the nodes");
        swarm.mesh(["network", "create", "--ipv6", "demo"])?;
        swarm.create_whoami("web", &["--network", "demo", "--mode", "global"])?;
        for node in ["n1", "n2", "n3"] {
            let place = format!("node.hostname=={node}");
            swarm.create_client(&format!("client-{node}"), &["--network", "demo", "--constraint", &place])?;
        }
        calls_of_tasks(&swarm)?;

        step("n1 has its next hops by now: its mesh0 sends nothing of a call, n2's sends what it did");
        eventually(A_ROUND, "calls that n1's mesh0 does not send", || {
            let captures = [n1, n2].map(|node| node.capture("mesh0"));
            for client in ["client-n1.1", "client-n2.1"] {
                swarm.inside(client).get("web", PORT, 3)?;
            }
            let [by_n1, by_n2] = captures.map(|capture| {
                Ok::<_, anyhow::Error>(
                    capture?.frames().iter().filter(|frame| frame.outgoing && is_tcp(&frame.bytes)).count(),
                )
            });
            let (by_n1, by_n2) = (by_n1?, by_n2?);
            ensure!(by_n1 == 0 && by_n2 > 0, "frames of calls sent by mesh0: {by_n1} of n1, {by_n2} of n2");
            Ok(())
        })?;
        calls_of_tasks(&swarm)?;

        step(
            "a published port, by the node with the task and by those without, from outside and from the nodes themselves",
        );
        swarm.create_whoami(
            "one",
            &["--network", "demo", "-p", "8001:8000", "-p", "8001:8000/udp", "--constraint", "node.hostname==n3"],
        )?;
        let task = swarm.running("one")?.pop().context("a task")?.id;
        for entry in [first, second, "fd99::3".parse()?] {
            let (told, _) = eventually(SOON, &format!("an answer of {entry}"), || lab.client().ask(entry, 8001))?;
            ensure!(told.task == task && told.caller.ip() == IpAddr::V6(outside), "{told:?}");
            lab.client().upload(entry, 8001, BULK)?;
            lab.client().download(entry, 8001, BULK)?;
            let (told, _) = lab.client().udp_ask(entry, 8001)?;
            ensure!(told.task == task, "{told:?}");
        }
        for node in [n1, n2, n3] {
            for host in ["::1", "127.0.0.1"] {
                let (told, _) = node.ask(host, 8001).with_context(|| format!("{host} of {}", node.name()))?;
                ensure!(told.task == task, "{told:?}");
            }
        }

        step("the task's path takes 1430 bytes, and mesh doctor says so of each peer");
        let link = swarm.inside("client-n1.1").run(&["ip", "link", "show", "eth0"])?;
        ensure!(link.contains("mtu 1430 "), "{link}");
        let said = n1.mesh(["doctor"])?;
        let said = format!("{}{}", said.stdout, said.stderr);
        for node in ["n2", "n3"] {
            let line = format!("to {node} packets of 1500 bytes pass and come back: 1430 for tasks");
            ensure!(said.contains(&line), "{said}");
        }

        step("a node that is gone is noticed: over IPv6 the echo tells");
        n3.cut()?;
        eventually(SOON, "calls answered by the two others alone", || {
            let seen = swarm.inside("client-n1.1").get("web", PORT, 6)?;
            let tasks: BTreeSet<&str> = seen.iter().map(|seen| seen.task.as_str()).collect();
            ensure!(tasks.len() == 2, "{seen:?}");
            Ok(())
        })
    });
}

#[test]
fn datagrams_too_large_for_the_path_teach_their_sender() {
    scenario("datagrams too large for the path teach their sender", Lab::builder().nodes(["n1", "n2"]), |lab| {
        let [n1, n2] = ["n1", "n2"].map(|name| lab.node(name));
        step("nodes and the client have both families; the nodes send to each other over IPv6");
        for (place, host) in [(1, &**n1), (2, &**n2), (9, lab.client())] {
            host.run(["ip", "-6", "addr", "add", &format!("fd99::{place}/64"), "dev", "eth0", "nodad"])?.ok()?;
        }
        lab.start_agents()?;
        n1.mesh(["swarm", "init", "--advertise-addr", "fd99::1"])?.ok()?;
        let swarm = Swarm::seen_from(lab, "n1");
        let token = swarm.token("worker")?;
        n2.mesh(["swarm", "join", "--token", &token, "--advertise-addr", "fd99::2", "[fd99::1]:2377"])?.ok()?;
        swarm.wait_ready(2, SOON)?;
        swarm.mesh(["network", "create", "--ipv6", "demo"])?;
        let flags = ["--network", "demo", "-p", "8000:8000/udp", "--constraint", "node.hostname==n2"];
        swarm.create_whoami("web", &flags)?;

        let echo = |to: IpAddr, size: usize| -> Result<()> {
            let asked = format!("echo{}", "x".repeat(size - 4));
            let to = SocketAddr::new(to, PORT);
            let ask = || traffic::datagram(to, asked.as_bytes(), Duration::from_secs(1));
            let (answer, _) = lab.client().run_inside(ask)??;
            ensure!(answer == asked, "{} bytes of {size}", answer.len());
            Ok(())
        };
        for (node, has_task) in [(n2, true), (n1, false)] {
            let addresses = [IpAddr::from(node.address()), if has_task { "fd99::2" } else { "fd99::1" }.parse()?];
            for to in addresses {
                eventually(SOON, &format!("a small datagram's answer of {to}"), || echo(to, 100))?;
                // The first is several fragments, which no stack marks as not to be cut; the last fits the client's link just so.
                let headers = if to.is_ipv4() { 28 } else { 48 };
                for size in [3_000, 9_000, 1_500 - headers] {
                    step(&format!("{size} bytes to {to}"));
                    eventually(SOON, "an answer", || echo(to, size))?;
                }
                let route = lab.client().run(["ip", "route", "get", &to.to_string()])?.ok()?;
                ensure!(route.contains("mtu 1430") != has_task, "{route}");
            }
        }
        Ok(())
    });
}

fn is_tcp(bytes: &[u8]) -> bool {
    mesh_packet::decode(&bytes[..bytes.len().min(200)]).iter().any(|layer| layer.name == "tcp")
}

/// Every client reaches every node's task, by VIP and by its own address, over both families inside: calls, datagrams, bursts and bulk.
fn calls_of_tasks(swarm: &Swarm) -> Result<()> {
    for client in ["client-n1.1", "client-n2.1", "client-n3.1"] {
        step(&format!("{client} calls over both families"));
        let inside = swarm.inside(client);
        let vips = inside.names("web")?;
        let tasks = inside.names("tasks.web")?;
        ensure!(vips.len() == 2 && tasks.len() == 6, "{vips:?}, {tasks:?}");
        for vip in &vips {
            let seen = inside.get(vip, PORT, 6)?;
            let each: BTreeSet<&str> = seen.iter().map(|seen| seen.task.as_str()).collect();
            ensure!(each.len() == 3, "{seen:?}");
        }
        for address in &tasks {
            // 1430 less 20 or 40 of IP and 8 of UDP.
            let most = if address.is_ipv4() { 1402 } else { 1382 };
            inside.get(address, PORT, 1)?;
            inside.udp(address, PORT, 1)?;
            inside.upload(address, PORT, BULK)?;
            inside.download(address, PORT, BULK)?;
            for size in [1200, most] {
                eventually(SOON, "a burst in which nothing was lost", || inside.burst(address, PORT, 40, size))
                    .with_context(|| format!("datagrams of {size} bytes to {address}"))?;
            }
        }
    }
    Ok(())
}
