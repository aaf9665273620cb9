//! Fragments that come before the first one of their datagram: docs/decisions/0039.

use super::read::{Form, ICMP, ICMPV6, Packet, SCTP, TCP, UDP};
use super::{Case, Change, Datagram, Origin, Step, Stop};

/// So many of a datagram may wait.
const PLACES: usize = 4;

impl Case<'_> {
    /// The first one brings those along that wait for it: they come in once more, behind it.
    pub fn brings(&mut self, packet: &Packet, from: Origin) {
        let waits_for = waits_for(packet, from).filter(|_| packet.form != Form::Fragment);
        self.changes.extend(waits_for.filter(|of| self.world.early.contains_key(of)).map(Change::Brought));
    }

    /// A later one of a datagram that is not known can't be decided; `full` is what becomes of it where no place is left.
    pub fn waits(&mut self, packet: &Packet, from: Origin, full: Stop) -> Step<()> {
        let Some(waits_for) = waits_for(packet, from).filter(|_| packet.form == Form::Fragment) else { return Ok(()) };
        let (src, dst, id, ..) = waits_for;
        let echo = if src.is_ipv4() { ICMP } else { ICMPV6 };
        if ![UDP, TCP, SCTP, echo].contains(&packet.key.protocol) {
            return Ok(());
        }
        if self.datagram((src, dst, id, packet.key.protocol, from)).is_some() {
            return Ok(());
        }
        if self.world.early.get(&waits_for).is_some_and(|others| others.len() >= PLACES) {
            return Err(full);
        }
        self.changes.push(Change::Wait(waits_for, self.frame.clone()));
        Err(Stop::Ignored)
    }
}

/// Of IPv6 a later fragment may name a header before the protocol.
fn waits_for(packet: &Packet, from: Origin) -> Option<Datagram> {
    let protocol = if packet.key.src.is_ipv4() { packet.key.protocol } else { 0 };
    Some((packet.key.src, packet.key.dst, packet.piece_of?, protocol, from))
}
