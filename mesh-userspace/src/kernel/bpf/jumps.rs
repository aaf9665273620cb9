//! The programs that hooks go on in, put into the map `PROGRAMS` (docs/decisions/0033).
//!
//! Before a hook is attached or swapped: then every hook that runs finds all that it jumps to, be it this build's or the one before. The kernel swaps
//! an entry in one step. Must not: take an entry away; the map's end is theirs.

use aya::Ebpf;
use aya::maps::{MapData, ProgramArray};
use mesh_common::schema::program;

use super::attach::classifier;
use super::pin::chain;
use super::{BpfError, tables};

const MAP: &str = "PROGRAMS";

/// Puts each program, loaded before, at its place; what was there goes when the last packet has left it.
pub(super) fn fill(ebpf: &mut Ebpf) -> Result<(), BpfError> {
    let failed = |name: &str, reason: String| BpfError::Load(format!("put {name} where the hooks find it: {reason}"));
    let mut programs = Vec::new();
    for (index, name) in program::ALL {
        let fd = classifier(ebpf, name)?.fd().map_err(|error| failed(name, chain(&error)))?;
        programs.push((index, name, fd.try_clone().map_err(|error| failed(name, error.to_string()))?));
    }
    let map = ebpf.map_mut(MAP).ok_or_else(|| tables::missing(MAP))?;
    let mut map = ProgramArray::<&mut MapData>::try_from(map).map_err(tables::map_error("open", MAP))?;
    for (index, name, fd) in programs {
        map.set(index, &fd, 0).map_err(|error| failed(name, chain(&error)))?;
    }
    Ok(())
}
