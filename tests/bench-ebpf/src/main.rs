//! The benchmark's own packet programs: entries only. `turn.rs` restores packets, `xdp.rs` and `tc.rs` are bare programs to compare with.
//!
//! They sit beside the product and are never part of it: tests/suites/src/bench loads them. A bare program does the lookups and the
//! rewriting of a walk, by the shortest way, with the product's own key and value types, and nothing else: no configuration, no drop
//! reasons, no ageing. Invariant: it is right for the packets of the benchmark, so that what it leaves out is known.

#![no_std]
#![no_main]

mod maps;
mod packet;
mod tc;
mod turn;
mod xdp;

use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};

/// Gives the next program a fresh packet.
#[xdp(frags)]
pub fn turn_xdp(ctx: XdpContext) -> u32 {
    turn::xdp(&ctx)
}

/// The same for a classifier.
#[classifier]
pub fn turn_tc(ctx: TcContext) -> i32 {
    turn::tc(&ctx, false)
}

/// The same, and the packet comes out of a tunnel.
#[classifier]
pub fn turn_tc_tunnel(ctx: TcContext) -> i32 {
    turn::tc(&ctx, true)
}

/// Writes the next frame and passes it to the stack: packets that really arrive.
#[xdp(frags)]
pub fn turn_live(ctx: XdpContext) -> u32 {
    turn::live(&ctx)
}

/// Attached so that a veth has receive queues as a native driver has; sees nothing.
#[xdp(frags)]
pub fn xdp_pass(_ctx: XdpContext) -> u32 {
    xdp::PASS
}

/// Where forwarded packets end: counted and dropped.
#[classifier]
pub fn tc_drop(_ctx: TcContext) -> i32 {
    tc::drop()
}

/// Ends: what the wrapper costs by itself.
#[xdp(frags)]
pub fn xdp_empty(_ctx: XdpContext) -> u32 {
    xdp::TX
}

/// Only makes room for a header: what undoing that costs the wrapper.
#[xdp(frags)]
pub fn xdp_head(ctx: XdpContext) -> u32 {
    xdp::head(&ctx)
}

#[xdp(frags)]
pub fn xdp_swap(ctx: XdpContext) -> u32 {
    xdp::swap(&ctx)
}

#[xdp(frags)]
pub fn xdp_hash(ctx: XdpContext) -> u32 {
    xdp::hash(&ctx)
}

#[xdp(frags)]
pub fn xdp_lru_vxlan(ctx: XdpContext) -> u32 {
    xdp::lru_vxlan(&ctx)
}

#[xdp(frags)]
pub fn xdp_ring_vxlan(ctx: XdpContext) -> u32 {
    xdp::ring_vxlan(&ctx)
}

#[xdp(frags)]
pub fn xdp_forward(ctx: XdpContext) -> u32 {
    xdp::forward(&ctx)
}

#[xdp(frags)]
pub fn xdp_new(ctx: XdpContext) -> u32 {
    xdp::new(&ctx)
}

#[classifier]
pub fn tc_empty(_ctx: TcContext) -> i32 {
    tc::OK
}

#[classifier]
pub fn tc_hash(ctx: TcContext) -> i32 {
    tc::hash(&ctx)
}

#[classifier]
pub fn tc_dnat(ctx: TcContext) -> i32 {
    tc::dnat(&ctx)
}

#[classifier]
pub fn tc_dnat_peer(ctx: TcContext) -> i32 {
    tc::dnat_peer(&ctx)
}

#[classifier]
pub fn tc_dnat_tunnel(ctx: TcContext) -> i32 {
    tc::dnat_tunnel(&ctx)
}

#[classifier]
pub fn tc_tunnel(ctx: TcContext) -> i32 {
    tc::tunnel(&ctx)
}

#[classifier]
pub fn tc_new(ctx: TcContext) -> i32 {
    tc::new(&ctx, true)
}

#[classifier]
pub fn tc_new_one(ctx: TcContext) -> i32 {
    tc::new(&ctx, false)
}

/// The verifier rejects a program that can reach this loop; the compiler must have removed every panic.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// Some helpers used here are for GPL-compatible programs only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
