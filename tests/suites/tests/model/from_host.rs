//! What this node's own stack sends into mesh0: docs/packet-walk.md, "Host process → 127.0.0.1:8000", "DNS query", "Reachability echo".

use super::from_task::is_multicast;
use super::ingress::{Back, Call, Entry};
use super::read::{self, Form, Packet, mac_at, word};
use super::{Action, Case, Flow, Origin, Step, Stop, mac, none_like};

impl Case<'_> {
    pub fn at_host(&mut self) -> Step<Action> {
        if !self.world.is_set_up {
            return Err(Stop::Ignored);
        }
        match word(&self.frame, 12) {
            Some(read::IPV4 | read::IPV6) => self.host_packet(),
            Some(read::ECHO) => match mac::read(mac_at(&self.frame, 0)) {
                Some((mac::KIND_ECHO, node)) if self.world.peers.contains_key(&node) => Ok(self.hand_to_mesh0()),
                Some((mac::KIND_ECHO, _)) => Err(Stop::Drop("not-configured")),
                _ => Err(Stop::Drop("wire-format")),
            },
            // The stack's own chatter on a link.
            _ => Err(Stop::Ignored),
        }
    }

    fn host_packet(&mut self) -> Step<Action> {
        let packet = self.packet(Origin::Stack).ok_or(Stop::Drop("malformed"))?;
        let src = packet.key.src;
        if is_multicast(packet.key.dst) {
            return Err(Stop::Ignored);
        }
        // What this host forwards is a stranger's.
        let is_own = self.world.addresses.get(&src).is_some_and(|it| it.is_own)
            || self.world.endpoints.get(&src).is_some_and(|it| it.is_gateway);
        if !is_own {
            return Err(Stop::Drop("from-outside"));
        }
        let flow = match self.known(&packet, Origin::Stack)? {
            Some(flow) => flow,
            None if packet.form == Form::Error => return self.carry(&packet, Origin::Stack, 0),
            None => match self.host_decides(&packet)? {
                Ok(flow) => flow,
                Err(action) => return Ok(action),
            },
        };
        let peer = self.peer_of(&flow)?;
        self.rewrite(&packet, &flow, src)?;
        self.deliver(&flow, peer.as_ref(), 0)
    }

    /// A new flow, or (Err) a packet that is dealt with.
    fn host_decides(&mut self, packet: &Packet) -> Step<Result<Flow, Action>> {
        let (world, key) = (self.world, packet.key);
        if let Some(target) = world.endpoints.get(&key.dst) {
            if target.is_gateway {
                return Err(Stop::Drop("no-endpoint"));
            }
            if target.link != 0 {
                let back = Back::to_host(world);
                if let Some(flow) = self.enter_direct(packet, target.number, Origin::Stack, back, key.src)? {
                    return Ok(Ok(flow));
                }
                return Ok(Err(self.hand_to_task(target.mac)));
            }
            let chosen = (target.number, target.node);
            return Ok(Ok(self.hand_to_owner(packet, chosen, Entry::Host, Origin::Stack, 0)));
        }
        let frontend = world.vips.get(&key.dst).ok_or(Stop::Refuse("no-endpoint"))?;
        if packet.asks_echo() && !frontend.turns.is_empty() {
            return Ok(Err(self.answer_echo(packet)));
        }
        match packet.form {
            Form::Fragment => return Err(Stop::Drop("fragment")),
            Form::EchoReply => return Err(Stop::Drop("icmp-error")),
            _ => {}
        }
        let call = Call {
            entry: Entry::Host,
            from: Origin::Stack,
            target_port: 0,
            back: Back::to_host(world),
            gateway: none_like(key.src),
            gone: 0,
        };
        self.enter(packet, frontend, &call).map(Ok)
    }
}
