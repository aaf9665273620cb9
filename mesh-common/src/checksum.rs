//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! One's-complement sums don't depend on byte order as long as it is used the same way throughout: here words are
//! always read big endian. The packet programs let the kernel's checksum helpers update sums of forwarded packets, because
//! only they know whether a packet's checksum is finished; what stands here serves packets that we build ourselves
//! and the tests that judge the helpers.

/// Folds a 32-bit accumulator to 16 bits with end-around carry.
#[inline(always)]
pub const fn fold(mut sum: u32) -> u16 {
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// Adds `bytes` (big-endian words, odd tail padded with zero) to an accumulator.
#[inline(always)]
pub fn add(mut sum: u32, bytes: &[u8]) -> u32 {
    let mut words = bytes.chunks_exact(2);
    for word in &mut words {
        if let [high, low] = word {
            sum += u16::from_be_bytes([*high, *low]) as u32;
        }
    }
    if let [last] = words.remainder() {
        sum += (*last as u32) << 8;
    }
    sum
}

/// Adds words in memory order to an accumulator.
#[inline(always)]
pub fn sum<const N: usize>(mut sum: u32, words: &[u16; N]) -> u32 {
    let mut i = 0;
    while i < N {
        sum += words[i] as u32;
        i += 1;
    }
    sum
}

/// The checksum field for data whose sum is `sum`: its complement.
#[inline(always)]
pub const fn finish(sum: u32) -> u16 {
    !fold(sum)
}

/// What a sum over words in memory order changes by when `old` becomes `new`, as the kernel's checksum helpers take it: the 32-bit
/// one's-complement sum of `new` and of `old`'s complement.
#[inline(always)]
pub fn difference<const WORDS: usize>(old: [u32; WORDS], new: [u32; WORDS]) -> u32 {
    let mut sum = 0u64;
    let mut i = 0;
    while i < WORDS {
        sum += !old[i] as u64 + new[i] as u64;
        i += 1;
    }
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    ((sum & 0xffff_ffff) + (sum >> 32)) as u32
}

/// What the same sum changes by when one of its words becomes another; host order.
#[inline(always)]
pub const fn difference_of_word(old: u16, new: u16) -> u32 {
    (!old.to_be()) as u32 + new.to_be() as u32
}

/// Two differences as one.
#[inline(always)]
pub const fn join(one: u32, other: u32) -> u32 {
    let sum = one as u64 + other as u64;
    (sum as u32).wrapping_add((sum >> 32) as u32)
}

/// A checksum field in memory order after its words changed by this [`difference`] (RFC 1624, equation 3).
#[inline(always)]
pub const fn apply(field: u16, difference: u32) -> u16 {
    // Folded first: the sum of three would not fit.
    !fold((!field) as u32 + fold(difference) as u32)
}

/// RFC 1624, equation 3: the new checksum when the word `old` becomes `new`.
#[inline(always)]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !fold((!checksum) as u32 + (!old) as u32 + new as u32)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc_1071_example() {
        // RFC 1071, section 3: the sum of these words is ddf2.
        assert_eq!(fold(add(0, &[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
    }

    #[test]
    fn rfc_1624_example() {
        // RFC 1624, section 4: checksum dd2f, word 5555 becomes 3285, result 0000.
        assert_eq!(update(0xdd2f, 0x5555, 0x3285), 0x0000);
    }

    proptest! {
        #[test]
        fn a_difference_does_what_word_for_word_updates_do(field in any::<u16>(), old in any::<[u32; 4]>(), new in any::<[u32; 4]>()) {
            let halves = |words: [u32; 4]| words.map(|word| [word as u16, (word >> 16) as u16]).concat();
            let stepwise = halves(old).into_iter().zip(halves(new)).fold(field, |field, (old, new)| update(field, old, new));
            // Zero has two forms in one's complement.
            let same = |sum: u16| if sum == 0xffff { 0 } else { sum };
            prop_assert_eq!(same(apply(field, difference(old, new))), same(stepwise));
        }

        #[test]
        fn incremental_equals_recomputed(mut words in proptest::collection::vec(any::<u16>(), 2..40), at in any::<proptest::sample::Index>(), new in any::<u16>()) {
            let sum = |words: &[u16]| finish(words.iter().fold(0u32, |sum, word| fold(sum + *word as u32) as u32));
            words.push(1); // an all-zero packet has two valid checksums
            let at = at.index(words.len() - 1);
            let before = sum(&words);
            let old = words[at];
            words[at] = new;
            prop_assert_eq!(update(before, old, new), sum(&words));
        }
    }
}
