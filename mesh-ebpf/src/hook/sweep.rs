//! The sweeper's hand: user space walks the flow table and names flows that may be over; this program looks again, at both entries, and acts,
//! so that a flow which woke up in between is not lost, and none loses one of its two entries.
//!
//! Input of the test run: `flow::order`. Returns how many entries it removed or marked.

use mesh_common::ageing::silence_allowed_s;
use mesh_common::family::{Family, V4, V6};
use mesh_common::flow::{order, twin};
use mesh_common::parse::{self, Cursor, Plain};
use mesh_common::schema::{FlowKey, flow_flag, rewrite};

use crate::maps::Tables;
use crate::packet::tc::Tc;

#[inline(always)]
pub fn run(tc: &Tc) -> i32 {
    match parse::ethertype(tc) {
        Some(V4::ETHERTYPE) => obey_all::<V4>(tc),
        Some(V6::ETHERTYPE) => obey_all::<V6>(tc),
        _ => 0,
    }
}

#[inline(always)]
fn obey_all<F: Tables>(tc: &Tc) -> i32 {
    let mut acted = 0;
    for number in 0..order::MOST {
        let Some(record) = tc.load::<Order>(order::FIRST_AT + number * order::RECORD) else { break };
        acted += obey::<F>(&record);
    }
    acted
}

/// A record.
#[repr(C)]
#[derive(Clone, Copy)]
struct Order {
    src: [u8; 16],
    dst: [u8; 16],
    sport: u16,
    dport: u16,
    protocol: [u8; 4],
    order: [u8; 4],
    second: [u8; 4],
}

// SAFETY: bytes and words at even offsets: no padding.
unsafe impl Plain for Order {}

const _: () = assert!(size_of::<Order>() == order::RECORD);

/// A real call: judged once by the verifier, not once a record.
#[inline(never)]
fn obey<F: Tables>(record: &Order) -> i32 {
    let [protocol, ..] = record.protocol;
    let [order, ..] = record.order;
    let key = FlowKey::new(F::from_16(record.src), F::from_16(record.dst), record.sport, record.dport, protocol);
    if order == order::TIDY {
        return F::tidy_flow(&key) as i32;
    }
    let second = u32::from_ne_bytes(record.second);
    let Some(flow) = F::flow(&key) else { return 0 };
    // SAFETY: a live map value.
    let flow = unsafe { &mut *flow };
    if order == order::KILL {
        flow.flags |= flow_flag::DEAD;
        return 1;
    }
    let reply = twin(&key, flow);
    let other = reply.as_ref().and_then(|other| Some((other, F::flow(other)?)));
    // SAFETY: a live map value, read only.
    let other = other.map(|(other, found)| (other, unsafe { &*found }));
    // Where one direction was evicted, another flow may have its tuple since. A hairpin's calling direction is not to be found from here; what is not
    // rewritten is one of no two.
    let other = other.filter(|(other, found)| match twin(other, found) {
        Some(back) => back == key,
        None => found.rewrite != rewrite::NONE,
    });
    let twin = other.map(|(_, found)| found);
    let seen_at = match twin {
        Some(twin) if twin.last_seen_s > flow.last_seen_s => twin.last_seen_s,
        _ => flow.last_seen_s,
    };
    let is_over = if order == order::GIVE_UP {
        seen_at <= second
    } else {
        silence_allowed_s(&key, flow, twin).is_some_and(|allowed| second.saturating_sub(seen_at) > allowed)
    };
    if !is_over {
        return 0;
    }
    let removed = 1 + twin.is_some() as i32;
    F::remove_flow(&key);
    if let Some((other, _)) = other {
        F::remove_flow(other);
    }
    removed
}
