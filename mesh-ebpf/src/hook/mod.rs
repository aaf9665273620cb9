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

pub mod from_host;
pub mod from_overlay;
pub mod from_task;
pub mod from_uplink;
pub mod host_socket;
pub mod sweep;
pub mod xdp_uplink;

use mesh_common::family::Family;
use mesh_common::verdict::{DropReason, Hook};

use crate::count;
use crate::packet::tc::{NEXT, SHOT, Tc};
use crate::stage::{refuse, watch};

/// An outcome in one register: a TC action, or one of [`Stop`]'s codes. Real calls return this: the verifier wants every bit of the
/// register defined, which a Rust enum with data does not promise.
pub type Code = i32;

/// Why a hook stops before delivery. A number and no enum, for the same reason: no undefined padding travels through `?`.
#[derive(Clone, Copy)]
pub struct Stop(Code);

impl Stop {
    /// Codes of drops: this and the reason. TC actions are far below.
    const DROP: Code = 0x100;
    /// Codes of refusals: this and the reason.
    const REFUSE: Code = 0x200;
    /// Bits below a refusal's number.
    const NUMBER: u32 = 12;
    /// Not ours: leave the packet to others.
    pub const PASS: Stop = Stop(NEXT);
    /// An ICMP error: what it quotes decides (`stage/icmp.rs`). Who sent it is judged already. Not called from where it is found, for the stack of
    /// one chain of calls has no room for both.
    pub const ABOUT: Stop = Stop(0x80);

    /// Judged by a real call: its code.
    #[inline(always)]
    pub const fn said(code: Code) -> Stop {
        Stop(code)
    }

    /// Count and drop.
    #[inline(always)]
    pub const fn drop(reason: DropReason) -> Stop {
        Stop(Stop::DROP | reason as Code)
    }

    /// Count, drop, and tell the sender: RST or unreachable.
    #[inline(always)]
    pub const fn refuse(reason: DropReason) -> Stop {
        Stop(Stop::REFUSE | reason as Code)
    }
}

impl Stop {
    /// The same with a number (of 16 bits) that the sender is told.
    #[inline(always)]
    pub const fn refuse_with(reason: DropReason, number: u32) -> Stop {
        Stop(Stop::REFUSE | reason as Code | (number << Stop::NUMBER) as Code)
    }

    /// Of this family ICMP errors are carried: of IPv4 so far.
    #[inline(always)]
    pub const fn knows_about<F: Family>() -> bool {
        F::ADDR_LEN == 4
    }

    /// It is an ICMP error, to be carried by what it quotes.
    #[inline(always)]
    pub const fn is_about(code: Code) -> bool {
        code == Stop::ABOUT.0
    }
}

impl From<DropReason> for Stop {
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        Stop::drop(reason)
    }
}

/// Packs an outcome.
#[inline(always)]
pub fn encode(outcome: Result<i32, Stop>) -> Code {
    match outcome {
        Ok(action) => action,
        Err(Stop(code)) => code,
    }
}

/// The one place where a hook's outcome becomes a TC action.
#[inline(always)]
pub fn finish(tc: &Tc, hook: Hook, code: Code) -> i32 {
    if code < Stop::DROP {
        return code;
    }
    count::drop(hook, (code & 0xff) as u32);
    watch::dropped(tc, hook, (code & 0xff) as u32);
    // The ingress node is told by its own tables, not by a packet.
    if code & Stop::REFUSE == 0 || hook as u8 == Hook::FromOverlay as u8 {
        return SHOT;
    }
    refuse::refuse(tc, hook, (code & 0xff) as u8, code as u32 >> Stop::NUMBER)
}
