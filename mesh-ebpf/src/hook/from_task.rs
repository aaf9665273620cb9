//! What a task sends: it is held to its own addresses, then served, balanced, delivered, or let out.

use mesh_common::family::{Family, V4, V6};
use mesh_common::parse::{self, ETHERTYPE_ARP, Ethernet, Form, Packet, protocol};
use mesh_common::schema::{
    Config, Endpoint, Flow, address_flag, deliver as way, endpoint, endpoint_flag, flow_flag, frontend_flag, program,
};
use mesh_common::verdict::{DropReason, Hook};
use mesh_common::wire::mac;

use crate::hook::finish;
use crate::maps::Tables;
use crate::outcome::{Code, Stop, encode, go_on};
use crate::packet::tc::Tc;
use crate::stage::arrival::Arrival;
use crate::stage::deliver::{config, deliver, peer_of, target as tunnel_to, to_host, to_peer, to_task};
use crate::stage::ingress::{Call, Entry, enter};
use crate::stage::nat::Source;
use crate::stage::owner::WayBack;
use crate::stage::{answer, balance, direct, flow, fragment, nat, neighbours, outside, vip, watch};

const HOOK: Hook = Hook::FromTask;

#[inline(always)]
pub fn run(tc: &Tc) -> i32 {
    let code = match parse::ethertype(tc) {
        // The kernel keeps the tag beside the packet, and would put it on again where the packet leaves.
        Some(_) if tc.has_vlan() => encode(Err(Stop::drop(DropReason::Unsupported))),
        Some(V4::ETHERTYPE) => judge::<V4>(tc),
        Some(ETHERTYPE_ARP) => answer::arp::<V4>(tc),
        Some(V6::ETHERTYPE) => go_on(tc, program::FROM_TASK6),
        Some(_) => encode(Err(Stop::drop(DropReason::Unsupported))),
        None => encode(Err(Stop::drop(DropReason::Malformed))),
    };
    finish(tc, HOOK, code)
}

/// IPv6, as [`run`] has found.
#[inline(always)]
pub fn run6(tc: &Tc) -> i32 {
    let code = match neighbours::link::<V6>(tc) {
        Some(code) => code,
        None => judge::<V6>(tc),
    };
    finish(tc, HOOK, code)
}

/// What becomes of a packet without a flow.
enum Decision<A: 'static> {
    /// A flow, new and remembered: rewrite and deliver by it.
    Flow(&'static Flow<A>),
    /// Sent already, or judged: nothing to remember.
    Sent(i32),
}

/// What a flow needs to know of the task that sent a packet.
struct Caller<A> {
    number: u32,
    gateway: A,
}

impl<A: Copy> Caller<A> {
    #[inline(always)]
    fn of(source: &Endpoint<A>) -> Self {
        Caller { number: source.number, gateway: source.gateway }
    }
}

#[inline(always)]
fn judge<F: Tables>(tc: &Tc) -> Code {
    match walk::<F>(tc) {
        code if Stop::is_elsewhere(code) => Arrival::from_task(tc.ifindex()).go_on::<F>(tc, code),
        code => code,
    }
}

#[inline(never)]
fn walk<F: Tables>(tc: &Tc) -> Code {
    encode(steps::<F>(tc))
}

#[inline(always)]
fn steps<F: Tables>(tc: &Tc) -> Result<i32, Stop> {
    let Ok(config) = config() else { return Err(Stop::drop(DropReason::NotConfigured)) };
    let mut room = parse::Room::<F>::uninit();
    let Some(packet) = flow::read(tc, &mut room) else { return Err(Stop::drop(DropReason::Malformed)) };
    let from = tc.ifindex();
    fragment::arrives(tc, packet, from)?;
    let mut caller = Caller { number: 0, gateway: packet.src };
    let flow = match flow::lookup(packet, tc.len(), from)? {
        Some(flow) => {
            // Its link has proven who it is; the rest is asked for only where it matters.
            if flow.flags & (flow_flag::HAIRPIN | flow_flag::FROM_CLIENT) != 0 {
                caller = Caller::of(sender(tc, &macs(tc)?, packet)?);
            }
            flow
        }
        None => {
            let eth = macs(tc)?;
            let source = sender(tc, &eth, packet)?;
            caller = Caller::of(source);
            match decide(tc, &eth, config, packet, source)? {
                Decision::Flow(flow) => flow,
                Decision::Sent(action) => return Ok(action),
            }
        }
    };
    if flow.deliver == way::OUTSIDE {
        outside::hop::<F>(tc)?;
    }
    let to = peer_of(tc, HOOK, packet, flow)?;
    watch::verdict(tc, config, HOOK, packet, flow);
    nat::apply(tc, Source::Stack, packet, flow, &caller.gateway)?;
    deliver(tc, HOOK, config, flow, to, caller.number)
}

/// The frame's MAC addresses: read where they are asked for, which is not once a flow is known.
#[inline(always)]
fn macs(tc: &Tc) -> Result<Ethernet, Stop> {
    parse::ethernet(tc).ok_or(Stop::drop(DropReason::Malformed))
}

/// The sending task, if the packet's source is really its own.
#[inline(always)]
fn sender<F: Tables>(tc: &Tc, eth: &Ethernet, packet: &Packet<F>) -> Result<&'static Endpoint<F::Addr>, Stop> {
    match F::endpoint(&packet.src) {
        Some(source) if source.kind == endpoint::TASK && source.ifindex == tc.ifindex() => {
            if source.mac == eth.src {
                Ok(source)
            } else {
                Err(Stop::drop(DropReason::SpoofedMac))
            }
        }
        _ => Err(Stop::drop(DropReason::SpoofedSource)),
    }
}

#[inline(always)]
fn decide<F: Tables>(
    tc: &Tc,
    eth: &Ethernet,
    config: &Config,
    packet: &Packet<F>,
    source: &Endpoint<F::Addr>,
) -> Result<Decision<F::Addr>, Stop> {
    if F::is_multicast(packet.dst) {
        return Err(Stop::drop(DropReason::Multicast));
    }
    if packet.form == Form::IcmpError {
        return Err(Stop::ABOUT);
    }
    if let Some(target) = F::endpoint(&packet.dst) {
        return to_endpoint(tc, eth, config, packet, source, target).map(Decision::Sent);
    }
    // Everything else is decided by ports.
    if packet.form == Form::Fragment && fragment::is_early(tc, packet, source.ifindex) != 0 {
        return Err(Stop::UNTIMELY);
    }
    if let Some(frontend) = balance::vip::<F>(packet.dst) {
        if frontend.vni != source.vni {
            return Err(Stop::refuse(DropReason::OtherNetwork));
        }
        if packet.asks_echo() && frontend.turns_len != 0 {
            return Ok(Decision::Sent(answer::echo(tc, HOOK, eth, packet)));
        }
        return new_flow::<F>(vip::enter(packet, source, frontend, 0));
    }
    if let Some(address) = F::address(&packet.dst) {
        if packet.protocol == protocol::UDP && packet.dport == config.data_port {
            return Err(Stop::drop(DropReason::DataPort));
        }
        // For a task of internal networks a node's address is outside, whatever is published there.
        if packet.form == Form::Ports && source.flags & endpoint_flag::INTERNAL == 0 {
            let published = balance::published::<F>(&packet.dst, packet.dport, packet.protocol);
            let is_own = address.flags & address_flag::OWN != 0;
            if let Some(frontend) = published.filter(|it| !is_own || it.flags & frontend_flag::NOT_TAKEN == 0) {
                let call = Call {
                    entry: Entry::Client,
                    from: source.ifindex,
                    target_port: frontend.target_port,
                    node: config.node,
                    back: WayBack::to_task(source),
                    gateway: source.gateway,
                    gone: 0,
                };
                return new_flow::<F>(enter(packet, frontend, &call));
            }
        }
        if address.flags & address_flag::OWN != 0 && source.flags & endpoint_flag::INTERNAL == 0 {
            return to_host(tc, HOOK, config).map(Decision::Sent);
        }
    }
    if F::same_network(source.gateway, packet.dst, source.prefix_len) {
        return Err(Stop::refuse(DropReason::NoEndpoint));
    }
    if source.flags & endpoint_flag::INTERNAL != 0 {
        return Err(Stop::drop(DropReason::Internal));
    }
    new_flow::<F>(outside::leave(tc, config, packet, source))
}

/// The flow that a real call left in the scratch, or what it said instead.
#[inline(always)]
fn new_flow<F: Tables>(code: Code) -> Result<Decision<F::Addr>, Stop> {
    if code != 0 {
        return Ok(Decision::Sent(code));
    }
    flow::decided::<F>().map(Decision::Flow)
}

/// To another task or the gateway of the same network.
#[inline(always)]
fn to_endpoint<F: Tables>(
    tc: &Tc,
    eth: &Ethernet,
    config: &Config,
    packet: &Packet<F>,
    source: &Endpoint<F::Addr>,
    target: &Endpoint<F::Addr>,
) -> Result<i32, Stop> {
    if target.vni != source.vni {
        return Err(Stop::refuse(DropReason::OtherNetwork));
    }
    if target.kind == endpoint::GATEWAY {
        return match packet.form {
            _ if packet.asks_echo() => Ok(answer::echo(tc, HOOK, eth, packet)),
            Form::Ports if packet.dport == 53 => to_host(tc, HOOK, config),
            Form::Ports => Err(Stop::refuse(DropReason::ClosedPort)),
            Form::IcmpError => Err(Stop::drop(DropReason::IcmpError)),
            _ => Err(Stop::drop(DropReason::Unsupported)),
        };
    }
    direct::keep_clear(packet, target)?;
    watch::direct(tc, config, HOOK, packet, target);
    if target.node == config.node {
        return to_task(tc, HOOK, target.ifindex, target.mac);
    }
    let to = tunnel_to(tc, HOOK, packet, target.node)?;
    to_peer::<F::Addr>(tc, HOOK, config, to, target.vni, target.mac, Some(mac::GATEWAY))
}
