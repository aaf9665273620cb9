//! Key material of fixed length: wiped when dropped, compared in constant time, never printed.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::base32;

/// `N` secret bytes.
#[derive(Clone)]
pub struct Secret<const N: usize>(Zeroizing<[u8; N]>);

impl<const N: usize> Secret<N> {
    /// From the operating system's generator.
    pub fn random() -> Self {
        use rand::TryRngCore;
        let mut bytes = Zeroizing::new([0u8; N]);
        // getrandom(2) with no flags fails only on kernels without it; a guessable key would be worse than a crash.
        rand::rngs::OsRng.try_fill_bytes(bytes.as_mut()).expect("the kernel has getrandom(2)");
        Secret(bytes)
    }

    pub fn from_bytes(bytes: [u8; N]) -> Self {
        Secret(Zeroizing::new(bytes))
    }

    /// The bytes, for the cipher or the wire; don't keep copies.
    pub fn expose(&self) -> &[u8; N] {
        &self.0
    }

    /// Equality that takes the same time wherever the first difference is.
    pub fn same_as(&self, other: &Self) -> bool {
        self.0.as_slice().ct_eq(other.0.as_slice()).into()
    }

    /// Base32, for a token or a file.
    pub(super) fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(base32::encode(self.0.as_slice()))
    }

    pub(super) fn from_text(text: &str) -> Option<Self> {
        base32::decode(text).map(Secret)
    }
}

impl<const N: usize> std::fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl<const N: usize> Serialize for Secret<N> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.to_text())
    }
}

impl<'de, const N: usize> Deserialize<'de> for Secret<N> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        // The text itself stays out of the message: it may be a secret with a typing error.
        Secret::from_text(&text).ok_or_else(|| serde::de::Error::custom(format!("a secret of {N} bytes expected")))
    }
}

/// Key material as text (PEM): wiped when dropped, never printed.
#[derive(Clone)]
pub(super) struct SecretText(pub(super) Zeroizing<String>);

impl Serialize for SecretText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for SecretText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| SecretText(Zeroizing::new(text)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed_and_survives_json() {
        let secret = Secret::<16>::random();
        assert_eq!(format!("{secret:?}"), "Secret(…)");
        let json = serde_json::to_string(&secret).unwrap();
        assert!(serde_json::from_str::<Secret<16>>(&json).unwrap().same_as(&secret));
        assert!(!Secret::<16>::random().same_as(&secret));
        let error = serde_json::from_str::<Secret<16>>("\"hunter2\"").unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }
}
