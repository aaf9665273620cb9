//! How a stage ends: with an action of TC, with a reason to stop, or in another program.
//!
//! Numbers and no enums with data, since they travel through real calls. Stages make them, hooks read them (`hook::finish`). Must not: know either.

use mesh_common::verdict::DropReason;

use crate::maps::PROGRAMS;
use crate::packet::tc::{NEXT, Tc};

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
    /// A task is called by its own address, and the answers would be taken for another call's (`stage/direct.rs`). Not called from where it is found, as
    /// above.
    pub const BESIDE: Stop = Stop(0x81);
    /// A fragment that came before the first one of its datagram, or a first one for which others wait (`stage/early.rs`). Not called from where it is
    /// found, as above.
    pub const UNTIMELY: Stop = Stop(0x82);

    /// A first fragment behind which those that waited come: its hook is to judge it now (`hook/fragments.rs`).
    pub const TIMELY: Stop = Stop(0x83);

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

    /// The same with a number (of 16 bits) that the sender is told.
    #[inline(always)]
    pub const fn refuse_with(reason: DropReason, number: u32) -> Stop {
        Stop(Stop::REFUSE | reason as Code | (number << Stop::NUMBER) as Code)
    }

    /// It is an ICMP error, to be carried by what it quotes.
    #[inline(always)]
    pub const fn is_about(code: Code) -> bool {
        code == Stop::ABOUT.0
    }

    /// It is a direct call, to be remembered beside another one.
    #[inline(always)]
    pub const fn is_beside(code: Code) -> bool {
        code == Stop::BESIDE.0
    }

    /// It is a first fragment that nobody waits for any more.
    #[inline(always)]
    pub const fn is_timely(code: Code) -> bool {
        code == Stop::TIMELY.0
    }

    /// It is an error, beside or untimely: another program's business (`stage/arrival.rs`).
    #[inline(always)]
    pub const fn is_elsewhere(code: Code) -> bool {
        code >= Stop::ABOUT.0 && code <= Stop::UNTIMELY.0
    }

    /// To be counted, and dropped.
    #[inline(always)]
    pub const fn is_drop(code: Code) -> bool {
        code >= Stop::DROP
    }

    /// The sender is told, too, of a drop.
    #[inline(always)]
    pub const fn is_refusal(code: Code) -> bool {
        code & Stop::REFUSE != 0
    }

    /// The number that the sender of what is refused is told.
    #[inline(always)]
    pub const fn number(code: Code) -> u32 {
        code as u32 >> Stop::NUMBER
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

/// Goes on in another program, and comes back only where that is missing. Called from the hook itself: of a chain of calls that ends in such a jump the
/// kernel takes 256 bytes of stack at most, and a program that was jumped to has its own 512.
#[inline(always)]
pub fn go_on(tc: &Tc, program: u32) -> Code {
    // SAFETY: where it jumps, nothing waits here to be dropped.
    unsafe { PROGRAMS.tail_call(tc.context(), program) };
    encode(Err(Stop::drop(DropReason::HelperFailed)))
}
