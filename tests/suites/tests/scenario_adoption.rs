//! Containers that somebody starts by hand join a service by their labels, are found and balanced to like its tasks, and leave when they
//! stop; beside Docker's own bridge networks. docs/reference/labels.md tells the same to users.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_lab::{Lab, Node, Swarm, eventually, lacks_engine, scenario, skip, steadily, step};

const SOON: Duration = Duration::from_secs(10);

/// Three nodes; n1 and n2 have Engines as they come, with bridges, firewall rules and forwarding. There is an attachable network `demo`.
fn adoption_scenario(title: &str, play: impl FnOnce(&Lab, &Swarm) -> Result<()>) {
    if let Some(reason) = lacks_engine() {
        return skip(title, &reason);
    }
    scenario(title, Lab::builder(), |lab| {
        step("the Engines of n1 and n2 start");
        std::thread::scope(|scope| {
            let start = |node: &'static str| {
                scope.spawn(move || {
                    let engine = lab.node(node).engine();
                    engine.start_with_bridge(&["--live-restore"])?;
                    engine.import_busybox()?;
                    engine.import_whoami()
                })
            };
            let starting = ["n1", "n2"].map(start);
            starting.into_iter().try_for_each(|engine| engine.join().expect("no panic"))
        })?;
        step("the swarm forms");
        let swarm = Swarm::form(lab)?;
        swarm.mesh(["network", "create", "--attachable", "demo"])?;
        play(lab, &swarm)
    });
}

/// `docker run -d` of whoami with these labels; the first 12 digits of the container's id, which it answers with.
fn run(node: &Node, name: &str, labels: &[&str], flags: &[&str]) -> Result<String> {
    let words = ["run", "-d", "--name", name].into_iter().chain(flags.iter().copied());
    let labels = labels.iter().flat_map(|label| ["--label", label]);
    let id = node.engine().docker(words.chain(labels).chain(["jwilder/whoami"]))?.ok()?;
    Ok(id.trim()[..12].to_owned())
}

fn docker(node: &Node, words: &[&str]) -> Result<String> {
    node.engine().docker(words.iter().copied())?.ok()
}

fn is_running(node: &Node, name: &str) -> Result<bool> {
    Ok(docker(node, &["inspect", "-f", "{{.State.Running}} {{.RestartCount}}", name])?.trim() == "true 0")
}

/// Who answers these many calls of a task of n3.
fn answering(swarm: &Swarm, name: &str, times: usize) -> Result<BTreeSet<String>> {
    Ok(swarm.inside("asker.1").get(name, 8000, times)?.into_iter().map(|seen| seen.task).collect())
}

/// All of these answer, and nobody else.
fn answered_by(swarm: &Swarm, name: &str, expected: &[&String], within: Duration) -> Result<()> {
    let expected: BTreeSet<String> = expected.iter().map(|id| (*id).clone()).collect();
    eventually(within, &format!("{name} is answered by {expected:?}"), || {
        let seen = answering(swarm, name, 6)?;
        ensure!(seen == expected, "{seen:?}");
        Ok(())
    })
}

fn has_replicas(swarm: &Swarm, wanted: &str) -> Result<()> {
    eventually(SOON, &format!("web {wanted}"), || {
        let seen = swarm.replicas("web")?;
        ensure!(seen == wanted, "{seen}");
        Ok(())
    })
}

fn warnings(swarm: &Swarm) -> Result<String> {
    swarm.mesh(["status"])
}

#[test]
fn containers_with_labels_join_and_leave() {
    adoption_scenario("containers with labels join and leave", |lab, swarm| {
        let (n1, n2) = (lab.node("n1"), lab.node("n2"));
        swarm.create_client("asker", &["--network", "demo", "--constraint", "node.hostname==n3"])?;
        let labels = ["mesh.network=demo", "mesh.service=web", "mesh.port=8500:8000", "mesh.alias=www"];

        step("docker run --label mesh.network=demo --label mesh.service=web … on n1 and n2");
        let asked = Instant::now();
        let first = run(n1, "blog", &labels, &[])?;
        let published = || lab.client().ask(lab.node("n3").address(), 8500).map(drop);
        eventually(SOON, "the first answers on its published port", published)?;
        step(&format!("first answer {:.2?} after `docker run` was typed", asked.elapsed()));
        let second = run(n2, "shop", &labels, &[])?;
        answered_by(swarm, "web", &[&first, &second], SOON)?;
        answered_by(swarm, "www", &[&first, &second], SOON)?;
        let vip = swarm.vip("web")?;
        ensure!(swarm.inside("asker.1").names("web")? == [vip], "web is the VIP");
        ensure!(swarm.inside("asker.1").names("tasks.web")?.len() == 2);
        ensure!(swarm.inside("asker.1").names("shop")?.len() == 1, "a container's own name");

        step("service ls, service ps, mesh ps tell of them");
        ensure!(swarm.replicas("web")? == "2/2");
        let listing = swarm.mesh(["service", "ls"])?;
        ensure!(listing.contains("adopted") && listing.contains("jwilder/whoami"), "{listing}");
        let tasks = swarm.wait_running("web", 2, SOON)?;
        ensure!(
            tasks.iter().map(|task| task.node.as_str()).collect::<BTreeSet<_>>() == ["n1", "n2"].into(),
            "{tasks:?}"
        );
        let local = n2.mesh(["ps"])?.ok()?;
        ensure!(local.contains("web.2") && local.contains("jwilder/whoami"), "{local}");

        let refused = swarm.node().mesh(["exec", "web.2", "true"])?;
        ensure!(refused.status == 1 && refused.stderr.contains("docker exec shop"), "{refused:?}");
        let refused = swarm.node().mesh(["service", "logs", "web"])?;
        ensure!(refused.stderr.contains("docker logs"), "{refused:?}");

        step("the published port, from outside the cluster at every node: the caller's own address is seen");
        for node in lab.nodes() {
            let callers: Vec<_> =
                (0..4).map(|_| Ok(lab.client().ask(node.address(), 8500)?.0)).collect::<Result<_>>()?;
            ensure!(callers.iter().all(|seen| seen.caller.ip() == lab.client().address()), "{callers:?}");
            let who: BTreeSet<_> = callers.into_iter().map(|seen| seen.task).collect();
            ensure!(who == [first.clone(), second.clone()].into(), "{who:?} at {}", node.name());
        }

        step("from inside a container: names of mesh by our resolver, and the outside by Docker's bridge as before");
        let asker = "wget -qO- http://web:8000 && wget -qO- http://www.demo:8000";
        docker(n1, &["run", "-d", "--name", "busy", "-l", "mesh.network=demo", "busybox", "sleep", "3600"])?;
        eventually(SOON, "names in a container that joined", || {
            let said = docker(n1, &["exec", "busy", "sh", "-c", asker])?;
            ensure!(said.matches("I'm ").count() == 2, "{said}");
            Ok(())
        })?;
        lab.serve(lab.outside(), 8080)?;
        let outside = format!("wget -qO- http://{}:8080", lab.outside().address());
        let said = docker(n1, &["exec", "busy", "sh", "-c", &outside])?;
        ensure!(said.contains(&n1.address().to_string()), "through Docker's bridge: {said}");

        step("kill -9 of n2's agent and its restart: not one call is lost");
        let probe = lab.client().probe(lab.node("n3").address(), 8500, Duration::from_millis(20))?;
        n2.kill()?;
        n2.start()?;
        swarm.wait_ready(3, Duration::from_secs(15))?;
        answered_by(swarm, "web", &[&first, &second], SOON)?;
        steadily(Duration::from_secs(5), "both by name", || {
            let seen = answering(swarm, "web", 6)?;
            ensure!(seen == [first.clone(), second.clone()].into(), "{seen:?}");
            Ok(())
        })?;
        let timeline = probe.stop();
        ensure!(timeline.failures().is_empty(), "{}", timeline.describe());
        let after = swarm.wait_running("web", 2, SOON)?;
        let ids = |rows: &[mesh_lab::TaskRow]| rows.iter().map(|row| row.id.clone()).collect::<BTreeSet<_>>();
        ensure!(ids(&after) == ids(&tasks), "{after:?}, were {tasks:?}");

        step("docker stop: out of names and balancing");
        let stopping = Instant::now();
        docker(n2, &["stop", "-t", "1", "shop"])?;
        let stopped = Instant::now();
        answered_by(swarm, "web", &[&first], Duration::from_secs(2))?;
        ensure!(swarm.inside("asker.1").names("tasks.web")?.len() == 1);
        step(&format!("gone {:.2?} after it stopped, {:.2?} after the command", stopped.elapsed(), stopping.elapsed()));
        has_replicas(swarm, "1/1")?;

        step("docker start: it is back, as is docker restart");
        docker(n2, &["start", "shop"])?;
        answered_by(swarm, "web", &[&first, &second], SOON)?;
        docker(n2, &["restart", "-t", "0", "shop"])?;
        answered_by(swarm, "web", &[&first, &second], SOON)?;

        step("the last one stops: 0/0, and the VIP is the same when it comes again");
        docker(n1, &["rm", "-f", "blog"])?;
        docker(n2, &["stop", "-t", "0", "shop"])?;
        has_replicas(swarm, "0/0")?;
        docker(n2, &["start", "shop"])?;
        answered_by(swarm, "web", &[&second], SOON)?;
        ensure!(swarm.vip("web")? == vip);

        step("service scale and update are refused in words");
        for words in [&["service", "scale", "web=3"][..], &["service", "update", "--replicas", "3", "web"]] {
            let refused = swarm.node().mesh(words.iter().copied())?;
            ensure!(refused.status == 1 && refused.stderr.contains("labels"), "{refused:?}");
        }

        step("service rm: the container runs on, with the network that it had before");
        let has_link = || Ok::<_, anyhow::Error>(n2.run(["ip", "-o", "link"])?.ok()?.contains(": mv"));
        let mut session = lab.client().http_session(n2.address(), 8500)?;
        session.get("/")?;
        swarm.mesh(["service", "rm", "web"])?;
        eventually(SOON, "a refusal of further callers", || {
            ensure!(lab.client().tcp_connect(n2.address(), 8500)?.is_refused());
            Ok(())
        })?;
        // Longer than nodes are waited for, and shorter than the grace time.
        steadily(Duration::from_secs(4), "who is being served is served on", || {
            ensure!(session.get("/")?.whoami()?.task == second && has_link()?);
            Ok(())
        })?;
        drop(session);
        eventually(Duration::from_secs(3), "no link of ours when nobody is served any more", || {
            ensure!(!has_link()?);
            Ok(())
        })?;
        ensure!(is_running(n2, "shop")?);
        ensure!(!swarm.mesh(["service", "ls"])?.contains("web"), "it is not taken in again");
        docker(n2, &["restart", "-t", "0", "shop"])?;
        has_replicas(swarm, "1/1").context("started anew, it joins again")?;

        step("leaving and mesh purge let containers live, and leave nothing in them");
        n2.mesh(["swarm", "leave", "--force"])?.ok()?;
        ensure!(is_running(n2, "shop")?);
        let traces = "ip link; ip rule; ip route show table 109; cat /etc/resolv.conf";
        let of_mesh = |said: &str| ["mesh0", "lookup 109", "By mesh"].map(|word| said.contains(word));
        let before = docker(n1, &["exec", "busy", "sh", "-c", traces])?;
        ensure!(of_mesh(&before) == [true; 3], "{before}");
        n1.mesh(["purge"])?.ok()?;
        let after = docker(n1, &["exec", "busy", "sh", "-c", traces])?;
        ensure!(of_mesh(&after) == [false; 3] && is_running(n1, "busy")?, "{after}");
        Ok(())
    });
}

#[test]
fn who_can_not_join_is_told_in_mesh_status() {
    adoption_scenario("who can't join is told in mesh status", |lab, swarm| {
        let n2 = lab.node("n2");
        swarm.mesh(["network", "create", "private"])?;
        swarm.create_client("own", &["--network", "demo", "--constraint", "node.hostname==n3"])?;
        let expected = [
            ("lost", "mesh.network=nowhere", "mesh network create --attachable nowhere"),
            ("shut", "mesh.network=private", "not attachable"),
            ("own", "mesh.network=demo", "give the label mesh.service another name"),
            ("wrong", "mesh.network=demo,,", "label mesh.network"),
        ];
        for (name, label, _) in expected {
            run(n2, name, &[label], &[])?;
        }
        for node in ["n1", "n2"] {
            eventually(SOON, &format!("the warnings on {node}"), || {
                let status = warnings(&Swarm::seen_from(lab, node))?;
                for (name, _, words) in expected {
                    let line = status.lines().find(|line| line.contains(&format!("container {name} (")));
                    let line = line.with_context(|| format!("no word of {name} in:\n{status}"))?;
                    ensure!(line.contains(words), "{line}");
                }
                Ok(())
            })?;
        }

        step("what was missing is made, and the container joins without being asked");
        swarm.mesh(["network", "create", "--attachable", "nowhere"])?;
        swarm.wait_running("lost", 1, SOON)?;
        step("a warning goes with its container");
        for (name, ..) in expected {
            docker(n2, &["rm", "-f", name])?;
        }
        eventually(SOON, "no warnings", || {
            let status = warnings(swarm)?;
            ensure!(!status.contains("does not join"), "{status}");
            Ok(())
        })
    });
}

#[test]
fn an_active_docker_swarm_is_named_with_the_ports_it_has() {
    let title = "an active Docker Swarm is named with the ports it has";
    if let Some(reason) = lacks_engine() {
        return skip(title, &reason);
    }
    scenario(title, Lab::builder().nodes(["n1"]), |lab| {
        let n1 = lab.node("n1");
        step("docker swarm init");
        n1.engine().start_with_bridge(&[])?;
        n1.engine().swarm_init(n1.address())?;
        n1.start()?;
        step("mesh init says which ports clash, and with whom");
        let refused = n1.mesh(["init", "--advertise-addr", &n1.address().to_string()])?;
        ensure!(refused.status == 1, "{refused:?}");
        for word in ["2377/tcp", "7946/tcp", "7946/udp", "dockerd", "docker swarm leave --force"] {
            ensure!(refused.stderr.contains(word), "{word} in {}", refused.stderr);
        }
        let said = n1.mesh(["doctor"])?.stdout;
        ensure!(said.contains("docker swarm leave --force") && said.contains("7946"), "{said}");
        step("the remedy works");
        docker(n1, &["swarm", "leave", "--force"])?;
        n1.mesh(["init", "--advertise-addr", &n1.address().to_string()])?.ok()?;
        Ok(())
    });
}

#[test]
fn a_compose_projects_container_is_gated_by_its_healthcheck() {
    adoption_scenario("a Compose project's container is gated by its healthcheck", |lab, swarm| {
        let n2 = lab.node("n2");
        swarm.create_client("asker", &["--network", "demo", "--constraint", "node.hostname==n3"])?;
        let listed = |count: usize| {
            eventually(SOON, &format!("{count} tasks in the names"), || {
                // No name at all is as good as an empty one.
                let seen = swarm.inside("asker.1").names("tasks.shop").unwrap_or_default();
                ensure!(seen.len() == count, "{seen:?}");
                Ok(())
            })
        };

        step("as Compose starts it: on a network of its project, named by its key in the file");
        n2.engine().derive(
            "busybox",
            "checked",
            &["HEALTHCHECK --interval=300ms --retries=1 CMD test -e /tmp/well"],
        )?;
        docker(n2, &["network", "create", "project_default"])?;
        let labels = ["mesh.network=demo", "mesh.port=8600:8000", "com.docker.compose.service=shop"];
        let flags = ["run", "-d", "--name", "project-shop-1", "--network", "project_default"];
        let words = flags.into_iter().chain(labels.iter().flat_map(|label| ["--label", label]));
        let server = "mkdir /tmp/www; echo shop > /tmp/www/index.html; exec httpd -f -p 8000 -h /tmp/www";
        n2.engine().docker(words.chain(["checked", "sh", "-c", server]))?.ok()?;
        eventually(SOON, "unhealthy", || {
            let said = docker(n2, &["inspect", "-f", "{{.State.Health.Status}}", "project-shop-1"])?;
            ensure!(said.trim() == "unhealthy", "{said}");
            Ok(())
        })?;
        eventually(SOON, "0/1", || {
            let seen = swarm.replicas("shop")?;
            ensure!(seen == "0/1", "{seen}");
            Ok(())
        })?;
        listed(0)?;

        step("well, it is called from outside at every node");
        docker(n2, &["exec", "project-shop-1", "touch", "/tmp/well"])?;
        listed(1)?;
        for node in lab.nodes() {
            let answer =
                lab.client().run(["curl", "-s", "--max-time", "3", &format!("{}:8600", node.address())])?.ok()?;
            ensure!(answer.trim() == "shop", "{answer} at {}", node.name());
        }

        step("unwell, it is out, and nobody ends it");
        docker(n2, &["exec", "project-shop-1", "rm", "/tmp/well"])?;
        listed(0)?;
        ensure!(is_running(n2, "project-shop-1")?);
        docker(n2, &["exec", "project-shop-1", "touch", "/tmp/well"])?;
        listed(1)?;

        step("the Engine is restarted under it: nobody notices");
        let address = format!("{}:8600", lab.node("n3").address());
        n2.engine().stop()?;
        let answer = lab.client().run(["curl", "-s", "--max-time", "3", &address])?.ok()?;
        ensure!(answer.trim() == "shop", "{answer} without an Engine");
        n2.engine().start_with_bridge(&["--live-restore"])?;
        steadily(Duration::from_secs(3), "calls after the Engine's return", || {
            let answer = lab.client().run(["curl", "-s", "--max-time", "3", &address])?.ok()?;
            ensure!(answer.trim() == "shop", "{answer}");
            Ok(())
        })?;
        ensure!(swarm.wait_running("shop", 1, SOON)?.len() == 1);

        step("its service on an unreachable node: out of names, not replaced, and back");
        n2.cut()?;
        listed(0)?;
        n2.mend()?;
        listed(1)?;
        ensure!(swarm.tasks("shop")?.len() == 1, "it is the same task");
        Ok(())
    });
}
