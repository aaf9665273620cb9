//! Programs that hooks go on in: the indices of the map `PROGRAMS` (docs/decisions/0033).
//!
//! The agent puts them there before a hook is attached. Invariant: within a layout version an index never changes its meaning, for hooks of one build
//! jump into programs of the next while an agent replaces them. Between them goes nothing but the packet and what is left with it.

/// `from_task` for IPv6.
pub const FROM_TASK6: u32 = 0;
/// `from_overlay` for IPv6.
pub const FROM_OVERLAY6: u32 = 1;
/// `from_host` for IPv6.
pub const FROM_HOST6: u32 = 2;
/// `from_uplink` for IPv6.
pub const FROM_UPLINK6: u32 = 3;
/// ICMP errors over IPv4 that any hook has found.
pub const ICMP_ERRORS: u32 = 4;
/// What peers hand back, of both families.
pub const TURNED_BACK: u32 = 5;
/// ICMP errors over IPv6, likewise.
pub const ICMP_ERRORS6: u32 = 6;
/// Direct calls that are kept apart from others, of both families.
pub const BESIDE: u32 = 7;
/// Fragments that come before the first one of their datagram, and the first one then, of both families.
pub const FRAGMENTS: u32 = 8;
/// `from_task` itself, for a first fragment that comes back from there.
pub const FROM_TASK: u32 = 9;
/// `from_uplink` itself, likewise.
pub const FROM_UPLINK: u32 = 10;

/// Slots of `PROGRAMS`, some of them for programs to come: a number of slots is a layout.
pub const MAX: usize = 16;

/// The programs by index.
pub const ALL: [(u32, &str); 11] = [
    (FROM_TASK6, "from_task6"),
    (FROM_OVERLAY6, "from_overlay6"),
    (FROM_HOST6, "from_host6"),
    (FROM_UPLINK6, "from_uplink6"),
    (ICMP_ERRORS, "icmp_errors"),
    (TURNED_BACK, "turned_back"),
    (ICMP_ERRORS6, "icmp_errors6"),
    (BESIDE, "beside"),
    (FRAGMENTS, "fragments"),
    (FROM_TASK, "from_task"),
    (FROM_UPLINK, "from_uplink"),
];
