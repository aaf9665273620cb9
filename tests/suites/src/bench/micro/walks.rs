//! The walks that are measured: for each hook its usual established packets, 64 bytes, 10,000 flows.

use mesh_common::parse::protocol;
use mesh_common::verdict::Hook;
use mesh_common::wire::{mac, vni};
use mesh_packet::{Frame, eth};

use super::FLOWS;
use super::restore::FRAME_LEN;
use crate::rig::{HERE, PEER_2, ROUTER_MAC, Rig, Task};

const VIP: [u8; 4] = [10, 0, 16, 2];
const REDIRECT: i32 = 7;
const OK: i32 = 0;
const NEXT: i32 = -1;

/// Frames by flow.
type Frames = Vec<[u8; FRAME_LEN]>;

/// One row of the table.
pub struct Walk {
    pub name: &'static str,
    pub hook: Hook,
    /// Device the packets arrive at.
    pub ifindex: u32,
    pub tunnel: Option<([u8; 4], u32)>,
    /// Sent once each before the measurement; empty where nothing is to be remembered.
    pub opening: Frames,
    pub established: Frames,
    /// What the hook says of each packet.
    pub action: i32,
    /// Least number of flow entries that the opening leaves.
    pub entries: usize,
}

/// The caller of flow `n`: 10,000 different ones outside, in no order that a hash table could profit from.
fn caller(n: u32) -> ([u8; 4], u16) {
    let mixed = n.wrapping_mul(0x9e37_79b1).rotate_left(7).wrapping_mul(0x85eb_ca6b);
    ([198, 18, (n >> 8) as u8, n as u8], 1_024 + (mixed % 60_000) as u16)
}

/// The port of flow `n` of one client.
fn port(n: u32) -> u16 {
    20_000 + ((n * 7_919) % FLOWS) as u16
}

fn frames(of: impl Fn(u32) -> Frame) -> Frames {
    let fit = |frame: Frame| -> [u8; FRAME_LEN] {
        let bytes = frame.bytes();
        bytes.try_into().unwrap_or_else(|bytes: Vec<u8>| panic!("a frame of {} bytes", bytes.len()))
    };
    (0..FLOWS).map(|n| fit(of(n))).collect()
}

/// A segment that opens (with 10 bytes of data, which nobody minds), and one of an established connection.
fn syn(head: Frame, sport: u16, dport: u16) -> Frame {
    head.tcp(sport, dport).syn().payload_of(10)
}

fn data(head: Frame, sport: u16, dport: u16) -> Frame {
    head.tcp(sport, dport).seq(1).ack(1).payload_of(10)
}

/// The tasks of a world.
struct World {
    client: Task,
    here: Task,
    there: Task,
}

fn world(rig: &mut Rig, is_local: bool) -> World {
    let (client, here) = (rig.task_here("10.0.16.3"), rig.task_here("10.0.16.4"));
    let there = rig.task_there(2, "10.0.16.5");
    let service = rig.service("10.0.16.2", &[if is_local { &here } else { &there }]);
    rig.publish(&service, protocol::TCP, 8080, 80);
    World { client, here, there }
}

/// A walk, and the rig it is to run in.
type Make = fn(&mut Rig) -> Walk;

/// All of them; each wants a rig of its own.
pub fn walks() -> Vec<Make> {
    vec![
        to_vip_here,
        reply_of_vip_here,
        to_vip_elsewhere,
        to_task_elsewhere,
        reply_of_vip_elsewhere,
        from_task_elsewhere,
        request_at_the_owner,
        reply_at_the_ingress_node,
        host_to_vip_here,
        host_to_vip_elsewhere,
        published_here,
        published_elsewhere,
        not_ours,
    ]
}

fn to_vip_here(rig: &mut Rig) -> Walk {
    let w = world(rig, true);
    let head = || eth(w.client.mac, mac::GATEWAY).ipv4(w.client.addr, VIP);
    Walk {
        name: "task → VIP, task here (DNAT)",
        hook: Hook::FromTask,
        ifindex: w.client.ifindex,
        tunnel: None,
        opening: frames(|n| syn(head(), port(n), 80)),
        established: frames(|n| data(head(), port(n), 80)),
        action: REDIRECT,
        entries: 2 * FLOWS as usize,
    }
}

fn reply_of_vip_here(rig: &mut Rig) -> Walk {
    let w = world(rig, true);
    // Both tasks' packets arrive at the hook in one world: the opening by the client's device, so by a walk of its own.
    let opening = to_vip_here_frames(&w.client);
    let program = super::Restore::before(hook_of(rig, Hook::FromTask), FLOWS, None).expect("a wrapper");
    program.frames(&opening).expect("frames are written");
    program.run(w.client.ifindex, FLOWS).expect("flows are opened");
    Walk {
        name: "task → its caller, un-NAT to the VIP",
        hook: Hook::FromTask,
        ifindex: w.here.ifindex,
        tunnel: None,
        opening: Vec::new(),
        established: frames(|n| data(eth(w.here.mac, mac::GATEWAY).ipv4(w.here.addr, w.client.addr), 80, port(n))),
        action: REDIRECT,
        entries: 2 * FLOWS as usize,
    }
}

fn to_vip_here_frames(client: &Task) -> Frames {
    frames(|n| syn(eth(client.mac, mac::GATEWAY).ipv4(client.addr, VIP), port(n), 80))
}

fn hook_of(rig: &mut Rig, hook: Hook) -> std::os::fd::BorrowedFd<'_> {
    use std::os::fd::AsFd;
    rig.load(hook.name());
    rig.program(hook.name()).fd().expect("it is loaded").as_fd()
}

fn to_vip_elsewhere(rig: &mut Rig) -> Walk {
    let w = world(rig, false);
    let head = || eth(w.client.mac, mac::GATEWAY).ipv4(w.client.addr, VIP);
    Walk {
        name: "task → VIP, task elsewhere (DNAT, tunnel)",
        hook: Hook::FromTask,
        ifindex: w.client.ifindex,
        tunnel: None,
        opening: frames(|n| syn(head(), port(n), 80)),
        established: frames(|n| data(head(), port(n), 80)),
        action: REDIRECT,
        entries: 2 * FLOWS as usize,
    }
}

fn to_task_elsewhere(rig: &mut Rig) -> Walk {
    let w = world(rig, false);
    Walk {
        name: "task → task elsewhere (tunnel)",
        hook: Hook::FromTask,
        ifindex: w.client.ifindex,
        tunnel: None,
        opening: Vec::new(),
        established: frames(|n| data(eth(w.client.mac, mac::GATEWAY).ipv4(w.client.addr, w.there.addr), port(n), 80)),
        action: REDIRECT,
        entries: 0,
    }
}

fn reply_of_vip_elsewhere(rig: &mut Rig) -> Walk {
    let w = world(rig, false);
    let opening = to_vip_here_frames(&w.client);
    let program = super::Restore::before(hook_of(rig, Hook::FromTask), FLOWS, None).expect("a wrapper");
    program.frames(&opening).expect("frames are written");
    program.run(w.client.ifindex, FLOWS).expect("flows are opened");
    Walk {
        name: "reply of a task elsewhere, un-NAT to the VIP",
        hook: Hook::FromOverlay,
        ifindex: rig.devices().mesh0,
        tunnel: Some((PEER_2, 4_097)),
        opening: Vec::new(),
        established: frames(|n| data(eth(mac::GATEWAY, w.client.mac).ipv4(w.there.addr, w.client.addr), 80, port(n))),
        action: REDIRECT,
        entries: 2 * FLOWS as usize,
    }
}

fn from_task_elsewhere(rig: &mut Rig) -> Walk {
    let w = world(rig, false);
    Walk {
        name: "task elsewhere → task here",
        hook: Hook::FromOverlay,
        ifindex: rig.devices().mesh0,
        tunnel: Some((PEER_2, 4_097)),
        opening: Vec::new(),
        established: frames(|n| data(eth(mac::GATEWAY, w.here.mac).ipv4(w.there.addr, w.here.addr), port(n), 80)),
        action: REDIRECT,
        entries: 0,
    }
}

fn request_at_the_owner(rig: &mut Rig) -> Walk {
    let w = world(rig, true);
    let head = |n| eth(ROUTER_MAC, mac::of(mac::KIND_ENDPOINT, w.here.number)).ipv4(caller(n).0, PEER_2);
    Walk {
        name: "request for a published port, at the owner",
        hook: Hook::FromOverlay,
        ifindex: rig.devices().mesh0,
        tunnel: Some((PEER_2, vni::REQUEST_WIRE)),
        opening: frames(|n| syn(head(n), caller(n).1, 8080)),
        established: frames(|n| data(head(n), caller(n).1, 8080)),
        action: REDIRECT,
        entries: 2 * FLOWS as usize,
    }
}

fn reply_at_the_ingress_node(rig: &mut Rig) -> Walk {
    world(rig, false);
    Walk {
        name: "reply for the wire, at the ingress node",
        hook: Hook::FromOverlay,
        ifindex: rig.devices().mesh0,
        tunnel: Some((PEER_2, vni::REPLY_WIRE)),
        opening: Vec::new(),
        established: frames(|n| data(eth(mac::GATEWAY, ROUTER_MAC).ipv4(HERE, caller(n).0), 8080, caller(n).1)),
        action: REDIRECT,
        entries: 0,
    }
}

fn from_host(rig: &mut Rig, name: &'static str, is_local: bool) -> Walk {
    world(rig, is_local);
    let mesh0 = mac::of(mac::KIND_MESH0, 1);
    let head = || eth(mesh0, mesh0).ipv4(HERE, VIP);
    Walk {
        name,
        hook: Hook::FromHost,
        ifindex: rig.devices().mesh0,
        tunnel: None,
        opening: frames(|n| syn(head(), port(n), 80)),
        established: frames(|n| data(head(), port(n), 80)),
        action: if is_local { REDIRECT } else { OK },
        entries: FLOWS as usize,
    }
}

fn host_to_vip_here(rig: &mut Rig) -> Walk {
    from_host(rig, "host → VIP, task here (DNAT)", true)
}

fn host_to_vip_elsewhere(rig: &mut Rig) -> Walk {
    from_host(rig, "host → VIP, task elsewhere (tunnel)", false)
}

fn published(rig: &mut Rig, name: &'static str, is_local: bool) -> Walk {
    world(rig, is_local);
    let head = |n| eth(ROUTER_MAC, [2, 0, 0, 0, 0, 1]).ipv4(caller(n).0, HERE);
    Walk {
        name,
        hook: Hook::FromUplink,
        ifindex: rig.devices().uplink,
        tunnel: None,
        opening: frames(|n| syn(head(n), caller(n).1, 8080)),
        established: frames(|n| data(head(n), caller(n).1, 8080)),
        action: REDIRECT,
        entries: FLOWS as usize,
    }
}

fn published_here(rig: &mut Rig) -> Walk {
    published(rig, "wire → published port, task here (DNAT)", true)
}

fn published_elsewhere(rig: &mut Rig) -> Walk {
    published(rig, "wire → published port, task elsewhere (tunnel)", false)
}

fn not_ours(rig: &mut Rig) -> Walk {
    world(rig, true);
    let head = |n| eth(ROUTER_MAC, [2, 0, 0, 0, 0, 1]).ipv4(caller(n).0, HERE);
    Walk {
        name: "wire → the host's own port (left alone)",
        hook: Hook::FromUplink,
        ifindex: rig.devices().uplink,
        tunnel: None,
        opening: Vec::new(),
        established: frames(|n| data(head(n), caller(n).1, 22)),
        action: NEXT,
        entries: 0,
    }
}
