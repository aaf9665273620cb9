//! What the world sends, behind the driver: docs/packet-walk.md, "Outside → published port", "Task → outside, and back"; frames of peers the fast way.

use super::deliver::OUTER;
use super::read::{self, Form, UDP, ip_at, word};
use super::{Action, Case, Hook, Origin, Step, Stop};

impl Case<'_> {
    pub fn at_uplink(&mut self) -> Step<Action> {
        if !matches!(word(&self.frame, 12), Some(read::IPV4 | read::IPV6)) {
            return Err(Stop::Pass);
        }
        if let Some((node, vni)) = self.unwrap() {
            self.hook = Hook::Overlay;
            return self.overlay_packet(node, vni);
        }
        if !self.world.is_set_up {
            return Err(Stop::Pass);
        }
        let packet = self.packet(Origin::World).ok_or(Stop::Pass)?;
        self.brings(&packet, Origin::World);
        let flow = match self.known(&packet, Origin::World)? {
            Some(flow) => flow,
            None => {
                let key = packet.key;
                let is_data = key.protocol == UDP && key.dport == self.world.data_port;
                let address = self.world.addresses.get(&key.dst);
                if !address.is_some_and(|address| address.is_own) {
                    if self.world.endpoints.contains_key(&key.dst) || self.world.vips.contains_key(&key.dst) {
                        return Err(Stop::Drop("from-outside"));
                    }
                    let is_by_stranger = !self.world.addresses.get(&key.src).is_some_and(|source| source.is_peer);
                    if address.is_some_and(|address| address.is_peer) && is_data && is_by_stranger {
                        return Err(Stop::Drop("data-port"));
                    }
                    return Err(Stop::Pass);
                }
                self.waits(&packet, Origin::World, Stop::Pass)?;
                if is_data {
                    return Err(Stop::Pass);
                }
                if packet.form == Form::Error {
                    return self.carry(&packet, Origin::World, 0);
                }
                if packet.form != Form::Ports {
                    return Err(Stop::Pass);
                }
                let frontend = self.published(key.dst, key.dport, key.protocol).filter(|it| !it.not_taken);
                let frontend = frontend.ok_or(Stop::Pass)?;
                self.enter_from_wire(&packet, &frontend)?
            }
        };
        self.clamp(&packet);
        let peer = self.peer_of(&flow)?;
        self.rewrite(&packet, &flow, packet.key.src)?;
        self.deliver(&flow, peer.as_ref(), 0)
    }

    /// Takes the outer headers off a frame of a peer; its node and VNI. None: it is something else, or mesh0's business.
    fn unwrap(&mut self) -> Option<(u32, u32)> {
        let frame = &self.frame;
        let whole = frame.len() >= OUTER + 34 && self.world.is_set_up;
        let is_tunnel = whole
            && word(frame, 12) == Some(read::IPV4)
            && frame[14] == 0x45
            && frame[23] == UDP
            && Some(ip_at(frame, 30)) == self.world.tunnel_addr
            && word(frame, 36) == Some(self.world.data_port);
        // Fragments, and what met congestion on the way (RFC 6040, 4.2).
        if !is_tunnel || word(frame, 20)? & 0x3fff != 0 || frame[15] & 3 == 3 {
            return None;
        }
        let peer = self.world.addresses.get(&ip_at(frame, 26)).filter(|it| it.is_peer && !it.by_mesh0)?;
        // Nothing but a VNI: the flag that says so, and the reserved byte behind it.
        if frame[42] != 8 || frame[49] != 0 {
            return None;
        }
        let header = match word(frame, OUTER + 12)? {
            read::IPV4 => 20,
            read::IPV6 if self.world.crosses_families => 40,
            _ => return None,
        };
        if frame.len() < OUTER + 14 + header {
            return None;
        }
        // Fragments inside: all of a datagram go one way.
        let is_piece = if header == 20 { word(frame, OUTER + 20)? & 0x3fff != 0 } else { frame[OUTER + 20] == 44 };
        if is_piece {
            return None;
        }
        let vni = u32::from_be_bytes([0, frame[46], frame[47], frame[48]]);
        let node = peer.node;
        self.frame.drain(..OUTER);
        Some((node, vni))
    }
}
