//! Our ways on the lab's wire shape: a node that has XDP in its uplink's driver, and beside it one that has not.
//!
//! Both hand calls on to the same tasks, which are on a third node, so that they differ in the hook and in nothing else; and both run an
//! iperf3 of their own, which is the other traffic that a driver's program must not slow. A fourth host has no mesh, but a program in its
//! driver that lets everything pass: what XDP itself costs on a veth, which copies each packet for it as no NIC does.

use std::net::SocketAddrV4;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_lab::{Lab, Shape, Stranger, eventually};

use super::ours;
use super::server::{self, STREAM, WEB};
use super::tool::Call;

/// XDP in the driver.
pub const XDP: &str = "x1";
/// TC alone.
pub const TC: &str = "x2";
/// A bare program in the driver.
pub const BARE: &str = "x4";
/// Where the tasks are.
const SERVERS: &str = "x3";

/// Until a node knows the next hop to another: two of the agent's rounds.
const READY: Duration = Duration::from_secs(30);

/// Where the node without XDP is asked. Not the same servers by another entrance: one that has just closed a connection with a client's port keeps
/// that port (TIME-WAIT, RFC 9293, 3.6.1), and takes the same client's call by another address, whose sequence numbers and time stamps begin
/// elsewhere, for an old one.
const TC_WEB: u16 = 81;

/// A lab, its cluster, and the bare program, which ends with it.
pub struct Wire {
    lab: Lab,
    _bare: Stranger,
}

impl Wire {
    /// Nodes, cluster, servers.
    pub fn up(folder: &Path) -> Result<Wire> {
        let builder =
            Lab::builder().nodes([XDP, TC, SERVERS, BARE]).shape(Shape::Wire).agent_args(["--flow-entries=1000000"]);
        let builder = [TC, SERVERS].iter().fold(builder, |builder, name| builder.node_args(name, ["--xdp", "off"]));
        let lab = builder.node_args(XDP, ["--xdp", "native"]).up()?;
        let attach = || Stranger::in_driver("bare_pass", nix::net::if_::if_nametoindex("eth0").context("eth0")?);
        let bare = lab.node(BARE).run_inside(attach)??;
        for name in [XDP, TC, BARE] {
            server::start(lab.node(name).namespace(), &server::stream(), folder)?;
        }
        server::start(lab.node(BARE).namespace(), &server::web(folder, BARE), folder)?;
        let swarm = ours::form(&lab, &[XDP, TC, SERVERS])?;
        ours::create_web(&swarm, "xdp-web", WEB, SERVERS, folder)?;
        ours::create_web(&swarm, "tc-web", TC_WEB, SERVERS, folder)?;
        in_the_drivers_hands(&lab)?;
        Ok(Wire { lab, _bare: bare })
    }

    /// The client's way to this node: its published port, and its own iperf3.
    pub fn call(&self, node: &str) -> Call {
        let entry = self.lab.node(node).address();
        Call {
            namespace: self.lab.client().namespace().path(),
            web: vec![SocketAddrV4::new(entry, if node == TC { TC_WEB } else { WEB })],
            stream: SocketAddrV4::new(entry, STREAM),
        }
    }

    pub fn down(self) -> Result<()> {
        self.lab.down()
    }
}

/// Until a request by the node with XDP is not seen by its stack, whose packet sockets come after the driver: before that, TC is measured twice.
fn in_the_drivers_hands(lab: &Lab) -> Result<()> {
    let (node, port) = (lab.node(XDP), WEB.to_string());
    let is_ours = |bytes: &[u8]| {
        let layers = mesh_packet::decode(bytes);
        layers.iter().flat_map(|layer| &layer.fields).any(|(name, value)| name.ends_with(" port") && *value == port)
    };
    eventually(READY, "requests in the driver's hands", || {
        let capture = node.capture("eth0")?;
        lab.client().http_get(node.address(), WEB, "/")?;
        // Frames come in order: when the echo is seen, so is the request.
        ensure!(lab.client().ping(node.address(), 1)?.all_answered(), "no echo");
        let frames = capture.frames();
        ensure!(frames.iter().any(|frame| is_echo(&frame.bytes)), "the echo is not seen yet");
        ensure!(!frames.iter().any(|frame| is_ours(&frame.bytes)), "TC serves it");
        Ok(())
    })
}

fn is_echo(bytes: &[u8]) -> bool {
    mesh_packet::decode(bytes).iter().any(|layer| layer.name.starts_with("icmp"))
}
