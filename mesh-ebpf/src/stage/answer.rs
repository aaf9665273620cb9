//! Answers that no stack gives: ARP for every address of the overlay, echo for VIPs and gateways.

use mesh_common::family::Addr4;
use mesh_common::parse::{self, Cursor, ETHERNET_LEN, Ethernet, Form, Packet};
use mesh_common::schema::endpoint;
use mesh_common::verdict::{DropReason, Hook};
use mesh_common::wire::mac;

use crate::maps::{CONFIG, Tables};
use crate::outcome::{Code, Stop, encode};
use crate::packet::tc::{SHOT, Tc};

/// Sends the frame back to where it came from.
#[inline(always)]
pub fn reflect(tc: &Tc, hook: Hook) -> i32 {
    match (hook as u8 == Hook::FromHost as u8, CONFIG.get(0)) {
        (true, Some(config)) => tc.redirect_ingress(config.mesh0),
        _ => tc.redirect(tc.ifindex()),
    }
}

/// ARP from a task (RFC 826): every address is at the gateway's MAC. Requests for itself (RFC 5227) and replies get no answer.
#[inline(never)]
pub fn arp<F: Tables<Addr = Addr4>>(tc: &Tc) -> Code {
    encode(answer_arp::<F>(tc))
}

#[inline(always)]
fn answer_arp<F: Tables<Addr = Addr4>>(tc: &Tc) -> Result<i32, Stop> {
    let Some(eth) = parse::ethernet(tc) else { return Err(Stop::drop(DropReason::Malformed)) };
    let Some(b) = tc.load::<[u8; 28]>(ETHERNET_LEN) else { return Err(Stop::drop(DropReason::Malformed)) };
    // Ethernet, IPv4, six and four bytes, request or reply.
    if b[0] != 0 || b[1] != 1 || b[2] != 8 || b[3] != 0 || b[4] != 6 || b[5] != 4 || b[6] != 0 {
        return Err(Stop::drop(DropReason::Malformed));
    }
    let sender_mac = [b[8], b[9], b[10], b[11], b[12], b[13]];
    let sender = [b[14], b[15], b[16], b[17]];
    let target = [b[24], b[25], b[26], b[27]];
    if b[7] != 1 || sender == target || sender == [0; 4] {
        return Ok(SHOT);
    }
    match F::endpoint(&sender.into()) {
        Some(own) if own.kind == endpoint::TASK && own.ifindex == tc.ifindex() => {
            if own.mac != eth.src || own.mac != sender_mac {
                return Err(Stop::drop(DropReason::SpoofedMac));
            }
        }
        _ => return Err(Stop::drop(DropReason::SpoofedSource)),
    }
    let g = mac::GATEWAY;
    let (m, s, t) = (sender_mac, sender, target);
    let reply = [
        0, 1, 8, 0, 6, 4, 0, 2, g[0], g[1], g[2], g[3], g[4], g[5], t[0], t[1], t[2], t[3], m[0], m[1], m[2], m[3],
        m[4], m[5], s[0], s[1], s[2], s[3],
    ];
    tc.set_macs(sender_mac, g)?;
    tc.compose(ETHERNET_LEN, &reply)?;
    Ok(reflect(tc, Hook::FromTask))
}

/// Echo reply (RFC 792, RFC 4443) in place: addresses swapped, type changed, checksum kept true.
#[inline(never)]
pub fn echo<F: Tables>(tc: &Tc, hook: Hook, eth: &Ethernet, packet: &Packet<F>) -> Code {
    encode(answer_echo(tc, hook, eth, packet))
}

#[inline(always)]
fn answer_echo<F: Tables>(tc: &Tc, hook: Hook, eth: &Ethernet, packet: &Packet<F>) -> Result<i32, Stop> {
    let (src, dst) = (F::to_16(packet.dst), F::to_16(packet.src));
    let at = ETHERNET_LEN + F::SRC_OFFSET;
    if F::ADDR_LEN == 4 {
        tc.store(at, &[src[12], src[13], src[14], src[15], dst[12], dst[13], dst[14], dst[15]])?;
    } else {
        tc.store(at, &src)?;
        tc.store(at + 16, &dst)?;
    }
    // A later fragment has no type: the first one's change makes it an answer, too.
    if packet.form != Form::Fragment {
        let l4 = packet.l4 as usize;
        tc.replace_word(l4 + 2, (F::ECHO_REQUEST as u16) << 8, (F::ECHO_REPLY as u16) << 8, false)?;
        let Some([_, code]) = tc.load::<[u8; 2]>(l4) else { return Err(Stop::drop(DropReason::Malformed)) };
        tc.store(l4, &[F::ECHO_REPLY, code])?;
    }
    tc.set_macs(eth.src, eth.dst)?;
    Ok(reflect(tc, hook))
}
