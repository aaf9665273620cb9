//! The owner's part of a call: who rewrites remembers the way back. That is the node of the task that is called; within a network it is the caller's.
//!
//! The task sees the caller's own address and port; its reply leaves here already from the address and port that was called.

use mesh_common::parse::Packet;
use mesh_common::schema::{Backend, Config, Endpoint, Flow, FlowKey, deliver, flow_flag, origin, rewrite};

use crate::maps::Tables;
use crate::outcome::Stop;
use crate::stage::flow;

/// How the reply gets back to the caller.
pub struct WayBack {
    /// One of `schema::deliver::*`.
    pub deliver: u8,
    /// Uplink or task interface.
    pub ifindex: u32,
    /// Ingress node, where the reply goes through the tunnel.
    pub node: u32,
    /// VNI of that reply.
    pub vni: u32,
    /// Last hop.
    pub mac: [u8; 6],
}

impl WayBack {
    /// To a task of this node.
    #[inline(always)]
    pub fn to_task<A>(caller: &Endpoint<A>) -> WayBack {
        WayBack { deliver: deliver::TASK, ifindex: caller.ifindex, node: 0, vni: 0, mac: caller.mac }
    }

    /// To this node's own stack.
    #[inline(always)]
    pub fn to_host(config: &Config) -> WayBack {
        WayBack { deliver: deliver::HOST, ifindex: 0, node: 0, vni: 0, mac: config.mesh0_mac }
    }

    /// Through the tunnel to the peer with this number.
    #[inline(always)]
    pub fn to_peer(node: u32, vni: u32, mac: [u8; 6]) -> WayBack {
        WayBack { deliver: deliver::TUNNEL, ifindex: 0, node, vni, mac }
    }
}

/// Accepts a call for a task; the flow returned delivers it. `target_port` 0 keeps the port; `from` is one of `origin::*`. A
/// task that reached itself sees `gateway` as its caller.
#[inline(always)]
pub fn accept<F: Tables>(
    packet: &Packet<F>,
    number: u32,
    backend: &Backend,
    target_port: u16,
    from: u32,
    back: &WayBack,
    gateway: &F::Addr,
) -> Result<&'static Flow<F::Addr>, Stop> {
    let Some(scratch) = F::scratch() else { return Err(Stop::PASS) };
    // SAFETY: per-CPU scratch, not shared while this program runs.
    let scratch = unsafe { &mut *scratch };
    let port = if target_port == 0 { packet.dport } else { target_port };
    let is_hairpin = back.deliver == deliver::TASK && packet.src == F::backend_addr(backend);
    let flags = if is_hairpin { flow_flag::HAIRPIN } else { 0 };
    let caller = if is_hairpin { gateway } else { &packet.src };

    flow::blank::<F>(&mut scratch.forward);
    flow::blank::<F>(&mut scratch.reverse);
    // In one breath: an address of IPv6 that lives longer would be on the stack.
    let addr = F::backend_addr(backend);
    scratch.reply = FlowKey::new(addr, *caller, port, packet.sport, packet.protocol);
    scratch.forward.addr = addr;
    scratch.forward.from = from;
    scratch.forward.port = port;
    scratch.forward.rewrite = rewrite::DESTINATION;
    let is_here = backend.ifindex != 0;
    if is_here {
        scratch.forward.deliver = deliver::TASK;
        scratch.forward.ifindex = backend.ifindex;
    } else {
        scratch.forward.deliver = deliver::TUNNEL;
        scratch.forward.node = backend.node as u16;
        scratch.forward.vni = backend.vni;
    }
    scratch.forward.backend = number;
    scratch.forward.mac = backend.mac;
    scratch.forward.flags = flags;

    scratch.reverse.addr = packet.dst;
    scratch.reverse.from = if is_here { backend.ifindex } else { origin::peer(backend.node) };
    scratch.reverse.port = packet.dport;
    scratch.reverse.rewrite = rewrite::SOURCE;
    scratch.reverse.deliver = back.deliver;
    scratch.reverse.ifindex = back.ifindex;
    scratch.reverse.node = back.node as u16;
    scratch.reverse.vni = back.vni;
    scratch.reverse.backend = number;
    scratch.reverse.mac = back.mac;
    scratch.reverse.flags = flags;

    flow::remember_pair(packet)?;
    Ok(&scratch.forward)
}
