//! The kernel's part of the BPF maps, in memory: operations in, tables out, and at every single step the look of a packet that comes just
//! then. `RINGS` is one array as in the kernel, so a list that lands on another one is seen.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mesh_common::schema::{Frontend, RingSlot};
use mesh_userspace::plan::maps::{Entry, MapOp, Tables};

type FrontendOf = Frontend<IpAddr>;

/// One node's maps.
#[derive(Clone, Debug, Default)]
pub struct Maps {
    /// All but `RINGS`: its lists are read out of the array.
    entries: Tables,
    rings: BTreeMap<u32, RingSlot>,
}

impl Maps {
    /// What the maps hold, read as `kernel::bpf` reads them.
    pub fn tables(&self) -> Tables {
        let mut tables = self.entries.clone();
        for frontend in self.entries.frontends.values().filter(|frontend| frontend.turns_len != 0) {
            tables.rings.insert(frontend.turns_at, self.slots(frontend.turns_at, frontend.turns_len).into());
            tables.rings.insert(frontend.ring_at, self.slots(frontend.ring_at, frontend.ring_len).into());
        }
        tables
    }

    /// Slots never written are zero, as in an array of the kernel.
    fn slots(&self, at: u32, len: u32) -> Vec<RingSlot> {
        (at..at + len).map(|slot| self.rings.get(&slot).copied().unwrap_or_default()).collect()
    }

    /// Applies the operations one by one. The error says after which one a packet would have been led astray.
    pub fn apply(&mut self, ops: &[MapOp], wanted: &Tables) -> Result<(), String> {
        let before = self.clone();
        for op in ops {
            self.write(op.clone());
            self.look(&before, wanted).map_err(|error| format!("after `{op}`: {error}"))?;
        }
        // A program that read a frontend just before still follows it.
        for frontend in before.entries.frontends.values() {
            if before.lists(frontend) != self.lists(frontend) {
                return Err(format!("the lists of pool {} were overwritten under a reader", frontend.pool));
            }
        }
        let now = self.tables();
        if now != *wanted {
            return Err(format!("applying the difference gave {now:#?} instead of {wanted:#?}"));
        }
        Ok(())
    }

    fn lists(&self, frontend: &FrontendOf) -> (Vec<RingSlot>, Vec<RingSlot>) {
        let Frontend { turns_at, turns_len, ring_at, ring_len, .. } = *frontend;
        (self.slots(turns_at, turns_len), self.slots(ring_at, ring_len))
    }

    /// What every packet may rely on, at any moment.
    fn look(&self, before: &Maps, wanted: &Tables) -> Result<(), String> {
        let entries = &self.entries;
        for (key, frontend) in &entries.frontends {
            let lists = self.lists(frontend);
            let is_old = before.entries.frontends.get(key) == Some(frontend) && before.lists(frontend) == lists;
            let list = |at, len| {
                if len == 0 { Vec::new() } else { wanted.rings.get(at).map(|slots| slots.to_vec()).unwrap_or_default() }
            };
            let meant = (list(&frontend.turns_at, frontend.turns_len), list(&frontend.ring_at, frontend.ring_len));
            let is_new = wanted.frontends.get(key) == Some(frontend) && meant == lists;
            if !is_old && !is_new {
                return Err(format!("frontend {key:?} has neither its old nor its new lists"));
            }
            let slots = lists.0.iter().chain(&lists.1);
            let is_true = |slot: &RingSlot| entries.backends.get(&slot.backend).is_some_and(|it| it.node == slot.node);
            if let Some(slot) = slots.into_iter().find(|slot| !is_true(slot)) {
                return Err(format!("frontend {key:?} leads to {slot:?}, which is not there"));
            }
        }
        let Some(config) = entries.config else { return Ok(()) };
        let places = entries.backends.iter().map(|(number, backend)| (format!("backend {number}"), backend.node));
        let places = places.chain(entries.endpoints.iter().map(|(addr, at)| (format!("endpoint {addr:?}"), at.node)));
        for (what, node) in places.filter(|(_, node)| ![0, config.node].contains(node)) {
            if !entries.peers.contains_key(&node) {
                return Err(format!("{what} is on node {node}, which is no peer"));
            }
        }
        Ok(())
    }

    fn write(&mut self, op: MapOp) {
        match op {
            MapOp::Put(Entry::Ring(at, slots)) => self.rings.extend((at..).zip(slots.iter().copied())),
            op => self.entries.apply(&op),
        }
    }
}
