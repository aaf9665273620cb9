//! The sweeper's clock: flows are swept as often as is worth it; at once where a backend went or fell silent, and before a round is over in which
//! one began to leave.

use std::net::IpAddr;
use std::time::Instant;

use mesh_common::schema::{self, backend_state};

use super::{EVERY, Kernel, lock};
use crate::kernel::bpf::{End, Standing, Swept, clock};
use crate::plan::maps::{Entry, Key, MapOp, Tables};

/// What a round's changes mean to flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Partings {
    /// A backend went or fell silent: its flows are to be told now.
    pub lost: bool,
    /// A backend takes no new flows any more: datagrams are to choose again before it is told to end.
    pub leaves: bool,
}

impl Partings {
    /// Of operations that are not done yet on these tables.
    pub fn of(ops: &[MapOp], before: &Tables) -> Self {
        let mut partings = Partings::default();
        for op in ops {
            match op {
                MapOp::Delete(Key::Backend(_)) => partings.lost = true,
                MapOp::Put(Entry::Peer(_, peer)) => partings.lost |= peer.flags & schema::peer_flag::UNREACHABLE != 0,
                MapOp::Put(Entry::Backend(number, backend)) => {
                    let was_ready = before.backends.get(number).is_some_and(|was| was.state == backend_state::READY);
                    partings.leaves |= was_ready && backend.state != backend_state::READY;
                }
                _ => {}
            }
        }
        partings
    }
}

impl Kernel {
    /// Sweeps flows for ever.
    pub async fn sweep(&self) {
        let (mut pause, mut before) = (Swept::default().pause(&Swept::default(), EVERY, self.flows.sizes()), None);
        loop {
            let _ = tokio::time::timeout(pause, self.sweep_now.notified()).await; // either way it is time
            let began = Instant::now();
            if let Some(swept) = self.sweep_once().await {
                let (last, at) = before.replace((swept, began)).unwrap_or((swept, began));
                pause = swept.pause(&last, began.saturating_duration_since(at), self.flows.sizes());
            }
        }
    }

    /// One sweep; None where it could not be, which is said. The walk is a thread's own affair: no lock is held, no other task of the agent waits
    /// for it.
    pub(super) async fn sweep_once(&self) -> Option<Swept> {
        let (flows, programmed) = (self.flows.clone(), self.programmed.clone());
        let swept = tokio::task::spawn_blocking(move || {
            flows.sweep(clock::now_s(), |end| standing(lock(&programmed).tables(), end))
        });
        match swept.await {
            Ok(Ok(swept)) => {
                if swept.expired + swept.killed > 0 {
                    log::debug!("swept: {swept:?}");
                }
                return Some(swept);
            }
            Ok(Err(error)) => log::warn!("{error}"),
            Err(error) => log::error!("sweep the flow table: {error}"),
        }
        None
    }
}

/// How an end of flows stands.
fn standing(tables: &Tables, end: End) -> Standing {
    let number = match end {
        End::Endpoint(number) => number,
        End::Link(addr, ifindex) => {
            let is_there =
                tables.endpoints.get(&IpAddr::from(addr).to_canonical()).is_some_and(|it| it.ifindex == ifindex);
            return if is_there { Standing::Serves } else { Standing::Gone };
        }
    };
    let is_silent =
        |node: &u32| tables.peers.get(node).is_some_and(|peer| peer.flags & schema::peer_flag::UNREACHABLE != 0);
    let Some(backend) = tables.backends.get(&number).filter(|backend| !is_silent(&backend.node)) else {
        return Standing::Gone;
    };
    let takes_over = |other: &schema::Backend| other.pool == backend.pool && other.state == backend_state::READY;
    let leaves = backend.state != backend_state::READY && backend.pool != 0;
    if leaves && tables.backends.values().any(takes_over) { Standing::Leaves } else { Standing::Serves }
}

#[cfg(test)]
mod tests {
    use mesh_common::family::Bytes;

    use super::*;

    fn backend(pool: u32, node: u32, state: u8) -> schema::Backend {
        schema::Backend {
            addr6: [0; 16],
            addr4: [10, 0, 16, 4],
            vni: 4_097,
            pool,
            node,
            ifindex: 0,
            mac: [0; 6],
            state,
            pad: 0,
        }
    }

    fn tables(backends: &[(u32, schema::Backend)]) -> Tables {
        let silent = schema::Peer { mtu: 1_500, flags: schema::peer_flag::UNREACHABLE, ..schema::Peer::NONE };
        Tables {
            backends: backends.iter().copied().collect(),
            peers: [(3, silent)].into_iter().collect(),
            ..Tables::default()
        }
    }

    #[test]
    fn who_drains_is_left_where_another_takes_over_and_serves_where_none_does() {
        let standing = |tables: &Tables, number| standing(tables, End::Endpoint(number));
        let (ready, draining) = (backend_state::READY, backend_state::DRAINING);
        let alone = tables(&[(1, backend(7, 1, draining)), (2, backend(7, 2, draining)), (4, backend(8, 1, ready))]);
        assert_eq!([1, 2, 4].map(|number| standing(&alone, number)), [Standing::Serves; 3]);
        let two = tables(&[(1, backend(7, 1, draining)), (2, backend(7, 2, ready)), (4, backend(0, 1, draining))]);
        assert_eq!(
            [1, 2, 4, 5].map(|number| standing(&two, number)),
            [Standing::Leaves, Standing::Serves, Standing::Serves, Standing::Gone]
        );
        assert_eq!(standing(&tables(&[(1, backend(7, 3, ready))]), 1), Standing::Gone, "its node is silent");
    }

    #[test]
    fn a_link_is_there_while_its_task_has_the_address() {
        let endpoint = schema::Endpoint {
            vni: 4_097,
            number: 1,
            node: 1,
            ifindex: 5,
            gateway: IpAddr::from([10, 0, 16, 1]),
            mac: [0; 6],
            kind: schema::endpoint::TASK,
            flags: 0,
            prefix_len: 20,
            pad: [0; 3],
        };
        let addr = IpAddr::from([10, 0, 16, 3]);
        let tables = Tables { endpoints: [(addr, endpoint)].into_iter().collect(), ..Tables::default() };
        let at = |addr: [u8; 4], ifindex| standing(&tables, End::Link(addr.to_16(), ifindex));
        assert_eq!(at([10, 0, 16, 3], 5), Standing::Serves);
        assert_eq!([at([10, 0, 16, 3], 4), at([10, 0, 16, 4], 5)], [Standing::Gone; 2], "another's by now; nobody's");
    }

    #[test]
    fn a_round_parts_with_a_backend_that_was_ready_and_not_with_one_that_begins() {
        let before = tables(&[(1, backend(7, 1, backend_state::READY))]);
        let put = |number, state| MapOp::Put(Entry::Backend(number, backend(7, 1, state)));
        let leaves = Partings { leaves: true, lost: false };
        assert_eq!(Partings::of(&[put(1, backend_state::DRAINING)], &before), leaves);
        assert_eq!(Partings::of(&[put(2, backend_state::DRAINING)], &before), Partings::default());
        assert_eq!(Partings::of(&[put(1, backend_state::READY)], &before), Partings::default());
        let lost = Partings { leaves: false, lost: true };
        assert_eq!(Partings::of(&[MapOp::Delete(Key::Backend(1))], &before), lost);
    }
}
