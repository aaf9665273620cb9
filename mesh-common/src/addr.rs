//! Addresses as they lie in memory, in network order: as words for the programs, as bytes for user space. Used by way of [`crate::family`].
//!
//! Invariant: each form of an address is the same memory (`schema` checks it). Must not: know what a family does with them.

use crate::family::{Family, V4, V6};

/// An IPv4 address as one word of memory. The compiler moves an array of four bytes one by one where it can't prove their alignment.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addr4(pub(crate) u32);

impl Addr4 {
    /// The four bytes, in network order.
    #[inline(always)]
    pub const fn octets(self) -> [u8; 4] {
        self.0.to_ne_bytes()
    }

    /// Of an address in a packet, read as a word of memory.
    #[inline(always)]
    pub const fn of_word(word: u32) -> Self {
        Addr4(word)
    }

    /// As a word of memory.
    #[inline(always)]
    pub const fn word(self) -> u32 {
        self.0
    }

    /// Of an address in a packet, read as two words of memory.
    #[inline(always)]
    pub const fn of_words(words: [u16; 2]) -> Self {
        let ([a, b], [c, d]) = (words[0].to_ne_bytes(), words[1].to_ne_bytes());
        Addr4(u32::from_ne_bytes([a, b, c, d]))
    }

    /// As two words of memory.
    #[inline(always)]
    pub const fn words(self) -> [u16; 2] {
        let [a, b, c, d] = self.octets();
        [u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d])]
    }
}

impl From<[u8; 4]> for Addr4 {
    #[inline(always)]
    fn from(octets: [u8; 4]) -> Self {
        Addr4(u32::from_ne_bytes(octets))
    }
}

/// An IPv6 address as four words of memory.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Addr6(pub(crate) [u32; 4]);

impl Addr6 {
    /// Of an address in a packet, read as words of memory.
    #[inline(always)]
    pub const fn of_words(words: [u32; 4]) -> Self {
        Addr6(words)
    }

    /// As words of memory.
    #[inline(always)]
    pub const fn words(self) -> [u32; 4] {
        self.0
    }

    /// The sixteen bytes, in network order.
    #[inline(always)]
    pub fn octets(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        for (at, word) in bytes.chunks_exact_mut(4).zip(self.0) {
            at.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

impl From<[u8; 16]> for Addr6 {
    #[inline(always)]
    fn from(b: [u8; 16]) -> Self {
        let word = |i: usize| u32::from_ne_bytes([b[i], b[i + 1], b[i + 2], b[i + 3]]);
        Addr6([word(0), word(4), word(8), word(12)])
    }
}

/// What user space calls an address: its bytes in network order, as they lie in the maps.
pub trait Bytes: Copy + Eq + Ord + core::hash::Hash + Default + 'static {
    /// The family whose addresses these are.
    const ETHERTYPE: u16;
    /// In 16 bytes, IPv4 as ::ffff:a.b.c.d.
    fn to_16(self) -> [u8; 16];
    /// Back from 16 bytes; None if they are an address of the other family.
    fn of_16(bytes: [u8; 16]) -> Option<Self>;
}

impl Bytes for [u8; 4] {
    const ETHERTYPE: u16 = V4::ETHERTYPE;
    fn to_16(self) -> [u8; 16] {
        V4::to_16(self.into())
    }
    fn of_16(bytes: [u8; 16]) -> Option<Self> {
        is_mapped(&bytes).then(|| V4::from_16(bytes).octets())
    }
}

impl Bytes for [u8; 16] {
    const ETHERTYPE: u16 = V6::ETHERTYPE;
    fn to_16(self) -> [u8; 16] {
        self
    }
    fn of_16(bytes: [u8; 16]) -> Option<Self> {
        (!is_mapped(&bytes)).then_some(bytes)
    }
}

/// An IPv4 address in 16 bytes (RFC 4291, 2.5.5.2).
#[inline(always)]
pub fn is_mapped(bytes: &[u8; 16]) -> bool {
    u128::from_be_bytes(*bytes) >> 32 == 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_bytes_in_memory() {
        let (four, sixteen) = ([192, 0, 2, 1], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]);
        let address = Addr4::from(four);
        assert_eq!((address.octets(), Addr4::of_words(address.words())), (four, address));
        assert_eq!(Addr6::from(sixteen).octets(), sixteen);
    }
}
