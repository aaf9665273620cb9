//! Chooses a backend for the first packet of a flow.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use mesh_common::hash;
use mesh_common::parse::Packet;
use mesh_common::schema::{Backend, Frontend, FrontendKey, RingSlot, algorithm, frontend_flag};
use mesh_common::verdict::DropReason;

use crate::hook::Stop;
use crate::maps::{BACKENDS, RINGS, TURNS, Tables};
use crate::stage::affinity;

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

/// The backend for this packet and its node: by the service's algorithm for a first packet, by the ring for a later one without a flow.
///
/// Not `gone` (0: none), which turned this packet back and stands in the tables for a moment still. In a flood the ring chooses, whatever the
/// algorithm: entries may be lost before the handshake is over, and then every packet has to find the same backend without one.
#[inline(always)]
pub fn choose<F: Tables>(
    frontend: &Frontend<F::Addr>,
    packet: &Packet<F>,
    gone: u32,
    in_flood: bool,
) -> Result<RingSlot, Stop> {
    if frontend.turns_len == 0 {
        return Err(Stop::refuse(DropReason::NoBackend));
    }
    if frontend.algorithm == algorithm::CLIENT {
        return match affinity::choose(frontend, packet, gone, in_flood) {
            0 => Err(Stop::refuse(DropReason::NoBackend)),
            number if number == gone => Err(Stop::drop(DropReason::EndpointGone)),
            number => match backend(number) {
                Some(it) => Ok(RingSlot { backend: number, node: it.node }),
                None => Err(Stop::drop(DropReason::NotConfigured)),
            },
        };
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
    if frontend.turns_len == 0 { None } else { at(ring_slot(frontend, packet)) }
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
