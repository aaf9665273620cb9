//! What a peer hands back, for its task there is gone: from_overlay goes on here, and so does from_uplink with what came the fast way, when they have
//! found who sent it.

use mesh_common::family::{Family, V4, V6};
use mesh_common::parse;
use mesh_common::verdict::{DropReason, Hook};
use mesh_common::wire::vni;

use crate::hook::finish;
use crate::outcome::{Stop, encode};
use crate::packet::tc::Tc;
use crate::stage::again;
use crate::stage::deliver::config;

#[inline(always)]
pub fn run(tc: &Tc) -> i32 {
    // The peer, and by which VNI it came.
    let [node, id, _] = tc.left();
    finish(tc, Hook::FromOverlay, encode(walk(tc, node, id)))
}

#[inline(always)]
fn walk(tc: &Tc, node: u32, id: u32) -> Result<i32, Stop> {
    let Ok(config) = config() else { return Err(Stop::drop(DropReason::NotConfigured)) };
    let Some(eth) = parse::ethernet(tc) else { return Err(Stop::drop(DropReason::Malformed)) };
    Ok(match (id, eth.ethertype) {
        (vni::TURNED_BACK_TASK, V4::ETHERTYPE) => again::call_of_vip::<V4>(tc, &eth, config, node),
        (vni::TURNED_BACK_TASK, _) => again::call_of_vip::<V6>(tc, &eth, config, node),
        (_, V4::ETHERTYPE) => again::call_of::<V4>(tc, &eth, config, node, id == vni::TURNED_BACK_WIRE),
        _ => again::call_of::<V6>(tc, &eth, config, node, id == vni::TURNED_BACK_WIRE),
    })
}
