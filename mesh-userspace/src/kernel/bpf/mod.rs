//! The packet programs and their maps in the kernel: loaded, pinned, adopted, attached, written, read. The only room that knows aya.
//!
//! Everything is pinned under `<bpf dir>/v<layout>/{maps,progs,links}`, so that packets go on without the agent and the next agent finds
//! what the last one left: maps of the same layout are adopted (checked by us: aya opens whatever is pinned), programs are swapped under
//! the pinned links in one step, and likewise in filters, where the kernel has no TCX. Invariant: between any two steps here the data plane is whole. Must not: decide anything.

mod attach;
mod batch;
pub mod clock;
mod ends;
mod events;
mod filters;
mod flood;
mod flows;
mod jumps;
mod load;
mod lookups;
mod orders;
mod pin;
mod pressure;
mod size;
pub mod survey;
mod tables;
mod xdp;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, Map, MapData, PerCpuArray};
use aya::{Ebpf, EbpfLoader, VerifierLogLevel};
use mesh_common::schema::{Echo, LAYOUT_VERSION};
use mesh_common::verdict::{DropReason, Hook, STRIDE};

use crate::kernel::filter::Filters;

pub use attach::Attachment;
pub use ends::{End, Standing};
pub use events::Events;
pub use filters::TcWay;
pub use flood::FloodSeen;
pub use flows::{FlowSeen, FlowTable, Swept};
pub use lookups::Lookups;
pub use pin::check_file_system;
pub use size::FlowSizes;
pub use xdp::{XdpAttachment, XdpError};

/// The compiled programs, as `cargo xtask build-ebpf` made them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("MESH_EBPF_OBJECT_PATH"));

/// What went wrong with the programs or maps.
#[derive(Debug, thiserror::Error)]
pub enum BpfError {
    /// The pin directory is not on a BPF file system.
    #[error(
        "{dir} is not on a BPF file system: mount one with 'mount -t bpf bpf /sys/fs/bpf', or name another with --bpf-dir"
    )]
    NoBpffs { dir: String },
    /// Something on disk or bpffs could not be read or written.
    #[error("{attempt} at {path}: {source}")]
    Path { attempt: &'static str, path: String, source: std::io::Error },
    /// A map pinned by another build has another shape.
    #[error(
        "the pinned map {path} has {found}, this build needs {needed}: stop the other agent, or remove its maps with 'mesh purge'"
    )]
    Layout { path: String, found: String, needed: String },
    /// Programs of another layout version are at work.
    #[error(
        "the packet programs pinned at {dir} are another version's: their maps have layout {found}, this mesh has v{LAYOUT_VERSION}. Nothing was changed. \
         Go back to the version that pinned them, or take them out with 'mesh purge' (its tasks end, its cluster is left) and start again"
    )]
    OtherVersion { dir: String, found: String },
    /// The kernel refused to load the programs.
    #[error(
        "load the packet programs: {0}; 'mesh doctor' tells what this kernel lacks (6.1 or newer with BTF is needed)"
    )]
    Load(String),
    /// A program could not be attached.
    #[error("attach {program} to {target}: {reason}")]
    Attach { program: String, target: String, reason: String },
    /// A map could not be read or written.
    #[error("{attempt} the map {map}: {reason}")]
    Map { attempt: &'static str, map: &'static str, reason: String },
}

/// The data plane of one node.
pub struct Dataplane {
    ebpf: Ebpf,
    dir: PathBuf,
    /// By links, by their pins.
    attached: BTreeMap<String, Attachment>,
    /// As filters, by the same names.
    filtered: BTreeMap<String, Attachment>,
    tc: TcWay,
    filters: Box<dyn Filters>,
    xdp: xdp::XdpState,
}

impl Dataplane {
    /// Loads the programs over new or adopted maps, swaps them under links that an earlier agent pinned, and hooks the host's sockets in
    /// `cgroup`. Flow tables that are pinned already keep their size. Devices are those of the thread's network namespace.
    pub fn open(
        bpf_dir: &Path,
        cgroup: &Path,
        flows: FlowSizes,
        tc: TcWay,
        filters: Box<dyn Filters>,
    ) -> Result<Self, BpfError> {
        let dir = bpf_dir.join(format!("v{LAYOUT_VERSION}"));
        pin::check_file_system(bpf_dir)?;
        pin::check_alone(bpf_dir, &dir)?;
        pin::prepare(bpf_dir, &dir)?;
        let mut loader = EbpfLoader::new();
        loader.verifier_log_level(VerifierLogLevel::STATS);
        let clock = clock::of_this_kernel();
        loader.override_global("CLOCK", &clock, true);
        for spec in pin::MAPS {
            let path = dir.join("maps").join(spec.name);
            pin::check(spec, &path)?;
            loader.map_pin_path(spec.name, path);
        }
        loader.map_max_entries("RINGS", size::ring_slots(size::memory_bytes()));
        loader.map_max_entries("EARLY", size::early(size::possible_cpus()));
        for (names, wanted) in [(flows::TABLES4, flows), (flows::TABLES6, flows.beside())] {
            let sizes = wanted.pinned_or(&dir.join("maps"), names)?;
            loader.map_max_entries(names[0], sizes.table).map_max_entries(names[1], sizes.overflow);
        }
        let mut ebpf = loader.load(OBJECT).map_err(|error| BpfError::Load(pin::chain(&error)))?;
        load::all(&mut ebpf)?;
        let (attached, filtered) = (BTreeMap::new(), BTreeMap::new());
        let mut dataplane = Dataplane { ebpf, dir, attached, filtered, tc, filters, xdp: xdp::XdpState::default() };
        dataplane.pin_programs()?;
        jumps::fill(&mut dataplane.ebpf)?;
        dataplane.adopt_links()?;
        dataplane.adopt_filters()?;
        dataplane.adopt_xdp();
        dataplane.hook_sockets(cgroup)?;
        Ok(dataplane)
    }

    /// The directory that holds maps, programs and links of this layout.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The last answers of peers to the reachability echo, by node number.
    pub fn echoes(&self) -> Result<BTreeMap<u32, Echo>, BpfError> {
        let Some(Map::HashMap(map)) = self.ebpf.map("ECHOES") else { return Err(tables::missing("ECHOES")) };
        let mut echoes = BTreeMap::new();
        batch::for_each::<256, _, _>(map, |node: u32, echo: Echo| {
            echoes.insert(node, echo);
        })
        .map_err(|error| BpfError::Map { attempt: "read", map: "ECHOES", reason: error.to_string() })?;
        Ok(echoes)
    }

    /// The last answer of the node with this number, if it ever gave one.
    pub fn echo(&self, node: u32) -> Result<Option<Echo>, BpfError> {
        match self.hash::<u32, Echo>("ECHOES")?.get(&node, 0) {
            Ok(echo) => Ok(Some(echo)),
            Err(aya::maps::MapError::KeyNotFound) => Ok(None),
            Err(error) => Err(tables::map_error("read", "ECHOES")(error)),
        }
    }

    /// Drops so far by hook and reason, zeros left out.
    pub fn drops(&self) -> Result<Vec<(Hook, DropReason, u64)>, BpfError> {
        let map = self.ebpf.map("DROPS").ok_or_else(|| tables::missing("DROPS"))?;
        let map = PerCpuArray::<&MapData, u64>::try_from(map).map_err(tables::map_error("open", "DROPS"))?;
        let mut counters = Vec::new();
        for hook in Hook::ALL {
            for reason in DropReason::ALL {
                let index = hook as u32 * STRIDE + *reason as u32;
                let values = map.get(&index, 0).map_err(tables::map_error("read", "DROPS"))?;
                let sum: u64 = values.iter().sum();
                if sum != 0 {
                    counters.push((hook, *reason, sum));
                }
            }
        }
        Ok(counters)
    }

    fn hash<K: aya::Pod, V: aya::Pod>(&self, name: &'static str) -> Result<HashMap<&MapData, K, V>, BpfError> {
        let map = self.ebpf.map(name).ok_or_else(|| tables::missing(name))?;
        HashMap::try_from(map).map_err(tables::map_error("open", name))
    }

    fn hash_mut<K: aya::Pod, V: aya::Pod>(
        &mut self,
        name: &'static str,
    ) -> Result<HashMap<&mut MapData, K, V>, BpfError> {
        let map = self.ebpf.map_mut(name).ok_or_else(|| tables::missing(name))?;
        HashMap::try_from(map).map_err(tables::map_error("open", name))
    }

    /// Removes every link, program and map of ours; where there are no filters either, packets go as if mesh had never been here.
    pub fn purge(bpf_dir: &Path) -> Result<(), BpfError> {
        pin::remove(bpf_dir)
    }
}
