//! A node that has not heard of a task's end still sends calls to it: they are answered by another task, at once.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_lab::{Lab, Node, Swarm, TaskRow, ask_as, eventually, scenario, step};

const SOON: Duration = Duration::from_secs(5);
/// Under the second after which TCP sends its SYN again: whoever waited for that was not chosen for again.
const AT_ONCE: Duration = Duration::from_millis(900);

#[test]
fn calls_to_a_task_that_just_died_reach_another() {
    scenario("calls to a task that just died reach another", Lab::builder(), |lab| {
        let swarm = Swarm::form(lab)?;
        swarm.mesh(["network", "create", "demo"])?;
        swarm.create_client("client", &["--network", "demo", "--constraint", "node.hostname==n1"])?;
        let flags =
            ["--network", "demo", "-p", "8000:8000", "-p", "8000:8000/udp", "--constraint", "node.hostname!=n1"];
        swarm.create_whoami("whoami", &[&flags[..], &["--replicas", "2"]].concat())?;
        let tasks = swarm.running("whoami")?;
        let doomed = tasks.iter().find(|task| task.node == "n2").expect("one on n2").clone();
        let left = tasks.iter().find(|task| task.node == "n3").expect("one on n3").clone();
        let asker = task_process(lab.node("n1"), "sleep 3600")?;
        let victim = task_process(lab.node("n2"), "whoami")?;

        step("n1's agent is away: it hears of nothing, and nothing is replaced");
        lab.node("n1").kill()?;
        step("the task on n2 dies");
        lab.node("n2").run(["kill", "-9", &victim.to_string()])?.ok()?;
        eventually(SOON, "n2 knows that its task is gone", || {
            let listed = lab.node("n2").mesh(["ps"])?.ok()?;
            ensure!(!listed.contains(&doomed.name), "{listed}");
            Ok(())
        })?;
        eventually(SOON, "n2's programs know it, too, which are told after", || {
            let begun = Instant::now();
            lab.client().ask(lab.node("n1").address(), 8000)?;
            ensure!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
            Ok(())
        })?;
        all_reach(lab, &left, asker)
    });
}

/// From outside by n1, from its host and from its task: TCP and UDP.
fn all_reach(lab: &Lab, left: &TaskRow, asker: u32) -> Result<()> {
    let n1 = lab.node("n1");
    let served = |what: &str, begun: Instant, task: &str| {
        ensure!(task == left.id, "{what}: answered by {task}");
        ensure!(begun.elapsed() < AT_ONCE, "{what}: {:?}", begun.elapsed());
        Ok(())
    };
    for turn in 0..10 {
        let begun = Instant::now();
        served(&format!("outside, TCP {turn}"), begun, &lab.client().ask(n1.address(), 8000)?.0.task)?;
        let begun = Instant::now();
        served(&format!("outside, UDP {turn}"), begun, &lab.client().udp_ask(n1.address(), 8000)?.0.task)?;
        let begun = Instant::now();
        served(&format!("host, TCP {turn}"), begun, &n1.ask("127.0.0.1", 8000)?.0.task)?;
        for words in [["get", "whoami", "8000"], ["udp", "whoami", "8000"]] {
            let begun = Instant::now();
            let answer = n1.run(ask_as(asker, &words))?.ok()?;
            ensure!(answer.starts_with(&left.id), "{words:?} {turn}: {answer}");
            ensure!(begun.elapsed() < AT_ONCE, "{words:?} {turn}: {:?}", begun.elapsed());
        }
    }
    Ok(())
}

/// The innermost process of the task on this node whose command contains `word`.
fn task_process(node: &Node, word: &str) -> Result<u32> {
    let processes = node.processes();
    let found =
        processes.iter().find(|(_, command)| command.starts_with(word) || command.contains(&format!("/{word} ")));
    Ok(found.with_context(|| format!("no {word} among {processes:?}"))?.0)
}
