//! An uplink's driver: docs/packet-walk.md, "Wire → XDP". It forwards, or leaves the frame as it came.

use super::choose::ring;
use super::deliver::OUTER;
use super::ingress::{Back, Call, Entry};
use super::read::{self, Form, Packet, UDP, ip_at, mac_at, word};
use super::{Action, Algorithm, Case, Change, Flow, Mac, Origin, Peer, Step, Stop, Way, mac, vni};

impl Case<'_> {
    pub fn xdp_uplink(&mut self) -> Step<Action> {
        self.forwards().ok_or(Stop::Pass)
    }

    fn forwards(&mut self) -> Option<Action> {
        let packet = self.plain().filter(|packet| self.frame.len() >= packet.l4 + packet.l4_len)?;
        if packet.key.protocol == UDP && packet.key.dport == self.world.data_port {
            self.xdp_answer()
        } else {
            self.xdp_call(&packet)
        }
    }

    /// A whole IPv4 packet with ports, without options or fragments, no byte of its headers missing.
    fn plain(&self) -> Option<Packet> {
        if !self.world.is_set_up || word(&self.frame, 12)? != read::IPV4 || *self.frame.get(14)? != 0x45 {
            return None;
        }
        if word(&self.frame, 20)? & 0x3fff != 0 {
            return None;
        }
        read::packet(&self.frame).filter(|packet| packet.form == Form::Ports)
    }

    fn xdp_call(&mut self, packet: &Packet) -> Option<Action> {
        let key = packet.key;
        let address = self.world.addresses.get(&key.dst);
        let is_links_own = address.is_some_and(|it| it.is_own && it.link == self.link);
        if key.dst != self.world.tunnel_addr && !is_links_own {
            return None;
        }
        let frontend = self.published(key.dport, key.protocol).filter(|it| !it.not_taken)?;
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
            None if is_links_own => {
                let call = Call {
                    entry: Entry::Wire,
                    from: Origin::World,
                    target_port: frontend.target_port,
                    back: Back { way: Way::Uplink, link: self.link, node: 0, vni: 0, mac: mac_at(&self.frame, 6) },
                    gateway: [0; 4],
                    gone: 0,
                };
                (self.enter(packet, &frontend, &call).ok()?, true)
            }
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
        written.into_iter().for_each(|flow: &mut Flow| flow.packets -= 1);
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
        if ip_at(frame, 30) != self.world.tunnel_addr || frame[15] & 3 == 3 || frame.len() < OUTER {
            return None;
        }
        if frame[42] != 8 || frame[46..50] != (vni::REPLY_WIRE << 8).to_be_bytes() {
            return None;
        }
        let node = self.world.addresses.get(&ip_at(frame, 26)).filter(|it| it.is_peer && !it.by_mesh0)?.node;
        let inner = self.frame[OUTER..].to_vec();
        if word(&inner, 12)? != read::IPV4 || *inner.get(14)? != 0x45 {
            return None;
        }
        let packet = read::packet(&inner).filter(|packet| packet.form == Form::Ports)?;
        if self.leaves_by(&packet).ok()? != self.link {
            return None;
        }
        let link_mac = mac_at(&self.frame, 0);
        self.frame = inner;
        self.frame[6..12].copy_from_slice(&link_mac);
        self.clamp_to_path(&packet, node);
        Some(Action::Redirect)
    }
}
