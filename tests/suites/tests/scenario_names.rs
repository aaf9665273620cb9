//! Names as the tutorial and the reference promise them: services, tasks, aliases, networks – each in the view of who asks.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Inside, Lab, Swarm, eventually, scenario, skip, step};

const SOON: Duration = Duration::from_secs(5);

#[test]
fn every_name_resolves_for_those_who_may_know_it() {
    scenario("every name resolves for those who may know it", Lab::builder().nodes(["n1", "n2"]), |lab| {
        let swarm = Swarm::form(lab)?;
        swarm.mesh(["network", "create", "demo"])?;
        swarm.mesh(["network", "create", "other"])?;
        swarm.create_whoami("whoami", &["--network", "name=demo,alias=hello", "--replicas", "2"])?;
        swarm.create_whoami("list", &["--network", "demo", "--endpoint-mode", "dnsrr", "--replicas", "2"])?;
        swarm.create_whoami("hidden", &["--network", "other"])?;
        swarm.create_client("client", &["--network", "demo"])?;
        let inside = swarm.inside("client.1");
        let vip: IpAddr = swarm.vip("whoami")?.into();

        step("the service, its aliases, with and without its network");
        for name in ["whoami", "hello", "WhoAmI", "whoami.demo", "hello.demo"] {
            ensure!(inside.names(name)? == [vip], "{name}: {:?}", inside.names(name));
        }
        step("tasks.whoami and each task's own names");
        let tasks = two(&inside, "tasks.whoami")?;
        for task in swarm.running("whoami")? {
            let slot = task.name.rsplit('.').next().context("a slot")?;
            let by_slot = inside.names(&format!("{slot}.whoami"))?;
            ensure!(by_slot.len() == 1 && tasks.contains(&by_slot[0]), "{slot}.whoami: {by_slot:?}");
            ensure!(inside.names(&task.id)? == by_slot, "{}: {:?}", task.id, inside.names(&task.id));
        }
        step("a service without a VIP is the list of its tasks");
        let list = two(&inside, "list")?;
        ensure!(list == two(&inside, "tasks.list")? && !list.contains(&vip), "{list:?}");
        ensure!(!inside.get("list", 8000, 4)?.is_empty());

        step("names of other networks, and names that are none, are not there");
        for name in ["hidden", "tasks.hidden", "hidden.other", "whoami.other", "3.whoami"] {
            ensure!(inside.names(name).is_err(), "{name}: {:?}", inside.names(name));
        }
        step("addresses have names again");
        if swarm.node().run(["sh", "-c", "command -v getent"])?.success() {
            let found = inside.run(&["getent", "hosts", &vip.to_string()])?;
            ensure!(found.contains("whoami"), "{found}");
        } else {
            mesh_lab::skip("names of addresses, asked by a task", "there is no getent");
        }

        step("names of the world are asked for at the node's own resolvers");
        match lab.serve_name("outside.test", lab.outside().address()) {
            Ok(()) => {
                ensure!(inside.names("outside.test")? == [IpAddr::from(lab.outside().address())]);
                ensure!(inside.names("nobody.test").is_err());
            }
            Err(reason) => skip("names of the world", &format!("{reason:#}")),
        }

        step("who scales is seen in the list at once");
        swarm.scale("list", 1)?;
        eventually(SOON, "one address", || {
            let found = inside.names("list")?;
            ensure!(found.len() == 1, "{found:?}");
            Ok(())
        })
    });
}

fn two(inside: &Inside, name: &str) -> Result<Vec<IpAddr>> {
    eventually(SOON, &format!("two addresses of {name}"), || {
        let found = inside.names(name)?;
        ensure!(found.len() == 2, "{found:?}");
        Ok(found)
    })
}
