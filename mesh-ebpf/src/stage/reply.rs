//! The ingress node's part of an answer from the tunnel: is it one, and which link leads back. No route or neighbour is looked up.

use mesh_common::parse::{Ethernet, Packet};
use mesh_common::schema::{Config, address_flag, deliver};
use mesh_common::verdict::{DropReason, Hook};
use mesh_common::wire::{mac, vni};

use crate::maps::Tables;
use crate::outcome::Stop;
use crate::packet::tc::Tc;
use crate::stage::deliver::{to_host, to_task, to_uplink};
use crate::stage::{balance, flow, watch};

/// The uplink by which an answer leaves: the one that the call came in by while that is remembered, else the one that has the address.
///
/// Only an answer to a call that is remembered, or one from a published port of an address of this node; whatever else a peer sends this way is
/// forged. A port that is published no more ends no connection.
#[inline(always)]
pub fn leaves_by<F: Tables>(packet: &Packet<F>) -> Result<u32, Stop> {
    let own = match F::address(&packet.src) {
        Some(address) if address.flags & address_flag::OWN != 0 => address,
        _ => return Err(Stop::drop(DropReason::ForgedReply)),
    };
    let call = packet.tuple.turned();
    if let Some(flow) = F::flow(&call) {
        // SAFETY: a live map value, read only.
        let flow = unsafe { &*flow };
        if flow.deliver == deliver::TUNNEL && flow.vni == vni::REQUEST_WIRE && flow.ifindex != 0 {
            return Ok(flow.ifindex);
        }
    }
    if balance::published::<F>(&packet.src, packet.sport, packet.protocol).is_none() {
        return Err(Stop::drop(DropReason::ForgedReply));
    }
    Ok(own.ifindex)
}

/// A reply that leaves here for the neighbour its MAC names.
#[inline(always)]
pub fn to_wire<F: Tables>(tc: &Tc, eth: &Ethernet, config: &Config, packet: &Packet<F>) -> Result<i32, Stop> {
    let link = leaves_by(packet)?;
    watch::answer(tc, config, packet, 0, deliver::UPLINK);
    flow::note_end(packet);
    to_uplink(tc, link, eth.dst)
}

/// A reply for this node's own host or one of its tasks.
#[inline(always)]
pub fn to_node<F: Tables>(tc: &Tc, eth: &Ethernet, config: &Config, packet: &Packet<F>) -> Result<i32, Stop> {
    let is_frontend = (balance::published::<F>(&packet.src, packet.sport, packet.protocol).is_some()
        && F::address(&packet.src).is_some())
        || balance::vip::<F>(packet.src).is_some()
        || F::endpoint(&packet.src).is_some();
    if !is_frontend {
        return Err(Stop::drop(DropReason::ForgedReply));
    }
    flow::note_end(packet);
    match mac::split(eth.dst) {
        Some((mac::KIND_HOST, _)) => match F::address(&packet.dst) {
            Some(address) if address.flags & address_flag::OWN != 0 => {
                watch::answer(tc, config, packet, 0, deliver::HOST);
                to_host(tc, Hook::FromOverlay, config)
            }
            _ => Err(Stop::drop(DropReason::ForgedReply)),
        },
        Some((mac::KIND_CLIENT, number)) => match balance::backend(number) {
            Some(client) if client.ifindex != 0 && F::backend_addr(client) == packet.dst => {
                watch::answer(tc, config, packet, number, deliver::TASK);
                to_task(tc, Hook::FromOverlay, client.ifindex, client.mac)
            }
            _ => Err(Stop::drop(DropReason::EndpointGone)),
        },
        _ => Err(Stop::drop(DropReason::WireFormat)),
    }
}
