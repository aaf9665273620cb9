//! The wrapper: undoes what the last run did to the packet's length, writes the next flow's frame over it, and jumps.
//!
//! A test run repeats a program on one buffer that it never restores. So a program that makes a packet longer or rewrites it sees its own
//! output from the second run on, unless it is preceded by this. Invariant: what is behind sees 64 bytes of a frame of `FRAMES`, no mark, and
//! the tunnel's key where there is one; where that fails the run ends in [`FAILED`], which no hook says.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{__sk_buff, bpf_tunnel_key};
use aya_ebpf::helpers::generated::{bpf_skb_adjust_room, bpf_skb_set_tunnel_key, bpf_xdp_adjust_head};
use aya_ebpf::programs::{TcContext, XdpContext};

use crate::maps::{FRAMES, NEXT, TARGET_TC, TARGET_XDP, TUNNEL};
use crate::packet::{Bytes, LEN};

/// The packet could not be restored, or there was no program to jump to.
const FAILED: i32 = 99;
/// `BPF_ADJ_ROOM_MAC`: room between the Ethernet and the IP header.
const ROOM_BEHIND_MAC: u32 = 1;
/// `BPF_F_ADJ_ROOM_FIXED_GSO`
const FIXED_GSO: u64 = 1;

/// The frame whose turn it is.
#[inline(always)]
fn next() -> Option<&'static [u64; 8]> {
    let at = NEXT.get_ptr_mut(0)?;
    // SAFETY: a live map value; one run at a time writes it.
    let [now, count] = unsafe { *at };
    let following = if now + 1 < count { now + 1 } else { 0 };
    // SAFETY: as above.
    unsafe { (*at)[0] = following };
    FRAMES.get(now)
}

#[inline(always)]
fn write(bytes: Bytes, frame: &[u64; 8]) {
    let [a, b, c, d, e, f, g, h] = *frame;
    bytes.put(0, a);
    bytes.put(8, b);
    bytes.put(16, c);
    bytes.put(24, d);
    bytes.put(32, e);
    bytes.put(40, f);
    bytes.put(48, g);
    bytes.put(56, h);
}

/// Where the packet begins and ends now. Volatile: what is read twice must be loaded twice, or the compiler keeps half of a pointer, which the
/// verifier no longer knows as one.
#[inline(always)]
fn bounds(ctx: &XdpContext) -> (usize, usize) {
    // SAFETY: the context is valid, and the verifier rewrites both loads.
    unsafe {
        (
            (&raw const (*ctx.ctx).data).read_volatile() as usize,
            (&raw const (*ctx.ctx).data_end).read_volatile() as usize,
        )
    }
}

#[inline(always)]
pub fn xdp(ctx: &XdpContext) -> u32 {
    let (data, end) = bounds(ctx);
    let longer = end as i64 - data as i64 - LEN as i64;
    if longer != 0 {
        // SAFETY: plain values.
        if unsafe { bpf_xdp_adjust_head(ctx.ctx, longer as i32) } != 0 {
            return FAILED as u32;
        }
    }
    let (data, end) = bounds(ctx);
    let (Some(bytes), Some(frame)) = (Bytes::new(data, end), next()) else { return FAILED as u32 };
    write(bytes, frame);
    // SAFETY: an XDP program jumps to another.
    unsafe { TARGET_XDP.tail_call(ctx, 0) };
    FAILED as u32
}

#[inline(always)]
pub fn tc(ctx: &TcContext, tunnel: bool) -> i32 {
    let skb: *mut __sk_buff = ctx.skb.skb;
    let longer = ctx.len() as i32 - LEN as i32;
    if longer != 0 {
        // SAFETY: plain values.
        if unsafe { bpf_skb_adjust_room(skb, -longer, ROOM_BEHIND_MAC, FIXED_GSO) } != 0 {
            return FAILED;
        }
    }
    let (Some(bytes), Some(frame)) = (Bytes::new(ctx.data(), ctx.data_end()), next()) else { return FAILED };
    write(bytes, frame);
    ctx.set_mark(0);
    if tunnel {
        let Some(key) = TUNNEL.get_ptr_mut(0) else { return FAILED };
        // SAFETY: the helper reads as many bytes as the value has.
        if unsafe { bpf_skb_set_tunnel_key(skb, key.cast::<bpf_tunnel_key>(), 44, 0) } != 0 {
            return FAILED;
        }
    }
    // SAFETY: a classifier jumps to another.
    unsafe { TARGET_TC.tail_call(ctx, 0) };
    // The context is the same object; without this use it would be moved into the call above.
    let _ = ctx.as_ptr();
    FAILED
}

/// The next frame, for the stack behind the device: live frames are fresh each time, and this long.
#[inline(always)]
pub fn live(ctx: &XdpContext) -> u32 {
    let (data, end) = bounds(ctx);
    let (Some(bytes), Some(frame)) = (Bytes::new(data, end), next()) else { return FAILED as u32 };
    write(bytes, frame);
    crate::xdp::PASS
}
