//! Overlay addresses, services, and the tasks behind them; written by plan.

use core::mem::{MaybeUninit, offset_of};

/// An overlay address: `ENDPOINTS4`, `ENDPOINTS6`, keyed by the address; written by plan.
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

/// Key of `FRONTENDS4`, `FRONTENDS6`: a VIP with port 0 and protocol 0 (every port), or a published port with address 0 (every node's every address)
/// or the one address that it is published at.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FrontendKey<A> {
    /// VIP, or 0 for a published port, or the address that it is published at.
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
        const { assert!(offset_of!(Self, port) % 4 == 0 && offset_of!(Self, port) + 4 == size_of::<Self>()) };
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

impl<A> FrontendKey<A> {
    /// The service behind a published port of one address.
    #[inline(always)]
    pub const fn published_at(addr: A, port: u16, protocol: u8) -> Self {
        FrontendKey::new(addr, port, protocol)
    }
}

/// A service as seen at one frontend; written by plan, swapped whole. A service's frontends of both families name one pool and the same lists, so
/// that turns stay strict.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontend<A> {
    /// Number of the (service, network) pair: key of `TURNS`, and what backends name.
    pub pool: u32,
    /// Network of the VIP.
    pub vni: u32,
    /// First slot of the list of ready backends in `RINGS`.
    pub turns_at: u32,
    /// Length of that list: the number of ready backends, or of their turns where they have weights; each stands in it once before any does twice.
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
    /// Seconds a client keeps its backend after its last new flow, with `algorithm::CLIENT`; else 0.
    pub affinity_s: u32,
    /// Counts the ring's changes.
    pub generation: u32,
    /// Who may call this published port, `AllowKey::list`; 0: everybody.
    pub allow: u32,
}

impl<A> Frontend<A> {
    /// Nobody's: all zero but for the address.
    pub const fn none(vip: A) -> Self {
        Frontend {
            pool: 0,
            vni: 0,
            turns_at: 0,
            turns_len: 0,
            ring_at: 0,
            ring_len: 0,
            vip,
            target_port: 0,
            algorithm: algorithm::ROUND_ROBIN,
            flags: 0,
            affinity_s: 0,
            generation: 0,
            allow: 0,
        }
    }
}

/// Bits of `Frontend::flags`.
pub mod frontend_flag {
    /// The host itself uses this published port: calls to this node's own addresses are the host's. The entry stands all the same:
    /// calls that entered elsewhere are for this node's tasks.
    pub const NOT_TAKEN: u8 = 0x01;
    /// The port is published at single addresses: no service's entry, but one that says to ask by the address. Address 0 alone has it.
    pub const BY_ADDRESS: u8 = 0x02;
}

/// Values of `Frontend::algorithm`.
pub mod algorithm {
    /// New flows take turns, strictly, per node.
    pub const ROUND_ROBIN: u8 = 0;
    /// The ring decides.
    pub const MAGLEV: u8 = 1;
    /// Chance decides.
    pub const RANDOM: u8 = 2;
    /// The client's address decides, by the ring, and keeps what it got: a service with affinity, whatever its algorithm would be without.
    pub const CLIENT: u8 = 3;
    /// The ring decides, as with `MAGLEV`, and what it said is remembered where a call enters: callers are judged, once each.
    pub const MAGLEV_OF_ALLOWED: u8 = 4;
}

/// Whom a list of allowed callers is asked about: the data of a key of `ALLOW4`, `ALLOW6`; written by plan.
///
/// What an entry of the trie is for stands before the address, so that a match of a prefix is one of this very list.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AllowKey<A> {
    /// The (service, network) pair, `Frontend::pool`.
    pub pool: u32,
    /// Number of the list, made of what it says: another list is another number, so a frontend changes from one to the other whole.
    pub list: u32,
    /// The caller's address, or a prefix of it.
    pub addr: A,
}

/// A key of `ALLOW4`, `ALLOW6` as it lies in memory (`struct bpf_lpm_trie_key` of linux/bpf.h).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AllowPrefix<A> {
    /// Bits of `of` that have to match.
    pub prefix_len: u32,
    /// The list, and the prefix of callers.
    pub of: AllowKey<A>,
}

impl<A> AllowPrefix<A> {
    /// Bits before the address.
    pub const BEFORE: u32 = 64;

    /// So many bits of the address, of this list.
    pub const fn new(pool: u32, list: u32, addr: A, bits: u32) -> Self {
        AllowPrefix { prefix_len: Self::BEFORE + bits, of: AllowKey { pool, list, addr } }
    }
}

/// A client of a service with affinity: `AFFINITY4`, written by the programs.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AffinityKey<A> {
    /// The client's address.
    pub addr: A,
    /// The (service, network) pair that it called, `Frontend::pool`.
    pub pool: u32,
}

/// The backend that a client of a service with affinity keeps.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Affinity {
    /// Its endpoint number.
    pub backend: u32,
    /// When the client's last new flow began, seconds of the monotonic clock.
    pub last_new_s: u32,
}

/// A slot of a list or ring: `RINGS`, written by plan. All zero: nobody.
///
/// The node stands beside the number, for it is all that who sends a call on to another node needs to know of its task. It stays true by itself: a
/// task never moves, and its number is never another's. Slots are not overwritten while a program may be reading them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct RingSlot {
    /// Endpoint number of the backend: key of `BACKENDS`.
    pub backend: u32,
    /// Node it lives on.
    pub node: u32,
}

/// A task's attachment as a balancing target: `BACKENDS`, keyed by the endpoint number; written by plan.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Overlay address, IPv6; 0: it has none.
    pub addr6: [u8; 16],
    /// Overlay address, IPv4; 0: it has none.
    pub addr4: [u8; 4],
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

/// The same entry with its addresses written in another way.
impl<A> Endpoint<A> {
    /// `to` writes an address in the other way.
    pub fn with<B>(self, to: impl Fn(A) -> B) -> Endpoint<B> {
        let Endpoint { vni, number, node, ifindex, gateway, mac, kind, flags, prefix_len, pad } = self;
        Endpoint { vni, number, node, ifindex, gateway: to(gateway), mac, kind, flags, prefix_len, pad }
    }
}

/// The same key with its address written in another way.
impl<A> FrontendKey<A> {
    /// `to` writes an address in the other way.
    pub fn with<B>(self, to: impl Fn(A) -> B) -> FrontendKey<B> {
        let FrontendKey { addr, port, protocol, pad } = self;
        FrontendKey { addr: to(addr), port, protocol, pad }
    }
}

/// The same entry with its address written in another way.
impl<A> Frontend<A> {
    /// `to` writes an address in the other way.
    #[rustfmt::skip]
    pub fn with<B>(self, to: impl Fn(A) -> B) -> Frontend<B> {
        let Frontend {
            pool, vni, turns_at, turns_len, ring_at, ring_len, vip, target_port, algorithm, flags, affinity_s, generation, allow,
        } = self;
        let vip = to(vip);
        Frontend {
            pool, vni, turns_at, turns_len, ring_at, ring_len, vip, target_port, algorithm, flags, affinity_s, generation, allow,
        }
    }
}

/// The same prefix with its address written in another way.
impl<A> AllowPrefix<A> {
    /// `to` writes an address in the other way.
    pub fn with<B>(self, to: impl Fn(A) -> B) -> AllowPrefix<B> {
        let AllowPrefix { prefix_len, of: AllowKey { pool, list, addr } } = self;
        AllowPrefix { prefix_len, of: AllowKey { pool, list, addr: to(addr) } }
    }
}
