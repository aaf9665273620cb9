//! RFC 4648 base32 in lower case without padding: digests and secrets in tokens, safe to double-click and to read out.
//!
//! Must not be used where the time of decoding matters: comparing secrets happens on bytes, in [`super::Secret`].

use zeroize::Zeroizing;

const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

pub(super) fn encode(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(5) * 8);
    let (mut buffer, mut bits) = (0u32, 0u32);
    for &byte in bytes {
        buffer = (buffer << 8) | u32::from(byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(ALPHABET[(buffer >> bits) as usize & 31]));
        }
    }
    if bits > 0 {
        text.push(char::from(ALPHABET[(buffer << (5 - bits)) as usize & 31]));
    }
    text
}

/// None where a character is foreign, the length is not that of `N` bytes, or the last digit has surplus bits.
pub(super) fn decode<const N: usize>(text: &str) -> Option<Zeroizing<[u8; N]>> {
    if text.len() != (N * 8).div_ceil(5) {
        return None;
    }
    let mut bytes = Zeroizing::new([0u8; N]);
    let (mut buffer, mut bits, mut at) = (0u32, 0u32, 0usize);
    for digit in text.bytes() {
        let value = match digit {
            b'a'..=b'z' => digit - b'a',
            b'2'..=b'7' => digit - b'2' + 26,
            _ => return None,
        };
        buffer = (buffer << 5) | u32::from(value);
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            *bytes.get_mut(at)? = (buffer >> bits) as u8;
            at += 1;
        }
    }
    (at == N && buffer & ((1 << bits) - 1) == 0).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_vectors_of_rfc_4648() {
        for (bytes, text) in [("f", "my"), ("fo", "mzxq"), ("foo", "mzxw6"), ("foob", "mzxw6yq"), ("fooba", "mzxw6ytb")]
        {
            assert_eq!(encode(bytes.as_bytes()), text);
        }
        assert_eq!(decode::<5>("mzxw6ytb").unwrap().as_slice(), b"fooba");
        assert_eq!(decode::<3>("mzxw6").unwrap().as_slice(), b"foo");
    }

    #[test]
    fn foreign_digits_lengths_and_surplus_bits_are_refused() {
        assert!(decode::<3>("mzxw").is_none());
        assert!(decode::<3>("MZXW6").is_none());
        assert!(decode::<3>("mzxw1").is_none());
        assert!(decode::<3>("mzxw7").is_none(), "the last bit belongs to no byte and must be zero");
    }
}
