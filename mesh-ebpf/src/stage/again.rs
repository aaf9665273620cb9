//! Choosing again: a first packet whose task turned out to be gone comes back from its node, and goes to another task.
//!
//! Nodes hear of a task's end at different moments. The node that should have had the task hands the packet back unchanged
//! ([`turn_back`]); the node that chose, and knows the caller, chooses anew ([`call`], [`vip()`]). The second choice is marked as such and is not
//! turned back again, so nothing goes round for ever. Must not: take back what no call of this node's stands for.

use mesh_common::parse::{self, Ethernet, Form, Packet, protocol};
use mesh_common::schema::{
    Address, Config, Endpoint, Flow, Frontend, Peer, deliver as way, endpoint, flow_flag, program, rewrite,
};
use mesh_common::verdict::{DropReason, Hook};
use mesh_common::wire::{mac, vni};

use crate::maps::{self, Tables};
use crate::outcome::{Code, Stop, encode, go_on};
use crate::packet::tc::Tc;
use crate::stage::deliver::{Target, deliver, next, send_tunnel};
use crate::stage::ingress::{Call, Entry, enter};
use crate::stage::owner::WayBack;
use crate::stage::{balance, flow, nat, vip};

/// What turned-back packets come through.
const HOOK: Hook = Hook::FromOverlay;

/// Hands a packet back to the peer it came from. Only one that opens something: what belongs to a connection has nowhere else to go.
#[inline(always)]
pub fn turn_back<F: Tables>(
    tc: &Tc,
    config: &Config,
    peer: &Address,
    packet: &Packet<F>,
    id: u32,
    reason: DropReason,
) -> Result<i32, Stop> {
    if !packet.may_open() || !matches!(packet.form, Form::Ports | Form::EchoRequest) {
        return Err(Stop::drop(reason));
    }
    match maps::peer(peer.node) {
        Some(target) => send_tunnel(tc, HOOK, config, target, id),
        None => Err(Stop::drop(reason)),
    }
}

/// Hands a packet that this node turned back to the program that chooses again.
#[inline(always)]
pub fn hand_on(tc: &Tc, node: u32, id: u32) -> Code {
    tc.leave([node, id, 0]);
    go_on(tc, program::TURNED_BACK)
}

/// [`deliver`] as a real call: the chain to the next choice is long, and its buffers need not be on the stack meanwhile.
#[inline(never)]
fn send<F: Tables>(tc: &Tc, config: &Config, flow: &Flow<F::Addr>, peer: Option<&'static Peer>, sender: u32) -> Code {
    encode(deliver(tc, HOOK, config, flow, Target::through_mesh0(peer), sender))
}

/// A call that came back: see [`call`]. A real call, as `nat::apply_apart`, and one for both origins: the verifier goes through it once.
#[inline(never)]
pub fn call_of<F: Tables>(tc: &Tc, eth: &Ethernet, config: &Config, node: u32, from_wire: bool) -> Code {
    encode(call::<F>(tc, eth, config, node, from_wire))
}

/// North–south, at the ingress node. The frame is as it was sent: its destination names the task that is gone, its source the last hop.
#[inline(always)]
fn call<F: Tables>(tc: &Tc, eth: &Ethernet, config: &Config, node: u32, from_wire: bool) -> Result<i32, Stop> {
    let mut room = parse::Room::<F>::uninit();
    let Some(packet) = flow::read(tc, &mut room) else { return Err(Stop::drop(DropReason::Malformed)) };
    let Some((mac::KIND_ENDPOINT, gone)) = mac::split(eth.dst) else { return Err(Stop::drop(DropReason::WireFormat)) };
    let (entry, client) = match mac::split(eth.src) {
        _ if from_wire => (Entry::Wire, 0),
        Some((mac::KIND_HOST, _)) => (Entry::Host, 0),
        Some((mac::KIND_CLIENT, number)) => (Entry::Client, number),
        _ => return Err(Stop::drop(DropReason::WireFormat)),
    };
    let chosen: &Flow<F::Addr> = match F::flow(&packet.tuple) {
        // SAFETY: a live map value, read only.
        Some(chosen) => unsafe { &*chosen },
        None => return Err(Stop::drop(DropReason::ForgedReply)),
    };
    // Only what opens something is ever turned back.
    if chosen.flags & flow_flag::REVERSE != 0 || !packet.may_open() {
        return Err(Stop::drop(DropReason::ForgedReply));
    }
    let from = chosen.from;
    let mut gateway = packet.src;
    // A datagram that was on its way while the one before it chose again goes where that one went.
    let flow = if chosen.backend != gone && packet.protocol != protocol::TCP {
        chosen
    } else {
        if chosen.backend != gone || chosen.deliver != way::TUNNEL || chosen.node as u32 != node {
            return Err(Stop::drop(DropReason::ForgedReply));
        }
        // None: the call meant this very task.
        let Some(frontend) = called::<F>(packet) else { return Err(Stop::drop(DropReason::EndpointGone)) };
        let mut back = WayBack { deliver: way::UPLINK, ifindex: chosen.ifindex, node: 0, vni: 0, mac: eth.src };
        if let Entry::Host = entry {
            back = WayBack::to_host(config);
        }
        if let Entry::Client = entry {
            let caller = match F::endpoint(&packet.src) {
                Some(caller) if caller.number == client && caller.ifindex != 0 => caller,
                _ => return Err(Stop::drop(DropReason::ForgedReply)),
            };
            gateway = caller.gateway;
            back = WayBack::to_task(caller);
        }
        F::remove_flow(&packet.tuple);
        let call = Call { entry, from, target_port: frontend.target_port, node: config.node, back, gateway, gone };
        let code = enter(packet, frontend, &call);
        if code != 0 {
            return Ok(code);
        }
        let again = flow::decided_mut::<F>()?;
        if again.deliver == way::TUNNEL {
            again.vni += vni::SECOND_CHANCE_WIRE - vni::REQUEST_WIRE;
        }
        again
    };
    let to = next(flow)?;
    nat::apply_apart(tc, nat::Source::Wire, packet, flow, &gateway)?;
    Ok(send::<F>(tc, config, flow, to, client))
}

/// The frontend that a call named: a published port of a node, or a VIP, whose target port is 0: it keeps the call's. A real call: its keys are not on
/// the stack meanwhile.
#[inline(never)]
fn called<F: Tables>(packet: &Packet<F>) -> Option<&'static Frontend<F::Addr>> {
    match balance::published::<F>(&packet.dst, packet.dport, packet.protocol) {
        Some(frontend) if F::address(&packet.dst).is_some() => Some(frontend),
        _ => balance::vip::<F>(packet.dst),
    }
}

/// East–west, at the client's node: the packet has the gone task's address already, which is undone first; a published port's that was translated here
/// goes the same way. A real call, as `nat::apply_apart`.
#[inline(never)]
pub fn call_of_vip<F: Tables>(tc: &Tc, eth: &Ethernet, config: &Config, node: u32) -> Code {
    encode(vip::<F>(tc, eth, config, node))
}

#[inline(always)]
fn vip<F: Tables>(tc: &Tc, eth: &Ethernet, config: &Config, node: u32) -> Result<i32, Stop> {
    let mut room = parse::Room::<F>::uninit();
    let Some(packet) = flow::read(tc, &mut room) else { return Err(Stop::drop(DropReason::Malformed)) };
    let gone = match F::endpoint(&packet.dst) {
        Some(target) if target.node == node && target.kind == endpoint::TASK => target.number,
        _ => return Err(Stop::drop(DropReason::NoEndpoint)),
    };
    let source: &Endpoint<F::Addr> = match F::endpoint(&packet.src) {
        Some(source) if source.ifindex != 0 && source.kind == endpoint::TASK => source,
        _ => return Err(Stop::drop(DropReason::ForgedReply)),
    };
    // The reply's entry knows what was called. Without one the task was called by its own address: nobody else can answer.
    let reply = packet.tuple.turned();
    let answers: &Flow<F::Addr> = match F::flow(&reply) {
        // SAFETY: a live map value, read only.
        Some(answers) => unsafe { &*answers },
        None => return Err(Stop::drop(DropReason::NoEndpoint)),
    };
    let is_call = answers.rewrite == rewrite::SOURCE && answers.ifindex == source.ifindex && answers.backend == gone;
    if !is_call || !packet.may_open() {
        return Err(Stop::drop(DropReason::NoEndpoint));
    }
    let undo = flow::decided_mut::<F>()?;
    flow::blank::<F>(undo);
    undo.rewrite = rewrite::DESTINATION;
    undo.addr = answers.addr;
    undo.port = answers.port;
    undo.other_port = answers.other_port;
    nat::apply_apart(tc, nat::Source::Wire, packet, undo, &source.gateway)?;
    tc.set_macs(eth.dst, mac::SECOND_CHANCE)?;

    let mut room = parse::Room::<F>::uninit();
    let Some(packet) = flow::read(tc, &mut room) else { return Err(Stop::drop(DropReason::Malformed)) };
    // SAFETY: a live map value, read only.
    let chosen: Option<&Flow<F::Addr>> = F::flow(&packet.tuple).map(|chosen| unsafe { &*chosen });
    let flow = match chosen {
        Some(chosen) if chosen.backend != gone => chosen,
        _ => {
            let Some(frontend) = called::<F>(packet) else { return Err(Stop::drop(DropReason::NoEndpoint)) };
            F::remove_flow(&packet.tuple);
            let code = vip::enter(packet, source, frontend, gone);
            if code != 0 {
                return Ok(code);
            }
            let again = flow::decided_mut::<F>()?;
            again.flags |= flow_flag::KEEP_MAC;
            again
        }
    };
    let to = next(flow)?;
    nat::apply_apart(tc, nat::Source::Wire, packet, flow, &source.gateway)?;
    Ok(send::<F>(tc, config, flow, to, source.number))
}
