//! What happens to a packet, and the one list of reasons why it may be dropped.
//!
//! A reason is counted per hook in the map `DROPS`, at index `hook * 64 + reason`; docs/reference/drops.md has a line and a test for each.

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
    ($($(#[doc = $doc:literal])+ $variant:ident = $number:literal, $name:literal;)+) => {
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
        }
    };
}

drop_reasons! {
    /// Shorter than its headers say, or headers that contradict each other.
    Malformed = 1, "malformed";
    /// A protocol or EtherType that the overlay does not carry.
    Unsupported = 2, "unsupported";
    /// A task sent from an address that is not its own.
    SpoofedSource = 3, "spoofed-source";
    /// A task sent from a MAC address that is not its own.
    SpoofedMac = 4, "spoofed-mac";
    /// Multicast or broadcast: the overlay floods nothing.
    Multicast = 5, "multicast";
    /// No task, VIP or gateway has this overlay address. The sender is told.
    NoEndpoint = 6, "no-endpoint";
    /// The destination is on a network that the sender is not on. The sender is told.
    OtherNetwork = 7, "other-network";
    /// The service has no ready task. The sender is told.
    NoBackend = 8, "no-backend";
    /// Nothing listens at this port of the gateway. The sender is told.
    ClosedPort = 9, "closed-port";
    /// A task tried to reach the data port of a node.
    DataPort = 10, "data-port";
    /// A task of an internal network tried to leave the overlay.
    Internal = 11, "internal";
    /// No route to the outside destination.
    NoRoute = 12, "no-route";
    /// No source port left for this outside destination.
    NoSnatPort = 13, "no-snat-port";
    /// A tunnel packet from an address that is no peer's.
    UnknownPeer = 14, "unknown-peer";
    /// A tunnel packet whose inner source does not live on that peer.
    WrongPeer = 15, "wrong-peer";
    /// A tunnel packet with a VNI that means nothing here.
    UnknownVni = 16, "unknown-vni";
    /// A frame whose MAC carries another version of the wire format or a kind that does not belong there.
    WireFormat = 17, "wire-format";
    /// A request that names a task which is not here (any more).
    EndpointGone = 18, "endpoint-gone";
    /// A request for a task whose service does not publish that frontend.
    NotPublished = 19, "not-published";
    /// A reply whose source is no frontend of this node's.
    ForgedReply = 20, "forged-reply";
    /// A fragment without ports where ports are needed.
    Fragment = 21, "fragment";
    /// The flow's backend is gone. The sender is told.
    BackendGone = 22, "backend-gone";
    /// The node of the flow's backend does not answer. The sender is told.
    PeerUnreachable = 23, "peer-unreachable";
    /// A kernel helper refused to change or send the packet.
    HelperFailed = 24, "helper-failed";
    /// The node's own tables lack an entry that must be there (the agent is starting).
    NotConfigured = 25, "not-configured";
    /// An ICMP error about a translated flow; not carried yet.
    IcmpError = 26, "icmp-error";
    /// A packet from outside for an overlay address.
    FromOutside = 27, "from-outside";
    /// The flow table has no room for a flow that must be remembered.
    TableFull = 28, "table-full";
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
    }
}
