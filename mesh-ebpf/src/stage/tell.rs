//! Tells a sender by ICMP what became of its packet: the frame is turned round, and quotes the packet behind new headers.
//!
//! How much is quoted is the family's: over IPv4 an IP header without options and eight bytes, ports therefore (RFC 792); over IPv6 as much as
//! leaves the error no longer than every link takes (RFC 4443, 2.4). Must not: be asked for an
//! answer to an error, to a later fragment, or to what came out of the tunnel (RFC 1122, 3.2.2). A packet whose checksum is unfinished stays one as far as its skb says:
//! its new checksum is finished all the same, and no device of this machine that it is turned round to touches it (docs/decisions/0003).

use core::hint::black_box;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_csum_diff;
use aya_ebpf::programs::TcContext;
use mesh_common::checksum::finish;
use mesh_common::family::IcmpError;
use mesh_common::parse::{self, ETHERNET_LEN, Packet};
use mesh_common::quoted::ERROR_LEN;

use crate::maps::Tables;
use crate::packet::tc::Tc;

/// What is told.
pub struct Message<A> {
    /// ICMP type and code.
    pub error: IcmpError,
    /// The four bytes behind the checksum.
    pub rest: u32,
    /// Who tells it.
    pub src: A,
}

/// Bytes that are summed at once.
const CHUNK: usize = 32;
/// So many of them at most: the longest quote.
const MOST_CHUNKS: usize = 39;

/// Makes the frame the error about the packet that it holds, on its way back. A real call, for it is rare.
#[inline(never)]
pub fn turn_into<F: Tables>(tc: &Tc, packet: &Packet<F>, message: &Message<F::Addr>) -> Option<()> {
    const { assert!(F::MOST_QUOTED <= CHUNK * MOST_CHUNKS) };
    // What the IP header says, and what is there; not what pads a short frame.
    let whole = (packet.l4 as u32).wrapping_sub(ETHERNET_LEN as u32) + packet.l4_len as u32;
    let quoted = whole.min(tc.len().saturating_sub(ETHERNET_LEN as u32)).min(F::MOST_QUOTED as u32);
    let sum_of_quoted = sum_at(tc.skb(), ETHERNET_LEN as u32, quoted);
    let len = ERROR_LEN as u16 + quoted as u16;
    let [a, b, c, d] = message.rest.to_be_bytes();
    let mut error = [message.error.kind, message.error.code, 0, 0, a, b, c, d];
    let pseudo = if F::ADDR_LEN == 4 {
        0
    } else {
        F::sum(message.src) + F::sum(packet.src) + len.to_be() as u32 + (F::ICMP as u16).to_be() as u32
    };
    let [high, low] = finish(sum(pseudo + sum_of_quoted, &error)).to_ne_bytes();
    (error[2], error[3]) = (high, low);

    tc.resize(ETHERNET_LEN as u32 + quoted).ok()?;
    tc.make_room((F::HEADER_LEN + ERROR_LEN) as u32).ok()?;
    head::<F>(tc, F::ICMP, len, &message.src, &packet.src)?;
    tc.compose(ETHERNET_LEN + F::HEADER_LEN, &error).ok()?;
    swap_macs(tc)
}

/// Turns the Ethernet header round.
#[inline(always)]
pub fn swap_macs(tc: &Tc) -> Option<()> {
    let eth = parse::ethernet(tc)?;
    tc.set_macs(eth.src, eth.dst).ok()
}

/// The one's-complement sum of `bytes` on top of `seed`, words as they lie in memory. `N` is a multiple of 4.
#[inline(always)]
pub fn sum<const N: usize>(seed: u32, bytes: &[u8; N]) -> u32 {
    // SAFETY: the helper reads N bytes of the second buffer and none of the first.
    unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, bytes.as_ptr().cast_mut().cast(), N as u32, seed) as u32 }
}

/// The same of `len` bytes of the frame from `at` on, an odd last one as if a zero followed; folded, so that others may be added. A global function, as
/// `nat::lower_mss`: its turns are gone through once.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sum_at(skb: *mut __sk_buff, at: u32, len: u32) -> u32 {
    let tc = &Tc::new(TcContext::new(skb));
    let mut total = 0;
    let mut done = 0;
    for _ in 0..MOST_CHUNKS {
        if done >= len {
            break;
        }
        // Word by word: no function is called to make them zero, whose frame would be one more of the chain.
        let mut chunk = [black_box(0u64); CHUNK / 8];
        tc.copy(at + done, &mut chunk, len - done);
        // SAFETY: the helper reads all of the second buffer and none of the first.
        total =
            unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, chunk.as_mut_ptr().cast(), CHUNK as u32, total) as u32 };
        done += CHUNK as u32;
    }
    mesh_common::checksum::fold(total) as u32
}

/// Writes an IP header without options or extension headers: that of a packet which is made here, of `len` bytes behind it.
#[inline(always)]
pub fn head<F: Tables>(tc: &Tc, protocol: u8, len: u16, src: &F::Addr, dst: &F::Addr) -> Option<()> {
    let (s, d) = (F::to_16(*src), F::to_16(*dst));
    if F::ADDR_LEN == 4 {
        let [high, low] = (F::HEADER_LEN as u16 + len).to_be_bytes();
        let mut h = [
            0x45, 0, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0, s[12], s[13], s[14], s[15], d[12], d[13], d[14],
            d[15],
        ];
        let field = finish(sum(0, &h)).to_ne_bytes();
        (h[10], h[11]) = (field[0], field[1]);
        return tc.compose(ETHERNET_LEN, &h).ok();
    }
    let [high, low] = len.to_be_bytes();
    tc.compose(ETHERNET_LEN, &[0x60, 0, 0, 0, high, low, protocol, 64]).ok()?;
    tc.compose(ETHERNET_LEN + F::SRC_OFFSET, &s).ok()?;
    tc.compose(ETHERNET_LEN + F::SRC_OFFSET + F::ADDR_LEN, &d).ok()
}
