//! Who may call a published port: asked once a flow, by whoever lets its first packet in, and only of ports that have a list.

use mesh_common::schema::{AllowKey, Frontend};

use crate::maps::Tables;

/// Not 0: this caller is let in. A real call, for few ports have a list.
#[inline(never)]
pub fn admits<F: Tables>(frontend: &Frontend<F::Addr>, caller: &F::Addr) -> i32 {
    F::is_allowed(&AllowKey { pool: frontend.pool, list: frontend.allow, addr: *caller }) as i32
}
