//! Many entries of a map at once (bpf(2), `BPF_MAP_*_BATCH`, Linux 5.6): a flow table of a million entries is filled, counted and emptied in
//! less than a second, where one call an entry takes several.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use aya::maps::{Map, MapData, RingBuf};
use aya::util::nr_cpus;

use super::kernel::{self, bpf};

const DELETE: libc::c_long = 3;
const NEXT_KEY: libc::c_long = 4;
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

/// What every map of an object is made of.
pub fn data(map: &Map) -> &MapData {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::ProgramArray(data)
        | Map::RingBuf(data) => data,
        _ => panic!("a map of a kind that our objects don't have"),
    }
}

/// The descriptor of a map.
pub fn descriptor(map: &Map) -> BorrowedFd<'_> {
    data(map).fd().as_fd()
}

/// Writes entries; keys and values of the map's own layout.
pub fn fill<K: aya::Pod, V: aya::Pod>(map: BorrowedFd<'_>, entries: impl Iterator<Item = (K, V)>) -> io::Result<()> {
    let mut entries = entries.peekable();
    while entries.peek().is_some() {
        let (keys, values): (Vec<K>, Vec<V>) = entries.by_ref().take(CHUNK).unzip();
        update(map, &keys, &values)?;
    }
    Ok(())
}

fn update<K, V>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> io::Result<()> {
    let mut attr = BatchAttr {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: keys.len() as u32,
        map_fd: map.as_raw_fd() as u32,
        ..BatchAttr::default()
    };
    bpf(UPDATE, &mut attr).map(drop)
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

/// Leaves a map as if it had just been made: no entry, zeros, nothing to read.
pub fn wipe(map: &mut Map) -> io::Result<()> {
    let data = data(map);
    let info = data.info().map_err(io::Error::other)?;
    let (key_len, value_len, len) = (info.key_size() as usize, info.value_size() as usize, info.max_entries());
    let fd = data.fd().as_fd();
    match map {
        Map::HashMap(_) | Map::LruHashMap(_) => clear(fd, key_len, value_len).map(drop),
        Map::LpmTrie(_) => clear_one_by_one(fd, key_len),
        Map::Array(_) => zero(fd, value_len, len),
        Map::PerCpuArray(_) => {
            // Each CPU's value begins at a multiple of eight bytes.
            let zeros = vec![0; value_len.next_multiple_of(8) * nr_cpus().map_err(|(_, error)| error)?];
            (0..len).try_for_each(|index| kernel::set(fd, index, &zeros))
        }
        Map::RingBuf(_) => {
            let mut events = RingBuf::try_from(map).map_err(io::Error::other)?;
            while events.next().is_some() {}
            Ok(())
        }
        _ => Err(io::Error::other("no rig has a map of this kind")),
    }
}

fn zero(map: BorrowedFd<'_>, value_len: usize, len: u32) -> io::Result<()> {
    let zeros = vec![0u8; value_len * CHUNK.min(len as usize)];
    for first in (0..len).step_by(CHUNK) {
        let keys: Vec<u32> = (first..len).take(CHUNK).collect();
        update(map, &keys, &zeros)?;
    }
    Ok(())
}

/// For a trie, which knows no batches that delete.
fn clear_one_by_one(map: BorrowedFd<'_>, key_len: usize) -> io::Result<()> {
    let mut key = vec![0u8; key_len];
    loop {
        // Without a key before it, the kernel gives the first one.
        let mut attr = [u64::from(map.as_raw_fd() as u32), 0, key.as_mut_ptr() as u64, 0];
        match bpf(NEXT_KEY, &mut attr) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut attr = [u64::from(map.as_raw_fd() as u32), key.as_ptr() as u64, 0, 0];
        bpf(DELETE, &mut attr)?;
    }
}
