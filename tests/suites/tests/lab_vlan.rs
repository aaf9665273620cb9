//! Nodes whose tunnel runs in a VLAN (eth0.100 beside eth0, as switches of a rack have it): the fast way, published ports at either link's
//! address, and XDP in the driver below.
//!
//! A device below a VLAN sees its frames too, tagged or with the tag taken off, and must leave them to the VLAN's own. On the lab's kernel shape tags
//! travel beside the frames, as a NIC's offload has it; on its wire shape they are in them, unless a node asks for the former (`hide_tags`).

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Builder, Host, Lab, Offloads, Shape, Swarm, eventually, scenario, step};

const SOON: Duration = Duration::from_secs(10);
/// A round of the agent happens within 10 seconds.
const A_ROUND: Duration = Duration::from_secs(20);
const VLAN: &str = "eth0.100";
const PORT: u16 = 8000;
const BULK: u64 = 3_000_000;

fn nodes() -> Builder {
    Lab::builder().nodes(["n1", "n2"]).agent_args([format!("--data-path-addr={VLAN}")])
}

/// A scenario, where the kernel knows VLANs: not every one is built with them (CONFIG_VLAN_8021Q), and no one can install them.
fn play(title: &str, lab: Builder, play: impl FnOnce(&Lab) -> Result<()>) {
    let knows = Builder::up(Lab::builder().nodes(["n1"])).and_then(|lab| {
        let made =
            lab.node("n1").run(["ip", "link", "add", "link", "eth0", "name", VLAN, "type", "vlan", "id", "100"])?;
        lab.down().map(|()| made.status == 0)
    });
    match knows {
        Ok(false) => eprintln!("NOT RUN: {title}: this kernel has no VLANs"),
        _ => scenario(title, lab, play),
    }
}

#[test]
fn a_vlan_is_an_uplink_as_any() {
    play("a VLAN is an uplink as any", nodes(), |lab| {
        let (swarm, task) = formed(lab)?;
        for offloads in [Offloads::On, Offloads::TransmitOff] {
            step(&format!("offloads {offloads:?}"));
            for host in lab.hosts() {
                host.set_offloads(offloads)?;
            }
            everything(lab, &swarm, &task)?;
        }
        Ok(())
    });
}

#[test]
fn a_driver_below_a_vlan_leaves_its_frames_alone() {
    let lab = nodes().shape(Shape::Wire).node_args("n1", ["--xdp", "native"]);
    play("a driver below a VLAN leaves its frames alone", lab, |lab| {
        let (swarm, task) = formed(lab)?;
        let status = lab.node("n1").mesh(["status"])?.ok()?;
        ensure!(status.contains("XDP:      native on eth0;") && status.contains(VLAN), "{status}");
        everything(lab, &swarm, &task)
    });
}

/// As above, but the tags travel beside the frames, where a driver's program does not see them. On a wire, for it sends what it takes for frames of its
/// own link: a veth at whose other end nobody takes them loses them.
#[test]
fn a_driver_that_hides_the_tag_is_no_trap() {
    let lab = nodes().shape(Shape::Wire).node_args("n1", ["--xdp", "native"]);
    play("a driver that hides the tag is no trap", lab, |lab| {
        lab.node("n1").hide_tags()?;
        let (swarm, task) = formed(lab)?;
        everything(lab, &swarm, &task)
    });
}

/// Its address in the VLAN.
fn tagged(host: &Host) -> Ipv4Addr {
    let [.., last] = host.address().octets();
    Ipv4Addr::new(192, 168, 100, last)
}

/// A cluster over the VLAN, whose task is on n2, and its id.
fn formed(lab: &Lab) -> Result<(Swarm<'_>, String)> {
    let nodes = lab.nodes().iter().map(|node| &**node);
    for host in nodes.chain([lab.client()]) {
        host.namespace().ip(&format!(
            "link add link eth0 name {VLAN} type vlan id 100\naddress add {}/24 dev {VLAN}\nlink set {VLAN} up",
            tagged(host)
        ))?;
    }
    let swarm = Swarm::form(lab)?;
    swarm.mesh(["network", "create", "demo"])?;
    swarm.create_client("client", &["--network", "demo", "--constraint", "node.hostname==n1"])?;
    let flags = ["--network", "demo", "-p", "8000:8000", "-p", "8000:8000/udp", "--constraint", "node.hostname==n2"];
    swarm.create_whoami("whoami", &flags)?;
    let task = swarm.wait_running("whoami", 1, SOON)?.pop().context("one task")?;
    step("the fast way leads into the VLAN");
    let vip = swarm.vip("whoami")?;
    eventually(A_ROUND, "a call that goes past mesh0, in the VLAN", || {
        let (vlan, mesh0) = (lab.node("n1").capture(VLAN)?, lab.node("n1").capture("mesh0")?);
        swarm.inside("client.1").get(vip, PORT, 2)?;
        let [in_vlan, by_mesh0] = [&vlan, &mesh0].map(|capture| {
            let frames = capture.frames();
            frames.iter().filter(|frame| frame.outgoing && is_of_the_port(&frame.bytes)).count()
        });
        ensure!(in_vlan > 0 && by_mesh0 == 0, "{in_vlan} frames into the VLAN, {by_mesh0} of them by mesh0");
        Ok(())
    })?;
    Ok((swarm, task.id))
}

fn is_of_the_port(bytes: &[u8]) -> bool {
    // The headers are enough.
    let layers = mesh_packet::decode(&bytes[..bytes.len().min(200)]);
    let mut fields = layers.iter().flat_map(|layer| &layer.fields);
    fields.any(|(name, value)| name.ends_with(" port") && *value == PORT.to_string())
}

fn everything(lab: &Lab, swarm: &Swarm, task: &str) -> Result<()> {
    step("a task calls a VIP: requests, bulk both ways, datagrams in one go");
    let (inside, vip) = (swarm.inside("client.1"), swarm.vip("whoami")?);
    inside.get(vip, PORT, 4)?;
    inside.udp(vip, PORT, 4)?;
    inside.upload(vip, PORT, BULK)?;
    inside.download(vip, PORT, BULK)?;
    eventually(SOON, "a burst in which nothing was lost", || inside.burst(vip, PORT, 40, 1200))?;
    let client = lab.client();
    for node in lab.nodes() {
        for (entry, caller) in [(tagged(node), tagged(client)), (node.address(), client.address())] {
            step(&format!("the client calls the port at {entry} of {}, and is seen as {caller}", node.name()));
            // The second packet of a flow takes another way than the first, in a driver above all.
            for _ in 0..3 {
                let (told, answer) = client.ask(entry, PORT)?;
                ensure!(told.task == task && told.caller == answer.local, "{told:?}, asked from {}", answer.local);
                ensure!(told.caller.ip() == caller, "{told:?}");
                let (told, local) = client.udp_ask(entry, PORT)?;
                ensure!(told.task == task && told.caller == local, "UDP: {told:?}, asked from {local}");
            }
            client.upload(entry, PORT, BULK)?;
            client.download(entry, PORT, BULK)?;
            ensure!(node.ping(tagged(client), 2)?.all_answered(), "the node's own traffic in the VLAN");
        }
    }
    Ok(())
}
