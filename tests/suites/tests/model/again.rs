//! What came back from the node of a task that is gone: docs/reference/wire.md, "Choosing again".

use super::ingress::{Back, Call, Entry};
use super::read::{self, Packet, TCP, mac_at};
use super::{Action, Case, Flow, Frontend, Origin, Side, Step, Stop, Way, mac, vni};

impl Case<'_> {
    /// A call of this ingress node.
    pub fn call_again(&mut self, packet: &Packet, node: u32, id: u32) -> Step<Action> {
        let forged = Stop::Drop("forged-reply");
        let (dst, src) = (mac_at(&self.frame, 0), mac_at(&self.frame, 6));
        let Some((mac::KIND_ENDPOINT, gone)) = mac::read(dst) else { return Err(Stop::Drop("wire-format")) };
        let (entry, client) = match mac::read(src) {
            _ if id == vni::TURNED_BACK_WIRE => (Entry::Wire, 0),
            Some((mac::KIND_HOST, _)) => (Entry::Host, 0),
            Some((mac::KIND_CLIENT, number)) => (Entry::Client, number),
            _ => return Err(Stop::Drop("wire-format")),
        };
        let key = packet.key;
        let chosen = self.flow(&key).filter(|it| !it.flags.reply && packet.opens()).ok_or(forged)?;
        let mut gateway = key.src;
        let flow = if chosen.backend != gone && key.protocol != TCP {
            // It was on its way while the one before it chose again.
            chosen
        } else {
            if chosen.backend != gone || chosen.way != Way::Tunnel || chosen.node != node {
                return Err(forged);
            }
            // None: it meant that very task.
            let (frontend, target_port) = self.called(packet).ok_or(Stop::Drop("endpoint-gone"))?;
            let back = match entry {
                Entry::Wire => Back { way: Way::Uplink, link: chosen.link, node: 0, vni: 0, mac: src },
                Entry::Host => Back::to_host(self.world),
                Entry::Client => {
                    let caller = self.world.endpoints.get(&key.src).filter(|it| it.number == client && it.link != 0);
                    let caller = caller.ok_or(forged)?;
                    gateway = caller.gateway;
                    Back::to_task(caller)
                }
            };
            self.forget(key);
            let call = Call { entry, from: chosen.from, target_port, back, gateway, gone };
            let mut again = self.enter(packet, &frontend, &call)?;
            if again.way == Way::Tunnel {
                // This one packet; later ones are ordinary.
                again.vni += vni::SECOND_CHANCE_WIRE - vni::REQUEST_WIRE;
            }
            again
        };
        let peer = self.peer_again(&flow)?;
        self.rewrite(packet, &flow, gateway)?;
        self.deliver(&flow, peer.as_ref(), client)
    }

    /// Whom a call named, and the port that it means there; 0: the packet's own.
    fn called(&self, packet: &Packet) -> Option<(Frontend, u16)> {
        let key = packet.key;
        let published = self.published(key.dst, key.dport, key.protocol);
        match published.filter(|_| self.world.addresses.contains_key(&key.dst)) {
            Some(frontend) => Some((frontend.clone(), frontend.target_port)),
            None => self.world.vips.get(&key.dst).map(|frontend| (frontend.clone(), 0)),
        }
    }

    /// A task's call that this node translated: the choice is undone first.
    pub fn vip_again(&mut self, packet: &Packet, node: u32) -> Step<Action> {
        let world = self.world;
        let target = world.endpoints.get(&packet.key.dst).filter(|it| !it.is_gateway && it.node == node);
        let gone = target.ok_or(Stop::Drop("no-endpoint"))?.number;
        let source = world.endpoints.get(&packet.key.src).filter(|it| !it.is_gateway && it.link != 0);
        let source = source.ok_or(Stop::Drop("forged-reply"))?;
        // The answer's entry knows what was called.
        let called = self.flow(&packet.key.turned()).ok_or(Stop::Drop("no-endpoint"))?;
        let is_call = called.rewrite == Side::Source && called.link == source.link && called.backend == gone;
        if !is_call || !packet.opens() {
            return Err(Stop::Drop("no-endpoint"));
        }
        let mut undo = Flow::new(Origin::Stack, Way::Task);
        undo.rewrite = Side::Destination;
        (undo.addr, undo.port, undo.other_port) = (called.addr, called.port, called.other_port);
        self.rewrite(packet, &undo, source.gateway)?;
        let dst = mac_at(&self.frame, 0);
        self.macs(dst, mac::SECOND_CHANCE);
        let packet = read::packet(&self.frame).ok_or(Stop::Drop("malformed"))?;
        let flow = match self.flow(&packet.key).filter(|it| it.backend != gone) {
            Some(chosen) => chosen,
            None => {
                let (frontend, target_port) = self.called(&packet).ok_or(Stop::Drop("no-endpoint"))?;
                self.forget(packet.key);
                let mut again = self.enter_vip(&packet, source, &frontend, target_port, gone)?;
                again.flags.keep_mac = true;
                again
            }
        };
        let peer = self.peer_again(&flow)?;
        self.rewrite(&packet, &flow, source.gateway)?;
        self.deliver(&flow, peer.as_ref(), source.number)
    }
}
