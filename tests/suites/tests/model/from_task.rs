//! What a task sends: docs/packet-walk.md, "Task → VIP", "Task → node address", "Task → outside", "DNS query", "ARP".

use super::ingress::{Back, Call, Entry};
use super::read::{self, Form, Packet, TCP, UDP, ip_at, mac_at, word};
use super::sums::{hash, port_of_ours};
use super::{
    Action, Case, Endpoint, Flow, Frontend, Ip, Key, Origin, Side, Step, Stop, Way, mac, octets, of_family, share,
};

/// Multicast; of IPv4 broadcast too, and whatever begins so.
pub fn is_multicast(addr: Ip) -> bool {
    match addr {
        Ip::V4(addr) => addr.octets()[0] >= 224,
        Ip::V6(addr) => addr.is_multicast(),
    }
}

impl Case<'_> {
    pub fn at_task(&mut self) -> Step<Action> {
        match word(&self.frame, 12) {
            Some(read::IPV4 | read::IPV6) => self.task_packet(),
            Some(read::ARP) => self.arp(),
            _ => Err(Stop::Drop("unsupported")),
        }
    }

    fn task_packet(&mut self) -> Step<Action> {
        if !self.world.is_set_up {
            return Err(Stop::Drop("not-configured"));
        }
        let packet = self.packet(Origin::Link(self.link)).ok_or(Stop::Drop("malformed"))?;
        self.brings(&packet, Origin::Link(self.link));
        let (flow, gateway, number) = match self.known(&packet, Origin::Link(self.link))? {
            Some(flow) if flow.flags.hairpin || flow.flags.from_client => {
                let sender = self.sender(packet.key.src)?;
                (flow, sender.gateway, sender.number)
            }
            Some(flow) => (flow, packet.key.src, 0),
            None => {
                let sender = self.sender(packet.key.src)?;
                match self.task_decides(&packet, &sender)? {
                    Ok(flow) => (flow, sender.gateway, sender.number),
                    Err(action) => return Ok(action),
                }
            }
        };
        if flow.way == Way::Outside {
            self.hop(&packet)?;
        }
        let peer = self.peer_of(&flow)?;
        self.rewrite(&packet, &flow, gateway)?;
        self.deliver(&flow, peer.as_ref(), number)
    }

    /// The task of this link, if the source is really its own.
    fn sender(&self, src: Ip) -> Step<Endpoint> {
        let sender = self.world.endpoints.get(&src).filter(|it| !it.is_gateway && it.link == self.link);
        let sender = sender.ok_or(Stop::Drop("spoofed-source"))?;
        if sender.mac == mac_at(&self.frame, 6) { Ok(sender.clone()) } else { Err(Stop::Drop("spoofed-mac")) }
    }

    /// A new flow, or (Err) a packet that is dealt with.
    fn task_decides(&mut self, packet: &Packet, sender: &Endpoint) -> Step<Result<Flow, Action>> {
        let dst = packet.key.dst;
        if is_multicast(dst) {
            return Err(Stop::Drop("multicast"));
        }
        if packet.form == Form::Error {
            return self.carry(packet, Origin::Link(self.link), 0).map(Err);
        }
        if let Some(target) = self.world.endpoints.get(&dst).cloned() {
            return self.task_to_endpoint(packet, sender, &target);
        }
        self.waits(packet, Origin::Link(self.link), Stop::Drop("fragment"))?;
        if let Some(frontend) = self.world.vips.get(&dst).cloned() {
            if frontend.vni != sender.vni {
                return Err(Stop::Refuse("other-network"));
            }
            if packet.asks_echo() && !frontend.turns.is_empty() {
                return Ok(Err(self.answer_echo(packet)));
            }
            return self.enter_vip(packet, sender, &frontend, 0, 0).map(Ok);
        }
        if let Some(address) = self.world.addresses.get(&dst).cloned() {
            if packet.key.protocol == UDP && packet.key.dport == self.world.data_port {
                return Err(Stop::Drop("data-port"));
            }
            if packet.form == Form::Ports && !sender.is_internal {
                let published = self.published(dst, packet.key.dport, packet.key.protocol);
                if let Some(frontend) = published.filter(|it| !(address.is_own && it.not_taken)) {
                    let call = Call {
                        entry: Entry::Client,
                        from: Origin::Link(self.link),
                        target_port: frontend.target_port,
                        back: Back::to_task(sender),
                        gateway: sender.gateway,
                        gone: 0,
                    };
                    return self.enter(packet, &frontend, &call).map(Ok);
                }
            }
            if address.is_own && !sender.is_internal {
                return Ok(Err(self.hand_to_host()));
            }
        }
        if share(sender.gateway, dst, sender.prefix_len.into()) {
            return Err(Stop::Refuse("no-endpoint"));
        }
        if sender.is_internal {
            return Err(Stop::Drop("internal"));
        }
        self.leave(packet, sender).map(Ok)
    }

    /// To a task or the gateway of a network.
    fn task_to_endpoint(
        &mut self,
        packet: &Packet,
        sender: &Endpoint,
        target: &Endpoint,
    ) -> Step<Result<Flow, Action>> {
        if target.vni != sender.vni {
            return Err(Stop::Refuse("other-network"));
        }
        if target.is_gateway {
            return match packet.form {
                _ if packet.asks_echo() => Ok(Err(self.answer_echo(packet))),
                Form::Ports if packet.key.dport == 53 => Ok(Err(self.hand_to_host())),
                Form::Ports => Err(Stop::Refuse("closed-port")),
                _ => Err(Stop::Drop("unsupported")),
            };
        }
        if let Some(flow) =
            self.enter_direct(packet, target.number, Origin::Link(sender.link), Back::to_task(sender), sender.gateway)?
        {
            return Ok(Ok(flow));
        }
        if target.node == self.world.node {
            return Ok(Err(self.hand_to_task(target.mac)));
        }
        let peer = self.peer_for_this(target.node)?;
        Ok(Err(self.hand_to_peer(&peer, target.vni, target.mac, Some(mac::GATEWAY))))
    }

    /// A call to a task by its own address: remembered where another call has, or had, its ports.
    pub fn enter_direct(
        &mut self,
        packet: &Packet,
        number: u32,
        from: Origin,
        back: Back,
        gateway: Ip,
    ) -> Step<Option<Flow>> {
        if packet.form != Form::Ports || !packet.opens() {
            return Ok(None);
        }
        let meets_another = match self.flow(&packet.key.turned()) {
            Some(other) => other.flags.reply,
            None => packet.key.protocol == TCP && self.flow(&packet.key).is_some(),
        };
        let backend = self.world.backends.get(&number).filter(|_| meets_another).cloned();
        let Some(backend) = backend else { return Ok(None) };
        self.accept(packet, number, &backend, 0, from, back, gateway).map(Some)
    }

    /// A task's call that its own node translates; `gone` is not chosen, and `target_port` 0 keeps the packet's.
    pub fn enter_vip(
        &mut self,
        packet: &Packet,
        sender: &Endpoint,
        frontend: &Frontend,
        target_port: u16,
        gone: u32,
    ) -> Step<Flow> {
        match packet.form {
            Form::Fragment => return Err(Stop::Drop("fragment")),
            Form::EchoReply => return Err(Stop::Drop("icmp-error")),
            _ => {}
        }
        let mut chosen = self.choose(frontend, packet, gone)?;
        if chosen.0 == sender.number && frontend.turns.len() > 1 {
            // A task that calls its own service gets another one.
            let other = super::choose::another(frontend, chosen);
            if other.0 != gone {
                chosen = other;
                self.keep(frontend, packet, other.0);
            }
        }
        let number = chosen.0;
        let backend = self.world.backends.get(&number).cloned().ok_or(Stop::Drop("not-configured"))?;
        let back = Back::to_task(sender);
        self.accept(packet, number, &backend, target_port, Origin::Link(sender.link), back, sender.gateway)
    }

    /// To the outside: source address and port become the node's.
    fn leave(&mut self, packet: &Packet, sender: &Endpoint) -> Step<Flow> {
        let key = packet.key;
        match packet.form {
            Form::Ports | Form::EchoRequest => {}
            Form::Fragment => return Err(Stop::Drop("fragment")),
            _ => return Err(Stop::Drop("unsupported")),
        }
        if key.protocol == UDP && key.dport == self.world.data_port {
            return Err(Stop::Drop("data-port"));
        }
        let is_routed = !self.world.unrouted.iter().any(|(addr, bits)| share(*addr, key.dst, *bits));
        let link = is_routed.then_some(self.world.way_out).ok_or(Stop::Refuse("no-route"))?;
        let uplink = self.world.uplinks.get(&link).ok_or(Stop::Refuse("no-route"))?.clone();
        let own = of_family(uplink.addrs, key.dst);
        self.outlives(packet)?;
        let hash = hash(&key);
        let dport = if packet.form == Form::EchoRequest { 0 } else { key.dport };
        let answered = (0..16)
            .map(|attempt| {
                let dst_port = port_of_ours(hash, attempt);
                Key { src: key.dst, dst: own, sport: dport, dport: dst_port, protocol: key.protocol }
            })
            .find(|key| self.flow(key).is_none());
        let answered = answered.ok_or(Stop::Drop("no-snat-port"))?;
        let mut answer = Flow::new(Origin::World, Way::Task);
        (answer.rewrite, answer.addr, answer.port) = (Side::Destination, key.src, key.sport);
        (answer.link, answer.mac, answer.backend, answer.flags.reply) = (sender.link, sender.mac, sender.number, true);
        self.put(answered, answer);
        let mut call = Flow::new(Origin::Link(sender.link), Way::Outside);
        (call.rewrite, call.addr, call.port) = (Side::Source, own, answered.dport);
        (call.link, call.backend) = (link, sender.number);
        call.count_first(packet);
        self.put(key, call.clone());
        Ok(call)
    }

    /// An echo request is answered in its place (RFC 792).
    pub fn answer_echo(&mut self, packet: &Packet) -> Action {
        let key = packet.key;
        self.readdress(packet, key.dst, key.src);
        // A later fragment has no type: the first one's change makes it an answer, too.
        if packet.form != Form::Fragment {
            let [request, reply] = read::echoes_of(key.src);
            self.replace_sum(packet.l4 + 2, u32::from(request) << 8, u32::from(reply) << 8);
            self.frame[packet.l4] = reply;
        }
        let (dst, src) = (mac_at(&self.frame, 0), mac_at(&self.frame, 6));
        self.macs(src, dst);
        Action::Redirect
    }

    /// Every address is at the gateway's MAC (RFC 826).
    fn arp(&mut self) -> Step<Action> {
        let arp = self.frame.get(14..42).ok_or(Stop::Drop("malformed"))?.to_vec();
        if arp[..7] != [0, 1, 8, 0, 6, 4, 0] {
            return Err(Stop::Drop("malformed"));
        }
        let (mac, src, target) = (mac_at(&arp, 8), ip_at(&arp, 14), ip_at(&arp, 24));
        if arp[7] != 1 || src == target || src.is_unspecified() {
            return Err(Stop::Ignored);
        }
        let sender = self.sender(src)?;
        if sender.mac != mac {
            return Err(Stop::Drop("spoofed-mac"));
        }
        self.macs(mac, mac::GATEWAY);
        let answer = [&[0, 1, 8, 0, 6, 4, 0, 2][..], &mac::GATEWAY, &octets(target), &mac, &octets(src)].concat();
        self.frame[14..42].copy_from_slice(&answer);
        Ok(Action::Redirect)
    }
}
