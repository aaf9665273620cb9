//! Nodes with two uplinks and several addresses: calls are answered by the address and the link that they came by, whatever the host's routes say, and
//! the tunnel has the address that it was told.
//!
//! ```text
//!   n1 eth0 .77.11 .77.211 ── br0 ── router ── outside     n1's and n2's default route: eth0
//!      eth1 .78.11         ── br1 ──┘                       tunnel: eth1
//! ```

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Capture, Host, Lab, Node, Swarm, eventually, scenario, step};

const SOON: Duration = Duration::from_secs(10);
/// A round of the agent happens within 10 seconds.
const A_ROUND: Duration = Duration::from_secs(20);
const SECOND: &str = "eth1";
const PORT: u16 = 8000;
const DATA_PORT: u16 = 4789;
const BULK: u64 = 1_000_000;

#[test]
fn answers_leave_as_their_calls_came() {
    let lab = Lab::builder().nodes(["n1", "n2"]).agent_args([format!("--data-path-addr={SECOND}")]);
    scenario("answers leave as their calls came", lab, |lab| {
        wire(lab)?;
        let swarm = Swarm::form(lab)?;
        swarm.mesh(["network", "create", "demo"])?;
        swarm.create_client("client", &["--network", "demo", "--constraint", "node.hostname==n1"])?;
        let flags =
            ["--network", "demo", "-p", "8000:8000", "-p", "8000:8000/udp", "--constraint", "node.hostname==n2"];
        swarm.create_whoami("whoami", &flags)?;
        let task = swarm.wait_running("whoami", 1, SOON)?.pop().context("one task")?.id;
        the_tunnel_has_its_address(lab, &swarm)?;
        for node in lab.nodes() {
            every_address_answers(lab, node, &task)?;
        }
        Ok(())
    });
}

/// A second network beside the lab's own, on which each node has a second link; and a second address on the first.
fn wire(lab: &Lab) -> Result<()> {
    lab.switch().ip("link add br1 type bridge stp_state 0 forward_delay 0 mcast_snooping 0
         address add 192.168.78.1/24 dev br1
         link set br1 up")?;
    for node in lab.nodes() {
        let port = format!("{}b", node.name());
        lab.switch().ip(&format!(
            "link add {port} type veth peer name {SECOND} netns {}\nlink set {port} master br1\nlink set {port} up",
            node.namespace().name()
        ))?;
        node.namespace().ip(&format!(
            "address add {}/24 dev {SECOND}\nlink set {SECOND} up\naddress add {}/24 dev eth0",
            on_second(node),
            another(node)
        ))?;
    }
    lab.outside().namespace().ip("route add 192.168.78.0/24 via 203.0.113.1")
}

fn on_second(node: &Host) -> Ipv4Addr {
    let [.., last] = node.address().octets();
    Ipv4Addr::new(192, 168, 78, last)
}

/// Its second address on the first link.
fn another(node: &Host) -> Ipv4Addr {
    let [.., last] = node.address().octets();
    Ipv4Addr::new(192, 168, 77, 200 + last)
}

fn the_tunnel_has_its_address(lab: &Lab, swarm: &Swarm) -> Result<()> {
    let vip = swarm.vip("whoami")?;
    let n1 = lab.node("n1");
    // The first calls go through mesh0, until the next hop is known; then past it.
    for way in ["the tunnel's packets by the second link", "the same once the next hop is known"] {
        step(way);
        let (first, second) = (n1.capture("eth0")?, n1.capture(SECOND)?);
        eventually(A_ROUND, "tunnel packets", || {
            swarm.inside("client.1").get(vip, PORT, 2)?;
            let sent = sent(&second, |packet| packet.dport == DATA_PORT);
            ensure!(!sent.is_empty(), "none by {SECOND}");
            ensure!(sent.iter().all(|packet| packet.src == on_second(n1)), "{sent:?}");
            Ok(())
        })?;
        let astray = self::sent(&first, |packet| packet.dport == DATA_PORT);
        ensure!(astray.is_empty(), "by eth0: {astray:?}");
    }
    Ok(())
}

fn every_address_answers(lab: &Lab, node: &Node, task: &str) -> Result<()> {
    let caller = lab.outside();
    for (entry, link, other) in
        [(node.address(), "eth0", SECOND), (another(node), "eth0", SECOND), (on_second(node), SECOND, "eth0")]
    {
        step(&format!("{} is called at {entry}, from outside: answers leave by {link}", node.name()));
        let (there, elsewhere) = (node.capture(link)?, node.capture(other)?);
        for _ in 0..3 {
            let (told, answer) = caller.ask(entry, PORT)?;
            ensure!(told.task == task && told.caller == answer.local, "{told:?}, asked from {}", answer.local);
            let (told, local) = caller.udp_ask(entry, PORT)?;
            ensure!(told.task == task && told.caller == local, "UDP: {told:?}, asked from {local}");
        }
        caller.upload(entry, PORT, BULK)?;
        caller.download(entry, PORT, BULK)?;
        let is_answer = |packet: &Packet| packet.src == entry && packet.sport == PORT;
        eventually(SOON, "the answers in the capture", || {
            ensure!(!sent(&there, is_answer).is_empty(), "no answer of {entry} by {link}");
            Ok(())
        })?;
        let astray = sent(&elsewhere, is_answer);
        ensure!(astray.is_empty(), "answers of {entry} by {other}: {astray:?}");
    }
    Ok(())
}

/// What a frame says of its IPv4 packet.
#[derive(Debug)]
struct Packet {
    src: Ipv4Addr,
    sport: u16,
    dport: u16,
}

fn sent(capture: &Capture, is_wanted: impl Fn(&Packet) -> bool) -> Vec<Packet> {
    let read = |bytes: &[u8]| {
        let word = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let src: [u8; 4] = bytes.get(26..30)?.try_into().ok()?;
        let is_plain = word(12)? == 0x0800 && bytes[14] == 0x45;
        is_plain.then_some(Packet { src: src.into(), sport: word(34)?, dport: word(36)? })
    };
    let frames = capture.frames();
    let outgoing = frames.iter().filter(|frame| frame.outgoing).filter_map(|frame| read(&frame.bytes));
    outgoing.filter(|packet| is_wanted(packet)).collect()
}
