//! What the world sends: calls to published ports, and answers to tasks that went outside. All else is the host's.

use mesh_common::family::{Addr4, Family, V4, V6};
use mesh_common::parse::{self, Cursor, ETHERNET_LEN, Ethernet, Form, Packet, protocol};
use mesh_common::schema::{Address, Config, address_flag, deliver as way, frontend_flag, origin};
use mesh_common::verdict::{DropReason, Hook};
use mesh_common::wire::{outer, vni};

use crate::hook::{Code, Stop, encode, finish, from_overlay};
use crate::maps::{CONFIG, Maps, Tables};
use crate::packet::tc::{NEXT, Tc};
use crate::stage::deliver::{config, deliver, peer_of};
use crate::stage::icmp::Arrival;
use crate::stage::ingress::{Call, Entry, enter};
use crate::stage::nat::Source;
use crate::stage::owner::WayBack;
use crate::stage::{balance, flow, fragment, icmp, nat, watch};

const HOOK: Hook = Hook::FromUplink;

#[inline(always)]
pub fn run(tc: &Tc) -> i32 {
    let code = match parse::ethertype(tc) {
        // Of a VLAN: the device of that VLAN is an uplink of its own and sees it next.
        Some(_) if tc.has_vlan() => NEXT,
        Some(V4::ETHERTYPE) => match unwrap(tc) {
            Ok(Some((inner, config, peer, id))) => {
                let code = from_overlay::judge::<V4>(tc, &inner, config, peer, id);
                return finish(tc, Hook::FromOverlay, code);
            }
            Ok(None) => match walk::<V4>(tc) {
                code if Stop::is_about(code) => icmp::carry(tc, &Arrival::FROM_WIRE),
                code => code,
            },
            Err(stop) => encode(Err(stop)),
        },
        Some(V6::ETHERTYPE) => walk::<V6>(tc),
        _ => NEXT,
    };
    finish(tc, HOOK, code)
}

/// The fast way in: takes the outer headers off a peer's frame, so that it stands there as mesh0 would have it. None: it is something else, or
/// mesh0's business.
#[inline(always)]
fn unwrap(tc: &Tc) -> Result<Option<(Ethernet, &'static Config, &'static Address, u32)>, Stop> {
    let Some(config) = CONFIG.get(0).filter(|config| config.mesh0 != 0) else { return Ok(None) };
    let Some(ip) = tc.load::<[u16; 10]>(ETHERNET_LEN) else { return Ok(None) };
    let [version_tos, ttl_protocol] = [ip[0], ip[4]].map(u16::to_ne_bytes);
    let is_tunnel = version_tos[0] == 0x45
        && ttl_protocol[1] == protocol::UDP
        && Addr4::of_words([ip[8], ip[9]]).word() == config.tunnel_addr4_word()
        && tc.load(ETHERNET_LEN + 20).is_some_and(|[_, dport]: [u16; 2]| u16::from_be(dport) == config.data_port);
    // A fragment is not the whole frame; and what was congested on the way must say so inside (RFC 6040, 4.2).
    let is_plain = u16::from_be(ip[3]) & 0x3fff == 0 && version_tos[1] & 3 != 3;
    if !is_tunnel || !is_plain {
        return Ok(None);
    }
    let peer = match V4::address(&Addr4::of_words([ip[6], ip[7]])) {
        Some(address) if address.flags & (address_flag::TUNNEL | address_flag::BY_MESH0) == address_flag::TUNNEL => {
            address
        }
        _ => return Ok(None),
    };
    let (Some(id), Some(words)) = (outer::vni(tc), tc.load::<[u16; 7]>(outer::LEN)) else { return Ok(None) };
    // Of a packet that lacks an IP header the kernel takes nothing away.
    if tc.load::<[u16; 1]>(outer::LEN + ETHERNET_LEN + V4::HEADER_LEN - 2).is_none() {
        return Ok(None);
    }
    // A packet of several segments keeps the mark of the tunnel. A device that sends it must not see that, nor a socket of UDP, which cuts what it
    // gets by what the marks say; TCP takes it whole.
    let is_several = tc.gso_size() != 0;
    if words[6] != V4::ETHERTYPE.to_be() || (is_several && (id == vni::REPLY_WIRE || !carries_tcp(tc))) {
        return Ok(None);
    }
    tc.take_outer_room()?;
    tc.store(0, &words)?;
    match parse::ethernet(tc) {
        Some(inner) => Ok(Some((inner, config, peer, id))),
        None => Err(Stop::drop(DropReason::Malformed)),
    }
}

/// The packet in the tunnel is TCP over IPv4.
#[inline(always)]
fn carries_tcp(tc: &Tc) -> bool {
    const TTL_AND_PROTOCOL: usize = outer::LEN + ETHERNET_LEN + 8;
    tc.load::<[u16; 1]>(TTL_AND_PROTOCOL).is_some_and(|[word]| word.to_ne_bytes()[1] == protocol::TCP)
}

/// It means the data port of whoever has its destination.
#[inline(always)]
fn is_for_tunnel<F: Tables>(config: &Config, packet: &Packet<F>) -> bool {
    packet.protocol == protocol::UDP && packet.dport == config.data_port
}

#[inline(never)]
fn walk<F: Tables>(tc: &Tc) -> Code {
    encode(steps::<F>(tc))
}

#[inline(always)]
fn steps<F: Tables>(tc: &Tc) -> Result<i32, Stop> {
    let config = config()?;
    // What can't be read is the stack's to judge.
    let mut room = parse::Room::<F>::uninit();
    let Some(packet) = flow::read(tc, &mut room) else { return Err(Stop::PASS) };
    fragment::know(tc, packet, origin::WIRE);
    let flow = match flow::lookup(packet, tc.len(), origin::WIRE)? {
        Some(flow) => flow,
        None => {
            match F::address(&packet.dst) {
                Some(address) if address.flags & address_flag::OWN != 0 => {}
                // Nobody outside has business with the overlay's addresses.
                _ if F::endpoint(&packet.dst).is_some() || balance::vip::<F>(packet.dst).is_some() => {
                    return Err(Stop::drop(DropReason::FromOutside));
                }
                // Forwarded by this host, and behind its masquerade, a frame of a container would be this node's own to that peer.
                Some(address) if address.flags & address_flag::TUNNEL != 0 && is_for_tunnel(config, packet) => {
                    return match F::address(&packet.src) {
                        Some(source) if source.flags & address_flag::TUNNEL != 0 => Err(Stop::PASS),
                        _ => Err(Stop::drop(DropReason::DataPort)),
                    };
                }
                _ => return Err(Stop::PASS),
            }
            if is_for_tunnel(config, packet) {
                return Err(Stop::PASS);
            }
            if Stop::knows_about::<F>() && packet.form == Form::IcmpError {
                return Err(Stop::ABOUT);
            }
            if packet.form != Form::Ports {
                return Err(Stop::PASS);
            }
            let Some(frontend) = balance::published::<F>(&packet.dst, packet.dport, packet.protocol) else {
                return Err(Stop::PASS);
            };
            if frontend.flags & frontend_flag::NOT_TAKEN != 0 {
                return Err(Stop::PASS);
            }
            let Some(eth) = parse::ethernet(tc) else { return Err(Stop::PASS) };
            let back = WayBack { deliver: way::UPLINK, ifindex: tc.ifindex(), node: 0, vni: 0, mac: eth.src };
            let call = Call {
                entry: Entry::Wire,
                from: origin::WIRE,
                target_port: frontend.target_port,
                node: config.node,
                back,
                gateway: F::Addr::default(),
                gone: 0,
            };
            let code = enter(packet, frontend, &call);
            if code != 0 {
                return Ok(code);
            }
            flow::decided::<F>()?
        }
    };
    nat::clamp_mss(tc, packet, F::mss(config))?;
    let to = peer_of(tc, HOOK, packet, flow)?;
    watch::verdict(tc, config, HOOK, packet, flow);
    nat::apply(tc, Source::Wire, packet, flow, &packet.src)?;
    deliver(tc, HOOK, config, flow, to, 0)
}
