//! A packet at a TC hook: thin, typed names for the kernel's helpers (include/uapi/linux/bpf.h).
//!
//! Transport checksums are changed through the kernel's helpers, which alone know whether one is finished, but where the packet shows that its own
//! is (docs/decisions/0003). Bytes are read and written where they lie, after they were made linear. After a change nothing read before may be used as a pointer; everything here works by offset.

use core::hint::black_box;
use core::mem::offset_of;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated as raw;
use aya_ebpf::programs::TcContext;
use mesh_common::checksum;
use mesh_common::parse::{Cursor, Plain, words_of_6};
use mesh_common::verdict::DropReason;
use mesh_common::wire::outer;
use mesh_common::word;

use crate::packet::Rewrite;

/// "Not ours": the next program or the stack goes on (TC_ACT_UNSPEC, which TCX calls TCX_NEXT).
pub const NEXT: i32 = -1;
/// Send or pass on, no further program.
pub const OK: i32 = 0;
/// Drop.
pub const SHOT: i32 = 2;
/// Packet type "for us" (linux/if_packet.h).
const PACKET_HOST: u32 = 0;
/// Redirect into the ingress of the device.
const F_INGRESS: u64 = 1;
/// The update is of the pseudo header; the low four bits are the field's size.
const F_PSEUDO_HDR: u64 = 1 << 4;
/// UDP's zero checksum stays zero, and no other becomes zero. Not for TCP, where zero is a checksum as any other.
const F_MARK_MANGLED_0: u64 = 1 << 5;
/// Take the change into the receive checksum (CHECKSUM_COMPLETE: the device's sum over all behind the Ethernet header).
const F_RECOMPUTE_CSUM: u64 = 1;
/// No checksum of the packet is known to be good.
const CSUM_LEVEL_RESET: u64 = 3;
/// Room is made or taken behind the Ethernet header.
pub(super) const ROOM_MAC: u32 = 1;

/// A packet at a TC hook.
pub struct Tc {
    ctx: TcContext,
}

impl Cursor for Tc {
    #[inline(always)]
    fn load<T: Plain>(&self, offset: usize) -> Option<T> {
        // SAFETY: `at` proved that these bytes are there, and any bytes at an even address are a `T`.
        self.at::<T>(offset).map(|there| unsafe { T::read(there) })
    }

    #[inline(always)]
    fn peek<T: Plain>(&self, offset: usize) -> Option<T> {
        // SAFETY: as above.
        self.linear::<T>(offset).map(|there| unsafe { T::read(there) })
    }
}

impl Rewrite for Tc {
    #[inline(always)]
    fn store<T: Plain>(&self, offset: usize, value: &T) -> Result<(), DropReason> {
        Tc::store(self, offset, value)
    }
    #[inline(always)]
    fn replace_word(&self, offset: usize, old: u16, new: u16, is_udp: bool) -> Result<(), DropReason> {
        Tc::replace_word(self, offset, old, new, is_udp)
    }
}

/// A helper's refusal: nothing was sent.
#[inline(always)]
pub(super) fn check(result: i64) -> Result<(), DropReason> {
    if result == 0 { Ok(()) } else { Err(DropReason::HelperFailed) }
}

impl Tc {
    #[inline(always)]
    pub fn new(ctx: TcContext) -> Self {
        Tc { ctx }
    }

    /// What the kernel's helpers call it.
    #[inline(always)]
    pub fn skb(&self) -> *mut __sk_buff {
        self.ctx.skb.skb
    }

    /// Where the packet's linear part begins.
    #[inline(always)]
    fn data(&self) -> usize {
        // SAFETY: the verifier rewrites this load of a context field.
        unsafe { word::wide::<_, { offset_of!(__sk_buff, data) }>(self.skb()) }
    }

    /// Where it ends.
    #[inline(always)]
    fn data_end(&self) -> usize {
        // SAFETY: as above.
        unsafe { word::wide::<_, { offset_of!(__sk_buff, data_end) }>(self.skb()) }
    }

    /// Where a `T` at this offset lies; None past the packet's end. What is not in the packet's linear part yet is pulled there.
    ///
    /// The verifier must see a bound of the offset: it is a constant, or one byte and a constant.
    #[inline(always)]
    fn at<T: Plain>(&self, offset: usize) -> Option<*mut T> {
        // Of "one byte more" the compiler makes "at or past the end", from which the verifier learns nothing.
        const { assert!(size_of::<T>() > 1) };
        if self.data() + offset + size_of::<T>() > self.data_end() {
            pull(self.skb(), (offset + size_of::<T>()) as u32);
        }
        self.linear(offset)
    }

    /// The same without pulling.
    #[inline(always)]
    fn linear<T: Plain>(&self, offset: usize) -> Option<*mut T> {
        let start = self.data() + offset;
        if start + size_of::<T>() > self.data_end() { None } else { Some(start as *mut T) }
    }

    /// The context itself, for a jump into another program.
    #[inline(always)]
    pub fn context(&self) -> &TcContext {
        &self.ctx
    }

    /// Leaves numbers with the packet, for the program that goes on with it.
    #[inline(always)]
    pub fn leave(&self, numbers: [u32; 3]) {
        const AT: usize = offset_of!(__sk_buff, cb);
        let [a, b, c] = numbers;
        // SAFETY: the verifier rewrites these writes of a context field, which is the programs' own (`cb` in linux/bpf.h).
        unsafe {
            word::write::<_, AT>(self.skb(), a);
            word::write::<_, { AT + 4 }>(self.skb(), b);
            word::write::<_, { AT + 8 }>(self.skb(), c);
        }
    }

    /// What the program before this one left.
    #[inline(always)]
    pub fn left(&self) -> [u32; 3] {
        const AT: usize = offset_of!(__sk_buff, cb);
        // SAFETY: as above.
        unsafe {
            [
                word::read::<_, AT>(self.skb()),
                word::read::<_, { AT + 4 }>(self.skb()),
                word::read::<_, { AT + 8 }>(self.skb()),
            ]
        }
    }

    /// For tail-less helpers that take the context.
    #[inline(always)]
    pub fn as_ptr(&self) -> *mut core::ffi::c_void {
        self.ctx.as_ptr()
    }

    /// Bytes of the frame.
    #[inline(always)]
    pub fn len(&self) -> u32 {
        self.ctx.len()
    }

    /// The device the hook sits on.
    #[inline(always)]
    pub fn ifindex(&self) -> u32 {
        // One instruction: of several loads the compiler would keep the field's address, and the verifier takes no other than the context's.
        // SAFETY: the verifier rewrites this load of a context field.
        unsafe { word::read::<_, { offset_of!(__sk_buff, ifindex) }>(self.skb()) }
    }

    /// The frame came with a VLAN tag, which the kernel keeps beside it.
    #[inline(always)]
    pub fn has_vlan(&self) -> bool {
        // SAFETY: as above.
        unsafe { (*self.skb()).vlan_present != 0 }
    }

    /// The packet's mark.
    #[inline(always)]
    pub fn mark(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.skb()).mark }
    }

    #[inline(always)]
    pub fn set_mark(&self, mark: u32) {
        self.ctx.set_mark(mark);
    }

    /// Overwrites bytes whose change a checksum in the packet makes up for (its update is the caller's business), or which no checksum
    /// covers (the Ethernet header): the sum over the packet, which the receive checksum is, stays what it was.
    #[inline(always)]
    pub fn store<T: Plain>(&self, offset: usize, value: &T) -> Result<(), DropReason> {
        let there = self.at::<T>(offset).ok_or(DropReason::HelperFailed)?;
        // SAFETY: `at` proved that these bytes are there, and a program's packet is its own: the kernel un-shares it beforehand.
        unsafe { there.write(*value) };
        Ok(())
    }

    /// Bytes to overwrite that no checksum covers, or whose checksum is the caller's business.
    #[inline(always)]
    #[expect(
        clippy::mut_from_ref,
        reason = "the bytes are the packet's, not ours: the context that finds them stays as it is"
    )]
    pub fn place<T: Plain>(&self, offset: usize) -> Result<&mut T, DropReason> {
        let there = self.at::<T>(offset).ok_or(DropReason::HelperFailed)?;
        // SAFETY: as in `store`; nothing else refers to packet bytes while the reference lives.
        Ok(unsafe { &mut *there })
    }

    /// Overwrites bytes and tells the receive checksum: for packets made anew, and for changes that no checksum in them makes up for.
    #[inline(always)]
    pub fn compose<const N: usize>(&self, offset: usize, bytes: &[u8; N]) -> Result<(), DropReason> {
        // SAFETY: the helper reads exactly N bytes.
        check(unsafe {
            raw::bpf_skb_store_bytes(self.skb(), offset as u32, bytes.as_ptr().cast(), N as u32, F_RECOMPUTE_CSUM)
        })
    }

    /// Replaces an address in the transport checksum at `offset`.
    #[inline(always)]
    pub fn replace_pseudo(&self, offset: usize, difference: u32, is_udp: bool) -> Result<(), DropReason> {
        let flags = if is_udp { F_PSEUDO_HDR | F_MARK_MANGLED_0 } else { F_PSEUDO_HDR };
        // SAFETY: plain values.
        check(unsafe { raw::bpf_l4_csum_replace(self.skb(), offset as u32, 0, difference as u64, flags) })
    }

    /// Replaces a 16-bit word (host order values) in the transport checksum at `offset`.
    #[inline(always)]
    pub fn replace_word(&self, offset: usize, old: u16, new: u16, is_udp: bool) -> Result<(), DropReason> {
        let (old, new) = (old.to_be() as u64, new.to_be() as u64);
        let flags = if is_udp { F_MARK_MANGLED_0 | 2 } else { 2 };
        // SAFETY: plain values.
        check(unsafe { raw::bpf_l4_csum_replace(self.skb(), offset as u32, old, new, flags) })
    }

    /// Replaces what `difference` says in the IP header checksum at `offset`.
    #[inline(always)]
    pub fn replace_header(&self, offset: usize, difference: u32) -> Result<(), DropReason> {
        let there = self.at::<[u16; 1]>(offset).ok_or(DropReason::HelperFailed)?;
        // SAFETY: as in `store`. The IP header's sum is finished always, and makes up for the change.
        unsafe { *there = [checksum::apply((*there)[0], difference)] };
        Ok(())
    }

    /// Makes the frame this long; what is added is undefined.
    #[inline(always)]
    pub fn resize(&self, len: u32) -> Result<(), DropReason> {
        // SAFETY: plain values.
        check(unsafe { raw::bpf_skb_change_tail(self.skb(), len, 0) })
    }

    /// Makes room of zeros behind the Ethernet header.
    #[inline(always)]
    pub fn make_room(&self, len: u32) -> Result<(), DropReason> {
        // SAFETY: plain values.
        check(unsafe { raw::bpf_skb_adjust_room(self.skb(), len as i32, ROOM_MAC, 0) })
    }

    /// Copies bytes of the frame out, at most `len` (not 0) of them; where the frame has less than that, none. `N` is a power of
    /// two.
    #[inline(always)]
    pub fn copy<const N: usize>(&self, offset: u32, to: &mut [u64; N], len: u32) {
        let most = const { 8 * N as u32 };
        // The verifier must see that it is from 1 to that; the compiler, which knows it, must not take it away.
        let len = (black_box(len.min(most).wrapping_sub(1)) & (most - 1)) + 1;
        // SAFETY: the helper writes at most as many bytes as there are.
        unsafe { raw::bpf_skb_load_bytes(self.skb().cast(), offset, to.as_mut_ptr().cast(), len) };
    }

    /// Lets a copy of the frame arrive at a device of this namespace, behind what waits in its queue.
    #[inline(always)]
    pub fn copy_into_ingress(&self, ifindex: u32) -> Result<(), DropReason> {
        // SAFETY: plain values.
        check(unsafe { raw::bpf_clone_redirect(self.skb(), ifindex, F_INGRESS) })
    }

    /// Makes the frame another one of its datagram, of `len` bytes (not 0): its hash stays, nothing is known of its checksums. `N` is a power of two.
    #[inline(always)]
    pub fn become_frame<const N: usize>(&self, frame: &[u64; N], len: u32) -> Result<(), DropReason> {
        let most = const { 8 * N as u32 };
        // As in `copy`.
        let len = (black_box(len.min(most).wrapping_sub(1)) & (most - 1)) + 1;
        // A change of length makes the kernel forget the sum over all (CHECKSUM_COMPLETE; __skb_grow_rcsum in net/core/filter.c).
        self.resize(len + 1)?;
        self.resize(len)?;
        // SAFETY: plain values. Says no where nothing is known to be good, which is as well.
        unsafe { raw::bpf_csum_level(self.skb(), CSUM_LEVEL_RESET) };
        // SAFETY: the helper reads at most as many bytes as there are.
        check(unsafe { raw::bpf_skb_store_bytes(self.skb(), 0, frame.as_ptr().cast(), len, 0) })
    }

    /// Writes both MAC addresses.
    #[inline(always)]
    pub fn set_macs(&self, dst: [u8; 6], src: [u8; 6]) -> Result<(), DropReason> {
        let [a, b, c] = outer::macs(dst, src);
        let there = self.place::<[u16; 6]>(0)?;
        // SAFETY: within what `there` refers to.
        unsafe {
            word::write::<_, 0>(there, a);
            word::write::<_, 4>(there, b);
            word::write::<_, 8>(there, c);
        }
        Ok(())
    }

    /// Writes the destination MAC alone.
    #[inline(always)]
    pub fn set_dst_mac(&self, dst: [u8; 6]) -> Result<(), DropReason> {
        self.store(0, &words_of_6(dst))
    }

    /// Marks the frame as meant for the receiving stack, whatever its destination MAC was.
    #[inline(always)]
    pub fn set_for_host(&self) -> Result<(), DropReason> {
        // SAFETY: the verifier rewrites this load of a context field.
        if unsafe { (*self.skb()).pkt_type } == PACKET_HOST {
            return Ok(());
        }
        check(self.ctx.change_type(PACKET_HOST).map_or_else(|code| code, |()| 0))
    }

    /// Bytes of data in each segment of a packet that is several; 0 for one that is one.
    #[inline(always)]
    pub fn gso_size(&self) -> u32 {
        // SAFETY: the verifier rewrites this load of a context field.
        unsafe { (*self.skb()).gso_size }
    }

    /// Sends the frame out of a device as it is.
    #[inline(always)]
    pub fn redirect(&self, ifindex: u32) -> i32 {
        // SAFETY: plain values.
        unsafe { raw::bpf_redirect(ifindex, 0) as i32 }
    }

    /// Lets the frame arrive at a device of this namespace.
    #[inline(always)]
    pub fn redirect_ingress(&self, ifindex: u32) -> i32 {
        // SAFETY: plain values.
        unsafe { raw::bpf_redirect(ifindex, F_INGRESS) as i32 }
    }

    /// Lets the frame arrive at the other end of a veth, in its namespace, without a detour. Ingress hooks only.
    #[inline(always)]
    pub fn redirect_peer(&self, ifindex: u32) -> i32 {
        // SAFETY: plain values.
        unsafe { raw::bpf_redirect_peer(ifindex, 0) as i32 }
    }

    /// Sends the packet out of a device; the kernel's neighbour table writes the MACs.
    #[inline(always)]
    pub fn redirect_neighbour(&self, ifindex: u32) -> i32 {
        // SAFETY: no parameters: the kernel looks the next hop up itself.
        unsafe { raw::bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32 }
    }
}

/// Makes the first `len` bytes of a packet linear; where it has no more, nothing happens. A real call, for it is rare: headers are linear but
/// where a driver put them into a page.
#[inline(never)]
fn pull(skb: *mut __sk_buff, len: u32) {
    // SAFETY: plain values. What could not be pulled is missed by the caller, who looks again.
    unsafe { raw::bpf_skb_pull_data(skb, len) };
}
