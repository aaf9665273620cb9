//! The ingress node's part of an answer from the tunnel: is it one, and which link leads back. No route or neighbour is looked up.

use mesh_common::parse::Packet;
use mesh_common::schema::{address_flag, deliver};
use mesh_common::verdict::DropReason;
use mesh_common::wire::vni;

use crate::hook::Stop;
use crate::maps::Tables;
use crate::stage::balance;

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
