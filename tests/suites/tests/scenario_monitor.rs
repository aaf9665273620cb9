//! Packets' verdicts as they happen: `mesh monitor` tells of drops and of what is delivered, while somebody listens and no longer.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Lab, Swarm, Terminal, eventually, scenario, step};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);
/// For one packet to be told of; it is made again until it was.
const AT_ONCE: Duration = Duration::from_secs(1);

/// The next packet told of.
fn told(monitor: &mut Terminal) -> Result<Value> {
    let line = monitor.until("\n", AT_ONCE)?;
    serde_json::from_str(&line).with_context(|| format!("not an object: {line}"))
}

/// The first packet told of that is such a one.
fn told_of(monitor: &mut Terminal, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
    loop {
        let row = told(monitor)?;
        if is_it(&row) {
            return Ok(row);
        }
    }
}

#[test]
fn packets_are_told_of_as_they_happen() {
    scenario("packets are told of as they happen", Lab::builder(), |lab| {
        let swarm = Swarm::form(lab)?;
        swarm.mesh(["network", "create", "demo"])?;
        let on_n2 = "node.hostname==n2";
        swarm.create_whoami("whoami", &["--network", "demo", "-p", "8000:8000", "--constraint", on_n2])?;
        swarm.create_whoami("nobody", &["--network", "demo", "--replicas", "0"])?;
        swarm.create_client("client", &["--network", "demo", "--constraint", "node.hostname==n1"])?;
        let client = swarm.inside("client.1");
        let vip = swarm.vip("nobody")?;

        step("a call that is delivered is told of, with who calls whom and where that is");
        let words = ["monitor", "--task", "client.1", "--sample", "1", "--format", "json"];
        let mut monitor = swarm.node().mesh_terminal(words)?;
        let is_call = |row: &Value| row["Verdict"] == "tunnel" && row["Flags"] == "S";
        let row = eventually(SOON, "the call to be told of", || {
            client.get("whoami", 8000, 1)?;
            told_of(&mut monitor, is_call)
        })?;
        ensure!(row["Hook"] == "from_task" && row["Protocol"] == "tcp" && row["Reason"] == "", "{row}");
        ensure!(row["From"] == "client.1" && row["To"] == "whoami.1" && row["Node"] == "n2", "{row}");
        let answer = told_of(&mut monitor, |row| row["Flags"] == "S.")?;
        ensure!(answer["Hook"] == "from_overlay" && answer["Verdict"] == "task", "{answer}");

        step("a drop is told of with its reason, as it is counted");
        let row = eventually(SOON, "the drop to be told of", || {
            ensure!(client.connect(vip, 80)?.0 == "refused");
            told_of(&mut monitor, |row| row["Reason"] != "")
        })?;
        ensure!(row["Reason"] == "no-backend" && row["Hook"] == "from_task" && row["From"] == "client.1", "{row}");
        ensure!(row["Destination"] == format!("{vip}:80") && row["To"] == "nobody", "{row}");

        step("packets of others are not its business: no drop of a caller from outside is told of");
        ensure!(!lab.client().run(["ping", "-c", "1", "-W", "1", &vip.to_string()])?.success());
        client.connect(vip, 81)?;
        let row = told_of(&mut monitor, |row| row["Reason"] != "" && row["Destination"] != format!("{vip}:80"))?;
        ensure!(row["Destination"] == format!("{vip}:81"), "{row}");

        step("it ends when it is interrupted, or after so many packets");
        monitor.keys("\x03")?;
        let code = monitor.end(SOON)?;
        ensure!(code == 130, "an interrupted program's exit code, not {code}");
        let mut few = swarm.node().mesh_terminal(["monitor", "--drops", "--service", "nobody", "-n", "2"])?;
        eventually(SOON, "two drops to be told of", || {
            client.connect(vip, 80)?;
            client.get("whoami", 8000, 1)?;
            few.until("dropped no-backend", AT_ONCE)?;
            Ok(())
        })?;
        client.connect(vip, 80)?;
        let between = few.until("dropped no-backend", SOON)?;
        ensure!(!between.contains("whoami"), "{between}");
        let code = few.end(SOON)?;
        ensure!(code == 0, "the exit code is {code}");
        Ok(())
    });
}
