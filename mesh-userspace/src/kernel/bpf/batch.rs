//! Many map entries in one system call (BPF_MAP_*_BATCH, bpf(2)): aya has no names for them.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use aya::maps::MapData;

/// Commands of bpf(2).
const LOOKUP: libc::c_long = 1;
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

/// The members of `union bpf_attr` that a look-up reads.
#[repr(C)]
struct ElementAttr {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// The value under `key`.
pub fn lookup<K: aya::Pod, V: aya::Pod>(map: &MapData, key: &K) -> io::Result<Option<V>> {
    // SAFETY: Pod types accept any bit pattern, zero included.
    let mut value = unsafe { std::mem::zeroed::<V>() };
    let mut attr = ElementAttr {
        map_fd: map.fd().as_fd().as_raw_fd() as u32,
        pad: 0,
        key: &raw const *key as u64,
        value: &raw mut value as u64,
        flags: 0,
    };
    match bpf(LOOKUP, &mut attr) {
        Ok(()) => Ok(Some(value)),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn bpf<A>(command: libc::c_long, attr: &mut A) -> io::Result<()> {
    // SAFETY: the attribute's pointers name live buffers of as many elements as it says, of the map's own key and value size; its size is
    // passed along.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *attr, size_of::<A>()) };
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

/// A walk over a hash map, some entries a call. What is written or deleted meanwhile may be seen or not; all else is seen once.
pub struct Walk<'m, K, V> {
    map: &'m MapData,
    keys: Vec<K>,
    values: Vec<V>,
    /// Where the kernel goes on; None: at the beginning.
    cursor: Option<u32>,
    is_over: bool,
}

impl<'m, K: aya::Pod, V: aya::Pod> Walk<'m, K, V> {
    /// At most `chunk` entries a call. A bucket with more than that fails with ENOSPC; hash maps have about one entry a bucket.
    pub fn new(map: &'m MapData, chunk: usize) -> Self {
        // SAFETY: Pod types accept any bit pattern, zero included.
        let (key, value) = unsafe { (std::mem::zeroed::<K>(), std::mem::zeroed::<V>()) };
        Walk { map, keys: vec![key; chunk], values: vec![value; chunk], cursor: None, is_over: false }
    }

    /// The next entries, keys beside values; None at the end.
    pub fn step(&mut self) -> io::Result<Option<(&[K], &[V])>> {
        if self.is_over {
            return Ok(None);
        }
        let (from, mut next) = (self.cursor.unwrap_or_default(), 0u32);
        let mut attr = Attr {
            in_batch: if self.cursor.is_some() { &raw const from as u64 } else { 0 },
            out_batch: &raw mut next as u64,
            keys: self.keys.as_mut_ptr() as u64,
            values: self.values.as_mut_ptr() as u64,
            count: self.keys.len() as u32,
            map_fd: self.map.fd().as_fd().as_raw_fd() as u32,
            ..Attr::default()
        };
        match bpf(LOOKUP_BATCH, &mut attr) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => self.is_over = true,
            Err(error) => return Err(error),
        }
        self.cursor = Some(next);
        let count = attr.count as usize;
        Ok(self.keys.get(..count).zip(self.values.get(..count)))
    }
}

/// Reads every entry of a hash map, `CHUNK` a call, handing each to `each`.
pub fn for_each<const CHUNK: usize, K: aya::Pod, V: aya::Pod>(
    map: &MapData,
    mut each: impl FnMut(K, V),
) -> io::Result<()> {
    let mut walk = Walk::<K, V>::new(map, CHUNK);
    while let Some((keys, values)) = walk.step()? {
        keys.iter().zip(values).for_each(|(key, value)| each(*key, *value));
    }
    Ok(())
}
