//! Many map entries in one system call (BPF_MAP_*_BATCH, bpf(2)): aya has no names for them.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use aya::maps::MapData;

/// Commands of bpf(2).
const LOOKUP_BATCH: libc::c_long = 24;
const UPDATE_BATCH: libc::c_long = 26;

/// The `batch` member of `union bpf_attr` (include/uapi/linux/bpf.h).
#[repr(C)]
#[derive(Default)]
struct Attr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

fn bpf(command: libc::c_long, attr: &mut Attr) -> io::Result<()> {
    // SAFETY: the attribute's pointers name live buffers of `count` elements; its size is passed along.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr as *mut Attr, size_of::<Attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Writes `values` under `keys`.
pub fn update<K: aya::Pod, V: aya::Pod>(map: &MapData, keys: &[K], values: &[V]) -> io::Result<()> {
    let mut attr = Attr {
        keys: keys.as_ptr() as u64,
        values: values.as_ptr() as u64,
        count: keys.len().min(values.len()) as u32,
        map_fd: map.fd().as_fd().as_raw_fd() as u32,
        ..Attr::default()
    };
    bpf(UPDATE_BATCH, &mut attr)
}

/// Reads `len` values of an array from the index `at` on. The kernel counts from the index after the one it is told to have been at.
pub fn read_array<V: aya::Pod>(map: &MapData, at: u32, len: u32) -> io::Result<Vec<V>> {
    // SAFETY: Pod types accept any bit pattern, zero included.
    let mut values = vec![unsafe { std::mem::zeroed::<V>() }; len as usize];
    let mut keys = vec![0u32; len as usize];
    let (mut done, mut cursor) = (0, at.wrapping_sub(1));
    while done < len {
        let mut next = 0u32;
        let mut attr = Attr {
            in_batch: if at + done == 0 { 0 } else { &raw const cursor as u64 },
            out_batch: &raw mut next as u64,
            keys: keys[done as usize..].as_mut_ptr() as u64,
            values: values[done as usize..].as_mut_ptr() as u64,
            count: len - done,
            map_fd: map.fd().as_fd().as_raw_fd() as u32,
            ..Attr::default()
        };
        match bpf(LOOKUP_BATCH, &mut attr) {
            // The array's last index was among them.
            Err(error) if error.raw_os_error() != Some(libc::ENOENT) => return Err(error),
            _ if attr.count == 0 => {
                return Err(io::Error::other(format!("the kernel gave none of {} values", len - done)));
            }
            _ => (done, cursor) = (done + attr.count, next),
        }
    }
    Ok(values)
}

/// Reads every entry of a hash map, `CHUNK` a call, handing each to `each`. A bucket with more than that fails with ENOSPC; hash maps have
/// about one entry a bucket.
pub fn for_each<const CHUNK: usize, K: aya::Pod, V: aya::Pod>(
    map: &MapData,
    mut each: impl FnMut(K, V),
) -> io::Result<()> {
    // SAFETY: Pod types accept any bit pattern, zero included.
    let (mut keys, mut values) =
        unsafe { (vec![std::mem::zeroed::<K>(); CHUNK], vec![std::mem::zeroed::<V>(); CHUNK]) };
    let mut cursor = 0u32;
    let mut is_first = true;
    loop {
        let mut next = 0u32;
        let mut attr = Attr {
            in_batch: if is_first { 0 } else { &raw const cursor as u64 },
            out_batch: &raw mut next as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: CHUNK as u32,
            map_fd: map.fd().as_fd().as_raw_fd() as u32,
            ..Attr::default()
        };
        let is_last = match bpf(LOOKUP_BATCH, &mut attr) {
            Ok(()) => false,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => true,
            Err(error) => return Err(error),
        };
        for (key, value) in keys.iter().zip(&values).take(attr.count as usize) {
            each(*key, *value);
        }
        if is_last {
            return Ok(());
        }
        (cursor, is_first) = (next, false);
    }
}
