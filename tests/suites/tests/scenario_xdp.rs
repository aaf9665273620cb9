//! Published ports in the driver's hands: by a node without the task, both ways, without a packet that the node's own stack saw.
//!
//! On the lab's wire shape. The proof is a packet socket on the node's uplink: it sees what TC would, and nothing of what XDP sent on. That
//! the socket is not blind is shown where XDP is kept away by somebody else's program.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Capture, Lab, Node, Shape, Stranger, Swarm, eventually, scenario, step, wiring};
use mesh_packet::eth;

const SOON: Duration = Duration::from_secs(10);
/// A round of the agent happens within 10 seconds.
const A_ROUND: Duration = Duration::from_secs(20);
const PORT: u16 = 8000;
/// Of the service that chooses by its ring alone, without flow entries at n1.
const RING: u16 = 8100;
const TEN_MB: u64 = 10_000_000;
/// Frames of one request, there and back, are more than these.
const A_REQUEST: usize = 6;

fn wire() -> mesh_lab::Builder {
    Lab::builder().nodes(["n1", "n2"]).shape(Shape::Wire).node_args("n1", ["--xdp", "native"])
}

#[test]
fn a_published_port_is_served_in_the_drivers_hands() {
    scenario("a published port is served in the driver's hands", wire(), |lab| {
        let links = |node: &Node| node.namespace().ip_show(&["-o", "link"])?.ok();
        let before = lab.nodes().iter().map(links).collect::<Result<Vec<_>>>()?;
        let (swarm, task) = published(lab)?;
        is_attached(lab.node("n1"))?;
        doctor_is_content(lab.node("n1"))?;
        auto_leaves_a_veth_alone(lab.node("n2"))?;
        calls_are_answered(lab, &task)?;
        a_ring_is_enough(lab, &swarm)?;
        tagged_frames_pass(lab)?;
        what_runs_no_xdp_is_told_of(lab.node("n1"))?;
        other_uplinks_come_and_go(lab.node("n1"))?;
        a_restart_breaks_nothing(lab, &task)?;

        step("leaving takes the programs out of the drivers");
        lab.node("n2").mesh(["swarm", "leave", "--force"])?.ok()?;
        swarm.mesh(["swarm", "leave", "--force"])?;
        for node in lab.nodes() {
            ensure!(!has_program(node)?, "{} has an XDP program still", node.name());
        }
        step("and after a purge links are as they were, and nothing is pinned");
        for (node, before) in lab.nodes().iter().zip(&before) {
            node.mesh(["purge"])?.ok()?;
            let after = links(node)?;
            ensure!(after == *before, "{after}, was {before}");
            ensure!(!node.bpf_dir().exists(), "{} is left", node.bpf_dir().display());
        }
        Ok(())
    });
}

#[test]
fn a_purge_takes_the_program_out_of_the_driver() {
    scenario("a purge takes the program out of the driver", wire().nodes(["n1"]), |lab| {
        let swarm = Swarm::form(lab)?;
        eventually(SOON, "the program in the driver", || is_attached(lab.node("n1")))?;
        swarm.mesh(["purge"])?;
        ensure!(!has_program(lab.node("n1"))?, "an XDP program is left");
        Ok(())
    });
}

#[test]
fn jumbo_frames_are_served_in_the_drivers_hands() {
    scenario("jumbo frames are served in the driver's hands", wire().mtu(8950), |lab| {
        let (_, task) = published(lab)?;
        is_attached(lab.node("n1"))?;
        calls_are_answered(lab, &task)
    });
}

#[test]
fn the_generic_mode_serves_as_well() {
    let lab = Lab::builder().nodes(["n1", "n2"]).shape(Shape::Wire).node_args("n1", ["--xdp", "generic"]);
    scenario("the generic mode serves as well", lab, |lab| {
        let (_, task) = published(lab)?;
        let status = lab.node("n1").mesh(["status"])?.ok()?;
        ensure!(status.contains("XDP:      generic on eth0"), "{status}");
        calls_are_answered(lab, &task)
    });
}

#[test]
fn somebody_elses_program_stays() {
    scenario("somebody else's XDP program stays", wire(), |lab| {
        let n1 = lab.node("n1");
        step("a stranger's program is in n1's driver before the agent comes");
        let attach = || Stranger::in_driver("other_program", nix::net::if_::if_nametoindex("eth0").context("eth0")?);
        let stranger = n1.run_inside(attach)??;
        let (_, task) = published(lab)?;
        let status = n1.mesh(["status"])?.ok()?;
        ensure!(status.contains("XDP:      off on eth0 (another XDP program"), "{status}");
        ensure!(status.contains("bpftool net show dev eth0") && status.contains("served at TC"), "{status}");
        ensure!(n1.log().contains("another XDP program is on eth0"), "{}", n1.log());

        step("published ports are served at TC, where a packet socket sees them");
        let capture = n1.capture("eth0")?;
        ask(lab, &task)?;
        eventually(SOON, "the frames of a request", || {
            let seen = of_the_port(&capture);
            ensure!(seen > 2 * A_REQUEST, "{seen} frames");
            Ok(())
        })?;
        drop(capture);

        step("it goes: the agent's takes its place, and the complaint ends");
        drop(stranger);
        eventually(A_ROUND, "the program in the driver", || is_attached(n1))?;
        calls_are_answered(lab, &task)?;
        let status = n1.mesh(["status"])?.ok()?;
        ensure!(!status.contains("another XDP program"), "{status}");
        Ok(())
    });
}

/// A cluster whose task is on n2, and its id.
fn published(lab: &Lab) -> Result<(Swarm<'_>, String)> {
    let swarm = Swarm::form(lab)?;
    swarm.mesh(["network", "create", "demo"])?;
    let flags = ["--network", "demo", "-p", "8000:8000", "-p", "8000:8000/udp", "--constraint", "node.hostname==n2"];
    swarm.create_whoami("whoami", &flags)?;
    let task = swarm.wait_running("whoami", 1, SOON)?.pop().context("one task")?;
    // Until n1 knows its next hop to n2, TC sends by mesh0.
    eventually(SOON, "a first answer", || ask(lab, &task.id))?;
    Ok((swarm, task.id))
}

/// One request over TCP and one over UDP by n1: the task on n2 answers, and sees the client.
fn ask(lab: &Lab, task: &str) -> Result<()> {
    let entry = lab.node("n1").address();
    let (told, answer) = lab.client().ask(entry, PORT)?;
    ensure!(told.task == task && told.caller == answer.local, "{told:?}, asked from {}", answer.local);
    let (told, local) = lab.client().udp_ask(entry, PORT)?;
    ensure!(told.task == task && told.caller == local, "UDP: {told:?}, asked from {local}");
    Ok(())
}

fn calls_are_answered(lab: &Lab, task: &str) -> Result<()> {
    let n1 = lab.node("n1");
    // The neighbour may have been unknown a moment ago.
    eventually(A_ROUND, "requests that n1's stack does not see", || {
        let capture = n1.capture("eth0")?;
        ask(lab, task)?;
        unseen(lab, &capture)
    })?;
    step(
        "TCP, UDP, 10 MB up and down by n1, of which n1's stack sees nothing, neither call nor answer, but a connection's end",
    );
    let capture = n1.capture("eth0")?;
    for _ in 0..5 {
        ask(lab, task)?;
    }
    lab.client().upload(n1.address(), PORT, TEN_MB)?;
    lab.client().download(n1.address(), PORT, TEN_MB)?;
    unseen(lab, &capture)
}

/// Nothing of the port was seen, though the socket hears what passes by it.
fn unseen(lab: &Lab, capture: &Capture) -> Result<()> {
    // Beyond what was asked before: frames come in order.
    ensure!(lab.client().ping(lab.node("n1").address(), 1)?.all_answered(), "n1 does not answer echoes");
    let is_echo = |bytes: &[u8]| mesh_packet::decode(bytes).iter().any(|layer| layer.name.starts_with("icmp"));
    eventually(SOON, "the echo in the capture", || {
        ensure!(capture.frames().iter().any(|frame| is_echo(&frame.bytes)), "not yet");
        Ok(())
    })?;
    let seen = of_the_port(capture);
    ensure!(seen == 0, "n1's stack saw {seen} frames of published ports");
    Ok(())
}

/// Frames of the published ports, in the tunnel or not; but errors about them are TC's to translate, and answers that end a connection are
/// TC's to note.
fn of_the_port(capture: &Capture) -> usize {
    let ports = [PORT, RING].map(|port| port.to_string());
    let is_of_it = |bytes: &[u8]| {
        let layers = mesh_packet::decode(bytes);
        let is_error = layers.iter().any(|layer| layer.name.starts_with("icmp"));
        let fields: Vec<_> = layers.iter().flat_map(|layer| &layer.fields).collect();
        let is_end =
            fields.iter().any(|(name, value)| *name == "flags" && (value.contains("FIN") || value.contains("RST")));
        let is_answer = fields.iter().any(|(name, value)| *name == "source port" && ports.contains(value));
        let is_of_port = fields.iter().any(|(name, value)| name.ends_with(" port") && ports.contains(value));
        !is_error && is_of_port && !(is_answer && is_end)
    };
    capture.frames().iter().filter(|frame| is_of_it(&frame.bytes)).count()
}

fn a_ring_is_enough(lab: &Lab, swarm: &Swarm) -> Result<()> {
    step("a service by Maglev's ring, without flow entries: the same");
    let flags = ["--network", "demo", "-p", "8100:8000", "--lb", "maglev", "--constraint", "node.hostname==n2"];
    swarm.create_whoami("ring", &flags)?;
    let task = swarm.wait_running("ring", 1, SOON)?.pop().context("one task")?;
    let n1 = lab.node("n1");
    eventually(SOON, "a first answer", || lab.client().ask(n1.address(), RING).map(drop))?;
    let capture = n1.capture("eth0")?;
    let (told, answer) = lab.client().ask(n1.address(), RING)?;
    ensure!(told.task == task.id && told.caller == answer.local, "{told:?}, asked from {}", answer.local);
    lab.client().upload(n1.address(), RING, TEN_MB)?;
    lab.client().download(n1.address(), RING, TEN_MB)?;
    unseen(lab, &capture)
}

fn is_attached(node: &Node) -> Result<()> {
    let status = node.mesh(["status"])?.ok()?;
    ensure!(status.contains("XDP:      native on eth0"), "{status}");
    ensure!(has_program(node)?, "no XDP program on eth0 of {}", node.name());
    Ok(())
}

fn has_program(node: &Node) -> Result<bool> {
    Ok(node.run(["ip", "link", "show", "dev", "eth0"])?.ok()?.contains("xdp"))
}

fn doctor_is_content(node: &Node) -> Result<()> {
    let found = node.mesh(["doctor"])?.ok()?;
    ensure!(found.contains("native on eth0") && !found.contains("another program"), "{found}");
    Ok(())
}

fn auto_leaves_a_veth_alone(node: &Node) -> Result<()> {
    let status = node.mesh(["status"])?.ok()?;
    ensure!(status.contains("XDP:      off on eth0 (no NIC)") && !has_program(node)?, "{status}");
    // Nobody asked for it, so nobody is bothered.
    ensure!(!node.mesh(["doctor"])?.ok()?.contains("--xdp"), "a complaint");
    Ok(())
}

fn tagged_frames_pass(lab: &Lab) -> Result<()> {
    step("a call with a VLAN's tag is another network's: it passes, though the same call without the tag is sent on");
    let n1 = lab.node("n1");
    let macs = [lab.client(), &**n1].map(|host| wiring::mac_of(host.address()));
    let call = |tag: bool| {
        let frame = eth(macs[0], macs[1]);
        let frame = if tag { frame.vlan(5) } else { frame };
        frame.ipv4(lab.client().address(), n1.address()).udp(40_000, PORT).payload(b"who?").bytes()
    };
    let capture = n1.capture("eth0")?;
    lab.client().send_frame(&call(false))?;
    unseen(lab, &capture)?;
    lab.client().send_frame(&call(true))?;
    eventually(SOON, "the tagged call at n1's stack", || {
        let seen = of_the_port(&capture);
        ensure!(seen == 1, "{seen} frames");
        Ok(())
    })
}

fn what_runs_no_xdp_is_told_of(node: &Node) -> Result<()> {
    step("an uplink whose driver runs no XDP: `native` complains, in words, for as long as it is there");
    node.namespace().ip("link add other type bridge
         address add 192.168.5.1/24 dev other
         link set other up")?;
    eventually(A_ROUND, "the complaint", || {
        let status = node.mesh(["status"])?.ok()?;
        let said = "the driver of other runs no XDP programs; published ports are served at TC there";
        ensure!(status.contains(said) && status.contains("XDP:      native on eth0; off on other"), "{status}");
        Ok(())
    })?;
    let found = node.mesh(["doctor"])?.ok()?;
    ensure!(found.contains("the driver of other runs no XDP") && found.contains("--xdp auto"), "{found}");
    node.namespace().ip("link delete other")?;
    eventually(A_ROUND, "the end of the complaint", || {
        let status = node.mesh(["status"])?.ok()?;
        ensure!(!status.contains("the driver of other"), "{status}");
        Ok(())
    })
}

fn other_uplinks_come_and_go(node: &Node) -> Result<()> {
    step("an uplink comes, goes, and returns with another number");
    let mut pins = Vec::new();
    for _ in 0..2 {
        node.namespace().ip("link add up1 type veth peer name far
             link set far addrgenmode none
             address add 192.168.6.1/24 dev up1
             link set up1 up
             link set far up")?;
        eventually(A_ROUND, "the program on up1", || {
            let link = node.run(["ip", "link", "show", "dev", "up1"])?.ok()?;
            ensure!(link.contains("xdp"), "{link}");
            Ok(())
        })?;
        let now = links(node)?;
        ensure!(now.len() == 2, "{now:?}");
        pins.push(now);
        node.namespace().ip("link delete up1")?;
        eventually(A_ROUND, "eth0's link alone", || {
            let now = links(node)?;
            ensure!(now.len() == 1, "{now:?}");
            Ok(())
        })?;
    }
    ensure!(pins[0] != pins[1], "the number is the same: {pins:?}");
    Ok(())
}

/// Names of pinned XDP links.
fn links(node: &Node) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for version in std::fs::read_dir(node.bpf_dir())? {
        for pin in std::fs::read_dir(version?.path().join("links"))? {
            let name = pin?.file_name().to_string_lossy().into_owned();
            found.extend(name.starts_with("xdp_uplink").then_some(name));
        }
    }
    found.sort();
    Ok(found)
}

fn a_restart_breaks_nothing(lab: &Lab, task: &str) -> Result<()> {
    step(
        "the agent is killed and started again while a connection streams: no byte is lost, no frame meets n1's stack",
    );
    let n1 = lab.node("n1");
    let program = || -> Result<String> {
        let link = n1.run(["ip", "link", "show", "dev", "eth0"])?.ok()?;
        let id = link.split("prog/xdp id ").nth(1).and_then(|rest| rest.split_whitespace().next());
        id.map(str::to_owned).with_context(|| link.clone())
    };
    let (pins, first) = (links(n1)?, program()?);
    let capture = n1.capture("eth0")?;
    let probe = lab.client().probe(n1.address(), PORT, Duration::from_millis(50))?;
    let mut session = lab.client().http_session(n1.address(), PORT)?;
    std::thread::scope(|scope| -> Result<()> {
        let streaming =
            scope.spawn(|| (0..5).try_for_each(|_| lab.client().download(n1.address(), PORT, TEN_MB).map(drop)));
        n1.kill()?;
        ensure!(session.get("/")?.whoami()?.task == task);
        n1.start()?;
        streaming.join().expect("the streaming thread ends well")
    })?;
    eventually(A_ROUND, "the new agent's program under the old link", || {
        ensure!(links(n1)? == pins && program()? != first, "{:?}, program {first}", links(n1)?);
        is_attached(n1)
    })?;
    ensure!(session.get("/")?.whoami()?.task == task);
    let timeline = probe.stop();
    ensure!(timeline.failures().is_empty(), "{}", timeline.describe());
    unseen(lab, &capture)
}
