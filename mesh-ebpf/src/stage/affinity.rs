//! Chooses for services with affinity: the same client gets the same backend, whatever it calls of the service and by which node.
//!
//! The ring decides, by the client's address alone: every node names the same backend without asking another. What was chosen is kept beside it, so that a
//! client stays where it is for a time when the ring changes (docs/decisions/0025). Where the backend is gone or drains, the ring decides anew.

use mesh_common::parse::Packet;
use mesh_common::schema::{Affinity, AffinityKey, Frontend, algorithm, backend_state};
use mesh_common::{affinity, hash};

use crate::maps::Tables;
use crate::stage::{balance, flow};

/// The endpoint number for this packet; 0: there is none. Not `gone` (0: none). A real call, for it is rare.
///
/// In a flood nothing is kept: callers that don't exist would push out those that do.
#[inline(never)]
pub fn choose<F: Tables>(frontend: &Frontend<F::Addr>, packet: &Packet<F>, gone: u32, in_flood: bool) -> u32 {
    let key = AffinityKey { addr: packet.src, pool: frontend.pool };
    let (now_s, opens) = (flow::now_s(), packet.may_open());
    if let Some(kept) = F::affinity(&key) {
        // SAFETY: a live map value, of two words that are read and written whole.
        let kept = unsafe { &mut *kept };
        let number = kept.backend;
        if number != gone && affinity::holds(kept, now_s, frontend.affinity_s, opens) && is_ready(frontend, number) {
            if opens {
                kept.last_new_s = now_s;
            }
            return number;
        }
    }
    let slot = frontend.ring_at + hash::slot(hash::client::<F>(packet.src), frontend.ring_len);
    let number = match balance::at(slot) {
        Some(chosen) if chosen.backend == gone => balance::another(frontend, chosen).backend,
        Some(chosen) => chosen.backend,
        None => return 0,
    };
    if opens && !in_flood && number != gone {
        F::keep_affinity(&key, &Affinity { backend: number, last_new_s: now_s });
    }
    number
}

/// The backend is one of the service's that takes new flows.
#[inline(always)]
fn is_ready<A>(frontend: &Frontend<A>, number: u32) -> bool {
    balance::backend(number).is_some_and(|it| it.pool == frontend.pool && it.state == backend_state::READY)
}

/// What was chosen gave way to this one: it is the one to be kept.
#[inline(always)]
pub fn keep<F: Tables>(frontend: &Frontend<F::Addr>, packet: &Packet<F>, number: u32) {
    if frontend.algorithm == algorithm::CLIENT {
        let key = AffinityKey { addr: packet.src, pool: frontend.pool };
        F::keep_affinity(&key, &Affinity { backend: number, last_new_s: flow::now_s() });
    }
}
