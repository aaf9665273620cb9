//! A call to a task by its own address that is kept clear of another call's answers: every hook goes on here when it has found one.

use mesh_common::family::{Family, V4, V6};
use mesh_common::parse;
use mesh_common::verdict::DropReason;

use crate::hook::finish;
use crate::outcome::{Stop, encode};
use crate::packet::tc::Tc;
use crate::stage::arrival::Arrival;
use crate::stage::direct;

#[inline(always)]
pub fn run(tc: &Tc) -> i32 {
    let arrival = Arrival::told(tc);
    let code = match parse::ethertype(tc) {
        Some(V4::ETHERTYPE) => direct::go_beside::<V4>(tc, &arrival),
        Some(V6::ETHERTYPE) => direct::go_beside::<V6>(tc, &arrival),
        _ => encode(Err(Stop::drop(DropReason::Malformed))),
    };
    finish(tc, arrival.hook, code)
}
