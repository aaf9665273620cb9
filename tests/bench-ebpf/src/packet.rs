//! Reading and writing packets by whole words at their offsets.
//!
//! The machine does this at any address, and the verifier allows it where the kernel says so (x86-64, arm64), so that no byte is moved alone.
//! Everything is for the benchmark's frames: 64 bytes of Ethernet, IPv4 without options, TCP.

use mesh_common::schema::{FlowKey, FrontendKey};

/// Bytes that every program may read and write.
pub const LEN: usize = 64;
/// Offsets of the frame.
pub const SRC: usize = 26;
pub const DST: usize = 30;
pub const IP_SUM: usize = 24;
pub const TCP_SUM: usize = 50;
const TYPE: usize = 12;
const VERSION: usize = 14;
const PROTOCOL: usize = 23;
const PORTS: usize = 34;
const FLAGS: usize = 47;
const IPV4: u16 = 0x0800u16.to_be();
const PLAIN: u8 = 0x45;
const TCP: u8 = 6;

/// The 64 bytes of a frame, checked to be there.
#[derive(Clone, Copy)]
pub struct Bytes(*mut u8);

impl Bytes {
    /// None of a shorter packet.
    #[inline(always)]
    pub fn new(data: usize, end: usize) -> Option<Bytes> {
        Bytes::of(data, end, LEN)
    }

    /// So many bytes at the front.
    #[inline(always)]
    pub fn of(data: usize, end: usize, len: usize) -> Option<Bytes> {
        if data + len > end { None } else { Some(Bytes(data as *mut u8)) }
    }

    /// Reads a word; `T` is an integer, the offset within what was checked: the verifier refuses anything else.
    #[inline(always)]
    pub fn get<T: Copy>(self, offset: usize) -> T {
        // SAFETY: the verifier checks the bounds of this load; see the module about alignment.
        unsafe { *self.0.add(offset).cast::<T>() }
    }

    /// Writes a word, as [`Bytes::get`] reads one.
    #[inline(always)]
    pub fn put<T: Copy>(self, offset: usize, value: T) {
        // SAFETY: as above.
        unsafe { *self.0.add(offset).cast::<T>() = value }
    }

    /// Both MAC addresses change places.
    #[inline(always)]
    pub fn swap_macs(self) {
        let (dst_head, dst_tail): (u32, u16) = (self.get(0), self.get(4));
        let (src_head, src_tail): (u32, u16) = (self.get(6), self.get(10));
        self.put(0, src_head);
        self.put(4, src_tail);
        self.put(6, dst_head);
        self.put(10, dst_tail);
    }

    /// Writes the destination MAC, and a source MAC of ours.
    #[inline(always)]
    pub fn set_macs(self, dst: [u8; 6], src: [u8; 6]) {
        self.put(0, u32::from_ne_bytes([dst[0], dst[1], dst[2], dst[3]]));
        self.put(4, u16::from_ne_bytes([dst[4], dst[5]]));
        self.put(6, u32::from_ne_bytes([src[0], src[1], src[2], src[3]]));
        self.put(10, u16::from_ne_bytes([src[4], src[5]]));
    }
}

/// What a bare program looks up by: the bytes of a `FlowKey`, as words.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct Tuple([u32; 4]);

const _: () = assert!(size_of::<Tuple>() == size_of::<FlowKey<[u8; 4]>>());

impl Tuple {
    /// Of the frame at hand; None where it is no plain TCP over IPv4.
    #[inline(always)]
    pub fn read(bytes: Bytes) -> Option<Tuple> {
        if bytes.get::<u16>(TYPE) != IPV4 || bytes.get::<u8>(VERSION) != PLAIN || bytes.get::<u8>(PROTOCOL) != TCP {
            return None;
        }
        // Both ports to host order at once: the bytes of each change places, the ports do not.
        let ports = bytes.get::<u32>(PORTS);
        let ports = (ports & 0x00ff_00ff) << 8 | (ports >> 8) & 0x00ff_00ff;
        Some(Tuple([bytes.get(SRC), bytes.get(DST), ports, TCP as u32]))
    }

    /// As the maps want it.
    #[inline(always)]
    pub fn key(&self) -> &FlowKey<[u8; 4]> {
        // SAFETY: same size, greater alignment, and any bytes are a key.
        unsafe { &*core::ptr::from_ref(self).cast() }
    }

    /// The reply's.
    #[inline(always)]
    pub fn turned(&self, backend: u32) -> Tuple {
        Tuple([backend, self.0[0], self.0[2].rotate_left(16), self.0[3]])
    }

    #[inline(always)]
    pub fn hash(&self) -> u32 {
        mesh_common::hash::words(self.0[0], self.0[1], self.0[2], self.0[3])
    }

    /// The service of a published port.
    #[inline(always)]
    pub fn published(&self) -> FrontendKey<[u8; 4]> {
        FrontendKey::published((self.0[2] >> 16) as u16, TCP)
    }

    /// The service of a virtual address.
    #[inline(always)]
    pub fn vip(&self) -> FrontendKey<[u8; 4]> {
        FrontendKey::vip(self.0[1].to_ne_bytes())
    }
}

/// The frame's packet opens a connection.
#[inline(always)]
pub fn opens(bytes: Bytes) -> bool {
    bytes.get::<u8>(FLAGS) & 0x12 == 0x02
}

/// A sum of 16-bit words in one's complement, folded to 16 bits (RFC 1071).
#[inline(always)]
pub fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The words of a 32-bit word, added.
#[inline(always)]
pub fn halves(word: u32) -> u32 {
    (word & 0xffff) + (word >> 16)
}

/// A header checksum after `old` has become `new` (RFC 1624, equation 3).
#[inline(always)]
pub fn replaced(sum: u16, old: u32, new: u32) -> u16 {
    !fold(u32::from(!sum) + halves(!old) + halves(new))
}
