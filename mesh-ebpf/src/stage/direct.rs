//! A call to a task by its own address, as `tasks.SERVICE` and services without a VIP give it: nothing is remembered of it.
//!
//! Unless its answers would be taken for another's: where an entry has the answers' tuple, this call is remembered too, and the task sees it come from
//! another port. That the other one has ended is no reason to take its place: what its last packets say of it is not all that its stacks know. Must not:
//! choose, or judge who may call.

use mesh_common::parse::{self, Form, Packet, protocol};
use mesh_common::schema::{Endpoint, flow_flag, origin};
use mesh_common::verdict::DropReason;

use crate::maps::Tables;
use crate::outcome::{Code, Stop, encode};
use crate::packet::tc::Tc;
use crate::stage::arrival::Arrival;
use crate::stage::deliver::{config, deliver, peer_of};
use crate::stage::owner::{self, WayBack};
use crate::stage::{balance, flow, nat, watch};

/// Says [`Stop::BESIDE`] of a packet to a task where it may be the first of a call that meets another one. Who sent it is judged already.
#[inline(always)]
pub fn keep_clear<F: Tables>(packet: &Packet<F>, to: &Endpoint<F::Addr>) -> Result<(), Stop> {
    if packet.form == Form::Ports
        && packet.may_open()
        && meets_another(packet) != 0
        && balance::backend(to.number).is_some()
    {
        return Err(Stop::BESIDE);
    }
    Ok(())
}

/// 1 where an entry has the tuple that this call's answers would have, or an older call, which has ended and had another port, this one's own; else 0. A
/// real call: the key is not on the stack meanwhile.
#[inline(never)]
fn meets_another<F: Tables>(packet: &Packet<F>) -> u32 {
    if let Some(other) = F::flow(&packet.tuple.turned()) {
        // SAFETY: a live map value, read only.
        return (unsafe { (*other).flags } & flow_flag::REVERSE != 0) as u32;
    }
    (packet.protocol == protocol::TCP && F::flow(&packet.tuple).is_some()) as u32
}

/// Remembers a call of which [`keep_clear`] spoke, beside the other one, and sends its packet.
#[inline(never)]
pub fn go_beside<F: Tables>(tc: &Tc, arrival: &Arrival) -> Code {
    encode(beside::<F>(tc, arrival))
}

#[inline(always)]
fn beside<F: Tables>(tc: &Tc, arrival: &Arrival) -> Result<i32, Stop> {
    // A peer's task calls within the network of this VNI.
    let &Arrival { hook, from, id: vni } = arrival;
    let (config, mut room) = (config()?, parse::Room::<F>::uninit());
    let Some(packet) = flow::read(tc, &mut room) else { return Err(Stop::drop(DropReason::Malformed)) };
    let Some(target) = F::endpoint(&packet.dst) else { return Err(Stop::drop(DropReason::NoEndpoint)) };
    let Some(backend) = balance::backend(target.number) else { return Err(Stop::drop(DropReason::NotConfigured)) };
    let (back, gateway) = match F::endpoint(&packet.src) {
        _ if from == origin::HOST => (WayBack::to_host(config), &packet.src),
        Some(source) if origin::is_peer(from) => {
            (WayBack::to_peer(origin::number(from), vni, source.mac), &source.gateway)
        }
        Some(source) => (WayBack::to_task(source), &source.gateway),
        None => return Err(Stop::drop(DropReason::NoEndpoint)),
    };
    flow::begins();
    let flow = owner::accept(packet, target.number, backend, 0, from, &back, gateway)?;
    let to = peer_of(tc, hook, packet, flow)?;
    watch::verdict(tc, config, hook, packet, flow);
    nat::apply_apart(tc, nat::Source::Stack, packet, flow, gateway)?;
    deliver(tc, hook, config, flow, to, 0)
}
