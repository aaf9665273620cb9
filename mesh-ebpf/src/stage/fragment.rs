//! Fragments: the first one of a datagram has the ports, and the others go where it went.
//!
//! A later fragment is looked up like any packet, once it has its datagram's ports; only addresses are rewritten in it, for there is no transport
//! header, and the first one's checksum makes up for the whole. One that comes before the first one waits for it (`stage/early.rs`), where it came from a
//! task or by an uplink; out of the tunnel, where they keep their order, it is dropped, and counted (`fragment`).
//! Where IPv6 has options for the receiver behind the fragment header, only the first one says what protocol the datagram is of.
//! Invariant: fragments from elsewhere than the first one came from (`origin::*`) never get its ports. Must not: cost a whole packet more than one
//! comparison.

use core::hint::black_box;

use mesh_common::parse::{Form, Packet, protocol};
use mesh_common::schema::{FRAGMENTS_MEET_S, FlowKey, FragmentKey, Fragmented};

use crate::maps::Tables;
use crate::outcome::Stop;
use crate::packet::tc::Tc;
use crate::stage::{early, flow};

/// Notes a first fragment's ports, and gives a later one those of its datagram, if they are known. `from` is one of `origin::*`.
#[inline(always)]
pub fn know<F: Tables>(tc: &Tc, packet: &mut Packet<F>, from: u32) {
    if packet.is_piece {
        learn(tc, packet, from, false);
    }
}

/// The same where fragments may wait: a first one may find some that do.
#[inline(always)]
pub fn arrives<F: Tables>(tc: &Tc, packet: &mut Packet<F>, from: u32) -> Result<(), Stop> {
    if packet.is_piece && learn(tc, packet, from, true) != 0 {
        return Err(Stop::UNTIMELY);
    }
    Ok(())
}

/// 1 of a first fragment for which others wait, else 0. A real call, for it is rare.
#[inline(never)]
fn learn<F: Tables>(tc: &Tc, packet: &mut Packet<F>, from: u32, may_wait: bool) -> u32 {
    let Some(id) = F::fragment_id(tc) else { return 0 };
    let mut key = key(packet, id, from);
    if packet.form != Form::Fragment {
        if may_wait && early::is_awaited(packet, id, from) {
            return 1; // it comes by again: who is faster than that waits, too
        }
        F::note_fragmented(&key, &Fragmented { came_s: flow::now_s(), sport: packet.sport, dport: packet.dport });
        return (may_wait && early::is_awaited(packet, id, from)) as u32;
    }
    if let Some(known) = find::<F>(&mut key) {
        // None, as before, where they are old; not decided by a jump, behind which the verifier would walk all that follows once more.
        let ours = black_box((flow::now_s() as i32 - known.came_s as i32 - FRAGMENTS_MEET_S as i32 - 1) >> 31) as u16;
        packet.tuple = FlowKey::new(key.src, key.dst, known.sport & ours, known.dport & ours, key.protocol);
    }
    0
}

/// Not 0 of a later fragment that came before its datagram was known: it can't be decided. One of which the first has come since belongs to those. A real
/// call, for it is rare.
#[inline(never)]
pub fn is_early<F: Tables>(tc: &Tc, packet: &Packet<F>, from: u32) -> u32 {
    let (true, Some(id)) = (packet.may_have_flow(), F::fragment_id(tc)) else { return 0 };
    match known_now(packet, id, from) {
        Some(known) => (known.sport != packet.tuple.sport || known.dport != packet.tuple.dport) as u32,
        None => 1,
    }
}

/// What the first fragment said, if it has come.
#[inline(always)]
pub fn known_now<F: Tables>(packet: &Packet<F>, id: u32, from: u32) -> Option<&'static Fragmented> {
    find::<F>(&mut key(packet, id, from)).filter(|known| still_meets(known.came_s))
}

/// A fragment that came then can still be of the same datagram as one that comes now.
#[inline(always)]
pub fn still_meets(came_s: u32) -> bool {
    flow::now_s().saturating_sub(came_s) <= FRAGMENTS_MEET_S
}

/// The datagram's key. Of IPv6 its protocol may be a header's that stands before it.
#[inline(always)]
fn key<F: Tables>(packet: &Packet<F>, id: u32, from: u32) -> FragmentKey<F::Addr> {
    let FlowKey { src, dst, protocol, .. } = packet.tuple;
    FragmentKey { src, dst, from, id, protocol, pad: [0; 3] }
}

/// The ports of the last datagram with this key, however long ago that came; its protocol is found with them.
#[inline(always)]
fn find<F: Tables>(key: &mut FragmentKey<F::Addr>) -> Option<&'static Fragmented> {
    if !F::is_extension(key.protocol) {
        return F::fragmented(key);
    }
    let mut known = None;
    // The number is the datagram's whatever it is of (RFC 8200, 4.5).
    for carried in [protocol::UDP, F::ICMP, protocol::TCP, protocol::SCTP] {
        if known.is_none() {
            key.protocol = carried;
            known = F::fragmented(key);
        }
    }
    known
}
