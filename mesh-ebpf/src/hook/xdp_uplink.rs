//! An uplink's frames before they are sk_buffs. A skeleton: everything goes to TC.

use crate::packet::xdp::{PASS, Xdp};

#[inline(always)]
pub fn run(_xdp: &Xdp) -> u32 {
    PASS
}
