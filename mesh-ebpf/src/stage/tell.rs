//! Tells a sender by ICMP what became of its packet: the frame is turned round in place, and quotes the packet's headers.
//!
//! The quote is the IP header and eight bytes, ports therefore (RFC 792; RFC 4443 would take more, and asks for none). Must not: be asked for an
//! answer to an error, to a later fragment, or to what came out of the tunnel (RFC 1122, 3.2.2). A packet whose checksum is unfinished stays one as far as its skb says:
//! its new checksum is finished all the same, and no device of this machine that it is turned round to touches it (docs/decisions/0003).

use aya_ebpf::helpers::generated::bpf_csum_diff;
use mesh_common::checksum::finish;
use mesh_common::parse::{self, Cursor, ETHERNET_LEN, Packet};

use crate::maps::Tables;
use crate::packet::tc::Tc;

/// What is told.
pub struct Message<A> {
    /// ICMP type.
    pub kind: u8,
    /// Its code.
    pub code: u8,
    /// The four bytes behind the checksum.
    pub rest: u32,
    /// Who tells it.
    pub src: A,
}

/// Bytes of an ICMP error's own header.
const ERROR_LEN: usize = 8;

/// Makes the frame the error about the packet that it holds, on its way back. A real call, for it is rare.
#[inline(never)]
pub fn turn_into<F: Tables>(tc: &Tc, packet: &Packet<F>, message: &Message<F::Addr>) -> Option<()> {
    if F::ADDR_LEN == 4 { compose::<F, 28>(tc, packet, message) } else { compose::<F, 48>(tc, packet, message) }
}

#[inline(always)]
fn compose<F: Tables, const QUOTED: usize>(tc: &Tc, packet: &Packet<F>, message: &Message<F::Addr>) -> Option<()> {
    let quoted: [u8; QUOTED] = tc.load(ETHERNET_LEN)?;
    let len = (ERROR_LEN + QUOTED) as u16;
    let [a, b, c, d] = message.rest.to_be_bytes();
    let mut error = [message.kind, message.code, 0, 0, a, b, c, d];
    let pseudo = if F::ADDR_LEN == 4 {
        0
    } else {
        F::sum(message.src) + F::sum(packet.src) + len.to_be() as u32 + (F::ICMP as u16).to_be() as u32
    };
    let [high, low] = finish(sum(sum(pseudo, &error), &quoted)).to_ne_bytes();
    (error[2], error[3]) = (high, low);

    let l4 = ETHERNET_LEN + F::HEADER_LEN;
    tc.resize((l4 + ERROR_LEN + QUOTED) as u32).ok()?;
    let (src, dst) = (F::to_16(message.src), F::to_16(packet.src));
    if F::ADDR_LEN == 4 {
        tc.compose(ETHERNET_LEN, &ipv4(F::ICMP, F::HEADER_LEN as u16 + len, &src, &dst)).ok()?;
    } else {
        let [high, low] = len.to_be_bytes();
        tc.compose(ETHERNET_LEN, &[0x60, 0, 0, 0, high, low, F::ICMP, 64]).ok()?;
        tc.compose(ETHERNET_LEN + F::SRC_OFFSET, &src).ok()?;
        tc.compose(ETHERNET_LEN + F::SRC_OFFSET + F::ADDR_LEN, &dst).ok()?;
    }
    tc.compose(l4, &error).ok()?;
    tc.compose(l4 + ERROR_LEN, &quoted).ok()?;
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

/// An IPv4 header between two addresses of 16 bytes.
#[inline(always)]
pub fn ipv4(protocol: u8, total_len: u16, s: &[u8; 16], d: &[u8; 16]) -> [u8; 20] {
    let [high, low] = total_len.to_be_bytes();
    let mut h =
        [0x45, 0, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0, s[12], s[13], s[14], s[15], d[12], d[13], d[14], d[15]];
    let field = finish(sum(0, &h)).to_ne_bytes();
    h[10] = field[0];
    h[11] = field[1];
    h
}
