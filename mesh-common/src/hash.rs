//! The one flow hash, the same in TC, XDP and user space: it decides a ring's slot and a tunnel packet's source port.
//!
//! Three rounds of multiply and xor-shift over the tuple folded to words (the finaliser of MurmurHash3, Austin Appleby,
//! public domain, applied per word): full avalanche, no table, no division. Vectors in the tests are published in
//! docs/reference/wire.md and never change within a wire version.

use crate::family::Family;

#[inline(always)]
const fn mix(mut h: u32) -> u32 {
    h ^= h >> 16;
    h = h.wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

/// Hashes four words: source, destination, both ports, protocol.
#[inline(always)]
pub const fn words(source: u32, destination: u32, ports: u32, protocol: u32) -> u32 {
    let h = mix(source ^ 0x9e37_79b9);
    let h = mix(h ^ destination);
    mix(h ^ ports ^ (protocol << 8))
}

/// Spreads what differs between flows over 32 bits, well enough for a tunnel packet's source port: one multiplication. `word` is of two halves as
/// memory has them.
#[inline(always)]
pub const fn spread(word: u32) -> u32 {
    word.rotate_left(16).wrapping_mul(0x9e37_79b1)
}

/// Hashes a packet's tuple; ports in host order. Not symmetric: the reply hashes differently.
#[inline(always)]
pub fn tuple<F: Family>(source: F::Addr, destination: F::Addr, sport: u16, dport: u16, protocol: u8) -> u32 {
    words(F::fold(source), F::fold(destination), ((sport as u32) << 16) | dport as u32, protocol as u32)
}

/// Hashes a client by its address alone: what it calls, and from which port, makes no difference.
#[inline(always)]
pub fn client<F: Family>(source: F::Addr) -> u32 {
    words(F::fold(source), 0, 0, 0)
}

/// Maps a hash onto `0..len` without division; `len` 0 gives 0.
#[inline(always)]
pub const fn slot(hash: u32, len: u32) -> u32 {
    ((hash as u64 * len as u64) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::{V4, V6};

    #[test]
    fn published_vectors() {
        assert_eq!(tuple::<V4>([192, 0, 2, 1].into(), [198, 51, 100, 7].into(), 40000, 80, 6), VECTORS[0]);
        assert_eq!(tuple::<V4>([10, 0, 16, 3].into(), [10, 0, 16, 2].into(), 53000, 53, 17), VECTORS[1]);
        let (a, b) = (
            [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2],
        );
        assert_eq!(tuple::<V6>(a.into(), b.into(), 1, 2, 6), VECTORS[2]);
        assert_eq!((client::<V4>([192, 0, 2, 1].into()), client::<V6>(a.into())), (0xf702_18a8, 0x9404_869e));
    }

    /// Computed once by an independent script from the definition above; see docs/reference/wire.md.
    const VECTORS: [u32; 3] = [0xddbf_fa3a, 0x87f6_0968, 0xf09e_5269];

    #[test]
    fn slots_are_even_and_in_range() {
        let mut count = [0u32; 7];
        for sport in 0..70_000u32 {
            let h = tuple::<V4>([192, 0, 2, (sport >> 16) as u8].into(), [198, 51, 100, 7].into(), sport as u16, 80, 6);
            count[slot(h, 7) as usize] += 1;
        }
        assert!(count.iter().all(|c| (9_500..10_500).contains(c)), "{count:?}");
        assert_eq!(slot(u32::MAX, 0), 0);
        assert_eq!(slot(u32::MAX, 7), 6);
    }
}
