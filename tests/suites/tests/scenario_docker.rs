//! Containers: Docker Swarm's tutorial with `mesh` where it says `docker`, on three nodes with an Engine each.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mesh_lab::{Lab, Swarm, TaskRow, eventually, lacks_engine, scenario, skip, steadily, step};

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

#[test]
fn a_container_is_used_like_any_task() {
    docker_scenario("a container is used like any task", &["n1"], &[], |lab, swarm| {
        let n1 = lab.node("n1");
        step("environment, user, folder, bind mount; output and exit codes by the command line");
        let shared = lab.dir().join("shared");
        std::fs::create_dir_all(&shared)?;
        std::fs::set_permissions(&shared, std::os::unix::fs::PermissionsExt::from_mode(0o777))?;
        let mount = format!("type=bind,source={},target=/shared", shared.display());
        let script = "echo I am $NAME; echo oh >&2; id -u > /shared/id; while :; do sleep 1; done";
        swarm.mesh([
            "service",
            "create",
            "--name",
            "web",
            "--network",
            "demo",
            "--env",
            "NAME=shop",
            "--user",
            "1000",
            "--workdir",
            "/tmp",
            "--mount",
            &mount,
            "--limit-memory",
            "32m",
            "--hostname",
            "shop",
            "--stop-grace-period",
            "1s",
            "busybox",
            "sh",
            "-c",
            script,
        ])?;
        let task = the_task(swarm, "web")?;
        let logs = eventually(SOON, "both lines", || {
            let logs = swarm.node().mesh(["service", "logs", "web"])?;
            ensure!(logs.stdout.contains("I am shop") && logs.stderr.contains("oh"), "{}", logs.describe());
            logs.ok()
        })?;
        ensure!(logs.contains(&format!("web.1.{}", task.id)), "{logs}");
        ensure!(std::fs::read_to_string(shared.join("id"))? == "1000\n");
        let failed = n1.mesh(["exec", "web.1", "sh", "-c", "pwd; hostname; echo err >&2; exit 3"])?;
        ensure!(
            (failed.status, failed.stdout.as_str(), failed.stderr.as_str()) == (3, "/tmp\nshop\n", "err\n"),
            "{}",
            failed.describe()
        );
        let fed = n1.mesh_command(["exec", "-i", "web.1", "cat"])?;
        ensure!(mesh_lab::run_command(fed, "through the pipe\n", SOON)?.ok()? == "through the pipe\n");
        let own = swarm.inside("web.1").run(&["ip", "-4", "-o", "address", "show", "eth0"])?;
        ensure!(own.contains("10."), "{own}");
        ensure!(
            n1.engine().docker(["inspect", "-f", "{{.HostConfig.Memory}}", &container(n1, "web.1.")?])?.ok()?.trim()
                == "33554432"
        );

        step("an agent that was killed is followed by one that finds the container");
        n1.kill()?;
        n1.start()?;
        ensure!(the_task(swarm, "web")?.id == task.id);
        ensure!(n1.mesh(["exec", "web.1", "hostname"])?.ok()? == "shop\n");
        ensure!(n1.engine().containers()?.len() == 1);

        step("an image that is nowhere: rejected, in the Engine's words");
        swarm.mesh(["service", "create", "-d", "--name", "ghost", "--network", "demo", "localhost:1/ghost"])?;
        eventually(Duration::from_secs(20), "the reason", || {
            let rows = swarm.tasks("ghost")?;
            let row = rows.iter().find(|row| row.current.starts_with("Rejected")).context("not yet")?;
            ensure!(row.error.contains("No such image: localhost:1/ghost:latest"), "{row:?}");
            Ok(())
        })?;
        swarm.mesh(["service", "rm", "ghost"])?;

        step("a registry that takes the call and never answers: what is not wanted any more is not waited for");
        let silent = n1.run_inside(|| TcpListener::bind(("127.0.0.1", 5000)))??;
        swarm.mesh(["service", "create", "-d", "--name", "slow", "--network", "demo", "127.0.0.1:5000/slow"])?;
        let prepared = || -> Result<usize> {
            let rows = swarm.tasks("slow")?;
            Ok(rows.iter().filter(|row| row.current.starts_with("Preparing")).count())
        };
        eventually(SOON, "the pull", || {
            ensure!(prepared()? == 1);
            Ok(())
        })?;
        swarm.mesh(["service", "scale", "-d", "slow=0"])?;
        eventually(Duration::from_secs(5), "its end", || {
            ensure!(prepared()? == 0);
            Ok(())
        })?;
        swarm.mesh(["service", "rm", "slow"])?;
        drop(silent);

        step("mesh swarm leave: no container, no link");
        n1.mesh(["swarm", "leave", "--force"])?.ok()?;
        let left = n1.engine().containers()?;
        ensure!(left.is_empty(), "{left:?}");
        let links = n1.run(["ip", "-o", "link"])?.ok()?;
        ensure!(!links.contains("mv") && !links.contains("mesh0"), "{links}");
        Ok(())
    });
}

fn container(node: &mesh_lab::Node, prefix: &str) -> Result<String> {
    let names = node.engine().containers()?;
    names.iter().find(|name| name.starts_with(prefix)).cloned().with_context(|| format!("no {prefix} in {names:?}"))
}

#[test]
fn a_connection_outlives_the_engine() {
    let title = "with live restore a connection outlives the Engine and the agent";
    docker_scenario(title, &["n1", "n2"], &["--live-restore"], |lab, swarm| {
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
        let task = the_task(swarm, "whoami")?;
        let home = lab.node(&task.node);
        let mut session = lab.client().http_session(swarm.node().address(), 8000)?;
        ensure!(session.get("/")?.whoami()?.task == task.id);
        let probe = lab.client().probe(swarm.node().address(), 8000, Duration::from_millis(50))?;

        step("the Engine is stopped and started");
        home.engine().stop()?;
        ensure!(session.get("/")?.whoami()?.task == task.id);
        step("the agent is killed and started while the Engine is away");
        home.kill()?;
        home.start()?;
        ensure!(session.get("/")?.whoami()?.task == task.id);
        ensure!(the_task(swarm, "whoami")?.id == task.id);
        home.engine().start(&["--live-restore"])?;
        eventually(SOON, "the Engine is used again", || {
            home.mesh(["exec", "whoami.1", "/bin/whoami", "--help"]).map(drop)
        })?;
        ensure!(session.get("/")?.whoami()?.task == task.id);
        let timeline = probe.stop();
        step(&timeline.describe());
        ensure!(timeline.failures().is_empty() && timeline.answered() > 20, "{}", timeline.describe());
        ensure!(the_task(swarm, "whoami")?.id == task.id);
        Ok(())
    });
}

#[test]
fn an_engine_that_takes_its_containers_along_gets_new_ones() {
    let title = "without live restore the tasks are replaced when the Engine is back";
    docker_scenario(title, &["n1"], &[], |lab, swarm| {
        let n1 = lab.node("n1");
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
        let first = the_task(swarm, "whoami")?;
        n1.engine().stop()?;
        eventually(SOON, "the end is seen", || {
            ensure!(swarm.running("whoami")?.is_empty(), "{:?}", swarm.tasks("whoami"));
            Ok(())
        })?;
        step("a service of containers without any Engine is refused");
        let said = eventually(Duration::from_secs(10), "the leader knows that the Engine is away", || {
            n1.mesh(["service", "create", "-d", "--name", "late", "busybox", "sleep", "1000"])?.complaint()
        })?;
        ensure!(said.contains("Docker Engine") && said.contains("--runtime exec"), "{said}");
        n1.engine().start(&[])?;
        let task = eventually(Duration::from_secs(60), "another task runs", || {
            swarm.running("whoami")?.into_iter().next().context("none yet")
        })?;
        ensure!(task.id != first.id);
        ensure!(lab.client().ask(n1.address(), 8000)?.0.task == task.id);
        Ok(())
    });
}

#[test]
fn a_job_that_ends_while_its_engine_is_away_is_judged_by_how_it_ended() {
    let title = "a job that ends while its Engine is away is judged by how it ended";
    docker_scenario(title, &["n1"], &["--live-restore"], |lab, swarm| {
        let n1 = lab.node("n1");
        let shared = lab.dir().join("shared");
        std::fs::create_dir_all(&shared)?;
        let mount = format!("type=bind,source={},target=/shared", shared.display());
        let jobs = [("once", "none", 0), ("work", "on-failure", 0), ("broken", "on-failure", 3)];
        for (name, condition, code) in jobs {
            let script = format!("until test -e /shared/{name}; do sleep 0.1; done; exit {code}");
            let flags = ["service", "create", "--name", name, "--network", "demo", "--mount", &mount];
            let rest = ["--restart-condition", condition, "--restart-delay", "0s", "busybox", "sh", "-c", &script];
            swarm.mesh([&flags[..], &rest[..]].concat())?;
        }
        let first = the_task(swarm, "once")?;

        step("the Engine is stopped, and the jobs end");
        n1.engine().stop()?;
        for (name, ..) in jobs {
            std::fs::write(shared.join(name), "")?;
        }
        let is_waiting = |name: &str| -> Result<()> {
            let rows = swarm.tasks(name)?;
            ensure!(rows.len() == 1 && rows[0].current.starts_with("Running"), "{rows:?}");
            Ok(())
        };
        let names_of = |name: &str| swarm.inside("asker.1").names(&format!("tasks.{name}"));
        swarm.create_client("asker", &["--network", "demo"])?;
        eventually(SOON, "out of the names", || {
            let seen = jobs.iter().filter(|(name, ..)| names_of(name).is_ok_and(|found| !found.is_empty())).count();
            ensure!(seen == 0, "{seen} of them are in the names");
            Ok(())
        })?;
        steadily(Duration::from_secs(4), "nobody guesses how they ended", || {
            jobs.iter().try_for_each(|(name, ..)| is_waiting(name))
        })?;
        // An agent that did not see them end takes over.
        n1.kill()?;
        n1.start()?;

        step("the Engine is back: what ended well is Complete and stays so, what failed is run again");
        std::fs::remove_file(shared.join("broken"))?;
        n1.engine().start(&["--live-restore"])?;
        for name in ["once", "work"] {
            eventually(Duration::from_secs(20), &format!("{name} to be Complete"), || {
                let rows = swarm.tasks(name)?;
                ensure!(rows.len() == 1 && rows[0].current.starts_with("Complete"), "{rows:?}");
                Ok(())
            })?;
        }
        eventually(Duration::from_secs(20), "broken to be run again", || {
            let rows = swarm.tasks("broken")?;
            ensure!(rows.len() == 2 && rows[0].is_running() && rows[1].current.starts_with("Failed"), "{rows:?}");
            ensure!(rows[1].error.contains('3'), "{rows:?}");
            Ok(())
        })?;
        steadily(Duration::from_secs(3), "the jobs to stay as they are", || {
            for name in ["once", "work"] {
                let rows = swarm.tasks(name)?;
                ensure!(rows.len() == 1 && rows[0].current.starts_with("Complete"), "{rows:?}");
            }
            Ok(())
        })?;
        ensure!(swarm.tasks("once")?[0].id == first.id);
        Ok(())
    });
}
