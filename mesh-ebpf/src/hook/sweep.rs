//! The sweeper's hand: user space walks the flow table and names flows that may be over; this program looks again, at both entries, and acts,
//! so that a flow which woke up in between is not lost, and none loses one of its two entries.
//!
//! Input of the test run: `flow::order`. Returns how many entries it removed or marked.

use mesh_common::ageing::silence_allowed_s;
use mesh_common::family::V4;
use mesh_common::flow::{order, twin};
use mesh_common::parse::Cursor;
use mesh_common::schema::{FlowKey, flow_flag};

use crate::maps::Tables;
use crate::packet::tc::Tc;

#[inline(always)]
pub fn run(tc: &Tc) -> i32 {
    let mut acted = 0;
    for number in 0..order::MOST {
        let Some(record) = tc.load::<[u8; order::RECORD]>(order::FIRST_AT + number * order::RECORD) else { break };
        acted += obey(&record);
    }
    acted
}

/// A real call: judged once by the verifier, not once a record.
#[inline(never)]
fn obey(b: &[u8; order::RECORD]) -> i32 {
    let key = FlowKey::new(
        [b[0], b[1], b[2], b[3]].into(),
        [b[4], b[5], b[6], b[7]].into(),
        u16::from_ne_bytes([b[8], b[9]]),
        u16::from_ne_bytes([b[10], b[11]]),
        b[12],
    );
    if b[16] == order::TIDY {
        return V4::tidy_flow(&key) as i32;
    }
    let second = u32::from_ne_bytes([b[20], b[21], b[22], b[23]]);
    let Some(flow) = V4::flow(&key) else { return 0 };
    // SAFETY: a live map value.
    let flow = unsafe { &mut *flow };
    if b[16] == order::KILL {
        flow.flags |= flow_flag::DEAD;
        return 1;
    }
    let reply = twin(&key, flow);
    let other = reply.as_ref().and_then(|other| Some((other, V4::flow(other)?)));
    // SAFETY: a live map value, read only.
    let other = other.map(|(other, found)| (other, unsafe { &*found }));
    // Where one direction was evicted, another flow may have its tuple since. A hairpin's calling direction is not to be found from here.
    let other = other.filter(|(other, found)| twin(other, found).is_none_or(|back| back == key));
    let twin = other.map(|(_, found)| found);
    let seen_at = match twin {
        Some(twin) if twin.last_seen_s > flow.last_seen_s => twin.last_seen_s,
        _ => flow.last_seen_s,
    };
    let is_over = if b[16] == order::GIVE_UP {
        seen_at <= second
    } else {
        silence_allowed_s(&key, flow, twin).is_some_and(|allowed| second.saturating_sub(seen_at) > allowed)
    };
    if !is_over {
        return 0;
    }
    let removed = 1 + twin.is_some() as i32;
    V4::remove_flow(&key);
    if let Some((other, _)) = other {
        V4::remove_flow(other);
    }
    removed
}
