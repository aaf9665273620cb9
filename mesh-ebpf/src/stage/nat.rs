//! Rewrites addresses and ports as a flow says, with every checksum that covers them.
//!
//! Where the kernel alone knows whether a checksum is finished, its helpers change it; where the packet shows that it is, we do, all at
//! once (docs/decisions/0003). A zero UDP checksum stays zero.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use mesh_common::checksum;
use mesh_common::crc32c;
use mesh_common::family::{Addr4, V4};
use mesh_common::parse::{self, Cursor, ETHERNET_LEN, Form, Packet, protocol, tcp_flag};
use mesh_common::schema::{Flow, flow_flag, rewrite};
use mesh_common::verdict::DropReason;

use crate::maps::Tables;
use crate::packet::Rewrite;
use crate::packet::tc::Tc;
use crate::packet::xdp::Xdp;

/// Where a packet comes from, which is what one can expect of its checksum.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A stack of this machine: unfinished nearly always.
    Stack,
    /// A wire, or what stands for one: finished nearly always.
    Wire,
}

/// What a rewrite makes of a packet's ports.
struct Ports {
    sport: u16,
    dport: u16,
}

/// Rewrites a packet as its flow says. `gateway` is the source that a task sees when it reaches itself.
///
/// What nearly every packet needs is here: one side becomes another. The rest is a real call, and so is IPv6: its addresses' words would fill the
/// callers' frames (docs/decisions/0029).
#[inline(always)]
pub fn apply<F: Tables>(
    tc: &Tc,
    source: Source,
    packet: &Packet<F>,
    flow: &Flow<F::Addr>,
    gateway: &F::Addr,
) -> Result<(), DropReason> {
    if flow.rewrite == rewrite::NONE {
        return Ok(());
    }
    if F::ADDR_LEN != 4 || packet.form != Form::Ports || flow.flags & flow_flag::HAIRPIN != 0 || flow.other_port != 0 {
        return apply_apart(tc, source, packet, flow, gateway);
    }
    if flow.rewrite == rewrite::DESTINATION {
        one_side::<F, false>(tc, source, packet, flow)
    } else {
        one_side::<F, true>(tc, source, packet, flow)
    }
}

/// Rewrites one side of a packet with ports.
#[inline(always)]
fn one_side<F: Tables, const IS_SOURCE: bool>(
    tc: &Tc,
    source: Source,
    packet: &Packet<F>,
    flow: &Flow<F::Addr>,
) -> Result<(), DropReason> {
    let (old, old_port) = if IS_SOURCE { (packet.src, packet.sport) } else { (packet.dst, packet.dport) };
    let port = if flow.port == 0 { old_port } else { flow.port };
    let addresses = F::difference(old, flow.addr);
    if port == old_port {
        // Told apart here, for all that follows then falls away.
        transport(tc, source, packet, &Ports { sport: packet.sport, dport: packet.dport }, addresses)?;
    } else {
        let (sport, dport) = if IS_SOURCE { (port, packet.dport) } else { (packet.sport, port) };
        transport(tc, source, packet, &Ports { sport, dport }, addresses)?;
    }
    F::readdress::<IS_SOURCE>(tc.place(0)?, &flow.addr, addresses);
    Ok(())
}

/// Rewrites any packet. A real call, with a stack frame of its own: the callers' have no room left (512 bytes are shared by a whole chain of
/// calls).
#[inline(always)]
pub fn apply_apart<F: Tables>(
    tc: &Tc,
    source: Source,
    packet: &Packet<F>,
    flow: &Flow<F::Addr>,
    gateway: &F::Addr,
) -> Result<(), DropReason> {
    if F::ADDR_LEN != 4 {
        return apply_to(tc, source, packet, flow, gateway);
    }
    let [.., a, b, c, d] = F::to_16(*gateway);
    let (flow, gateway) = ((&raw const *flow).cast(), u32::from_ne_bytes([a, b, c, d]));
    match apply_apart4(tc.skb(), source as u32, flow, gateway) {
        0 => Ok(()),
        fragment if fragment == DropReason::Fragment as u32 => Err(DropReason::Fragment),
        _ => Err(DropReason::HelperFailed),
    }
}

/// 0, or the reason why not. A global function, as [`lower_mss`]; so it reads the packet again.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn apply_apart4(skb: *mut __sk_buff, source: u32, flow: *const Flow<Addr4>, gateway: u32) -> u32 {
    let (tc, source) = (&Tc::new(TcContext::new(skb)), if source == 0 { Source::Stack } else { Source::Wire });
    // SAFETY: the verifier asks of every caller that there is a flow, or nothing.
    let Some(flow) = (unsafe { flow.as_ref() }) else { return DropReason::HelperFailed as u32 };
    let Some(packet) = parse::packet::<V4>(tc) else { return DropReason::Malformed as u32 };
    match any(tc, source, &packet, flow, &Addr4::of_word(gateway)) {
        Ok(()) => 0,
        Err(reason) => reason as u32,
    }
}

/// The same for any family. A real call.
#[inline(never)]
fn apply_to<F: Tables>(
    tc: &Tc,
    source: Source,
    packet: &Packet<F>,
    flow: &Flow<F::Addr>,
    gateway: &F::Addr,
) -> Result<(), DropReason> {
    any(tc, source, packet, flow, gateway)
}

#[inline(always)]
fn any<F: Tables>(
    tc: &Tc,
    source: Source,
    packet: &Packet<F>,
    flow: &Flow<F::Addr>,
    gateway: &F::Addr,
) -> Result<(), DropReason> {
    let is_hairpin = flow.flags & flow_flag::HAIRPIN != 0;
    // 0 keeps a port.
    let or = |new: u16, old: u16| if new == 0 { old } else { new };
    // By reference: addresses of IPv6 would fill the frame.
    let (src, dst, to, is_id) = match flow.rewrite {
        rewrite::DESTINATION => {
            let src = if is_hairpin { gateway } else { &packet.src };
            let (sport, dport) = (or(flow.other_port, packet.sport), or(flow.port, packet.dport));
            (src, &flow.addr, Ports { sport, dport }, packet.form == Form::EchoReply)
        }
        rewrite::SOURCE => {
            // The reply goes to the task that called itself: the sender.
            let dst = if is_hairpin { &packet.src } else { &packet.dst };
            let (sport, dport) = (or(flow.port, packet.sport), or(flow.other_port, packet.dport));
            (&flow.addr, dst, Ports { sport, dport }, packet.form == Form::EchoRequest)
        }
        _ => return Ok(()),
    };
    let addresses = checksum::join(F::difference(packet.src, *src), F::difference(packet.dst, *dst));
    match packet.form {
        Form::Fragment => without_header_sum::<F>(tc, addresses),
        Form::Ports => transport(tc, source, packet, &to, addresses)?,
        _ => {
            match checksum_offset(packet) {
                Some(at) => replace_addresses::<F>(tc, at, addresses, false)?,
                None => without_header_sum::<F>(tc, addresses),
            }
            // An echo's identifier stands where a port would, and 0 is one like any other.
            let old = packet.sport | packet.dport;
            if is_id && flow.port != old {
                let l4 = packet.l4 as usize;
                tc.replace_word(l4 + 2, old, flow.port, false)?;
                tc.store(l4 + 4, &flow.port.to_be_bytes())?;
            }
        }
    }
    if let Some(at) = F::HEADER_CHECKSUM_OFFSET {
        tc.replace_header(ETHERNET_LEN + at, addresses)?;
    }
    // One of the two, but for a task that called itself.
    if *src != packet.src {
        F::readdress::<true>(tc.place(0)?, src, 0);
    }
    if *dst != packet.dst {
        F::readdress::<false>(tc.place(0)?, dst, 0);
    }
    Ok(())
}

/// Offset of the checksum in the transport header; None where the protocol has none that covers addresses or ports.
#[inline(always)]
fn checksum_offset<F: Tables>(packet: &Packet<F>) -> Option<usize> {
    match packet.protocol {
        protocol::TCP => Some(packet.l4 as usize + 16),
        protocol::UDP => Some(packet.l4 as usize + 6),
        protocol::ICMPV6 if F::ADDR_LEN == 16 => Some(packet.l4 as usize + 2),
        _ => None,
    }
}

/// Replaces addresses in the transport checksum at `at`. The helper takes it that a header's checksum makes up for them, and tells the receive checksum of this
/// change; IPv6's header has none (RFC 8200, 3), so there address and checksum make up for each other, and what the helper told is taken back.
#[inline(always)]
fn replace_addresses<F: Tables>(tc: &Tc, at: usize, addresses: u32, is_udp: bool) -> Result<(), DropReason> {
    tc.replace_pseudo(at, addresses, is_udp)?;
    without_header_sum::<F>(tc, addresses);
    Ok(())
}

/// Tells the receive checksum of addresses that change, where no header's makes up for them: of IPv6.
#[inline(always)]
fn without_header_sum<F: Tables>(tc: &Tc, addresses: u32) {
    if F::HEADER_CHECKSUM_OFFSET.is_none() {
        tc.add_to_sum(addresses);
    }
}

/// Rewrites the ports, and the checksum for them and for addresses that change by `addresses`.
#[inline(always)]
fn transport<F: Tables>(
    tc: &Tc,
    source: Source,
    packet: &Packet<F>,
    to: &Ports,
    addresses: u32,
) -> Result<(), DropReason> {
    let l4 = packet.l4 as usize;
    let is_udp = packet.protocol == protocol::UDP;
    let (sport, dport) = (to.sport.to_be(), to.dport.to_be());
    let has_new_port = packet.sport != to.sport || packet.dport != to.dport;
    let field = match checksum_offset(packet).map(|at| (at, tc.load::<[u16; 1]>(at))) {
        Some((at, Some([field]))) if !is_udp || field != 0 => Some((at, field)),
        Some((_, None)) => return Err(DropReason::HelperFailed),
        _ => None,
    };
    let Some((at, field)) = field else {
        without_header_sum::<F>(tc, addresses);
        return if has_new_port { renumber(tc, packet, sport, dport) } else { Ok(()) };
    };
    if source == Source::Wire && is_finished(tc, packet, field) {
        let words = [(packet.sport, to.sport), (packet.dport, to.dport)];
        let [one, other] = words.map(|(old, new)| checksum::difference_of_word(old, new));
        let field = match checksum::apply(field, checksum::join(addresses, one + other)) {
            0 if is_udp => 0xffff,
            field => field,
        };
        tc.store(at, &[field])?;
        // IPv4's header makes up for the addresses already, so this change is one of the whole packet's sum.
        if F::HEADER_CHECKSUM_OFFSET.is_some() {
            tc.add_to_sum(!addresses);
        }
    } else {
        replace_addresses::<F>(tc, at, addresses, is_udp)?;
        if packet.sport != to.sport {
            tc.replace_word(at, packet.sport, to.sport, is_udp)?;
        }
        if packet.dport != to.dport {
            tc.replace_word(at, packet.dport, to.dport, is_udp)?;
        }
    }
    if has_new_port { tc.store(l4, &[sport, dport]) } else { Ok(()) }
}

/// Writes both ports (in memory order) where there is no Internet checksum to make up for the change: of a UDP packet that has none, of SCTP with its
/// CRC.
#[inline(always)]
fn renumber<F: Tables>(tc: &Tc, packet: &Packet<F>, sport: u16, dport: u16) -> Result<(), DropReason> {
    let (l4, ports) = (packet.l4 as u32, two(sport, dport));
    let done = if packet.protocol != protocol::SCTP {
        write_ports(tc.skb(), l4, ports)
    } else if packet.is_piece {
        // How far its end is one piece of it does not say.
        return Err(DropReason::Fragment);
    } else {
        renumber_sctp(tc.skb(), l4, two(packet.sport.to_be(), packet.dport.to_be()), ports, packet.l4_len as u32)
    };
    if done == 0 { Ok(()) } else { Err(DropReason::HelperFailed) }
}

/// 0, or a helper failed. A global function, as [`lower_mss`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn write_ports(skb: *mut __sk_buff, l4: u32, ports: u32) -> i32 {
    Tc::new(TcContext::new(skb)).compose(l4 as u8 as usize, &ports.to_ne_bytes()).is_err() as i32
}

/// 0, or a helper failed. SCTP's checksum covers its ports and all the rest, of which nothing needs to be read (`mesh_common::crc32c`). A global
/// function, as [`lower_mss`].
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn renumber_sctp(skb: *mut __sk_buff, l4: u32, were: u32, ports: u32, len: u32) -> i32 {
    let (tc, l4) = (&Tc::new(TcContext::new(skb)), l4 as u8 as usize);
    // Made linear when it was read.
    let Some([low, high]) = tc.peek::<[u16; 2]>(l4 + 8) else { return 1 };
    let field = two(low, high);
    // 0: a device is to make it, as for most of what a stack of this machine sends; one that is 0 by itself comes once in 2³² packets.
    if field != 0 && tc.compose(l4 + 8, &(field ^ crc32c::change(were ^ ports, len as u16)).to_ne_bytes()).is_err() {
        return 1;
    }
    tc.compose(l4, &ports.to_ne_bytes()).is_err() as i32
}

/// Two words of memory as one.
#[inline(always)]
fn two(first: u16, second: u16) -> u32 {
    let ([a, b], [c, d]) = (first.to_ne_bytes(), second.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// Whether the packet shows that its checksum is finished. An unfinished one is the sum over the pseudo header (RFC 9293, 3.1), and so is
/// by chance one finished checksum in 65,536: of that we say no, and the kernel knows. What is several segments may have been made by anybody's
/// stack, with a length in that sum which is not ours to guess.
#[inline(always)]
fn is_finished<F: Tables>(tc: &Tc, packet: &Packet<F>, field: u16) -> bool {
    let pseudo = F::sum(packet.src) + F::sum(packet.dst) + (packet.protocol as u16).to_be() as u32;
    tc.gso_size() == 0 && field != checksum::fold(pseudo + packet.l4_len.to_be() as u32)
}

/// Lowers the MSS option of a SYN to what fits through the tunnel (RFC 9293, 3.7.1), so that full-size segments need no fragments.
#[inline(always)]
pub fn clamp_mss<F: Tables>(tc: &Tc, packet: &Packet<F>, mss: u16) -> Result<(), DropReason> {
    // Only TCP has flags here.
    if packet.tcp_flags & tcp_flag::SYN == 0 || mss == 0 || lower_mss(tc.skb(), packet.l4 as u32, mss as u32) == 0 {
        Ok(())
    } else {
        Err(DropReason::HelperFailed)
    }
}

/// The same before there is an sk_buff. Fails only past the frame's end, where there is no option.
#[inline(always)]
pub fn clamp_mss_early<F: Tables>(xdp: &Xdp, packet: &Packet<F>, mss: u16) {
    if packet.tcp_flags & tcp_flag::SYN != 0 && mss != 0 {
        let _ = lower_mss_early(xdp, packet.l4, mss);
    }
}

/// 0, or a helper failed. A global function: the verifier judges it once by itself, and not anew wherever it is called, for it has many paths.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn lower_mss(skb: *mut __sk_buff, l4: u32, mss: u32) -> i32 {
    lower(&Tc::new(TcContext::new(skb)), l4 as u8, mss as u16).is_err() as i32
}

/// A real call, for it is rare.
#[inline(never)]
fn lower_mss_early(xdp: &Xdp, l4: u8, mss: u16) -> Result<(), DropReason> {
    lower(xdp, l4, mss)
}

#[inline(always)]
fn lower<P: Rewrite>(tc: &P, l4: u8, mss: u16) -> Result<(), DropReason> {
    let l4 = l4 as usize;
    // Options end where the header does: what follows in a SYN is data (RFC 7413).
    // The rest of the header, its checksum too: the compiler knows that it comes before the options, the verifier does not.
    let Some([words, ..]) = tc.load::<[u8; 8]>(l4 + 12) else { return Ok(()) };
    let end = l4 + (words >> 4) as usize * 4;
    // From the transport header's start; a byte, so that the verifier sees a bound.
    let mut option = 20u8;
    // The MSS option comes first in every stack seen; a few options are enough.
    for _ in 0..6 {
        let at = l4 + option as usize;
        if at + 4 > end {
            return Ok(());
        }
        let Some([kind, len, high, low]) = tc.load::<[u8; 4]>(at) else { return Ok(()) };
        if kind == 0 {
            return Ok(());
        }
        if kind == 1 {
            option = option.wrapping_add(1);
            continue;
        }
        if kind == 2 && len == 4 {
            let old = u16::from_be_bytes([high, low]);
            if old > mss {
                // Behind an odd number of bytes the value lies across two words of the checksum: as such a sum sees it (RFC 1071, 2.B).
                let is_odd = (at - l4) % 2 == 1;
                let (was, is) = if is_odd { (old.swap_bytes(), mss.swap_bytes()) } else { (old, mss) };
                tc.replace_word(l4 + 16, was, is, false)?;
                tc.store(at + 2, &mss.to_be_bytes())?;
            }
            return Ok(());
        }
        if len < 2 {
            return Ok(());
        }
        option = match option.checked_add(len) {
            Some(next) => next,
            None => return Ok(()),
        };
    }
    Ok(())
}
