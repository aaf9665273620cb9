//! Tells a sender at once that its packet goes nowhere: RST for TCP, destination unreachable for the rest, and for either why where it can do
//! something about it: the packet is too big, or has come too far.
//!
//! The frame is turned round in place. A packet whose checksum is unfinished (the field holds the bare pseudo-header sum) must stay so,
//! or a device that finishes it would spoil the RST: the incoming field tells which it is.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use mesh_common::checksum::{finish, fold};
use mesh_common::family::{Family, V4, V6};
use mesh_common::parse::{self, Cursor, ETHERNET_LEN, Form, Packet, protocol, tcp_flag};
use mesh_common::verdict::{DropReason, Hook};

use crate::maps::Tables;
use crate::packet::tc::{SHOT, Tc};
use crate::stage::answer;
use crate::stage::tell::{self, Message, sum};

/// Length of a TCP header without options.
const TCP_LEN: u16 = 20;

/// Answers for the destination; drops where an answer is not allowed (RFC 1122, 3.2.2; RFC 4443, 2.4) or not possible. `reason` is a `DropReason` as a
/// number, and `number` what comes with it.
#[inline(always)]
pub fn refuse(tc: &Tc, hook: Hook, reason: u8, number: u32) -> i32 {
    if parse::ethertype(tc) == Some(V6::ETHERTYPE) {
        refuse6(tc.skb(), hook as u32, reason as u32, number)
    } else {
        refuse4(tc.skb(), hook as u32, reason as u32, number)
    }
}

/// A global function, as `nat::lower_mss`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn refuse4(skb: *mut __sk_buff, hook: u32, reason: u32, number: u32) -> i32 {
    answer::<V4>(&Tc::new(TcContext::new(skb)), Hook::of_number(hook), reason as u8, number)
}

/// The same of IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn refuse6(skb: *mut __sk_buff, hook: u32, reason: u32, number: u32) -> i32 {
    answer::<V6>(&Tc::new(TcContext::new(skb)), Hook::of_number(hook), reason as u8, number)
}

#[inline(always)]
fn answer<F: Tables>(tc: &Tc, hook: Hook, reason: u8, number: u32) -> i32 {
    match turn_round::<F>(tc, reason, number) {
        Some(()) => answer::reflect(tc, hook),
        None => SHOT,
    }
}

#[inline(always)]
fn turn_round<F: Tables>(tc: &Tc, reason: u8, number: u32) -> Option<()> {
    let eth = parse::ethernet(tc)?;
    if eth.ethertype != F::ETHERTYPE {
        return None;
    }
    let packet = parse::packet::<F>(tc)?;
    // Nobody is told who is not one.
    if eth.dst[0] & 1 != 0
        || F::is_multicast(packet.dst)
        || F::is_multicast(packet.src)
        || packet.src == F::Addr::default()
    {
        return None;
    }
    let mut message = Message { error: F::UNREACHABLE_HOST, rest: 0, src: packet.dst };
    match packet.form {
        Form::Fragment | Form::IcmpError => return None,
        _ if reason == DropReason::TooBig as u8 => (message.error, message.rest) = (F::TOO_BIG, number),
        // By the router that the sender has: its network's gateway.
        _ if reason == DropReason::HopLimit as u8 => {
            message.error = F::TIME_EXCEEDED;
            message.src = F::endpoint(&packet.src)?.gateway;
        }
        Form::EchoReply => return None,
        Form::Ports if packet.protocol == protocol::TCP => {
            rst(tc, &packet)?;
            return tell::swap_macs(tc);
        }
        _ if packet.protocol == protocol::UDP => message.error = F::UNREACHABLE_PORT,
        _ => {}
    }
    tell::turn_into(tc, &packet, &message)
}

/// The sum over the TCP pseudo header of a segment between two addresses.
#[inline(always)]
fn pseudo<F: Family>(packet: &Packet<F>, len: u16) -> u32 {
    F::sum(packet.src) + F::sum(packet.dst) + len.to_be() as u32 + (protocol::TCP as u16).to_be() as u32
}

/// RST in answer to a segment (RFC 9293, 3.10.7.1).
#[inline(never)]
fn rst<F: Tables>(tc: &Tc, packet: &Packet<F>) -> Option<()> {
    if packet.tcp_flags & tcp_flag::RST != 0 {
        return None;
    }
    let t: [u8; 18] = tc.load(packet.l4 as usize)?;
    let seq = u32::from_be_bytes([t[4], t[5], t[6], t[7]]);
    let is_unfinished = u16::from_ne_bytes([t[16], t[17]]) == fold(pseudo(packet, packet.l4_len));
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
    // Of both addresses, whichever is first.
    let pseudo = pseudo(packet, TCP_LEN);
    let field = if is_unfinished { fold(pseudo) } else { finish(sum(pseudo, &tcp)) }.to_ne_bytes();
    tcp[16] = field[0];
    tcp[17] = field[1];

    let l4 = ETHERNET_LEN + F::HEADER_LEN;
    tc.resize(l4 as u32 + TCP_LEN as u32).ok()?;
    tell::head::<F>(tc, protocol::TCP, TCP_LEN, &packet.dst, &packet.src)?;
    tc.compose(l4, &tcp).ok()
}
