//! The compiled programs over their maps, handed on from test to test.
//!
//! The verifier needs seconds for the programs, a test milliseconds: so the rigs of a binary take the programs that an earlier one loaded, with
//! every map as if it had just been made. Those of a test that failed, and those over a flow table of another size, are not handed on.

use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result};
use aya::maps::Map;
use aya::{Ebpf, EbpfLoader};
use mesh_userspace::kernel::bpf::clock;

use super::batch;

/// Entries of the flow table that rigs have unless they ask for another.
pub(super) const FLOW_ENTRIES: u32 = 4_096;

/// Those that no rig has now.
static IDLE: Mutex<Vec<Ebpf>> = Mutex::new(Vec::new());

/// See the module.
pub(super) struct Loaded {
    /// None only while it is dropped.
    ebpf: Option<Ebpf>,
    is_handed_on: bool,
}

impl Loaded {
    /// Over empty maps, with a flow table of so many entries; programs are loaded or not.
    pub(super) fn new(flow_entries: u32) -> Result<Loaded> {
        let is_handed_on = flow_entries == FLOW_ENTRIES;
        let idle = if is_handed_on { idle(Vec::pop) } else { None };
        let ebpf = match idle {
            Some(mut ebpf) => {
                wipe(&mut ebpf)?;
                ebpf
            }
            None => open(flow_entries)?,
        };
        Ok(Loaded { ebpf: Some(ebpf), is_handed_on })
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        if let Some(ebpf) = self.ebpf.take()
            && self.is_handed_on
            && !std::thread::panicking()
        {
            idle(|all| all.push(ebpf));
        }
    }
}

impl Deref for Loaded {
    type Target = Ebpf;

    fn deref(&self) -> &Ebpf {
        self.ebpf.as_ref().expect("it is not dropped")
    }
}

impl DerefMut for Loaded {
    fn deref_mut(&mut self) -> &mut Ebpf {
        self.ebpf.as_mut().expect("it is not dropped")
    }
}

fn idle<T>(with: impl FnOnce(&mut Vec<Ebpf>) -> T) -> T {
    with(&mut IDLE.lock().unwrap_or_else(PoisonError::into_inner))
}

fn open(flow_entries: u32) -> Result<Ebpf> {
    let path = object()?;
    let clock = clock::of_this_kernel();
    EbpfLoader::new()
        .override_global("CLOCK", &clock, true)
        .map_max_entries("FLOWS4", flow_entries)
        .map_max_entries("OVERFLOW4", (flow_entries / 4).max(1_024))
        .map_max_entries("FLOWS6", flow_entries)
        .map_max_entries("OVERFLOW6", (flow_entries / 4).max(1_024))
        .map_max_entries("EARLY", 1_024)
        // Fewer than a node has: they are zeroed for each test.
        .map_max_entries("RINGS", 1 << 16)
        .load_file(&path)
        .with_context(|| format!("loading {}", path.display()))
}

/// Every map as if it had just been made; but for the programs that tail calls go on in, and constants.
fn wipe(ebpf: &mut Ebpf) -> Result<()> {
    for (name, map) in ebpf.maps_mut() {
        match map {
            _ if name.starts_with('.') => Ok(()),
            Map::ProgramArray(_) => Ok(()),
            map => batch::wipe(map),
        }
        .with_context(|| format!("emptying {name} for the next test"))?;
    }
    Ok(())
}

/// The compiled programs: named by MESH_EBPF_OBJECT (relative to the clone), or in the target directory that we run from.
fn object() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("MESH_EBPF_OBJECT") {
        return Ok(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path));
    }
    built("mesh-ebpf").context("the packet programs are not built: run `cargo xtask build-ebpf`")
}

/// An object that `cargo xtask build-ebpf` left in the target directory that we run from.
pub fn built(name: &str) -> Result<PathBuf> {
    let ourselves = std::env::current_exe().context("finding our own program")?;
    let found = ourselves.ancestors().map(|folder| folder.join("bpf").join(name)).find(|path| path.is_file());
    found.with_context(|| format!("there is no target/bpf/{name} above {}", ourselves.display()))
}
