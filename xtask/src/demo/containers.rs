//! Chapter 4: containers, if this machine can start Engines; the tutorial's other chapters need none.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Engine, eventually, lacks_engine};

use super::stage::{SOON, Stage, take_turns, tasks};

/// Until containers are gone: `sleep` as a first process ignores SIGTERM, and has ten seconds to mind.
const STOPPED: Duration = Duration::from_secs(30);

/// Three Engines, their containerds and the first container on two busy cores.
const STARTED: Duration = Duration::from_secs(60);

pub fn images(stage: &Stage) -> Result<()> {
    stage.say("An image is run by a node's Docker Engine. The demo's nodes have none yet, and mesh says so:");
    let said = stage.refused("n1", "mesh service create -d --name web nginx:latest")?;
    ensure!(said.contains("nginx:latest") && said.contains("docker.io"), "no word about the missing Engine: {said}");
    if let Some(reason) = lacks_engine() {
        stage.say(&format!("This machine can start none: {reason}. The rest of the demo needs none."));
        return Ok(());
    }
    stage.say("An Engine starts on each node; the images come from files.");
    let engines: Vec<&Engine> = stage.lab.nodes().iter().map(|node| node.engine()).collect();
    std::thread::scope(|scope| {
        let starting: Vec<_> = (engines.iter())
            .map(|engine| {
                scope.spawn(|| {
                    engine.start(&[])?;
                    engine.import_busybox()?;
                    engine.import_whoami()
                })
            })
            .collect();
        starting.into_iter().try_for_each(|engine| engine.join().expect("no panic"))
    })?;
    // Until the agents have heard of them.
    let create = "mesh service create --name web -p 8002:8000 --network demo jwilder/whoami";
    stage.until("n1", create, STARTED, |output| output.clone().ok().map(drop))?;
    stage.until("n1", "curl -sS -m 3 http://127.0.0.1:8002/", SOON, |output| {
        ensure!(tasks(&output.stdout).len() == 1, "no answer on port 8002");
        Ok(())
    })?;
    stage.done("n1", "mesh service scale web=3")?;
    stage.done("n1", "mesh service ps web")?;
    let address = stage.address("n2")?;
    let six = format!("for i in 1 2 3 4 5 6; do curl -sS -m 3 http://{address}:8002/ | head -n 1; done");
    stage.until("client", &six, SOON, |output| {
        let told = tasks(&output.stdout);
        ensure!(told.len() == 6, "{} of 6 requests were answered", told.len());
        take_turns(&told, 3)
    })?;
    stage.say("A container finds the task of the chapter before by its name:");
    stage.done("n1", "mesh service create --name box --network demo busybox sleep 3600")?;
    let inside = stage.running("n1", "box")?.into_iter().next().context("no task of box runs")?;
    stage.until("n1", &format!("mesh exec {} wget -qO- http://whoami:8000/", inside.id), SOON, |output| {
        ensure!(tasks(&output.stdout).len() == 1, "whoami did not answer");
        Ok(())
    })?;
    stage.done("n1", "mesh service rm web box")?;
    stage.until("n1", "mesh ps", SOON, |output| {
        ensure!(!output.stdout.contains("web.") && !output.stdout.contains("box."), "a container is still there");
        Ok(())
    })?;
    eventually(STOPPED, "the Engines to have no container left", || {
        engines.iter().try_for_each(|engine| {
            let left = engine.containers()?;
            ensure!(left.is_empty(), "there are {left:?}");
            Ok(())
        })
    })?;
    engines.iter().try_for_each(|engine| engine.take_away())
}
