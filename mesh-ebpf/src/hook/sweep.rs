//! The sweeper's hand: user space walks the flow table and names a flow; this program, run once for it, looks again and acts, so that a
//! flow which woke up in between is not lost.
//!
//! Input of the test run: 14 zero bytes, the flow key (16 bytes as in the map), the order (1 byte), 3 zero bytes, the `last_seen_s` that
//! user space saw (native order). Returns 1 if it acted.

use mesh_common::family::V4;
use mesh_common::flow::order;
use mesh_common::parse::Cursor;
use mesh_common::schema::{FlowKey, flow_flag};

use crate::maps::Tables;
use crate::packet::tc::Tc;

#[inline(always)]
pub fn run(tc: &Tc) -> i32 {
    let Some(b) = tc.load::<[u8; 24]>(14) else { return 0 };
    let key = FlowKey {
        src: [b[0], b[1], b[2], b[3]],
        dst: [b[4], b[5], b[6], b[7]],
        sport: u16::from_ne_bytes([b[8], b[9]]),
        dport: u16::from_ne_bytes([b[10], b[11]]),
        protocol: b[12],
        pad: [0; 3],
    };
    if b[16] == order::TIDY {
        return V4::tidy_flow(&key) as i32;
    }
    let seen_at = u32::from_ne_bytes([b[20], b[21], b[22], b[23]]);
    let Some(flow) = V4::flow(&key) else { return 0 };
    // SAFETY: a live map value.
    let flow = unsafe { &mut *flow };
    if b[16] == order::KILL {
        flow.flags |= flow_flag::DEAD;
        return 1;
    }
    if flow.last_seen_s != seen_at {
        return 0;
    }
    V4::remove_flow(&key);
    1
}
