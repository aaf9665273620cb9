//! The agent may die at any time: packets go on, names resolve, tasks run, and the next agent takes them over.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_lab::{Lab, Node, Swarm, ask_as, eventually, scenario, steadily, step};

const SOON: Duration = Duration::from_secs(5);
const AWAY: Duration = Duration::from_secs(30);

#[test]
fn an_agent_dies_and_nobody_notices() {
    scenario("an agent dies and nobody notices", Lab::builder(), |lab| {
        let swarm = Swarm::form(lab)?;
        swarm.mesh(["network", "create", "demo"])?;
        let on = |node: &str| format!("node.hostname=={node}");
        swarm.create_whoami("whoami", &["--network", "demo", "-p", "8000:8000", "--constraint", &on("n2")])?;
        swarm.create_client("client", &["--network", "demo", "--constraint", &on("n1")])?;
        swarm.create_client("asker", &["--network", "demo", "--constraint", &on("n2")])?;
        everybody_dies_once(lab, &swarm, "n1", "client")?;
        everybody_dies_once(lab, &swarm, "n2", "asker")?;
        a_stopped_agent_leaves_tasks_alone(lab, &swarm)
    });
}

#[test]
fn a_restarted_agent_still_knows_who_is_out_of_reach() {
    scenario("a restarted agent still knows who is out of reach", Lab::builder(), |lab| {
        let swarm = Swarm::form(lab)?;
        swarm.mesh(["network", "create", "demo"])?;
        swarm.create_whoami("whoami", &["--network", "demo", "-p", "8000:8000", "--replicas", "3"])?;
        let tasks = swarm.wait_running("whoami", 3, SOON)?;
        ensure!(["n1", "n2", "n3"].iter().all(|node| tasks.iter().any(|task| task.node == *node)), "{tasks:?}");
        let n2 = lab.node("n2");

        step("the store's node is cut off: nobody replaces its task, the others just leave it out");
        lab.node("n1").cut()?;
        let all_answer = || (0..6).try_for_each(|_| lab.client().ask(n2.address(), 8000).map(drop));
        eventually(SOON, "only tasks in reach to be called", all_answer)?;

        step("the agent of n2 dies and comes back: no call is sent to the lost node meanwhile");
        let probe = lab.client().probe(n2.address(), 8000, Duration::from_millis(50))?;
        n2.kill()?;
        n2.start()?;
        // Longer than a new peer is given to answer.
        steadily(Duration::from_secs(7), "calls to tasks in reach", all_answer)?;
        let timeline = probe.stop();
        ensure!(timeline.failures().is_empty(), "{}", timeline.describe());

        step("the cable is back, and the node is called again");
        lab.node("n1").mend()?;
        let lost = tasks.iter().find(|task| task.node == "n1").context("no task on n1")?;
        eventually(Duration::from_secs(15), "an answer of the node that was lost", || {
            let answer = lab.client().ask(n2.address(), 8000)?;
            ensure!(answer.0.task == lost.id, "{:?} answered", answer.0);
            Ok(())
        })
    });
}

fn everybody_dies_once(lab: &Lab, swarm: &Swarm, victim: &str, client: &str) -> Result<()> {
    let node = lab.node(victim);
    let before = ids(swarm)?;
    let asker = task_process(node)?;
    let mut session = lab.client().http_session(node.address(), 8000)?;
    let task = session.get("/")?.whoami()?.task;
    let probe = lab.client().probe(node.address(), 8000, Duration::from_millis(50))?;
    step(&format!("kill -9 the agent of {victim}"));
    node.kill()?;
    let killed = Instant::now();

    step(&format!("for 30 s: names resolve in {client}.1, old and new connections are answered"));
    steadily(AWAY, "service without an agent", || {
        let answer = node.run(ask_as(asker, &["get", "whoami", "8000"]))?.ok()?;
        ensure!(answer.starts_with(&task), "{answer}");
        ensure!(session.get("/")?.whoami()?.task == task);
        node.ask("127.0.0.1", 8000).map(drop)
    })?;
    let others = swarm_elsewhere(lab, victim);
    ensure!(others.tasks("whoami").is_err() || others.running("whoami")?.len() == 1, "the task was replaced");

    step("the agent is started again and adopts its tasks");
    node.start()?;
    swarm.wait_ready(3, Duration::from_secs(15))?;
    eventually(SOON, "the same tasks as before", || {
        let after = ids(swarm)?;
        ensure!(after == before, "{after:?}, were {before:?}");
        Ok(())
    })?;
    ensure!(task_process(node)? == asker, "the task was restarted");
    let listed = node.mesh(["ps"])?.ok()?;
    ensure!(listed.contains(&format!("{client}.1")), "{listed}");
    let inside = format!("{client}.1");
    ensure!(swarm.node().mesh(["exec", &inside, "echo", "hello"])?.ok()? == "hello\n");
    let timeline = probe.stop();
    ensure!(timeline.failures().is_empty(), "since {:.1?}: {}", killed.elapsed(), timeline.describe());
    ensure!(session.get("/")?.whoami()?.task == task);

    step("and governs them: a change is applied");
    swarm.scale("whoami", 2)?;
    swarm.scale("whoami", 1)?;
    swarm.wait_running("whoami", 1, Duration::from_secs(15)).map(drop)
}

fn a_stopped_agent_leaves_tasks_alone(lab: &Lab, swarm: &Swarm) -> Result<()> {
    step("SIGTERM and a new start are as harmless");
    let node = lab.node("n2");
    let asker = task_process(node)?;
    let probe = lab.client().probe(node.address(), 8000, Duration::from_millis(50))?;
    node.restart()?;
    swarm.wait_ready(3, Duration::from_secs(15))?;
    ensure!(task_process(node)? == asker);
    let timeline = probe.stop();
    ensure!(timeline.failures().is_empty(), "{}", timeline.describe());

    step("while no agent runs, commands say so");
    node.stop()?;
    let said = node.mesh(["ps"])?.complaint()?;
    ensure!(said.contains("agent"), "{said}");
    node.start()?;
    swarm.wait_ready(3, Duration::from_secs(15))
}

/// A manager that is not the victim.
fn swarm_elsewhere<'a>(lab: &'a Lab, victim: &str) -> Swarm<'a> {
    Swarm::seen_from(lab, if victim == "n1" { "n3" } else { "n1" })
}

/// Ids of all running tasks.
fn ids(swarm: &Swarm) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for service in ["whoami", "client", "asker"] {
        ids.extend(swarm.running(service)?.into_iter().map(|task| task.id));
    }
    ids.sort();
    Ok(ids)
}

/// The process of the task that sleeps, on this node: the innermost one, not its supervisor.
fn task_process(node: &Node) -> Result<u32> {
    let processes = node.processes();
    let found = processes.iter().find(|(_, command)| command == "sleep 3600");
    Ok(found.with_context(|| format!("no sleeping task among {processes:?}"))?.0)
}
