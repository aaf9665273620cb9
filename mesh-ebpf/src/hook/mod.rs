//! When: one file a hook, each a recipe over `stage/`.
//!
//! | hook | device | sees |
//! |---|---|---|
//! | from_task | a task's veth, ingress | what tasks send |
//! | from_overlay | mesh0, ingress | what peers send |
//! | from_host | mesh0, egress | what this node's stack sends into the overlay |
//! | from_uplink | an uplink, ingress | what the world sends |
//! | xdp_uplink | an uplink's driver | the same, earlier: forwards what only passes through this node |
//! | host_socket | the root cgroup | connect, sendmsg, recvmsg, getpeername of host processes |
//! | sweep | none (test run) | one flow key |
//!
//! The first four go on ([`crate::outcome::go_on`]) in programs of their own (docs/decisions/0033): `run6` of each for IPv6, icmp_errors, turned_back,
//! beside, fragments.

pub mod beside;
pub mod fragments;
pub mod from_host;
pub mod from_overlay;
pub mod from_task;
pub mod from_uplink;
pub mod host_socket;
pub mod icmp_errors;
pub mod sweep;
pub mod turned_back;
pub mod xdp_uplink;

use mesh_common::verdict::Hook;

use crate::count;
use crate::outcome::{Code, Stop};
use crate::packet::tc::{SHOT, Tc};
use crate::stage::{refuse, watch};

/// The one place where a hook's outcome becomes a TC action.
#[inline(always)]
pub fn finish(tc: &Tc, hook: Hook, code: Code) -> i32 {
    if !Stop::is_drop(code) {
        return code;
    }
    count::drop(hook, (code & 0xff) as u32);
    watch::dropped(tc, hook, (code & 0xff) as u32);
    // The ingress node is told by its own tables, not by a packet.
    if !Stop::is_refusal(code) || hook as u8 == Hook::FromOverlay as u8 {
        return SHOT;
    }
    refuse::refuse(tc, hook, (code & 0xff) as u8, Stop::number(code))
}
