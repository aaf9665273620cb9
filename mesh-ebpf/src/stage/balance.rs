//! Chooses a backend for the first packet of a flow.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use mesh_common::flow::MOST_TWINS;
use mesh_common::hash;
use mesh_common::parse::Packet;
use mesh_common::schema::{
    Backend, FlowKey, Frontend, FrontendKey, RingSlot, algorithm, flow_flag, frontend_flag, rewrite,
};
use mesh_common::verdict::DropReason;

use crate::maps::{BACKENDS, RINGS, TURNS, Tables};
use crate::outcome::Stop;
use crate::stage::{affinity, flow};

/// The service behind a VIP: every port and protocol.
#[inline(always)]
pub fn vip<F: Tables>(addr: F::Addr) -> Option<&'static Frontend<F::Addr>> {
    F::frontend(&FrontendKey::vip(addr))
}

/// The service behind a published port of a node's address: one of every address, else one of this address alone.
#[inline(always)]
pub fn published<F: Tables>(addr: &F::Addr, port: u16, protocol: u8) -> Option<&'static Frontend<F::Addr>> {
    if port == 0 {
        return None;
    }
    let frontend = F::frontend(&FrontendKey::published(port, protocol))?;
    if frontend.flags & frontend_flag::BY_ADDRESS == 0 { Some(frontend) } else { at_address::<F>(addr, port, protocol) }
}

/// A real call, for few ports are published so.
#[inline(never)]
fn at_address<F: Tables>(addr: &F::Addr, port: u16, protocol: u8) -> Option<&'static Frontend<F::Addr>> {
    F::frontend(&FrontendKey::published_at(*addr, port, protocol))
}

/// The backend with this endpoint number.
#[inline(always)]
pub fn backend(number: u32) -> Option<&'static Backend> {
    // SAFETY: values change only as a whole; a torn read shows one of two valid backends.
    unsafe { BACKENDS.get(number) }
}

/// The backend for this packet and its node: by the service's algorithm for a first packet; for a later one without a flow the one whose answers are
/// remembered, else by the ring.
///
/// Not `gone` (0: none), which turned this packet back and stands in the tables for a moment still. In a flood the ring chooses, whatever the
/// algorithm: entries may be lost before the handshake is over, and then every packet has to find the same backend without one.
#[inline(always)]
pub fn choose<F: Tables>(
    frontend: &Frontend<F::Addr>,
    packet: &Packet<F>,
    gone: u32,
    in_flood: bool,
    from: u32,
) -> Result<RingSlot, Stop> {
    if frontend.turns_len == 0 {
        return Err(Stop::refuse(DropReason::NoBackend));
    }
    if frontend.algorithm == algorithm::CLIENT {
        return match affinity::choose(frontend, packet, gone, in_flood) {
            0 => Err(Stop::refuse(DropReason::NoBackend)),
            number if number == gone => Err(Stop::drop(DropReason::EndpointGone)),
            number => named(number),
        };
    }
    // Not in a flood, whose packets would all be looked for.
    if !packet.may_open() && !in_flood {
        let number = by_entries(frontend, packet, from);
        if number != 0 {
            return named(number);
        }
    }
    let slot = if in_flood || !packet.may_open() || is_by_ring(frontend) {
        ring_slot(frontend, packet)
    } else if frontend.algorithm == algorithm::RANDOM {
        // SAFETY: no arguments.
        frontend.turns_at + hash::slot(unsafe { bpf_get_prandom_u32() }, frontend.turns_len)
    } else {
        frontend.turns_at + take_turn(frontend.pool).checked_rem(frontend.turns_len as u64).unwrap_or(0) as u32
    };
    let Some(chosen) = at(slot) else { return Err(Stop::refuse(DropReason::NoBackend)) };
    if chosen.backend != gone {
        return Ok(chosen);
    }
    match another(frontend, chosen) {
        other if other.backend != gone => Ok(other),
        _ => Err(Stop::drop(DropReason::EndpointGone)),
    }
}

/// The ring decides for every packet.
#[inline(always)]
fn is_by_ring<A>(frontend: &Frontend<A>) -> bool {
    frontend.algorithm == algorithm::MAGLEV || frontend.algorithm == algorithm::MAGLEV_OF_ALLOWED
}

/// The backend with this number, and its node.
#[inline(always)]
fn named(number: u32) -> Result<RingSlot, Stop> {
    match backend(number) {
        Some(it) => Ok(RingSlot { backend: number, node: it.node }),
        None => Err(Stop::drop(DropReason::NotConfigured)),
    }
}

/// The backend of a connection that has lost one of its entries, by the other one; 0: both are lost. Its calling entry would not be decided again if
/// that of its answers were there (`flow::lookup`). Else the entry of its answers is looked for, under the tuple that one of the ready backends answers
/// by. A real call, for it is rare: a middle packet that is decided.
#[inline(never)]
fn by_entries<F: Tables>(frontend: &Frontend<F::Addr>, packet: &Packet<F>, from: u32) -> u32 {
    if let Some(own) = F::flow(&packet.tuple) {
        // SAFETY: a live map value, read only.
        let own = unsafe { &*own };
        let is_call = own.from == from && own.rewrite == rewrite::DESTINATION && own.flags & flow_flag::DEAD == 0;
        if is_call && backend(own.backend).is_some_and(|it| it.pool == frontend.pool) {
            return own.backend;
        }
    }
    let port = if frontend.target_port == 0 { packet.dport } else { frontend.target_port };
    let Some(scratch) = F::scratch() else { return 0 };
    // SAFETY: per-CPU scratch, not shared while this program runs. Here, since the stack has no room for keys of IPv6.
    let answer = unsafe { &mut (*scratch).reply };
    for turn in 0..MOST_TWINS {
        if turn >= frontend.turns_len {
            return 0;
        }
        let Some(chosen) = RINGS.get(frontend.turns_at + turn) else { return 0 };
        let Some(backend) = backend(chosen.backend) else { continue };
        *answer = FlowKey::new(F::backend_addr(backend), packet.src, port, packet.sport, packet.protocol);
        let Some(twin) = F::flow(answer) else { continue };
        // SAFETY: a live map value, read only.
        if flow::answers_call(unsafe { &*twin }, packet) {
            return chosen.backend;
        }
    }
    0
}

/// Who stands in a slot, if anybody does.
#[inline(always)]
pub fn at(slot: u32) -> Option<RingSlot> {
    RINGS.get(slot).copied().filter(|there| there.backend != 0)
}

/// The slot of the ring for this packet.
#[inline(always)]
fn ring_slot<F: Tables>(frontend: &Frontend<F::Addr>, packet: &Packet<F>) -> u32 {
    frontend.ring_at + hash::slot(packet.hash(), frontend.ring_len)
}

/// The backend that the ring names for this packet and its node, if there is any: the choice for every packet of a service with algorithm
/// `maglev`, so that it needs no flow entry where it enters.
#[inline(always)]
pub fn by_ring<F: Tables>(frontend: &Frontend<F::Addr>, packet: &Packet<F>) -> Option<RingSlot> {
    of_hash(frontend, packet.hash())
}

/// The same for a packet of which only the flow hash is known.
#[inline(always)]
pub fn of_hash<A>(frontend: &Frontend<A>, hash: u32) -> Option<RingSlot> {
    if frontend.turns_len == 0 { None } else { at(frontend.ring_at + hash::slot(hash, frontend.ring_len)) }
}

/// A ready backend other than this one, if there is one: the list holds each once, so one of its first two.
#[inline(always)]
pub fn another<A>(frontend: &Frontend<A>, than: RingSlot) -> RingSlot {
    let first = at(frontend.turns_at).unwrap_or(than);
    if first.backend != than.backend || frontend.turns_len < 2 {
        first
    } else {
        at(frontend.turns_at + 1).unwrap_or(than)
    }
}

/// The next number of this service on this node, strictly one after the other over all CPUs.
#[inline(always)]
fn take_turn(pool: u32) -> u64 {
    match TURNS.get_ptr_mut(pool) {
        // The stable atomics lack fetch_add on this target, which has no compare-and-swap before its instruction set v3.
        // Sequentially consistent, though relaxed would do: for relaxed, LLVM 22 emits the add without the fetch even where the value is used.
        // SAFETY: a live, 8-byte aligned map value; all access in programs is atomic.
        Some(turn) => unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::SeqCst }>(turn, 1) },
        None => 0,
    }
}
