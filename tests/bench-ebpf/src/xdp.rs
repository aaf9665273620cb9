//! Bare XDP programs: from a swap of addresses to the least that a balancer with VXLAN can do.

use aya_ebpf::helpers::generated::bpf_xdp_adjust_head;
use aya_ebpf::programs::XdpContext;
use mesh_common::hash;
use mesh_common::schema::Flow;
use mesh_common::wire::mac;

use crate::maps::{BARE_COUNT, BARE_FLOWS, BARE_FRONTENDS, BARE_LRU, BARE_RING, RING_SLOTS};
use crate::packet::{Bytes, LEN, Tuple, fold, halves};

pub const TX: u32 = 3;
pub const PASS: u32 = 2;
/// What a bare program says where something it takes for granted is not there: the benchmark stops.
const LOST: u32 = 1;
/// Outer Ethernet, IPv4, UDP and VXLAN headers (RFC 7348).
const ROOM: usize = 14 + 20 + 8 + 8;
/// Our own tunnel address and MAC, and the router's: constants cost nothing.
const HERE: u32 = u32::from_ne_bytes([192, 0, 2, 1]);
const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];

#[inline(always)]
fn bytes(ctx: &XdpContext) -> Option<Bytes> {
    Bytes::new(ctx.data(), ctx.data_end())
}

#[inline(always)]
pub fn head(ctx: &XdpContext) -> u32 {
    // SAFETY: plain values.
    let result = unsafe { bpf_xdp_adjust_head(ctx.ctx, -(ROOM as i32)) };
    if result == 0 { TX } else { LOST }
}

#[inline(always)]
pub fn swap(ctx: &XdpContext) -> u32 {
    let Some(bytes) = bytes(ctx) else { return LOST };
    bytes.swap_macs();
    TX
}

/// Counts a packet.
#[inline(always)]
pub fn count() {
    if let Some(at) = BARE_COUNT.get_ptr_mut(0) {
        // SAFETY: this CPU's own value.
        let count = unsafe { &mut *at };
        count[0] += 1;
        count[1] += LEN as u64;
    }
}

/// Headers before the frame, to `peer` with this VNI. The outer UDP checksum is zero, as RFC 7348 allows over IPv4.
#[inline(always)]
fn vxlan(ctx: &XdpContext, peer: u32, vni: u32, hash: u32) -> u32 {
    if head(ctx) != TX {
        return LOST;
    }
    let Some(bytes) = Bytes::of(ctx.data(), ctx.data_end(), ROOM + LEN) else { return LOST };
    bytes.set_macs(ROUTER, OUR_MAC);
    bytes.put(12, 0x0800u16.to_be());
    let total = (ROOM - 14 + LEN) as u16;
    // Version and length, don't fragment, TTL 64 and UDP: all of the IP header that is the same each time.
    let constant = u32::from(0x4500u16.to_be())
        + u32::from(total.to_be())
        + u32::from(0x4000u16.to_be())
        + u32::from(0x4011u16.to_be());
    bytes.put(14, 0x4500u16.to_be());
    bytes.put(16, total.to_be());
    bytes.put(18, u32::from(0x4000u16.to_be()) << 16);
    bytes.put(22, 0x4011u16.to_be());
    bytes.put(24, !fold(constant + halves(HERE) + halves(peer)));
    bytes.put(26, HERE);
    bytes.put(30, peer);
    bytes.put(34, (0xc000 | hash as u16 & 0x3fff).to_be());
    bytes.put(36, 4_789u16.to_be());
    bytes.put(38, (total - 20).to_be());
    bytes.put(40, 0u16);
    bytes.put(42, 0x0800_0000u32.to_be());
    bytes.put(46, (vni << 8).to_be());
    TX
}

/// Parse and one hash lookup.
#[inline(always)]
pub fn hash(ctx: &XdpContext) -> u32 {
    let Some(bytes) = bytes(ctx) else { return LOST };
    let Some(tuple) = Tuple::read(bytes) else { return PASS };
    // SAFETY: only whether it is there is asked.
    if unsafe { BARE_FRONTENDS.get(tuple.published()) }.is_none() {
        return LOST;
    }
    bytes.swap_macs();
    TX
}

/// What every forwarding program does with the entry it found.
#[inline(always)]
fn send(ctx: &XdpContext, bytes: Bytes, flow: &Flow<[u8; 4]>, hash: u32) -> u32 {
    count();
    bytes.set_macs(flow.mac, mac::GATEWAY);
    vxlan(ctx, u32::from_ne_bytes(flow.addr), flow.vni, hash)
}

/// Service, then the flow in a table that forgets: how most balancers with state work.
#[inline(always)]
pub fn lru_vxlan(ctx: &XdpContext) -> u32 {
    let Some(bytes) = bytes(ctx) else { return LOST };
    let Some(tuple) = Tuple::read(bytes) else { return PASS };
    // SAFETY: only whether it is there is asked.
    if unsafe { BARE_FRONTENDS.get(tuple.published()) }.is_none() {
        return LOST;
    }
    // SAFETY: nobody writes the table while programs run.
    let Some(flow) = (unsafe { BARE_LRU.get(tuple.key()) }) else { return LOST };
    send(ctx, bytes, flow, tuple.hash())
}

/// Service, then the flow in a plain hash table: the same lookups as an established forward of ours.
#[inline(always)]
pub fn forward(ctx: &XdpContext) -> u32 {
    let Some(bytes) = bytes(ctx) else { return LOST };
    let Some(tuple) = Tuple::read(bytes) else { return PASS };
    // SAFETY: only whether it is there is asked.
    if unsafe { BARE_FRONTENDS.get(tuple.published()) }.is_none() {
        return LOST;
    }
    // SAFETY: nobody writes the table while programs run.
    let Some(flow) = (unsafe { BARE_FLOWS.get(tuple.key()) }) else { return LOST };
    send(ctx, bytes, flow, tuple.hash())
}

/// Service, then the ring: no state.
#[inline(always)]
pub fn ring_vxlan(ctx: &XdpContext) -> u32 {
    let Some(bytes) = bytes(ctx) else { return LOST };
    let Some(tuple) = Tuple::read(bytes) else { return PASS };
    // SAFETY: values stay while programs run.
    let Some(frontend) = (unsafe { BARE_FRONTENDS.get(tuple.published()) }) else { return LOST };
    let hash = tuple.hash();
    let Some(peer) = BARE_RING.get(hash::slot(hash, RING_SLOTS as u32)) else { return LOST };
    count();
    bytes.set_macs(mac::of(mac::KIND_ENDPOINT, frontend.pool), mac::GATEWAY);
    vxlan(ctx, u32::from_ne_bytes(*peer), frontend.vni, hash)
}

/// A flow that is not there: service, ring, its entry written. The reply needs none at the node where the call enters.
#[inline(always)]
pub fn new(ctx: &XdpContext) -> u32 {
    let Some(bytes) = bytes(ctx) else { return LOST };
    let Some(tuple) = Tuple::read(bytes) else { return PASS };
    // SAFETY: values stay while programs run.
    let Some(frontend) = (unsafe { BARE_FRONTENDS.get(tuple.published()) }) else { return LOST };
    // SAFETY: only whether it is there is asked.
    if unsafe { BARE_FLOWS.get(tuple.key()) }.is_some() {
        return LOST;
    }
    let hash = tuple.hash();
    let Some(peer) = BARE_RING.get(hash::slot(hash, RING_SLOTS as u32)) else { return LOST };
    let Some(flow) = crate::maps::blank() else { return LOST };
    flow.addr = *peer;
    flow.vni = frontend.vni;
    if BARE_FLOWS.insert(tuple.key(), &*flow, 0).is_err() {
        return LOST;
    }
    count();
    bytes.set_macs(mac::of(mac::KIND_ENDPOINT, frontend.pool), mac::GATEWAY);
    vxlan(ctx, u32::from_ne_bytes(*peer), frontend.vni, hash)
}
