//! The ingress node's part of a call to a frontend: choose a backend; if it lives here be its owner too, else send the packet
//! unmodified to its node, with the choice in the inner destination MAC and the last hop in the inner source MAC.

use mesh_common::parse::{Packet, protocol};
use mesh_common::schema::{Flow, Frontend, RingSlot, deliver, flow_flag};
use mesh_common::verdict::DropReason;
use mesh_common::wire::{mac, vni};

use crate::maps::Tables;
use crate::outcome::{Code, Stop, encode};
use crate::stage::owner::{self, WayBack};
use crate::stage::{allow, balance, flow};

/// Where a call came into the cluster, as the tunnel tells the owner.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// From a neighbour on the wire.
    Wire,
    /// From this node's host.
    Host,
    /// From a task of this node.
    Client,
}

/// A call as it came in.
pub struct Call<A> {
    /// Where it came in.
    pub entry: Entry,
    /// The same, as its flow entry says (`origin::*`).
    pub from: u32,
    /// Port it means at the backend; 0 keeps the packet's.
    pub target_port: u16,
    /// This node.
    pub node: u32,
    /// The way back, if the backend lives here.
    pub back: WayBack,
    /// What a task that reaches itself sees as its caller.
    pub gateway: A,
    /// Endpoint that turned this call back; 0: none.
    pub gone: u32,
}

/// Decides a new flow to a frontend; it stands in the scratch then. A real call, as `nat::apply_apart`.
#[inline(never)]
pub fn enter<F: Tables>(packet: &Packet<F>, frontend: &Frontend<F::Addr>, call: &Call<F::Addr>) -> Code {
    encode(decide(packet, frontend, call).map(|_| 0))
}

#[inline(always)]
fn decide<F: Tables>(
    packet: &Packet<F>,
    frontend: &Frontend<F::Addr>,
    call: &Call<F::Addr>,
) -> Result<&'static Flow<F::Addr>, Stop> {
    // Before it counts as a flow: who is not let in makes no flood.
    if frontend.allow != 0 && allow::admits::<F>(frontend, &packet.src) == 0 {
        return Err(Stop::refuse(DropReason::NotAllowed));
    }
    let in_flood = flow::begins();
    let RingSlot { backend: number, node } = balance::choose(frontend, packet, call.gone, in_flood, call.from)?;
    if node == call.node {
        let Some(backend) = balance::backend(number) else { return Err(Stop::drop(DropReason::NotConfigured)) };
        return owner::accept(packet, number, backend, call.target_port, call.from, &call.back, &call.gateway);
    }
    let from_wire = call.entry == Entry::Wire;
    // In a flood a SYN leaves no trace here: whatever follows it finds the same backend by the ring, and the answer leaves by the link that has the
    // address. What follows is remembered, or every packet of a connection would count as a flow.
    let is_traceless = in_flood && packet.protocol == protocol::TCP && packet.may_open();
    let forward = to_owner(packet, number, node, call.entry, call.from, call.back.ifindex)?;
    if is_traceless && (!from_wire || is_links_own(packet, call.back.ifindex)) {
        // The life before on this tuple, which the SYN ended, named another backend perhaps: what follows must not find it.
        F::remove_flow(&packet.tuple);
    } else {
        remember(packet, forward);
    }
    Ok(forward)
}

/// The link has the address that the packet is for.
#[inline(always)]
fn is_links_own<F: Tables>(packet: &Packet<F>, ifindex: u32) -> bool {
    F::address(&packet.dst).is_some_and(|address| address.ifindex == ifindex)
}

/// Keeps a choice. A cache only: without it the next packet chooses by the ring.
#[inline(always)]
pub fn remember<F: Tables>(packet: &Packet<F>, forward: &mut Flow<F::Addr>) {
    let _ = F::put_flow(&packet.tuple, forward, flow::ANY);
}

/// How a call goes to the node of the endpoint `number`; in by the link `came_by` (0: none). To be [`remember`]ed.
#[inline(always)]
pub fn to_owner<F: Tables>(
    packet: &Packet<F>,
    number: u32,
    node: u32,
    entry: Entry,
    from: u32,
    came_by: u32,
) -> Result<&'static mut Flow<F::Addr>, Stop> {
    let Some(scratch) = F::scratch() else { return Err(Stop::PASS) };
    // SAFETY: per-CPU scratch, not shared while this program runs.
    let forward = unsafe { &mut (*scratch).forward };
    flow::blank::<F>(forward);
    forward.deliver = deliver::TUNNEL;
    forward.from = from;
    forward.node = node as u16;
    forward.ifindex = came_by;
    forward.backend = number;
    forward.mac = mac::of(mac::KIND_ENDPOINT, number);
    (forward.vni, forward.flags) = match entry {
        Entry::Wire => (vni::REQUEST_WIRE, flow_flag::KEEP_MAC),
        Entry::Host => (vni::REQUEST_NODE, flow_flag::FROM_HOST),
        Entry::Client => (vni::REQUEST_NODE, flow_flag::FROM_CLIENT),
    };
    flow::count_first(packet, forward);
    Ok(forward)
}
