//! A header's field in a test: a value, or one that the test does not own.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};

/// Says that a field may have any value: `tcp(any(), 80)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Any;

/// See [`Any`].
pub fn any() -> Any {
    Any
}

/// What a builder's setter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<T> {
    Is(T),
    Any,
}

impl<T: Copy + Default> Field<T> {
    /// The value to send: zero for a field that may be anything.
    pub(crate) fn value(self) -> T {
        match self {
            Field::Is(value) => value,
            Field::Any => T::default(),
        }
    }

    pub(crate) fn is_any(&self) -> bool {
        matches!(self, Field::Any)
    }
}

impl<T> From<Any> for Field<T> {
    fn from(_: Any) -> Self {
        Field::Any
    }
}

macro_rules! from_value {
    ($($value:ty),*) => {$(
        impl From<$value> for Field<$value> {
            fn from(value: $value) -> Self {
                Field::Is(value)
            }
        }
    )*};
}

from_value!(u8, u16, u32, Mac);

impl From<[u8; 6]> for Field<Mac> {
    fn from(bytes: [u8; 6]) -> Self {
        Field::Is(Mac(bytes))
    }
}

/// A MAC address; tests write it as text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    pub const BROADCAST: Mac = Mac([0xff; 6]);
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.map(|byte| format!("{byte:02x}")).join(":"))
    }
}

impl From<&str> for Field<Mac> {
    /// A text that is no address is a mistake in the test.
    fn from(text: &str) -> Self {
        let bytes: Vec<u8> = text.split(':').filter_map(|part| u8::from_str_radix(part, 16).ok()).collect();
        Field::Is(Mac(bytes.try_into().unwrap_or_else(|_| panic!("not a MAC address: {text}"))))
    }
}

/// IPv4 and IPv6 addresses, as values or as text.
macro_rules! from_address {
    ($address:ty, $octets:ty) => {
        impl From<$address> for Field<$octets> {
            fn from(address: $address) -> Self {
                Field::Is(address.octets())
            }
        }
        impl From<&str> for Field<$octets> {
            /// A text that is no address is a mistake in the test.
            fn from(text: &str) -> Self {
                let address: $address =
                    text.parse().unwrap_or_else(|_| panic!("not an IP address of this family: {text}"));
                address.into()
            }
        }
        impl From<$octets> for Field<$octets> {
            fn from(octets: $octets) -> Self {
                Field::Is(octets)
            }
        }
    };
}

from_address!(Ipv4Addr, [u8; 4]);
from_address!(Ipv6Addr, [u8; 16]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_bytes() {
        assert_eq!(Field::<Mac>::from("02:00:00:00:00:ff"), Field::Is(Mac([2, 0, 0, 0, 0, 255])));
        assert_eq!(Field::<[u8; 4]>::from("10.0.0.1"), Field::Is([10, 0, 0, 1]));
        assert!(Field::<u16>::from(any()).is_any());
        assert_eq!(Mac([2, 0, 0, 0, 0, 255]).to_string(), "02:00:00:00:00:ff");
    }
}
