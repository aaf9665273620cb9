//! What peers send: nobody but a peer, and each only for the addresses that live on it.

use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use mesh_common::family::{Family, V4, V6};
use mesh_common::parse::{self, Cursor, ETHERNET_LEN, ETHERTYPE_ECHO, Ethernet, Form, Packet, tcp_flag};
use mesh_common::schema::{Address, Backend, Config, Echo, address_flag, deliver as way, endpoint, origin};
use mesh_common::verdict::{DropReason, Hook};
use mesh_common::wire::{mac, vni};

use crate::hook::{Code, Stop, encode, finish};
use crate::maps::{self, ECHOES, Maps, Tables};
use crate::packet::tc::{SHOT, Tc, Tunnel};
use crate::stage::deliver::{config, deliver, peer_of, send_tunnel, to_task};
use crate::stage::icmp::Arrival;
use crate::stage::nat::Source;
use crate::stage::owner::{self, WayBack};
use crate::stage::{again, balance, flow, fragment, icmp, nat, reply, too_big, watch};

const HOOK: Hook = Hook::FromOverlay;

#[inline(always)]
pub fn run(tc: &Tc) -> i32 {
    finish(tc, HOOK, encode(arrive(tc)))
}

#[inline(always)]
fn arrive(tc: &Tc) -> Result<i32, Stop> {
    // Without a key it came through no tunnel: one of ours for the host's stack.
    let (remote, id) = match tc.tunnel_source() {
        Tunnel::None => return Err(Stop::PASS),
        Tunnel::Stranger => return Err(Stop::drop(DropReason::UnknownPeer)),
        Tunnel::From(remote, id) => (remote, id),
    };
    // mesh0 forwards: what a stranger tunnels must never reach the stack, not even while the node's facts are not there yet.
    let Ok(config) = config() else { return Err(Stop::drop(DropReason::NotConfigured)) };
    let peer = match V4::address(&remote) {
        Some(address) if address.flags & address_flag::TUNNEL != 0 => address,
        _ => return Err(Stop::drop(DropReason::UnknownPeer)),
    };
    let Some(eth) = parse::ethernet(tc) else { return Err(Stop::drop(DropReason::Malformed)) };
    if eth.ethertype == ETHERTYPE_ECHO {
        return echo(tc, config, peer, id);
    }
    match eth.ethertype {
        V4::ETHERTYPE => Ok(judge::<V4>(tc, &eth, config, peer, id)),
        V6::ETHERTYPE => Ok(judge::<V6>(tc, &eth, config, peer, id)),
        _ => Err(Stop::drop(DropReason::Unsupported)),
    }
}

/// Judges the packet of a frame that a peer sent, whichever way it came.
#[inline(always)]
pub fn judge<F: Tables>(tc: &Tc, eth: &Ethernet, config: &Config, peer: &Address, id: u32) -> Code {
    // Not by way of walk: three calls deep with their buffers, they would not fit the stack.
    match id {
        vni::TURNED_BACK_WIRE | vni::TURNED_BACK_NODE => {
            again::call_of::<F>(tc, eth, config, peer, id == vni::TURNED_BACK_WIRE)
        }
        vni::TURNED_BACK_TASK => again::call_of_vip::<F>(tc, eth, config, peer),
        _ => match walk::<F>(tc, eth, config, peer, id) {
            code if Stop::is_about(code) => icmp::carry(tc, &Arrival::from_peer(peer.node, id)),
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
        vni::REPLY_WIRE | vni::REPLY_NODE if Stop::knows_about::<F>() && packet.form == Form::IcmpError => {
            Err(Stop::ABOUT)
        }
        vni::REPLY_WIRE => reply::to_wire(tc, eth, packet),
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
        return send_tunnel(tc, HOOK, config, target.addr, vni::ECHO_REPLY);
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
        let to = peer_of(tc, HOOK, packet, flow)?;
        watch::verdict(tc, config, HOOK, packet, flow);
        nat::apply(tc, Source::Wire, packet, flow, &packet.src)?;
        return deliver(tc, HOOK, config, flow, to, 0);
    }
    match F::endpoint(&packet.src) {
        Some(source) if source.node == peer.node && source.vni == id && source.kind == endpoint::TASK => {}
        _ => return Err(Stop::drop(DropReason::WrongPeer)),
    }
    if Stop::knows_about::<F>() && packet.form == Form::IcmpError {
        return Err(Stop::ABOUT);
    }
    match F::endpoint(&packet.dst) {
        Some(target) if target.vni == id && target.ifindex != 0 => {
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
    let names_task = matches!(mac::split(eth.dst), Some((mac::KIND_ENDPOINT, _)));
    if !is_named || !names_task {
        return Err(Stop::drop(DropReason::WireFormat));
    }
    let flow = match flow::lookup(packet, tc.len(), origin::peer(peer.node))? {
        Some(flow) => flow,
        None => match first::<F>(tc, eth, peer, packet, id) {
            0 => flow::decided::<F>()?,
            code => return Ok(code),
        },
    };
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
    source_belongs::<F>(peer, packet, from_wire)?;
    if Stop::knows_about::<F>() && packet.form == Form::IcmpError {
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
    let target_port = called_port(packet, backend, from_wire)?;
    flow::begins();
    let reply_vni = if from_wire { vni::REPLY_WIRE } else { vni::REPLY_NODE };
    let back = WayBack { deliver: way::TUNNEL, ifindex: 0, node: peer.node, vni: reply_vni, mac: eth.src };
    owner::accept(packet, number, backend, target_port, origin::peer(peer.node), &back, &packet.src)?;
    Ok(0)
}

/// Whether the peer may bring a call from this source: its own host or tasks, or somebody outside the overlay.
#[inline(always)]
fn source_belongs<F: Tables>(peer: &Address, packet: &Packet<F>, from_wire: bool) -> Result<(), Stop> {
    let node = F::endpoint(&packet.src).map(|endpoint| endpoint.node);
    let belongs = if from_wire { node.is_none() } else { node.is_none_or(|node| node == peer.node) };
    if belongs { Ok(()) } else { Err(Stop::drop(DropReason::WrongPeer)) }
}

/// The port a call means at this backend (0: unchanged), if its service has that frontend.
#[inline(always)]
fn called_port<F: Tables>(packet: &Packet<F>, backend: &Backend, from_wire: bool) -> Result<u16, Stop> {
    if let Some(frontend) = balance::vip::<F>(packet.dst) {
        return if !from_wire && frontend.pool == backend.pool {
            Ok(0)
        } else {
            Err(Stop::drop(DropReason::NotPublished))
        };
    }
    if F::endpoint(&packet.dst).is_some() {
        let is_named = !from_wire && packet.dst == F::backend_addr(backend);
        return if is_named { Ok(0) } else { Err(Stop::drop(DropReason::NotPublished)) };
    }
    // Any address of the ingress node will do: only that node knows all of its own.
    match balance::published::<F>(&packet.dst, packet.dport, packet.protocol) {
        Some(frontend) if frontend.pool == backend.pool => Ok(frontend.target_port),
        _ => Err(Stop::drop(DropReason::NotPublished)),
    }
}
