//! What the world sends: calls to published ports, and answers to tasks that went outside. All else is the host's.

use mesh_common::family::{Family, V4, V6};
use mesh_common::parse::{self, Cursor, ETHERNET_LEN, Form, Packet, protocol};
use mesh_common::schema::{Config, address_flag, deliver as way, frontend_flag, origin, program};
use mesh_common::verdict::{DropReason, Hook};
use mesh_common::wire::outer::{self, Carrier};
use mesh_common::wire::vni;

use crate::hook::{finish, from_overlay};
use crate::maps::Tables;
use crate::outcome::{Code, Stop, encode, go_on};
use crate::packet::tc::{NEXT, Tc};
use crate::stage::arrival::Arrival;
use crate::stage::deliver::{config, deliver, peer_of};
use crate::stage::ingress::{Call, Entry, enter};
use crate::stage::nat::Source;
use crate::stage::owner::WayBack;
use crate::stage::{balance, flow, fragment, nat, watch};

const HOOK: Hook = Hook::FromUplink;

#[inline(always)]
pub fn run(tc: &Tc) -> i32 {
    // Of a VLAN: the device of that VLAN is an uplink of its own and sees it next.
    let (Some(ethertype), false) = (parse::ethertype(tc), tc.has_vlan()) else { return NEXT };
    let Ok(config) = config() else { return NEXT };
    let code = match (unwrap::<V4>(tc, config, ethertype), ethertype) {
        (NOT_A_PEERS, V4::ETHERTYPE) => match walk::<V4>(tc) {
            code if Stop::is_elsewhere(code) => Arrival::FROM_WIRE.go_on::<V4>(tc, code),
            code => code,
        },
        (OTHER_FAMILY, _) | (NOT_A_PEERS, V6::ETHERTYPE) => go_on(tc, program::FROM_UPLINK6),
        (NOT_A_PEERS, _) => NEXT,
        (from, _) => return judge::<V4>(tc, config, from),
    };
    finish(tc, HOOK, code)
}

/// IPv6, or a peer's frame that carries some, as [`run`] has found.
#[inline(always)]
pub fn run6(tc: &Tc) -> i32 {
    let (Some(ethertype), Ok(config)) = (parse::ethertype(tc), config()) else { return NEXT };
    let code = match (unwrap::<V6>(tc, config, ethertype), ethertype) {
        (NOT_A_PEERS | OTHER_FAMILY, V6::ETHERTYPE) => match walk::<V6>(tc) {
            code if Stop::is_elsewhere(code) => Arrival::FROM_WIRE.go_on::<V6>(tc, code),
            code => code,
        },
        (NOT_A_PEERS | OTHER_FAMILY, _) => NEXT,
        (from, _) => return judge::<V6>(tc, config, from),
    };
    finish(tc, HOOK, code)
}

/// What [`unwrap`] says of a frame that it leaves as it is: something else, or mesh0's business …
const NOT_A_PEERS: u64 = 0;
/// … or a peer's whose packet is of the other family. Else the peer's number and the VNI ([`from_overlay::together`]).
const OTHER_FAMILY: u64 = 1;

/// Judges what stands there now, as it would have come out of mesh0.
#[inline(always)]
fn judge<F: Tables>(tc: &Tc, config: &Config, from: u64) -> i32 {
    let (node, id) = from_overlay::apart(from);
    let code = match parse::ethernet(tc) {
        Some(inner) => from_overlay::judge::<F>(tc, &inner, config, &from_overlay::peer(node), id),
        None => encode(Err(Stop::drop(DropReason::Malformed))),
    };
    finish(tc, Hook::FromOverlay, code)
}

/// The fast way in: takes the outer headers off a peer's frame that carries a packet of this family.
#[inline(always)]
fn unwrap<F: Tables>(tc: &Tc, config: &Config, ethertype: u16) -> u64 {
    match ethertype {
        V4::ETHERTYPE => peel::<V4, F>(tc, config).unwrap_or(NOT_A_PEERS),
        V6::ETHERTYPE => peel_ipv6::<F>(tc, config),
        _ => NOT_A_PEERS,
    }
}

/// A real call: the addresses would fill the frame of who goes on.
#[inline(never)]
fn peel_ipv6<F: Tables>(tc: &Tc, config: &Config) -> u64 {
    peel::<V6, F>(tc, config).unwrap_or(NOT_A_PEERS)
}

#[inline(always)]
fn peel<O: Carrier + Tables, F: Tables>(tc: &Tc, config: &Config) -> Option<u64> {
    let src = O::tunnel_source(tc, config)?;
    let way = address_flag::TUNNEL | address_flag::BY_MESH0;
    let peer = O::address(&src).filter(|peer| peer.flags & way == address_flag::TUNNEL)?;
    let (id, words) = (outer::vni::<O>(tc)?, tc.load::<[u16; 7]>(O::OUTER_LEN)?);
    match u16::from_be(words[6]) {
        same if same == F::ETHERTYPE => {}
        V4::ETHERTYPE | V6::ETHERTYPE => return Some(OTHER_FAMILY),
        _ => return None,
    }
    // Of a packet that lacks an IP header the kernel takes nothing away.
    tc.load::<[u16; 1]>(O::OUTER_LEN + ETHERNET_LEN + F::HEADER_LEN - 2)?;
    // Others of its datagram may be fragments outside as well, which mesh0 alone puts together: here it would overtake them.
    let [word] = tc.load(O::OUTER_LEN + ETHERNET_LEN + F::FRAGMENT_OFFSET)?;
    if F::is_fragment(word) {
        return None;
    }
    // A packet of several segments keeps the mark of the tunnel. A device that sends it must not see that, nor a socket of UDP, which cuts what it
    // gets by what the marks say; TCP takes it whole.
    if tc.gso_size() != 0 && (id == vni::REPLY_WIRE || !carries_tcp::<O, F>(tc)) {
        return None;
    }
    let node = peer.node;
    // Where the kernel does not know how, it is mesh0's as well.
    tc.take_outer_room::<O, F>().ok()?;
    tc.store(0, &words).ok()?;
    Some(from_overlay::together(node, id))
}

/// The packet in the tunnel is TCP, right behind its IP header.
#[inline(always)]
fn carries_tcp<O: Carrier, F: Tables>(tc: &Tc) -> bool {
    let number = tc.load::<[u8; 2]>(O::OUTER_LEN + ETHERNET_LEN + F::PROTOCOL_OFFSET);
    number.is_some_and(|[number, _]| number == protocol::TCP)
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
    fragment::arrives(tc, packet, origin::WIRE)?;
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
            if packet.form == Form::Fragment && fragment::is_early(tc, packet, origin::WIRE) != 0 {
                return Err(Stop::UNTIMELY);
            }
            if is_for_tunnel(config, packet) {
                return Err(Stop::PASS);
            }
            if packet.form == Form::IcmpError {
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
