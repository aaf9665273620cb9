//! The flow table: what was decided for a tuple, and remembering what is decided now.

use super::read::{ACK, FIN, Packet, RST, SYN, TCP};
use super::sums::{hash, port_of_ours};
use super::{Case, Change, Flags, Flow, Key, Mac, Origin, Seen, Side, Step, Stop, Way};

impl Flow {
    /// An entry that does nothing yet.
    pub fn new(from: Origin, way: Way) -> Flow {
        Flow {
            from,
            rewrite: Side::None,
            addr: [0; 4],
            port: 0,
            other_port: 0,
            way,
            link: 0,
            node: 0,
            vni: 0,
            backend: 0,
            mac: Mac::default(),
            seen: Seen::default(),
            flags: Flags::default(),
            packets: 0,
            bytes: 0,
        }
    }

    /// A packet with these TCP flags has gone by it. A SYN begins a life.
    pub fn note(&mut self, flags: u8) {
        if flags & SYN != 0 {
            (self.seen.fin, self.seen.rst) = (false, false);
        }
        self.seen.ack |= flags & ACK != 0;
        self.seen.fin |= flags & FIN != 0;
        self.seen.rst |= flags & RST != 0;
    }

    pub fn is_closing(&self) -> bool {
        self.seen.fin || self.seen.rst
    }
}

impl Case<'_> {
    /// An entry as it is by now.
    pub fn flow(&self, key: &Key) -> Option<Flow> {
        let changed = self.changes.iter().rev().find_map(|change| match change {
            Change::Flow(other, flow) if other == key => Some(flow.clone()),
            _ => None,
        });
        changed.unwrap_or_else(|| self.world.flows.get(key).cloned())
    }

    pub fn put(&mut self, key: Key, flow: Flow) {
        self.changes.push(Change::Flow(key, Some(flow)));
    }

    pub fn forget(&mut self, key: Key) {
        self.changes.push(Change::Flow(key, None));
    }

    /// The entry by which a packet from `from` goes; None: it is to be decided.
    pub fn known(&mut self, packet: &Packet, from: Origin) -> Step<Option<Flow>> {
        let Some(mut flow) = self.flow(&packet.key).filter(|flow| flow.from == from) else { return Ok(None) };
        if flow.flags.dead {
            self.forget(packet.key);
            return if packet.opens() { Ok(None) } else { Err(Stop::Refuse("backend-gone")) };
        }
        if flow.is_closing() && packet.key.protocol == TCP && packet.opens() {
            return Ok(None);
        }
        flow.packets += 1;
        flow.bytes += self.frame.len() as u64;
        flow.note(packet.flags);
        self.put(packet.key, flow.clone());
        Ok(Some(flow))
    }

    /// Writes both directions. Where another frontend's living flow has the answer's tuple, the source port is changed: docs/packet-walk.md, "Outside →
    /// published port, and back".
    pub fn remember_pair(&mut self, packet: &Packet, call: &mut Flow, mut answered: Key, mut answer: Flow) -> Step<()> {
        call.packets = 1;
        call.note(packet.flags);
        answer.flags.reply = true;
        if let Some(other) = self.flow(&answered) {
            let is_same = (other.addr, other.port, other.rewrite) == (answer.addr, answer.port, answer.rewrite);
            if !is_same && !other.is_closing() {
                answer.other_port = packet.key.sport;
                let hash = hash(&packet.key);
                let free = (0..4).map(|attempt| Key { dport: port_of_ours(hash, attempt), ..answered });
                answered = free.into_iter().find(|key| self.flow(key).is_none()).ok_or(Stop::Drop("table-full"))?;
                call.other_port = answered.dport;
                call.flags.port_changed = true;
            }
        }
        self.put(answered, answer);
        self.put(packet.key, call.clone());
        Ok(())
    }
}
