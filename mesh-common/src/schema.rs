//! Keys and values of the BPF maps (docs/reference/maps.md), written once for the programs and for user space.
//!
//! Addresses are byte arrays in network order, ports and numbers are in host order, padding is explicit and zero.
//! No key or value exceeds 64 bytes. Who writes a map is said at its value: *plan* (the agent's reconciler) or a program.
//! A change of any layout bumps [`LAYOUT_VERSION`], which is part of the pin path.

use core::mem::{MaybeUninit, offset_of};

#[cfg(feature = "user")]
use crate::clock::Clock;
use crate::family::{Addr4, Addr6};

/// Version of all layouts in this file; maps are pinned under `v<LAYOUT_VERSION>`.
pub const LAYOUT_VERSION: u32 = 3;

/// Fewest flow entries (two a flow) that a machine gets by itself, `FLOWS4`; the size is chosen at load, by the machine's memory.
pub const MIN_FLOWS: usize = 1 << 16;
/// Most flow entries that a machine gets by itself.
pub const MAX_FLOWS: usize = 1 << 23;
/// Fewest entries of flows that found `FLOWS4` full or began in a flood, `OVERFLOW4`; chosen at load as well.
pub const MIN_OVERFLOW: usize = 1 << 16;
/// Slots of all lists and rings together, `RINGS`, at least: an agent with more memory makes more (`kernel::bpf::size`).
pub const MIN_RING_SLOTS: usize = 1 << 20;
/// The same at most.
pub const MAX_RING_SLOTS: usize = 1 << 24;
/// Most endpoints and backends: `ENDPOINTS4`, `BACKENDS`. Their memory is taken entry by entry (`BPF_F_NO_PREALLOC`).
pub const MAX_ENDPOINTS: usize = 1 << 18;
/// Most frontends and pools: `FRONTENDS4`, `TURNS`; likewise.
pub const MAX_FRONTENDS: usize = 1 << 16;
/// Slots of `PEERS`, entries of `ECHOES`: node numbers are 1 to one less.
pub const MAX_NODES: usize = 4_096;
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
    /// Source of tunnel packets (data path address).
    pub tunnel_addr4: [u8; 4],
    /// MAC of mesh0.
    pub mesh0_mac: [u8; 6],
    /// UDP port of VXLAN.
    pub data_port: u16,
    /// New flows a second and CPU past which they are written beside the flow table; 0: never.
    pub flood_threshold: u32,
    /// Largest TCP segment a task can take over the overlay, IPv4 (task MTU − 40); SYNs are clamped to it.
    pub mss4: u16,
    /// Zero.
    pub pad: [u8; 6],
}

/// How many flows begin on one CPU: `FLOODS`, written by the programs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flood {
    /// The second of the monotonic clock that is being counted.
    pub second: u32,
    /// New flows in it so far.
    pub count: u32,
    /// New flows in the one before.
    pub before: u32,
    /// 1: a flood was on when the last of them came.
    pub is_on: u32,
    /// Entries written beside the table for that reason, ever.
    pub spilled: u64,
    /// Entries that were moved into the table since, ever.
    pub promoted: u64,
}

/// A flow direction as the hook sees it: `FLOWS4`. Made by [`FlowKey::new`].
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

impl<A> FlowKey<A> {
    /// The key of such packets; ports in host order.
    ///
    /// Written word by word: the kernel hashes a key by words of four bytes as soon as it was made, and a processor that has just stored parts of
    /// a word waits until they have left its store buffer before it can load the whole.
    #[inline(always)]
    pub const fn new(src: A, dst: A, sport: u16, dport: u16, protocol: u8) -> Self {
        let ([a, b], [c, d]) = (sport.to_ne_bytes(), dport.to_ne_bytes());
        let mut key = MaybeUninit::<Self>::uninit();
        let at = key.as_mut_ptr();
        // SAFETY: both addresses are fields of `key`. Each of the two words covers the fields behind it as far as the next one or the end, with the
        // bytes that those fields have by themselves, and is as aligned as a key is: addresses are multiples of four bytes (checked below).
        unsafe {
            (&raw mut (*at).src).write(src);
            (&raw mut (*at).dst).write(dst);
            (&raw mut (*at).sport).cast::<u32>().write(u32::from_ne_bytes([a, b, c, d]));
            (&raw mut (*at).protocol).cast::<u32>().write(u32::from_ne_bytes([protocol, 0, 0, 0]));
            key.assume_init()
        }
    }
}

impl<A: Copy> FlowKey<A> {
    /// The same tuple the other way round.
    #[inline(always)]
    pub const fn turned(&self) -> Self {
        FlowKey::new(self.dst, self.src, self.dport, self.sport, self.protocol)
    }
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
    FrontendKey { addr, port, protocol }
    Flow { addr, from, mac, bytes }
    Endpoint { gateway, mac, pad }
    Frontend { vip, target_port, generation }
}

/// What to do with packets of one direction; written by the programs, deleted by the sweeper. Self-contained: one lookup a packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow<A> {
    /// Replaces the side that `rewrite` names.
    pub addr: A,
    /// Where its packets come from, `origin::*`: to one of elsewhere the entry says nothing.
    pub from: u32,
    /// Interface to deliver to; with `deliver::TUNNEL` the uplink that the call came in by (0: none), for its replies.
    pub ifindex: u32,
    /// VNI to tunnel with.
    pub vni: u32,
    /// Endpoint number of the backend, or of the task that went outside: the entry dies with it.
    pub backend: u32,
    /// Replaces that side's port; 0 keeps it.
    pub port: u16,
    /// Replaces the other side's port; 0 keeps it.
    pub other_port: u16,
    /// Peer to tunnel to.
    pub node: u16,
    /// Destination MAC of the frame delivered.
    pub mac: [u8; 6],
    /// One of `rewrite::*`.
    pub rewrite: u8,
    /// One of `deliver::*`.
    pub deliver: u8,
    /// Bits of `flow::seen`.
    pub seen: u8,
    /// Bits of `flow_flag::*`.
    pub flags: u8,
    /// Time of the last packet, seconds of the monotonic clock.
    pub last_seen_s: u32,
    /// Packets so far.
    pub packets: u32,
    /// Bytes so far (frames as the hook sees them).
    pub bytes: u64,
}

/// Values of `Flow::from`: who may send the packets that an entry speaks of. Any other value is the interface index of a task's link.
pub mod origin {
    /// A peer, by the tunnel: this and its node number.
    pub const PEER: u32 = 0x8000_0000;
    /// The world, by any uplink.
    pub const WIRE: u32 = 0xc000_0000;
    /// This node's own stack.
    pub const HOST: u32 = 0xc000_0001;

    /// The peer with this number.
    #[inline(always)]
    pub const fn peer(node: u32) -> u32 {
        PEER | node
    }
}

/// Values of `Flow::rewrite`.
pub mod rewrite {
    /// Addresses stay.
    pub const NONE: u8 = 0;
    /// `addr`, `port` replace the source.
    pub const SOURCE: u8 = 1;
    /// `addr`, `port` replace the destination.
    pub const DESTINATION: u8 = 2;
}

/// Values of `Flow::deliver`: the last step.
pub mod deliver {
    /// To the task behind `ifindex`, with destination MAC `mac`.
    pub const TASK: u8 = 1;
    /// Through the tunnel to peer `node` with `vni` and inner destination MAC `mac`.
    pub const TUNNEL: u8 = 2;
    /// Out of uplink `ifindex` to the neighbour `mac`.
    pub const UPLINK: u8 = 3;
    /// Up this node's own stack.
    pub const HOST: u8 = 4;
    /// Out of uplink `ifindex`; the kernel finds the neighbour.
    pub const OUTSIDE: u8 = 5;
}

/// Bits of `Flow::flags`.
pub mod flow_flag {
    /// The backend is gone: refuse, then forget. Set by user space.
    pub const DEAD: u8 = 0x01;
    /// A task reached itself through its VIP: source and destination both change, the source is the gateway.
    pub const HAIRPIN: u8 = 0x02;
    /// The tunnel frame keeps the source MAC it came with (last hop); else it gets the gateway's.
    pub const KEEP_MAC: u8 = 0x04;
    /// The entry of the reply direction.
    pub const REVERSE: u8 = 0x08;
    /// The frame's source MAC names this node's host as last hop.
    pub const FROM_HOST: u8 = 0x10;
    /// The frame's source MAC names the sending task as last hop.
    pub const FROM_CLIENT: u8 = 0x20;
    /// The source port was changed because the tuple was taken.
    pub const PORT_CHANGED: u8 = 0x40;
    /// The entry is in `OVERFLOW4` and has not been proven yet.
    pub const SPILLED: u8 = 0x80;
}

/// An overlay address: `ENDPOINTS4`, keyed by the address; written by plan.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint<A> {
    /// Network the address is on.
    pub vni: u32,
    /// Endpoint number; 0 for gateways.
    pub number: u32,
    /// Node it lives on.
    pub node: u32,
    /// Host side of its veth on this node; 0 elsewhere.
    pub ifindex: u32,
    /// The network's gateway address.
    pub gateway: A,
    /// MAC of the task's `eth0`.
    pub mac: [u8; 6],
    /// One of `endpoint::*`.
    pub kind: u8,
    /// Bits of `endpoint_flag::*`.
    pub flags: u8,
    /// Prefix length of the network: an unknown address inside it is nobody's.
    pub prefix_len: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// Values of `Endpoint::kind`.
pub mod endpoint {
    /// A task.
    pub const TASK: u8 = 1;
    /// A network's gateway: ARP, echo and DNS.
    pub const GATEWAY: u8 = 2;
}

/// Bits of `Endpoint::flags`.
pub mod endpoint_flag {
    /// All networks of the task are internal: no way to the outside.
    pub const INTERNAL: u8 = 0x01;
}

/// Key of `FRONTENDS4`: a VIP with port 0 and protocol 0 (every port), or address 0 with a published port.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey<A> {
    /// VIP, or 0 for a published port.
    pub addr: A,
    /// Published port, or 0 for a VIP.
    pub port: u16,
    /// IP protocol number, or 0 for a VIP.
    pub protocol: u8,
    /// Zero.
    pub pad: u8,
}

impl<A> FrontendKey<A> {
    /// The service behind a virtual address.
    #[inline(always)]
    pub const fn vip(addr: A) -> Self {
        FrontendKey::new(addr, 0, 0)
    }

    /// Word by word, as [`FlowKey::new`].
    #[inline(always)]
    const fn new(addr: A, port: u16, protocol: u8) -> Self {
        let [a, b] = port.to_ne_bytes();
        let mut key = MaybeUninit::<Self>::uninit();
        let at = key.as_mut_ptr();
        // SAFETY: as in `FlowKey::new`.
        unsafe {
            (&raw mut (*at).addr).write(addr);
            (&raw mut (*at).port).cast::<u32>().write(u32::from_ne_bytes([a, b, protocol, 0]));
            key.assume_init()
        }
    }
}

impl<A: Default> FrontendKey<A> {
    /// The service behind a published port of any node.
    #[inline(always)]
    pub fn published(port: u16, protocol: u8) -> Self {
        FrontendKey::new(A::default(), port, protocol)
    }
}

/// A service as seen at one frontend; written by plan, swapped whole.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend<A> {
    /// Number of the (service, network) pair: key of `TURNS`, and what backends name.
    pub pool: u32,
    /// Network of the VIP.
    pub vni: u32,
    /// First slot of the list of ready backends in `RINGS`.
    pub turns_at: u32,
    /// Length of that list: the number of ready backends.
    pub turns_len: u32,
    /// First slot of the Maglev ring in `RINGS`; the list itself where a ring of many backends would be long and seldom asked.
    pub ring_at: u32,
    /// Its length; 0 without backends.
    pub ring_len: u32,
    /// The service's VIP on that network (for host processes that call a published port); 0 with endpoint mode dnsrr.
    pub vip: A,
    /// Port the backend listens on; 0 keeps the packet's.
    pub target_port: u16,
    /// One of `algorithm::*`.
    pub algorithm: u8,
    /// Bits of `frontend_flag::*`.
    pub flags: u8,
    /// Seconds a client keeps its backend; 0 without affinity.
    pub affinity_s: u32,
    /// Counts the ring's changes.
    pub generation: u32,
}

/// Bits of `Frontend::flags`.
pub mod frontend_flag {
    /// The host itself uses this published port: calls to this node's own addresses are the host's. The entry stands all the same:
    /// calls that entered elsewhere are for this node's tasks.
    pub const NOT_TAKEN: u8 = 0x01;
}

/// Values of `Frontend::algorithm`.
pub mod algorithm {
    /// New flows take turns, strictly, per node.
    pub const ROUND_ROBIN: u8 = 0;
    /// The ring decides.
    pub const MAGLEV: u8 = 1;
    /// Chance decides.
    pub const RANDOM: u8 = 2;
}

/// A task's attachment as a balancing target: `BACKENDS`, keyed by the endpoint number; written by plan.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Overlay address, IPv4 as ::ffff:a.b.c.d.
    pub addr: [u8; 16],
    /// Network.
    pub vni: u32,
    /// The (service, network) pair it belongs to.
    pub pool: u32,
    /// Node it lives on.
    pub node: u32,
    /// Host side of its veth on this node; 0 elsewhere.
    pub ifindex: u32,
    /// MAC of the task's `eth0`.
    pub mac: [u8; 6],
    /// One of `backend_state::*`.
    pub state: u8,
    /// Zero.
    pub pad: u8,
}

/// Values of `Backend::state`.
pub mod backend_state {
    /// Gets new flows.
    pub const READY: u8 = 1;
    /// Keeps its flows, gets no new ones.
    pub const DRAINING: u8 = 2;
}

/// Another node as tunnel target: `PEERS`, an array with the node's number as index; written by plan. All zero: no such node.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Data path address, IPv4 as ::ffff:a.b.c.d.
    pub addr: [u8; 16],
    /// The fast way: Ethernet link towards it; 0: only through mesh0.
    pub ifindex: u32,
    /// MAC of the next hop on that link.
    pub next_hop: [u8; 6],
    /// MAC of that link.
    pub link_mac: [u8; 6],
    /// MTU of the path to it (outer packet).
    pub mtu: u16,
    /// Bits of `peer_flag::*`.
    pub flags: u8,
    /// Zero.
    pub pad: u8,
}

impl Peer {
    /// No such node.
    pub const NONE: Peer =
        Peer { addr: [0; 16], ifindex: 0, next_hop: [0; 6], link_mac: [0; 6], mtu: 0, flags: 0, pad: 0 };

    /// The data path address, IPv4.
    #[inline(always)]
    pub fn addr4_words(&self) -> [u16; 2] {
        let [.., a, b] = words::<8>(&self.addr);
        [a, b]
    }

    /// The next hop's MAC address.
    #[inline(always)]
    pub fn next_hop_words(&self) -> [u16; 3] {
        words(&self.next_hop)
    }

    /// The link's MAC address.
    #[inline(always)]
    pub fn link_mac_words(&self) -> [u16; 3] {
        words(&self.link_mac)
    }
}

impl Config {
    /// Source of tunnel packets.
    #[inline(always)]
    pub fn tunnel_addr4_words(&self) -> [u16; 2] {
        words(&self.tunnel_addr4)
    }
}

impl<A> Flow<A> {
    /// Destination MAC of the frame delivered.
    #[inline(always)]
    pub fn mac_words(&self) -> [u16; 3] {
        words(&self.mac)
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

const _: () = {
    assert!(
        offset_of!(Peer, addr) % 2 == 0 && offset_of!(Peer, next_hop) % 2 == 0 && offset_of!(Peer, link_mac) % 2 == 0
    );
    assert!(offset_of!(Config, tunnel_addr4) % 2 == 0);
    assert!(offset_of!(Flow<[u8; 4]>, mac) % 2 == 0 && offset_of!(Flow<[u8; 16]>, mac) % 2 == 0);
};

/// Bits of `Peer::flags`.
pub mod peer_flag {
    /// Its echo stays unanswered: flows to it are refused.
    pub const UNREACHABLE: u8 = 0x01;
}

/// An underlay address that means something: `ADDRESSES4`, keyed by the address; written by plan.
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
    assert!(size_of::<Config>() == 40 && size_of::<Backend>() == 40 && size_of::<Peer>() == 36);
    assert!(size_of::<Address>() == 12 && size_of::<Uplink>() == 12 && size_of::<Echo>() == 16);
    assert!(size_of::<Flood>() == 32);
    assert!(size_of::<SocketKey>() == 32 && size_of::<SocketOrigin>() == 24);
    assert!(size_of::<FrontendKey<[u8; 4]>>() == 8 && size_of::<FrontendKey<[u8; 16]>>() == 20);
};

/// aya copies these as bytes; every type above is `repr(C)`, made of integers and byte arrays, without implicit padding that could leak.
#[cfg(feature = "user")]
mod pod {
    use super::*;

    macro_rules! pod {
        ($($ty:ty),+ $(,)?) => {
            // SAFETY: plain integers and byte arrays: any bit pattern is valid and none carries a pointer.
            $(unsafe impl aya::Pod for $ty {})+
        };
    }

    pod!(
        Clock,
        Config,
        Flood,
        FlowKey<[u8; 4]>,
        FlowKey<[u8; 16]>,
        Flow<[u8; 4]>,
        Flow<[u8; 16]>,
        Endpoint<[u8; 4]>,
        Endpoint<[u8; 16]>,
        FrontendKey<[u8; 4]>,
        FrontendKey<[u8; 16]>,
        Frontend<[u8; 4]>,
        Frontend<[u8; 16]>,
        Backend,
        Peer,
        Address,
        Uplink,
        Echo,
        SocketKey,
        SocketOrigin,
    );
}
