//! Only healthy tasks get traffic: in when a task first passes its healthcheck, out before it is stopped, and through the agent's death.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_lab::{Lab, Probe, Swarm, TaskRow, eventually, scenario, steadily, step};

const SOON: Duration = Duration::from_secs(5);
/// Verdict, drain, end, restart delay, start, first pass.
const REPLACED: Duration = Duration::from_secs(15);
const PACE: Duration = Duration::from_millis(10);

#[test]
fn only_healthy_tasks_get_traffic() {
    scenario("only healthy tasks get traffic", Lab::builder(), |lab| {
        let swarm = Swarm::form(lab)?;
        swarm.mesh(["network", "create", "demo"])?;
        swarm.create_client("client", &["--network", "demo"])?;
        let flags = Flags::new(lab)?;
        nobody_before_the_first_pass(lab, &swarm, &flags)?;
        all_failing_is_refused(lab, &swarm, &flags)?;
        one_failing_is_not_noticed(lab, &swarm, &flags)?;
        an_agents_death_is_not_noticed(lab, &swarm, &flags)?;
        never_healthy_never_converges(&swarm)
    });
}

/// What the check looks at: a file for all tasks, and one against each.
struct Flags(PathBuf);

impl Flags {
    fn new(lab: &Lab) -> Result<Flags> {
        let dir = lab.dir().join("health");
        std::fs::create_dir_all(&dir)?;
        Ok(Flags(dir))
    }

    fn check(&self) -> String {
        let dir = self.0.display();
        format!("test -f {dir}/ok && ! test -e {dir}/bad.$(hostname) || {{ echo out of order; exit 1; }}")
    }

    fn ok(&self) -> PathBuf {
        self.0.join("ok")
    }

    fn bad(&self, task: &TaskRow) -> PathBuf {
        self.0.join(format!("bad.{}", task.id))
    }
}

fn touch(path: &Path) -> Result<()> {
    std::fs::write(path, "").with_context(|| format!("write {}", path.display()))
}

/// The tasks that are wanted, with health as JSON has it.
fn health(swarm: &Swarm) -> Result<Vec<(String, String)>> {
    let rows = swarm.json(["service", "ps", "--format", "json", "whoami"])?;
    let wanted = rows.iter().filter(|row| row["DesiredState"] == "Running");
    let text = |row: &serde_json::Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    Ok(wanted.map(|row| (text(row, "CurrentState"), text(row, "Health"))).collect())
}

fn refused_everywhere(lab: &Lab, swarm: &Swarm) -> Result<()> {
    for node in lab.nodes() {
        let attempt = lab.client().tcp_connect(node.address(), 8000)?;
        ensure!(attempt.is_refused(), "client to {}: {attempt:?}", node.name());
    }
    let inside = swarm.inside("client.1");
    for name in ["whoami", "tasks.whoami", "1.whoami"] {
        let found = inside.names(name);
        ensure!(found.is_err(), "{name} resolves to {found:?}");
    }
    Ok(())
}

fn nobody_before_the_first_pass(lab: &Lab, swarm: &Swarm, flags: &Flags) -> Result<()> {
    step("mesh service create --detach --health-cmd … : Starting, in no table, without a name");
    let check = flags.check();
    let health_flags = ["--health-cmd", &check, "--health-interval", "200ms", "--health-timeout", "5s"];
    // A start period in which failures don't count: long enough to look around.
    let patience = ["--health-retries", "2", "--health-start-period", "60s", "--health-start-interval", "100ms"];
    let rest = ["--detach", "--network", "demo", "-p", "8000:8000", "--replicas", "2", "--restart-delay", "500ms"];
    swarm.create_whoami("whoami", &[&health_flags[..], &patience, &rest].concat())?;
    eventually(SOON, "two starting tasks", || {
        let seen = health(swarm)?;
        let starting = |(state, health): &(String, String)| state.starts_with("Starting") && health == "starting";
        ensure!(seen.len() == 2 && seen.iter().all(starting), "{seen:?}");
        Ok(())
    })?;
    steadily(Duration::from_secs(2), "nobody is sent there", || refused_everywhere(lab, swarm))?;
    ensure!(swarm.replicas("whoami")? == "0/2", "{}", swarm.replicas("whoami")?);
    let listing = swarm.mesh(["service", "ps", "whoami"])?;
    ensure!(listing.contains("(health: starting)"), "{listing}");

    step("the check passes: Running (healthy), answered and resolved");
    let passed = Instant::now();
    touch(&flags.ok())?;
    let tasks = swarm.wait_running("whoami", 2, SOON)?;
    step(&format!("both run {:.1?} after the check could pass", passed.elapsed()));
    answered_everywhere(lab, swarm)?;
    ensure!(swarm.inside("client.1").names("tasks.whoami")?.len() == 2);
    let listing = swarm.mesh(["service", "ps", "whoami"])?;
    ensure!(listing.matches("(healthy)").count() == 2, "{listing}");
    let local = lab.node(&tasks[0].node).mesh(["ps"])?.ok()?;
    ensure!(local.contains("(healthy)"), "{local}");
    Ok(())
}

fn answered_everywhere(lab: &Lab, swarm: &Swarm) -> Result<()> {
    eventually(SOON, "answers on every node and from within", || {
        for node in lab.nodes() {
            lab.client().ask(node.address(), 8000)?;
        }
        ensure!(swarm.inside("client.1").get("whoami", 8000, 4)?.len() == 4);
        Ok(())
    })
}

fn all_failing_is_refused(lab: &Lab, swarm: &Swarm, flags: &Flags) -> Result<()> {
    step(
        "the check fails in both: refused at once instead of silent, replaced by tasks that wait for their first pass",
    );
    let before = swarm.wait_running("whoami", 2, SOON)?;
    std::fs::remove_file(flags.ok())?;
    eventually(REPLACED, "refusals everywhere, no name, two new tasks", || {
        refused_everywhere(lab, swarm)?;
        let seen = health(swarm)?;
        let starting = |(state, health): &(String, String)| state.starts_with("Starting") && health == "starting";
        ensure!(seen.len() == 2 && seen.iter().all(starting), "{seen:?}");
        Ok(())
    })?;
    let ended = swarm.tasks("whoami")?.into_iter().filter(|row| before.iter().any(|task| task.id == row.id));
    let ended: Vec<TaskRow> = ended.collect();
    let as_told =
        |row: &TaskRow| row.current.starts_with("Failed") && row.error == "task: unhealthy: exit 1: out of order";
    ensure!(ended.len() == 2 && ended.iter().all(as_told), "{ended:#?}");
    touch(&flags.ok())?;
    swarm.wait_running("whoami", 2, REPLACED)?;
    answered_everywhere(lab, swarm)
}

fn one_failing_is_not_noticed(lab: &Lab, swarm: &Swarm, flags: &Flags) -> Result<()> {
    let before = swarm.wait_running("whoami", 2, SOON)?;
    let victim = &before[0];
    step(&format!(
        "one of two fails its check ({} on {}), under new connections to every node",
        victim.id, victim.node
    ));
    let probes = watch(lab)?;
    let failed = Instant::now();
    touch(&flags.bad(victim))?;
    let inside = swarm.inside("client.1");
    let mut within = 0;
    let after = eventually(REPLACED, "another task in its place", || {
        within += inside.get("whoami", 8000, 5)?.len();
        let tasks = swarm.running("whoami")?;
        ensure!(tasks.len() == 2 && tasks.iter().all(|task| task.id != victim.id), "{tasks:#?}");
        Ok(tasks)
    })?;
    step(&format!("replaced {:.1?} after the check could fail", failed.elapsed()));
    let fresh = after.iter().find(|task| task.id != before[1].id).context("the new task")?;
    eventually(SOON, "the new task answers", || {
        let seen = inside.get("whoami", 8000, 4)?;
        within += seen.len();
        ensure!(seen.iter().any(|one| one.task == fresh.id), "{seen:?}");
        Ok(())
    })?;
    judge(probes)?;
    step(&format!("and {within} of {within} from a task"));
    Ok(())
}

fn an_agents_death_is_not_noticed(lab: &Lab, swarm: &Swarm, flags: &Flags) -> Result<()> {
    let before = swarm.wait_running("whoami", 2, SOON)?;
    let node = lab.node(&before[0].node);
    step(&format!("kill -9 the agent of {} and start it again: its healthy task stays in all tables", node.name()));
    let probes = watch(lab)?;
    node.kill()?;
    let inside = lab.nodes().iter().find(|other| other.name() != node.name()).context("another node")?;
    let answers = || inside.ask("127.0.0.1", 8000).map(drop);
    steadily(Duration::from_secs(2), "answers without its agent", answers)?;
    node.start()?;
    swarm.wait_ready(3, REPLACED)?;
    steadily(Duration::from_secs(2), "answers with its new agent", answers)?;

    step("and four times more in a row");
    for _ in 0..4 {
        node.kill()?;
        node.start()?;
        swarm.wait_ready(3, REPLACED)?;
        steadily(Duration::from_millis(200), "answers with its new agent", answers)?;
    }
    let after = swarm.wait_running("whoami", 2, SOON)?;
    let ids = |tasks: &[TaskRow]| tasks.iter().map(|task| task.id.clone()).collect::<BTreeSet<_>>();
    ensure!(ids(&after) == ids(&before), "{after:?} {before:?}");
    let answered = judge(probes)?;
    let by_it = answered.iter().filter(|task| **task == before[0].id).count();
    // Turns are strict: whatever it was out of a table for is missing here.
    ensure!(by_it * 5 > answered.len() * 2, "its task answered {by_it} of {}", answered.len());

    step("the new agent goes on probing");
    touch(&flags.bad(&before[0]))?;
    eventually(REPLACED, "another task in its place", || {
        let tasks = swarm.running("whoami")?;
        ensure!(tasks.len() == 2 && tasks.iter().all(|task| task.id != before[0].id), "{tasks:#?}");
        Ok(())
    })
}

fn never_healthy_never_converges(swarm: &Swarm) -> Result<()> {
    step("a service that is never healthy: `service create` says so and fails");
    let create = ["service", "create", "--runtime", "exec", "--name", "sick", "--restart-delay", "100ms"];
    let check = ["--health-cmd", "echo no use; false", "--health-interval", "100ms", "--health-retries", "1"];
    let ended = swarm.node().mesh(create.into_iter().chain(check).chain(["sleep", "3600"]))?;
    let said = &ended.stderr;
    ensure!(
        ended.status == 1 && said.contains("did not converge") && said.contains("task: unhealthy: exit 1: no use"),
        "{said}"
    );

    step("without its check it runs");
    swarm.mesh(["service", "update", "--no-healthcheck", "sick"])?;
    swarm.wait_running("sick", 1, SOON)?;
    let listing = swarm.mesh(["service", "ps", "sick"])?;
    let present = listing.lines().nth(1).unwrap_or_default();
    ensure!(present.contains("Running") && !present.contains("health"), "{listing}");
    Ok(())
}

/// New connections from the client to one node, and from every node to itself. Not from the client to several: a task sees the client's own
/// address and port, so two connections that differ in the node alone are one to it.
fn watch(lab: &Lab) -> Result<Vec<(String, Probe)>> {
    let first = &lab.nodes()[0];
    let outside = (format!("the client's {}", first.name()), lab.client().probe(first.address(), 8000, PACE)?);
    let mut probes = vec![outside];
    for node in lab.nodes() {
        probes.push((format!("{} itself", node.name()), node.probe(std::net::Ipv4Addr::LOCALHOST, 8000, PACE)?));
    }
    Ok(probes)
}

/// None of them may have failed; the tasks that answered.
fn judge(probes: Vec<(String, Probe)>) -> Result<Vec<String>> {
    let mut tasks = Vec::new();
    for (node, probe) in probes {
        let timeline = probe.stop();
        ensure!(timeline.failures().is_empty() && timeline.answered() > 20, "through {node}: {}", timeline.describe());
        step(&format!("through {node}: {}", timeline.describe()));
        let answered = timeline.samples.iter().filter_map(|sample| sample.outcome.as_ref().ok().cloned());
        tasks.extend(answered);
    }
    Ok(tasks)
}
