//! Chapters 9 to 11: cut cables, a killed agent, and the end of it all.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_lab::{Footprint, Probe, eventually};

use super::stage::{SOON, Stage};

/// Between two questions of a probe.
const PACE: Duration = Duration::from_millis(100);
/// From the cut until the last connection may fail.
const MOVED: Duration = Duration::from_secs(5);
/// From the cut until replacements run.
const REPLACED: Duration = Duration::from_secs(15);
/// From a mended cable until everything answers.
const HEALED: Duration = Duration::from_secs(30);
/// How long the agent is away.
const AWAY: Duration = Duration::from_secs(30);

pub fn cable(stage: &Stage) -> Result<()> {
    let wanted = stage.running("n1", "whoami")?.len();
    let victim = "n2";
    stage.say(&format!("The client asks n1 ten times a second; {victim}'s cable is pulled."));
    let probe = probe(stage, "n1")?;
    eventually(SOON, "answers before the cut", || stage.lab.client().ask(stage.address("n1")?, 8000))?;
    let cut = Instant::now();
    stage.lab.node(victim).cut()?;
    stage.until("n1", "mesh node ls", MOVED, |output| {
        ensure!(output.stdout.lines().any(|line| line.contains(" n2 ") && line.contains("Down")), "n2 is not down");
        Ok(())
    })?;
    let left = REPLACED.saturating_sub(cut.elapsed());
    stage.until("n1", "mesh service ps whoami", left, |_| {
        let running = stage.running("n1", "whoami")?;
        ensure!(
            running.len() == wanted && running.iter().all(|task| task.node != victim),
            "still on {victim}, or too few"
        );
        Ok(())
    })?;
    println!("   Replaced {:.1} s after the cut.", cut.elapsed().as_secs_f32());
    judge(probe, cut)?;
    stage.lab.node(victim).mend()?;
    answers_on(stage, victim)?;

    stage.say("Now n1, where the store is: the others go on, and say who is away when asked for a change.");
    let probe = self::probe(stage, "n3")?;
    let cut = Instant::now();
    stage.lab.node("n1").cut()?;
    stage.until("n3", "mesh service scale whoami=3", REPLACED, |output| {
        ensure!(!output.success(), "a change was accepted without the store");
        ensure!(output.stderr.contains("store"), "the refusal doesn't name the store: {}", output.stderr.trim());
        Ok(())
    })?;
    eventually(MOVED.saturating_sub(cut.elapsed()), "five answers in a row by n3", || {
        (0..5).try_for_each(|_| stage.lab.client().ask(stage.address("n3")?, 8000).map(drop))
    })?;
    judge(probe, cut)?;
    stage.lab.node("n1").mend()?;
    for node in ["n1", "n2", "n3"] {
        answers_on(stage, node)?;
    }
    stage.until("n1", "mesh node ls", HEALED, |output| {
        let ready = output.stdout.lines().filter(|line| line.contains(" Ready ")).count();
        ensure!(ready == 3, "{ready} nodes are ready");
        Ok(())
    })
}

pub fn agent(stage: &Stage) -> Result<()> {
    let victim = stage.lab.node("n2");
    stage.done(
        "n1",
        "mesh service create --runtime exec --name watch --network demo --constraint node.hostname==n2 \
         sh -c 'while :; do getent hosts whoami || echo LOST; sleep 1; done'",
    )?;
    let before = tasks_of(stage, "n2")?;
    ensure!(!before.is_empty(), "n2 runs no task: the step would prove nothing");
    stage.done("n2", "mesh ps")?;
    let probe = probe(stage, "n2")?;
    let pid = victim.agent_pid().context("n2 has no agent")?;
    println!("\nn2$ kill -9 {pid}");
    let killed = Instant::now();
    victim.kill()?;
    stage.say(
        "For 30 seconds nobody is home on n2. The client goes on asking it, and a task there goes on resolving names.",
    );
    mesh_lab::let_pass(AWAY.saturating_sub(killed.elapsed()));
    victim.start()?;
    stage.until("n2", "mesh ps", SOON, |_| {
        let after = tasks_of(stage, "n2")?;
        ensure!(after == before, "other tasks than before: {before:?}, now {after:?}");
        Ok(())
    })?;
    let timeline = probe.stop();
    println!("   {}", timeline.describe());
    ensure!(timeline.failures().is_empty(), "connections failed while the agent was away");
    let log = stage.run("n1", "mesh service logs watch")?.ok()?;
    let looked = log.lines().count();
    println!("   The task on n2 looked up `whoami` {looked} times.");
    ensure!(looked >= 25 && !log.contains("LOST"), "names were lost while the agent was away:\n{log}");
    stage.done("n1", "mesh service rm watch")?;
    Ok(())
}

pub fn nothing_left(stage: &Stage) -> Result<()> {
    stage.done("n1", "mesh service rm whoami client")?;
    stage.until("n1", "mesh service ls", SOON, |output| {
        ensure!(output.stdout.lines().count() == 1, "services are still listed");
        Ok(())
    })?;
    stage.until("n1", "mesh network rm demo", SOON, |output| output.clone().ok())?;
    stage.done("n2", "mesh swarm leave")?;
    stage.done("n3", "mesh swarm leave --force")?;
    stage.done("n1", "mesh swarm leave --force")?;
    for (node, untouched) in stage.lab.nodes().iter().zip(&stage.untouched) {
        stage.done(node.name(), "mesh purge")?;
        if node.is_running() {
            node.stop()?;
        }
        eventually(SOON, &format!("{} to be as before", node.name()), || {
            let left = Footprint::of(node)?.since(untouched);
            ensure!(left.is_empty(), "{} keeps traces of mesh:\n{left}", node.name());
            Ok(())
        })?;
        println!(
            "   {}: links, addresses, routes, sysctls, pins, cgroups, processes as before the first start.",
            node.name()
        );
    }
    Ok(())
}

/// The client asks a node's published port, ten times a second, each on a new connection.
fn probe(stage: &Stage, node: &str) -> Result<Probe> {
    stage.lab.client().probe(stage.address(node)?, 8000, PACE)
}

/// Ends the probe: connections may have failed for a while after the cut, but no longer.
fn judge(probe: Probe, cut: Instant) -> Result<()> {
    let timeline = probe.stop();
    println!("   {}", timeline.describe());
    match timeline.last_failure_after(cut) {
        None => println!("   No connection failed."),
        Some(last) => {
            println!("   The last failed connection began {:.1} s after the cut.", last.as_secs_f32());
            ensure!(last <= MOVED, "connections failed for {last:?}, longer than {MOVED:?}");
        }
    }
    Ok(())
}

/// The published port of a node answers from outside of it.
fn answers_on(stage: &Stage, node: &str) -> Result<()> {
    let line = format!("curl -sS -m 3 http://{}:8000/", stage.address(node)?);
    stage.until("client", &line, HEALED, |output| {
        ensure!(output.stdout.starts_with("I'm "), "no answer by {node}");
        Ok(())
    })
}

/// Ids of the tasks that a node runs.
fn tasks_of(stage: &Stage, node: &str) -> Result<Vec<String>> {
    let mut ids: Vec<String> = stage.run(node, "mesh ps -q")?.ok()?.lines().map(str::to_owned).collect();
    ids.sort();
    Ok(ids)
}
