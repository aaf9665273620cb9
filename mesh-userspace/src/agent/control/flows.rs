//! The flow table for people: walked on a thread of its own, a piece at a time, as fast as it is read.

use std::collections::BTreeMap;

use mesh_common::ageing::State;
use mesh_common::family::is_mapped;
use mesh_common::flow::twin;
use mesh_common::verdict::DropReason;
use tokio::sync::mpsc;

use crate::agent::member::Member;
use crate::agent::now;
use crate::api::{ApiError, FlowFact, FlowFeed, FlowQuery, FlowState, FlowSummary, TableFill, protocol_name};
use crate::kernel::bpf::{BpfError, FlowSeen, FlowSizes, FlowTable, clock};

/// Pieces on their way to the reader.
const WINDOW: usize = 4;

pub fn list(member: &Member, query: FlowQuery) -> Result<FlowFeed, ApiError> {
    let table = member.kernel.flow_table();
    let (sender, feed) = mpsc::channel(WINDOW);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = walk(&table, &query, &sender) {
            let _ = sender.blocking_send(Err(failed(&error))); // nobody listens any more
        }
    });
    Ok(feed)
}

fn walk(
    table: &FlowTable,
    query: &FlowQuery,
    sender: &mpsc::Sender<Result<Vec<FlowFact>, ApiError>>,
) -> Result<(), BpfError> {
    let now_s = clock::now_s();
    let mut left = query.limit.unwrap_or(u64::MAX);
    let mut outcome = Ok(());
    table.walk(|seen, is_beside| {
        let mut piece = Vec::new();
        for FlowSeen { key, flow } in seen.iter().filter(|seen| query.may_want(&seen.key, &seen.flow)) {
            let twin = match twin(key, flow).map(|key| table.get(&key)).transpose() {
                Ok(twin) => twin.flatten(),
                Err(error) => {
                    outcome = Err(error);
                    return false;
                }
            };
            let seen_s = flow.last_seen_s.max(twin.map_or(0, |twin| twin.last_seen_s));
            let fact = FlowFact { key: *key, flow: *flow, twin, is_beside, silent_s: now_s.saturating_sub(seen_s) };
            if left != 0 && query.wants(&fact) {
                piece.push(fact);
                left -= 1;
            }
        }
        let is_heard = if piece.is_empty() { !sender.is_closed() } else { sender.blocking_send(Ok(piece)).is_ok() };
        is_heard && left != 0
    })?;
    outcome
}

pub async fn summary(member: &Member) -> Result<FlowSummary, ApiError> {
    let drops = member.kernel.drops().map_err(|error| ApiError::internal(format!("{error:#}")))?;
    let table = member.kernel.flow_table();
    let counted = tokio::task::spawn_blocking(move || count(&table)).await;
    let counted = counted.map_err(|error| ApiError::internal(format!("the count of flows ended early: {error}")))?;
    let full = drops.iter().filter(|(_, reason, _)| *reason == DropReason::TableFull).map(|(_, _, count)| count);
    let summary = counted.map_err(|error| failed(&error))?;
    Ok(FlowSummary { at: now(), drops_table_full: full.sum(), ..summary })
}

fn count(table: &FlowTable) -> Result<FlowSummary, BpfError> {
    let fill = |sizes: FlowSizes| TableFill {
        size: sizes.table.into(),
        overflow_size: sizes.overflow.into(),
        ..TableFill::default()
    };
    let (mut ipv4, mut ipv6) = (fill(table.sizes()), fill(table.sizes6()));
    let mut entries: BTreeMap<u8, [u64; State::ALL.len()]> = BTreeMap::new();
    table.walk(|seen, is_beside| {
        let is_ipv4 = seen.first().is_some_and(|seen| is_mapped(&seen.key.src));
        let fill = if is_ipv4 { &mut ipv4 } else { &mut ipv6 };
        *(if is_beside { &mut fill.overflow_used } else { &mut fill.used }) += seen.len() as u64;
        for FlowSeen { key, flow } in seen {
            entries.entry(key.protocol).or_default()[State::of_entry(key, flow) as usize] += 1;
        }
        true
    })?;
    let by_state = |counts: [u64; State::ALL.len()]| -> BTreeMap<FlowState, u64> {
        State::ALL.into_iter().map(FlowState::from).zip(counts).filter(|(_, count)| *count != 0).collect()
    };
    Ok(FlowSummary {
        ipv4,
        ipv6,
        gave_way: table.given_up(),
        entries: entries.into_iter().map(|(number, counts)| (protocol_name(number), by_state(counts))).collect(),
        ..FlowSummary::default()
    })
}

fn failed(error: &BpfError) -> ApiError {
    ApiError::internal(format!("the flow table can't be read: {error}"))
}
