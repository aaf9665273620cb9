//! The flow table: what was decided for a tuple, and remembering what is decided now.

use std::net::Ipv4Addr;

use super::read::{ACK, FIN, Packet, RST, SYN, TCP, icmp_of};
use super::sums::{hash, port_of_ours};
use super::{Case, Change, Flags, Flow, Ip, Key, Mac, Origin, Seen, Side, Step, Stop, Way};

impl Flow {
    /// An entry that does nothing yet.
    pub fn new(from: Origin, way: Way) -> Flow {
        Flow {
            from,
            rewrite: Side::None,
            addr: Ip::V4(Ipv4Addr::UNSPECIFIED),
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

    /// A tuple by this entry: what it is when it leaves. `gateway` is whom a task sees that has called itself. A port of 0 keeps the one that is there; an
    /// identifier of 0 is one like any other.
    pub fn rewritten(&self, key: Key, gateway: Ip) -> Key {
        let is_echo = key.protocol == icmp_of(key.src);
        let or = |new: u16, old: u16| if new == 0 { old } else { new };
        let port = |old: u16| if is_echo { self.port } else { or(self.port, old) };
        match self.rewrite {
            Side::None => key,
            Side::Destination => Key {
                src: if self.flags.hairpin { gateway } else { key.src },
                dst: self.addr,
                sport: or(self.other_port, key.sport),
                dport: port(key.dport),
                ..key
            },
            Side::Source => Key {
                src: self.addr,
                // What called itself gets its own answer.
                dst: if self.flags.hairpin { key.src } else { key.dst },
                sport: port(key.sport),
                dport: or(self.other_port, key.dport),
                ..key
            },
        }
    }

    /// The packet that it was decided for is counted, by the length that its IP header says.
    pub fn count_first(&mut self, packet: &Packet) {
        (self.packets, self.bytes) = (1, packet.frame_len());
        self.note(packet.flags);
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

    /// Writes both directions. Where another frontend's flow has the answer's tuple, the source port is changed: docs/packet-walk.md, "Outside →
    /// published port, and back".
    pub fn remember_pair(&mut self, packet: &Packet, call: &mut Flow, mut answered: Key, mut answer: Flow) -> Step<()> {
        call.count_first(packet);
        answer.flags.reply = true;
        let is_taken = |case: &Self, key: &Key, answer: &Flow| {
            let what = |it: &Flow| (it.addr, it.port, it.other_port, it.rewrite);
            case.flow(key).is_some_and(|other| what(&other) != what(answer))
        };
        if is_taken(self, &answered, &answer) {
            answer.other_port = packet.key.sport;
            let hash = hash(&packet.key);
            let mut free = (0..4).map(|attempt| Key { dport: port_of_ours(hash, attempt), ..answered });
            answered = free.find(|key| !is_taken(self, key, &answer)).ok_or(Stop::Drop("table-full"))?;
            // What has no port keeps none.
            if packet.key.sport != 0 {
                call.other_port = answered.dport;
                call.flags.port_changed = true;
            }
        }
        self.put(answered, answer);
        self.put(packet.key, call.clone());
        Ok(())
    }
}
