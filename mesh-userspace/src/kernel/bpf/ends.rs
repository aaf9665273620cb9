//! What a flow depends on: the task that serves it and the task of ours that called. Pure: entry → ends, and how they stand → what becomes of it.
//!
//! An entry must not outlive an end of it: to a backend that is gone nothing leads, and the address of a caller that is gone may be another task's by
//! now, whose packets would meet it. An entry says both itself, so the sweeper looks at one at a time.

use mesh_common::ageing::may_choose_again;
use mesh_common::family::Bytes;
use mesh_common::schema::{Flow, FlowKey, deliver, flow_flag, origin, rewrite};
use mesh_common::wire::mac;

/// An end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum End {
    /// The task with this endpoint number, anywhere.
    Endpoint(u32),
    /// A task of this node: an address of it (IPv4 as ::ffff:a.b.c.d), and its link's host side.
    Link([u8; 16], u32),
}

/// How an end of a flow stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It is there.
    Serves,
    /// It drains, or is not ready, and its service has another: connections stay, datagrams choose again.
    Leaves,
    /// It is not there, or its node does not answer: nothing reaches it.
    Gone,
}

/// The ends that an entry knows.
pub fn of<A: Bytes>(key: &FlowKey<A>, flow: &Flow<A>) -> impl Iterator<Item = End> {
    let backend = (flow.backend != 0).then_some(End::Endpoint(flow.backend));
    let sender = (flow.from < origin::PEER && flow.from != 0).then(|| End::Link(key.src.to_16(), flow.from));
    let is_answer = flow.flags & flow_flag::REVERSE != 0 && flow.rewrite == rewrite::SOURCE;
    let caller = match (flow.deliver, mac::split(flow.mac)) {
        _ if !is_answer => None,
        // Who called itself is seen as the gateway there, and is the sender.
        (deliver::TASK, _) if flow.flags & flow_flag::HAIRPIN == 0 => Some(End::Link(key.dst.to_16(), flow.ifindex)),
        // By the port of a node, or within their network.
        (deliver::TUNNEL, Some((mac::KIND_CLIENT | mac::KIND_TASK, number))) => Some(End::Endpoint(number)),
        _ => None,
    };
    [backend, sender, caller].into_iter().flatten()
}

/// The entry is over: its next packet is to be refused, or to choose again.
pub fn ends<A: Bytes>(key: &FlowKey<A>, flow: &Flow<A>, mut how: impl FnMut(End) -> Standing) -> bool {
    match of(key, flow).map(|end| (end, how(end))).max_by_key(|(_, standing)| *standing) {
        Some((_, Standing::Gone)) => true,
        Some((End::Endpoint(number), Standing::Leaves)) => number == flow.backend && may_choose_again(key, flow),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use mesh_common::parse::protocol;

    use super::*;

    const CALLER: [u8; 4] = [10, 0, 16, 3];
    const BACKEND: [u8; 4] = [10, 0, 16, 4];
    const NODE: [u8; 4] = [192, 0, 2, 2];

    fn key(src: [u8; 4], dst: [u8; 4]) -> FlowKey<[u8; 4]> {
        FlowKey::new(src, dst, 40_000, 80, protocol::UDP)
    }

    fn link(addr: [u8; 4], ifindex: u32) -> End {
        End::Link(addr.to_16(), ifindex)
    }

    fn call() -> Flow<[u8; 4]> {
        Flow {
            from: 5,
            backend: 7,
            rewrite: rewrite::DESTINATION,
            deliver: deliver::TASK,
            ifindex: 6,
            ..Flow::default()
        }
    }

    fn answer() -> Flow<[u8; 4]> {
        let flags = flow_flag::REVERSE;
        Flow {
            from: 6,
            backend: 7,
            rewrite: rewrite::SOURCE,
            deliver: deliver::TASK,
            ifindex: 5,
            flags,
            ..Flow::default()
        }
    }

    #[test]
    fn an_entry_knows_its_backend_and_its_caller() {
        let all = |key, flow: Flow<[u8; 4]>| of(&key, &flow).collect::<Vec<_>>();
        assert_eq!(all(key(CALLER, [10, 0, 16, 2]), call()), [End::Endpoint(7), link(CALLER, 5)]);
        assert_eq!(all(key(BACKEND, CALLER), answer()), [End::Endpoint(7), link(BACKEND, 6), link(CALLER, 5)]);
        let from_peer = Flow { from: origin::peer(2), ..answer() };
        assert_eq!(all(key(BACKEND, CALLER), from_peer), [End::Endpoint(7), link(CALLER, 5)]);
        let hairpin = Flow { flags: flow_flag::REVERSE | flow_flag::HAIRPIN, ..answer() };
        assert_eq!(all(key(BACKEND, [10, 0, 16, 1]), hairpin), [End::Endpoint(7), link(BACKEND, 6)]);
        // At the owner: a task of the ingress node called, its host, or somebody outside.
        let back = |mac| Flow { deliver: deliver::TUNNEL, ifindex: 0, mac, ..answer() };
        for kind in [mac::KIND_CLIENT, mac::KIND_TASK] {
            let of_task = all(key(BACKEND, CALLER), back(mac::of(kind, 9)));
            assert_eq!(of_task, [End::Endpoint(7), link(BACKEND, 6), End::Endpoint(9)]);
        }
        for last_hop in [mac::HOST, [2, 0, 0, 0, 0, 9]] {
            assert_eq!(all(key(BACKEND, NODE), back(last_hop)), [End::Endpoint(7), link(BACKEND, 6)]);
        }
        let of_wire =
            Flow { from: origin::WIRE, ifindex: 0, rewrite: rewrite::NONE, deliver: deliver::TUNNEL, ..call() };
        assert_eq!(all(key([198, 51, 100, 9], NODE), of_wire), [End::Endpoint(7)]);
        assert_eq!(all(key([198, 51, 100, 9], NODE), Flow { from: origin::HOST, ..of_wire }), [End::Endpoint(7)]);
    }

    #[test]
    fn an_entry_ends_with_either_end_and_datagrams_leave_with_their_backend() {
        let (to, back) = (key(CALLER, [10, 0, 16, 2]), key(BACKEND, CALLER));
        let how = |gone: End, standing| move |end| if end == gone { standing } else { Standing::Serves };
        for gone in [End::Endpoint(7), link(CALLER, 5)] {
            assert!(ends(&to, &call(), how(gone, Standing::Gone)), "{gone:?}");
            assert!(ends(&back, &answer(), how(gone, Standing::Gone)), "{gone:?}");
        }
        assert!(ends(&to, &call(), how(End::Endpoint(7), Standing::Leaves)));
        assert!(!ends(&back, &answer(), how(End::Endpoint(7), Standing::Leaves)), "answers on their way find back");
        assert!(!ends(&to, &call(), |_| Standing::Serves) && !ends(&back, &answer(), |_| Standing::Serves));
        let of_client = Flow { deliver: deliver::TUNNEL, mac: mac::of(mac::KIND_CLIENT, 9), ..answer() };
        assert!(ends(&back, &of_client, how(End::Endpoint(9), Standing::Gone)));
        assert!(!ends(&back, &of_client, how(End::Endpoint(9), Standing::Leaves)), "a caller that drains still calls");
    }
}
