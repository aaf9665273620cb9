//! What this node's own stack sends into the overlay: calls to VIPs, answers of the resolver, the echoes of the agent.

use mesh_common::family::{Family, V4, V6};
use mesh_common::parse::{self, ETHERTYPE_ECHO, Ethernet, Form};
use mesh_common::schema::{Config, address_flag, endpoint, origin, program};
use mesh_common::verdict::{DropReason, Hook};
use mesh_common::wire::{mac, vni};

use crate::hook::finish;
use crate::maps::{self, Tables};
use crate::outcome::{Code, Stop, encode, go_on};
use crate::packet::tc::{OK, SHOT, Tc};
use crate::stage::arrival::Arrival;
use crate::stage::deliver::{KEYED, config, deliver, peer_of, send_tunnel, to_task};
use crate::stage::ingress::{Call, Entry, enter, remember, to_owner};
use crate::stage::nat::Source;
use crate::stage::owner::WayBack;
use crate::stage::{answer, balance, direct, flow, fragment, nat, watch};

const HOOK: Hook = Hook::FromHost;

#[inline(always)]
pub fn run(tc: &Tc) -> i32 {
    if tc.mark() == KEYED {
        tc.set_mark(0);
        return OK;
    }
    let code = match (config(), parse::ethernet(tc)) {
        (Ok(config), Some(eth)) if eth.ethertype == V4::ETHERTYPE => judge::<V4>(tc, &eth, config),
        (Ok(_), Some(eth)) if eth.ethertype == V6::ETHERTYPE => go_on(tc, program::FROM_HOST6),
        (Ok(config), Some(eth)) if eth.ethertype == ETHERTYPE_ECHO => encode(echo(tc, &eth, config)),
        // The stack's own chatter on a link has no place in the overlay.
        _ => SHOT,
    };
    finish(tc, HOOK, code)
}

/// IPv6, as [`run`] has found.
#[inline(always)]
pub fn run6(tc: &Tc) -> i32 {
    let code = match (config(), parse::ethernet(tc)) {
        (Ok(config), Some(eth)) => judge::<V6>(tc, &eth, config),
        _ => SHOT,
    };
    finish(tc, HOOK, code)
}

/// The agent asks a peer whether it is there; an unreachable one is asked all the same.
#[inline(always)]
fn echo(tc: &Tc, eth: &Ethernet, config: &Config) -> Result<i32, Stop> {
    let Some((mac::KIND_ECHO, node)) = mac::split(eth.dst) else { return Err(Stop::drop(DropReason::WireFormat)) };
    match maps::peer(node) {
        Some(peer) => send_tunnel(tc, HOOK, config, peer, vni::ECHO),
        None => Err(Stop::drop(DropReason::NotConfigured)),
    }
}

#[inline(always)]
fn judge<F: Tables>(tc: &Tc, eth: &Ethernet, config: &Config) -> Code {
    match walk::<F>(tc, eth, config) {
        code if Stop::is_elsewhere(code) => Arrival::FROM_HOST.go_on::<F>(tc, code),
        code => code,
    }
}

#[inline(never)]
fn walk<F: Tables>(tc: &Tc, eth: &Ethernet, config: &Config) -> Code {
    encode(steps::<F>(tc, eth, config))
}

#[inline(always)]
fn steps<F: Tables>(tc: &Tc, eth: &Ethernet, config: &Config) -> Result<i32, Stop> {
    let mut room = parse::Room::<F>::uninit();
    let Some(packet) = flow::read(tc, &mut room) else { return Err(Stop::drop(DropReason::Malformed)) };
    fragment::know(tc, packet, origin::HOST);
    if F::is_multicast(packet.dst) {
        return Ok(SHOT);
    }
    // What the host merely forwards is a stranger's: only its own addresses and the resolver's (the gateways) may enter here.
    let is_own = matches!(F::address(&packet.src), Some(address) if address.flags & address_flag::OWN != 0)
        || matches!(F::endpoint(&packet.src), Some(source) if source.kind == endpoint::GATEWAY);
    if !is_own {
        return Err(Stop::drop(DropReason::FromOutside));
    }
    let flow = match flow::lookup(packet, tc.len(), origin::HOST)? {
        Some(flow) => flow,
        None => {
            if packet.form == Form::IcmpError {
                return Err(Stop::ABOUT);
            }
            if let Some(target) = F::endpoint(&packet.dst) {
                if target.kind != endpoint::TASK {
                    return Err(Stop::drop(DropReason::NoEndpoint));
                }
                if target.ifindex != 0 {
                    direct::keep_clear(packet, target)?;
                    watch::direct(tc, config, HOOK, packet, target);
                    return to_task(tc, HOOK, target.ifindex, target.mac);
                }
                flow::begins();
                let flow = to_owner(packet, target.number, target.node, Entry::Host, origin::HOST, 0)?;
                remember(packet, flow);
                flow
            } else if let Some(frontend) = balance::vip::<F>(packet.dst) {
                if packet.asks_echo() && frontend.turns_len != 0 {
                    return Ok(answer::echo(tc, HOOK, eth, packet));
                }
                match packet.form {
                    // Without ports it would be another flow, and could reach another task than the fragment that has them.
                    Form::Fragment => return Err(Stop::drop(DropReason::Fragment)),
                    // No VIP has asked.
                    Form::EchoReply => return Err(Stop::drop(DropReason::IcmpError)),
                    _ => {}
                }
                let back = WayBack::to_host(config);
                let call = Call {
                    entry: Entry::Host,
                    from: origin::HOST,
                    target_port: 0,
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
            } else {
                return Err(Stop::refuse(DropReason::NoEndpoint));
            }
        }
    };
    let to = peer_of(tc, HOOK, packet, flow)?;
    watch::verdict(tc, config, HOOK, packet, flow);
    nat::apply(tc, Source::Stack, packet, flow, &packet.src)?;
    deliver(tc, HOOK, config, flow, to, 0)
}
