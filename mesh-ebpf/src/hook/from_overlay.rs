//! What peers send: nobody but a peer, and each only for the addresses that live on it.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use mesh_common::ageing;
use mesh_common::family::{Family, V4, V6};
use mesh_common::parse::{self, Cursor, ETHERNET_LEN, ETHERTYPE_ECHO, Ethernet, Form, Packet, tcp_flag};
use mesh_common::schema::{Address, Backend, Config, Echo, Flow, address_flag, endpoint, origin, program};
use mesh_common::verdict::{DropReason, Hook};
use mesh_common::wire::{mac, vni};

use crate::hook::finish;
use crate::maps::{self, ECHOES, Tables};
use crate::outcome::{Code, Stop, encode, go_on};
use crate::packet::tc::{SHOT, Tc};
use crate::packet::tunnel::Tunnel;
use crate::stage::arrival::Arrival;
use crate::stage::deliver::{config, deliver, peer_of, send_tunnel, to_task};
use crate::stage::nat::Source;
use crate::stage::owner::{self, WayBack};
use crate::stage::{again, balance, direct, flow, fragment, nat, reply, too_big, watch};

const HOOK: Hook = Hook::FromOverlay;

#[inline(always)]
pub fn run(tc: &Tc) -> i32 {
    finish(tc, HOOK, encode(arrive::<V4>(tc)))
}

/// IPv6. The tunnel's key is read once more: nothing is handed on but the packet.
#[inline(always)]
pub fn run6(tc: &Tc) -> i32 {
    finish(tc, HOOK, encode(arrive::<V6>(tc)))
}

/// What of it is of this family, and, where that is IPv4, all that is no IPv6.
#[inline(always)]
fn arrive<F: Tables>(tc: &Tc) -> Result<i32, Stop> {
    // Without a key it came through no tunnel: one of ours for the host's stack.
    let (node, id) = match tc.tunnel_source() {
        Tunnel::None => return Err(Stop::PASS),
        Tunnel::From(remote, id) => (number_at::<V4>(&remote), id),
        Tunnel::OverIpv6 => apart(over_ipv6(tc)),
    };
    // mesh0 forwards: what a stranger tunnels must never reach the stack, not even while the node's facts are not there yet.
    let Ok(config) = config() else { return Err(Stop::drop(DropReason::NotConfigured)) };
    if node == 0 {
        return Err(Stop::drop(DropReason::UnknownPeer));
    }
    let peer = &peer(node);
    let Some(eth) = parse::ethernet(tc) else { return Err(Stop::drop(DropReason::Malformed)) };
    if F::ADDR_LEN == 4 && eth.ethertype == ETHERTYPE_ECHO {
        return echo(tc, config, peer, id);
    }
    match eth.ethertype {
        same if same == F::ETHERTYPE => Ok(judge::<F>(tc, &eth, config, peer, id)),
        V6::ETHERTYPE => Ok(go_on(tc, program::FROM_OVERLAY6)),
        _ => Err(Stop::drop(DropReason::Unsupported)),
    }
}

/// The number of the peer with this data path address; 0: nobody.
#[inline(always)]
fn number_at<F: Tables>(addr: &F::Addr) -> u32 {
    F::address(addr).filter(|address| address.flags & address_flag::TUNNEL != 0).map_or(0, |address| address.node)
}

/// The same of a packet that came over IPv6, and its VNI. A real call: that address is of no use to who goes on.
#[inline(never)]
fn over_ipv6(tc: &Tc) -> u64 {
    match tc.tunnel_source6() {
        Some((remote, id)) => together(number_at::<V6>(&remote), id),
        None => 0,
    }
}

/// Bits of a VNI.
const ID_BITS: u32 = 24;

/// A peer's number, which is not 0, and a VNI, in one register.
#[inline(always)]
pub fn together(node: u32, id: u32) -> u64 {
    (node as u64) << ID_BITS | id as u64
}

/// The two of [`together`].
#[inline(always)]
pub fn apart(both: u64) -> (u32, u32) {
    ((both >> ID_BITS) as u32, both as u32 & ((1 << ID_BITS) - 1))
}

/// A peer of this number, as it is handed on: whatever map its address was found in, the verifier goes through what follows once.
#[inline(always)]
pub fn peer(node: u32) -> Address {
    Address { node, ifindex: 0, flags: address_flag::TUNNEL, pad: [0; 3] }
}

/// Judges the packet of a frame that a peer sent, whichever way it came.
#[inline(always)]
pub fn judge<F: Tables>(tc: &Tc, eth: &Ethernet, config: &Config, peer: &Address, id: u32) -> Code {
    match id {
        vni::TURNED_BACK_WIRE | vni::TURNED_BACK_NODE | vni::TURNED_BACK_TASK => again::hand_on(tc, peer.node, id),
        _ => match walk::<F>(tc, eth, config, peer, id) {
            code if Stop::is_elsewhere(code) => Arrival::from_peer(peer.node, id).go_on::<F>(tc, code),
            code => code,
        },
    }
}

#[inline(never)]
fn walk<F: Tables>(tc: &Tc, eth: &Ethernet, config: &Config, peer: &Address, id: u32) -> Code {
    encode(steps::<F>(tc, eth, config, peer, id))
}

#[inline(always)]
fn steps<F: Tables>(tc: &Tc, eth: &Ethernet, config: &Config, peer: &Address, id: u32) -> Result<i32, Stop> {
    let mut room = parse::Room::<F>::uninit();
    let Some(packet) = flow::read(tc, &mut room) else { return Err(Stop::drop(DropReason::Malformed)) };
    fragment::know(tc, packet, origin::peer(peer.node));
    // Who answers sends no larger segments than the path from here takes; the peer does so for ours.
    if packet.tcp_flags & tcp_flag::SYN != 0
        && let Some(path) = maps::peer(peer.node)
    {
        nat::clamp_mss(tc, packet, too_big::mss::<F>(path))?;
    }
    match id {
        vni::REQUEST_WIRE | vni::REQUEST_NODE | vni::SECOND_CHANCE_WIRE | vni::SECOND_CHANCE_NODE => {
            request(tc, eth, config, peer, packet, id)
        }
        vni::REPLY_WIRE | vni::REPLY_NODE if packet.form == Form::IcmpError => Err(Stop::ABOUT),
        vni::REPLY_WIRE => reply::to_wire(tc, eth, config, packet),
        vni::REPLY_NODE => reply::to_node(tc, eth, config, packet),
        vni::INGRESS..=vni::LAST_NETWORK => network(tc, eth, config, peer, packet, id),
        _ => Err(Stop::drop(DropReason::UnknownVni)),
    }
}

/// Reachability: asks and answers between agents, without the agents.
#[inline(always)]
fn echo(tc: &Tc, config: &Config, peer: &Address, id: u32) -> Result<i32, Stop> {
    if id == vni::ECHO {
        let Some(target) = maps::peer(peer.node) else { return Err(Stop::drop(DropReason::NotConfigured)) };
        return send_tunnel(tc, HOOK, config, target, vni::ECHO_REPLY);
    }
    if id != vni::ECHO_REPLY {
        return Err(Stop::drop(DropReason::UnknownVni));
    }
    let Some(sequence) = tc.load::<[u8; 8]>(ETHERNET_LEN) else { return Err(Stop::drop(DropReason::Malformed)) };
    // SAFETY: no arguments.
    let answer = Echo { answered_ns: unsafe { bpf_ktime_get_ns() }, sequence: u64::from_be_bytes(sequence) };
    let _ = ECHOES.insert(peer.node, answer, flow::ANY);
    Ok(SHOT)
}

/// Between tasks of a network.
#[inline(always)]
fn network<F: Tables>(
    tc: &Tc,
    eth: &Ethernet,
    config: &Config,
    peer: &Address,
    packet: &Packet<F>,
    id: u32,
) -> Result<i32, Stop> {
    if let Some(flow) = flow::lookup(packet, tc.len(), origin::peer(peer.node))? {
        return by_flow(tc, config, packet, flow);
    }
    match F::endpoint(&packet.src) {
        Some(source) if source.node == peer.node && source.vni == id && source.kind == endpoint::TASK => {}
        _ => return Err(Stop::drop(DropReason::WrongPeer)),
    }
    if packet.form == Form::IcmpError {
        return Err(Stop::ABOUT);
    }
    match F::endpoint(&packet.dst) {
        Some(target) if target.vni == id && target.ifindex != 0 => {
            direct::keep_clear(packet, target)?;
            watch::direct(tc, config, HOOK, packet, target);
            to_task(tc, HOOK, target.ifindex, target.mac)
        }
        None if eth.src == mac::GATEWAY => {
            again::turn_back(tc, config, peer, packet, vni::TURNED_BACK_TASK, DropReason::NoEndpoint)
        }
        _ => Err(Stop::drop(DropReason::NoEndpoint)),
    }
}

/// A call that entered at the peer, for a task of this node.
#[inline(always)]
fn request<F: Tables>(
    tc: &Tc,
    eth: &Ethernet,
    config: &Config,
    peer: &Address,
    packet: &Packet<F>,
    id: u32,
) -> Result<i32, Stop> {
    let is_named = is_from_wire(id) || matches!(mac::split(eth.src), Some((mac::KIND_HOST | mac::KIND_CLIENT, _)));
    let Some((mac::KIND_ENDPOINT, number)) = mac::split(eth.dst) else {
        return Err(Stop::drop(DropReason::WireFormat));
    };
    if !is_named {
        return Err(Stop::drop(DropReason::WireFormat));
    }
    let flow = match flow::lookup(packet, tc.len(), origin::peer(peer.node))? {
        // The ingress node may choose anew for datagrams; where it names another one for a packet of a connection, it has forgotten whom it had.
        Some(flow) if flow.backend == number || !ageing::has_no_state(packet.protocol) => flow,
        _ => match first::<F>(tc, eth, peer, packet, id) {
            0 => flow::decided::<F>()?,
            code => return Ok(code),
        },
    };
    by_flow(tc, config, packet, flow)
}

/// Rewrites and sends a packet as its flow says.
#[inline(always)]
fn by_flow<F: Tables>(tc: &Tc, config: &Config, packet: &Packet<F>, flow: &Flow<F::Addr>) -> Result<i32, Stop> {
    let to = peer_of(tc, HOOK, packet, flow)?;
    watch::verdict(tc, config, HOOK, packet, flow);
    nat::apply(tc, Source::Wire, packet, flow, &packet.src)?;
    deliver(tc, HOOK, config, flow, to, 0)
}

/// It came in by the peer's wire; else the peer's host or a task of his calls.
#[inline(always)]
fn is_from_wire(id: u32) -> bool {
    id == vni::REQUEST_WIRE || id == vni::SECOND_CHANCE_WIRE
}

/// A call's first packet: its flow stands in the scratch then. A real call: what it needs of the stack is free again when the packet is rewritten.
#[inline(never)]
fn first<F: Tables>(tc: &Tc, eth: &Ethernet, peer: &Address, packet: &Packet<F>, id: u32) -> Code {
    encode(accept::<F>(tc, eth, peer, packet, id))
}

#[inline(always)]
fn accept<F: Tables>(tc: &Tc, eth: &Ethernet, peer: &Address, packet: &Packet<F>, id: u32) -> Result<i32, Stop> {
    let config = config()?;
    let from_wire = is_from_wire(id);
    let Some((_, number)) = mac::split(eth.dst) else { return Err(Stop::drop(DropReason::WireFormat)) };
    if packet.form == Form::Fragment {
        return Err(Stop::drop(DropReason::Fragment));
    }
    let by_host = caller::<F>(peer, packet, from_wire)?;
    if packet.form == Form::IcmpError {
        return Err(Stop::ABOUT);
    }
    let backend = match balance::backend(number) {
        Some(backend) if backend.node == config.node => backend,
        // Who chose it has not heard yet, and chooses again; once.
        _ if id == vni::REQUEST_WIRE || id == vni::REQUEST_NODE => {
            let back = if from_wire { vni::TURNED_BACK_WIRE } else { vni::TURNED_BACK_NODE };
            return again::turn_back(tc, config, peer, packet, back, DropReason::EndpointGone);
        }
        _ => return Err(Stop::drop(DropReason::EndpointGone)),
    };
    let target_port = called_port(packet, backend, by_host)?;
    flow::begins();
    let reply_vni = if from_wire { vni::REPLY_WIRE } else { vni::REPLY_NODE };
    let back = WayBack::to_peer(peer.node, reply_vni, eth.src);
    owner::accept(packet, number, backend, target_port, origin::peer(peer.node), &back, &packet.src)?;
    Ok(0)
}

/// Whether the peer may bring a call from this source: from its wire anybody outside the overlay; else a task of its own; or its host, which has no
/// address that is known as a third node's. True: it is the host.
#[inline(always)]
fn caller<F: Tables>(peer: &Address, packet: &Packet<F>, from_wire: bool) -> Result<bool, Stop> {
    match (F::endpoint(&packet.src), from_wire) {
        (None, true) => return Ok(false),
        (Some(task), false) if task.node == peer.node => return Ok(false),
        // An address of this node's own may be one that each has (docker0's).
        (None, false)
            if F::address(&packet.src)
                .is_none_or(|address| address.node == peer.node || address.flags & address_flag::OWN != 0) =>
        {
            return Ok(true);
        }
        _ => {}
    }
    Err(Stop::drop(DropReason::WrongPeer))
}

/// The port a call means at this backend (0: unchanged), if its service has that frontend. VIPs and tasks themselves are a host's to call this
/// way: a task calls those of its network by that network's VNI, and no others.
#[inline(always)]
fn called_port<F: Tables>(packet: &Packet<F>, backend: &Backend, by_host: bool) -> Result<u16, Stop> {
    if let Some(frontend) = balance::vip::<F>(packet.dst) {
        return if by_host && frontend.pool == backend.pool {
            Ok(0)
        } else {
            Err(Stop::drop(DropReason::NotPublished))
        };
    }
    if F::endpoint(&packet.dst).is_some() {
        let is_named = by_host && packet.dst == F::backend_addr(backend);
        return if is_named { Ok(0) } else { Err(Stop::drop(DropReason::NotPublished)) };
    }
    // Any address of the ingress node will do: only that node knows all of its own.
    match balance::published::<F>(&packet.dst, packet.dport, packet.protocol) {
        Some(frontend) if frontend.pool == backend.pool => Ok(frontend.target_port),
        _ => Err(Stop::drop(DropReason::NotPublished)),
    }
}
