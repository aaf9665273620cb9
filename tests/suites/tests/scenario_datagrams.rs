//! Datagrams of one socket when their backend leaves: they go on at another one, by every way in, and none is
//! lost but one that the task which leaves has not read yet.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_lab::{Lab, Probe, Seen, Swarm, eventually, let_pass, scenario, step};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);
const PACE: Duration = Duration::from_millis(20);
/// Longer than all that happens while a task of the client talks.
const TALK: usize = 1_000;

#[test]
fn datagrams_go_on_at_another_backend_when_theirs_leaves() {
    scenario("datagrams go on at another backend when theirs leaves", Lab::builder(), |lab| {
        let swarm = Swarm::form(lab)?;
        swarm.mesh(["network", "create", "demo"])?;
        swarm.create_client("client", &["--network", "demo", "--constraint", "node.hostname==n1"])?;
        let flags = ["--network", "demo", "-p", "8000:8000/udp", "--constraint", "node.hostname!=n1"];
        swarm.create_whoami("whoami", &[&flags[..], &["--replicas", "2"]].concat())?;
        let tasks = swarm.wait_running("whoami", 2, SOON)?;
        ensure!(tasks[0].node != tasks[1].node, "{tasks:?}");

        step("sockets that ask all the time: outside by each node, on a node's host, in a task");
        // Two by each way: they take turns, so one at least has the backend that leaves.
        let mut probes = Vec::new();
        for node in lab.nodes() {
            for _ in 0..2 {
                probes.push((node.name().to_owned(), lab.client().udp_probe(node.address(), 8000, PACE)?));
                probes.push((
                    format!("{}'s host", node.name()),
                    node.udp_probe(IpAddr::from([127, 0, 0, 1]), 8000, PACE)?,
                ));
            }
        }
        let inside = swarm.inside("client.1");
        let talks = std::thread::scope(|scope| -> Result<Vec<Vec<Seen>>> {
            let talks: Vec<_> = (0..2).map(|_| scope.spawn(|| inside.talk("whoami", 8000, TALK, PACE))).collect();
            eventually(SOON, "flows of the task's two sockets", || {
                let rows = swarm.json(["flows", "--service", "whoami", "--format", "json"])?;
                let of_task = |row: &&Value| row["Source"].as_str().is_some_and(|source| source.starts_with("10."));
                ensure!(rows.iter().filter(of_task).count() >= 2, "{rows:?}");
                Ok(())
            })?;
            let_pass(Duration::from_secs(1));
            leave(&swarm, probes)?;
            talks.into_iter().map(|talk| talk.join().expect("it does not panic")).collect()
        })?;
        let left = &swarm.running("whoami")?[0].id;
        for seen in &talks {
            ensure!(seen.len() == TALK && seen.last().is_some_and(|seen| seen.task == *left), "{:?}", seen.last());
        }
        ensure!(talks.iter().flatten().any(|seen| seen.task != *left), "one talked to the task that left");
        Ok(())
    });
}

/// One of the two leaves while they ask.
fn leave(swarm: &Swarm, probes: Vec<(String, Probe)>) -> Result<()> {
    step("one of two backends is stopped");
    let before = swarm.running("whoami")?;
    swarm.scale("whoami", 1)?;
    let stopped = Instant::now();
    let left = swarm.wait_running("whoami", 1, SOON)?.remove(0).id;
    let gone = &before.iter().find(|task| task.id != left).context("one of them left")?.id;
    let_pass(Duration::from_secs(1));

    step("every datagram was answered, and afterwards by the one that is left");
    let mut had_gone = 0;
    for (name, probe) in probes {
        let timeline = probe.stop();
        ensure!(timeline.failures().len() <= 1, "by {name}: {}", timeline.describe());
        had_gone += usize::from(timeline.samples.iter().any(|sample| sample.outcome.as_ref() == Ok(gone)));
        let after = timeline.tasks_between(stopped, Instant::now());
        ensure!(after == [left.clone()], "by {name}: {after:?}, not {left}");
    }
    // Of each node's the half, by turns; those of the task take some of n1's.
    ensure!(had_gone >= 4, "{had_gone} sockets had the backend that left");
    Ok(())
}
