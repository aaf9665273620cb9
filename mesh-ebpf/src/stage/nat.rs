//! Rewrites addresses and ports as a flow says, with checksums by the kernel's helpers.
//!
//! The pseudo header covers addresses only, so an address is one helper call and a port another. A zero UDP checksum stays zero.

use mesh_common::parse::{Cursor, ETHERNET_LEN, Form, Packet, protocol, tcp_flag, words_of_4};
use mesh_common::schema::{Flow, flow_flag, rewrite};
use mesh_common::verdict::DropReason;

use crate::maps::Tables;
use crate::packet::Rewrite;
use crate::packet::tc::Tc;

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

/// Replaces one address, at `offset` in the frame.
#[inline(always)]
fn address<F: Tables>(
    tc: &Tc,
    packet: &Packet<F>,
    offset: usize,
    old: F::Addr,
    new: F::Addr,
) -> Result<(), DropReason> {
    if old == new {
        return Ok(());
    }
    let difference = F::difference(old, new);
    if packet.form != Form::Fragment
        && let Some(at) = checksum_offset(packet)
    {
        tc.replace_pseudo(at, difference, packet.protocol == protocol::UDP)?;
    }
    if let Some(at) = F::HEADER_CHECKSUM_OFFSET {
        tc.replace_header(ETHERNET_LEN + at, difference)?;
    }
    store_addr::<F>(tc, offset, new)
}

#[inline(always)]
fn store_addr<F: Tables>(tc: &Tc, offset: usize, addr: F::Addr) -> Result<(), DropReason> {
    let b = F::to_16(addr);
    if F::ADDR_LEN == 4 { tc.store(offset, &words_of_4([b[12], b[13], b[14], b[15]])) } else { tc.store(offset, &b) }
}

/// Replaces the source or destination port; an echo's identifier is the source port of a request and the destination port of a reply.
///
/// 0 keeps a port. It is a valid identifier though: `is_exact` says that `new` is meant as it is.
#[inline(always)]
fn port<F: Tables>(tc: &Tc, packet: &Packet<F>, is_source: bool, new: u16, is_exact: bool) -> Result<(), DropReason> {
    let old = if is_source { packet.sport } else { packet.dport };
    let l4 = packet.l4 as usize;
    match packet.form {
        Form::Ports if new != 0 && new != old => {
            let field = if is_source { l4 } else { l4 + 2 };
            let is_udp = packet.protocol == protocol::UDP;
            match checksum_offset(packet) {
                // A datagram without checksum, where nothing in the packet makes up for the change.
                Some(at) if is_udp && matches!(tc.load::<[u8; 2]>(at), Some([0, 0])) => {}
                Some(at) => {
                    tc.replace_word(at, old, new, is_udp)?;
                    return tc.store(field, &[new.to_be()]);
                }
                None => {}
            }
            tc.compose(field, &new.to_be_bytes())
        }
        Form::EchoRequest | Form::EchoReply
            if is_exact && new != old && is_source == (packet.form == Form::EchoRequest) =>
        {
            tc.replace_word(l4 + 2, old, new, false)?;
            tc.store(l4 + 4, &new.to_be_bytes())
        }
        _ => Ok(()),
    }
}

/// Rewrites a packet as its flow says. `gateway` is the source that a task sees when it reaches itself.
#[inline(always)]
pub fn apply<F: Tables>(
    tc: &Tc,
    packet: &Packet<F>,
    flow: &Flow<F::Addr>,
    gateway: &F::Addr,
) -> Result<(), DropReason> {
    let (src_at, dst_at) = (ETHERNET_LEN + F::SRC_OFFSET, ETHERNET_LEN + F::SRC_OFFSET + F::ADDR_LEN);
    if flow.rewrite == rewrite::DESTINATION {
        address(tc, packet, dst_at, packet.dst, flow.addr)?;
        port(tc, packet, false, flow.port, true)?;
        port(tc, packet, true, flow.other_port, false)?;
        if flow.flags & flow_flag::HAIRPIN != 0 {
            address(tc, packet, src_at, packet.src, *gateway)?;
        }
    } else if flow.rewrite == rewrite::SOURCE {
        address(tc, packet, src_at, packet.src, flow.addr)?;
        port(tc, packet, true, flow.port, true)?;
        port(tc, packet, false, flow.other_port, false)?;
        if flow.flags & flow_flag::HAIRPIN != 0 {
            // The reply goes to the task that called itself: the sender.
            address(tc, packet, dst_at, packet.dst, packet.src)?;
        }
    }
    Ok(())
}

/// Lowers the MSS option of a SYN to what fits through the tunnel (RFC 9293, 3.7.1), so that full-size segments need no fragments.
#[inline(always)]
pub fn clamp_mss<F: Tables, P: Rewrite>(tc: &P, packet: &Packet<F>, mss: u16) -> Result<(), DropReason> {
    // Only TCP has flags here.
    if packet.tcp_flags & tcp_flag::SYN == 0 || mss == 0 { Ok(()) } else { lower_mss(tc, packet.l4, mss) }
}

/// A real call, for it is rare.
#[inline(never)]
fn lower_mss<P: Rewrite>(tc: &P, l4: u8, mss: u16) -> Result<(), DropReason> {
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
