//! What the world sends: calls to published ports, and answers to tasks that went outside. All else is the host's.

use mesh_common::family::{Family, V4};
use mesh_common::parse::{self, Ethernet, Form, protocol};
use mesh_common::schema::{address_flag, deliver as way, frontend_flag, origin};
use mesh_common::verdict::{DropReason, Hook};

use crate::hook::{Code, Stop, encode, finish};
use crate::maps::Tables;
use crate::packet::tc::{NEXT, Tc};
use crate::stage::deliver::{config, deliver, peer_of};
use crate::stage::ingress::{Call, Entry, enter};
use crate::stage::owner::WayBack;
use crate::stage::{balance, flow, nat};

const HOOK: Hook = Hook::FromUplink;

#[inline(always)]
pub fn run(tc: &Tc) -> i32 {
    let code = match parse::ethernet(tc) {
        // Of a VLAN: the device of that VLAN is an uplink of its own and sees it next.
        Some(_) if tc.has_vlan() => NEXT,
        Some(eth) if eth.ethertype == V4::ETHERTYPE => walk::<V4>(tc, &eth),
        _ => NEXT,
    };
    finish(tc, HOOK, code)
}

#[inline(never)]
fn walk<F: Tables>(tc: &Tc, eth: &Ethernet) -> Code {
    encode(steps::<F>(tc, eth))
}

#[inline(always)]
fn steps<F: Tables>(tc: &Tc, eth: &Ethernet) -> Result<i32, Stop> {
    let config = config()?;
    // What can't be read is the stack's to judge.
    let Ok(packet) = parse::packet::<F>(tc) else { return Err(Stop::PASS) };
    match F::address(&packet.dst) {
        Some(address) if address.flags & address_flag::OWN != 0 => {}
        // Nobody outside has business with the overlay's addresses.
        _ if F::endpoint(&packet.dst).is_some() || balance::vip::<F>(packet.dst).is_some() => {
            return Err(Stop::drop(DropReason::FromOutside));
        }
        _ => return Err(Stop::PASS),
    }
    if packet.protocol == protocol::UDP && packet.dport == config.data_port {
        return Err(Stop::PASS);
    }
    let flow = match flow::lookup(&packet, tc.len(), origin::WIRE)? {
        Some(flow) => flow,
        None => {
            if packet.form != Form::Ports {
                return Err(Stop::PASS);
            }
            let Some(frontend) = balance::published::<F>(packet.dport, packet.protocol) else { return Err(Stop::PASS) };
            if frontend.flags & frontend_flag::NOT_TAKEN != 0 {
                return Err(Stop::PASS);
            }
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
            let code = enter(&packet, frontend, &call);
            if code != 0 {
                return Ok(code);
            }
            flow::decided::<F>()?
        }
    };
    nat::clamp_mss(tc, &packet, F::mss(config))?;
    let to = peer_of(flow)?;
    nat::apply(tc, &packet, flow, &packet.src)?;
    deliver(tc, HOOK, config, flow, to, 0)
}
