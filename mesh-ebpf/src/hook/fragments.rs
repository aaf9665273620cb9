//! A fragment out of its order, from a task or an uplink: those hooks go on here when they have found one, and a first one comes back to them.

use mesh_common::family::{Family, V4, V6};
use mesh_common::parse;
use mesh_common::schema::program;
use mesh_common::verdict::{DropReason, Hook};

use crate::hook::finish;
use crate::maps::Tables;
use crate::outcome::{Code, Stop, encode, go_on};
use crate::packet::tc::Tc;
use crate::stage::arrival::Arrival;
use crate::stage::early;

#[inline(always)]
pub fn run(tc: &Tc) -> i32 {
    let arrival = Arrival::told(tc);
    let code = match parse::ethertype(tc) {
        Some(V4::ETHERTYPE) => judge::<V4>(tc, &arrival),
        Some(V6::ETHERTYPE) => judge::<V6>(tc, &arrival),
        _ => encode(Err(Stop::drop(DropReason::Malformed))),
    };
    finish(tc, arrival.hook, code)
}

#[inline(always)]
fn judge<F: Tables>(tc: &Tc, arrival: &Arrival) -> Code {
    let is_v4 = F::ADDR_LEN == 4;
    match (early::go::<F>(tc, arrival), arrival.hook) {
        (code, Hook::FromTask) if Stop::is_timely(code) => {
            go_on(tc, if is_v4 { program::FROM_TASK } else { program::FROM_TASK6 })
        }
        (code, _) if Stop::is_timely(code) => {
            go_on(tc, if is_v4 { program::FROM_UPLINK } else { program::FROM_UPLINK6 })
        }
        (code, _) => code,
    }
}
