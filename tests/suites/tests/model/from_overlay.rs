//! What peers send: docs/reference/wire.md, "What a receiver checks".

use super::ingress::Back;
use super::read::{self, Form, Packet, mac_at, word};
use super::{Action, Address, Backend, Case, Flow, Ip, Origin, Side, Step, Stop, Way, mac, of_family, vni};

impl Case<'_> {
    pub fn at_overlay(&mut self, remote: Ip, id: u32) -> Step<Action> {
        if !self.world.is_set_up {
            return Err(Stop::Drop("not-configured"));
        }
        let peer = self.world.addresses.get(&remote).filter(|address| address.is_peer);
        let node = peer.ok_or(Stop::Drop("unknown-peer"))?.node;
        match word(&self.frame, 12) {
            Some(read::ECHO) => self.echo(node, id),
            Some(read::IPV4 | read::IPV6) => self.overlay_packet(node, id),
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
        let malformed = Stop::Drop("malformed");
        // Only what opens something is turned back: no later fragment.
        match id {
            vni::TURNED_BACK_WIRE | vni::TURNED_BACK_NODE => {
                let packet = read::packet(&self.frame).ok_or(malformed)?;
                return self.call_again(&packet, node, id);
            }
            vni::TURNED_BACK_TASK => {
                let packet = read::packet(&self.frame).ok_or(malformed)?;
                return self.vip_again(&packet, node);
            }
            _ => {}
        }
        let packet = self.packet(Origin::Peer(node)).ok_or(malformed)?;
        self.clamp_to_path(&packet, node);
        match id {
            vni::REQUEST_WIRE | vni::REQUEST_NODE | vni::SECOND_CHANCE_WIRE | vni::SECOND_CHANCE_NODE => {
                self.request(&packet, node, id)
            }
            vni::REPLY_WIRE | vni::REPLY_NODE if packet.form == Form::Error => {
                let stands_for = self.stands_for(&packet)?;
                self.reply(&stands_for, id)
            }
            vni::REPLY_WIRE | vni::REPLY_NODE => self.reply(&packet, id),
            vni::INGRESS..=vni::LAST => self.network(&packet, node, id),
            _ => Err(Stop::Drop("unknown-vni")),
        }
    }

    fn network(&mut self, packet: &Packet, node: u32, id: u32) -> Step<Action> {
        if let Some(flow) = self.known(packet, Origin::Peer(node))? {
            return self.by_flow(packet, &flow);
        }
        let source = self.world.endpoints.get(&packet.key.src);
        let source = source.filter(|it| !it.is_gateway && it.node == node && it.vni == id);
        let source = source.ok_or(Stop::Drop("wrong-peer"))?.clone();
        if packet.form == Form::Error {
            return self.carry(packet, Origin::Peer(node), id);
        }
        match self.world.endpoints.get(&packet.key.dst).cloned() {
            Some(target) if target.vni == id && target.link != 0 => {
                let back = Back { way: Way::Tunnel, link: 0, node, vni: id, mac: source.mac };
                match self.enter_direct(packet, target.number, Origin::Peer(node), back, source.gateway)? {
                    Some(flow) => self.by_flow(packet, &flow),
                    None => Ok(self.hand_to_task(target.mac)),
                }
            }
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
        // A datagram goes to whom the ingress node names now; what has a state stays where it is.
        let may_move = !matches!(packet.key.protocol, read::TCP | read::SCTP | read::ICMP | read::ICMPV6);
        let flow = match self.known(packet, Origin::Peer(node))? {
            Some(flow) if flow.backend == number || !may_move => flow,
            _ => {
                if packet.form == Form::Fragment {
                    return Err(Stop::Drop("fragment"));
                }
                // A call from the wire is nobody's of the overlay; one from a node is not of another node's task, nor of its host.
                let lives = self.world.endpoints.get(&packet.key.src).map(|source| source.node);
                let is_third = |it: &Address| !it.is_own && it.node != node;
                let is_lie = match lives {
                    Some(lives) => is_of_wire || lives != node,
                    None => !is_of_wire && self.world.addresses.get(&packet.key.src).is_some_and(is_third),
                };
                if is_lie {
                    return Err(Stop::Drop("wrong-peer"));
                }
                if packet.form == Form::Error {
                    return self.carry(packet, Origin::Peer(node), id);
                }
                let by_host = !is_of_wire && lives.is_none();
                let backend = self.world.backends.get(&number).filter(|it| it.node == self.world.node);
                let Some(backend) = backend.cloned() else {
                    let is_first = id == vni::REQUEST_WIRE || id == vni::REQUEST_NODE;
                    return if is_first {
                        self.turn_back(packet, node, "endpoint-gone")
                    } else {
                        Err(Stop::Drop("endpoint-gone"))
                    };
                };
                let target_port = self.called_port(packet, &backend, by_host)?;
                let reply = if is_of_wire { vni::REPLY_WIRE } else { vni::REPLY_NODE };
                let back = Back { way: Way::Tunnel, link: 0, node, vni: reply, mac: src };
                self.accept(packet, number, &backend, target_port, Origin::Peer(node), back, packet.key.src)?
            }
        };
        self.by_flow(packet, &flow)
    }

    fn by_flow(&mut self, packet: &Packet, flow: &Flow) -> Step<Action> {
        let peer = self.peer_of(flow)?;
        self.rewrite(packet, flow, packet.key.src)?;
        self.deliver(flow, peer.as_ref(), 0)
    }

    /// The port that a call means at this backend; 0: its own. Only a node's host calls VIPs and tasks this way.
    fn called_port(&self, packet: &Packet, backend: &Backend, by_host: bool) -> Step<u16> {
        let key = packet.key;
        let wrong = Err(Stop::Drop("not-published"));
        if let Some(frontend) = self.world.vips.get(&key.dst) {
            return if by_host && frontend.pool == backend.pool { Ok(0) } else { wrong };
        }
        if self.world.endpoints.contains_key(&key.dst) {
            return if by_host && key.dst == of_family(backend.addrs, key.dst) { Ok(0) } else { wrong };
        }
        match self.published(key.dst, key.dport, key.protocol) {
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
        let key = packet.key;
        self.published(key.src, key.sport, key.protocol).map(|_| own.link).ok_or(forged)
    }

    fn reply(&mut self, packet: &Packet, id: u32) -> Step<Action> {
        if id == vni::REPLY_NODE {
            return self.reply_to_node(packet);
        }
        let link = self.leaves_by(packet)?;
        self.note_end(packet);
        self.hand_to_uplink(link, mac_at(&self.frame, 0))
    }

    /// An answer that ends its connection: the entry of the call, where this node only hands on, knows.
    pub fn note_end(&mut self, packet: &Packet) {
        let ends = packet.flags & (read::FIN | read::RST);
        let call = packet.key.turned();
        if let Some(mut flow) = self.flow(&call).filter(|flow| ends != 0 && flow.rewrite == Side::None) {
            flow.note(ends);
            self.put(call, flow);
        }
    }

    fn reply_to_node(&mut self, packet: &Packet) -> Step<Action> {
        let (key, world) = (packet.key, self.world);
        let is_frontend = (self.published(key.src, key.sport, key.protocol).is_some()
            && world.addresses.contains_key(&key.src))
            || world.vips.contains_key(&key.src)
            || world.endpoints.contains_key(&key.src);
        if !is_frontend {
            return Err(Stop::Drop("forged-reply"));
        }
        self.note_end(packet);
        match mac::read(mac_at(&self.frame, 0)) {
            Some((mac::KIND_HOST, _)) if world.addresses.get(&key.dst).is_some_and(|it| it.is_own) => {
                Ok(self.hand_to_host())
            }
            Some((mac::KIND_HOST, _)) => Err(Stop::Drop("forged-reply")),
            Some((mac::KIND_CLIENT, number)) => match world.backends.get(&number) {
                Some(client) if client.link != 0 && of_family(client.addrs, key.dst) == key.dst => {
                    Ok(self.hand_to_task(client.mac))
                }
                _ => Err(Stop::Drop("endpoint-gone")),
            },
            _ => Err(Stop::Drop("wire-format")),
        }
    }
}
