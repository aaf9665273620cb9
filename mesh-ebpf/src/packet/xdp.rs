//! A frame in the driver's hands, before there is an sk_buff: read and written where it lies, grown and shrunk at its head, sent on.
//!
//! Nothing is pulled here: headers that a driver put behind its first buffer are not found, and the frame goes the way of TC. Checksums are
//! whole on a wire, so they are updated directly (RFC 1624). Nothing read before a change of the head may be used as a pointer; everything
//! here works by offset.

use core::mem::offset_of;

use aya_ebpf::bindings::{xdp_action, xdp_md};
use aya_ebpf::helpers::generated as raw;
use aya_ebpf::programs::XdpContext;
use mesh_common::checksum;
use mesh_common::parse::{Cursor, Plain};
use mesh_common::verdict::DropReason;
use mesh_common::word;

use crate::packet::Rewrite;

/// Left to the stack, where TC is next.
pub const PASS: u32 = xdp_action::XDP_PASS;
/// Half made when the driver failed us: neither frame nor tunnel packet.
pub const ABORTED: u32 = xdp_action::XDP_ABORTED;

/// A frame at an XDP hook.
pub struct Xdp {
    ctx: XdpContext,
}

impl Cursor for Xdp {
    #[inline(always)]
    fn load<T: Plain>(&self, offset: usize) -> Option<T> {
        // SAFETY: `at` proved that these bytes are there, and any bytes at an even address are a `T`.
        self.at::<T>(offset).map(|there| unsafe { T::read(there) })
    }
}

impl Rewrite for Xdp {
    #[inline(always)]
    fn store<T: Plain>(&self, offset: usize, value: &T) -> Result<(), DropReason> {
        let there = self.at::<T>(offset).ok_or(DropReason::HelperFailed)?;
        // SAFETY: `at` proved that these bytes are there, and the frame is this program's alone.
        unsafe { there.write(*value) };
        Ok(())
    }

    #[inline(always)]
    fn replace_word(&self, offset: usize, old: u16, new: u16, is_udp: bool) -> Result<(), DropReason> {
        let there = self.at::<[u16; 1]>(offset).ok_or(DropReason::HelperFailed)?;
        // SAFETY: as in `store`.
        let field = unsafe { (*there)[0] };
        if is_udp && field == 0 {
            return Ok(()); // no checksum (RFC 768)
        }
        let field = match checksum::update(field, old.to_be(), new.to_be()) {
            0 if is_udp => 0xffff,
            field => field,
        };
        // SAFETY: as in `store`.
        unsafe { there.write([field]) };
        Ok(())
    }
}

impl Xdp {
    #[inline(always)]
    pub fn new(ctx: XdpContext) -> Self {
        Xdp { ctx }
    }

    /// Where a `T` at this offset lies; None past the end of the first buffer.
    ///
    /// The verifier must see a bound of the offset: it is a constant, or one byte and a constant.
    #[inline(always)]
    fn at<T: Plain>(&self, offset: usize) -> Option<*mut T> {
        // Of "one byte more" the compiler makes "at or past the end", from which the verifier learns nothing.
        const { assert!(size_of::<T>() > 1) };
        let start = self.ctx.data() + offset;
        if start + size_of::<T>() > self.ctx.data_end() { None } else { Some(start as *mut T) }
    }

    /// Bytes to overwrite; None past the end of the first buffer.
    #[inline(always)]
    #[expect(
        clippy::mut_from_ref,
        reason = "the bytes are the packet's, not ours: the context that finds them stays as it is"
    )]
    pub fn place<T: Plain>(&self, offset: usize) -> Option<&mut T> {
        // SAFETY: `at` proved that these bytes are there, and any bytes are a `T`; nothing else refers to packet bytes meanwhile.
        self.at::<T>(offset).map(|there| unsafe { &mut *there })
    }

    /// The device whose driver has it.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // One instruction, as of a packet at a TC hook: of several loads the compiler would keep the field's address.
        // SAFETY: the verifier rewrites this load of a context field.
        unsafe { word::read::<_, { offset_of!(xdp_md, ingress_ifindex) }>(self.ctx.ctx) }
    }

    /// Bytes of the frame, if there are at least so many. What a driver put into further buffers is counted only where the first has too few.
    #[inline(always)]
    pub fn len_of_at_least(&self, wanted: u32) -> Option<u32> {
        let first = (self.ctx.data_end() - self.ctx.data()) as u32;
        if first >= wanted {
            return Some(first);
        }
        // SAFETY: reads the context only.
        let all = unsafe { raw::bpf_xdp_get_buff_len(self.ctx.ctx) } as u32;
        if all >= wanted { Some(all) } else { None }
    }

    /// Makes room for `bytes` before the frame (negative: takes so many away); false where the driver left no room, and nothing changed.
    #[inline(always)]
    pub fn grow_head(&self, bytes: i32) -> bool {
        // SAFETY: plain values.
        (unsafe { raw::bpf_xdp_adjust_head(self.ctx.ctx, -bytes) }) == 0
    }

    /// Sends the frame out of a device as it is.
    #[inline(always)]
    pub fn redirect(&self, ifindex: u32) -> u32 {
        // SAFETY: plain values.
        unsafe { raw::bpf_redirect(ifindex, 0) as u32 }
    }
}
