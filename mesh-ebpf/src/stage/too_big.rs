//! A packet that is larger than the path to its peer takes: its sender is told how large it may be (RFC 1191; RFC 4443, 3.2), or it goes in pieces.
//!
//! What may not be fragmented is refused with the largest size that fits inside the tunnel. Of what is several
//! segments each counts by itself, for they part before the wire. What may be fragmented goes through mesh0, whose outer packet the kernel cuts and the
//! peer's kernel puts together; but over IPv6 it cuts none, so there nobody's may (docs/decisions/0035). Told to a sender of this node or of the world,
//! never through the tunnel: what came out of it and goes back in is mesh0's.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use mesh_common::family::Family;
use mesh_common::parse::{Cursor, ETHERNET_LEN, Packet, protocol};
use mesh_common::schema::Peer;
use mesh_common::verdict::DropReason;
use mesh_common::wire::outer;

use crate::maps::Tables;
use crate::outcome::{Code, Stop, encode};
use crate::packet::tc::Tc;

/// Fits after all, or goes in pieces.
pub const GOES: Code = 0;

/// "Don't fragment" (RFC 791, 3.1).
const DONT_FRAGMENT: u16 = 0x4000;
/// A TCP header without options.
const TCP_LEN: u32 = 20;
/// What a packet of SCTP says for the size of its segments: it parts chunk by chunk (GSO_BY_FRAGS of include/linux/skbuff.h).
const BY_CHUNK: u32 = 0xffff;
/// Every IPv6 link takes as much (RFC 8200, section 5): nobody is told less.
const IPV6_LEAST: u32 = 1_280;

/// Largest packet that goes to this peer in one piece.
#[inline(always)]
pub fn most(peer: &Peer) -> u32 {
    (peer.mtu as u32).saturating_sub(outer::LEN as u32)
}

/// Largest TCP segment in that: less both headers without options (RFC 6691).
#[inline(always)]
pub fn mss<F: Family>(peer: &Peer) -> u16 {
    most(peer).saturating_sub(F::HEADER_LEN as u32 + TCP_LEN) as u16
}

/// Judges a packet that does not fit at first sight: [`GOES`], or that it is refused.
#[inline(always)]
pub fn judge<F: Tables>(tc: &Tc, packet: &Packet<F>, peer: &Peer) -> Code {
    let (most, must_be_whole) =
        if F::ADDR_LEN == 4 { (most(peer), peer.is_over_ipv6()) } else { (most(peer).max(IPV6_LEAST), 1) };
    judge_size(tc.skb(), packet.l4 as u32, packet.protocol as u32, must_be_whole, most)
}

/// A global function, as `nat::lower_mss`. `must_be_whole`: whatever the packet says of itself, if not 0.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn judge_size(skb: *mut __sk_buff, l4: u32, protocol: u32, must_be_whole: u32, most: u32) -> Code {
    let tc = &Tc::new(TcContext::new(skb));
    if longest(tc, l4 as u8, protocol as u8) <= most || (must_be_whole == 0 && allows_cutting(tc)) {
        return GOES;
    }
    encode(Err(Stop::refuse_with(DropReason::TooBig, most)))
}

/// The packet's length, or that of its longest segment. Nothing where it parts by chunk: each is as long as its sender's association lets it be.
#[inline(always)]
fn longest(tc: &Tc, l4: u8, number: u8) -> u32 {
    let segment = tc.gso_size();
    match segment {
        0 => return tc.len().saturating_sub(ETHERNET_LEN as u32),
        BY_CHUNK => return 0,
        _ => {}
    }
    let l4 = l4 as usize;
    let header = match tc.load::<[u8; 2]>(l4 + 12) {
        Some([words, _]) if number == protocol::TCP => (words >> 4) as u32 * 4,
        _ => 8,
    };
    (l4 as u32).wrapping_sub(ETHERNET_LEN as u32) + header + segment
}

/// An IPv4 packet without "don't fragment".
#[inline(always)]
fn allows_cutting(tc: &Tc) -> bool {
    tc.load::<[u16; 1]>(ETHERNET_LEN + 6).is_some_and(|[flags]| u16::from_be(flags) & DONT_FRAGMENT == 0)
}
