//! Who may call a published port, and at which address: lists of callers, and one number that is several services' ports.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Host, Lab, Swarm, eventually, scenario, step};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);

/// The task that answers a caller.
fn answers(caller: &Host, addr: impl ToString, port: u16) -> Result<String> {
    Ok(caller.ask(addr, port)?.0.task)
}

fn is_refused(caller: &Host, addr: Ipv4Addr, port: u16) -> Result<()> {
    let connection = caller.tcp_connect(addr, port)?;
    ensure!(connection.is_refused(), "{} → {addr}:{port}: {connection:?}", caller.name());
    Ok(())
}

#[test]
fn a_port_with_a_list_answers_those_on_it() {
    scenario("a port with a list answers those on it", Lab::builder(), |lab| {
        let swarm = Swarm::form(lab)?;
        swarm.mesh(["network", "create", "demo"])?;
        let (friend, stranger) = (lab.client(), lab.outside());
        step("whoami on n2, published for one caller; a client task on n1");
        let spec = format!("published=8000,target=8000,allow={}", friend.address());
        let on_n2 = ["--network", "demo", "--constraint", "node.hostname==n2"];
        swarm.create_whoami("whoami", &[&["-p", spec.as_str()], &on_n2[..]].concat())?;
        swarm.create_client("client", &["--network", "demo", "--constraint", "node.hostname==n1"])?;
        let task = swarm.wait_running("whoami", 1, SOON)?.pop().context("one task")?;
        let shown = swarm.json(["service", "inspect", "whoami"])?;
        let allowed = &shown[0]["Endpoint"]["Ports"][0]["Allow"];
        ensure!(*allowed == serde_json::json!([format!("{}/32", friend.address())]), "{shown:?}");

        step("it is let in by every node; others are refused at once, by nodes with the task and without it");
        for node in lab.nodes() {
            ensure!(answers(friend, node.address(), 8000)? == task.id);
            is_refused(stranger, node.address(), 8000)?;
        }
        let (client, here) = (swarm.inside("client.1"), swarm.node());
        ensure!(client.connect(here.address(), 8000)?.0 == "refused", "a task is no caller on the list");
        ensure!(client.get("whoami", 8000, 1)?[0].task == task.id, "by the VIP it is among its own");
        let said = here.tcp_connect(Ipv4Addr::LOCALHOST, 8000).map_or_else(|e| format!("{e:#}"), |c| format!("{c:?}"));
        ensure!(said.contains("ermi"), "a process of the node is told that it may not: {said}");

        step("the refusals are counted, and explained");
        let status = swarm.mesh(["status"])?;
        ensure!(
            status.contains("not-allowed at from_uplink") && status.contains("not-allowed at from_task"),
            "{status}"
        );
        let to = format!("{}:8000", here.address());
        let words = ["explain", &stranger.address().to_string(), &to, "--format", "json"];
        let said: Vec<Value> = serde_json::from_str(&here.mesh(words)?.stdout)?;
        ensure!(said[0]["Reason"] == "not-allowed", "{said:?}");

        step("another list is for new connections; those that are there go on");
        let mut session = friend.http_session(here.address(), 8000)?;
        session.get("/")?;
        let spec = format!("published=8000,target=8000,allow={};127.0.0.0/8", stranger.address());
        swarm.mesh(["service", "update", "--publish-add", &spec, "whoami"])?;
        eventually(SOON, "the other list to be in force", || is_refused(friend, here.address(), 8000))?;
        ensure!(answers(stranger, here.address(), 8000)? == task.id && answers(here, "127.0.0.1", 8000)? == task.id);
        session.get("/")?;
        ensure!(swarm.running("whoami")?[0].id == task.id, "the task stays");
        Ok(())
    });
}

#[test]
fn one_number_is_several_services_port() {
    scenario("one number is several services' port", Lab::builder(), |lab| {
        let swarm = Swarm::form(lab)?;
        swarm.mesh(["network", "create", "demo"])?;
        let [n1, n2, n3] = ["n1", "n2", "n3"].map(|name| lab.node(name));
        step("n1 has a second address; a server of its own has the port on n3");
        let [a, b, c, _] = n1.address().octets();
        let second = Ipv4Addr::new(a, b, c, 99);
        n1.namespace().ip(&format!("address add {second}/24 dev eth0"))?;
        lab.serve(n3, 8080)?;

        step("the port of n1's addresses is two services', one of them of a task elsewhere");
        let create = |name: &str, at: String, on: &str| -> Result<String> {
            let on = format!("node.hostname=={on}");
            swarm.create_whoami(name, &["--network", "demo", "-p", &at, "--constraint", &on])?;
            Ok(swarm.wait_running(name, 1, SOON)?.pop().context("one task")?.id)
        };
        let one = create("one", format!("{}:8080:8000", n1.address()), "n2")?;
        let other = create("other", format!("published=8080,target=8000,address={second}"), "n1")?;
        swarm.create_client("client", &["--network", "demo", "--constraint", "node.hostname==n3"])?;
        let listed = swarm.mesh(["service", "ls"])?;
        ensure!(listed.contains(&format!("{second}:8080->8000/tcp")), "{listed}");
        for caller in [lab.client(), n1, n2, n3] {
            eventually(SOON, "the second address to be known", || {
                ensure!(answers(caller, second, 8080)? == other, "{} calls the other one", caller.name());
                Ok(())
            })?;
            ensure!(answers(caller, n1.address(), 8080)? == one, "{} calls the one", caller.name());
        }
        let client = swarm.inside("client.1");
        ensure!(client.get(n1.address(), 8080, 1)?[0].task == one && client.get(second, 8080, 1)?[0].task == other);

        step("at all other addresses the number is the hosts'");
        let own = answers(lab.client(), n3.address(), 8080)?;
        ensure!(own != one && own != other, "n3's own server lost its port");
        is_refused(lab.client(), n2.address(), 8080)?;
        let warned = swarm.mesh(["service", "ps", "one"])?;
        ensure!(!warned.contains("8080"), "nobody wanted n3's port: {warned}");

        step("whoever wants the number everywhere is told who has it");
        let words = ["service", "create", "--runtime", "exec", "--name", "third", "-p", "8080:80", "sleep", "60"];
        let said = n1.mesh(words)?.complaint()?;
        ensure!(said.contains("8080/tcp") && (said.contains("'one'") || said.contains("'other'")), "{said}");

        step("a port of 127.0.0.1 is for processes of the nodes");
        let inner = create("inner", "127.0.0.1:9000:8000".into(), "n2")?;
        for node in lab.nodes() {
            ensure!(answers(node, "127.0.0.1", 9000)? == inner, "{}", node.name());
            is_refused(lab.client(), node.address(), 9000)?;
        }

        step("one of the two goes; the other one stays");
        swarm.mesh(["service", "rm", "one"])?;
        eventually(SOON, "the port to be free", || is_refused(lab.client(), n1.address(), 8080))?;
        ensure!(answers(lab.client(), second, 8080)? == other);
        Ok(())
    });
}

#[test]
fn a_port_of_an_interface_follows_its_addresses() {
    scenario("a port of an interface follows its addresses", Lab::builder(), |lab| {
        let swarm = Swarm::form(lab)?;
        swarm.mesh(["network", "create", "demo"])?;
        let [n1, n2, n3] = ["n1", "n2", "n3"].map(|name| lab.node(name));
        let [a, b, c, _] = n1.address().octets();
        let [first, second, of_n3] = [99, 98, 97].map(|last| Ipv4Addr::new(a, b, c, last));
        step("n1 and n3 have an interface web0 beside eth0");
        for (node, addr) in [(n1, first), (n3, of_n3)] {
            let lines = ["link add web0 type veth peer name plug", "link set plug up", "link set web0 up"];
            for line in lines.into_iter().chain([&*format!("address add {addr}/32 dev web0")]) {
                node.namespace().ip(line)?;
            }
        }

        step("one number is the port of one service at eth0, and of another at web0, on every node that has one");
        let create = |name: &str, at: &str, on: &str| -> Result<String> {
            let (at, on) = (format!("published=8080,target=8000,{at}"), format!("node.hostname=={on}"));
            swarm.create_whoami(name, &["--network", "demo", "-p", &at, "--constraint", &on])?;
            Ok(swarm.wait_running(name, 1, SOON)?.pop().context("one task")?.id)
        };
        let one = create("one", "interface=eth0", "n2")?;
        let other = create("other", "interface=web0", "n1")?;
        let listed = swarm.mesh(["service", "ls"])?;
        ensure!(listed.contains("web0:8080->8000/tcp") && listed.contains("eth0:8080->8000/tcp"), "{listed}");
        let answers_soon = |addr: Ipv4Addr, task: &str| {
            eventually(SOON, &format!("{addr} to be known"), || {
                for caller in [lab.client(), n2] {
                    ensure!(answers(caller, addr, 8080)? == task, "{} calls {addr}", caller.name());
                }
                Ok(())
            })
        };
        for node in lab.nodes() {
            answers_soon(node.address(), &one)?;
        }
        answers_soon(first, &other)?;
        answers_soon(of_n3, &other)?;

        step("an address comes and another one goes: the port follows");
        n1.namespace().ip(&format!("address add {second}/32 dev web0"))?;
        answers_soon(second, &other)?;
        n1.namespace().ip(&format!("address del {first}/32 dev web0"))?;
        n1.namespace().ip(&format!("address add {first}/24 dev eth0"))?;
        answers_soon(first, &one)?;

        step("whoever wants the same interface, or the number everywhere, is told who has it");
        for at in ["published=8080,target=80,interface=web0", "8080:80"] {
            let words = ["service", "create", "--runtime", "exec", "--name", "third", "-p", at, "sleep", "60"];
            let said = n1.mesh(words)?.complaint()?;
            ensure!(said.contains("8080/tcp") && (said.contains("'one'") || said.contains("'other'")), "{said}");
        }

        step("who names an address has it there, and the interface's service again when he goes");
        let named = create("named", &format!("address={second}"), "n3")?;
        answers_soon(second, &named)?;
        swarm.mesh(["service", "rm", "named"])?;
        answers_soon(second, &other)?;
        Ok(())
    });
}
