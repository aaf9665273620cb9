//! Tunnel headers written and taken off by program, beside those that the kernel's own VXLAN writes and takes off: a cluster whose nodes do either,
//! with all that a stack hands over in one piece (64 KB of TCP, bursts of datagrams) and with checksums that nobody has finished, over IPv4 and over
//! IPv6 inside.
//!
//! ```text
//! n1  writes by program   takes off by program             (one family out of the other from Linux 6.3 on; before, its kernel does)
//! n2  by the kernel       by program               --fast-path off
//! n3  by the kernel       by the kernel            --fast-path off, and no program on the underlay's link (--publish-interface)
//! ```
//! Judged by every byte that arrives, by the counters of every receiver, and by packet sockets on mesh0, which see what the kernel carries and
//! nothing of what the programs do.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Capture, Host, Lab, Offloads, Swarm, eventually, scenario, step};

const SOON: Duration = Duration::from_secs(10);
/// A round of the agent happens within 10 seconds.
const A_ROUND: Duration = Duration::from_secs(20);
const NODES: [&str; 3] = ["n1", "n2", "n3"];
/// Where `whoami` listens in tasks; on nodes, those of n1's task at 8001 and so on.
const PORT: u16 = 8000;
const BULK: u64 = 3_000_000;
/// Datagrams of a burst: 40 of the largest make a packet of 57 KB.
const BURST: u32 = 40;
/// Their sizes: a usual one, and the largest that a task can send (MTU 1450).
fn sizes(address: IpAddr) -> [u16; 2] {
    if address.is_ipv4() { [1200, 1422] } else { [1200, 1402] }
}

#[test]
fn programs_and_the_kernels_vxlan_understand_each_other() {
    let lab = Lab::builder()
        .nodes(NODES)
        .node_args("n2", ["--fast-path=off"])
        .node_args("n3", ["--fast-path=off", "--publish-interface=pub0"]);
    scenario("programs and the kernel's VXLAN understand each other", lab, |lab| {
        lab.node("n3").namespace().ip("link add pub0 type bridge\nlink set pub0 up")?;
        let swarm = Swarm::form(lab)?;
        swarm.mesh(["network", "create", "--ipv6", "demo"])?;
        for (place, host) in [(1, &**lab.node("n1")), (2, &**lab.node("n2")), (9, lab.client())] {
            host.run(["ip", "-6", "addr", "add", &format!("fd99::{place}/64"), "dev", "eth0", "nodad"])?.ok()?;
        }
        for (node, number) in NODES.iter().zip(1..) {
            let place = format!("node.hostname=={node}");
            let ports = ["", "/udp"].map(|kind| format!("{}:{PORT}{kind}", PORT + number));
            let flags = ["--network", "demo", "--constraint", &place];
            swarm.create_whoami(&server(node), &[&flags[..], &["-p", &ports[0], "-p", &ports[1]]].concat())?;
            swarm.create_client(&client(node), &flags)?;
        }
        carried_as_said(lab, &swarm)?;
        for offloads in [Offloads::On, Offloads::TransmitOff] {
            for node in lab.nodes() {
                node.set_offloads(offloads)?;
            }
            let captures = lab.nodes().iter().map(|node| node.capture("mesh0")).collect::<Result<Vec<_>>>()?;
            for from in NODES {
                for to in NODES.iter().filter(|to| **to != from) {
                    step(&format!("offloads {offloads:?}: tasks of {from} call the task of {to}"));
                    between_tasks(&swarm, from, to)?;
                }
            }
            // n3 has no program where calls come in.
            for entry in &NODES[..2] {
                for to in NODES.iter().filter(|to| *to != entry) {
                    step(&format!("offloads {offloads:?}: the client calls the task of {to} by {entry}"));
                    by_a_published_port(lab, &swarm, entry, to)?;
                }
            }
            step(&format!("offloads {offloads:?}: who carried what, and what receivers made of it"));
            told_by_mesh0(&captures)?;
            nobody_complains(lab, &swarm)?;
        }
        Ok(())
    });
}

fn server(node: &str) -> String {
    format!("whoami-{node}")
}

fn client(node: &str) -> String {
    format!("client-{node}")
}

fn published(node: &str) -> u16 {
    PORT + NODES.iter().zip(1..).find(|(name, _)| **name == node).map_or(0, |(_, number)| number)
}

/// Until n1 knows its next hops, and so that what is said below of the others is true.
fn carried_as_said(lab: &Lab, swarm: &Swarm) -> Result<()> {
    step("n1 sends past mesh0, the others through it");
    eventually(A_ROUND, "calls that n1's mesh0 does not see", || {
        let captures = lab.nodes().iter().map(|node| node.capture("mesh0")).collect::<Result<Vec<_>>>()?;
        for from in NODES {
            for to in NODES.iter().filter(|to| **to != from) {
                let task = format!("{}.1", client(from));
                swarm.inside(&task).get(swarm.vip(&server(to))?, PORT, 1)?;
            }
        }
        told_by_mesh0(&captures)
    })
}

fn between_tasks(swarm: &Swarm, from: &str, to: &str) -> Result<()> {
    let task = format!("{}.1", client(from));
    let inside = swarm.inside(&task);
    let mut addresses = inside.names(&server(to))?;
    addresses.extend(inside.names(&format!("tasks.{}", server(to)))?);
    ensure!(addresses.len() == 4, "its VIPs and its task's own, of each family: {addresses:?}");
    for address in addresses {
        inside.get(address, PORT, 2)?;
        inside.udp(address, PORT, 2)?;
        inside.upload(address, PORT, BULK)?;
        inside.download(address, PORT, BULK)?;
        for size in sizes(address) {
            eventually(SOON, "a burst in which nothing was lost", || inside.burst(address, PORT, BURST, size))
                .with_context(|| format!("datagrams of {size} bytes to {address}"))?;
        }
    }
    Ok(())
}

fn by_a_published_port(lab: &Lab, swarm: &Swarm, entry: &str, to: &str) -> Result<()> {
    let of_ipv6 = format!("fd99::{}", published(entry) - PORT).parse()?;
    let (port, outside) = (published(to), lab.client());
    let task = swarm.wait_running(&server(to), 1, SOON)?.pop().context("one task")?.id;
    for entry in [IpAddr::V4(lab.node(entry).address()), of_ipv6] {
        let (told, answer) = eventually(SOON, &format!("an answer at {entry}"), || outside.ask(entry, port))?;
        ensure!(told.task == task && told.caller == answer.local, "{told:?}, asked from {}", answer.local);
        let (told, local) = outside.udp_ask(entry, port)?;
        ensure!(told.task == task && told.caller == local, "UDP: {told:?}, asked from {local}");
        outside.upload(entry, port, BULK)?;
        outside.download(entry, port, BULK)?;
        for size in sizes(entry) {
            eventually(SOON, "a burst in which nothing was lost", || outside.udp_burst(entry, port, BURST, size))
                .with_context(|| format!("datagrams of {size} bytes to {entry}"))?;
        }
    }
    Ok(())
}

/// n1 sends nothing by mesh0, n3 gets everything by it; who has no fast way sends by it.
fn told_by_mesh0(captures: &[Capture]) -> Result<()> {
    let counted: Vec<[usize; 2]> = captures
        .iter()
        .map(|capture| {
            let frames = capture.frames();
            let calls = || frames.iter().filter(|frame| is_of_the_port(&frame.bytes));
            [calls().filter(|frame| frame.outgoing).count(), calls().filter(|frame| !frame.outgoing).count()]
        })
        .collect();
    let said = format!("frames sent and received by mesh0 of n1, n2, n3: {counted:?}");
    step(&said);
    let [[n1_sent, _], [n2_sent, _], [n3_sent, n3_got]] = counted[..] else { anyhow::bail!("three nodes: {said}") };
    ensure!(n1_sent == 0, "n1 writes the headers itself, but {said}");
    ensure!(n2_sent > 0 && n3_sent > 0, "n2 and n3 leave the headers to the kernel, but {said}");
    ensure!(n3_got > 0, "n3 has no program that takes them off, but {said}");
    Ok(())
}

fn is_of_the_port(bytes: &[u8]) -> bool {
    let ports: Vec<String> = (PORT..=PORT + 3).map(|port| port.to_string()).collect();
    // The headers are enough.
    let layers = mesh_packet::decode(&bytes[..bytes.len().min(200)]);
    layers.iter().flat_map(|layer| &layer.fields).any(|(name, value)| name.ends_with(" port") && ports.contains(value))
}

/// No receiver has counted a wrong checksum.
fn nobody_complains(lab: &Lab, swarm: &Swarm) -> Result<()> {
    let mut counters: Vec<(String, String)> = Vec::new();
    let hosts: Vec<&Host> = lab.hosts();
    for host in hosts {
        counters.push((host.name().to_owned(), host.run(["cat", "/proc/net/snmp", "/proc/net/snmp6"])?.ok()?));
    }
    for name in NODES.iter().flat_map(|node| [server(node), client(node)]) {
        let task = format!("{name}.1");
        let said = swarm.inside(&task).run(&["cat", "/proc/net/snmp", "/proc/net/snmp6"])?;
        counters.push((task, said));
    }
    for (place, text) in &counters {
        let errors = checksum_errors(text).with_context(|| format!("counters of {place}: {text}"))?;
        ensure!(errors == 0, "{place} got {errors} wrong checksums:\n{text}");
    }
    Ok(())
}

/// Sum of the counters InCsumErrors: of IPv4 and of TCP in columns, a line of names and one of numbers for each protocol (proc(5), /proc/net/snmp);
/// of IPv6 a line each, a name and a number (/proc/net/snmp6).
fn checksum_errors(text: &str) -> Result<u64> {
    let (columns, lines): (Vec<&str>, Vec<&str>) = text.lines().partition(|line| line.contains(": "));
    let pairs = columns.chunks_exact(2).flat_map(|pair| pair[0].split(' ').zip(pair[1].split(' ')));
    let errors = pairs.filter(|(name, _)| *name == "InCsumErrors").map(|(_, number)| number);
    let of_ipv6 = lines.iter().filter_map(|line| line.split_once(char::is_whitespace));
    let of_ipv6 = of_ipv6.filter(|(name, _)| name.ends_with("InCsumErrors")).map(|(_, number)| number.trim());
    let errors = errors.chain(of_ipv6).map(|number| Ok(number.parse()?)).collect::<Result<Vec<u64>>>()?;
    // ICMP, TCP, UDP, UDP-Lite; of IPv6 ICMP, UDP, UDP-Lite.
    ensure!(errors.len() >= 6, "{} counters", errors.len());
    Ok(errors.iter().sum())
}
