//! Bulk through a VIP and a published port over underlays of several sizes, and of mixed ones: every byte arrives, nothing stalls, and nothing is
//! fragmented on the way.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Lab, Node, Swarm, scenario, step};

const SOON: Duration = Duration::from_secs(10);
const PORT: u16 = 8000;
/// Bytes of a transfer, and of the one where it is repeated.
const MANY: u64 = 100_000_000;
const SOME: u64 = 10_000_000;

#[test]
fn bulk_over_1500() {
    bulk(1_500, &[]);
}

#[test]
fn bulk_over_1420() {
    bulk(1_420, &[]);
}

#[test]
fn bulk_over_9000() {
    bulk(9_000, &[]);
}

/// Each node knows its own cable only, and no router tells of the others': segments must be clamped to fit both.
#[test]
fn bulk_over_mixed_underlays() {
    bulk(9_000, &[("n1", 1_500), ("n3", 1_420)]);
}

fn bulk(mtu: u32, narrower: &[(&str, u32)]) {
    let nodes = ["n1", "n2", "n3"];
    scenario(&format!("bulk over {mtu} {narrower:?}"), Lab::builder().nodes(nodes).mtu(mtu), |lab| {
        for (name, mtu) in narrower {
            lab.switch().ip(&format!("link set {name} mtu {mtu}"))?;
            lab.node(name).namespace().ip(&format!("link set eth0 mtu {mtu}"))?;
        }
        let swarm = Swarm::form(lab)?;
        swarm.mesh(["network", "create", "demo"])?;
        // A pair that meets only through the tunnel, whichever of the two nodes is the wider one.
        for (service, node) in [("one", "n2"), ("other", "n3")] {
            let here = format!("node.hostname=={node}");
            let port = if service == "one" { "8001:8000" } else { "8000:8000" };
            swarm.create_whoami(service, &["--network", "demo", "-p", port, "--constraint", &here])?;
            swarm.create_client(
                &format!("to{service}"),
                &[
                    "--network",
                    "demo",
                    "--constraint",
                    if node == "n2" { "node.hostname==n3" } else { "node.hostname==n2" },
                ],
            )?;
            swarm.wait_running(service, 1, SOON)?;
        }
        let before = lab.nodes().iter().map(cuts).collect::<Result<Vec<_>>>()?;

        step("task to VIP, 100 MB each way");
        let other = swarm.vip("other")?;
        swarm.inside("toother.1").upload(other, PORT, MANY)?;
        swarm.inside("toother.1").download(other, PORT, MANY)?;
        step("the same between the two nodes the other way round");
        let one = swarm.vip("one")?;
        swarm.inside("toone.1").upload(one, PORT, SOME)?;
        swarm.inside("toone.1").download(one, PORT, SOME)?;
        step("outside to a published port, by a node without the task and by one with it");
        lab.client().upload(lab.node("n1").address(), PORT, MANY)?;
        lab.client().download(lab.node("n1").address(), PORT, MANY)?;
        for node in lab.nodes() {
            for port in [8_000, 8_001] {
                lab.client().upload(node.address(), port, SOME)?;
                lab.client().download(node.address(), port, SOME)?;
            }
        }
        step("a node's own process to 127.0.0.1");
        lab.node("n1").upload("127.0.0.1", PORT, SOME)?;
        lab.node("n1").download("127.0.0.1", PORT, SOME)?;

        let after = lab.nodes().iter().map(cuts).collect::<Result<Vec<_>>>()?;
        ensure!(before == after, "fragments made, and put together, by node: {before:?}, then {after:?}");
        Ok(())
    });
}

/// Fragments that a node's kernel has made, and pieces it has had to put together (RFC 4293: FragCreates, ReasmReqds).
fn cuts(node: &Node) -> Result<(u64, u64)> {
    let text = node.run(["cat", "/proc/net/snmp"])?.ok()?;
    let mut lines = text.lines().filter(|line| line.starts_with("Ip:"));
    let (names, values) = (lines.next().context("names")?, lines.next().context("values")?);
    let of = |wanted: &str| -> Result<u64> {
        let place = names.split(' ').position(|name| name == wanted).with_context(|| format!("no {wanted}"))?;
        Ok(values.split(' ').nth(place).context("a value")?.parse()?)
    };
    Ok((of("FragCreates")?, of("ReasmReqds")?))
}
