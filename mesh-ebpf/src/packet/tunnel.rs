//! A packet between nodes at a TC hook: the tunnel key that mesh0 reads and writes (bpf_skb_get_tunnel_key and its kin, in
//! include/uapi/linux/bpf.h), and the room for outer headers where we write them ourselves.

use aya_ebpf::bindings::{__sk_buff, bpf_tunnel_key};
use aya_ebpf::helpers::generated as raw;
use mesh_common::family::{Addr4, Addr6, Family};
use mesh_common::parse::ETHERNET_LEN;
use mesh_common::schema::Config;
use mesh_common::verdict::DropReason;
use mesh_common::wire::outer::Carrier;

use crate::packet::tc::{ROOM_MAC, Tc, check};

/// No checksum in the outer UDP header (RFC 7348 allows it over IPv4).
const F_ZERO_CSUM_TX: u64 = 1 << 1;

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

impl Tc {
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
