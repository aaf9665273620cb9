//! Fragments: the first one of a datagram has the ports, and the others go where it went.
//!
//! A later fragment is looked up like any packet, once it has its datagram's ports; only addresses are rewritten in it, for there is no transport
//! header, and the first one's checksum makes up for the whole. One that comes before the first one is lost (docs/decisions/0039
//! has a way to keep it). Senders send the first one first; where a network turns their order, the datagram is lost, and counted (`fragment`).
//! Where IPv6 has options for the receiver behind the fragment header, only the first one says what protocol the datagram is of.
//! Invariant: fragments from elsewhere than the first one came from (`origin::*`) never get its ports. Must not: cost a whole packet more than one
//! comparison.

use mesh_common::parse::{Form, Packet, protocol};
use mesh_common::schema::{FlowKey, FragmentKey, Fragmented};

use crate::maps::Tables;
use crate::packet::tc::Tc;

/// Notes a first fragment's ports, and gives a later one those of its datagram, if they are known. `from` is one of `origin::*`.
#[inline(always)]
pub fn know<F: Tables>(tc: &Tc, packet: &mut Packet<F>, from: u32) {
    if packet.is_piece {
        learn(tc, packet, from);
    }
}

/// A real call, for it is rare.
#[inline(never)]
fn learn<F: Tables>(tc: &Tc, packet: &mut Packet<F>, from: u32) {
    let Some(id) = F::fragment_id(tc) else { return };
    let FlowKey { src, dst, protocol: said, .. } = packet.tuple;
    let mut key = FragmentKey { src, dst, from, id, protocol: said, pad: [0; 3] };
    if packet.form != Form::Fragment {
        F::note_fragmented(&key, &Fragmented { sport: packet.sport, dport: packet.dport });
        return;
    }
    let mut known = None;
    if !F::is_extension(said) {
        known = F::fragmented(&key);
    } else {
        // The number is the datagram's whatever it is of (RFC 8200, 4.5).
        for carried in [protocol::UDP, F::ICMP, protocol::TCP, protocol::SCTP] {
            if known.is_none() {
                key.protocol = carried;
                known = F::fragmented(&key);
            }
        }
    }
    if let Some(known) = known {
        packet.tuple = FlowKey::new(src, dst, known.sport, known.dport, key.protocol);
    }
}
