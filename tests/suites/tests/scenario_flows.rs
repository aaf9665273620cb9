//! Who talks with whom: `mesh flows` shows connections with the names of their tasks, and how full the table is.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Lab, Swarm, eventually, scenario, step};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);

#[test]
fn connections_are_shown_with_their_tasks() {
    let lab = Lab::builder().agent_args(["--flow-entries=100000"]);
    scenario("connections are shown with their tasks", lab, |lab| {
        let swarm = Swarm::form(lab)?;
        swarm.mesh(["network", "create", "demo"])?;
        swarm
            .create_whoami("whoami", &["--network", "demo", "-p", "8000:8000", "--constraint", "node.hostname==n1"])?;
        swarm.create_whoami("other", &["--network", "demo", "-p", "8001:8000", "--constraint", "node.hostname==n1"])?;
        swarm.wait_running("whoami", 1, SOON)?;
        let node = lab.node("n1");
        let asked = |words: &[&str]| -> Result<Value> {
            let words = [&["flows", "--format", "json"], words].concat();
            Ok(serde_json::from_str(&swarm.mesh(words)?)?)
        };

        step("a connection from outside that stays open, and one that ended");
        let mut session = lab.client().http_session(node.address(), 8000)?;
        let task = session.get("/")?.whoami()?.task;
        lab.client().ask(node.address(), 8000)?;
        eventually(SOON, "both connections to be shown", || {
            let open = asked(&["--service", "whoami", "--state", "established"])?;
            let rows = open.as_array().context("an array")?;
            ensure!(rows.len() == 1, "{open}");
            let row = &rows[0];
            ensure!(row["Task"] == "whoami.1" && row["Service"] == "whoami" && row["Node"] == "n1", "{row}");
            ensure!(row["TaskID"].as_str().is_some_and(|id| id.starts_with(&task)), "{row} and {task}");
            ensure!(row["Destination"] == format!("{}:8000", node.address()) && row["Protocol"] == "tcp", "{row}");
            ensure!(row["Packets"].as_u64() > Some(3) && row["Bytes"].as_u64() > Some(200), "{row}");
            let ended = asked(&["--task", "whoami.1", "--state", "closing"])?;
            ensure!(ended.as_array().is_some_and(|rows| !rows.is_empty()), "{ended}");
            Ok(())
        })?;
        ensure!(asked(&["--service", "other"])? == Value::Array(Vec::new()), "nobody called it");
        let listing = swarm.mesh(["flows", "--limit", "1"])?;
        ensure!(listing.starts_with("PROTO") && listing.lines().count() == 2, "{listing}");

        step("the table in numbers: its size is what the agent was told");
        let summary = asked(&["--summary"])?;
        let summary = &summary[0];
        ensure!(summary["Size"] == 100_000 && summary["OverflowUsed"] == 0, "{summary}");
        ensure!(
            summary["Used"].as_u64() >= Some(4) && !summary["Entries"]["tcp"]["established"].is_null(),
            "{summary}"
        );

        step("the next agent shows what the last one's programs remember");
        node.kill()?;
        node.start()?;
        eventually(SOON, "the open connection", || {
            let open = asked(&["--service", "whoami", "--state", "established"])?;
            ensure!(open.as_array().is_some_and(|rows| rows.len() == 1), "{open}");
            Ok(())
        })?;
        session.get("/")?.whoami()?;
        Ok(())
    });
}
