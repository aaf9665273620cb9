//! Host processes that call a published port on 127.0.0.1 or any address of this node: the socket is pointed at the service's VIP, and
//! told afterwards that it speaks with whom it called. Only in the host's own network namespace.
//!
//! From there the kernel's route leads to mesh0 and from_host. A socket that bound itself to 127.0.0.1 first has no way out: the kernel
//! answers EINVAL. IPv6 sockets are served for v4-mapped destinations.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated as raw;
use aya_ebpf::programs::SockAddrContext;
use mesh_common::family::{Addr4, Family, V4};
use mesh_common::parse::protocol;
use mesh_common::schema::{SocketKey, SocketOrigin, address_flag, frontend_flag};
use mesh_common::verdict::{DropReason, Hook};

use crate::count;
use crate::maps::{CONFIG, Maps, SOCKETS};
use crate::stage::flow::ANY;
use crate::stage::{allow, balance};

/// The call goes on.
const ALLOW: i32 = 1;
/// The call fails with EPERM.
const DENY: i32 = 0;

/// An address and port of a socket call.
#[derive(Clone, Copy)]
struct Name {
    addr: Addr4,
    port: u16,
}

/// What a hook does with a destination.
enum Answer {
    Leave,
    Deny,
    Rewrite(Name),
}

#[inline(always)]
fn context(ctx: &SockAddrContext) -> &'static mut bpf_sock_addr {
    // SAFETY: the kernel's context, valid for the program's run; the verifier checks every field access.
    unsafe { &mut *ctx.sock_addr }
}

/// Decides a destination, and keeps what the process named.
#[inline(always)]
fn decide(ctx: &SockAddrContext, name: Name) -> Answer {
    let Some(config) = CONFIG.get(0) else { return Answer::Leave };
    // SAFETY: the helper takes this program's context.
    if config.mesh0 == 0 || unsafe { raw::bpf_get_netns_cookie(ctx.as_ptr()) } != config.netns_cookie {
        return Answer::Leave;
    }
    let number = context(ctx).protocol as u8;
    let address = V4::address(&name.addr);
    if number == protocol::UDP && name.port == config.data_port && address.is_some() {
        // Frames for the tunnel are the programs' to make; only root may speak to the data port by hand.
        // SAFETY: no arguments.
        return if unsafe { raw::bpf_get_current_uid_gid() } as u32 == 0 { Answer::Leave } else { Answer::Deny };
    }
    // As the kernel has it: "this host" is 127.0.0.1, and who calls an address of the host itself calls from that address.
    let addr = if name.addr == Addr4::default() { Addr4::from([127, 0, 0, 1]) } else { name.addr };
    let is_own = V4::is_loopback(addr) || matches!(address, Some(address) if address.flags & address_flag::OWN != 0);
    if !is_own {
        return Answer::Leave;
    }
    let Some(frontend) = balance::published::<V4>(&addr, name.port, number) else { return Answer::Leave };
    if frontend.vip == Addr4::default() || frontend.flags & frontend_flag::NOT_TAKEN != 0 {
        return Answer::Leave;
    }
    if frontend.allow != 0 && allow::admits::<V4>(frontend, &addr) == 0 {
        count::drop(Hook::FromHost, DropReason::NotAllowed as u32);
        return Answer::Deny;
    }
    let target = Name { addr: frontend.vip, port: frontend.target_port };
    let origin = SocketOrigin { addr: V4::to_16(name.addr), port: name.port, pad: [0; 6] };
    if SOCKETS.insert(key(ctx, target), origin, ANY).is_err() {
        return Answer::Leave;
    }
    Answer::Rewrite(target)
}

#[inline(always)]
fn key(ctx: &SockAddrContext, name: Name) -> SocketKey {
    // SAFETY: the helper takes this program's context.
    let cookie = unsafe { raw::bpf_get_socket_cookie(ctx.as_ptr()) };
    SocketKey { cookie, addr: V4::to_16(name.addr), port: name.port, pad: [0; 6] }
}

/// What the process named, if this is where its packets really go.
#[inline(always)]
fn origin(ctx: &SockAddrContext, name: Name) -> Option<Name> {
    // SAFETY: values change only as a whole.
    let origin = unsafe { SOCKETS.get(key(ctx, name)) }?;
    Some(Name { addr: V4::from_16(origin.addr), port: origin.port })
}

#[inline(always)]
fn name4(ctx: &SockAddrContext) -> Name {
    let c = context(ctx);
    Name { addr: c.user_ip4.to_ne_bytes().into(), port: u16::from_be(c.user_port as u16) }
}

#[inline(always)]
fn set4(ctx: &SockAddrContext, name: Name) {
    let c = context(ctx);
    c.user_ip4 = u32::from_ne_bytes(name.addr.octets());
    c.user_port = name.port.to_be() as u32;
}

/// The IPv4 destination inside a v4-mapped one (RFC 4291, 2.5.5.2).
#[inline(always)]
fn name6(ctx: &SockAddrContext) -> Option<Name> {
    let c = context(ctx);
    if c.user_ip6[0] != 0 || c.user_ip6[1] != 0 || c.user_ip6[2] != 0xffffu32.to_be() {
        return None;
    }
    Some(Name { addr: c.user_ip6[3].to_ne_bytes().into(), port: u16::from_be(c.user_port as u16) })
}

#[inline(always)]
fn set6(ctx: &SockAddrContext, name: Name) {
    let c = context(ctx);
    c.user_ip6[3] = u32::from_ne_bytes(name.addr.octets());
    c.user_port = name.port.to_be() as u32;
}

#[inline(always)]
pub fn connect4(ctx: &SockAddrContext) -> i32 {
    match decide(ctx, name4(ctx)) {
        Answer::Leave => ALLOW,
        Answer::Deny => DENY,
        Answer::Rewrite(name) => {
            set4(ctx, name);
            ALLOW
        }
    }
}

#[inline(always)]
pub fn sendmsg4(ctx: &SockAddrContext) -> i32 {
    connect4(ctx)
}

#[inline(always)]
pub fn recvmsg4(ctx: &SockAddrContext) -> i32 {
    if let Some(name) = origin(ctx, name4(ctx)) {
        set4(ctx, name);
    }
    ALLOW
}

#[inline(always)]
pub fn connect6(ctx: &SockAddrContext) -> i32 {
    let Some(name) = name6(ctx) else { return ALLOW };
    match decide(ctx, name) {
        Answer::Leave => ALLOW,
        Answer::Deny => DENY,
        Answer::Rewrite(name) => {
            set6(ctx, name);
            ALLOW
        }
    }
}

#[inline(always)]
pub fn sendmsg6(ctx: &SockAddrContext) -> i32 {
    connect6(ctx)
}

#[inline(always)]
pub fn recvmsg6(ctx: &SockAddrContext) -> i32 {
    if let Some(name) = name6(ctx).and_then(|name| origin(ctx, name)) {
        set6(ctx, name);
    }
    ALLOW
}
