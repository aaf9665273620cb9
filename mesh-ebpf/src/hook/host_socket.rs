//! Host processes that call a published port on 127.0.0.1, ::1 or any address of this node: the socket is pointed at the service's VIP, and
//! told afterwards that it speaks with whom it called. Only in the host's own network namespace.
//!
//! From there the kernel's route leads to mesh0 and from_host. A socket that bound itself to 127.0.0.1 first has no way out: the kernel
//! answers EINVAL. An IPv6 socket that names a v4-mapped address calls over IPv4.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_sock_addr;
use aya_ebpf::helpers::generated as raw;
use aya_ebpf::programs::SockAddrContext;
use mesh_common::family::{Addr4, Addr6, Family, V4, V6};
use mesh_common::parse::protocol;
use mesh_common::schema::{SocketKey, SocketOrigin, address_flag, frontend_flag};
use mesh_common::verdict::{DropReason, Hook};

use crate::count;
use crate::maps::{CONFIG, SOCKETS, Tables};
use crate::stage::flow::ANY;
use crate::stage::{allow, balance};

/// The call goes on.
const ALLOW: i32 = 1;
/// The call fails with EPERM.
const DENY: i32 = 0;

/// An address and port of a socket call.
#[derive(Clone, Copy)]
struct Name<F: Family> {
    addr: F::Addr,
    port: u16,
}

/// What a hook does with a destination.
enum Answer<F: Family> {
    Leave,
    Deny,
    Rewrite(Name<F>),
}

#[inline(always)]
fn context(ctx: &SockAddrContext) -> &'static mut bpf_sock_addr {
    // SAFETY: the kernel's context, valid for the program's run; the verifier checks every field access.
    unsafe { &mut *ctx.sock_addr }
}

/// Decides a destination, and keeps what the process named.
#[inline(always)]
fn decide<F: Tables>(ctx: &SockAddrContext, name: Name<F>) -> Answer<F> {
    let Some(config) = CONFIG.get(0) else { return Answer::Leave };
    // SAFETY: the helper takes this program's context.
    if config.mesh0 == 0 || unsafe { raw::bpf_get_netns_cookie(ctx.as_ptr()) } != config.netns_cookie {
        return Answer::Leave;
    }
    let number = context(ctx).protocol as u8;
    let address = F::address(&name.addr);
    if number == protocol::UDP && name.port == config.data_port && address.is_some() {
        // Frames for the tunnel are the programs' to make; only root may speak to the data port by hand.
        // SAFETY: no arguments.
        return if unsafe { raw::bpf_get_current_uid_gid() } as u32 == 0 { Answer::Leave } else { Answer::Deny };
    }
    // As the kernel has it: "this host" is 127.0.0.1 or ::1, and who calls an address of the host itself calls from that address.
    let addr = if name.addr == F::Addr::default() { F::loopback() } else { name.addr };
    let is_own = F::is_loopback(addr) || matches!(address, Some(address) if address.flags & address_flag::OWN != 0);
    if !is_own {
        return Answer::Leave;
    }
    let Some(frontend) = balance::published::<F>(&addr, name.port, number) else { return Answer::Leave };
    if frontend.vip == F::Addr::default() || frontend.flags & frontend_flag::NOT_TAKEN != 0 {
        return Answer::Leave;
    }
    if frontend.allow != 0 && allow::admits::<F>(frontend, &addr) == 0 {
        count::drop(Hook::FromHost, DropReason::NotAllowed as u32);
        return Answer::Deny;
    }
    let target = Name { addr: frontend.vip, port: frontend.target_port };
    let origin = SocketOrigin { addr: F::to_16(name.addr), port: name.port, pad: [0; 6] };
    if SOCKETS.insert(key(ctx, &target), origin, ANY).is_err() {
        return Answer::Leave;
    }
    Answer::Rewrite(target)
}

#[inline(always)]
fn key<F: Family>(ctx: &SockAddrContext, name: &Name<F>) -> SocketKey {
    // SAFETY: the helper takes this program's context.
    let cookie = unsafe { raw::bpf_get_socket_cookie(ctx.as_ptr()) };
    SocketKey { cookie, addr: F::to_16(name.addr), port: name.port, pad: [0; 6] }
}

/// What the process named, if this is where its packets really go.
#[inline(always)]
fn origin<F: Family>(ctx: &SockAddrContext, name: &Name<F>) -> Option<Name<F>> {
    // SAFETY: values change only as a whole.
    let origin = unsafe { SOCKETS.get(key(ctx, name)) }?;
    Some(Name { addr: F::from_16(origin.addr), port: origin.port })
}

#[inline(always)]
fn name4(c: &bpf_sock_addr) -> Addr4 {
    Addr4::of_word(c.user_ip4)
}

#[inline(always)]
fn set4(c: &mut bpf_sock_addr, addr: Addr4) {
    c.user_ip4 = addr.word();
}

#[inline(always)]
fn name6(c: &bpf_sock_addr) -> Addr6 {
    Addr6::of_words([c.user_ip6[0], c.user_ip6[1], c.user_ip6[2], c.user_ip6[3]])
}

/// Word by word: the verifier takes nothing larger of the context.
#[inline(always)]
fn set6(c: &mut bpf_sock_addr, addr: Addr6) {
    let words = addr.words();
    c.user_ip6[0] = words[0];
    c.user_ip6[1] = words[1];
    c.user_ip6[2] = words[2];
    c.user_ip6[3] = words[3];
}

/// Whether the call names an IPv4 address in an IPv6 one (RFC 4291, 2.5.5.2).
#[inline(always)]
fn is_mapped(c: &bpf_sock_addr) -> bool {
    c.user_ip6[0] == 0 && c.user_ip6[1] == 0 && c.user_ip6[2] == 0xffffu32.to_be()
}

/// Points a call elsewhere, or not.
#[inline(always)]
fn redirect<F: Tables>(ctx: &SockAddrContext, addr: F::Addr, set: impl Fn(&mut bpf_sock_addr, F::Addr)) -> i32 {
    let name = Name::<F> { addr, port: u16::from_be(context(ctx).user_port as u16) };
    match decide(ctx, name) {
        Answer::Leave => ALLOW,
        Answer::Deny => DENY,
        Answer::Rewrite(name) => {
            set(context(ctx), name.addr);
            context(ctx).user_port = name.port.to_be() as u32;
            ALLOW
        }
    }
}

/// Names what the process named.
#[inline(always)]
fn restore<F: Tables>(ctx: &SockAddrContext, addr: F::Addr, set: impl Fn(&mut bpf_sock_addr, F::Addr)) -> i32 {
    let name = Name::<F> { addr, port: u16::from_be(context(ctx).user_port as u16) };
    if let Some(name) = origin(ctx, &name) {
        set(context(ctx), name.addr);
        context(ctx).user_port = name.port.to_be() as u32;
    }
    ALLOW
}

/// The IPv4 address in the IPv6 one of a call.
#[inline(always)]
fn set_mapped(c: &mut bpf_sock_addr, addr: Addr4) {
    c.user_ip6[3] = addr.word();
}

#[inline(always)]
pub fn connect4(ctx: &SockAddrContext) -> i32 {
    redirect::<V4>(ctx, name4(context(ctx)), set4)
}

#[inline(always)]
pub fn sendmsg4(ctx: &SockAddrContext) -> i32 {
    connect4(ctx)
}

#[inline(always)]
pub fn recvmsg4(ctx: &SockAddrContext) -> i32 {
    restore::<V4>(ctx, name4(context(ctx)), set4)
}

#[inline(always)]
pub fn connect6(ctx: &SockAddrContext) -> i32 {
    let c = context(ctx);
    if is_mapped(c) {
        redirect::<V4>(ctx, Addr4::of_word(c.user_ip6[3]), set_mapped)
    } else {
        redirect::<V6>(ctx, name6(c), set6)
    }
}

#[inline(always)]
pub fn sendmsg6(ctx: &SockAddrContext) -> i32 {
    connect6(ctx)
}

#[inline(always)]
pub fn recvmsg6(ctx: &SockAddrContext) -> i32 {
    let c = context(ctx);
    if is_mapped(c) {
        restore::<V4>(ctx, Addr4::of_word(c.user_ip6[3]), set_mapped)
    } else {
        restore::<V6>(ctx, name6(c), set6)
    }
}
