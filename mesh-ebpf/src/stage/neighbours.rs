//! Neighbour discovery (RFC 4861), which is ARP's part over IPv6: every address of the overlay is at the gateway's MAC.
//!
//! Asked before the packet is read as one of IPv6: a link's own chatter comes from addresses that no endpoint has. Must not: pass on anything of it, or
//! answer for an address to anybody but who asked.

use mesh_common::checksum;
use mesh_common::family::{Addr6, Family, V6};
use mesh_common::parse::{self, Cursor, ETHERNET_LEN, protocol};
use mesh_common::schema::endpoint;
use mesh_common::verdict::{DropReason, Hook};
use mesh_common::wire::mac;

use crate::maps::Tables;
use crate::outcome::{Code, Stop, encode};
use crate::packet::tc::{SHOT, Tc};
use crate::stage::answer::reflect;

/// Offset of the IPv6 header's "next header" and hop limit.
const NEXT_HEADER: usize = ETHERNET_LEN + 6;
const BEHIND_IPV6: usize = ETHERNET_LEN + V6::HEADER_LEN;
const HOP_BY_HOP: u8 = 0;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Bytes of an advertisement with its one option, which names the MAC.
const ADVERTISEMENT_LEN: usize = 32;
/// "Solicited", "override" (RFC 4861, 4.4).
const SOLICITED: u8 = 0x60;

/// What keeps IPv6 going on a link: of a packet that is of this kind what becomes of it, else None.
///
/// Neighbour solicitations are answered (RFC 4861): every address is at the gateway's MAC. Whether an address is free is not asked of us (RFC 4862:
/// from ::), nor do we advertise a router or have groups: those, and neighbours' advertisements, end here without a word. A router's own
/// (advertisements, redirects) are nobody's business.
#[inline(always)]
pub fn link<F: Tables<Addr = Addr6>>(tc: &Tc) -> Option<Code> {
    let [next, hops]: [u8; 2] = tc.load(NEXT_HEADER)?;
    if next == HOP_BY_HOP {
        // A report says which groups somebody listens to, behind a router alert (RFC 3810).
        let [next, _]: [u8; 2] = tc.load(BEHIND_IPV6)?;
        let [kind, _]: [u8; 2] = tc.load(BEHIND_IPV6 + 8)?;
        return if next == protocol::ICMPV6 && matches!(kind, 130..=132 | 143) { Some(SHOT) } else { None };
    }
    if next != protocol::ICMPV6 {
        return None;
    }
    match tc.load::<[u8; 2]>(BEHIND_IPV6)? {
        [SOLICITATION, 0] if hops == 255 => Some(solicited::<F>(tc)),
        [SOLICITATION, _] => Some(encode(Err(Stop::drop(DropReason::Malformed)))),
        [130..=133 | ADVERTISEMENT | 143, _] => Some(SHOT),
        [134 | 137, _] => Some(encode(Err(Stop::drop(DropReason::Unsupported)))),
        _ => None,
    }
}

#[inline(never)]
fn solicited<F: Tables<Addr = Addr6>>(tc: &Tc) -> Code {
    encode(answer_solicitation::<F>(tc))
}

#[inline(always)]
fn answer_solicitation<F: Tables<Addr = Addr6>>(tc: &Tc) -> Result<i32, Stop> {
    const MALFORMED: Stop = Stop::drop(DropReason::Malformed);
    let Some(eth) = parse::ethernet(tc) else { return Err(MALFORMED) };
    let Some(src) = tc.load::<[u8; 16]>(ETHERNET_LEN + 8) else { return Err(MALFORMED) };
    let Some(target) = tc.load::<[u8; 16]>(BEHIND_IPV6 + 8) else { return Err(MALFORMED) };
    let sender = Addr6::from(src);
    if sender == Addr6::default() || src == target {
        return Ok(SHOT);
    }
    // An option that names the sender's MAC comes first if there is one.
    if let Some([1, 1, a, b, c, d, e, f]) = tc.load::<[u8; 8]>(BEHIND_IPV6 + 24)
        && [a, b, c, d, e, f] != eth.src
    {
        return Err(Stop::drop(DropReason::SpoofedMac));
    }
    // The stack asks again whether a neighbour is still there by its link's own address, which is nobody's else: the answer goes nowhere but back.
    if !F::is_link_local(sender) {
        match F::endpoint(&sender) {
            Some(own) if own.kind == endpoint::TASK && own.ifindex == tc.ifindex() => {
                if own.mac != eth.src {
                    return Err(Stop::drop(DropReason::SpoofedMac));
                }
            }
            _ => return Err(Stop::drop(DropReason::SpoofedSource)),
        }
    }
    tc.resize((BEHIND_IPV6 + ADVERTISEMENT_LEN) as u32)?;
    tc.set_macs(eth.src, mac::GATEWAY)?;
    tc.compose(ETHERNET_LEN, &[0x60, 0, 0, 0, 0, ADVERTISEMENT_LEN as u8, protocol::ICMPV6, 255])?;
    tc.compose(ETHERNET_LEN + 8, &target)?;
    tc.compose(ETHERNET_LEN + 24, &src)?;
    let g = mac::GATEWAY;
    let (mut head, option) = ([ADVERTISEMENT, 0, 0, 0, SOLICITED, 0, 0, 0], [2, 1, g[0], g[1], g[2], g[3], g[4], g[5]]);
    // The pseudo header's source is the target, which the message names too.
    let addresses = F::sum(target.into()) + F::sum(target.into()) + F::sum(sender);
    let pseudo = addresses + (ADVERTISEMENT_LEN as u16).to_be() as u32 + (protocol::ICMPV6 as u16).to_be() as u32;
    let bytes = |sum: u32, [a, b, c, d, e, f, g, h]: [u8; 8]| {
        checksum::sum(sum, &[[a, b], [c, d], [e, f], [g, h]].map(u16::from_ne_bytes))
    };
    let field = checksum::finish(bytes(bytes(pseudo, head), option)).to_ne_bytes();
    (head[2], head[3]) = (field[0], field[1]);
    tc.compose(BEHIND_IPV6, &head)?;
    tc.compose(BEHIND_IPV6 + 8, &target)?;
    tc.compose(BEHIND_IPV6 + 24, &option)?;
    Ok(reflect(tc, Hook::FromTask))
}
