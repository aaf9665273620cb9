//! SCTP's checksum (CRC32c; RFC 9260, appendix A) of a packet whose ports change, without reading the packet again.
//!
//! A CRC is linear: what it changes by depends on which bits changed and how far they are from the end, and on nothing else (the start value and the final
//! complement cancel out). The ports are the packet's first four bytes, so the change is that of four bytes followed by zeros: one
//! multiplication of polynomials modulo CRC32c's by a power of x, which two tables hold for every length. Pure arithmetic, without branches: the
//! verifier sees one path.

/// CRC32c's polynomial, the lowest power in the highest bit.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// The polynomial 1, likewise.
const ONE: u32 = 1 << 31;
/// x⁸, by which a CRC is multiplied as one zero byte follows.
const X8: u32 = ONE >> 8;

/// The product of two polynomials modulo CRC32c's.
#[inline(always)]
const fn multiply(a: u32, mut b: u32) -> u32 {
    let (mut product, mut bit) = (0, 0);
    while bit < 32 {
        // All ones where the bit is set, else zero.
        product ^= b & 0u32.wrapping_sub((a >> (31 - bit)) & 1);
        b = (b >> 1) ^ (POLYNOMIAL & 0u32.wrapping_sub(b & 1));
        bit += 1;
    }
    product
}

/// The powers `base`⁰ … `base`²⁵⁵.
const fn powers(base: u32) -> [u32; 256] {
    let mut all = [ONE; 256];
    let mut n = 1;
    while n < 256 {
        all[n] = multiply(all[n - 1], base);
        n += 1;
    }
    all
}

/// By 0 … 255 bytes.
static BYTES: [u32; 256] = powers(X8);
/// By 0 … 255 times 256 bytes.
static PAGES: [u32; 256] = powers(multiply(powers(X8)[255], X8));

/// What the checksum of a packet of `len` bytes is changed by (exclusive or), as its first four bytes are changed by `words`; both in memory order, as
/// the checksum stands in the packet: lowest byte first.
#[inline(always)]
pub fn change(words: u32, len: u16) -> u32 {
    let after = (u32::from_le(words), len.wrapping_sub(4));
    let (low, high) = (BYTES.get((after.1 & 0xff) as usize), PAGES.get((after.1 >> 8) as usize));
    let by = multiply(low.copied().unwrap_or(ONE), high.copied().unwrap_or(ONE));
    // The four bytes themselves are shifted through the register: by x³² beyond what follows them.
    multiply(multiply(after.0, X32), by).to_le()
}

/// x³².
const X32: u32 = powers(X8)[4];

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// CRC32c bit by bit, as the appendix describes it.
    fn crc32c(bytes: &[u8]) -> u32 {
        let mut crc = u32::MAX;
        for byte in bytes {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { (crc >> 1) ^ POLYNOMIAL } else { crc >> 1 };
            }
        }
        !crc
    }

    #[test]
    fn the_published_vectors() {
        // RFC 3720, B.4: 32 bytes of zeros, of ones, and counted up.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    proptest! {
        #[test]
        fn the_change_is_that_of_the_whole(mut packet in proptest::collection::vec(any::<u8>(), 12..2_000), new in any::<[u8; 4]>()) {
            let before = crc32c(&packet);
            let old: [u8; 4] = packet[..4].try_into().unwrap();
            packet[..4].copy_from_slice(&new);
            let words = u32::from_ne_bytes(old) ^ u32::from_ne_bytes(new);
            prop_assert_eq!(before ^ u32::from_le(change(words, packet.len() as u16)), crc32c(&packet));
        }

        #[test]
        fn any_length_that_ip_knows(len in 4u16..=u16::MAX, new in any::<[u8; 4]>()) {
            let mut packet = vec![0u8; usize::from(len)];
            let before = crc32c(&packet);
            packet[..4].copy_from_slice(&new);
            prop_assert_eq!(before ^ u32::from_le(change(u32::from_ne_bytes(new), len)), crc32c(&packet));
        }
    }
}
