//! East–west, a task's call to a VIP: its own node chooses and rewrites, and keeps both directions. The backend's node only delivers.

use mesh_common::parse::{Form, Packet};
use mesh_common::schema::{Endpoint, FlowKey, Frontend, deliver as way, flow_flag, origin, rewrite};
use mesh_common::verdict::DropReason;

use crate::hook::{Code, Stop, encode};
use crate::maps::Tables;
use crate::stage::{affinity, balance, flow};

/// Decides a new flow of a task of this node to a VIP; it stands in the scratch then. `gone` is the endpoint that turned the packet back
/// (0: none). A real call, as `nat::apply_apart`.
#[inline(never)]
pub fn enter<F: Tables>(
    packet: &Packet<F>,
    node: u32,
    source: &Endpoint<F::Addr>,
    frontend: &Frontend<F::Addr>,
    gone: u32,
) -> Code {
    encode(decide(packet, node, source, frontend, gone).map(|()| 0))
}

#[inline(always)]
fn decide<F: Tables>(
    packet: &Packet<F>,
    node: u32,
    source: &Endpoint<F::Addr>,
    frontend: &Frontend<F::Addr>,
    gone: u32,
) -> Result<(), Stop> {
    match packet.form {
        Form::Fragment => return Err(Stop::drop(DropReason::Fragment)),
        Form::IcmpError | Form::EchoReply => return Err(Stop::drop(DropReason::IcmpError)),
        _ => {}
    }
    let mut chosen = balance::choose(frontend, packet, gone, flow::begins())?;
    if chosen.backend == source.number && frontend.turns_len > 1 {
        // A task that calls its own service gets another task where there is one: the next in turn.
        let other = balance::another(frontend, chosen);
        if other.backend != gone {
            chosen = other;
            affinity::keep(frontend, packet, other.backend);
        }
    }
    let number = chosen.backend;
    let is_hairpin = number == source.number;
    let Some(backend) = balance::backend(number) else { return Err(Stop::drop(DropReason::NotConfigured)) };
    let Some(scratch) = F::scratch() else { return Err(Stop::drop(DropReason::NotConfigured)) };
    // SAFETY: per-CPU scratch, not shared while this program runs.
    let scratch = unsafe { &mut *scratch };
    let flags = if is_hairpin { flow_flag::HAIRPIN } else { 0 };
    let caller = if is_hairpin { &source.gateway } else { &packet.src };

    flow::blank::<F>(&mut scratch.forward);
    flow::blank::<F>(&mut scratch.reverse);
    // In one breath, as in `owner::accept`.
    let addr = F::backend_addr(backend);
    scratch.reply = FlowKey::new(addr, *caller, packet.dport, packet.sport, packet.protocol);
    scratch.forward.addr = addr;
    scratch.forward.from = source.ifindex;
    scratch.forward.rewrite = rewrite::DESTINATION;
    scratch.forward.flags = flags;
    scratch.forward.backend = number;
    scratch.forward.mac = backend.mac;
    if backend.node == node {
        scratch.forward.deliver = way::TASK;
        scratch.forward.ifindex = backend.ifindex;
    } else {
        scratch.forward.deliver = way::TUNNEL;
        scratch.forward.node = backend.node as u16;
        scratch.forward.vni = backend.vni;
    }

    scratch.reverse.addr = packet.dst;
    scratch.reverse.from = if backend.node == node { backend.ifindex } else { origin::peer(backend.node) };
    scratch.reverse.port = packet.dport;
    scratch.reverse.rewrite = rewrite::SOURCE;
    scratch.reverse.deliver = way::TASK;
    scratch.reverse.flags = flags;
    scratch.reverse.ifindex = source.ifindex;
    scratch.reverse.mac = source.mac;
    scratch.reverse.backend = number;

    flow::remember_pair(packet)?;
    Ok(())
}
