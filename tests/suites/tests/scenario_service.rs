//! The tutorial's heart: a service and a client on a network, names, turns, and scaling down to nothing and up again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_lab::{Lab, Swarm, TaskRow, eventually, scenario, step};

const SOON: Duration = Duration::from_secs(5);

#[test]
fn a_service_is_found_by_its_name_and_scaled() {
    scenario("a service is found by its name and scaled", Lab::builder(), |lab| {
        let swarm = Swarm::form(lab)?;
        swarm.mesh(["network", "create", "-d", "overlay", "demo"])?;
        create_and_look(lab, &swarm)?;
        names_and_echoes(&swarm)?;
        a_shell(&swarm)?;
        two_take_turns(&swarm)?;
        down_to_nothing_and_up(lab, &swarm)?;
        the_same_from_a_manifest(lab, &swarm)
    });
}

fn create_and_look(lab: &Lab, swarm: &Swarm) -> Result<()> {
    step("an image where no node has an Engine is refused with words");
    let said = swarm.node().mesh(["service", "create", "-d", "--name", "web", "nginx:1.27"])?.complaint()?;
    ensure!(said.contains("nginx:1.27") && said.contains("docker.io") && said.contains("--runtime exec"), "{said}");

    step("mesh service create --runtime exec --name whoami -p 8000:8000 --network demo …");
    let asked = Instant::now();
    swarm.create_whoami("whoami", &["-p", "8000:8000", "--network", "demo"])?;
    let first = lab.client().ask(swarm.node().address(), 8000)?.0.task;
    step(&format!("first answer {:.2?} after `service create` was typed", asked.elapsed()));
    ensure!(swarm.replicas("whoami")? == "1/1");
    let task = the_task(swarm, "whoami")?;
    ensure!(task.id == first && task.name == "whoami.1", "{task:?}");
    let listing = swarm.mesh(["service", "ps", "whoami"])?;
    for wanted in ["NAME", "NODE", "DESIRED STATE", "CURRENT STATE", "whoami.1", task.node.as_str(), "Running"] {
        ensure!(listing.contains(wanted), "no {wanted} in:\n{listing}");
    }
    let vip = swarm.vip("whoami")?;
    ensure!(vip.octets()[0] == 10, "{vip}");

    step("two clients: one beside whoami, one on another node");
    let (near, far) = (format!("node.hostname=={}", task.node), format!("node.hostname!={}", task.node));
    swarm.create_client("client", &["--network", "demo", "--constraint", &far])?;
    swarm.create_client("near", &["--network", "demo", "--constraint", &near])?;
    ensure!(the_task(swarm, "client")?.node != task.node && the_task(swarm, "near")?.node == task.node);
    let said =
        swarm.node().mesh(["service", "create", "--runtime", "exec", "--name", "whoami", "sleep", "1"])?.complaint()?;
    ensure!(said.contains("whoami"), "{said}");
    Ok(())
}

fn names_and_echoes(swarm: &Swarm) -> Result<()> {
    let vip = swarm.vip("whoami")?;
    for client in ["client.1", "near.1"] {
        step(&format!("mesh exec {client} ping -c 3 whoami"));
        let inside = swarm.inside(client);
        ensure!(inside.names("whoami")? == [vip], "{:?}", inside.names("whoami"));
        ensure!(inside.ping("whoami", 3)? == 3);
        if swarm.node().run(["sh", "-c", "command -v ping"])?.success() {
            let said = inside.run(&["ping", "-c", "3", "-i", "0.2", "whoami"])?;
            ensure!(said.contains(" 0% packet loss") && said.contains(&vip.to_string()), "{said}");
        }
        let seen = inside.get("whoami", 8000, 2)?;
        ensure!(seen.iter().all(|one| one.caller == one.local), "the task sees another caller: {seen:?}");
        let seen = inside.udp("whoami", 8000, 2)?;
        ensure!(seen.iter().all(|one| one.caller == one.local), "the task sees another caller: {seen:?}");
    }
    step("a port that nobody listens on is refused, on the VIP too");
    let (word, took) = swarm.inside("client.1").connect("whoami", 8001)?;
    ensure!(word == "refused" && took < Duration::from_secs(1), "{word} after {took:?}");
    Ok(())
}

fn a_shell(swarm: &Swarm) -> Result<()> {
    step("mesh exec -it client.1 sh is a usable shell");
    let client = the_task(swarm, "client")?;
    let mut shell = swarm.node().mesh_terminal(["exec", "-it", "client.1", "sh"])?;
    shell.line("echo it is $((40 + 2))")?;
    shell.until("it is 42", SOON)?;
    shell.line("cat /etc/hostname; echo is-$?")?;
    let screen = shell.until("is-0", SOON)?;
    ensure!(screen.contains(&client.id), "{screen}");
    shell.line("stty size; echo is-$?")?;
    let screen = shell.until("is-0", SOON)?;
    ensure!(screen.contains("24 80"), "{screen}");
    shell.resize(40, 120)?;
    // The new size travels beside the keys: ask until it is there, as a person would.
    eventually(SOON, "the new size of the window", || {
        shell.line("stty size; echo is-$?")?;
        let screen = shell.until("is-0", SOON)?;
        ensure!(screen.contains("40 120"), "{screen}");
        Ok(())
    })?;
    shell.line("sleep 100")?;
    shell.until("sleep 100", SOON)?;
    shell.keys("\x03")?;
    shell.line("echo still $((1 + 1))")?;
    shell.until("still 2", SOON)?;
    shell.line("exit 7")?;
    let code = shell.end(SOON)?;
    ensure!(code == 7, "the shell's exit code is {code}");
    let failed = swarm.node().mesh(["exec", "client.1", "sh", "-c", "echo out; echo err >&2; exit 3"])?;
    ensure!(
        (failed.status, failed.stdout.as_str(), failed.stderr.as_str()) == (3, "out\n", "err\n"),
        "{}",
        failed.describe()
    );
    Ok(())
}

fn two_take_turns(swarm: &Swarm) -> Result<()> {
    step("mesh service scale whoami=2: on two nodes, behind the same VIP");
    let vip = swarm.vip("whoami")?;
    swarm.scale("whoami", 2)?;
    let tasks = swarm.wait_running("whoami", 2, SOON)?;
    ensure!(tasks[0].node != tasks[1].node, "{tasks:?}");
    ensure!(swarm.vip("whoami")? == vip);
    let inside = swarm.inside("client.1");
    eventually(SOON, "two addresses of tasks.whoami", || {
        let found = inside.names("tasks.whoami")?;
        ensure!(found.len() == 2 && !found.contains(&vip.into()), "{found:?}");
        Ok(())
    })?;

    step("ten requests from client.1 alternate strictly");
    let ids: BTreeSet<String> = tasks.into_iter().map(|task| task.id).collect();
    let seen: Vec<String> = inside.get("whoami", 8000, 10)?.into_iter().map(|one| one.task).collect();
    ensure!(seen.windows(2).all(|pair| pair[0] != pair[1]), "{seen:?}");
    ensure!(seen.into_iter().collect::<BTreeSet<_>>() == ids);
    Ok(())
}

fn down_to_nothing_and_up(lab: &Lab, swarm: &Swarm) -> Result<()> {
    step("mesh service scale whoami=0: refused at once, and the name is gone");
    let vip = swarm.vip("whoami")?;
    swarm.scale("whoami", 0)?;
    ensure!(swarm.replicas("whoami")? == "0/0");
    let inside = swarm.inside("client.1");
    eventually(SOON, "refusals everywhere", || {
        for node in lab.nodes() {
            let attempt = lab.client().tcp_connect(node.address(), 8000)?;
            ensure!(attempt.is_refused(), "client to {}: {attempt:?}", node.name());
            let attempt = node.tcp_connect(std::net::Ipv4Addr::LOCALHOST, 8000)?;
            ensure!(attempt.is_refused(), "{} to itself: {attempt:?}", node.name());
        }
        let (word, took) = inside.connect(vip, 8000)?;
        ensure!(word == "refused" && took < Duration::from_secs(1), "to the VIP: {word} after {took:?}");
        ensure!(inside.names("whoami").is_err(), "the name is there: {:?}", inside.names("whoami"));
        ensure!(inside.ping(vip, 1)? == 0, "the VIP answers echoes without a task");
        Ok(())
    })?;

    step("mesh service scale whoami=5: five ids");
    swarm.scale("whoami", 5)?;
    let tasks = swarm.wait_running("whoami", 5, Duration::from_secs(15))?;
    let ids: BTreeSet<String> = tasks.iter().map(|task| task.id.clone()).collect();
    let nodes: BTreeSet<&String> = tasks.iter().map(|task| &task.node).collect();
    ensure!(ids.len() == 5 && nodes.len() == 3, "{tasks:?}");
    eventually(SOON, "all five to answer", || {
        let seen: BTreeSet<String> = inside.get("whoami", 8000, 10)?.into_iter().map(|one| one.task).collect();
        ensure!(seen == ids, "{seen:?}");
        Ok(())
    })
}

fn the_same_from_a_manifest(lab: &Lab, swarm: &Swarm) -> Result<()> {
    step("mesh stack deploy -c: the same service from a Compose file");
    let manifest = manifest(&lab.whoami().display().to_string(), 8001);
    let file = lab.dir().join("whoami.yaml");
    std::fs::write(&file, &manifest)?;
    let file = file.display().to_string();
    let understood = swarm.mesh(["stack", "config", "-c", &file])?;
    ensure!(understood.contains("whoami") && understood.contains("8001"), "{understood}");
    swarm.mesh(["stack", "deploy", "-c", &file, "tut"])?;
    ensure!(swarm.replicas("tut_whoami")? == "2/2");
    let ids: BTreeSet<String> = swarm.running("tut_whoami")?.into_iter().map(|task| task.id).collect();
    eventually(SOON, "both tasks on port 8001", || {
        let ask = |_| Ok(lab.client().ask(swarm.node().address(), 8001)?.0.task);
        let seen = (0..4).map(ask).collect::<Result<BTreeSet<String>>>()?;
        ensure!(seen == ids, "{seen:?} {ids:?}");
        Ok(())
    })?;

    step("deployed again, nothing changes; an unknown key changes nothing either");
    swarm.mesh(["stack", "deploy", "-c", &file, "tut"])?;
    let same: BTreeSet<String> = swarm.running("tut_whoami")?.into_iter().map(|task| task.id).collect();
    ensure!(same == ids, "{same:?} {ids:?}");
    let wrong = manifest.replace("replicas: 2", "replicas: 3, replicsa: 4");
    let refused = swarm.node().mesh_with_input(["stack", "deploy", "-c", "-", "tut"], &wrong)?;
    let said = refused.refused()?;
    ensure!(said.contains("replicsa") && said.contains(":9:"), "no key and line in: {said}");
    ensure!(swarm.replicas("tut_whoami")? == "2/2");

    step("mesh stack rm takes it away");
    swarm.mesh(["stack", "rm", "tut"])?;
    eventually(SOON, "a refusal on port 8001", || {
        let attempt = lab.client().tcp_connect(swarm.node().address(), 8001)?;
        ensure!(attempt.is_refused(), "{attempt:?}");
        Ok(())
    })?;
    ensure!(!swarm.mesh(["service", "ls"])?.contains("tut_"), "the stack's service is still listed");
    Ok(())
}

/// The manifest of the contract, on another port.
fn manifest(whoami: &str, port: u16) -> String {
    format!(
        "networks:
  demo: {{driver: overlay}}
services:
  whoami:
    command: [{whoami}, --port, \"8000\"]
    ports: [\"{port}:8000\"]
    networks: [demo]
    deploy:
      {{replicas: 2}}
    x-mesh: {{runtime: exec, lb: round-robin}}
"
    )
}

fn the_task(swarm: &Swarm, service: &str) -> Result<TaskRow> {
    swarm.wait_running(service, 1, SOON)?.pop().context("one task")
}
