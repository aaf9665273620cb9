//! A pulled cable: traffic leaves the lost node within seconds, replacements come up, and everything heals by itself.

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use mesh_lab::{Lab, Probe, Swarm, eventually, let_pass, scenario, step};

const SOON: Duration = Duration::from_secs(5);
/// From the cut to the start of the last attempt that failed.
const FAILOVER: Duration = Duration::from_secs(5);
const REPLACED: Duration = Duration::from_secs(15);
const PACE: Duration = Duration::from_millis(50);

#[test]
fn a_lost_node_is_left_and_taken_back() {
    scenario("a lost node is left and taken back", Lab::builder(), |lab| {
        let swarm = Swarm::form(lab)?;
        swarm.mesh(["network", "create", "demo"])?;
        swarm.create_whoami("whoami", &["--network", "demo", "-p", "8000:8000", "--replicas", "3"])?;
        one_on_each(&swarm)?;
        swarm.create_client("client", &["--network", "demo", "--constraint", "node.hostname==n1"])?;
        lose_a_node(lab, &swarm, "n2")?;
        lose_the_stores_node(lab, &swarm)
    });
}

/// A node that has just joined, and is busy, may not be heard for a moment: tasks are placed on the others then.
fn one_on_each(swarm: &Swarm) -> Result<()> {
    eventually(REPLACED, "a task on each node", || {
        let tasks = swarm.wait_running("whoami", 3, SOON)?;
        let is_on = |node: &&str| tasks.iter().any(|task| task.node == *node);
        if !["n1", "n2", "n3"].iter().all(is_on) {
            swarm.mesh(["service", "update", "--force", "whoami"])?;
            bail!("placed anew: {tasks:?}");
        }
        Ok(())
    })
}

fn lose_a_node(lab: &Lab, swarm: &Swarm, lost: &str) -> Result<()> {
    step(&format!("the cable of {lost} is cut"));
    let gone: Vec<String> =
        swarm.running("whoami")?.into_iter().filter(|task| task.node == lost).map(|task| task.id).collect();
    let probes = watch(lab, &["n1", "n3"])?;
    let cut = Instant::now();
    lab.node(lost).cut()?;

    step("replacements run elsewhere within 15 s");
    let tasks = eventually(REPLACED, "three tasks on the nodes that are left", || {
        let tasks = swarm.running("whoami")?;
        ensure!(tasks.len() == 3 && tasks.iter().all(|task| task.node != lost), "{tasks:#?}");
        Ok(tasks)
    })?;
    step(&format!("replaced after {:.1?}", cut.elapsed()));
    // The window in which nothing may fail has to pass as well.
    let_pass((FAILOVER + Duration::from_secs(2)).saturating_sub(cut.elapsed()));
    judge(probes, cut, &gone)?;
    let seen = swarm.inside("client.1").get("whoami", 8000, 6)?;
    ensure!(seen.iter().all(|one| tasks.iter().any(|task| task.id == one.task)), "{seen:?} {tasks:?}");
    let nodes = swarm.nodes()?;
    ensure!(nodes.iter().any(|(name, status)| name == lost && status != "Ready"), "{nodes:?}");

    step("the cable is back: everything answers again by itself");
    lab.node(lost).mend()?;
    swarm.wait_ready(3, REPLACED)?;
    everything_answers(lab)?;
    eventually(REPLACED, "exactly three tasks", || {
        let tasks = swarm.running("whoami")?;
        ensure!(tasks.len() == 3, "{tasks:#?}");
        Ok(())
    })
}

fn lose_the_stores_node(lab: &Lab, swarm: &Swarm) -> Result<()> {
    step("every node has a task again, then the cable of the store's node is cut");
    swarm.scale("whoami", 6)?;
    let tasks = swarm.wait_running("whoami", 6, REPLACED)?;
    let on_store: Vec<String> = tasks.into_iter().filter(|task| task.node == "n1").map(|task| task.id).collect();
    ensure!(!on_store.is_empty(), "no task on n1");
    let probes = watch(lab, &["n2", "n3"])?;
    let cut = Instant::now();
    lab.node("n1").cut()?;
    let_pass(FAILOVER + Duration::from_secs(2));
    judge(probes, cut, &on_store)?;

    step("commands elsewhere say that the store is away");
    let n3 = lab.node("n3");
    let said = eventually(SOON, "a command that says so", || {
        n3.mesh(["service", "scale", "--detach", "whoami=3"])?.complaint()
    })?;
    ensure!(said.contains("store") && said.contains("n1") && said.contains("away"), "{said}");

    step("the cable is back: the first change asked for is made, whatever n3 last heard of the store");
    lab.node("n1").mend()?;
    n3.mesh(["service", "scale", "--detach", "whoami=3"])?.ok()?;
    swarm.wait_ready(3, REPLACED)?;
    swarm.wait_running("whoami", 3, REPLACED)?;
    everything_answers(lab)
}

/// New connections from the client to each of these nodes, until judged.
fn watch(lab: &Lab, nodes: &[&str]) -> Result<Vec<(String, Probe)>> {
    let start = |name: &&str| Ok(((*name).to_owned(), lab.client().probe(lab.node(name).address(), 8000, PACE)?));
    nodes.iter().map(start).collect()
}

/// Nothing fails later than the time allowed after the cut, and no lost task is among those that answer then.
fn judge(probes: Vec<(String, Probe)>, cut: Instant, gone: &[String]) -> Result<()> {
    for (node, probe) in probes {
        let timeline = probe.stop();
        let last = timeline.last_failure_after(cut);
        step(&format!("by {node}: last failed new connection {last:.1?} after the cut; {}", timeline.describe()));
        ensure!(timeline.answered() > 0, "nothing was answered by {node}");
        ensure!(last.is_none_or(|last| last < FAILOVER), "by {node}: {}", timeline.describe());
        let after = timeline.tasks_between(cut + FAILOVER, Instant::now());
        ensure!(!after.iter().any(|task| gone.contains(task)), "{gone:?} answered: {after:?}");
    }
    Ok(())
}

fn everything_answers(lab: &Lab) -> Result<()> {
    for node in lab.nodes() {
        eventually(REPLACED, &format!("{} to answer the client and itself", node.name()), || {
            for _ in 0..6 {
                lab.client().ask(node.address(), 8000)?;
                node.ask("127.0.0.1", 8000)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}
