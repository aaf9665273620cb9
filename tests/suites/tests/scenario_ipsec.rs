//! A host whose IPsec policies are for packets between nodes: all of them go through the host's stack, out and in, though nobody said
//! `--fast-path off`; and none goes past a policy that lets nothing through.
//!
//! There is no key and nobody to exchange one. A policy of level *use* is content without: then packets go on in the clear, and mesh0 shows that it
//! carries them. One of level *required* drops them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Lab, Node, Swarm, eventually, scenario, step};
use serde_json::Value;

/// A round of the agent happens within 10 seconds.
const A_ROUND: Duration = Duration::from_secs(25);
const PORT: u16 = 8000;
const TUNNEL_PORT: &str = "4789";

#[test]
fn no_packet_goes_past_an_ipsec_policy() {
    scenario("no packet goes past an IPsec policy", Lab::builder().nodes(["n1", "n2"]), |lab| {
        let swarm = Swarm::form(lab)?;
        swarm.mesh(["network", "create", "demo"])?;
        swarm.create_client("client", &["--network", "demo", "--constraint", "node.hostname==n1"])?;
        swarm.create_whoami("whoami", &["--network", "demo", "--constraint", "node.hostname==n2"])?;
        let vip = swarm.vip("whoami")?;
        let (n1, n2) = (lab.node("n1"), lab.node("n2"));
        let ask = || swarm.inside("client.1").get(vip, PORT, 1);
        let at_ease = || {
            eventually(A_ROUND, "an answer that n1's mesh0 did not carry", || {
                let capture = n1.capture("mesh0")?;
                ask()?;
                let seen = capture.frames().iter().filter(|frame| has_port(&frame.bytes, &PORT.to_string())).count();
                ensure!(seen == 0, "mesh0 carried {seen} frames");
                Ok(())
            })
        };
        step("without a policy packets take the fast way");
        at_ease()?;
        ensure!(ipsec(n1)?.contains("no policy"), "{}", ipsec(n1)?);
        for (direction, from, to) in [("out", n1, n2), ("in", n2, n1)] {
            let policy = Policy::new(direction, from, to);
            step(&format!("n1 gets a policy, ESP if there is a key: {}", policy.select));
            policy.add(n1, "use")?;
            eventually(A_ROUND, "an answer that n1's mesh0 carried both ways", || {
                let capture = n1.capture("mesh0")?;
                ask()?;
                let carried = |outgoing| {
                    let frames = capture.frames();
                    let those = frames.iter().filter(|frame| frame.outgoing == outgoing);
                    those.filter(|frame| has_port(&frame.bytes, &PORT.to_string())).count()
                };
                ensure!(carried(true) > 0 && carried(false) > 0, "{} out, {} in", carried(true), carried(false));
                Ok(())
            })?;
            let said = ipsec(n1)?;
            ensure!(said.contains("n2") && said.contains("mesh0"), "{said}");
            step("it goes, and the fast way is taken again");
            policy.delete(n1)?;
            at_ease()?;
        }
        step("ESP or nothing: nothing leaves in the clear");
        let policy = Policy::new("out", n1, n2);
        policy.add(n1, "required")?;
        eventually(A_ROUND, "no answer, and no frame of the tunnel", || {
            let capture = n1.capture("eth0")?;
            ensure!(ask().is_err(), "the task on n2 answers still");
            let leaving = |frame: &&mesh_lab::Frame| frame.outgoing && has_port(&frame.bytes, TUNNEL_PORT);
            let seen = capture.frames().iter().filter(leaving).count();
            ensure!(seen == 0, "{seen} frames of the tunnel left n1 in the clear");
            Ok(())
        })?;
        policy.delete(n1)?;
        at_ease()
    });
}

/// For tunnel packets from a node to another, at one of both.
struct Policy {
    select: String,
    ends: String,
}

impl Policy {
    fn new(direction: &str, from: &Node, to: &Node) -> Policy {
        let (from, to) = (from.address(), to.address());
        let select = format!("dir {direction} src {from}/32 dst {to}/32 proto udp dport {TUNNEL_PORT}");
        Policy { select, ends: format!("src {from} dst {to}") }
    }

    fn add(&self, at: &Node, level: &str) -> Result<()> {
        let Policy { select, ends } = self;
        at.namespace().ip(&format!("xfrm policy add {select} tmpl {ends} proto esp mode transport level {level}"))
    }

    fn delete(&self, at: &Node) -> Result<()> {
        at.namespace().ip(&format!("xfrm policy delete {}", self.select))
    }
}

fn has_port(bytes: &[u8], port: &str) -> bool {
    let layers = mesh_packet::decode(bytes);
    layers.iter().flat_map(|layer| &layer.fields).any(|(name, value)| name.ends_with(" port") && value == port)
}

/// What the doctor says of policies.
fn ipsec(node: &Node) -> Result<String> {
    let text = node.mesh(["doctor", "--format", "json"])?.stdout;
    let rows: Vec<Value> = serde_json::from_str(&text).with_context(|| text.clone())?;
    let row = rows.iter().find(|row| row["Check"] == "ipsec");
    Ok(row.with_context(|| text.clone())?["Found"].as_str().unwrap_or_default().to_owned())
}
