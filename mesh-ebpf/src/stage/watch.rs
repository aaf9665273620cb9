//! Tells who listens (`mesh monitor`) what becomes of packets: every drop, and the verdict on each Nth packet.
//!
//! Nobody listens, nearly always: then a drop costs one look at CONFIG more, and the established path a branch on a word that it has at hand.
//! Invariant: a CPU tells a bounded number of events a second, whatever comes, and counts those it does not tell. Who listens says until when; past
//! that the programs stop by themselves. Must not: change a packet, or where it goes. One that a
//! driver's program would send goes there by TC, where it is to be told of.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::programs::TcContext;
use mesh_common::family::{Family, V4, V6};
use mesh_common::parse::{self, Form, Packet};
use mesh_common::schema::{Config, Endpoint, Event, Flow, deliver};
use mesh_common::verdict::Hook;

use crate::maps::{self, CONFIG, EVENTS, Tables};
use crate::outcome::Code;
use crate::packet::tc::Tc;
use crate::stage::flow::{self, now_s};

/// A packet is dropped or refused, as it stands there.
#[inline(always)]
pub fn dropped(tc: &Tc, hook: Hook, reason: u32) {
    if CONFIG.get(0).is_some_and(|config| config.watch_until_s != 0) {
        tell_drop(tc.skb(), hook as u32, reason);
    }
}

/// A packet goes by a flow entry: before it is rewritten.
#[inline(always)]
pub fn verdict<F: Tables>(tc: &Tc, config: &Config, hook: Hook, packet: &Packet<F>, flow: &Flow<F::Addr>) {
    if config.watch_sample != 0 {
        tell_verdict(tc, hook as u8, packet, flow);
    }
}

/// A packet goes to a task by its own address, without an entry.
#[inline(always)]
pub fn direct<F: Tables>(tc: &Tc, config: &Config, hook: Hook, packet: &Packet<F>, to: &Endpoint<F::Addr>) {
    if config.watch_sample != 0 {
        tell_direct(tc, hook as u8, packet, to);
    }
}

/// An answer from a peer leaves by `way` (`deliver::*`): out of this node, or to the task with endpoint number `to` (else 0).
#[inline(always)]
pub fn answer<F: Tables>(tc: &Tc, config: &Config, packet: &Packet<F>, to: u32, way: u8) {
    if config.watch_sample != 0 {
        tell_answer(tc, packet, to, way);
    }
}

/// Whether the driver's program leaves this packet to TC, which tells of it: that program has no stack left to tell anything.
#[inline(always)]
pub fn is_left(config: &Config) -> bool {
    config.watch_sample != 0 && is_next() != 0
}

/// The driver's program sent a packet on, which counts towards the next one that is told of.
#[inline(always)]
pub fn passed(config: &Config) {
    if config.watch_sample != 0
        && let Some(watched) = maps::watched()
    {
        watched.pass();
    }
}

/// A real call, for it is rare.
#[inline(never)]
fn is_next() -> u32 {
    let Some(each) = heard_each() else { return 0 };
    maps::watched().is_some_and(|watched| watched.is_left(each)) as u32
}

/// Each how manieth packet is told of, 0: none, while somebody listens still. Who went without a word is forgotten.
#[inline(always)]
fn heard_each() -> Option<u32> {
    let config = CONFIG.get_ptr_mut(0)?;
    // SAFETY: a live map value; words, read and written whole.
    let (until_s, each) = unsafe { ((*config).watch_until_s, (*config).watch_sample) };
    if now_s() > until_s {
        // SAFETY: as above.
        unsafe {
            (*config).watch_until_s = 0;
            (*config).watch_sample = 0;
        }
        return None;
    }
    Some(each)
}

/// Whether somebody hears this CPU's next event.
#[inline(always)]
fn is_heard(sample: bool) -> bool {
    let (Some(each), Some(watched)) = (heard_each(), maps::watched()) else { return false };
    (!sample || watched.is_sampled(each)) && watched.may_tell(now_s())
}

/// A global function, as `nat::lower_mss`: for each reason that it is called with, the verifier would go through it again.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn tell_drop(skb: *mut __sk_buff, hook: u32, reason: u32) -> Code {
    let tc = &Tc::new(TcContext::new(skb));
    if !is_heard(false) {
        return 0;
    }
    match parse::ethertype(tc) {
        Some(V4::ETHERTYPE) => tell_drop_of::<V4>(tc, hook as u8, reason),
        Some(V6::ETHERTYPE) => tell_drop_of::<V6>(tc, hook as u8, reason),
        _ => tell::<V4>(tc, hook as u8, reason as u8, None, 0, 0, 0),
    }
}

/// A real call, for it is rare.
#[inline(never)]
fn tell_drop_of<F: Tables>(tc: &Tc, hook: u8, reason: u32) -> Code {
    let mut room = parse::Room::<F>::uninit();
    tell(tc, hook, reason as u8, flow::read(tc, &mut room).map(|packet| &*packet), 0, 0, 0)
}

/// A real call, for it is rare.
#[inline(never)]
fn tell_verdict<F: Tables>(tc: &Tc, hook: u8, packet: &Packet<F>, flow: &Flow<F::Addr>) -> Code {
    if !is_heard(true) {
        return 0;
    }
    let node = if flow.deliver == deliver::TUNNEL { flow.node } else { 0 };
    tell(tc, hook, 0, Some(packet), flow.backend, node, flow.deliver)
}

/// A real call, for it is rare.
#[inline(never)]
fn tell_direct<F: Tables>(tc: &Tc, hook: u8, packet: &Packet<F>, to: &Endpoint<F::Addr>) -> Code {
    if !is_heard(true) {
        return 0;
    }
    let (node, way) = if to.ifindex != 0 { (0, deliver::TASK) } else { (to.node as u16, deliver::TUNNEL) };
    tell(tc, hook, 0, Some(packet), to.number, node, way)
}

/// A real call, for it is rare.
#[inline(never)]
fn tell_answer<F: Tables>(tc: &Tc, packet: &Packet<F>, to: u32, way: u8) -> Code {
    // An error that is carried stands for the packet that it quotes, and is none of its kind.
    if packet.form == Form::IcmpError || !is_heard(true) {
        return 0;
    }
    tell(tc, Hook::FromOverlay as u8, 0, Some(packet), to, 0, way)
}

/// Writes an event where it is read from: nothing of it lies on the stack.
#[inline(always)]
fn tell<F: Tables>(
    tc: &Tc,
    hook: u8,
    reason: u8,
    packet: Option<&Packet<F>>,
    backend: u32,
    node: u16,
    deliver: u8,
) -> Code {
    let Some(mut room) = EVENTS.reserve(0) else {
        if let Some(watched) = maps::watched() {
            watched.lost += 1;
        }
        return 0;
    };
    let at: *mut Event = room.as_mut_ptr();
    // SAFETY: room for one event, all of whose bytes are written here.
    unsafe {
        at.write_bytes(0, 1);
        (*at).at_ns = bpf_ktime_get_ns();
        (*at).len = tc.len();
        (*at).ifindex = tc.ifindex();
        (*at).hook = hook;
        (*at).reason = reason;
        (*at).backend = backend;
        (*at).node = node;
        (*at).deliver = deliver;
        if let Some(packet) = packet {
            (*at).src = F::to_16(packet.src);
            (*at).dst = F::to_16(packet.dst);
            (*at).sport = packet.sport;
            (*at).dport = packet.dport;
            (*at).protocol = packet.protocol;
            (*at).tcp_flags = packet.tcp_flags;
        }
    }
    room.submit(0);
    0
}
