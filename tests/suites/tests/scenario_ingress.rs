//! A published port answers on every address of every node, from everywhere, and the task sees who really called.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_lab::{Host, Lab, Swarm, eventually, scenario, step};

const SOON: Duration = Duration::from_secs(5);
const TEN_MB: u64 = 10_000_000;

#[test]
fn a_published_port_answers_everywhere_and_knows_its_callers() {
    scenario("a published port answers everywhere and knows its callers", Lab::builder(), |lab| {
        let swarm = Swarm::form(lab)?;
        swarm.mesh(["network", "create", "demo"])?;
        step("whoami only on n2, a client task on n1");
        let ports = ["-p", "8000:8000", "-p", "8000:8000/udp", "-p", "9000:8000"];
        let place = ["--network", "demo", "--constraint", "node.hostname==n2"];
        swarm.create_whoami("whoami", &[&ports[..], &place[..]].concat())?;
        swarm.create_client("client", &["--network", "demo", "--constraint", "node.hostname==n1"])?;
        let task = swarm.wait_running("whoami", 1, SOON)?.pop().context("one task")?;
        // Converged means applied on every node; the first answer may not have to wait.
        callers_over_tcp(lab, &task.id)?;
        callers_over_udp(lab, &task.id)?;
        callers_on_the_same_machine(lab, &task.id)?;
        callers_in_a_task(lab, &swarm, &task.id)?;
        large_transfers(lab, &swarm)?;
        keep_alive(lab)?;
        a_taken_port(lab, &swarm)
    });
}

fn callers_over_tcp(lab: &Lab, task: &str) -> Result<()> {
    step("curl to port 8000 of every node's address, from the client and from every node");
    for caller in callers(lab) {
        for node in lab.nodes() {
            for port in [8000, 9000] {
                let (told, answer) = caller.ask(node.address(), port)?;
                ensure!(told.task == task, "{} → {}:{port}: {told:?}", caller.name(), node.name());
                ensure!(
                    told.caller == answer.local,
                    "{} → {}: {told:?}, is {}",
                    caller.name(),
                    node.name(),
                    answer.local
                );
                ensure!(told.caller.ip() == caller.address(), "{} → {}: {told:?}", caller.name(), node.name());
            }
        }
    }
    Ok(())
}

fn callers_over_udp(lab: &Lab, task: &str) -> Result<()> {
    step("the same over UDP");
    for caller in callers(lab) {
        for node in lab.nodes() {
            let (told, local) = caller.udp_ask(node.address(), 8000)?;
            ensure!(told.task == task, "{} → {}: {told:?}", caller.name(), node.name());
            ensure!(told.caller.port() == local.port(), "{} → {}: {told:?}, is {local}", caller.name(), node.name());
            ensure!(told.caller.ip() == caller.address(), "{} → {}: {told:?}", caller.name(), node.name());
        }
    }
    Ok(())
}

fn callers_on_the_same_machine(lab: &Lab, task: &str) -> Result<()> {
    step("127.0.0.1 and localhost on every node, without hanging on ::1");
    for node in lab.nodes() {
        for host in ["127.0.0.1", "localhost"] {
            let began = Instant::now();
            let (told, _) = node.ask(host, 8000)?;
            let took = began.elapsed();
            ensure!(told.task == task && told.caller.ip() == node.address(), "{} at {host}: {told:?}", node.name());
            ensure!(took < Duration::from_secs(1), "{} at {host} took {took:?}", node.name());
        }
        let (told, _) = node.udp_ask(Ipv4Addr::LOCALHOST, 8000)?;
        ensure!(told.task == task && told.caller.ip() == node.address(), "UDP at {}: {told:?}", node.name());
        let attempt = node.tcp_connect(std::net::Ipv6Addr::LOCALHOST, 8000)?;
        ensure!(attempt.is_refused() || attempt.is_connected(), "[::1] on {}: {attempt:?}", node.name());
    }
    Ok(())
}

fn callers_in_a_task(lab: &Lab, swarm: &Swarm, task: &str) -> Result<()> {
    step("from client.1: every node's address, and the VIP");
    let inside = swarm.inside("client.1");
    for node in lab.nodes() {
        let seen = [inside.get(node.address(), 8000, 1)?, inside.udp(node.address(), 8000, 1)?].concat();
        ensure!(seen.iter().all(|one| one.task == task && one.caller == one.local), "{}: {seen:?}", node.name());
    }
    let seen = [inside.get("whoami", 8000, 3)?, inside.udp("whoami", 8000, 3)?].concat();
    ensure!(seen.iter().all(|one| one.task == task && one.caller == one.local), "{seen:?}");
    Ok(())
}

fn large_transfers(lab: &Lab, swarm: &Swarm) -> Result<()> {
    step("10 MB up and down by a node without the task, and between tasks");
    for node in ["n1", "n2", "n3"].map(|name| lab.node(name)) {
        let (up, down) =
            (lab.client().upload(node.address(), 8000, TEN_MB)?, lab.client().download(node.address(), 8000, TEN_MB)?);
        ensure!(
            up.took.max(down.took) < Duration::from_secs(30),
            "by {}: {:?} and {:?}",
            node.name(),
            up.took,
            down.took
        );
    }
    lab.node("n3").upload("127.0.0.1", 8000, TEN_MB)?;
    lab.node("n3").download("127.0.0.1", 8000, TEN_MB)?;
    let inside = swarm.inside("client.1");
    inside.upload("whoami", 8000, TEN_MB)?;
    inside.download("whoami", 8000, TEN_MB)
}

fn keep_alive(lab: &Lab) -> Result<()> {
    step("a kept connection stays one connection");
    let mut session = lab.client().http_session(lab.node("n3").address(), 8000)?;
    let first = session.get("/")?.whoami()?;
    for _ in 0..5 {
        ensure!(session.get("/")?.whoami()? == first);
    }
    Ok(())
}

fn a_taken_port(lab: &Lab, swarm: &Swarm) -> Result<()> {
    step("a second service does not get a port that is taken; the message names the owner");
    let words = ["service", "create", "--runtime", "exec", "--name", "second", "-p", "8000:80", "sleep", "60"];
    let said = swarm.node().mesh(words)?.complaint()?;
    ensure!(said.contains("8000") && said.contains("whoami"), "{said}");
    for port in ["2377", "7946", "4789"] {
        let words =
            ["service", "create", "--runtime", "exec", "--name", "second", "-p", port_spec(port), "sleep", "60"];
        let said = swarm.node().mesh(words)?.complaint()?;
        ensure!(said.contains(port), "{said}");
    }
    ensure!(!swarm.mesh(["service", "ls"])?.contains("second"), "a refused service is there");

    step("a port that the host uses itself stays the host's, and the node says so");
    lab.serve(lab.node("n3"), 8500)?;
    swarm.create_whoami("third", &["-p", "8500:8000", "--constraint", "node.hostname==n2"])?;
    eventually(SOON, "port 8500 on n1", || lab.client().ask(lab.node("n1").address(), 8500).map(drop))?;
    let answered = lab.client().ask(lab.node("n3").address(), 8500)?.0.task;
    ensure!(swarm.running("third")?.iter().all(|task| task.id != answered), "n3's own server lost its port");
    for words in [["node", "inspect", "n3"], ["service", "ps", "third"]] {
        let shown = swarm.mesh(words)?;
        ensure!(shown.contains("8500"), "`{}` does not tell of port 8500: {shown}", words.join(" "));
    }
    Ok(())
}

fn port_spec(port: &str) -> &'static str {
    match port {
        "2377" => "2377:80",
        "7946" => "7946:80/udp",
        _ => "4789:80/udp",
    }
}

/// The client outside and every node.
fn callers(lab: &Lab) -> Vec<&Host> {
    std::iter::once(lab.client()).chain(lab.nodes().iter().map(|node| &**node)).collect()
}
