//! One node, one service, one request, and nothing left: the smallest whole, in the fast tier.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use mesh_lab::{Footprint, Lab, Swarm, eventually, scenario, step};

const SOON: Duration = Duration::from_secs(5);

#[test]
fn one_node_serves_and_leaves_nothing() {
    scenario("one node serves and leaves nothing", Lab::builder().nodes(["n1"]), |lab| {
        let n1 = lab.node("n1");
        let before = Footprint::settled(n1)?;

        step("mesh swarm init");
        let swarm = Swarm::form(lab)?;
        step("a service on a network, published on port 8000");
        swarm.mesh(["network", "create", "-d", "overlay", "demo"])?;
        let asked = Instant::now();
        swarm.create_whoami("whoami", &["--network", "demo", "-p", "8000:8000"])?;
        ensure!(swarm.replicas("whoami")? == "1/1");
        let task = swarm.wait_running("whoami", 1, SOON)?.remove(0);

        step("the client outside is answered by the task, which sees the client");
        let (told, answer) = eventually(SOON, "the first answer", || lab.client().ask(n1.address(), 8000))?;
        step(&format!("first answer {:.2?} after `service create` was typed", asked.elapsed()));
        ensure!(told.task == task.id, "{told:?} {task:?}");
        ensure!(told.caller == answer.local, "{told:?} {answer:?}");

        step("the node itself is answered at 127.0.0.1 and at its address");
        ensure!(n1.ask("127.0.0.1", 8000)?.0.task == task.id);
        ensure!(n1.ask(n1.address(), 8000)?.0.task == task.id);

        step("a client task reaches it by name");
        swarm.create_client("client", &["--network", "demo"])?;
        let seen = swarm.inside("client.1").get("whoami", 8000, 2)?;
        ensure!(seen.iter().all(|one| one.task == task.id && one.caller == one.local), "{seen:?}");

        leave_nothing(lab, &before)
    });
}

fn leave_nothing(lab: &Lab, before: &Footprint) -> Result<()> {
    let n1 = lab.node("n1");
    step("mesh service rm, swarm leave, purge");
    n1.mesh(["service", "rm", "whoami", "client"])?.ok()?;
    n1.mesh(["swarm", "leave", "--force"])?.ok()?;
    n1.mesh(["purge"])?.ok()?;
    if n1.is_running() {
        n1.stop()?;
    }
    eventually(SOON, "nothing to be left", || {
        let left = Footprint::of(n1)?.since(before);
        ensure!(left.is_empty(), "{left}");
        Ok(())
    })
}
