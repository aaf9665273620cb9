//! East–west, a task's call to a VIP: its own node chooses and rewrites, and keeps both directions. The backend's node only delivers. So goes the second
//! choice of a published port's call that was translated at the caller's node.

use mesh_common::parse::{Form, Packet};
use mesh_common::schema::{Endpoint, Frontend};
use mesh_common::verdict::DropReason;

use crate::maps::Tables;
use crate::outcome::{Code, Stop, encode};
use crate::stage::owner::{self, WayBack};
use crate::stage::{affinity, balance, flow};

/// Decides a new flow of a task of this node to a VIP; it stands in the scratch then. `gone` is the endpoint that turned the packet back
/// (0: none). A real call, as `nat::apply_apart`.
#[inline(never)]
pub fn enter<F: Tables>(
    packet: &Packet<F>,
    source: &Endpoint<F::Addr>,
    frontend: &Frontend<F::Addr>,
    gone: u32,
) -> Code {
    encode(decide(packet, source, frontend, gone).map(|()| 0))
}

#[inline(always)]
fn decide<F: Tables>(
    packet: &Packet<F>,
    source: &Endpoint<F::Addr>,
    frontend: &Frontend<F::Addr>,
    gone: u32,
) -> Result<(), Stop> {
    match packet.form {
        Form::Fragment => return Err(Stop::drop(DropReason::Fragment)),
        Form::IcmpError | Form::EchoReply => return Err(Stop::drop(DropReason::IcmpError)),
        _ => {}
    }
    let mut chosen = balance::choose(frontend, packet, gone, flow::begins(), source.ifindex)?;
    if chosen.backend == source.number && frontend.turns_len > 1 {
        // A task that calls its own service gets another task where there is one: the next in turn.
        let other = balance::another(frontend, chosen);
        if other.backend != gone {
            chosen = other;
            affinity::keep(frontend, packet, other.backend);
        }
    }
    let number = chosen.backend;
    let Some(backend) = balance::backend(number) else { return Err(Stop::drop(DropReason::NotConfigured)) };
    let back = WayBack::to_task(source);
    owner::accept(packet, number, backend, frontend.target_port, source.ifindex, &back, &source.gateway)?;
    Ok(())
}
