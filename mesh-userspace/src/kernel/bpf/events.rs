//! What the programs tell of packets while somebody listens: the ring buffer's reading end, and the words that switch it on.
//!
//! Invariant: one reader (the ring buffer has one place to read from). What was not told is counted.

use std::ptr;

use aya::maps::{Array, Map, MapData, MapError, PerCpuArray, RingBuf};
use mesh_common::schema::{Config, Event, Watched};

use super::pin::chain;
use super::tables::{map_error, missing};
use super::{BpfError, Dataplane};

/// The reading end.
pub struct Events {
    ring: RingBuf<MapData>,
    watched: PerCpuArray<MapData, Watched>,
}

impl Dataplane {
    /// The reading end, for the only one who reads.
    pub fn events(&self) -> Result<Events, BpfError> {
        Events::open(|name| MapData::from_pin(self.dir.join("maps").join(name)))
    }

    /// Tells the programs to tell of drops until this second of their clock, and of each `sample`th packet (0: of none). Second 0: of nothing.
    /// A change of the node's facts ends it, so whoever listens says it again and again.
    pub fn watch(&mut self, sample: u32, until_s: u32) -> Result<(), BpfError> {
        let map = self.ebpf.map_mut("CONFIG").ok_or_else(|| missing("CONFIG"))?;
        let mut map = Array::<&mut MapData, Config>::try_from(map).map_err(map_error("open", "CONFIG"))?;
        let config = map.get(&0, 0).map_err(map_error("read", "CONFIG"))?;
        let config = Config { watch_until_s: until_s, watch_sample: sample, ..config };
        map.set(0, config, 0).map_err(map_error("write", "CONFIG"))
    }
}

impl Events {
    /// Of maps by their names, wherever they are.
    pub fn open(map: impl Fn(&'static str) -> Result<MapData, MapError>) -> Result<Self, BpfError> {
        let failed = |map, error: &MapError| BpfError::Map { attempt: "open", map, reason: chain(error) };
        let open = |name: &'static str| map(name).map_err(|error| failed(name, &error));
        let ring = RingBuf::try_from(Map::RingBuf(open("EVENTS")?)).map_err(|error| failed("EVENTS", &error))?;
        let watched =
            PerCpuArray::try_from(Map::PerCpuArray(open("WATCHED")?)).map_err(|error| failed("WATCHED", &error))?;
        Ok(Events { ring, watched })
    }

    /// Hands over what was told since.
    pub fn take(&mut self, mut each: impl FnMut(Event)) {
        while let Some(record) = self.ring.next() {
            if record.len() >= size_of::<Event>() {
                // SAFETY: as many bytes as an event has, of which any are one.
                each(unsafe { ptr::read_unaligned(record.as_ptr().cast::<Event>()) });
            }
        }
    }

    /// Events that could not be told, since the maps were made.
    pub fn lost(&self) -> Result<u64, BpfError> {
        let cpus = self.watched.get(&0, 0).map_err(map_error("read", "WATCHED"))?;
        Ok(cpus.iter().map(|watched| watched.lost).sum())
    }
}
