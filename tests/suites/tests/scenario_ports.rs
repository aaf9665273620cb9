//! Nodes whose API and gossip have ports of their own: they join, are balanced to, restart and are judged as those with the usual ones;
//! beside an active Docker Swarm, too.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Lab, Node, Swarm, eventually, lacks_engine, scenario, skip, step};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(10);

#[test]
fn nodes_of_one_cluster_have_ports_of_their_own() {
    // What an agent is told at start is for nodes that enter without saying more.
    let builder = Lab::builder().agent_args(["--gossip-port=7947"]);
    scenario("nodes of one cluster have ports of their own", builder, |lab| {
        lab.start_agents()?;
        let [n1, n2, n3] = ["n1", "n2", "n3"].map(|name| lab.node(name));
        step("mesh swarm init --listen-addr 0.0.0.0:12377 --gossip-port 17946 --data-path-port 14789");
        let flags = ["--listen-addr", "0.0.0.0:12377", "--gossip-port", "17946", "--data-path-port", "14789"]
            .map(str::to_owned);
        let printed = n1.mesh(["swarm", "init"].map(str::to_owned).iter().chain(&flags))?.ok()?;
        let at = format!("{}:12377", n1.address());
        ensure!(printed.contains(&format!(" {at}\n")), "{printed}");
        let swarm = Swarm::seen_from(lab, "n1");
        ensure!(swarm.mesh(["swarm", "join-token", "worker"])?.contains(&format!(" {at}\n")));

        step("what can't work is refused, and leaves nothing");
        let token = swarm.token("worker")?;
        let join = |flags: &[&str]| -> Vec<String> {
            let words =
                ["swarm", "join", "--token", &token].into_iter().chain(flags.iter().copied()).chain([at.as_str()]);
            words.map(str::to_owned).collect()
        };
        for (flags, words) in [
            (&["--gossip-port", "14789"][..], &["14789", "tunnel"][..]),
            (&["--listen-addr", "127.0.0.1"], &["--listen-addr", "127.0.0.1"]),
            (&["--listen-addr", "eth7:1"], &["--listen-addr", "eth7"]),
            (&["--gossip-port", "2377"], &["2377", "--listen-addr"]),
        ] {
            let said = n2.mesh(join(flags))?.complaint()?;
            ensure!(words.iter().all(|word| said.contains(word)), "{said}");
        }
        let usage = n2.mesh(join(&["--listen-addr", "eth0:http"]))?;
        ensure!(usage.status == 2 && usage.stderr.contains("eth0:http"), "{}", usage.describe());

        step("n2 joins as a worker, on one address, by ports of its own; n3 as a manager by those of its agent");
        n2.mesh(join(&["--listen-addr", "eth0:22377", "--gossip-port", "27946"]))?.ok()?;
        n3.mesh(["swarm", "join", "--token", &swarm.token("manager")?, &at])?.ok()?;
        for node in ["n1", "n2", "n3"] {
            Swarm::seen_from(lab, node).wait_ready(3, SOON)?;
        }
        shows(n1, "n2", [22377, 27946])?;
        shows(n2, "n1", [12377, 17946])?;
        shows(n2, "n3", [2377, 7947])?;

        step("a service over all nodes; a change by n3 reaches the store at n1, n1 reaches a task at n2");
        let swarm_of_n3 = Swarm::seen_from(lab, "n3");
        swarm_of_n3.mesh(["network", "create", "demo"])?;
        swarm_of_n3.create_whoami("web", &["--network", "demo", "--mode", "global", "-p", "8000:8000"])?;
        swarm.create_client("asker", &["--network", "demo", "--constraint", "node.hostname==n2"])?;
        answered_by(&swarm, "web", 3)?;

        step("ports of nodes are no service's");
        for (port, purpose) in [("22377", "cluster API"), ("17946", "membership"), ("2377", "cluster API")] {
            let refused = n1.mesh(["service", "update", "--publish-add", &format!("{port}:80"), "web"])?.complaint()?;
            ensure!(refused.contains(port) && refused.contains(purpose), "{refused}");
        }

        step("mesh doctor names each node's ports");
        for (node, ports) in [
            (n1, "12377/tcp, 17946/tcp, 17946/udp, 14789/udp held by this agent"),
            (n2, "22377/tcp, 27946/tcp, 27946/udp, 14789/udp held by this agent"),
        ] {
            eventually(SOON, &format!("a healthy {}", node.name()), || {
                let said = node.mesh(["doctor"])?.ok()?;
                ensure!(said.contains(ports) && said.contains("the ports of their API and gossip"), "{said}");
                Ok(())
            })?;
        }

        step("agents that restart are where they were, whatever their flags say");
        n1.kill()?;
        n2.kill()?;
        n2.start()?;
        n1.start()?;
        for node in ["n1", "n2", "n3"] {
            Swarm::seen_from(lab, node).wait_ready(3, SOON)?;
        }
        shows(n3, "n2", [22377, 27946])?;
        for (node, is_told) in [(n1, true), (n2, true), (n3, false)] {
            let log = node.log();
            ensure!(log.contains("entered its cluster with ports") == is_told, "{}: {log}", node.name());
        }
        answered_by(&swarm, "web", 3)?;
        swarm_of_n3.create_client("late", &["--network", "demo", "--constraint", "node.hostname==n2"])?;

        step("n2 leaves, and joins again by those of its agent");
        n2.mesh(["swarm", "leave"])?.ok()?;
        n2.mesh(join(&[]))?.ok()?;
        swarm.wait_ready(3, SOON)?;
        shows(n1, "n2", [2377, 7947])
    });
}

/// `mesh node inspect` on this node names these ports of API and gossip.
fn shows(node: &Node, of: &str, ports: [u16; 2]) -> Result<()> {
    let shown = serde_json::from_str::<Vec<Value>>(&node.mesh(["node", "inspect", of])?.ok()?)?;
    let shown = shown.first().context("an empty inspection")?;
    let said = ["APIPort", "GossipPort"].map(|key| shown["Mesh"][key].as_u64());
    ensure!(said == ports.map(|port| Some(port.into())), "{shown:#}");
    let manager = &shown["ManagerStatus"]["Addr"];
    ensure!(manager.as_str().is_none_or(|addr| addr.ends_with(&format!(":{}", ports[0]))), "{manager}");
    Ok(())
}

/// So many tasks of a service answer the asker.
fn answered_by(swarm: &Swarm, service: &str, count: usize) -> Result<()> {
    eventually(SOON, &format!("{count} tasks of {service} to answer"), || {
        let seen = swarm.inside("asker.1").get(service, 8000, 2 * count)?;
        let tasks: BTreeSet<String> = seen.into_iter().map(|one| one.task).collect();
        ensure!(tasks.len() == count, "{tasks:?}");
        Ok(())
    })
}

/// What stands between backticks from `start` on: a command that is meant to be typed.
fn command_in(said: &str, start: &str) -> Result<Vec<String>> {
    let from = said.split('`').find(|part| part.starts_with(start));
    Ok(from.with_context(|| format!("no `{start} …` in {said}"))?.split(' ').skip(1).map(str::to_owned).collect())
}

fn docker(node: &Node, words: &[&str]) -> Result<String> {
    node.engine().docker(words.iter().copied())?.ok()
}

/// Docker's own cluster is well: two nodes Ready, and a task of its service answers the other node's by name, over its overlay.
fn dockers_swarm_is_well(n1: &Node, n2: &Node) -> Result<()> {
    eventually(SOON, "Docker's Swarm to be well", || {
        let nodes = docker(n1, &["node", "ls", "--format", "{{.Status}}"])?;
        ensure!(nodes.lines().collect::<Vec<_>>() == ["Ready", "Ready"], "{nodes}");
        for node in [n1, n2] {
            let names = docker(node, &["exec", "looker", "nslookup", "tasks.theirs", "127.0.0.11"])?;
            let found: BTreeSet<&str> = names.split_whitespace().filter(|word| word.starts_with("10.77.0.")).collect();
            ensure!(found.len() == 2, "{names}");
            for address in found {
                let page = format!("http://{address}:8000");
                let said = docker(node, &["exec", "looker", "wget", "-qO-", &page])?;
                ensure!(said.starts_with("I'm "), "{said}");
            }
        }
        Ok(())
    })
}

#[test]
fn a_cluster_lives_beside_an_active_docker_swarm() {
    let title = "a cluster lives beside an active Docker Swarm";
    if let Some(reason) = lacks_engine() {
        return skip(title, &reason);
    }
    scenario(title, Lab::builder(), |lab| {
        let [n1, n2, n3] = ["n1", "n2", "n3"].map(|name| lab.node(name));
        step("docker swarm init on n1, join on n2; a service of theirs on both, over an overlay network");
        for node in [n1, n2] {
            node.engine().start_with_bridge(&[])?;
            node.engine().import_busybox()?;
        }
        n1.engine().import_whoami()?;
        // The same image on both, named by its id: by any other name they would ask a registry first.
        let image = docker(n1, &["inspect", "-f", "{{.Id}}", "jwilder/whoami"])?;
        let file = lab.dir().join("whoami.tar").display().to_string();
        docker(n1, &["save", "-o", &file, "jwilder/whoami"])?;
        docker(n2, &["load", "-i", &file])?;
        n1.engine().swarm_init(n1.address())?;
        let token = docker(n1, &["swarm", "join-token", "-q", "worker"])?;
        docker(n2, &["swarm", "join", "--token", token.trim(), &format!("{}:2377", n1.address())])?;
        docker(n1, &["network", "create", "-d", "overlay", "--attachable", "--subnet", "10.77.0.0/24", "theirs"])?;
        // By names: this kernel may lack IPVS, which their virtual addresses need.
        let global = ["service", "create", "-d", "--no-resolve-image", "--mode", "global", "--endpoint-mode", "dnsrr"];
        let rest = ["--name", "theirs", "--network", "theirs", image.trim()];
        docker(n1, &[&global[..], &rest[..]].concat())?;
        for node in [n1, n2] {
            docker(node, &["run", "-d", "--name", "looker", "--network", "theirs", "busybox", "sleep", "3600"])?;
        }
        dockers_swarm_is_well(n1, n2)?;

        step("mesh init with the usual ports: one message with all of them, who has them, and what to type");
        lab.start_agents()?;
        let said = n1.mesh(["init"])?.complaint()?;
        for word in ["2377/tcp", "7946/tcp", "7946/udp", "dockerd (pid ", "docker swarm leave --force"] {
            ensure!(said.contains(word), "{word} in {said}");
        }
        let init = command_in(&said, "mesh swarm init ")?;
        let named = "swarm init --listen-addr 0.0.0.0:12377 --gossip-port 17946 --data-path-port 14789";
        ensure!(init.join(" ") == named, "{init:?}");
        let advice = n1.mesh(["doctor"])?;
        ensure!(advice.status == 1 && advice.stdout.contains(named), "{}", advice.describe());

        step("what it says is typed, and works; so on n2 with join; n3 has no Engine and joins as usual");
        n1.mesh(&init)?.ok()?;
        let swarm = Swarm::seen_from(lab, "n1");
        let at = format!("{}:12377", n1.address());
        let how = ["--token".to_owned(), swarm.token("manager")?, at];
        let said = n2.mesh(["swarm", "join"].map(str::to_owned).iter().chain(&how))?.complaint()?;
        let join = command_in(&said, "mesh swarm join ")?;
        n2.mesh(join.iter().chain(&how))?.ok()?;
        n3.mesh(["swarm", "join"].map(str::to_owned).iter().chain(&how))?.ok()?;
        swarm.wait_ready(3, SOON)?;

        step("a service with a VIP on n1 and n2, called from n3; containers join one by their labels");
        swarm.mesh(["network", "create", "--attachable", "demo"])?;
        let docker_nodes = ["--network", "demo", "--replicas", "2", "--constraint", "node.hostname!=n3"];
        swarm.create_whoami("web", &docker_nodes)?;
        swarm.create_client("asker", &["--network", "demo", "--constraint", "node.hostname==n3"])?;
        answered_by(&swarm, "web", 2)?;
        ensure!(swarm.inside("asker.1").names("web")? == [swarm.vip("web")?]);
        for node in [n1, n2] {
            let labels =
                ["--label", "mesh.network=demo", "--label", "mesh.service=blog", "--label", "mesh.port=8500:8000"];
            docker(node, &[&["run", "-d", "--name", "blog"][..], &labels[..], &["jwilder/whoami"]].concat())?;
        }
        answered_by(&swarm, "blog", 2)?;
        for node in lab.nodes() {
            let published = || lab.client().ask(node.address(), 8500).map(drop);
            eventually(SOON, &format!("port 8500 of {}", node.name()), published)?;
        }

        step("a container of runtime docker, on n2, beside theirs");
        let docker_task =
            ["service", "create", "--name", "boxed", "--network", "demo", "--constraint", "node.hostname==n2"];
        swarm.mesh([&docker_task[..], &["--runtime", "docker", "jwilder/whoami"]].concat())?;
        answered_by(&swarm, "boxed", 1)?;

        step("both are well: mesh doctor and Docker's own listing");
        for node in [n1, n2] {
            eventually(SOON, &format!("a healthy {}", node.name()), || {
                let said = node.mesh(["doctor"])?.ok()?;
                let is_well = said.contains("in a Swarm of its own, whose ports mesh does not use");
                ensure!(
                    is_well && said.contains("12377/tcp, 17946/tcp, 17946/udp, 14789/udp held by this agent"),
                    "{said}"
                );
                ensure!(!said.contains('→'), "{said}");
                Ok(())
            })?;
        }
        dockers_swarm_is_well(n1, n2)?;

        step("agents restart beside it, and nothing changes for either");
        n1.kill()?;
        n2.kill()?;
        n1.start()?;
        n2.start()?;
        swarm.wait_ready(3, SOON)?;
        answered_by(&swarm, "web", 2)?;
        answered_by(&swarm, "blog", 2)?;
        dockers_swarm_is_well(n1, n2)?;

        step("n2 leaves mesh: Docker's Swarm goes on; n1's Engine leaves its Swarm: mesh goes on");
        n2.mesh(["swarm", "leave", "--force"])?.ok()?;
        dockers_swarm_is_well(n1, n2)?;
        docker(n1, &["swarm", "leave", "--force"])?;
        answered_by(&swarm, "blog", 1)?;
        swarm.wait_running("web", 2, Duration::from_secs(30))?;
        answered_by(&swarm, "web", 2)
    });
}
