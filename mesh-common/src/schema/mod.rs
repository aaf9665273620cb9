//! Keys and values of the BPF maps (docs/reference/maps.md), written once for the programs and for user space.
//!
//! Addresses are byte arrays in network order, ports and numbers are in host order, padding is explicit and zero.
//! No key or value exceeds 64 bytes. Who writes a map is said at its value: *plan* (the agent's reconciler) or a program.
//! A change of any layout bumps [`LAYOUT_VERSION`], which is part of the pin path.

mod flow;
pub mod program;
mod service;
mod watch;

use core::mem::offset_of;

#[cfg(feature = "user")]
use crate::clock::Clock;
use crate::family::{Addr4, Addr6, Family, V4, V6};

pub use flow::*;
pub use service::*;
pub use watch::*;

/// Version of all layouts in this file; maps are pinned under `v<LAYOUT_VERSION>`.
pub const LAYOUT_VERSION: u32 = 6;

/// Fewest flow entries (two a flow) that a machine gets by itself, in `FLOWS4` and in `FLOWS6`; the size is chosen at load, by the machine's
/// memory.
pub const MIN_FLOWS: usize = 1 << 16;
/// Most flow entries that a machine gets by itself.
pub const MAX_FLOWS: usize = 1 << 23;
/// Fewest entries of flows that found their table full or began in a flood, `OVERFLOW4` and `OVERFLOW6`; chosen at load as well.
pub const MIN_OVERFLOW: usize = 1 << 16;
/// Slots of all lists and rings together, `RINGS`, at least: an agent with more memory makes more (`kernel::bpf::size`).
pub const MIN_RING_SLOTS: usize = 1 << 20;
/// The same at most.
pub const MAX_RING_SLOTS: usize = 1 << 24;
/// Most endpoints of a family, and backends: `ENDPOINTS4`, `ENDPOINTS6`, `BACKENDS`. Their memory is taken entry by entry (`BPF_F_NO_PREALLOC`).
pub const MAX_ENDPOINTS: usize = 1 << 18;
/// Most frontends of a family: `FRONTENDS4`, `FRONTENDS6`; likewise. Slots of `TURNS`: numbers of pools are 1 to one less.
pub const MAX_FRONTENDS: usize = 1 << 16;
/// Slots of `PEERS`, entries of `ECHOES`: node numbers are 1 to one less.
pub const MAX_NODES: usize = 4_096;
/// Most prefixes of all lists of allowed callers of a family together: `ALLOW4`, `ALLOW6`.
pub const MAX_ALLOWED: usize = 1 << 16;
/// Most clients that services with affinity remember, `AFFINITY4`; past it the longest silent is forgotten.
pub const MAX_CLIENTS: usize = 1 << 16;
/// Most fragmented datagrams of a family on their way at one time: `FRAGMENTS4`, `FRAGMENTS6`.
pub const MAX_FRAGMENTED: usize = 1 << 13;
/// Most fragments that wait for the first one of their datagram on one CPU, of both families: `EARLY`.
pub const EARLY_OF_A_CPU: usize = 1 << 5;
/// Most host sockets with a rewritten destination, `SOCKETS`.
pub const MAX_SOCKETS: usize = 1 << 16;

/// `CONFIG[0]`, written by plan: facts about this node.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Cookie of the host's network namespace: the socket hooks act only there.
    pub netns_cookie: u64,
    /// This node's number.
    pub node: u32,
    /// Interface index of mesh0; 0 while not set up.
    pub mesh0: u32,
    /// Source of tunnel packets over IPv4 (data path address); 0: this node's tunnel packets are IPv6.
    pub tunnel_addr4: [u8; 4],
    /// MAC of mesh0.
    pub mesh0_mac: [u8; 6],
    /// UDP port of VXLAN.
    pub data_port: u16,
    /// New flows a second and CPU past which they are written beside the flow table; 0: never.
    pub flood_threshold: u32,
    /// Second of the programs' clock until which they tell of packets (`EVENTS`); 0: nobody listens. Written by who does.
    pub watch_until_s: u32,
    /// Each how manieth packet's verdict is told of, besides drops; 0: none.
    pub watch_sample: u32,
    /// Largest TCP segment a task can take over the overlay, IPv4 (task MTU − 40); SYNs are clamped to it.
    pub mss4: u16,
    /// The same, IPv6 (task MTU − 60).
    pub mss6: u16,
    /// This node's link that has the data path address; 0: not known here, ask `ADDRESSES4` or `ADDRESSES6`.
    pub tunnel_link: u32,
    /// Source of tunnel packets over IPv6 (data path address); 0: they are IPv4.
    pub tunnel_addr6: [u8; 16],
}

/// Another node as tunnel target: `PEERS`, an array with the node's number as index; written by plan. All zero: no such node.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Data path address, IPv4 as ::ffff:a.b.c.d.
    pub addr: [u8; 16],
    /// The fast way over IPv4: Ethernet link towards it; 0: only through mesh0, or over IPv6.
    pub ifindex: u32,
    /// MAC of the next hop on that link.
    pub next_hop: [u8; 6],
    /// MAC of that link.
    pub link_mac: [u8; 6],
    /// MTU of the path to it: the largest outer packet over IPv4; over IPv6 that less 20, so that what fits inside is the same for both.
    pub mtu: u16,
    /// Bits of `peer_flag::*`.
    pub flags: u8,
    /// Zero.
    pub pad: u8,
    /// As `ifindex`, where the outer packets are IPv6; one of the two is 0.
    pub ifindex6: u32,
}

impl Peer {
    /// No such node.
    pub const NONE: Peer =
        Peer { addr: [0; 16], ifindex: 0, next_hop: [0; 6], link_mac: [0; 6], mtu: 0, flags: 0, pad: 0, ifindex6: 0 };

    /// The data path address, IPv4, as it lies in memory.
    #[inline(always)]
    pub const fn addr4_word(&self) -> u32 {
        let [.., a, b, c, d] = self.addr;
        u32::from_ne_bytes([a, b, c, d])
    }

    /// The Ethernet link towards it, over whichever family; 0: only through mesh0.
    pub const fn link(&self) -> u32 {
        self.ifindex | self.ifindex6
    }

    /// The data path address as it lies in memory.
    #[inline(always)]
    pub const fn addr_words(&self) -> [u32; 4] {
        // SAFETY: the first field, of a value that is aligned for words.
        unsafe { core::ptr::from_ref(self).cast::<[u32; 4]>().read() }
    }

    /// Not 0 where packets go to it over IPv6. A number: where it is handed on, no branch needs to make it one.
    #[inline(always)]
    pub const fn is_over_ipv6(&self) -> u32 {
        let [a, b, c, _] = self.addr_words();
        a | b | (c ^ 0xffffu32.to_be())
    }

    /// The MAC addresses of the next hop and of the link, as they lie in memory and in a frame.
    #[inline(always)]
    pub const fn macs(&self) -> [u32; 3] {
        // SAFETY: both fields, one behind the other, at a multiple of four (checked below) in a value that is so aligned.
        unsafe { core::ptr::from_ref(self).byte_add(offset_of!(Peer, next_hop)).cast::<[u32; 3]>().read() }
    }
}

impl Config {
    /// A node that is in no cluster.
    pub const NONE: Config = Config {
        netns_cookie: 0,
        node: 0,
        mesh0: 0,
        tunnel_addr4: [0; 4],
        mesh0_mac: [0; 6],
        data_port: 0,
        flood_threshold: 0,
        watch_until_s: 0,
        watch_sample: 0,
        mss4: 0,
        mss6: 0,
        tunnel_link: 0,
        tunnel_addr6: [0; 16],
    };

    /// Source of tunnel packets over IPv4, as it lies in memory.
    #[inline(always)]
    pub const fn tunnel_addr4_word(&self) -> u32 {
        u32::from_ne_bytes(self.tunnel_addr4)
    }

    /// The same over IPv6. No unicast address but the unspecified one and loopback's begins with a word of zero.
    #[inline(always)]
    pub const fn tunnel_addr6_words(&self) -> [u32; 4] {
        // SAFETY: the field, at a multiple of four (checked below) in a value that is so aligned.
        unsafe { core::ptr::from_ref(self).byte_add(offset_of!(Config, tunnel_addr6)).cast::<[u32; 4]>().read() }
    }
}

/// A field's bytes two at a time as they lie in memory: what headers are written with. The compiler for BPF reads bytes one by one unless it is
/// told that they begin at an even address.
#[inline(always)]
fn words<const N: usize>(field: &impl AsRef<[u8]>) -> [u16; N] {
    let bytes = field.as_ref();
    debug_assert!(bytes.len() == 2 * N && bytes.as_ptr().addr() % 2 == 0);
    // SAFETY: called for the fields named below only, which are as long and, in values that are aligned, at even addresses.
    unsafe { bytes.as_ptr().cast::<[u16; N]>().read() }
}

/// The fields of values for both families that are this one's.
pub trait Fields: Family {
    /// This node's address on an uplink; 0 without.
    fn uplink_addr(uplink: &Uplink) -> Self::Addr;
    /// A task's overlay address; 0 without.
    fn backend_addr(backend: &Backend) -> Self::Addr;
    /// Largest TCP segment over the overlay.
    fn mss(config: &Config) -> u16;
    /// It is this node's data path address.
    fn is_data_path(config: &Config, addr: &Self::Addr) -> bool;
}

impl Fields for V4 {
    #[inline(always)]
    fn uplink_addr(uplink: &Uplink) -> Addr4 {
        uplink.addr4.into()
    }
    #[inline(always)]
    fn backend_addr(backend: &Backend) -> Addr4 {
        backend.addr4.into()
    }
    #[inline(always)]
    fn mss(config: &Config) -> u16 {
        config.mss4
    }
    #[inline(always)]
    fn is_data_path(config: &Config, addr: &Addr4) -> bool {
        addr.word() == config.tunnel_addr4_word()
    }
}

impl Fields for V6 {
    #[inline(always)]
    fn uplink_addr(uplink: &Uplink) -> Addr6 {
        uplink.addr6.into()
    }
    #[inline(always)]
    fn backend_addr(backend: &Backend) -> Addr6 {
        backend.addr6.into()
    }
    #[inline(always)]
    fn mss(config: &Config) -> u16 {
        config.mss6
    }
    #[inline(always)]
    fn is_data_path(config: &Config, addr: &Addr6) -> bool {
        let own = config.tunnel_addr6_words();
        own[0] != 0 && *addr == Addr6::of_words(own)
    }
}

const _: () = {
    assert!(offset_of!(Config, tunnel_addr6) % 4 == 0 && offset_of!(Peer, addr) == 0);
    assert!(offset_of!(Peer, next_hop) % 4 == 0 && offset_of!(Peer, link_mac) == offset_of!(Peer, next_hop) + 6);
    assert!(offset_of!(Flow<[u8; 4]>, mac) % 2 == 0 && offset_of!(Flow<[u8; 16]>, mac) % 2 == 0);
};

/// Bits of `Peer::flags`.
pub mod peer_flag {
    /// Its echo stays unanswered: flows to it are refused.
    pub const UNREACHABLE: u8 = 0x01;
}

/// An underlay address that means something: `ADDRESSES4`, `ADDRESSES6`, keyed by the address; written by plan.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// Node it belongs to.
    pub node: u32,
    /// This node's interface that has it; 0 for other nodes' addresses.
    pub ifindex: u32,
    /// Bits of `address_flag::*`.
    pub flags: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// Bits of `Address::flags`.
pub mod address_flag {
    /// One of this node's own addresses.
    pub const OWN: u8 = 0x01;
    /// A peer's data path address: tunnel packets from it are taken.
    pub const TUNNEL: u8 = 0x02;
    /// Its tunnel packets are taken from mesh0 alone, behind what the host's stack demands of them (an IPsec policy).
    pub const BY_MESH0: u8 = 0x04;
}

/// A link of the host that leads to the world: `UPLINKS`, keyed by interface index; written by plan.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// First IPv4 address: source of tasks' way out; 0 without.
    pub addr4: [u8; 4],
    /// Its MAC.
    pub mac: [u8; 6],
    /// Zero.
    pub pad: [u8; 2],
    /// First global IPv6 address, likewise; 0 without.
    pub addr6: [u8; 16],
}

/// Last answer to the reachability echo: `ECHOES`, keyed by node number; written by from_overlay.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// Monotonic clock at the answer's arrival.
    pub answered_ns: u64,
    /// Sequence number of the frame answered.
    pub sequence: u64,
}

/// Key of `SOCKETS`: a host socket and where its packets really go.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketKey {
    /// Socket cookie.
    pub cookie: u64,
    /// Rewritten destination, IPv4 as ::ffff:a.b.c.d.
    pub addr: [u8; 16],
    /// Its port.
    pub port: u16,
    /// Zero.
    pub pad: [u8; 6],
}

/// Where the process believes its packets go; written by the socket hooks.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOrigin {
    /// Destination that the process named, IPv4 as ::ffff:a.b.c.d.
    pub addr: [u8; 16],
    /// Its port.
    pub port: u16,
    /// Zero.
    pub pad: [u8; 6],
}

const _: () = {
    assert!(size_of::<FlowKey<[u8; 4]>>() == 16 && size_of::<FlowKey<[u8; 16]>>() == 40);
    assert!(size_of::<Flow<[u8; 4]>>() == 56 && size_of::<Flow<[u8; 16]>>() == 64);
    assert!(size_of::<Frontend<[u8; 16]>>() <= 64 && size_of::<Endpoint<[u8; 16]>>() <= 64);
    assert!(size_of::<Config>() == 64 && size_of::<Backend>() == 44 && size_of::<Peer>() == 40);
    assert!(size_of::<Address>() == 12 && size_of::<Uplink>() == 28 && size_of::<Echo>() == 16);
    assert!(size_of::<Flood>() == 32 && size_of::<RingSlot>() == 8);
    assert!(size_of::<SocketKey>() == 32 && size_of::<SocketOrigin>() == 24);
    assert!(size_of::<AffinityKey<[u8; 4]>>() == 8 && size_of::<AffinityKey<[u8; 16]>>() == 20);
    assert!(size_of::<Affinity>() == 8);
    assert!(size_of::<AllowPrefix<[u8; 4]>>() == 16 && size_of::<AllowPrefix<[u8; 16]>>() == 28);
    assert!(size_of::<FragmentKey<[u8; 4]>>() == 20 && size_of::<FragmentKey<[u8; 16]>>() == 44);
    assert!(size_of::<Fragmented>() == 8);
    assert!(size_of::<EarlyKey>() == 44 && size_of::<Early>() == 16 + EARLY_BYTES);
    assert!(size_of::<FrontendKey<[u8; 4]>>() == 8 && size_of::<FrontendKey<[u8; 16]>>() == 20);
};

/// aya copies these as bytes; every type above is `repr(C)`, made of integers and byte arrays, without implicit padding that could leak.
#[cfg(feature = "user")]
mod pod {
    use super::*;
    use crate::family::Bytes;

    macro_rules! pod {
        ($($ty:ty),+ $(,)?) => {
            // SAFETY: plain integers and byte arrays: any bit pattern is valid and none carries a pointer.
            $(unsafe impl aya::Pod for $ty {})+
        };
    }

    pod!(Fragmented, EarlyKey, Early);
    pod!(
        Clock,
        Config,
        Event,
        Watched,
        Flood,
        Backend,
        RingSlot,
        Affinity,
        Peer,
        Address,
        Uplink,
        Echo,
        SocketKey,
        SocketOrigin
    );

    macro_rules! pod_of_addresses {
        ($($ty:ident),+) => {
            // SAFETY: as above, for addresses that are byte arrays.
            $(unsafe impl<A: Bytes> aya::Pod for $ty<A> {})+
        };
    }

    pod_of_addresses!(FlowKey, Flow, FragmentKey, Endpoint, FrontendKey, Frontend, AffinityKey, AllowKey, AllowPrefix);
}

/// The same for keys and values with addresses as the programs have them: for who asks the maps by the programs' own code.
#[cfg(feature = "user")]
mod pod_of_words {
    use super::*;

    macro_rules! pod {
        ($($ty:ty),+ $(,)?) => {
            // SAFETY: as above; words where there were bytes.
            $(unsafe impl aya::Pod for $ty {})+
        };
    }

    pod!(AllowPrefix<Addr4>, AllowPrefix<Addr6>);
    pod!(Addr4, AffinityKey<Addr4>, FlowKey<Addr4>, Flow<Addr4>, Endpoint<Addr4>, FrontendKey<Addr4>, Frontend<Addr4>);
    pod!(Addr6, AffinityKey<Addr6>, FlowKey<Addr6>, Flow<Addr6>, Endpoint<Addr6>, FrontendKey<Addr6>, Frontend<Addr6>);
}

/// What user space calls an address and what the programs do lie in a key or value alike.
macro_rules! same_layout {
    ($($of:ident { $($field:ident),+ })+) => { $(
        const _: () = {
            assert!(size_of::<$of<[u8; 4]>>() == size_of::<$of<Addr4>>());
            assert!(size_of::<$of<[u8; 16]>>() == size_of::<$of<Addr6>>());
            $(
                assert!(offset_of!($of<[u8; 4]>, $field) == offset_of!($of<Addr4>, $field));
                assert!(offset_of!($of<[u8; 16]>, $field) == offset_of!($of<Addr6>, $field));
            )+
        };
    )+ };
}

same_layout! {
    FlowKey { src, dst, sport, dport, protocol }
    FragmentKey { src, dst, from, id, protocol }
    FrontendKey { addr, port, protocol }
    AffinityKey { addr, pool }
    AllowKey { pool, list, addr }
    Flow { addr, from, mac, bytes }
    Endpoint { gateway, mac, pad }
    Frontend { vip, target_port, generation }
}
