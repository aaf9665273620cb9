//! A network: a subnet from the pool, a number of its own, and no second one that overlaps.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Lab, Swarm, eventually, scenario, step};
use serde_json::Value;

#[test]
fn a_network_gets_a_subnet_and_a_number() {
    scenario("a network gets a subnet and a number", Lab::builder().nodes(["n1"]), |lab| {
        let swarm = Swarm::form(lab)?;
        step("mesh network create -d overlay demo");
        swarm.mesh(["network", "create", "-d", "overlay", "demo"])?;
        swarm.mesh(["network", "create", "--internal", "back"])?;
        let listing = swarm.mesh(["network", "ls"])?;
        for heading in ["NETWORK ID", "NAME", "DRIVER", "SCOPE"] {
            ensure!(listing.contains(heading), "no {heading} in:\n{listing}");
        }
        for name in ["ingress", "demo", "back"] {
            ensure!(listing.lines().any(|line| line.contains(name) && line.contains("overlay")), "{listing}");
        }

        step("mesh network inspect demo");
        let (demo, back) = (inspect(&swarm, "demo")?, inspect(&swarm, "back")?);
        let (subnet, vni) = (subnet(&demo)?, vni(&demo)?);
        ensure!(subnet.starts_with("10.") && subnet.ends_with("/20"), "{subnet}");
        ensure!(vni >= 4097, "VNI {vni}");
        ensure!(vni != self::vni(&back)? && subnet != self::subnet(&back)?, "{demo} {back}");
        ensure!(back["Internal"] == true && demo["Internal"] == false);
        ensure!(self::vni(&inspect(&swarm, "ingress")?)? == 4096);

        step("one of its own subnet, and none that overlaps, nor a second of its name");
        swarm.mesh(["network", "create", "--subnet", "10.200.0.0/16", "wide"])?;
        ensure!(self::subnet(&inspect(&swarm, "wide")?)? == "10.200.0.0/16");
        for (words, wanted) in [
            (["network", "create", "--subnet", "10.200.8.0/24", "other"], "wide"),
            (["network", "create", "--subnet", &subnet, "other"], "demo"),
            (["network", "create", "--opt", "mtu=9", "other"], "mtu"),
            (["network", "create", "--driver", "bridge", "other"], "overlay"),
        ] {
            let said = swarm.node().mesh(words)?.complaint()?;
            ensure!(said.contains(wanted), "{wanted} is not in: {said}");
        }
        let said = swarm.node().mesh(["network", "create", "demo"])?.complaint()?;
        ensure!(said.contains("demo"), "{said}");
        let usage = swarm.node().mesh(["network", "create", "--subnet", "10.1.2.3.4/8", "other"])?;
        ensure!(usage.status == 2 && usage.stderr.contains("10.1.2.3.4/8"), "{}", usage.describe());
        ensure!(!swarm.mesh(["network", "ls"])?.contains("other"), "a refused network is there");

        step("a network in use stays, an unused one goes");
        swarm.create_client("client", &["--network", "demo"])?;
        let said = swarm.node().mesh(["network", "rm", "demo"])?.complaint()?;
        ensure!(said.contains("client"), "{said}");
        swarm.mesh(["service", "rm", "client"])?;
        swarm.mesh(["network", "rm", "demo", "back", "wide"])?;
        let listing = swarm.mesh(["network", "ls"])?;
        ensure!(!listing.contains("demo") && listing.contains("ingress"), "{listing}");
        Ok(())
    });
}

#[test]
fn a_removed_network_stays_for_the_tasks_that_still_end() {
    scenario("a removed network stays for the tasks that still end", Lab::builder().nodes(["n1"]), |lab| {
        let swarm = Swarm::form(lab)?;
        swarm.mesh(["network", "create", "demo"])?;
        let subnet = subnet(&inspect(&swarm, "demo")?)?;
        step("a task that takes three seconds to end");
        let last_words = "trap 'sleep 3; exit 0' TERM; while :; do sleep 0.1; done";
        let head = ["service", "create", "--runtime", "exec", "--name", "slow", "--network", "demo"];
        swarm.mesh(head.into_iter().chain(["sh", "-c", last_words]))?;
        let routes = || swarm.node().run(["ip", "route"])?.ok();
        ensure!(routes()?.contains(&subnet), "{}", routes()?);

        step("mesh service rm, mesh network rm: the user sees it gone, the task still has its way");
        swarm.mesh(["service", "rm", "slow"])?;
        swarm.mesh(["network", "rm", "demo"])?;
        let listing = swarm.mesh(["network", "ls"])?;
        ensure!(!listing.contains("demo"), "{listing}");
        let links = swarm.node().run(["ip", "-o", "link"])?.ok()?;
        ensure!(routes()?.contains(&subnet) && links.contains(" mv"), "the task lost its network: {links}");

        step("with the task the rest goes");
        eventually(Duration::from_secs(10), "no route to the network", || {
            let (routes, links) = (routes()?, swarm.node().run(["ip", "-o", "link"])?.ok()?);
            ensure!(!routes.contains(&subnet) && !links.contains(" mv"), "{routes}{links}");
            Ok(())
        })
    });
}

fn inspect(swarm: &Swarm, name: &str) -> Result<Value> {
    swarm.json(["network", "inspect", name])?.pop().context("`network inspect` shows nothing")
}

fn subnet(network: &Value) -> Result<String> {
    Ok(network["IPAM"]["Config"][0]["Subnet"].as_str().context("no subnet")?.to_owned())
}

fn vni(network: &Value) -> Result<u32> {
    let list = network["Options"]["com.docker.network.driver.overlay.vxlanid_list"].as_str().context("no VNI")?;
    Ok(list.parse()?)
}
