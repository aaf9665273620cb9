//! Where the kernel has no TCX, programs are filters of clsact: the same service, the same restart, and nothing left of it.
//!
//! Played on this kernel by `--tc clsact`; on one that has nothing else, by `cargo xtask verify`.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Footprint, Lab, Node, Swarm, eventually, scenario, step};

const SOON: Duration = Duration::from_secs(10);
/// A round of the agent happens within 10 seconds.
const A_ROUND: Duration = Duration::from_secs(20);

#[test]
fn filters_serve_survive_and_leave_nothing() {
    let lab = Lab::builder().nodes(["n1", "n2"]).agent_args(["--tc=clsact"]);
    scenario("filters serve, survive, and leave nothing", lab, |lab| {
        step("a queueing discipline at n2's eth0 is the user's own");
        lab.node("n2").run(["tc", "qdisc", "add", "dev", "eth0", "clsact"])?.ok()?;
        let before = lab.nodes().iter().map(Footprint::settled).collect::<Result<Vec<_>>>()?;
        let swarm = Swarm::form(lab)?;
        swarm.mesh(["network", "create", "demo"])?;
        let on = |node: &str| format!("node.hostname=={node}");
        swarm.create_whoami("whoami", &["--network", "demo", "-p", "8000:8000", "--constraint", &on("n2")])?;
        swarm.create_client("client", &["--network", "demo", "--constraint", &on("n1")])?;
        let task = swarm.wait_running("whoami", 1, SOON)?.remove(0).id;
        for node in lab.nodes() {
            ensure!(!filter(node)?.is_empty());
            let links = std::fs::read_dir(layout(node)?.join("links"))?.flatten();
            let links: Vec<_> = links.map(|link| link.file_name()).collect();
            ensure!(!links.iter().any(|link| link.to_string_lossy().starts_with("from_")), "{links:?}");
        }

        step("the task answers: from outside by both nodes, from the nodes, from another task by name");
        everybody_is_answered(lab, &swarm, &task)?;

        step("its agent is killed and comes back: the filter has the new program, and no call is lost");
        for node in lab.nodes() {
            let mut session = lab.client().http_session(node.address(), 8000)?;
            let probe = lab.client().probe(node.address(), 8000, Duration::from_millis(50))?;
            let program = filter(node)?;
            node.kill()?;
            ensure!(session.get("/")?.whoami()?.task == task);
            node.start()?;
            // Its socket is there before its programs are.
            eventually(A_ROUND, "the next agent's program in the filter", || {
                ensure!(filter(node)? != program, "the former program is still at work");
                Ok(())
            })?;
            swarm.wait_ready(2, Duration::from_secs(15))?;
            ensure!(session.get("/")?.whoami()?.task == task);
            let timeline = probe.stop();
            ensure!(timeline.failures().is_empty(), "{}", timeline.describe());
        }

        step("somebody takes a filter away: the next round puts it there again");
        let n1 = lab.node("n1");
        n1.run(["tc", "qdisc", "del", "dev", "eth0", "clsact"])?.ok()?;
        eventually(A_ROUND, "the filter of n1", || filter(n1))?;
        everybody_is_answered(lab, &swarm, &task)?;
        let judged = n1.mesh(["doctor"])?;
        ensure!(
            judged.stdout.lines().any(|line| line.contains("hooks") && line.contains("ok")),
            "{}",
            judged.describe()
        );

        step("service rm, swarm leave, purge: as it was, the user's own included");
        swarm.mesh(["service", "rm", "whoami", "client"])?;
        lab.node("n2").mesh(["swarm", "leave", "--force"])?.ok()?;
        n1.mesh(["swarm", "leave", "--force"])?.ok()?;
        for (node, before) in lab.nodes().iter().zip(&before) {
            node.mesh(["purge"])?.ok()?;
            if node.is_running() {
                node.stop()?;
            }
            eventually(SOON, &format!("{} to be as it was", node.name()), || {
                let left = Footprint::of(node)?.since(before);
                ensure!(left.is_empty(), "{left}");
                Ok(())
            })?;
        }
        Ok(())
    });
}

#[test]
fn a_purge_in_the_midst_of_work_takes_filters_along() {
    let lab = Lab::builder().nodes(["n1"]).agent_args(["--tc=clsact"]);
    scenario("a purge in the midst of work takes filters along", lab, |lab| {
        let n1 = lab.node("n1");
        let before = Footprint::settled(n1)?;
        let swarm = Swarm::form(lab)?;
        swarm.mesh(["network", "create", "demo"])?;
        swarm.create_whoami("whoami", &["--network", "demo", "-p", "8000:8000"])?;
        lab.client().ask(n1.address(), 8000)?;
        step("the agent is dead, and its pins were removed by hand");
        n1.kill()?;
        ensure!(!filter(n1)?.is_empty());
        std::fs::remove_dir_all(n1.bpf_dir())?;
        let said = n1.mesh(["purge", "--state-dir", &n1.state_dir().display().to_string()])?.ok()?;
        ensure!(said.contains("from_uplink at the ingress of eth0"), "{said}");
        eventually(SOON, "n1 to be as it was", || {
            let left = Footprint::of(n1)?.since(&before);
            ensure!(left.is_empty(), "{left}");
            Ok(())
        })
    });
}

fn everybody_is_answered(lab: &Lab, swarm: &Swarm, task: &str) -> Result<()> {
    for node in lab.nodes() {
        let (told, answer) = eventually(SOON, "an answer", || lab.client().ask(node.address(), 8000))?;
        ensure!(told.task == task && told.caller == answer.local, "{told:?} {answer:?}");
        ensure!(node.ask("127.0.0.1", 8000)?.0.task == task);
    }
    let seen = swarm.inside("client.1").get("whoami", 8000, 3)?;
    ensure!(seen.iter().all(|one| one.task == task && one.caller == one.local), "{seen:?}");
    Ok(())
}

/// Number of the program in our filter at the node's uplink.
fn filter(node: &Node) -> Result<String> {
    let shown = node.run(["tc", "filter", "show", "dev", "eth0", "ingress"])?.ok()?;
    let ours = shown.lines().find(|line| line.contains("mesh:from_uplink"));
    let words = ours.with_context(|| format!("no filter of ours: {shown}"))?.split_whitespace();
    let id = words.skip_while(|word| *word != "id").nth(1);
    Ok(id.with_context(|| format!("the filter has no program: {shown}"))?.to_owned())
}

/// The folder of the layout that is at work.
fn layout(node: &Node) -> Result<std::path::PathBuf> {
    let mut folders = std::fs::read_dir(node.bpf_dir())?.flatten();
    Ok(folders.next().context("nothing is pinned")?.path())
}
