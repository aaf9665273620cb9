//! Large datagrams whose fragments arrive in every order, as a network may turn them: whole at a backend's stack, by every way in, and its
//! answer whole at the caller's. The fragments are put on the caller's link one by one; the caller's own socket waits for the answer.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mesh_common::parse::ETHERNET_LEN;
use mesh_lab::{Lab, Swarm, scenario, step};
use mesh_packet::{eth, fragments};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto};

const SOON: Duration = Duration::from_secs(10);
const PORT: u16 = 8000;
/// What senders cut to: tasks, so that it fits the tunnel; and who is outside, so that all fragments but the last are cut once more on their way through it.
const FITS: usize = 1_400;
const CUT_AGAIN: usize = 1_500;
/// Two fragments of either and a piece of a third.
const SIZE: usize = 4_000;
const NO_MAC: [u8; 6] = [0; 6];
const ORDERS: [[usize; 3]; 6] = [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

#[test]
fn fragments_in_any_order_are_a_datagram() {
    scenario("fragments in any order are a datagram", Lab::builder().nodes(["n1", "n2"]), |lab| {
        let swarm = Swarm::form(lab)?;
        swarm.mesh(["network", "create", "demo"])?;
        let on = |node: &str| format!("node.hostname=={node}");
        for node in ["n1", "n2"] {
            swarm.create_client(node, &["--network", "demo", "--constraint", &on(node)])?;
        }
        swarm.create_whoami("whoami", &["--network", "demo", "-p", "8000:8000/udp", "--constraint", &on("n2")])?;
        swarm.wait_running("whoami", 1, SOON)?;

        step("from outside, by the node with the task and by one without");
        for node in lab.nodes() {
            let from = lab.client().address();
            for mtu in [FITS, CUT_AGAIN] {
                let ask = || every_order(from, node.address(), mtu);
                lab.client().run_inside(ask)?.with_context(|| format!("by {}, an MTU of {mtu}", node.name()))?;
            }
        }
        let vip = swarm.vip("whoami")?;
        for task in ["n1.1", "n2.1"] {
            step(&format!("{task}, a task, to the VIP and to a node"));
            let inside = swarm.inside(task);
            for to in [vip, lab.node("n1").address()] {
                let seen = inside.udp(to, PORT, 1)?;
                let IpAddr::V4(from) = seen[0].local.ip() else { bail!("{seen:?}") };
                inside.enter(|| every_order(from, to, FITS))?.with_context(|| format!("{task} to {to}"))?;
            }
        }
        Ok(())
    });
}

/// Each order twice: by one socket, and by a new one, whose first fragment decides anew.
fn every_order(from: Ipv4Addr, to: Ipv4Addr, mtu: usize) -> Result<()> {
    let known = UdpSocket::bind((from, 0))?;
    for order in ORDERS {
        for socket in [&known, &UdpSocket::bind((from, 0))?] {
            let to = SocketAddrV4::new(to, PORT);
            echo(socket, to, mtu, order).with_context(|| format!("in the order {order:?}"))?;
        }
    }
    Ok(())
}

/// A datagram in fragments of this order comes back whole.
fn echo(socket: &UdpSocket, to: SocketAddrV4, mtu: usize, order: [usize; 3]) -> Result<()> {
    let SocketAddr::V4(from) = socket.local_addr()? else { bail!("not an IPv4 socket") };
    let payload: Vec<u8> = b"echo".iter().copied().chain((0..251).cycle()).take(SIZE).collect();
    static NUMBER: AtomicU16 = AtomicU16::new(1);
    let id = NUMBER.fetch_add(1, Ordering::Relaxed);
    let whole = eth(NO_MAC, NO_MAC).ipv4(*from.ip(), *to.ip()).id(id).udp(from.port(), to.port()).payload(&payload);
    let pieces = fragments(&whole, mtu);
    ensure!(pieces.len() == order.len(), "{} fragments", pieces.len());
    // Takes IP packets as they are, and knows the way (raw(7)).
    let raw = nix::sys::socket::socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)?;
    for place in order {
        sendto(raw.as_raw_fd(), &pieces[place][ETHERNET_LEN..], &SockaddrIn::from(to), MsgFlags::empty())?;
    }
    socket.set_read_timeout(Some(SOON))?;
    let mut buffer = vec![0; 1 << 16];
    let (size, answers) = socket.recv_from(&mut buffer).context("no answer")?;
    ensure!(answers == SocketAddr::V4(to) && buffer[..size] == payload, "{size} bytes from {answers}");
    Ok(())
}
