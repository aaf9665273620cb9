//! Fragments that come before the first one of their datagram: they wait in a map, and the first one brings them along (docs/decisions/0039).
//!
//! A program can't keep a packet. So the frame's bytes wait; when the first fragment comes, its packet becomes each of those that waited, a copy of which
//! goes into its link's ingress, and then itself again. Its hook judges it at once, before any of them: they come as if they had just arrived.
//! Invariants: whoever waits is found by fragments from the same place only; each that goes on was taken out, so none goes on twice. Must not: be asked
//! by packets that are whole.

#![expect(clippy::needless_borrows_for_generic_args, reason = "a key that is moved is on the stack twice")]

use core::hint::black_box;

use mesh_common::parse::{self, Form, Packet};
use mesh_common::schema::{EARLY_BYTES, Early, EarlyKey, origin};
use mesh_common::verdict::DropReason;

use crate::maps::{EARLY, EARLY_ROOM, NEW, Tables};
use crate::outcome::{Code, Stop, encode};
use crate::packet::tc::{NEXT, SHOT, Tc};
use crate::stage::arrival::Arrival;
use crate::stage::flow;
use crate::stage::fragment::{self, still_meets};

/// Somebody waits for the first fragment of this datagram.
#[inline(always)]
pub fn is_awaited<F: Tables>(packet: &Packet<F>, id: u32, from: u32) -> bool {
    // SAFETY: it is not looked into.
    unsafe { EARLY.get(&key(packet, id, from)) }.is_some()
}

/// The first place for those that wait.
#[inline(always)]
fn key<F: Tables>(packet: &Packet<F>, id: u32, from: u32) -> EarlyKey {
    let protocol = if F::ADDR_LEN == 4 { packet.protocol } else { 0 };
    EarlyKey { src: F::to_16(packet.src), dst: F::to_16(packet.dst), from, id, protocol, place: 0, pad: [0; 2] }
}

/// A fragment out of its order: a later one waits, or is the host's by an uplink, and else dropped; for a first one ([`Stop::TIMELY`]) those that waited
/// are on their way.
#[inline(never)]
pub fn go<F: Tables>(tc: &Tc, arrival: &Arrival) -> Code {
    let from = arrival.from;
    let mut room = parse::Room::<F>::uninit();
    let (Some(packet), Some(id)) = (flow::read::<F>(tc, &mut room), F::fragment_id(tc)) else {
        return encode(Err(Stop::drop(DropReason::Malformed)));
    };
    let mut key = key(packet, id, from);
    if packet.form != Form::Fragment {
        return encode(bring(tc, &mut key));
    }
    match keep(tc, &mut key) {
        // The first one may have come since, and not found this one. Who takes it out sends it on.
        Some(()) if (fragment::known_now(packet, id, from).is_some() || is_passed_by(&key)) && remove(&key) => {
            tc.redirect_ingress(tc.ifindex())
        }
        Some(()) => SHOT,
        None if from == origin::WIRE => NEXT,
        None => encode(Err(Stop::drop(DropReason::Fragment))),
    }
}

/// None: there is no place for it.
#[inline(always)]
fn keep(tc: &Tc, key: &mut EarlyKey) -> Option<()> {
    let room = hold(tc)?;
    for place in 0..EarlyKey::PLACES {
        key.place = place;
        // SAFETY: a word, written whole.
        match unsafe { EARLY.get(&*key) } {
            Some(there) if still_meets(there.came_s) => continue,
            Some(_) => _ = remove(key),
            None => {}
        }
        if EARLY.insert(&*key, room, NEW).is_ok() {
            return Some(());
        }
    }
    None
}

/// The frame, in this CPU's room. None: it is too long.
#[inline(always)]
fn hold(tc: &Tc) -> Option<&'static Early> {
    let len = tc.len();
    if len as usize > EARLY_BYTES || tc.has_vlan() {
        return None;
    }
    let room = EARLY_ROOM.get_ptr_mut(0)?;
    // SAFETY: per-CPU room, not shared while this program runs.
    let room = unsafe { &mut *room };
    (room.came_s, room.len, room.ifindex, room.pad) = (flow::now_s(), len, tc.ifindex(), 0);
    tc.copy(0, &mut room.frame, len);
    Some(room)
}

/// Nobody stands before it: the first one has taken them along, and by now looks for nobody any more.
#[inline(always)]
fn is_passed_by(key: &EarlyKey) -> bool {
    // SAFETY: it is not looked into.
    key.place > 0 && unsafe { EARLY.get(&EarlyKey { place: 0, ..*key }) }.is_none()
}

/// False: another CPU was first. Always looked at, for Linux 6.1 refuses a loop that ends in a call (push_insn in kernel/bpf/verifier.c there).
#[inline(always)]
fn remove(key: &EarlyKey) -> bool {
    black_box(EARLY.remove(key).is_ok())
}

/// Those that wait go into their links' ingress, behind the first one, which is itself again then. One too long to be held goes there before them.
#[inline(always)]
fn bring(tc: &Tc, key: &mut EarlyKey) -> Result<i32, Stop> {
    let first = hold(tc);
    let mut is_another = false;
    for place in 0..EarlyKey::PLACES {
        key.place = place;
        // SAFETY: whoever waits is written once. Its place may be another's by now; then it is not here to be removed.
        let Some(there) = (unsafe { EARLY.get(&*key) }) else { continue };
        let ifindex = there.ifindex;
        let may_go = still_meets(there.came_s);
        if may_go && !is_another && first.is_none() && tc.copy_into_ingress(tc.ifindex()).is_err() {
            return Err(Stop::TIMELY);
        }
        is_another |= may_go;
        let is_made = may_go && tc.become_frame(&there.frame, there.len).is_ok();
        if remove(key) && is_made {
            // A full queue loses it, as it would any packet.
            let _ = tc.copy_into_ingress(ifindex);
        }
    }
    match (is_another, first) {
        (true, Some(first)) => tc.become_frame(&first.frame, first.len)?,
        (true, None) => return Ok(SHOT),
        (false, _) => {}
    }
    Err(Stop::TIMELY)
}
