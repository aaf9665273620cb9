//! Tells a sender at once that its packet goes nowhere: RST for TCP, destination unreachable for the rest.
//!
//! The frame is turned round in place. A packet whose checksum is unfinished (the field holds the bare pseudo-header sum) must stay so,
//! or a device that finishes it would spoil the RST: the incoming field tells which it is.

use aya_ebpf::helpers::generated::bpf_csum_diff;
use mesh_common::checksum::{finish, fold};
use mesh_common::family::{Addr4, Family, V4};
use mesh_common::parse::{self, Cursor, ETHERNET_LEN, Form, Packet, protocol, tcp_flag};
use mesh_common::verdict::Hook;

use crate::packet::tc::{SHOT, Tc};
use crate::stage::answer;

/// Length of an Ethernet + IPv4 + TCP frame without payload.
const RST_LEN: u32 = 54;
/// Length of an unreachable message that quotes a header and eight bytes (RFC 792).
const UNREACHABLE_LEN: u32 = 70;

/// Answers for the destination; drops where an answer is not allowed (RFC 1122, 3.2.2) or not possible.
///
/// A real call, as `nat::apply`.
#[inline(never)]
pub fn refuse(tc: &Tc, hook: Hook) -> i32 {
    match turn_round(tc, hook) {
        Some(()) => answer::reflect(tc, hook),
        None => SHOT,
    }
}

#[inline(always)]
fn turn_round(tc: &Tc, hook: Hook) -> Option<()> {
    if hook as u8 == Hook::FromOverlay as u8 {
        return None; // the ingress node is told by its own tables, not by a packet
    }
    let eth = parse::ethernet(tc)?;
    if eth.ethertype != V4::ETHERTYPE {
        return None;
    }
    let packet = parse::packet::<V4>(tc)?;
    match packet.form {
        Form::Fragment | Form::IcmpError | Form::EchoReply => return None,
        Form::Ports if packet.protocol == protocol::TCP => rst(tc, &packet)?,
        _ => unreachable(tc, &packet)?,
    }
    tc.set_macs(eth.src, eth.dst).ok()
}

/// The one's-complement sum of `bytes` on top of `seed`, words as they lie in memory. `N` is a multiple of 4.
#[inline(always)]
fn sum<const N: usize>(seed: u32, bytes: &[u8; N]) -> u32 {
    // SAFETY: the helper reads N bytes of the second buffer and none of the first.
    unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, bytes.as_ptr().cast_mut().cast(), N as u32, seed) as u32 }
}

/// An IPv4 header from `src` to `dst`.
#[inline(always)]
fn ipv4(protocol: u8, total_len: u8, s: Addr4, d: Addr4) -> [u8; 20] {
    let (s, d) = (s.octets(), d.octets());
    let mut h =
        [0x45, 0, 0, total_len, 0, 0, 0x40, 0, 64, protocol, 0, 0, s[0], s[1], s[2], s[3], d[0], d[1], d[2], d[3]];
    let field = finish(sum(0, &h)).to_ne_bytes();
    h[10] = field[0];
    h[11] = field[1];
    h
}

/// The sum over the TCP pseudo header.
#[inline(always)]
fn pseudo(s: Addr4, d: Addr4, len: u16) -> u32 {
    let (s, d) = (s.octets(), d.octets());
    let len = len.to_be_bytes();
    sum(0, &[s[0], s[1], s[2], s[3], d[0], d[1], d[2], d[3], 0, protocol::TCP, len[0], len[1]])
}

/// RST in answer to a segment (RFC 9293, 3.10.7.1).
#[inline(never)]
fn rst(tc: &Tc, packet: &Packet<V4>) -> Option<()> {
    if packet.tcp_flags & tcp_flag::RST != 0 {
        return None;
    }
    let t: [u8; 18] = tc.load(packet.l4 as usize)?;
    let seq = u32::from_be_bytes([t[4], t[5], t[6], t[7]]);
    let is_unfinished = u16::from_ne_bytes([t[16], t[17]]) == fold(pseudo(packet.src, packet.dst, packet.l4_len));
    let data = (packet.l4_len as u32).wrapping_sub((t[12] >> 4) as u32 * 4);
    let control = (packet.tcp_flags & tcp_flag::SYN != 0) as u32 + (packet.tcp_flags & tcp_flag::FIN != 0) as u32;
    let (rst_seq, rst_ack, flags) = if packet.tcp_flags & tcp_flag::ACK != 0 {
        ([t[8], t[9], t[10], t[11]], [0; 4], tcp_flag::RST)
    } else {
        ([0; 4], seq.wrapping_add(data).wrapping_add(control).to_be_bytes(), tcp_flag::RST | tcp_flag::ACK)
    };
    let (s, d) = (packet.dport.to_be_bytes(), packet.sport.to_be_bytes());
    let (q, a) = (rst_seq, rst_ack);
    let mut tcp =
        [s[0], s[1], d[0], d[1], q[0], q[1], q[2], q[3], a[0], a[1], a[2], a[3], 0x50, flags, 0, 0, 0, 0, 0, 0];
    let pseudo = pseudo(packet.dst, packet.src, 20);
    let field = if is_unfinished { fold(pseudo) } else { finish(sum(pseudo, &tcp)) }.to_ne_bytes();
    tcp[16] = field[0];
    tcp[17] = field[1];

    tc.resize(RST_LEN).ok()?;
    tc.compose(ETHERNET_LEN, &ipv4(protocol::TCP, 40, packet.dst, packet.src)).ok()?;
    tc.compose(ETHERNET_LEN + 20, &tcp).ok()
}

/// Destination unreachable (RFC 792): port for UDP, host for the rest.
#[inline(never)]
fn unreachable(tc: &Tc, packet: &Packet<V4>) -> Option<()> {
    let quoted: [u8; 28] = tc.load(ETHERNET_LEN)?;
    let code = if packet.protocol == protocol::UDP { 3 } else { 1 };
    let field = finish(sum(u16::from_ne_bytes([3, code]) as u32, &quoted)).to_ne_bytes();
    tc.resize(UNREACHABLE_LEN).ok()?;
    tc.compose(ETHERNET_LEN, &ipv4(protocol::ICMP, 56, packet.dst, packet.src)).ok()?;
    tc.compose(ETHERNET_LEN + 20, &[3, code, field[0], field[1], 0, 0, 0, 0]).ok()?;
    tc.compose(ETHERNET_LEN + 28, &quoted).ok()
}
