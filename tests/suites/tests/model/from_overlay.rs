//! What peers send: docs/reference/wire.md, "What a receiver checks".

use super::ingress::Back;
use super::read::{self, Form, Packet, mac_at, word};
use super::{Action, Backend, Case, Ip, Origin, Step, Stop, Way, mac, vni};

impl Case<'_> {
    pub fn at_overlay(&mut self, remote: Ip, id: u32) -> Step<Action> {
        if !self.world.is_set_up {
            return Err(Stop::Drop("not-configured"));
        }
        let peer = self.world.addresses.get(&remote).filter(|address| address.is_peer);
        let node = peer.ok_or(Stop::Drop("unknown-peer"))?.node;
        match word(&self.frame, 12) {
            Some(read::ECHO) => self.echo(node, id),
            Some(read::IPV4) => self.overlay_packet(node, id),
            _ => Err(Stop::Drop("unsupported")),
        }
    }

    /// "Are you there", and the answer.
    fn echo(&mut self, node: u32, id: u32) -> Step<Action> {
        match id {
            vni::ECHO if self.world.peers.contains_key(&node) => Ok(self.hand_to_mesh0()),
            vni::ECHO => Err(Stop::Drop("not-configured")),
            vni::ECHO_REPLY if self.frame.len() < 22 => Err(Stop::Drop("malformed")),
            vni::ECHO_REPLY => Err(Stop::Ignored),
            _ => Err(Stop::Drop("unknown-vni")),
        }
    }

    /// The packet of a peer's frame, whichever way it came.
    pub fn overlay_packet(&mut self, node: u32, id: u32) -> Step<Action> {
        let packet = read::packet(&self.frame).ok_or(Stop::Drop("malformed"))?;
        if !matches!(id, vni::TURNED_BACK_WIRE | vni::TURNED_BACK_NODE | vni::TURNED_BACK_TASK) {
            self.clamp_to_path(&packet, node);
        }
        match id {
            vni::REQUEST_WIRE | vni::REQUEST_NODE | vni::SECOND_CHANCE_WIRE | vni::SECOND_CHANCE_NODE => {
                self.request(&packet, node, id)
            }
            vni::TURNED_BACK_WIRE | vni::TURNED_BACK_NODE => self.call_again(&packet, node, id),
            vni::TURNED_BACK_TASK => self.vip_again(&packet, node),
            vni::REPLY_WIRE => {
                let link = self.leaves_by(&packet)?;
                self.hand_to_uplink(link, mac_at(&self.frame, 0))
            }
            vni::REPLY_NODE => self.reply_to_node(&packet),
            vni::INGRESS..=vni::LAST => self.network(&packet, node, id),
            _ => Err(Stop::Drop("unknown-vni")),
        }
    }

    fn network(&mut self, packet: &Packet, node: u32, id: u32) -> Step<Action> {
        if let Some(flow) = self.known(packet, Origin::Peer(node))? {
            let peer = self.peer_of(&flow)?;
            self.rewrite(packet, &flow, packet.key.src)?;
            return self.deliver(&flow, peer.as_ref(), 0);
        }
        let source = self.world.endpoints.get(&packet.key.src);
        if !source.is_some_and(|it| !it.is_gateway && it.node == node && it.vni == id) {
            return Err(Stop::Drop("wrong-peer"));
        }
        match self.world.endpoints.get(&packet.key.dst) {
            Some(target) if target.vni == id && target.link != 0 => Ok(self.hand_to_task(target.mac)),
            None if mac_at(&self.frame, 6) == mac::GATEWAY => self.turn_back(packet, node, "no-endpoint"),
            _ => Err(Stop::Drop("no-endpoint")),
        }
    }

    fn request(&mut self, packet: &Packet, node: u32, id: u32) -> Step<Action> {
        let is_of_wire = id == vni::REQUEST_WIRE || id == vni::SECOND_CHANCE_WIRE;
        let (dst, src) = (mac_at(&self.frame, 0), mac_at(&self.frame, 6));
        let Some((mac::KIND_ENDPOINT, number)) = mac::read(dst) else { return Err(Stop::Drop("wire-format")) };
        if !is_of_wire && !matches!(mac::read(src), Some((mac::KIND_HOST | mac::KIND_CLIENT, _))) {
            return Err(Stop::Drop("wire-format"));
        }
        let flow = match self.known(packet, Origin::Peer(node))? {
            Some(flow) => flow,
            None => {
                if packet.form == Form::Fragment {
                    return Err(Stop::Drop("fragment"));
                }
                // A call from the wire is nobody's of the overlay; one from a node is not of another node's task.
                let lives = self.world.endpoints.get(&packet.key.src).map(|source| source.node);
                if lives.is_some_and(|lives| is_of_wire || lives != node) {
                    return Err(Stop::Drop("wrong-peer"));
                }
                let backend = self.world.backends.get(&number).filter(|it| it.node == self.world.node);
                let Some(backend) = backend.cloned() else {
                    let is_first = id == vni::REQUEST_WIRE || id == vni::REQUEST_NODE;
                    return if is_first {
                        self.turn_back(packet, node, "endpoint-gone")
                    } else {
                        Err(Stop::Drop("endpoint-gone"))
                    };
                };
                let target_port = self.called_port(packet, &backend, is_of_wire)?;
                let reply = if is_of_wire { vni::REPLY_WIRE } else { vni::REPLY_NODE };
                let back = Back { way: Way::Tunnel, link: 0, node, vni: reply, mac: src };
                self.accept(packet, number, &backend, target_port, Origin::Peer(node), back, [0; 4])?
            }
        };
        let peer = self.peer_of(&flow)?;
        self.rewrite(packet, &flow, packet.key.src)?;
        self.deliver(&flow, peer.as_ref(), 0)
    }

    /// The port that a call means at this backend; 0: its own.
    fn called_port(&self, packet: &Packet, backend: &Backend, is_of_wire: bool) -> Step<u16> {
        let key = packet.key;
        let wrong = Err(Stop::Drop("not-published"));
        if let Some(frontend) = self.world.vips.get(&key.dst) {
            return if !is_of_wire && frontend.pool == backend.pool { Ok(0) } else { wrong };
        }
        if self.world.endpoints.contains_key(&key.dst) {
            return if !is_of_wire && key.dst == backend.addr { Ok(0) } else { wrong };
        }
        match self.published(key.dport, key.protocol) {
            Some(frontend) if frontend.pool == backend.pool => Ok(frontend.target_port),
            _ => wrong,
        }
    }

    /// Back to the peer unchanged, if it may open something.
    fn turn_back(&mut self, packet: &Packet, node: u32, reason: &'static str) -> Step<Action> {
        let is_opening = packet.opens() && matches!(packet.form, Form::Ports | Form::EchoRequest);
        if is_opening && self.world.peers.contains_key(&node) {
            Ok(self.hand_to_mesh0())
        } else {
            Err(Stop::Drop(reason))
        }
    }

    /// The link by which an answer from the tunnel leaves.
    pub fn leaves_by(&self, packet: &Packet) -> Step<u32> {
        let forged = Stop::Drop("forged-reply");
        let own = self.world.addresses.get(&packet.key.src).filter(|it| it.is_own).ok_or(forged)?;
        let call = self.flow(&packet.key.turned());
        if let Some(call) = call.filter(|it| it.way == Way::Tunnel && it.vni == vni::REQUEST_WIRE && it.link != 0) {
            return Ok(call.link);
        }
        self.published(packet.key.sport, packet.key.protocol).map(|_| own.link).ok_or(forged)
    }

    fn reply_to_node(&mut self, packet: &Packet) -> Step<Action> {
        let (key, world) = (packet.key, self.world);
        let is_frontend = (self.published(key.sport, key.protocol).is_some() && world.addresses.contains_key(&key.src))
            || world.vips.contains_key(&key.src)
            || world.endpoints.contains_key(&key.src);
        if !is_frontend {
            return Err(Stop::Drop("forged-reply"));
        }
        match mac::read(mac_at(&self.frame, 0)) {
            Some((mac::KIND_HOST, _)) if world.addresses.get(&key.dst).is_some_and(|it| it.is_own) => {
                Ok(self.hand_to_host())
            }
            Some((mac::KIND_HOST, _)) => Err(Stop::Drop("forged-reply")),
            Some((mac::KIND_CLIENT, number)) => match world.backends.get(&number) {
                Some(client) if client.link != 0 && client.addr == key.dst => Ok(self.hand_to_task(client.mac)),
                _ => Err(Stop::Drop("endpoint-gone")),
            },
            _ => Err(Stop::Drop("wire-format")),
        }
    }
}
