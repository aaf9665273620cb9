//! Which backend a new flow gets: docs/packet-walk.md, "Task → VIP", step 4; decision 0025 for affinity.

use super::read::Packet;
use super::sums::{hash, hash_of_client, port_of_ours, slot};
use super::{Algorithm, Case, Change, Flow, Frontend, Kept, Key, Side, Slot, Step, Stop, of_family};

/// So many backends are asked for.
const TWINS: usize = 8;

impl Case<'_> {
    /// The backend and its node, but not `gone` (0: nobody).
    pub fn choose(&mut self, frontend: &Frontend, packet: &Packet, gone: u32) -> Step<Slot> {
        if frontend.turns.is_empty() {
            return Err(Stop::Refuse("no-backend"));
        }
        if frontend.algorithm == Algorithm::Client {
            let number = self.by_client(frontend, packet, gone);
            if number == gone {
                return Err(Stop::Drop("endpoint-gone"));
            }
            return match self.world.backends.get(&number) {
                Some(backend) => Ok((number, backend.node)),
                None => Err(Stop::Drop("not-configured")),
            };
        }
        if !packet.opens()
            && let Some(chosen) = self.by_twin(frontend, packet)
        {
            return Ok(chosen);
        }
        let chosen = match frontend.algorithm {
            _ if !packet.opens() => ring(frontend, packet),
            Algorithm::Maglev | Algorithm::MaglevOfAllowed => ring(frontend, packet),
            Algorithm::Random => {
                self.lots = frontend.turns.len();
                frontend.turns[self.lot % frontend.turns.len()]
            }
            _ => {
                let turn = self.world.turns.get(&frontend.pool).copied().unwrap_or(0);
                self.changes.push(Change::Turn(frontend.pool));
                frontend.turns[(turn % frontend.turns.len() as u64) as usize]
            }
        };
        if chosen.0 != gone {
            return Ok(chosen);
        }
        let other = another(frontend, chosen);
        if other.0 == gone { Err(Stop::Drop("endpoint-gone")) } else { Ok(other) }
    }

    /// Where the entry of a call is lost, that of its answers may still be there: the first of the ready backends is asked for.
    fn by_twin(&self, frontend: &Frontend, packet: &Packet) -> Option<Slot> {
        let key = packet.key;
        let port = if frontend.target_port == 0 { key.dport } else { frontend.target_port };
        frontend.turns.iter().take(TWINS).copied().find(|(number, _)| {
            let Some(backend) = self.world.backends.get(number) else { return false };
            let addr = of_family(backend.addrs, key.src);
            let answers = Key { src: addr, sport: port, dst: key.src, dport: key.sport, ..key };
            self.flow(&answers).is_some_and(|it| answers_call(&it, &key))
        })
    }

    /// The answers to this call stand under the port that it was given first where this tuple of theirs was taken.
    pub fn has_another_port(&self, packet: &Packet, answers: Key) -> bool {
        let given = Key { dport: port_of_ours(hash(&packet.key), 0), ..answers };
        self.flow(&given).is_some_and(|it| answers_call(&it, &packet.key) && it.other_port == packet.key.sport)
    }

    fn by_client(&mut self, frontend: &Frontend, packet: &Packet, gone: u32) -> u32 {
        let key = (packet.key.src, frontend.pool);
        if let Some(kept) = self.world.kept.get(&key).copied() {
            let backend = self.world.backends.get(&kept.backend);
            let is_ready = backend.is_some_and(|backend| backend.pool == frontend.pool && backend.is_ready);
            if kept.backend != gone && (kept.is_fresh || !packet.opens()) && is_ready {
                if packet.opens() {
                    self.keep(frontend, packet, kept.backend);
                }
                return kept.backend;
            }
        }
        let chosen = frontend.ring[slot(hash_of_client(packet.key.src), frontend.ring.len())];
        let number = if chosen.0 == gone { another(frontend, chosen).0 } else { chosen.0 };
        if packet.opens() && number != gone {
            self.keep(frontend, packet, number);
        }
        number
    }

    /// The client stays with this one.
    pub fn keep(&mut self, frontend: &Frontend, packet: &Packet, backend: u32) {
        if frontend.algorithm == Algorithm::Client {
            self.changes.push(Change::Kept((packet.key.src, frontend.pool), Kept { backend, is_fresh: true }));
        }
    }
}

pub fn ring(frontend: &Frontend, packet: &Packet) -> Slot {
    frontend.ring[slot(hash(&packet.key), frontend.ring.len())]
}

/// Whom the ring names for a call, or for its client where that counts.
pub fn ring_of(frontend: &Frontend, call: &Key) -> Slot {
    let is_by_client = frontend.algorithm == Algorithm::Client;
    let hash = if is_by_client { hash_of_client(call.src) } else { hash(call) };
    frontend.ring[slot(hash, frontend.ring.len())]
}

/// A ready backend other than this one, if there is one.
pub fn another(frontend: &Frontend, than: Slot) -> Slot {
    frontend.turns.iter().take(2).copied().find(|slot| slot.0 != than.0).unwrap_or(than)
}

/// The entry is that of live answers to what was called here.
fn answers_call(flow: &Flow, called: &Key) -> bool {
    flow.flags.reply
        && !flow.flags.dead
        && flow.rewrite == Side::Source
        && (flow.addr, flow.port) == (called.dst, called.dport)
}
