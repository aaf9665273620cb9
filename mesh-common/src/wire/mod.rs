//! The format of frames between nodes (docs/reference/wire.md): outer headers, reserved VNIs and the MAC addresses that carry state.

pub mod mac;
pub mod outer;
pub mod vni;

/// Version of the frame format, carried in every MAC address of ours. Nodes drop frames of another version.
pub const VERSION: u8 = 1;
