//! A packet at a TC hook: thin, typed names for the kernel's helpers (include/uapi/linux/bpf.h).
//!
//! Transport checksums are changed through the kernel's helpers, which alone know whether one is finished, but where the packet shows that its own
//! is (docs/decisions/0003). Bytes are read and written where they lie, after they were made linear. After a change nothing read before may be used as a pointer; everything here works by offset.

use core::hint::black_box;
use core::mem::offset_of;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{__sk_buff, bpf_tunnel_key};
use aya_ebpf::helpers::generated as raw;
use aya_ebpf::programs::TcContext;
use mesh_common::checksum;
use mesh_common::family::{Addr4, Addr6, Family};
use mesh_common::parse::{Cursor, ETHERNET_LEN, Plain, words_of_6};
use mesh_common::schema::Config;
use mesh_common::verdict::DropReason;
use mesh_common::wire::outer::{self, Carrier};
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
/// No checksum in the outer UDP header (RFC 7348 allows it over IPv4).
const F_ZERO_CSUM_TX: u64 = 1 << 1;

/// Room is made or taken behind the Ethernet header.
const ROOM_MAC: u32 = 1;
/// Segments stay as long as they were: the tunnel's headers are extra.
const F_ROOM_FIXED_GSO: u64 = 1;
/// The room is an IPv4 or IPv6 header, a UDP header and what follows …
const F_ROOM_IPV4: u64 = 1 << 1;
const F_ROOM_IPV6: u64 = 1 << 2;
const F_ROOM_UDP: u64 = 1 << 4;
/// … an inner frame …
const F_ROOM_ETHERNET: u64 = 1 << 6;
/// … whose Ethernet header is this long (in the top byte).
const F_ROOM_INNER_L2: u64 = (ETHERNET_LEN as u64) << 56;
/// The receive checksum stays what it is said to be.
const F_ROOM_KEEP_CSUM: u64 = 1 << 5;
/// What stays is of the other family than what goes, and the packet is told so (Linux 6.3).
const F_ROOM_LEAVES_IPV4: u64 = 1 << 7;
const F_ROOM_LEAVES_IPV6: u64 = 1 << 8;
/// One checksum less of the packet is known to be good.
const CSUM_LEVEL_DEC: u64 = 2;

/// The key is of IPv6 (`BPF_F_TUNINFO_IPV6`).
const F_TUNNEL_IPV6: u64 = 1;
/// `bpf_skb_get_tunnel_key` on a packet without a key: EINVAL. Another family's key is EPROTO.
const NO_TUNNEL: i64 = -22;

/// What the tunnel says of a packet.
pub enum Tunnel {
    /// It came through no tunnel.
    None,
    /// Outer source and VNI.
    From(Addr4, u32),
    /// It came over IPv6.
    OverIpv6,
}

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
fn check(result: i64) -> Result<(), DropReason> {
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

    /// Where the tunnel packet came from and its VNI: IPv4 outer source in network order.
    #[inline(always)]
    pub fn tunnel_source(&self) -> Tunnel {
        let (mut remote, mut id) = (0, 0);
        match read_tunnel_key(self.skb(), &mut remote, &mut id) {
            NO_TUNNEL => Tunnel::None,
            0 => Tunnel::From(remote.to_be_bytes().into(), id),
            _ => Tunnel::OverIpv6,
        }
    }

    /// The same of one that came over IPv6; None for any other.
    #[inline(always)]
    pub fn tunnel_source6(&self) -> Option<(Addr6, u32)> {
        let (mut remote, mut id) = ([0; 4], 0);
        match read_tunnel_key6(self.skb(), &mut remote, &mut id) {
            0 => Some((Addr6::of_words(remote), id)),
            _ => None,
        }
    }

    /// Names the tunnel packet's outer source, destination (a peer's data path address) and VNI; mesh0 does the rest.
    #[inline(always)]
    pub fn set_tunnel(&self, config: &Config, to: &[u8; 16], vni: u32) -> Result<(), DropReason> {
        check(write_tunnel_key(self.skb(), config, to, vni))
    }

    /// Bytes of data in each segment of a packet that is several; 0 for one that is one.
    #[inline(always)]
    pub fn gso_size(&self) -> u32 {
        // SAFETY: the verifier rewrites this load of a context field.
        unsafe { (*self.skb()).gso_size }
    }

    /// Makes room for the outer headers of a family: the frame's Ethernet header stays in front, and all that stood behind it moves back. What is in
    /// the room is undefined.
    #[inline(always)]
    pub fn make_outer_room<O: Carrier>(&self) -> Result<(), DropReason> {
        let header = if O::ADDR_LEN == 4 { F_ROOM_IPV4 } else { F_ROOM_IPV6 };
        let flags = F_ROOM_FIXED_GSO | header | F_ROOM_UDP | F_ROOM_ETHERNET | F_ROOM_INNER_L2;
        // SAFETY: plain values.
        check(unsafe { raw::bpf_skb_adjust_room(self.skb(), O::OUTER_LEN as i32, ROOM_MAC, flags) })
    }

    /// Tells the receive checksum what the sum over the packet changes by: the sum of words in memory order that came where zeros were, or a difference.
    #[inline(always)]
    pub fn add_to_sum(&self, words: u32) {
        // SAFETY: plain values. Says no where no such checksum is kept, which is as well.
        unsafe { raw::bpf_csum_update(self.skb(), words) };
    }

    /// Takes the outer headers and the inner Ethernet header away: the outer Ethernet header is followed by the inner packet, one of family `F`.
    /// On an error nothing has changed: kernels before 6.3 know no way to make a packet of one family of one of the other.
    #[inline(always)]
    pub fn take_outer_room<O: Carrier, F: Family>(&self) -> Result<(), DropReason> {
        let left = match (O::ADDR_LEN, F::ADDR_LEN) {
            (4, 16) => F_ROOM_LEAVES_IPV6,
            (16, 4) => F_ROOM_LEAVES_IPV4,
            _ => 0,
        };
        let flags = F_ROOM_FIXED_GSO | F_ROOM_KEEP_CSUM | left;
        // SAFETY: plain values.
        check(unsafe { raw::bpf_skb_adjust_room(self.skb(), -(O::OUTER_LEN as i32), ROOM_MAC, flags) })?;
        // As for every tunnel whose UDP checksum is zero, it counts as one that was good (skb_checksum_init_zero_check in include/linux/skbuff.h).
        // SAFETY: plain values. Says no where nothing is known to be good, which is as well.
        unsafe { raw::bpf_csum_level(self.skb(), CSUM_LEVEL_DEC) };
        Ok(())
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

/// Reads the outer source (host order) and the VNI of a packet that came through a tunnel. A real call, as is [`write_tunnel_key`]: the key
/// is on the stack while it runs, and not in the frame of whoever goes on to choose and rewrite.
#[inline(never)]
fn read_tunnel_key(skb: *mut __sk_buff, remote: &mut u32, id: &mut u32) -> i64 {
    // SAFETY: all-zero is a valid key.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    // SAFETY: the helper writes at most the size given.
    let result = unsafe { raw::bpf_skb_get_tunnel_key(skb, &mut key, size_of::<bpf_tunnel_key>() as u32, 0) };
    // SAFETY: for an IPv4 tunnel the helper filled the first word; both variants are plain integers.
    *remote = unsafe { key.__bindgen_anon_1.remote_ipv4 };
    *id = key.tunnel_id;
    result
}

/// The same over IPv6: the source as words of memory.
#[inline(never)]
fn read_tunnel_key6(skb: *mut __sk_buff, remote: &mut [u32; 4], id: &mut u32) -> i64 {
    // SAFETY: all-zero is a valid key.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    // SAFETY: the helper writes at most the size given.
    let result =
        unsafe { raw::bpf_skb_get_tunnel_key(skb, &mut key, size_of::<bpf_tunnel_key>() as u32, F_TUNNEL_IPV6) };
    // SAFETY: for an IPv6 tunnel the helper filled all of it; both variants are plain integers.
    *remote = unsafe { key.__bindgen_anon_1.remote_ipv6 };
    *id = key.tunnel_id;
    result
}

/// Sets the key of a packet on its way to mesh0. Which family the tunnel is of says this node's own data path address.
#[inline(never)]
fn write_tunnel_key(skb: *mut __sk_buff, config: &Config, to: &[u8; 16], vni: u32) -> i64 {
    // SAFETY: all-zero is a valid key.
    let mut key: bpf_tunnel_key = unsafe { core::mem::zeroed() };
    key.tunnel_id = vni;
    key.tunnel_ttl = 64;
    // In words: the helper takes an IPv4 address in host order, an IPv6 one as it lies in memory.
    // SAFETY: an address of sixteen bytes in a map value, where it is at a multiple of four.
    let to = unsafe { to.as_ptr().cast::<[u32; 4]>().read() };
    let mut flags = F_ZERO_CSUM_TX;
    if config.tunnel_addr4_word() != 0 {
        key.__bindgen_anon_1.remote_ipv4 = u32::from_be(to[3]);
        key.__bindgen_anon_3.local_ipv4 = u32::from_be(config.tunnel_addr4_word());
    } else {
        key.__bindgen_anon_1.remote_ipv6 = to;
        key.__bindgen_anon_3.local_ipv6 = config.tunnel_addr6_words();
        flags |= F_TUNNEL_IPV6;
    }
    // SAFETY: the helper reads the size given.
    unsafe { raw::bpf_skb_set_tunnel_key(skb, &mut key, size_of::<bpf_tunnel_key>() as u32, flags) }
}
