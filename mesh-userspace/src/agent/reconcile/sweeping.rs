//! The sweeper's clock: flows are swept as often as is worth it, and at once where a backend went or fell silent.

use std::time::Instant;

use mesh_common::schema;

use super::{EVERY, Kernel, lock};
use crate::kernel::bpf::{Swept, clock};
use crate::plan::maps::Tables;

impl Kernel {
    /// Sweeps flows for ever. The walk is a thread's own affair: no lock is held, no other task of the agent waits for it.
    pub async fn sweep(&self) {
        let (mut pause, mut before) = (Swept::default().pause(&Swept::default(), EVERY, self.flows.sizes()), None);
        loop {
            let _ = tokio::time::timeout(pause, self.sweep_now.notified()).await; // either way it is time
            let began = Instant::now();
            let (flows, programmed) = (self.flows.clone(), self.programmed.clone());
            let swept = tokio::task::spawn_blocking(move || {
                flows.sweep(clock::now_s(), |backend| is_in_reach(lock(&programmed).tables(), backend))
            });
            match swept.await {
                Ok(Ok(swept)) => {
                    if swept.expired + swept.killed > 0 {
                        log::debug!("swept: {swept:?}");
                    }
                    let (last, at) = before.replace((swept, began)).unwrap_or((swept, began));
                    pause = swept.pause(&last, began.saturating_duration_since(at), self.flows.sizes());
                }
                Ok(Err(error)) => log::warn!("{error}"),
                Err(error) => log::error!("sweep the flow table: {error}"),
            }
        }
    }
}

/// Flows may go on with this backend: it is there, and its node answers.
fn is_in_reach(tables: &Tables, backend: u32) -> bool {
    let is_silent =
        |node: &u32| tables.peers.get(node).is_some_and(|peer| peer.flags & schema::peer_flag::UNREACHABLE != 0);
    tables.backends.get(&backend).is_some_and(|backend| !is_silent(&backend.node))
}
