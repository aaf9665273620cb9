//! The packet programs of mesh: entries only. A hook (`hook/`) says when, a stage (`stage/`) what, `packet/` how.
//!
//! Every hook reads the same way: parse → look up → decide → rewrite → deliver. Programs read maps that user space fills (`maps.rs`),
//! write flows and counters, and never log in the fast path.

#![no_std]
#![no_main]
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "atomic_xadd: see stage/balance.rs")]

mod count;
mod hook;
mod maps;
mod outcome;
mod packet;
mod stage;

use aya_ebpf::macros::{cgroup_sock_addr, classifier, xdp};
use aya_ebpf::programs::{SockAddrContext, TcContext, XdpContext};
use mesh_common::family::{V4, V6};

use crate::packet::tc::Tc;
use crate::packet::xdp::Xdp;

/// Ingress of a task's veth, host side.
#[classifier]
pub fn from_task(ctx: TcContext) -> i32 {
    hook::from_task::run(&Tc::new(ctx))
}

/// The same, IPv6: [`outcome::go_on`].
#[classifier]
pub fn from_task6(ctx: TcContext) -> i32 {
    hook::from_task::run6(&Tc::new(ctx))
}

/// Ingress of mesh0.
#[classifier]
pub fn from_overlay(ctx: TcContext) -> i32 {
    hook::from_overlay::run(&Tc::new(ctx))
}

/// The same, IPv6: [`outcome::go_on`].
#[classifier]
pub fn from_overlay6(ctx: TcContext) -> i32 {
    hook::from_overlay::run6(&Tc::new(ctx))
}

/// Egress of mesh0.
#[classifier]
pub fn from_host(ctx: TcContext) -> i32 {
    hook::from_host::run(&Tc::new(ctx))
}

/// The same, IPv6: [`outcome::go_on`].
#[classifier]
pub fn from_host6(ctx: TcContext) -> i32 {
    hook::from_host::run6(&Tc::new(ctx))
}

/// Ingress of an uplink.
#[classifier]
pub fn from_uplink(ctx: TcContext) -> i32 {
    hook::from_uplink::run(&Tc::new(ctx))
}

/// The same, IPv6: [`outcome::go_on`].
#[classifier]
pub fn from_uplink6(ctx: TcContext) -> i32 {
    hook::from_uplink::run6(&Tc::new(ctx))
}

/// ICMP errors over IPv4, at any hook: [`outcome::go_on`].
#[classifier]
pub fn icmp_errors(ctx: TcContext) -> i32 {
    hook::icmp_errors::run::<V4>(&Tc::new(ctx))
}

/// The same, IPv6: [`outcome::go_on`].
#[classifier]
pub fn icmp_errors6(ctx: TcContext) -> i32 {
    hook::icmp_errors::run::<V6>(&Tc::new(ctx))
}

/// Direct calls that are kept apart from others, at any hook: [`outcome::go_on`].
#[classifier]
pub fn beside(ctx: TcContext) -> i32 {
    hook::beside::run(&Tc::new(ctx))
}

/// Fragments out of their order, from tasks and uplinks: [`outcome::go_on`].
#[classifier]
pub fn fragments(ctx: TcContext) -> i32 {
    hook::fragments::run(&Tc::new(ctx))
}

/// What peers hand back: [`outcome::go_on`].
#[classifier]
pub fn turned_back(ctx: TcContext) -> i32 {
    hook::turned_back::run(&Tc::new(ctx))
}

/// The driver of an uplink, before there is an sk_buff.
#[xdp(frags)]
pub fn xdp_uplink(ctx: XdpContext) -> u32 {
    hook::xdp_uplink::run(&Xdp::new(ctx))
}

/// Test run only: looks at one flow entry again, then deletes or marks it.
#[classifier]
pub fn sweep(ctx: TcContext) -> i32 {
    hook::sweep::run(&Tc::new(ctx))
}

/// connect(2) of a host process over IPv4.
#[cgroup_sock_addr(connect4)]
pub fn host_connect4(ctx: SockAddrContext) -> i32 {
    hook::host_socket::connect4(&ctx)
}

/// sendmsg(2) of an unconnected IPv4 UDP socket.
#[cgroup_sock_addr(sendmsg4)]
pub fn host_sendmsg4(ctx: SockAddrContext) -> i32 {
    hook::host_socket::sendmsg4(&ctx)
}

/// recvmsg(2) on IPv4 UDP.
#[cgroup_sock_addr(recvmsg4)]
pub fn host_recvmsg4(ctx: SockAddrContext) -> i32 {
    hook::host_socket::recvmsg4(&ctx)
}

/// getpeername(2) over IPv4.
#[cgroup_sock_addr(getpeername4)]
pub fn host_getpeer4(ctx: SockAddrContext) -> i32 {
    hook::host_socket::recvmsg4(&ctx)
}

/// connect(2) over IPv6, v4-mapped destinations among them.
#[cgroup_sock_addr(connect6)]
pub fn host_connect6(ctx: SockAddrContext) -> i32 {
    hook::host_socket::connect6(&ctx)
}

/// sendmsg(2) of an unconnected IPv6 UDP socket, v4-mapped destinations among them.
#[cgroup_sock_addr(sendmsg6)]
pub fn host_sendmsg6(ctx: SockAddrContext) -> i32 {
    hook::host_socket::sendmsg6(&ctx)
}

/// recvmsg(2) on IPv6 UDP, v4-mapped sources among them.
#[cgroup_sock_addr(recvmsg6)]
pub fn host_recvmsg6(ctx: SockAddrContext) -> i32 {
    hook::host_socket::recvmsg6(&ctx)
}

/// getpeername(2) over IPv6, v4-mapped peers among them.
#[cgroup_sock_addr(getpeername6)]
pub fn host_getpeer6(ctx: SockAddrContext) -> i32 {
    hook::host_socket::recvmsg6(&ctx)
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
