//! An ICMP error about a flow, wherever it came in: every hook goes on here when it has found one, and its sender judged.

use crate::hook::finish;
use crate::maps::Tables;
use crate::packet::tc::Tc;
use crate::stage::arrival::Arrival;
use crate::stage::icmp;

#[inline(always)]
pub fn run<F: Tables>(tc: &Tc) -> i32 {
    let arrival = Arrival::told(tc);
    finish(tc, arrival.hook, icmp::carry::<F>(tc, &arrival))
}
