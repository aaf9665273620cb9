//! Identity of every object: 128 random bits in 32 lowercase hex digits, shown by its first 12.

use serde::{Deserialize, Serialize};

/// The identity of a node, network, service or task: 32 lowercase hex digits, without memory of their own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Id([u8; Id::LEN]);

/// The text is not 32 lowercase hex digits.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not an id: 32 lowercase hex digits expected")]
pub struct ParseIdError(String);

impl Id {
    /// Digits of a full id.
    pub const LEN: usize = 32;
    /// Digits that tables show and that name a task's host.
    pub const SHORT_LEN: usize = 12;

    /// Makes an id from 16 random bytes that the caller supplies.
    pub fn from_bytes(random: [u8; 16]) -> Self {
        let digit = |nibble: u8| b"0123456789abcdef"[usize::from(nibble)];
        Id(std::array::from_fn(|at| digit(if at % 2 == 0 { random[at / 2] >> 4 } else { random[at / 2] & 15 })))
    }

    /// All 32 digits.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("an id consists of hex digits")
    }

    /// The first 12 digits: what listings show, and a task's hostname.
    pub fn short(&self) -> &str {
        &self.as_str()[..Self::SHORT_LEN]
    }
}

impl TryFrom<String> for Id {
    type Error = ParseIdError;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        match <[u8; Self::LEN]>::try_from(text.as_bytes()) {
            Ok(digits) if digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) => Ok(Id(digits)),
            _ => Err(ParseIdError(text)),
        }
    }
}

impl From<Id> for String {
    fn from(id: Id) -> String {
        id.as_str().to_string()
    }
}

impl std::fmt::Debug for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Id({self})")
    }
}

impl std::fmt::Display for Id {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_32_hex_digits_and_shows_12() {
        let id = Id::from_bytes([0xab; 16]);
        assert_eq!(id.as_str(), "abababababababababababababababab");
        assert_eq!(id.short(), "abababababab");
        assert!(Id::try_from("ABAB".to_string()).is_err());
    }
}
