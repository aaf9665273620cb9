//! Many entries of a map at once (bpf(2), `BPF_MAP_*_BATCH`, Linux 5.6): a flow table of a million entries is filled, counted and emptied in
//! less than a second, where one call an entry takes several.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use aya::maps::{Map, MapData};

use super::kernel::bpf;

const LOOKUP: libc::c_long = 24;
const LOOKUP_AND_DELETE: libc::c_long = 25;
const UPDATE: libc::c_long = 26;
/// Entries a call. More than one bucket of a hash ever holds, or the kernel says ENOSPC.
const CHUNK: usize = 1 << 14;

/// The `batch` member of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// The descriptor of a map of a kind that the benchmark fills.
pub fn descriptor(map: &Map) -> Option<BorrowedFd<'_>> {
    let data: &MapData = match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LruHashMap(data)
        | Map::LpmTrie(data)
        | Map::ProgramArray(data) => data,
        _ => return None,
    };
    Some(data.fd().as_fd())
}

/// Writes entries; keys and values of the map's own layout.
pub fn fill<K: aya::Pod, V: aya::Pod>(map: BorrowedFd<'_>, entries: impl Iterator<Item = (K, V)>) -> io::Result<()> {
    let mut entries = entries.peekable();
    while entries.peek().is_some() {
        let (keys, values): (Vec<K>, Vec<V>) = entries.by_ref().take(CHUNK).unzip();
        let mut attr = BatchAttr {
            keys: keys.as_ptr() as u64,
            values: values.as_ptr() as u64,
            count: keys.len() as u32,
            map_fd: map.as_raw_fd() as u32,
            ..BatchAttr::default()
        };
        bpf(UPDATE, &mut attr)?;
    }
    Ok(())
}

/// How many entries a hash map has.
pub fn count(map: BorrowedFd<'_>, key_len: usize, value_len: usize) -> io::Result<usize> {
    walk(map, LOOKUP, key_len, value_len)
}

/// Takes every entry out of a hash map; says how many there were.
pub fn clear(map: BorrowedFd<'_>, key_len: usize, value_len: usize) -> io::Result<usize> {
    walk(map, LOOKUP_AND_DELETE, key_len, value_len)
}

fn walk(map: BorrowedFd<'_>, command: libc::c_long, key_len: usize, value_len: usize) -> io::Result<usize> {
    let (mut keys, mut values) = (vec![0u8; key_len * CHUNK], vec![0u8; value_len * CHUNK]);
    // A hash map's place in the walk is four bytes.
    let (mut place, mut following) = (0u32, 0u32);
    let (mut seen, mut is_first) = (0, true);
    loop {
        let mut attr = BatchAttr {
            in_batch: if is_first { 0 } else { &raw mut place as u64 },
            out_batch: &raw mut following as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: CHUNK as u32,
            map_fd: map.as_raw_fd() as u32,
            ..BatchAttr::default()
        };
        match bpf(command, &mut attr) {
            Ok(_) => seen += attr.count as usize,
            // The end; what was found up to it is in `count`.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(seen + attr.count as usize),
            Err(error) => return Err(error),
        }
        (place, is_first) = (following, false);
    }
}
