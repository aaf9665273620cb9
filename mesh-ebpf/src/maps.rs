//! Every map, in the order of docs/reference/maps.md; layouts are in `mesh_common::schema`.
//!
//! [`Tables`] gives a family its maps, so that stages are written once for IPv4 and IPv6.

use core::mem::MaybeUninit;

use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf};
use aya_ebpf::macros::btf_map;
use mesh_common::family::{Addr4, Addr6, V4, V6};
use mesh_common::parse::{ParseIp, Room};
use mesh_common::quoted::Quoted;
use mesh_common::schema::*;
use mesh_common::verdict::{Hook, STRIDE};

/// Memory for an entry when it comes, for maps that only user space adds to (BPF_F_NO_PREALLOC of linux/bpf.h): a node of ten services pays
/// for ten.
const AS_NEEDED: usize = 1;
/// A list of what was used last for each CPU (BPF_F_NO_COMMON_LRU), for a small map: of one list for all, kernels up to 6.15 or so give a CPU 128 entries at
/// once, and one that finds none left gives up its own last one for the next (LOCAL_FREE_TARGET of kernel/bpf/bpf_lru_list.c).
const A_LIST_EACH: usize = 2;

#[btf_map]
pub static CONFIG: Array<Config, 1> = Array::new();
#[btf_map]
pub static ADDRESSES4: HashMap<Addr4, Address, MAX_NODES> = HashMap::new();
#[btf_map]
pub static ADDRESSES6: HashMap<Addr6, Address, MAX_NODES, AS_NEEDED> = HashMap::new();
#[btf_map]
pub static ENDPOINTS4: HashMap<Addr4, Endpoint<Addr4>, MAX_ENDPOINTS, AS_NEEDED> = HashMap::new();
#[btf_map]
pub static ENDPOINTS6: HashMap<Addr6, Endpoint<Addr6>, MAX_ENDPOINTS, AS_NEEDED> = HashMap::new();
#[btf_map]
pub static FRONTENDS4: HashMap<FrontendKey<Addr4>, Frontend<Addr4>, MAX_FRONTENDS, AS_NEEDED> = HashMap::new();
#[btf_map]
pub static FRONTENDS6: HashMap<FrontendKey<Addr6>, Frontend<Addr6>, MAX_FRONTENDS, AS_NEEDED> = HashMap::new();
#[btf_map]
pub static ALLOW4: LpmTrie<AllowKey<Addr4>, u32, MAX_ALLOWED> = LpmTrie::new();
#[btf_map]
pub static ALLOW6: LpmTrie<AllowKey<Addr6>, u32, MAX_ALLOWED> = LpmTrie::new();
#[btf_map]
pub static BACKENDS: HashMap<u32, Backend, MAX_ENDPOINTS, AS_NEEDED> = HashMap::new();
#[btf_map]
pub static RINGS: Array<RingSlot, MIN_RING_SLOTS> = Array::new();
#[btf_map]
pub static TURNS: Array<u64, MAX_FRONTENDS> = Array::new();
#[btf_map]
pub static AFFINITY4: LruHashMap<AffinityKey<Addr4>, Affinity, MAX_CLIENTS> = LruHashMap::new();
#[btf_map]
pub static AFFINITY6: LruHashMap<AffinityKey<Addr6>, Affinity, MAX_CLIENTS> = LruHashMap::new();
#[btf_map]
pub static FLOWS4: HashMap<FlowKey<Addr4>, Flow<Addr4>, MIN_FLOWS> = HashMap::new();
/// Entries come with their flows: a machine without IPv6 flows pays for the buckets only (docs/decisions/0026).
#[btf_map]
pub static FLOWS6: HashMap<FlowKey<Addr6>, Flow<Addr6>, MIN_FLOWS, AS_NEEDED> = HashMap::new();
#[btf_map]
pub static OVERFLOW4: LruHashMap<FlowKey<Addr4>, Flow<Addr4>, MIN_OVERFLOW> = LruHashMap::new();
#[btf_map]
pub static OVERFLOW6: LruHashMap<FlowKey<Addr6>, Flow<Addr6>, MIN_OVERFLOW> = LruHashMap::new();
#[btf_map]
pub static FRAGMENTS4: LruHashMap<FragmentKey<Addr4>, Fragmented, MAX_FRAGMENTED> = LruHashMap::new();
#[btf_map]
pub static FRAGMENTS6: LruHashMap<FragmentKey<Addr6>, Fragmented, MAX_FRAGMENTED> = LruHashMap::new();
#[btf_map]
pub static EARLY: LruHashMap<EarlyKey, Early, EARLY_OF_A_CPU, A_LIST_EACH> = LruHashMap::new();
#[btf_map]
pub static EARLY_ROOM: PerCpuArray<Early, 1> = PerCpuArray::new();
#[btf_map]
pub static OVERFLOWED: Array<u32, 2> = Array::new();
#[btf_map]
pub static FLOODS: PerCpuArray<Flood, 1> = PerCpuArray::new();
#[btf_map]
pub static PEERS: Array<Peer, MAX_NODES> = Array::new();
#[btf_map]
pub static UPLINKS: HashMap<u32, Uplink, MAX_NODES> = HashMap::new();
#[btf_map]
pub static ECHOES: HashMap<u32, Echo, MAX_NODES> = HashMap::new();
#[btf_map]
pub static SOCKETS: LruHashMap<SocketKey, SocketOrigin, MAX_SOCKETS> = LruHashMap::new();
#[btf_map]
pub static EVENTS: RingBuf<Event, EVENT_BYTES> = RingBuf::new();
#[btf_map]
pub static WATCHED: PerCpuArray<Watched, 1> = PerCpuArray::new();
#[btf_map]
pub static DROPS: PerCpuArray<u64, { Hook::ALL.len() * STRIDE as usize }> = PerCpuArray::new();
#[btf_map]
pub static PROGRAMS: ProgramArray<{ program::MAX }> = ProgramArray::new();
#[btf_map]
pub static SCRATCH4: PerCpuArray<Slot<Addr4>, 1> = PerCpuArray::new();
#[btf_map]
pub static SCRATCH6: PerCpuArray<Slot<Addr6>, 1> = PerCpuArray::new();

/// Room for one packet's new flow: too much for the 512-byte stack, and zeroed, so that padding never leaks.
#[repr(C)]
pub struct Scratch<A> {
    /// The direction at hand.
    pub forward: Flow<A>,
    /// Its reply.
    pub reverse: Flow<A>,
    /// What the reply is found by.
    pub reply: FlowKey<A>,
}

/// A scratch, and room for the packet at hand where its addresses would fill the stack (`stage::flow::read`), and for the one that it quotes
/// (`stage/icmp.rs`).
#[repr(C)]
pub struct Slot<A> {
    scratch: Scratch<A>,
    packet: [u32; ROOM],
    quoted: [u32; ROOM],
}

/// Words of the largest packet.
const ROOM: usize = 12;
const _: () = {
    assert!(size_of::<Room<V6>>() <= ROOM * 4 && align_of::<Room<V6>>() <= 4);
    assert!(size_of::<Quoted<V6>>() <= ROOM * 4 && align_of::<Quoted<V6>>() <= 4);
};

/// The peer with this node number.
#[inline(always)]
pub fn peer(node: u32) -> Option<&'static Peer> {
    PEERS.get(node).filter(|peer| peer.mtu != 0)
}

/// The maps of an address family.
pub trait Maps: ParseIp + Fields {
    /// Its word in [`OVERFLOWED`].
    const OVERFLOWED_AT: u32;
    fn address(addr: &Self::Addr) -> Option<&'static Address>;
    fn endpoint(addr: &Self::Addr) -> Option<&'static Endpoint<Self::Addr>>;
    fn frontend(key: &FrontendKey<Self::Addr>) -> Option<&'static Frontend<Self::Addr>>;
    /// The list has a prefix of this address.
    fn is_allowed(caller: &AllowKey<Self::Addr>) -> bool;
    /// What a client of a service with affinity keeps.
    fn affinity(key: &AffinityKey<Self::Addr>) -> Option<*mut Affinity>;
    fn keep_affinity(key: &AffinityKey<Self::Addr>, kept: &Affinity);
    fn in_table(key: &FlowKey<Self::Addr>) -> Option<*mut Flow<Self::Addr>>;
    fn beside_table(key: &FlowKey<Self::Addr>) -> Option<*mut Flow<Self::Addr>>;
    /// By reference to the end: a copy on the stack would leave the entry's padding undefined.
    fn put_in_table(key: &FlowKey<Self::Addr>, flow: &Flow<Self::Addr>, flags: u64) -> Result<(), i32>;
    fn put_beside_table(key: &FlowKey<Self::Addr>, flow: &Flow<Self::Addr>, flags: u64) -> Result<(), i32>;
    fn remove_in_table(key: &FlowKey<Self::Addr>) -> bool;
    fn remove_beside_table(key: &FlowKey<Self::Addr>) -> bool;
    /// The ports of a fragmented datagram, once its first fragment has come.
    fn fragmented(key: &FragmentKey<Self::Addr>) -> Option<&'static Fragmented>;
    fn note_fragmented(key: &FragmentKey<Self::Addr>, ports: &Fragmented);
    fn scratch() -> Option<*mut Scratch<Self::Addr>>;
    fn room() -> Option<*mut Room<Self>>;
    fn quoted() -> Option<*mut MaybeUninit<Quoted<Self>>>;
}

macro_rules! maps_of {
    ($family:ty: $addresses:ident $endpoints:ident $frontends:ident $allow:ident $affinity:ident $flows:ident $overflow:ident $at:literal $fragments:ident $scratch:ident) => {
        impl Maps for $family {
            const OVERFLOWED_AT: u32 = $at;
            #[inline(always)]
            fn address(addr: &Self::Addr) -> Option<&'static Address> {
                // SAFETY: the map is static; values change only as a whole, a torn read shows one of two valid addresses.
                unsafe { $addresses.get(addr) }
            }
            #[inline(always)]
            fn endpoint(addr: &Self::Addr) -> Option<&'static Endpoint<Self::Addr>> {
                // SAFETY: as above.
                unsafe { $endpoints.get(addr) }
            }
            #[inline(always)]
            fn frontend(key: &FrontendKey<Self::Addr>) -> Option<&'static Frontend<Self::Addr>> {
                // SAFETY: as above.
                unsafe { $frontends.get(key) }
            }
            #[inline(always)]
            fn is_allowed(caller: &AllowKey<Self::Addr>) -> bool {
                $allow.get(&Key::new(8 * size_of::<AllowKey<Self::Addr>>() as u32, *caller)).is_some()
            }
            #[inline(always)]
            fn affinity(key: &AffinityKey<Self::Addr>) -> Option<*mut Affinity> {
                $affinity.get_ptr_mut(key)
            }
            #[inline(always)]
            fn keep_affinity(key: &AffinityKey<Self::Addr>, kept: &Affinity) {
                let _ = $affinity.insert(key, kept, ANY); // the ring names the same one while it does not change
            }
            #[inline(always)]
            fn in_table(key: &FlowKey<Self::Addr>) -> Option<*mut Flow<Self::Addr>> {
                $flows.get_ptr_mut(key)
            }
            #[inline(always)]
            fn beside_table(key: &FlowKey<Self::Addr>) -> Option<*mut Flow<Self::Addr>> {
                $overflow.get_ptr_mut(key)
            }
            #[inline(always)]
            fn put_in_table(key: &FlowKey<Self::Addr>, flow: &Flow<Self::Addr>, flags: u64) -> Result<(), i32> {
                $flows.insert(key, flow, flags)
            }
            #[inline(always)]
            fn put_beside_table(key: &FlowKey<Self::Addr>, flow: &Flow<Self::Addr>, flags: u64) -> Result<(), i32> {
                $overflow.insert(key, flow, flags)
            }
            #[inline(always)]
            fn remove_in_table(key: &FlowKey<Self::Addr>) -> bool {
                $flows.remove(key).is_ok()
            }
            #[inline(always)]
            fn remove_beside_table(key: &FlowKey<Self::Addr>) -> bool {
                $overflow.remove(key).is_ok()
            }
            #[inline(always)]
            fn fragmented(key: &FragmentKey<Self::Addr>) -> Option<&'static Fragmented> {
                // SAFETY: values are put in whole, in place of those before them.
                unsafe { $fragments.get(key) }
            }
            #[inline(always)]
            fn note_fragmented(key: &FragmentKey<Self::Addr>, ports: &Fragmented) {
                let _ = $fragments.insert(key, ports, ANY); // without it the later ones wait, or are dropped
            }
            #[inline(always)]
            fn scratch() -> Option<*mut Scratch<Self::Addr>> {
                // SAFETY: a live map value.
                $scratch.get_ptr_mut(0).map(|slot| unsafe { &raw mut (*slot).scratch })
            }
            #[inline(always)]
            fn room() -> Option<*mut Room<Self>> {
                // SAFETY: a live map value, which has as much room as the largest packet needs.
                $scratch.get_ptr_mut(0).map(|slot| unsafe { (&raw mut (*slot).packet).cast() })
            }
            #[inline(always)]
            fn quoted() -> Option<*mut MaybeUninit<Quoted<Self>>> {
                // SAFETY: as above.
                $scratch.get_ptr_mut(0).map(|slot| unsafe { (&raw mut (*slot).quoted).cast() })
            }
        }
    };
}

maps_of!(V4: ADDRESSES4 ENDPOINTS4 FRONTENDS4 ALLOW4 AFFINITY4 FLOWS4 OVERFLOW4 0 FRAGMENTS4 SCRATCH4);
maps_of!(V6: ADDRESSES6 ENDPOINTS6 FRONTENDS6 ALLOW6 AFFINITY6 FLOWS6 OVERFLOW6 1 FRAGMENTS6 SCRATCH6);

/// Insert only where nothing is (BPF_NOEXIST).
pub const NEW: u64 = 1;
/// Insert or replace (BPF_ANY).
pub const ANY: u64 = 0;
/// What `bpf_map_update_elem` says where an entry is already (uapi/asm-generic/errno-base.h) …
const EEXIST: i32 = -17;
/// … where a hash has none left …
const E2BIG: i32 = -7;
/// … and where there is no memory for one just now.
const ENOMEM: i32 = -12;

/// The table has no room for an entry.
#[inline(always)]
fn is_full(result: Result<(), i32>) -> bool {
    matches!(result, Err(E2BIG | ENOMEM))
}

/// What this CPU has counted of new flows.
#[inline(always)]
pub fn flood() -> Option<&'static mut Flood> {
    // SAFETY: per-CPU slot, and the program is not preempted by another user of it on this CPU's path.
    FLOODS.get_ptr_mut(0).map(|flood| unsafe { &mut *flood })
}

/// What this CPU has told of packets.
#[inline(always)]
pub fn watched() -> Option<&'static mut Watched> {
    // SAFETY: per-CPU slot, and the program is not preempted by another user of it on this CPU's path.
    WATCHED.get_ptr_mut(0).map(|watched| unsafe { &mut *watched })
}

/// When an entry last went beside the family's table (it was full, or a flood was on), in seconds of the monotonic clock; 0 once the sweeper has
/// found that empty. While it is 0, which is nearly always, nobody pays for looking there.
#[inline(always)]
fn overflowed_s<F: Maps>() -> u32 {
    OVERFLOWED.get(F::OVERFLOWED_AT).copied().unwrap_or(0)
}

/// Writes an entry while its table is or was full, or a flood is on: the table's flows live on untouched, and new ones get what room there is for
/// those that come now, the longest silent of them giving way. A real call, for it is rare.
#[inline(never)]
fn put_beside_overflow<F: Maps>(key: &FlowKey<F::Addr>, flow: &mut Flow<F::Addr>, flags: u64) -> Result<(), i32> {
    if flags == NEW && F::beside_table(key).is_some() {
        return Err(EEXIST);
    }
    flow.flags &= !flow_flag::SPILLED;
    let flood = flood().filter(|flood| flood.is_on != 0);
    // In a flood the table takes what replaces an entry of its own only.
    if flood.is_none() || F::in_table(key).is_some() {
        let done = F::put_in_table(key, flow, flags);
        if !is_full(done) {
            return done;
        }
    }
    if let Some(at) = OVERFLOWED.get_ptr_mut(F::OVERFLOWED_AT) {
        let now_s = flow.last_seen_s.max(1);
        // SAFETY: a live map value; a word, read and written whole. Written once a second: all CPUs share its cache line.
        unsafe {
            if *at != now_s {
                *at = now_s;
            }
        }
    }
    flow.flags |= flow_flag::SPILLED;
    F::put_beside_table(key, flow, flags)?;
    if let Some(flood) = flood {
        flood.spilled += 1;
    }
    Ok(())
}

/// What the stages do with an address family's maps.
pub trait Tables: Maps {
    #[inline(always)]
    fn flow(key: &FlowKey<Self::Addr>) -> Option<*mut Flow<Self::Addr>> {
        match Self::in_table(key) {
            None if overflowed_s::<Self>() != 0 => Self::beside_table(key),
            found => found,
        }
    }
    /// Writes an entry of a new flow: into the table, or beside it while that is full or a flood is on, and then marks it as such.
    #[inline(always)]
    fn put_flow(key: &FlowKey<Self::Addr>, flow: &mut Flow<Self::Addr>, flags: u64) -> Result<(), i32> {
        if overflowed_s::<Self>() == 0 && flood().is_none_or(|flood| flood.is_on == 0) {
            let done = Self::put_in_table(key, flow, flags);
            if !is_full(done) {
                return done;
            }
        }
        put_beside_overflow::<Self>(key, flow, flags)
    }
    /// Copies an entry from beside the table into it, where there is room.
    #[inline(always)]
    fn keep_flow(key: &FlowKey<Self::Addr>, flow: &mut Flow<Self::Addr>) {
        // The copy beside stays: other CPUs may be at it. Lookups find the table's first, and the sweeper tidies up.
        flow.flags &= !flow_flag::SPILLED;
        if is_full(Self::put_in_table(key, flow, NEW)) {
            flow.flags |= flow_flag::SPILLED;
        } else if let Some(flood) = self::flood() {
            flood.promoted += 1;
        }
    }
    #[inline(always)]
    fn remove_flow(key: &FlowKey<Self::Addr>) {
        Self::remove_in_table(key);
        if overflowed_s::<Self>() != 0 {
            Self::remove_beside_table(key);
        }
    }
    /// Deletes the copy that [`Tables::keep_flow`] left behind; false if the table does not have the flow.
    #[inline(always)]
    fn tidy_flow(key: &FlowKey<Self::Addr>) -> bool {
        Self::in_table(key).is_some() && Self::remove_beside_table(key)
    }
}

impl<F: Maps> Tables for F {}
