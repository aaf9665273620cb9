//! The last step of a walk, and what a frame between nodes looks like: docs/packet-walk.md, docs/reference/wire.md.

use super::read::{self, word};
use super::sums::{fold, sum};
use super::{Action, Case, Flow, Hook, Mac, Peer, Step, Stop, Way, mac, octets};

/// Bytes before a frame in the tunnel.
pub const OUTER: usize = 50;

/// What is shorter goes through mesh0: Ethernet and IP header and four bytes.
fn shortest(frame: &[u8]) -> usize {
    if word(frame, 12) == Some(read::IPV4) { 38 } else { 58 }
}

impl Case<'_> {
    pub fn macs(&mut self, dst: Mac, src: Mac) {
        self.frame[..6].copy_from_slice(&dst);
        self.frame[6..12].copy_from_slice(&src);
    }

    /// The peer of a flow that goes through the tunnel, and takes this packet: asked before anything is rewritten.
    pub fn peer_of(&self, flow: &Flow) -> Step<Option<Peer>> {
        if flow.way == Way::Tunnel { self.peer_for_this(flow.node).map(Some) } else { Ok(None) }
    }

    /// The same of one that came back, which nobody is told of whatever its size; through mesh0, for it is rare.
    pub fn peer_again(&self, flow: &Flow) -> Step<Option<Peer>> {
        let peer = if flow.way == Way::Tunnel { Some(self.peer(flow.node)?) } else { None };
        Ok(peer.map(|peer| Peer { link: 0, ..peer }))
    }

    /// The peer, if the path takes this packet, or cuts it: docs/decisions/0027. What came through the tunnel is cut.
    pub fn peer_for_this(&self, node: u32) -> Step<Peer> {
        let peer = self.peer(node)?;
        let most = peer.mtu.saturating_sub(OUTER as u16);
        // No IPv6 packet is cut on the way, and each of 1280 bytes is taken (RFC 8200, section 5).
        let is_ipv6 = self.frame[14] >> 4 == 6;
        let most = if is_ipv6 { most.max(1_280) } else { most };
        let is_whole = is_ipv6 || self.frame[20] & 0x40 != 0;
        if is_whole && self.hook != Hook::Overlay && self.frame.len() - 14 > usize::from(most) {
            return Err(Stop::TooBig(most));
        }
        Ok(peer)
    }

    pub fn peer(&self, node: u32) -> Step<Peer> {
        match self.world.peers.get(&node) {
            Some(peer) if peer.is_unreachable => Err(Stop::Refuse("peer-unreachable")),
            Some(peer) => Ok(peer.clone()),
            None => Err(Stop::Drop("not-configured")),
        }
    }

    /// As the flow says; `sender` is the endpoint of the task that sent it.
    pub fn deliver(&mut self, flow: &Flow, peer: Option<&Peer>, sender: u32) -> Step<Action> {
        match flow.way {
            Way::Task => Ok(self.hand_to_task(flow.mac)),
            Way::Tunnel => {
                let src = if flow.flags.from_host {
                    Some(mac::HOST)
                } else if flow.flags.from_client {
                    Some(mac::of(mac::KIND_CLIENT, sender))
                } else if flow.flags.keep_mac {
                    None
                } else {
                    Some(mac::GATEWAY)
                };
                let peer = peer.ok_or(Stop::Drop("not-configured"))?;
                Ok(self.hand_to_peer(peer, flow.vni, flow.mac, src))
            }
            Way::Uplink => self.hand_to_uplink(flow.link, flow.mac),
            Way::Host => Ok(self.hand_to_host()),
            // The kernel writes the MACs when it leaves.
            Way::Outside => Ok(Action::Redirect),
        }
    }

    pub fn hand_to_task(&mut self, task: Mac) -> Action {
        self.macs(task, mac::GATEWAY);
        Action::Redirect
    }

    pub fn hand_to_uplink(&mut self, link: u32, neighbour: Mac) -> Step<Action> {
        let uplink = self.world.uplinks.get(&link).ok_or(Stop::Drop("not-configured"))?;
        self.macs(neighbour, uplink.mac);
        Ok(Action::Redirect)
    }

    /// Up the stack, through mesh0.
    pub fn hand_to_host(&mut self) -> Action {
        self.macs(self.world.mesh0_mac, mac::GATEWAY);
        if self.hook == Hook::Overlay && self.link == self.world.mesh0 { Action::Ok } else { Action::Redirect }
    }

    /// Through the tunnel: the fast way where the next hop is known and it fits and is whole, else by mesh0. `src` None keeps the source MAC.
    pub fn hand_to_peer(&mut self, peer: &Peer, vni: u32, dst: Mac, src: Option<Mac>) -> Action {
        let old = self.frame[6..12].try_into().expect("six bytes");
        self.macs(dst, src.unwrap_or(old));
        let len = self.frame.len();
        let fits = len >= shortest(&self.frame) && len + OUTER <= usize::from(peer.mtu) + 14;
        let is_whole = read::packet(&self.frame).is_none_or(|packet| !packet.is_piece);
        if peer.link != 0 && fits && is_whole {
            self.wrap(peer, vni);
            return Action::Redirect;
        }
        self.hand_to_mesh0()
    }

    /// With a tunnel key.
    pub fn hand_to_mesh0(&mut self) -> Action {
        if self.hook == Hook::Host {
            // It is on its way out of it.
            return Action::Ok;
        }
        self.is_keyed = true;
        Action::Redirect
    }

    /// The outer headers: docs/reference/wire.md, "The outer packet".
    pub fn wrap(&mut self, peer: &Peer, vni: u32) {
        let inner = &self.frame;
        // A packet of IPv6 has any identification outside: who compares knows.
        let (tos, id) = match word(inner, 12) {
            Some(read::IPV4) => (inner[15] & 3, word(inner, 18).expect("an IPv4 header")),
            _ => (inner[15] >> 4 & 3, 0),
        };
        let udp_len = inner.len() as u16 + 16;
        let mut ip = vec![0x45, tos];
        ip.extend((udp_len + 20).to_be_bytes());
        ip.extend(id.to_be_bytes());
        ip.extend([0, 0, 64, 17, 0, 0]);
        ip.extend(self.world.tunnel_addr.map(octets).expect("it is set up"));
        ip.extend(octets(peer.addr));
        let checksum = !fold(sum(&ip));
        ip[10..12].copy_from_slice(&checksum.to_be_bytes());
        let mut frame = [&peer.next_hop[..], &peer.link_mac, &[8, 0], &ip].concat();
        frame.extend([0, 0]);
        frame.extend(self.world.data_port.to_be_bytes());
        frame.extend(udp_len.to_be_bytes());
        frame.extend([0, 0, 8, 0, 0, 0]);
        frame.extend((vni << 8).to_be_bytes());
        frame.extend(inner);
        self.frame = frame;
        self.sums.iter_mut().for_each(|at| *at += OUTER);
        self.sums.push(24);
        self.is_wrapped = true;
    }
}
