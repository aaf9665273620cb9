//! Tells a sender at once that its packet goes nowhere: RST for TCP, destination unreachable for the rest, and for either why where it can do
//! something about it: the packet is too big, or has come too far.
//!
//! The frame is turned round in place. A packet whose checksum is unfinished (the field holds the bare pseudo-header sum) must stay so,
//! or a device that finishes it would spoil the RST: the incoming field tells which it is.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use mesh_common::checksum::{finish, fold};
use mesh_common::family::{Addr4, Family, V4};
use mesh_common::parse::{self, Cursor, ETHERNET_LEN, Form, Packet, protocol, tcp_flag};
use mesh_common::verdict::{DropReason, Hook};

use crate::maps::Maps;
use crate::packet::tc::{SHOT, Tc};
use crate::stage::answer;
use crate::stage::tell::{self, Message, ipv4, sum};

/// Length of an Ethernet + IPv4 + TCP frame without payload.
const RST_LEN: u32 = 54;

/// Answers for the destination; drops where an answer is not allowed (RFC 1122, 3.2.2) or not possible. `reason` is a `DropReason` as a number, and
/// `number` what comes with it.
#[inline(always)]
pub fn refuse(tc: &Tc, hook: Hook, reason: u8, number: u32) -> i32 {
    refuse4(tc.skb(), hook as u32, reason as u32, number)
}

/// A global function, as `nat::lower_mss`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn refuse4(skb: *mut __sk_buff, hook: u32, reason: u32, number: u32) -> i32 {
    let (tc, hook) = (&Tc::new(TcContext::new(skb)), Hook::of_number(hook));
    match turn_round(tc, reason as u8, number) {
        Some(()) => answer::reflect(tc, hook),
        None => SHOT,
    }
}

#[inline(always)]
fn turn_round(tc: &Tc, reason: u8, number: u32) -> Option<()> {
    if parse::ethertype(tc)? != V4::ETHERTYPE {
        return None;
    }
    let packet = parse::packet::<V4>(tc)?;
    let mut message = Message { kind: 3, code: 1, rest: 0, src: packet.dst };
    match packet.form {
        Form::Fragment | Form::IcmpError => return None,
        // Fragmentation needed (RFC 1191).
        _ if reason == DropReason::TooBig as u8 => (message.code, message.rest) = (4, number),
        // By the router that the sender has: its network's gateway.
        _ if reason == DropReason::HopLimit as u8 => {
            (message.kind, message.code) = (11, 0);
            message.src = V4::endpoint(&packet.src)?.gateway;
        }
        Form::EchoReply => return None,
        Form::Ports if packet.protocol == protocol::TCP => {
            rst(tc, &packet)?;
            return tell::swap_macs(tc);
        }
        // Unreachable (RFC 792): port for UDP, host for the rest.
        _ if packet.protocol == protocol::UDP => message.code = 3,
        _ => {}
    }
    tell::turn_into(tc, &packet, &message)
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
    let (src, dst) = (V4::to_16(packet.dst), V4::to_16(packet.src));
    tc.compose(ETHERNET_LEN, &ipv4(protocol::TCP, 40, &src, &dst)).ok()?;
    tc.compose(ETHERNET_LEN + 20, &tcp).ok()
}
