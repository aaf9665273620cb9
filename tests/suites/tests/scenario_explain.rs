//! Every packet is explainable: `mesh explain` foretells which task a call reaches, from inside and outside, and why one would be dropped.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Lab, Output, Swarm, scenario, step};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);

/// What `mesh explain` says, as JSON, and its exit code.
fn explained(swarm: &Swarm, from: &str, to: &str) -> Result<(Value, i32)> {
    let Output { stdout, status, stderr, .. } = swarm.node().mesh(["explain", from, to, "--format", "json"])?;
    let said: Vec<Value> = serde_json::from_str(&stdout).with_context(|| format!("{stdout}{stderr}"))?;
    Ok((said.into_iter().next().context("one explanation")?, status))
}

#[test]
fn a_call_is_explained_before_it_is_made() {
    scenario("a call is explained before it is made", Lab::builder(), |lab| {
        let swarm = Swarm::form(lab)?;
        swarm.mesh(["network", "create", "demo"])?;
        swarm.create_whoami("whoami", &["--network", "demo", "-p", "8000:8000", "--replicas", "3"])?;
        swarm.create_client("client", &["--network", "demo", "--constraint", "node.hostname==n1"])?;
        swarm.wait_running("client", 1, SOON)?;
        let tasks = swarm.wait_running("whoami", 3, SOON)?;
        let reached = |said: &Value, id: &str| -> Result<()> {
            let task = tasks.iter().find(|task| task.id == id).with_context(|| format!("no task {id}: {tasks:?}"))?;
            ensure!(
                said["Task"] == task.name.as_str() && said["Node"] == task.node.as_str(),
                "{said}\nreached {task:?}"
            );
            Ok(())
        };

        step("each call of a client reaches the task that was foretold: the turns are told, and not taken");
        for _ in 0..6 {
            let (said, status) = explained(&swarm, "client.1", "whoami:8000")?;
            ensure!(status == 0 && said["Verdict"] == "delivered", "{said}");
            ensure!(explained(&swarm, "client.1", "whoami:8000")?.0["Task"] == said["Task"], "asking changes nothing");
            let seen = swarm.inside("client.1").get("whoami", 8000, 1)?;
            reached(&said, &seen[0].task)?;
        }

        step("and so does each call from outside to the published port");
        let (outside, here) = (lab.client().address().to_string(), format!("{}:8000", swarm.node().address()));
        for _ in 0..6 {
            let (said, _) = explained(&swarm, &outside, &here)?;
            let (answer, _) = lab.client().ask(swarm.node().address(), 8000)?;
            reached(&said, &answer.task)?;
        }
        let (said, status) = explained(&swarm, "host", "127.0.0.1:8000")?;
        ensure!(status == 0 && said["Steps"][0]["Hook"] == "host_connect", "{said}");
        let (said, _) = explained(&swarm, "client.1", &format!("{outside}:80"))?;
        ensure!(said["Way"] == "outside", "{said}");

        step("what would be dropped exits 1, with the reason and what to do");
        let (said, status) = explained(&swarm, &outside, &format!("{}:80", swarm.vip("whoami")?))?;
        ensure!(status == 1 && said["Reason"] == "from-outside" && said["Remedy"] != "", "{said}");
        swarm.scale("whoami", 0)?;
        let (said, status) = explained(&swarm, "client.1", "whoami:8000")?;
        ensure!(status == 1 && said["Reason"] == "no-backend", "{said}");
        let (word, _) = swarm.inside("client.1").connect(swarm.vip("whoami")?, 8000)?;
        ensure!(word == "refused", "{word}");
        let status = swarm.mesh(["status"])?;
        ensure!(status.contains("no-backend at from_task"), "{status}");
        Ok(())
    });
}
