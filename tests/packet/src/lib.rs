//! Frames for tests: said field by field, compared field by field.
//!
//! ```
//! use mesh_packet::{any, eth};
//!
//! let syn = eth("02:00:00:00:00:01", "02:00:00:00:00:02").ipv4("198.51.100.9", "192.0.2.1").tcp(40000, 8080).syn().mss(1460);
//! let got = syn.bytes();
//! let wanted = eth("02:00:00:00:00:01", any()).ipv4("198.51.100.9", "192.0.2.1").tcp(any(), 8080).syn().mss(1460);
//! wanted.assert_matches(&got);
//! ```
//! Lengths, checksums and type fields are filled in. Frames are written by this crate and read back by etherparse, which shares
//! no line with it nor with mesh: a mistake would have to be made twice. This crate imports nothing of mesh.

pub mod checksum;
mod decode;
mod differ;
mod emit;
mod family;
mod field;
mod frame;
mod layer;

pub use decode::{Layer as DecodedLayer, decode};
pub use differ::differences;
pub use family::over_ipv6;
pub use field::{Any, Field, Mac, any};
pub use frame::{Frame, eth, fragments};
