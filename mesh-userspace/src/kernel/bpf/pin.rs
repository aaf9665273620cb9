//! The pin directory: made, checked, removed.

use std::error::Error;
use std::path::{Path, PathBuf};

use aya::maps::{MapInfo, MapType};
use mesh_common::schema::*;
use mesh_common::verdict::{Hook, STRIDE};

use super::BpfError;

/// End of the name of a pin that is about to take the place of another.
const NEXT: &str = "_next";
/// Magic number of a BPF file system (linux/magic.h).
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// The shape of a map, as `mesh-ebpf/src/maps.rs` declares it.
pub struct Spec {
    pub name: &'static str,
    kind: MapType,
    key_size: usize,
    value_size: usize,
    /// None: what the machine allows when the map is made ([`super::size`]); a pinned one keeps its number.
    max_entries: Option<usize>,
}

const fn spec<K, V>(name: &'static str, kind: MapType, max_entries: usize) -> Spec {
    Spec { name, kind, key_size: size_of::<K>(), value_size: size_of::<V>(), max_entries: Some(max_entries) }
}

/// As many entries as the machine has memory, or CPUs, for.
const fn sized<K, V>(name: &'static str, kind: MapType) -> Spec {
    Spec { max_entries: None, ..spec::<K, V>(name, kind, 0) }
}

/// Every map, in the order of docs/reference/maps.md. Scratch is the programs' own and new with each of them.
pub const MAPS: &[Spec] = &[
    spec::<u32, Config>("CONFIG", MapType::Array, 1),
    spec::<[u8; 4], Address>("ADDRESSES4", MapType::Hash, MAX_NODES),
    spec::<[u8; 16], Address>("ADDRESSES6", MapType::Hash, MAX_NODES),
    spec::<[u8; 4], Endpoint<[u8; 4]>>("ENDPOINTS4", MapType::Hash, MAX_ENDPOINTS),
    spec::<[u8; 16], Endpoint<[u8; 16]>>("ENDPOINTS6", MapType::Hash, MAX_ENDPOINTS),
    spec::<FrontendKey<[u8; 4]>, Frontend<[u8; 4]>>("FRONTENDS4", MapType::Hash, MAX_FRONTENDS),
    spec::<FrontendKey<[u8; 16]>, Frontend<[u8; 16]>>("FRONTENDS6", MapType::Hash, MAX_FRONTENDS),
    spec::<AllowPrefix<[u8; 4]>, u32>("ALLOW4", MapType::LpmTrie, MAX_ALLOWED),
    spec::<AllowPrefix<[u8; 16]>, u32>("ALLOW6", MapType::LpmTrie, MAX_ALLOWED),
    spec::<u32, Backend>("BACKENDS", MapType::Hash, MAX_ENDPOINTS),
    sized::<u32, RingSlot>("RINGS", MapType::Array),
    spec::<u32, u64>("TURNS", MapType::Array, MAX_FRONTENDS),
    spec::<AffinityKey<[u8; 4]>, Affinity>("AFFINITY4", MapType::LruHash, MAX_CLIENTS),
    spec::<AffinityKey<[u8; 16]>, Affinity>("AFFINITY6", MapType::LruHash, MAX_CLIENTS),
    sized::<FlowKey<[u8; 4]>, Flow<[u8; 4]>>("FLOWS4", MapType::Hash),
    sized::<FlowKey<[u8; 16]>, Flow<[u8; 16]>>("FLOWS6", MapType::Hash),
    sized::<FlowKey<[u8; 4]>, Flow<[u8; 4]>>("OVERFLOW4", MapType::LruHash),
    sized::<FlowKey<[u8; 16]>, Flow<[u8; 16]>>("OVERFLOW6", MapType::LruHash),
    spec::<FragmentKey<[u8; 4]>, Fragmented>("FRAGMENTS4", MapType::LruHash, MAX_FRAGMENTED),
    spec::<FragmentKey<[u8; 16]>, Fragmented>("FRAGMENTS6", MapType::LruHash, MAX_FRAGMENTED),
    sized::<EarlyKey, Early>("EARLY", MapType::LruHash),
    spec::<u32, u32>("OVERFLOWED", MapType::Array, 2),
    spec::<u32, Flood>("FLOODS", MapType::PerCpuArray, 1),
    spec::<u32, Peer>("PEERS", MapType::Array, MAX_NODES),
    spec::<u32, Uplink>("UPLINKS", MapType::Hash, MAX_NODES),
    spec::<u32, Echo>("ECHOES", MapType::Hash, MAX_NODES),
    spec::<SocketKey, SocketOrigin>("SOCKETS", MapType::LruHash, MAX_SOCKETS),
    // A ring buffer has neither keys nor values.
    spec::<(), ()>("EVENTS", MapType::RingBuf, EVENT_BYTES),
    spec::<u32, Watched>("WATCHED", MapType::PerCpuArray, 1),
    spec::<u32, u64>("DROPS", MapType::PerCpuArray, Hook::ALL.len() * STRIDE as usize),
    // Pinned for more than to be found: without any reference by user space the kernel empties it.
    spec::<u32, u32>("PROGRAMS", MapType::ProgramArray, program::MAX),
];

/// Whether the directory, or the nearest one above it that exists, is on a BPF file system.
pub fn is_on_bpffs(dir: &Path) -> bool {
    let existing = dir.ancestors().find(|dir| dir.exists()).unwrap_or(dir);
    nix::sys::statfs::statfs(existing).is_ok_and(|fs| fs.filesystem_type().0 == BPF_FS_MAGIC)
}

/// The directory, or where it is to be made, must be on a BPF file system.
pub fn check_file_system(bpf_dir: &Path) -> Result<(), BpfError> {
    if is_on_bpffs(bpf_dir) { Ok(()) } else { Err(BpfError::NoBpffs { dir: bpf_dir.display().to_string() }) }
}

/// No links of another layout version beside ours: two sets of programs would judge each packet, one of them by maps that nobody writes.
pub fn check_alone(bpf_dir: &Path, ours: &Path) -> Result<(), BpfError> {
    let Ok(entries) = std::fs::read_dir(bpf_dir) else { return Ok(()) };
    for path in entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path != ours) {
        let has_links = std::fs::read_dir(path.join("links")).is_ok_and(|mut links| links.next().is_some());
        if has_links {
            let found = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            return Err(BpfError::OtherVersion { dir: path.display().to_string(), found });
        }
    }
    Ok(())
}

/// Makes the directories; they must be on a BPF file system.
pub fn prepare(bpf_dir: &Path, dir: &Path) -> Result<(), BpfError> {
    check_file_system(bpf_dir)?;
    for name in ["maps", "progs", "links"] {
        let path = dir.join(name);
        std::fs::create_dir_all(&path).map_err(|source| path_error("make the directory", &path, source))?;
    }
    Ok(())
}

/// Pins in place of what is there: under another name first, then renamed, so that at no moment nothing is pinned there. A link that is let
/// go goes out of effect only when its successor is pinned already.
pub fn replace<E>(path: &Path, pin: impl FnOnce(&Path) -> Result<(), E>) -> Result<Result<(), E>, BpfError> {
    // No dots: bpffs keeps names with them for itself (bpf_lookup in kernel/bpf/inode.c).
    let mut beside = path.as_os_str().to_owned();
    beside.push(NEXT);
    let beside = PathBuf::from(beside);
    // Of an agent that died between the two steps.
    if beside.exists() {
        std::fs::remove_file(&beside).map_err(|source| path_error("unpin what was left half-way", &beside, source))?;
    }
    if let Err(error) = pin(&beside) {
        return Ok(Err(error));
    }
    std::fs::rename(&beside, path).map_err(|source| path_error("put the new pin in place", path, source))?;
    Ok(Ok(()))
}

/// A map that is pinned already must have this build's shape.
pub fn check(spec: &Spec, path: &Path) -> Result<(), BpfError> {
    if !path.exists() {
        return Ok(());
    }
    let shape = |kind: MapType, key: usize, value: usize, entries: usize| {
        format!("type {kind:?}, key of {key} bytes, value of {value} bytes, {entries} entries")
    };
    let info = MapInfo::from_pin(path).map_err(|error| BpfError::Load(chain(&error)))?;
    let found = shape(
        info.map_type().map_err(|error| BpfError::Load(chain(&error)))?,
        info.key_size() as usize,
        info.value_size() as usize,
        info.max_entries() as usize,
    );
    let entries = spec.max_entries.unwrap_or(info.max_entries() as usize);
    let needed = shape(spec.kind, spec.key_size, spec.value_size, entries);
    if found == needed { Ok(()) } else { Err(BpfError::Layout { path: path.display().to_string(), found, needed }) }
}

/// Unpins everything below the directory and the directory itself. Links first: a map must not go while a program may read it. Everything
/// is tried; the first error is told.
pub fn remove(bpf_dir: &Path) -> Result<(), BpfError> {
    let Ok(versions) = std::fs::read_dir(bpf_dir) else { return Ok(()) };
    let mut outcome = Ok(());
    let mut note = |attempt, path: &Path, done: std::io::Result<()>| {
        if let (Err(source), Ok(())) = (done, &outcome) {
            outcome = Err(path_error(attempt, path, source));
        }
    };
    for version in versions.flatten().map(|entry| entry.path()) {
        for name in ["links", "progs", "maps"] {
            let dir = version.join(name);
            for pin in std::fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
                note("unpin", &pin, std::fs::remove_file(&pin));
            }
            if dir.exists() {
                note("remove the directory", &dir, std::fs::remove_dir(&dir));
            }
        }
        note("remove the directory", &version, std::fs::remove_dir(&version));
    }
    note("remove the directory", bpf_dir, std::fs::remove_dir(bpf_dir));
    outcome
}

pub fn path_error(attempt: &'static str, path: &Path, source: std::io::Error) -> BpfError {
    BpfError::Path { attempt, path: path.display().to_string(), source }
}

/// An error with all that caused it, on one line; a verifier's log is cut to its end, where the reason stands.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    let tail: Vec<&str> = text.lines().rev().take(6).collect();
    tail.into_iter().rev().collect::<Vec<_>>().join(" | ")
}
