//! Bare classifiers: a lookup, and a rewrite that is right for packets whose checksum is not yet filled in.
//!
//! The transport checksum goes through the kernel's helper, which alone knows whether it is finished (docs/decisions/0003); all else is
//! written directly.

use aya_ebpf::bindings::{__sk_buff, bpf_tunnel_key};
use aya_ebpf::helpers::generated::{bpf_l4_csum_replace, bpf_redirect, bpf_redirect_peer, bpf_skb_set_tunnel_key};
use aya_ebpf::programs::TcContext;
use mesh_common::hash;
use mesh_common::schema::Flow;
use mesh_common::wire::mac;

use crate::maps::{self, BARE_FLOWS, BARE_FRONTENDS, BARE_RING, RING_SLOTS};
use crate::packet::{Bytes, DST, IP_SUM, TCP_SUM, Tuple, opens, replaced};

pub const OK: i32 = 0;
const SHOT: i32 = 2;
/// What a bare program says where something it takes for granted is not there: the benchmark stops.
const LOST: i32 = 98;
/// The update is of the pseudo header, and of four bytes.
const PSEUDO_WORD: u64 = 1 << 4 | 4;
/// No checksum in the outer UDP header.
const ZERO_CSUM_TX: u64 = 1 << 1;
/// Our own tunnel address, host order.
const HERE: u32 = u32::from_be_bytes([192, 0, 2, 1]);

#[inline(always)]
fn bytes(ctx: &TcContext) -> Option<Bytes> {
    Bytes::new(ctx.data(), ctx.data_end())
}

#[inline(always)]
fn found(ctx: &TcContext) -> Option<(Bytes, &'static Flow<[u8; 4]>)> {
    let bytes = bytes(ctx)?;
    let tuple = Tuple::read(bytes)?;
    // SAFETY: nobody writes the table while programs run.
    Some((bytes, unsafe { BARE_FLOWS.get(tuple.key()) }?))
}

/// The destination becomes `new`. After the helper call `bytes` is void.
#[inline(always)]
fn rewrite(skb: *mut __sk_buff, bytes: Bytes, new: u32) -> bool {
    let old: u32 = bytes.get(DST);
    let sum: u16 = bytes.get(IP_SUM);
    bytes.put(IP_SUM, replaced(sum, old, new));
    bytes.put(DST, new);
    // SAFETY: plain values.
    unsafe { bpf_l4_csum_replace(skb, TCP_SUM as u32, u64::from(old), u64::from(new), PSEUDO_WORD) == 0 }
}

#[inline(always)]
fn redirect(flow: &Flow<[u8; 4]>) -> i32 {
    // SAFETY: plain values.
    unsafe { bpf_redirect(flow.ifindex, 0) as i32 }
}

#[inline(always)]
fn key(skb: *mut __sk_buff, remote: u32, vni: u32) -> bool {
    // SAFETY: all-zero is a valid key.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    key.tunnel_id = vni;
    key.tunnel_ttl = 64;
    key.__bindgen_anon_1.remote_ipv4 = remote;
    key.__bindgen_anon_3.local_ipv4 = HERE;
    // SAFETY: the helper reads the size given.
    unsafe { bpf_skb_set_tunnel_key(skb, &mut key, size_of::<bpf_tunnel_key>() as u32, ZERO_CSUM_TX) == 0 }
}

/// The end of a path.
#[inline(always)]
pub fn drop() -> i32 {
    crate::xdp::count();
    SHOT
}

/// One hash lookup.
#[inline(always)]
pub fn hash(ctx: &TcContext) -> i32 {
    if found(ctx).is_some() { OK } else { LOST }
}

/// Lookup, rewrite of the destination, MAC addresses, redirect.
#[inline(always)]
pub fn dnat(ctx: &TcContext) -> i32 {
    let Some((bytes, flow)) = found(ctx) else { return LOST };
    bytes.set_macs(flow.mac, mac::GATEWAY);
    if rewrite(ctx.skb.skb, bytes, u32::from_ne_bytes(flow.addr)) { redirect(flow) } else { LOST }
}

/// The same, into the namespace behind a veth.
#[inline(always)]
pub fn dnat_peer(ctx: &TcContext) -> i32 {
    let Some((bytes, flow)) = found(ctx) else { return LOST };
    bytes.set_macs(flow.mac, mac::GATEWAY);
    if !rewrite(ctx.skb.skb, bytes, u32::from_ne_bytes(flow.addr)) {
        return LOST;
    }
    // SAFETY: plain values.
    unsafe { bpf_redirect_peer(flow.ifindex, 0) as i32 }
}

/// The same as [`dnat`], and the kernel's VXLAN device is told where to.
#[inline(always)]
pub fn dnat_tunnel(ctx: &TcContext) -> i32 {
    let Some((bytes, flow)) = found(ctx) else { return LOST };
    bytes.set_macs(flow.mac, mac::GATEWAY);
    let done = rewrite(ctx.skb.skb, bytes, u32::from_ne_bytes(flow.addr)) && key(ctx.skb.skb, flow.backend, flow.vni);
    if done { redirect(flow) } else { LOST }
}

/// Lookup and tunnel, addresses stay.
#[inline(always)]
pub fn tunnel(ctx: &TcContext) -> i32 {
    let Some((bytes, flow)) = found(ctx) else { return LOST };
    bytes.set_macs(flow.mac, mac::GATEWAY);
    if key(ctx.skb.skb, flow.backend, flow.vni) { redirect(flow) } else { LOST }
}

/// A flow that is not there: service, ring, its entry written, and that of its reply where there is one; then as [`dnat`].
#[inline(always)]
pub fn new(ctx: &TcContext, reply_too: bool) -> i32 {
    let Some(bytes) = bytes(ctx) else { return LOST };
    let Some(tuple) = Tuple::read(bytes) else { return LOST };
    // SAFETY: values stay while programs run.
    let Some(frontend) = (unsafe { BARE_FRONTENDS.get(tuple.vip()) }) else { return LOST };
    // SAFETY: only whether it is there is asked.
    if !opens(bytes) || unsafe { BARE_FLOWS.get(tuple.key()) }.is_some() {
        return LOST;
    }
    let Some(backend) = BARE_RING.get(hash::slot(tuple.hash(), RING_SLOTS as u32)) else { return LOST };
    let Some(flow) = maps::blank() else { return LOST };
    flow.addr = *backend;
    flow.vni = frontend.vni;
    flow.ifindex = 1;
    let flow: &Flow<[u8; 4]> = flow;
    let new = u32::from_ne_bytes(*backend);
    if BARE_FLOWS.insert(tuple.key(), flow, 0).is_err() {
        return LOST;
    }
    if reply_too && BARE_FLOWS.insert(tuple.turned(new).key(), flow, 0).is_err() {
        return LOST;
    }
    bytes.set_macs(flow.mac, mac::GATEWAY);
    if rewrite(ctx.skb.skb, bytes, new) { redirect(flow) } else { LOST }
}
