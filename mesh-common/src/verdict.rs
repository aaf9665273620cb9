//! What happens to a packet, and the one list of reasons why it may be dropped.
//!
//! A reason is counted per hook in the map `DROPS`, at index `hook * 64 + reason`; the table of docs/reference/drops.md is made of this list
//! (`packet_drops.rs` writes and compares it), and each reason has a packet test.

/// The packet hooks, in the order of their rows in `DROPS`.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// Ingress of a task's veth, host side: what tasks send.
    FromTask = 0,
    /// Ingress of mesh0: what peers send.
    FromOverlay = 1,
    /// Egress of mesh0: what this node's own stack sends into the overlay.
    FromHost = 2,
    /// Ingress of an uplink: what the world sends.
    FromUplink = 3,
}

impl Hook {
    /// All hooks, in row order.
    pub const ALL: [Hook; 4] = [Hook::FromTask, Hook::FromOverlay, Hook::FromHost, Hook::FromUplink];

    /// The hook of a row.
    #[inline(always)]
    pub const fn of_number(number: u32) -> Hook {
        match number {
            0 => Hook::FromTask,
            1 => Hook::FromOverlay,
            2 => Hook::FromHost,
            _ => Hook::FromUplink,
        }
    }

    /// The name that commands and metrics show.
    pub const fn name(self) -> &'static str {
        match self {
            Hook::FromTask => "from_task",
            Hook::FromOverlay => "from_overlay",
            Hook::FromHost => "from_host",
            Hook::FromUplink => "from_uplink",
        }
    }
}

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal {
        hooks: $hooks:literal, meaning: $meaning:literal, remedy: $remedy:literal,
    })+) => {
        /// Why a packet was dropped or refused.
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant = $number,)+
        }

        impl DropReason {
            /// All reasons, in numeric order.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant),+];

            /// The name that commands and metrics show.
            pub const fn name(self) -> &'static str {
                match self {
                    $(DropReason::$variant => $name,)+
                }
            }

            /// Where it is met, as docs/reference/drops.md writes it: in *italics* where the sender is told.
            pub const fn hooks(self) -> &'static str {
                match self {
                    $(DropReason::$variant => $hooks,)+
                }
            }

            /// What it means, in the words of docs/reference/drops.md.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(DropReason::$variant => $meaning,)+
                }
            }

            /// What to do about it, likewise.
            pub const fn remedy(self) -> &'static str {
                match self {
                    $(DropReason::$variant => $remedy,)+
                }
            }
        }
    };
}

drop_reasons! {
    /// Shorter than its headers say, or headers that contradict each other.
    Malformed = 1, "malformed" {
        hooks: "from_task, from_overlay, from_host",
        meaning: "shorter than its headers say, headers that contradict each other (ARP, neighbour discovery and echo frames too), or more extension headers than are read",
        remedy: "a few are noise; many: capture on that link",
    }
    /// A protocol or EtherType that the overlay does not carry.
    Unsupported = 2, "unsupported" {
        hooks: "from_task, from_overlay",
        meaning: "neither IP nor ARP; another protocol than TCP, UDP, SCTP and echo to the gateway or to the outside; a router's advertisement or redirect from a task",
        remedy: "other protocols are not carried; nothing is broken if the task does not need them",
    }
    /// A task sent from an address that is not its own.
    SpoofedSource = 3, "spoofed-source" {
        hooks: "from_task",
        meaning: "the task sent from an address that is not its own (IP, ARP or neighbour discovery)",
        remedy: "look for bridges, VMs or containers inside the task; just after a start: the endpoint is not written yet",
    }
    /// A task sent from a MAC address that is not its own.
    SpoofedMac = 4, "spoofed-mac" {
        hooks: "from_task",
        meaning: "the right address, another MAC than `eth0` was given",
        remedy: "somebody changed the MAC inside the task",
    }
    /// Multicast or broadcast: the overlay floods nothing.
    Multicast = 5, "multicast" {
        hooks: "from_task",
        meaning: "multicast or broadcast: the overlay floods nothing",
        remedy: "use names (`tasks.SERVICE`) instead of discovery by multicast",
    }
    /// No task, VIP or gateway has this overlay address. The sender is told.
    NoEndpoint = 6, "no-endpoint" {
        hooks: "*from_task*, from_overlay, *from_host*",
        meaning: "no task, VIP or gateway has this address of the sender's network; on from_overlay: the task does not live here (any more) and the packet opens nothing, or came back and nobody else can answer it",
        remedy: "`mesh service ps`: the task ended, or the caller remembers an old address",
    }
    /// The destination is on a network that the sender is not on. The sender is told.
    OtherNetwork = 7, "other-network" {
        hooks: "*from_task*",
        meaning: "the destination is on a network that the sender is not on",
        remedy: "attach both services to one network",
    }
    /// The service has no ready task. The sender is told.
    NoBackend = 8, "no-backend" {
        hooks: "*from_task*, *from_host*, *from_uplink*",
        meaning: "the service has no ready task that can be reached",
        remedy: "`mesh service ps NAME`",
    }
    /// Nothing listens at this port of the gateway. The sender is told.
    ClosedPort = 9, "closed-port" {
        hooks: "*from_task*",
        meaning: "the gateway answers echo and port 53 only",
        remedy: "address the node itself, not the gateway",
    }
    /// A task, or somebody that this host forwards for, tried to reach the data port of a node.
    DataPort = 10, "data-port" {
        hooks: "from_task, from_uplink",
        meaning: "a task sent UDP to the data port, of a node or of anybody outside; on from_uplink: a container, or somebody else that this host forwards for, sent to the data port of a peer",
        remedy: "nobody but the programs may; look at the task, or at who else this host forwards for",
    }
    /// A task of an internal network tried to leave the overlay.
    Internal = 11, "internal" {
        hooks: "from_task",
        meaning: "all networks of the task are internal, and the packet would leave the overlay",
        remedy: "attach it to a network that is not internal",
    }
    /// No route to the outside destination.
    NoRoute = 12, "no-route" {
        hooks: "*from_task*",
        meaning: "the node has no route to the outside destination, or the route leaves by a link without an Ethernet header, or by one that `--publish-interface` left out",
        remedy: "`ip route get ADDRESS` on the node",
    }
    /// No source port left for this outside destination.
    NoSnatPort = 13, "no-snat-port" {
        hooks: "from_task",
        meaning: "16 source ports were tried for this outside destination and all are taken",
        remedy: "fewer connections to one destination and port from this node; see table-full",
    }
    /// A tunnel packet from an address that is no peer's.
    UnknownPeer = 14, "unknown-peer" {
        hooks: "from_overlay",
        meaning: "a tunnel packet from an address that is no member's data path address, of either family",
        remedy: "a removed node, a foreign VXLAN device on the same port, or a node behind NAT; just after a join: this node has not heard yet",
    }
    /// A tunnel packet whose inner source does not live on that peer.
    WrongPeer = 15, "wrong-peer" {
        hooks: "from_overlay",
        meaning: "the inner source is not a task of that network on that peer, or the source of a call lives elsewhere than where it entered",
        remedy: "just after a start or an end: views differ for a moment; constant: a member lies, or `mesh status` shows that this node is behind",
    }
    /// A tunnel packet with a VNI that means nothing here.
    UnknownVni = 16, "unknown-vni" {
        hooks: "from_overlay",
        meaning: "a VNI that means nothing here",
        remedy: "another program's VXLAN on our port, or another version of mesh",
    }
    /// A frame whose MAC carries another version of the wire format or a kind that does not belong there.
    WireFormat = 17, "wire-format" {
        hooks: "from_overlay, from_host",
        meaning: "a MAC of another wire version, or of a kind that does not belong there",
        remedy: "all nodes must run the same wire version; on from_host: somebody sends frames with our EtherType",
    }
    /// A request that names a task which is not here (any more).
    EndpointGone = 18, "endpoint-gone" {
        hooks: "from_overlay",
        meaning: "a second choice for a task that is not here (any more), a middle packet of a connection to one, a call that came back and has no other task to go to, or a reply for a calling task that is gone",
        remedy: "a few while tasks end are normal: first packets are turned back and go to another task",
    }
    /// A request for a task whose service does not publish that frontend.
    NotPublished = 19, "not-published" {
        hooks: "from_overlay",
        meaning: "a request for a task whose service does not publish that port at that address",
        remedy: "constant: the ingress node was called at an address that is neither its advertised nor its data path address; call one of those",
    }
    /// A reply whose source is no frontend of this node's.
    ForgedReply = 20, "forged-reply" {
        hooks: "from_overlay",
        meaning: "a reply whose source is no frontend of this node, or a packet turned back that this node did not send",
        remedy: "just after `service rm` or `update`: late replies; constant: look at that peer",
    }
    /// A fragment without ports where ports are needed.
    Fragment = 21, "fragment" {
        hooks: "from_task, from_overlay, from_host, from_uplink",
        meaning: "a fragment that came before the first one of its datagram, or long after it, where ports are needed (to a VIP, in a request, or to the outside), and could not wait: out of the tunnel, longer than 2,048 bytes, or the fifth; of SCTP any, where a port is changed",
        remedy: "a few mean that the network changes the order of packets, or that another node refused a datagram's first one as *too-big*; many: keep datagrams below the MTU (1450 by default)",
    }
    /// The flow's backend is gone. The sender is told.
    BackendGone = 22, "backend-gone" {
        hooks: "*from_task*, from_overlay, *from_host*, *from_uplink*",
        meaning: "the flow's backend, or the task that called, has ended; the flow is forgotten with this packet",
        remedy: "nothing: the client connects again",
    }
    /// The node of the flow's backend does not answer. The sender is told.
    PeerUnreachable = 23, "peer-unreachable" {
        hooks: "*from_task*, *from_host*, *from_uplink*",
        meaning: "the node of the flow's backend does not answer echoes",
        remedy: "bring that node or the path to its data port back; new flows go elsewhere",
    }
    /// A kernel helper refused to change or send the packet, or to jump into the program that goes on with it.
    HelperFailed = 24, "helper-failed" {
        hooks: "all",
        meaning: "a kernel helper refused to change or send the packet, or the program that goes on with it is not in the map PROGRAMS",
        remedy: "should not happen; a restart of the agent puts programs back where somebody took one away; report it with the kernel's version",
    }
    /// The node's own tables lack an entry that must be there (the agent is starting).
    NotConfigured = 25, "not-configured" {
        hooks: "all",
        meaning: "this node's tables lack an entry that must be there",
        remedy: "normal while the agent sets up; else `mesh status` shows what a round could not do",
    }
    /// An ICMP error that fits no flow.
    IcmpError = 26, "icmp-error" {
        hooks: "from_task, from_overlay, from_host",
        meaning: "an ICMP error that fits no flow, where it can only be about one: to a VIP, a gateway, the outside, in a request; or one that speaks of a packet which its sender was not sent; an echo reply to a VIP",
        remedy: "a few are late: the flow is gone; many from one task or peer: look at it",
    }
    /// A packet from outside for an overlay address.
    FromOutside = 27, "from-outside" {
        hooks: "from_uplink, from_host",
        meaning: "a packet for a task, VIP or gateway that came in by an uplink, or that the host forwards and did not make itself",
        remedy: "a host routes the overlay to this node: take that route away; or a network overlaps a real one",
    }
    /// The flow table has no room for a flow that must be remembered.
    TableFull = 28, "table-full" {
        hooks: "all",
        meaning: "a flow that must be remembered could not be written: four source ports were tried for a caller whose tuple another flow has at that task, or the kernel refused. A full `FLOWS4` is no reason: new flows go to `OVERFLOW4` then",
        remedy: "one caller with very many connections to one task by several addresses of its service",
    }
    /// Larger than the path to its peer takes, and not to be fragmented. The sender is told.
    TooBig = 29, "too-big" {
        hooks: "*from_task*, *from_host*, *from_uplink*",
        meaning: "larger than the path to the peer takes, and not to be fragmented (\"don't fragment\", IPv6, or whatever goes between nodes over IPv6): the sender is told the size that fits (ICMP fragmentation needed, packet too big)",
        remedy: "a few when a path is new are normal: the sender learns; many: look at who ignores the answer, or raise the MTU between the nodes (`mesh doctor`)",
    }
    /// Its time to live ends at this node, on the way out of the overlay. The sender is told.
    HopLimit = 30, "hop-limit" {
        hooks: "*from_task*",
        meaning: "a packet on its way to the outside whose time to live ends at this node: the sender is told (ICMP time exceeded, from its gateway)",
        remedy: "traceroute does it on purpose",
    }
    /// The published port is for other callers. The sender is told.
    NotAllowed = 31, "not-allowed" {
        hooks: "*from_task*, *from_host*, *from_uplink*",
        meaning: "the published port has a list of callers (`allow`), and this one is not on it; under from_host a process of the node, whose connect(2) fails with EPERM",
        remedy: "`mesh service inspect` shows the list; a process of the node that calls 127.0.0.1 is 127.0.0.1",
    }
}

/// Counters per hook: `DROPS[hook * STRIDE + reason]`.
pub const STRIDE: u32 = 64;

/// Index of a counter in `DROPS`.
#[inline(always)]
pub const fn drop_index(hook: Hook, reason: DropReason) -> u32 {
    hook as u32 * STRIDE + reason as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_distinct_and_fit_their_row() {
        let mut names: Vec<_> = DropReason::ALL.iter().map(|reason| reason.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), DropReason::ALL.len());
        assert!(DropReason::ALL.iter().all(|reason| (*reason as u32) < STRIDE));
        assert_eq!(Hook::ALL.map(|hook| Hook::of_number(hook as u32)), Hook::ALL);
    }
}
