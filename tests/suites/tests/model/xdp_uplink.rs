//! An uplink's driver: docs/packet-walk.md, "Wire → XDP". It forwards, or leaves the frame as it came.

use super::choose::ring;
use super::deliver::OUTER;
use super::read::{self, Form, Packet, UDP, ip_at, mac_at, word};
use super::{Action, Algorithm, Case, Change, Flow, Mac, Origin, Peer, Step, Stop, Way, mac, vni};

/// A packet of TCP or UDP, without options, extension headers or fragments, no byte of its headers missing: all else is TC's.
fn usual(frame: &[u8]) -> Option<Packet> {
    let is_plain = match word(frame, 12)? {
        read::IPV4 => *frame.get(14)? == 0x45 && word(frame, 20)? & 0x3fff == 0,
        read::IPV6 => *frame.get(14)? >> 4 == 6 && matches!(*frame.get(20)?, read::TCP | UDP),
        _ => false,
    };
    let packet = if is_plain { read::packet(frame)? } else { return None };
    let is_usual = packet.form == Form::Ports && packet.piece_of.is_none();
    (is_usual && matches!(packet.key.protocol, read::TCP | UDP)).then_some(packet)
}

impl Case<'_> {
    pub fn xdp_uplink(&mut self) -> Step<Action> {
        self.forwards().ok_or(Stop::Pass)
    }

    fn forwards(&mut self) -> Option<Action> {
        let packet = usual(&self.frame).filter(|packet| self.frame.len() >= packet.l4 + packet.l4_len)?;
        if !self.world.is_set_up {
            return None;
        }
        if packet.key.protocol == UDP && packet.key.dport == self.world.data_port {
            self.xdp_answer()
        } else {
            self.xdp_call(&packet)
        }
    }

    fn xdp_call(&mut self, packet: &Packet) -> Option<Action> {
        let key = packet.key;
        let address = self.world.addresses.get(&key.dst);
        let is_links_own = address.is_some_and(|it| it.is_own && it.link == self.link);
        if Some(key.dst) != self.world.tunnel_addr && !is_links_own {
            return None;
        }
        let frontend = self.published(key.dst, key.dport, key.protocol).filter(|it| !it.not_taken)?;
        if frontend.algorithm == Algorithm::Maglev {
            if frontend.turns.is_empty() {
                return None;
            }
            let (backend, node) = ring(&frontend, packet);
            let peer = self.peer_behind(node)?;
            return Some(self.xdp_forward(packet, &peer, mac::of(mac::KIND_ENDPOINT, backend)));
        }
        let found = self.flow(&key).filter(|flow| flow.from == Origin::World);
        let known = match found {
            Some(flow) if flow.flags.dead => return None,
            Some(flow) if flow.is_closing() && key.protocol == read::TCP && packet.opens() => None,
            other => other,
        };
        let (mut flow, is_new) = match known {
            Some(flow) => (flow, false),
            None if is_links_own => (self.enter_from_wire(packet, &frontend).ok()?, true),
            None => return None,
        };
        let is_here = flow.way == Way::Tunnel && flow.vni == vni::REQUEST_WIRE && flow.link == self.link;
        let Some(peer) = is_here.then(|| self.peer_behind(flow.node)).flatten() else {
            if is_new {
                // The next hook finds the entry, and counts.
                self.count_none(packet);
            }
            return None;
        };
        if !is_new {
            flow.packets += 1;
            flow.bytes += self.frame.len() as u64;
            flow.note(packet.flags);
            self.put(key, flow.clone());
        }
        Some(self.xdp_forward(packet, &peer, flow.mac))
    }

    fn count_none(&mut self, packet: &Packet) {
        let key = packet.key;
        let written = self.changes.iter_mut().rev().find_map(|change| match change {
            Change::Flow(other, Some(flow)) if *other == key => Some(flow),
            _ => None,
        });
        written.into_iter().for_each(|flow: &mut Flow| {
            flow.packets -= 1;
            flow.bytes -= packet.frame_len();
        });
    }

    /// The peer, if it answers, is behind this very link, and the frame fits.
    fn peer_behind(&self, node: u32) -> Option<Peer> {
        let peer = self.world.peers.get(&node)?;
        let fits = self.frame.len() + OUTER <= usize::from(peer.mtu) + 14;
        (peer.link == self.link && !peer.is_unreachable && fits).then(|| peer.clone())
    }

    fn xdp_forward(&mut self, packet: &Packet, peer: &Peer, to: Mac) -> Action {
        self.clamp(packet);
        self.frame[..6].copy_from_slice(&to);
        self.wrap(peer, vni::REQUEST_WIRE);
        Action::Redirect
    }

    /// An answer that a peer sends back through this node.
    fn xdp_answer(&mut self) -> Option<Action> {
        let frame = &self.frame;
        // Between nodes of this world there is IPv4.
        if word(frame, 12)? != read::IPV4 {
            return None;
        }
        if Some(ip_at(frame, 30)) != self.world.tunnel_addr || frame[15] & 3 == 3 || frame.len() < OUTER {
            return None;
        }
        if frame[42] != 8 || frame[46..50] != (vni::REPLY_WIRE << 8).to_be_bytes() {
            return None;
        }
        let node = self.world.addresses.get(&ip_at(frame, 26)).filter(|it| it.is_peer && !it.by_mesh0)?.node;
        let inner = self.frame[OUTER..].to_vec();
        let packet = usual(&inner)?;
        // What ends a connection is noted, which TC does.
        let is_end = packet.flags & (read::FIN | read::RST) != 0;
        if is_end || self.leaves_by(&packet).ok()? != self.link {
            return None;
        }
        let link_mac = mac_at(&self.frame, 0);
        self.frame = inner;
        self.frame[6..12].copy_from_slice(&link_mac);
        self.clamp_to_path(&packet, node);
        Some(Action::Redirect)
    }
}
