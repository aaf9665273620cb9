//! The ingress node's part of a call to a frontend: choose a backend; if it lives here be its owner too, else send the packet
//! unmodified to its node, with the choice in the inner destination MAC and the last hop in the inner source MAC. A task's call that its owner could
//! not tell from another one of the same task is translated here, as those to VIPs are (docs/decisions/0038).

use mesh_common::parse::{Packet, protocol};
use mesh_common::schema::{Flow, FlowKey, Frontend, RingSlot, deliver, flow_flag, rewrite};
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
    // What was turned back goes on as it came, marked as such.
    let may_meet = call.entry == Entry::Client && call.gone == 0;
    if node == call.node || may_meet && meets_another(packet, number, call) != 0 {
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

/// 1 where a call of this node's task to a backend elsewhere has to be translated here, for its answers' tuple is another one's: by a VIP, or by the
/// backend's own address, the task has called the same port of the same backend from the same port, and this node alone knows. Who did that shares
/// the backend's network, so the call may go through it. In the midst of a connection what is left of its own entries tells. Else 0. A real call: the key
/// is not on the stack meanwhile.
#[inline(never)]
fn meets_another<F: Tables>(packet: &Packet<F>, number: u32, call: &Call<F::Addr>) -> u32 {
    if !packet.may_open()
        && let Some(own) = F::flow(&packet.tuple)
    {
        // SAFETY: a live map value, read only.
        let own = unsafe { &*own };
        let is_of_this = own.from == call.from && own.backend == number && own.flags & flow_flag::DEAD == 0;
        return (is_of_this && own.rewrite == rewrite::DESTINATION) as u32;
    }
    let (Some(backend), Some(scratch)) = (balance::backend(number), F::scratch()) else { return 0 };
    // SAFETY: per-CPU scratch, not shared while this program runs; who accepts the call writes the same key.
    let answers = unsafe { &mut (*scratch).reply };
    let port = if call.target_port == 0 { packet.dport } else { call.target_port };
    *answers = FlowKey::new(F::backend_addr(backend), packet.src, port, packet.sport, packet.protocol);
    // SAFETY: a live map value, read only.
    let is_taken = F::flow(answers).is_some_and(|other| unsafe { (*other).flags } & flow_flag::REVERSE != 0);
    (is_taken && (packet.may_open() || flow::has_another_port(packet, answers))) as u32
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
