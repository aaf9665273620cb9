//! A stack on three nodes: deployed again it stays as it is, a change touches what it is about, pruned services go, and in the end
//! nothing is left.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Lab, Swarm, eventually, lacks_engine, scenario, skip, step};

const SOON: Duration = Duration::from_secs(10);
/// The monitor time of an update and something on top.
const WATCHED: Duration = Duration::from_secs(20);

#[test]
fn a_stack_changes_only_where_its_manifest_does() {
    scenario("a stack changes only where its manifest does", Lab::builder(), |lab| {
        let swarm = Swarm::form(lab)?;
        let stack = Shop { lab, swarm: &swarm };
        stack.is_deployed()?;
        stack.stays_as_it_is()?;
        stack.rolls_what_changed()?;
        stack.is_pruned()?;
        stack.is_refused_whole()?;
        stack.leaves_nothing()
    });
}

/// A Compose file with images, a named volume and a folder beside it.
const NOTES: &str = r#"version: "3.8"
services:
  notes:
    image: busybox
    command: ["sh", "-c", "while true; do sleep 3600; done"]
    env_file: notes.env
    labels: {kind: notes}
    read_only: true
    tmpfs: /scratch:size=1m
    ulimits: {nofile: {soft: 512, hard: 1024}}
    volumes:
      - data:/data
      - ./given:/given:ro
    depends_on: [whoami]
  whoami:
    image: jwilder/whoami
    ports: ["8000:8000"]
volumes:
  data:
"#;

#[test]
fn a_compose_file_with_images_and_a_named_volume() {
    let title = "a Compose file with images and a named volume";
    if let Some(reason) = lacks_engine() {
        return skip(title, &reason);
    }
    scenario(title, Lab::builder().nodes(["n1"]), |lab| {
        let engine = lab.node("n1").engine();
        engine.start(&[])?;
        engine.import_busybox()?;
        engine.import_whoami()?;
        let swarm = Swarm::form(lab)?;
        let file = lab.dir().join("notes.yaml");
        std::fs::write(&file, NOTES)?;
        std::fs::write(lab.dir().join("notes.env"), "COLOUR=green\n")?;
        std::fs::create_dir(lab.dir().join("given"))?;
        std::fs::write(lab.dir().join("given/said"), "beside the manifest")?;
        let file = file.display().to_string();

        step("deployed: all that the file asks for is there");
        let output = swarm.node().mesh(["stack", "deploy", "-c", &file, "n"])?;
        ensure!(output.stderr.contains("services.notes.depends_on: is ignored"), "{}", output.describe());
        output.ok()?;
        lab.client().ask(swarm.node().address(), 8000)?;
        let notes = swarm.inside("n_notes.1");
        ensure!(notes.run(&["cat", "/given/said"])? == "beside the manifest");
        let said = notes.run(&["sh", "-c", "echo $COLOUR; ulimit -n; touch /x 2>/dev/null || echo read-only"])?;
        ensure!(said.lines().collect::<Vec<_>>() == ["green", "512", "read-only"], "{said}");
        let said = notes.run(&["sh", "-c", "echo kept > /data/note; df -k /scratch | awk 'END {print $2}'"])?;
        ensure!(said.trim() == "1024", "{said}");
        let volumes = ["volume", "ls", "-q", "--filter", "label=com.docker.stack.namespace=n"];
        ensure!(engine.docker(volumes)?.ok()?.trim() == "n_data");
        let labelled = ["ps", "-q", "--filter", "label=kind=notes"];
        ensure!(engine.docker(labelled)?.ok()?.lines().count() == 1);

        step("deployed again: the same tasks; by force: another task, the same data");
        let ids = || -> Result<BTreeSet<String>> {
            let tasks = [swarm.running("n_notes")?, swarm.running("n_whoami")?].concat();
            Ok(tasks.into_iter().map(|task| task.id).collect())
        };
        let before = ids()?;
        let said = swarm.mesh(["stack", "deploy", "-c", &file, "n"])?;
        ensure!(said.matches("Unchanged service").count() == 2 && ids()? == before, "{said}");
        swarm.mesh(["service", "update", "--force", "n_notes"])?;
        ensure!(ids()?.intersection(&before).count() == 1, "{:?}, were {before:?}", ids()?);
        ensure!(swarm.inside("n_notes.1").run(&["cat", "/data/note"])?.trim() == "kept");

        step("mesh stack rm leaves no container; the data stays, as with Docker");
        swarm.mesh(["stack", "rm", "n"])?;
        eventually(WATCHED, "no container of the stack", || {
            let left = engine.containers()?;
            ensure!(left.is_empty(), "{left:?}");
            ensure!(!swarm.mesh(["network", "ls"])?.contains("n_default"));
            Ok(())
        })?;
        ensure!(engine.docker(volumes)?.ok()?.trim() == "n_data");
        Ok(())
    });
}

struct Shop<'a> {
    lab: &'a Lab,
    swarm: &'a Swarm<'a>,
}

/// The tasks of a service, by id.
type Tasks = BTreeMap<&'static str, BTreeSet<String>>;

impl Shop<'_> {
    /// Two services of whoami and one that sleeps; `more` is what `front` says further.
    fn manifest(&self, more: &str) -> String {
        let whoami = self.lab.whoami().display().to_string();
        format!(
            r#"
x-exec: &exec
  x-mesh: {{runtime: exec}}
  networks: [shop]
services:
  front:
    <<: *exec
    command: [{whoami}, --port, "8000"]
    ports: ["8000:8000"]
    env_file: front.env
    volumes: ["./data:/mnt:ro"]
    deploy: {{replicas: 2}}
{more}
  back:
    <<: *exec
    command: [{whoami}, --port, "8000"]
    extra_hosts: ["db.example:192.0.2.7"]
  client:
    <<: *exec
    command: [sleep, "3600"]
networks:
  shop: {{driver: overlay}}
"#
        )
    }

    fn deploy(&self, manifest: &str, flags: &[&str]) -> Result<String> {
        let file = self.lab.dir().join("shop.yaml");
        std::fs::write(&file, manifest)?;
        let file = file.display().to_string();
        self.swarm.mesh([&["stack", "deploy", "-c", &file], flags, &["shop"]].concat())
    }

    fn tasks(&self) -> Result<Tasks> {
        let ids = |service: &'static str| -> Result<(&'static str, BTreeSet<String>)> {
            let tasks = self.swarm.running(&format!("shop_{service}"))?;
            Ok((service, tasks.into_iter().map(|task| task.id).collect()))
        };
        ["front", "back", "client"].into_iter().map(ids).collect()
    }

    fn is_deployed(&self) -> Result<()> {
        step("deployed: files of variables and folders are found beside the manifest");
        let data = self.lab.dir().join("data");
        std::fs::create_dir(&data)?;
        std::fs::write(data.join("said"), "beside the manifest")?;
        std::fs::write(self.lab.dir().join("front.env"), "# of front\nCOLOUR=green\n")?;
        let said = self.deploy(&self.manifest(""), &[])?;
        for line in ["network shop_shop", "service shop_front", "service shop_back", "service shop_client"] {
            ensure!(said.contains(&format!("Creating {line}")), "{said}");
        }
        let front = self.swarm.inside("shop_front.1");
        ensure!(front.run(&["cat", "/mnt/said"])? == "beside the manifest");
        ensure!(front.run(&["sh", "-c", "echo $COLOUR"])?.trim() == "green");
        let hosts = self.swarm.inside("shop_back.1").run(&["cat", "/etc/hosts"])?;
        ensure!(hosts.lines().any(|line| line.starts_with("192.0.2.7") && line.contains("db.example")), "{hosts}");
        let seen = self.swarm.inside("shop_client.1").get("front", 8000, 4)?;
        ensure!(seen.len() == 4, "{seen:?}");
        let listed = self.swarm.mesh(["stack", "ls", "--format", "json"])?;
        ensure!(listed.contains("\"shop\"") && listed.contains("\"3\""), "{listed}");
        ensure!(self.swarm.mesh(["stack", "services", "-q", "shop"])?.lines().count() == 3);
        ensure!(self.swarm.mesh(["stack", "ps", "-q", "shop"])?.lines().count() == 4);
        Ok(())
    }

    fn stays_as_it_is(&self) -> Result<()> {
        step("deployed again, also from what `stack config` prints: no task is replaced");
        let before = self.tasks()?;
        let said = self.deploy(&self.manifest(""), &[])?;
        ensure!(said.matches("Unchanged service").count() == 3 && !said.contains("Updating"), "{said}");
        let file = self.lab.dir().join("shop.yaml").display().to_string();
        let printed = self.swarm.mesh(["stack", "config", "-c", &file])?;
        let deployed = self.swarm.node().mesh_with_input(["stack", "deploy", "-c", "-", "shop"], &printed)?.ok()?;
        ensure!(deployed.matches("Unchanged service").count() == 3, "{deployed}\n{printed}");
        ensure!(self.tasks()? == before, "{:?}, were {before:?}", self.tasks()?);
        Ok(())
    }

    fn rolls_what_changed(&self) -> Result<()> {
        step("a variable of one service changes: its tasks are replaced, the others' stay");
        let before = self.tasks()?;
        let said = self.deploy(&self.manifest("    environment: {COLOUR: blue}\n"), &[])?;
        ensure!(
            said.contains("Updating service shop_front") && said.matches("Unchanged service").count() == 2,
            "{said}"
        );
        let after = self.tasks()?;
        ensure!(
            after["front"].is_disjoint(&before["front"]) && after["front"].len() == 2,
            "{after:?}, were {before:?}"
        );
        ensure!(
            (&after["back"], &after["client"]) == (&before["back"], &before["client"]),
            "{after:?}, were {before:?}"
        );
        ensure!(self.swarm.inside("shop_front.1").run(&["sh", "-c", "echo $COLOUR"])?.trim() == "blue");
        // Complete once the last new task has run for as long as it is watched.
        eventually(WATCHED, "the update to be called complete", || {
            let update = &self.swarm.json(["service", "inspect", "shop_front"])?[0]["UpdateStatus"];
            ensure!(update["State"] == "completed" && update["CompletedAt"].is_string(), "{update}");
            Ok(())
        })?;

        step("the service alone is changed and taken back by hand");
        self.swarm.mesh(["service", "update", "--env-add", "COLOUR=red", "--env-rm", "GONE", "shop_front"])?;
        ensure!(self.swarm.inside("shop_front.2").run(&["sh", "-c", "echo $COLOUR"])?.trim() == "red");
        self.swarm.mesh(["service", "update", "--rollback", "shop_front"])?;
        ensure!(self.swarm.inside("shop_front.2").run(&["sh", "-c", "echo $COLOUR"])?.trim() == "blue");
        Ok(())
    }

    fn is_pruned(&self) -> Result<()> {
        step("a service that the manifest names no more stays without --prune and goes with it");
        let whole = self.manifest("    environment: {COLOUR: blue}\n");
        let less = whole.split("  client:").next().context("before the client")?.to_string() + "networks: {shop: }\n";
        let before = self.tasks()?;
        self.deploy(&less, &[])?;
        ensure!(self.tasks()? == before);
        let said = self.deploy(&less, &["--prune"])?;
        ensure!(said.contains("Removing service shop_client"), "{said}");
        let after = self.tasks().map(|_| ()).err();
        ensure!(after.is_some(), "shop_client is still listed");
        ensure!(self.swarm.replicas("shop_front")? == "2/2");
        Ok(())
    }

    fn is_refused_whole(&self) -> Result<()> {
        step("a volume on runtime exec is refused with its line, and nothing is applied");
        let wrong = self.manifest("    environment: {COLOUR: pink}\n").replace("./data:/mnt:ro", "data:/mnt")
            + "volumes: {data: }\n";
        let said = self.swarm.node().mesh_with_input(["stack", "deploy", "-c", "-", "shop"], &wrong)?.refused()?;
        ensure!(said.contains("<stdin>:11:") && said.contains("volumes need runtime docker"), "{said}");
        let words = ["service", "create", "--runtime", "exec", "--mount", "source=data,target=/mnt", "sleep", "1"];
        let said = self.swarm.node().mesh(words)?.complaint()?;
        ensure!(said.contains("--mount") && said.contains("volumes need runtime docker"), "{said}");
        step("an image without an Engine is refused with the remedy, and nothing is applied");
        let image = "services: {web: {image: nginx}}\n";
        let said = self.swarm.node().mesh_with_input(["stack", "deploy", "-c", "-", "web"], image)?.refused()?;
        ensure!(said.contains("no node has a Docker Engine") && said.contains("--runtime exec"), "{said}");
        ensure!(!self.swarm.mesh(["network", "ls"])?.contains("web_default"));
        Ok(())
    }

    fn leaves_nothing(&self) -> Result<()> {
        step("mesh stack rm leaves nothing");
        self.swarm.mesh(["stack", "rm", "shop"])?;
        eventually(SOON, "no service, network or task of the stack", || {
            let listed = self.swarm.mesh(["service", "ls"])? + &self.swarm.mesh(["network", "ls"])?;
            ensure!(!listed.contains("shop"), "{listed}");
            for node in self.lab.nodes() {
                let tasks = node.mesh(["ps"])?.ok()?;
                ensure!(!tasks.contains("shop"), "{tasks}");
            }
            let attempt = self.lab.client().tcp_connect(self.swarm.node().address(), 8000)?;
            ensure!(attempt.is_refused(), "{attempt:?}");
            Ok(())
        })?;
        let said = self.swarm.node().mesh(["stack", "rm", "shop"])?.complaint()?;
        ensure!(said.contains("shop"), "{said}");
        Ok(())
    }
}
