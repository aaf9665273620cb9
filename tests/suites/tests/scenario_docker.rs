//! Containers: Docker Swarm's tutorial with `mesh` where it says `docker`, on three nodes with an Engine each.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_lab::{Lab, Swarm, TaskRow, eventually, lacks_engine, scenario, skip, step};

const SOON: Duration = Duration::from_secs(10);

/// A scenario whose nodes have Engines, with the images `busybox` and `jwilder/whoami`.
fn docker_scenario(title: &str, nodes: &[&str], flags: &[&str], play: impl FnOnce(&Lab, &Swarm) -> Result<()>) {
    if let Some(reason) = lacks_engine() {
        return skip(title, &reason);
    }
    scenario(title, Lab::builder().nodes(nodes), |lab| {
        step("the Engines start");
        std::thread::scope(|scope| {
            let starting: Vec<_> = lab
                .nodes()
                .iter()
                .map(|node| {
                    scope.spawn(move || {
                        node.engine().start(flags)?;
                        node.engine().import_busybox()?;
                        node.engine().import_whoami()
                    })
                })
                .collect();
            starting.into_iter().try_for_each(|engine| engine.join().expect("no panic"))
        })?;
        step("the swarm forms");
        let swarm = Swarm::form(lab)?;
        swarm.mesh(["network", "create", "-d", "overlay", "demo"])?;
        play(lab, &swarm)
    });
}

fn the_task(swarm: &Swarm, service: &str) -> Result<TaskRow> {
    let tasks = swarm.wait_running(service, 1, SOON)?;
    tasks.into_iter().next().with_context(|| format!("no task of {service}"))
}

/// Who answers: the host name in whoami's first line.
fn answered_by(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim_start_matches("I'm ").to_owned()
}

#[test]
fn the_tutorial_word_for_word() {
    docker_scenario("Docker Swarm's tutorial, word for word", &["n1", "n2", "n3"], &[], |lab, swarm| {
        let n1 = swarm.node();
        step("mesh service create --name whoami -p 8000:8000 --network demo jwilder/whoami");
        let asked = Instant::now();
        swarm.mesh([
            "service",
            "create",
            "--name",
            "whoami",
            "-p",
            "8000:8000",
            "--network",
            "demo",
            "jwilder/whoami",
        ])?;
        let answer = n1.run(["curl", "-s", "--max-time", "5", "127.0.0.1:8000"])?.ok()?;
        step(&format!("first answer {:.2?} after `service create` was typed", asked.elapsed()));
        let task = the_task(swarm, "whoami")?;
        ensure!(answered_by(&answer) == task.id, "{answer} is not {task:?}");
        ensure!(swarm.replicas("whoami")? == "1/1");
        ensure!(swarm.mesh(["service", "ps", "whoami"])?.contains("whoami.1"));
        let listing = lab.node(&task.node).mesh(["ps"])?.ok()?;
        ensure!(listing.contains("whoami.1"), "{listing}");
        let names = lab.node(&task.node).engine().containers()?;
        ensure!(names.iter().any(|name| name.starts_with(&format!("whoami.1.{}", task.id))), "{names:?}");
        // From any node and from outside the cluster.
        for node in lab.nodes() {
            let who = lab.client().ask(node.address(), 8000)?.0.task;
            ensure!(who == task.id, "{} answers as {who}", node.name());
        }

        step("mesh service create --name client -d --network demo busybox sh -c 'while true;do sleep 3600;done'");
        swarm.mesh([
            "service",
            "create",
            "--name",
            "client",
            "-d",
            "--network",
            "demo",
            "busybox",
            "sh",
            "-c",
            "while true;do sleep 3600;done",
        ])?;
        let client = the_task(swarm, "client")?;
        let vip = swarm.vip("whoami")?;

        step("mesh exec -it <task id> sh: ping whoami, wget -qO- whoami:8000");
        let mut shell = n1.mesh_terminal(["exec", "-it", &client.id, "sh"])?;
        shell.line("hostname; ping -c 2 whoami; echo ping-$?")?;
        let screen = shell.until("ping-0", SOON)?;
        ensure!(screen.contains(&client.id) && screen.contains(&vip.to_string()), "{screen}");
        shell.line("wget -qO- whoami:8000; echo wget-$?")?;
        let screen = shell.until("wget-0", SOON)?;
        ensure!(screen.contains(&task.id), "{screen}");
        shell.line("exit 4")?;
        ensure!(shell.end(SOON)? == 4);

        step("mesh service scale whoami=2: the same VIP, wget alternates");
        swarm.scale("whoami", 2)?;
        ensure!(swarm.vip("whoami")? == vip);
        let both: BTreeSet<String> = swarm.wait_running("whoami", 2, SOON)?.into_iter().map(|task| task.id).collect();
        let mut last = String::new();
        eventually(SOON, "both in turn", || {
            let said =
                swarm.inside("client.1").run(&["sh", "-c", "for i in 1 2 3 4; do wget -qO- whoami:8000; done"])?;
            let who: Vec<String> = said.lines().filter(|line| line.starts_with("I'm ")).map(answered_by).collect();
            last = format!("{who:?}");
            ensure!(who.len() == 4 && who.iter().cloned().collect::<BTreeSet<_>>() == both, "{who:?} of {both:?}");
            ensure!(who[0] != who[1] && who[1] != who[2], "not in turn: {who:?}");
            Ok(())
        })?;

        step("mesh service rm: no container is left");
        swarm.mesh(["service", "rm", "whoami", "client"])?;
        eventually(Duration::from_secs(20), "no containers", || {
            for node in lab.nodes() {
                let left = node.engine().containers()?;
                ensure!(left.is_empty(), "{}: {left:?}", node.name());
            }
            Ok(())
        })
    });
}
