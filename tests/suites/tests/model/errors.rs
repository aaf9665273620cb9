//! ICMP errors about flows: docs/packet-walk.md, "ICMP error"; docs/reference/wire.md. What is quoted says which flow, and the error goes where answers to the
//! quoted packet go.

use super::choose::ring_of;
use super::read::{Packet, Quoted, TCP, UDP, icmp_of, quoted, word};
use super::sums::{changed, fold, pseudo, sum, sum_of};
use super::{Action, Case, Flow, Hook, Key, Origin, Side, Step, Stop, Way, mac, octets, vni};

const FITS_NOTHING: Stop = Stop::Drop("icmp-error");

impl Case<'_> {
    /// Carries an error whose sender was judged before. `from` is where it came from, by `id` where that is the tunnel.
    pub fn carry(&mut self, packet: &Packet, from: Origin, id: u32) -> Step<Action> {
        let quoted = quoted(&self.frame, packet).filter(|quoted| quoted.key.src == packet.key.dst);
        // Only from the world a router on the way may speak.
        let is_from_afar = from == Origin::World || matches!(id, vni::REQUEST_WIRE | vni::SECOND_CHANCE_WIRE);
        if quoted.is_some_and(|quoted| !is_from_afar && quoted.key.dst != packet.key.src) {
            return Err(FITS_NOTHING);
        }
        let told = quoted.and_then(|quoted| {
            let told = self.flow(&quoted.key.turned());
            told.filter(|told| told.from == from && !told.flags.dead)
        });
        let flow = match (told, quoted) {
            (Some(told), _) => told,
            (None, Some(quoted)) if from == Origin::World => self.by_ring(quoted.key.turned())?,
            _ => self.about_nothing(packet, from, id)?,
        };
        if flow.way == Way::Outside {
            self.hop(packet)?;
        }
        let peer = self.peer_of(&flow)?;
        if let Some(quoted) = quoted.filter(|_| flow.rewrite != Side::None) {
            self.translate(packet, &quoted, &flow)?;
        }
        let sender = self.world.endpoints.get(&packet.key.src).filter(|_| self.hook == Hook::Task);
        let sender = sender.map_or(0, |sender| sender.number);
        self.deliver(&flow, peer.as_ref(), sender)
    }

    /// About the answer to a call of which this ingress node remembers nothing.
    fn by_ring(&self, call: Key) -> Step<Flow> {
        let frontend = self.published(call.dst, call.dport, call.protocol).filter(|it| !it.not_taken);
        let frontend = frontend.filter(|it| !it.turns.is_empty()).ok_or(Stop::Pass)?;
        let (number, node) = ring_of(&frontend, &call);
        if node == self.world.node {
            return Err(Stop::Pass);
        }
        let mut flow = Flow::new(Origin::World, Way::Tunnel);
        (flow.flags.keep_mac, flow.node, flow.vni) = (true, node, vni::REQUEST_WIRE);
        flow.mac = mac::of(mac::KIND_ENDPOINT, number);
        Ok(flow)
    }

    /// What fits no flow: between tasks of a network, from the host to its tasks, and from a task to its host, none is needed.
    fn about_nothing(&self, packet: &Packet, from: Origin, id: u32) -> Step<Flow> {
        let world = self.world;
        if from == Origin::World {
            return Err(Stop::Pass);
        }
        let source = world.endpoints.get(&packet.key.src).filter(|_| self.hook == Hook::Task);
        let mut flow = Flow::new(from, Way::Task);
        match (world.endpoints.get(&packet.key.dst), source) {
            (Some(target), _) if !target.is_gateway => {
                let network = match from {
                    Origin::Link(_) => source.map_or(0, |source| source.vni),
                    Origin::Stack => target.vni,
                    _ => id,
                };
                if target.vni != network {
                    let is_of_task = self.hook == Hook::Task;
                    return Err(if is_of_task { Stop::Drop("other-network") } else { FITS_NOTHING });
                }
                (flow.link, flow.mac) = (target.link, target.mac);
                if target.node != world.node {
                    if self.hook != Hook::Task {
                        return Err(FITS_NOTHING);
                    }
                    (flow.way, flow.node, flow.vni) = (Way::Tunnel, target.node, target.vni);
                }
            }
            (None, Some(source)) if !source.is_internal => {
                let is_own = world.addresses.get(&packet.key.dst).is_some_and(|it| it.is_own);
                flow.way = if is_own { Way::Host } else { return Err(FITS_NOTHING) };
            }
            _ => return Err(FITS_NOTHING),
        }
        Ok(flow)
    }

    /// An error among the answers is judged as the answer that it stands for.
    pub fn stands_for(&self, packet: &Packet) -> Step<Packet> {
        let quoted = quoted(&self.frame, packet);
        let quoted = quoted.filter(|it| it.key.src == packet.key.dst && it.key.dst == packet.key.src);
        Ok(Packet { key: quoted.ok_or(FITS_NOTHING)?.key.turned(), ..*packet })
    }

    /// Error and quoted packet become what the sender of that packet knows: every checksum follows.
    fn translate(&mut self, packet: &Packet, quoted: &Quoted, told: &Flow) -> Step<()> {
        let key = packet.key;
        let gateway = self.world.endpoints.get(&key.src).map_or(key.src, |source| source.gateway);
        let (was, is) = (quoted.key, told.rewritten(quoted.key.turned(), gateway).turned());
        let before = sum(&self.frame[packet.l4..]);
        self.requote(quoted, &is)?;
        // A router's address stays, where the world is told of it; a task's is never shown.
        let src = if told.rewrite == Side::Source || key.src == was.dst { is.dst } else { key.src };
        let (mut was_sum, mut is_sum) = (before, sum(&self.frame[packet.l4..]));
        if src.is_ipv6() {
            // ICMPv6 covers the addresses (RFC 4443, 2.3).
            was_sum += sum_of(key.src) + sum_of(key.dst);
            is_sum += sum_of(src) + sum_of(is.src);
        }
        self.replace_sum(packet.l4 + 2, was_sum, is_sum);
        self.readdress(packet, src, is.src);
        Ok(())
    }

    fn requote(&mut self, quoted: &Quoted, is: &Key) -> Step<()> {
        let was = quoted.key;
        let (old, new) = (sum_of(was.src) + sum_of(was.dst), sum_of(is.src) + sum_of(is.dst));
        let addresses = [octets(is.src), octets(is.dst)].concat();
        let at = quoted.ip + if is.src.is_ipv4() { 12 } else { 8 };
        self.frame[at..at + addresses.len()].copy_from_slice(&addresses);
        if is.src.is_ipv4() {
            self.replace_sum(quoted.ip + 10, old, new);
        }
        let is_echo = was.protocol == icmp_of(was.src);
        let (old_ports, new_ports) =
            (u32::from(was.sport) + u32::from(was.dport), u32::from(is.sport) + u32::from(is.dport));
        if is_echo {
            self.store(quoted.l4 + 4, is.sport | is.dport);
        } else if (was.sport, was.dport) != (is.sport, is.dport) {
            // Of a protocol without ports there need not be so much.
            if self.frame.len() < quoted.l4 + 4 {
                return Err(Stop::Drop("helper-failed"));
            }
            self.store(quoted.l4, is.sport);
            self.store(quoted.l4 + 2, is.dport);
        }
        let (at, covers_addresses) = match was.protocol {
            TCP => (quoted.l4 + 16, true),
            UDP => (quoted.l4 + 6, true),
            _ if is_echo => (quoted.l4 + 2, was.src.is_ipv6()),
            _ => return Ok(()),
        };
        // Eight bytes need not reach as far as TCP's, and UDP's zero says that there is none.
        let Some(field) = word(&self.frame, at).filter(|field| was.protocol != UDP || *field != 0) else {
            return Ok(());
        };
        let (mut old_sum, mut new_sum) = (old_ports, new_ports);
        if covers_addresses {
            (old_sum, new_sum) = (old_sum + old, new_sum + new);
        }
        let bare = fold(pseudo(was.src, was.dst, was.protocol, quoted.l4_len as u16));
        let is_unfinished = covers_addresses && field == bare;
        let changed = if is_unfinished {
            // A stack of this machine quotes what it was given: the bare sum over the pseudo header.
            !changed(!field, old, new)
        } else {
            match changed(field, old_sum, new_sum) {
                0 if was.protocol == UDP => 0xffff,
                changed => changed,
            }
        };
        self.store(at, changed);
        self.sums.push(at);
        Ok(())
    }
}
