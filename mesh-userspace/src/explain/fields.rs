//! The fields of values for both families that are one family's.

use mesh_common::family::{Bytes, Family};
use mesh_common::schema::{Backend, Uplink};

/// A task's overlay address.
pub fn backend_addr<F: Family>(backend: &Backend) -> F::Addr {
    of_either::<F>(backend.addr4, backend.addr6)
}

/// This node's address on an uplink.
pub fn uplink_addr<F: Family>(uplink: &Uplink) -> F::Addr {
    of_either::<F>(uplink.addr4, uplink.addr6)
}

fn of_either<F: Family>(addr4: [u8; 4], addr6: [u8; 16]) -> F::Addr {
    F::from_16(if F::ADDR_LEN == 4 { addr4.to_16() } else { addr6 })
}

/// Both addresses share a prefix of this length, which is not 0.
pub fn same_network<F: Family>(a: F::Addr, b: F::Addr, prefix_len: u8) -> bool {
    let (a, b) = (u128::from_be_bytes(F::to_16(a)), u128::from_be_bytes(F::to_16(b)));
    let offset = if F::ADDR_LEN == 4 { 96 } else { 0 };
    prefix_len != 0 && (a ^ b).leading_zeros() >= offset + u32::from(prefix_len)
}
