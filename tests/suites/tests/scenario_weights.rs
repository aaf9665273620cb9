//! Machines of unlike size: a task has as many turns as its node's label says.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use mesh_lab::{Lab, Swarm, eventually, scenario, step};

const SOON: Duration = Duration::from_secs(10);

#[test]
fn calls_are_shared_out_by_a_label_of_nodes() {
    scenario("calls are shared out by a label of nodes", Lab::builder(), |lab| {
        let swarm = Swarm::form(lab)?;
        swarm.mesh(["network", "create", "demo"])?;
        step("n1 counts three times, n2 and n3 once");
        swarm.mesh(["node", "update", "--label-add", "size=3", "n1"])?;
        let flags = ["--network", "demo", "--mode", "global", "--weight-by", "node.labels.size"];
        swarm.create_whoami("whoami", &flags)?;
        swarm.create_client("client", &["--network", "demo"])?;
        swarm.wait_running("client", 1, SOON)?;
        let tasks = swarm.wait_running("whoami", 3, SOON)?;
        // Strict turns: over whole rounds the shares are exact.
        let shares = |rounds: usize, of: usize| -> Result<BTreeMap<String, usize>> {
            let seen = swarm.inside("client.1").get("whoami", 8000, rounds * of)?;
            let mut shares = BTreeMap::new();
            for one in seen {
                let task = tasks.iter().find(|task| task.id == one.task);
                *shares.entry(task.map_or(one.task, |task| task.node.clone())).or_default() += 1;
            }
            Ok(shares)
        };
        let wanted = |counts: [usize; 3]| -> BTreeMap<String, usize> {
            ["n1", "n2", "n3"].map(str::to_owned).into_iter().zip(counts).collect()
        };
        let found = shares(4, 5)?;
        ensure!(found == wanted([12, 4, 4]), "{found:?}");

        step("another label holds for new connections at once, and the tasks stay");
        swarm.mesh(["node", "update", "--label-add", "size=2", "n2"])?;
        swarm.mesh(["node", "update", "--label-rm", "size", "n1"])?;
        eventually(SOON, "the turns of the new labels", || {
            let found = shares(4, 4)?;
            ensure!(found == wanted([4, 8, 4]), "{found:?}");
            Ok(())
        })?;
        ensure!(swarm.wait_running("whoami", 3, SOON)?.iter().all(|task| tasks.iter().any(|one| one.id == task.id)));
        Ok(())
    });
}
