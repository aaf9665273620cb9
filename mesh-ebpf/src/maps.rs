//! Every map, in the order of docs/reference/maps.md; layouts are in `mesh_common::schema`.
//!
//! [`Tables`] gives a family its maps, so that stages are written once for IPv4 and IPv6.

use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray};
use aya_ebpf::macros::btf_map;
use mesh_common::family::{Addr4, Family, V4};
use mesh_common::parse::ParseIp;
use mesh_common::schema::*;
use mesh_common::verdict::{Hook, STRIDE};

/// Memory for an entry when it comes, for maps that only user space adds to (BPF_F_NO_PREALLOC of linux/bpf.h): a node of ten services pays
/// for ten.
const AS_NEEDED: usize = 1;

#[btf_map]
pub static CONFIG: Array<Config, 1> = Array::new();
#[btf_map]
pub static ADDRESSES4: HashMap<Addr4, Address, MAX_NODES> = HashMap::new();
#[btf_map]
pub static ENDPOINTS4: HashMap<Addr4, Endpoint<Addr4>, MAX_ENDPOINTS, AS_NEEDED> = HashMap::new();
#[btf_map]
pub static FRONTENDS4: HashMap<FrontendKey<Addr4>, Frontend<Addr4>, MAX_FRONTENDS, AS_NEEDED> = HashMap::new();
#[btf_map]
pub static BACKENDS: HashMap<u32, Backend, MAX_ENDPOINTS, AS_NEEDED> = HashMap::new();
#[btf_map]
pub static RINGS: Array<RingSlot, MIN_RING_SLOTS> = Array::new();
#[btf_map]
pub static TURNS: HashMap<u32, u64, MAX_FRONTENDS, AS_NEEDED> = HashMap::new();
#[btf_map]
pub static AFFINITY4: LruHashMap<AffinityKey<Addr4>, Affinity, MAX_CLIENTS> = LruHashMap::new();
#[btf_map]
pub static FLOWS4: HashMap<FlowKey<Addr4>, Flow<Addr4>, MIN_FLOWS> = HashMap::new();
#[btf_map]
pub static OVERFLOW4: LruHashMap<FlowKey<Addr4>, Flow<Addr4>, MIN_OVERFLOW> = LruHashMap::new();
#[btf_map]
pub static OVERFLOWED: Array<u32, 1> = Array::new();
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
pub static DROPS: PerCpuArray<u64, { Hook::ALL.len() * STRIDE as usize }> = PerCpuArray::new();
#[btf_map]
pub static SCRATCH4: PerCpuArray<Scratch<Addr4>, 1> = PerCpuArray::new();

/// Room for one packet's new flow: too much for the 512-byte stack, and zeroed, so that padding never leaks.
#[repr(C)]
pub struct Scratch<A> {
    /// The direction at hand.
    pub forward: Flow<A>,
    /// Its reply.
    pub reverse: Flow<A>,
}

/// The peer with this node number.
#[inline(always)]
pub fn peer(node: u32) -> Option<&'static Peer> {
    PEERS.get(node).filter(|peer| peer.mtu != 0)
}

/// The maps of an address family.
pub trait Tables: ParseIp {
    fn address(addr: &Self::Addr) -> Option<&'static Address>;
    fn endpoint(addr: &Self::Addr) -> Option<&'static Endpoint<Self::Addr>>;
    fn frontend(key: &FrontendKey<Self::Addr>) -> Option<&'static Frontend<Self::Addr>>;
    /// What a client of a service with affinity keeps.
    fn affinity(key: &AffinityKey<Self::Addr>) -> Option<*mut Affinity>;
    fn keep_affinity(key: &AffinityKey<Self::Addr>, kept: &Affinity);
    fn flow(key: &FlowKey<Self::Addr>) -> Option<*mut Flow<Self::Addr>>;
    /// Writes an entry of a new flow: into the table, or beside it while that is full or a flood is on, and then marks it as such.
    fn put_flow(key: &FlowKey<Self::Addr>, flow: &mut Flow<Self::Addr>, flags: u64) -> Result<(), i32>;
    /// Copies an entry from beside the table into it, where there is room.
    fn keep_flow(key: &FlowKey<Self::Addr>, flow: &mut Flow<Self::Addr>);
    fn remove_flow(key: &FlowKey<Self::Addr>);
    /// Deletes the copy that [`Tables::keep_flow`] left behind; false if the table does not have the flow.
    fn tidy_flow(key: &FlowKey<Self::Addr>) -> bool;
    fn scratch() -> Option<*mut Scratch<Self::Addr>>;
    /// This node's address on an uplink.
    fn uplink_addr(uplink: &Uplink) -> Self::Addr;
    /// Both addresses share a prefix of this length.
    fn same_network(a: Self::Addr, b: Self::Addr, prefix_len: u8) -> bool;
    /// Largest TCP segment over the overlay.
    fn mss(config: &Config) -> u16;
}

/// Insert only where nothing is (BPF_NOEXIST).
pub const NEW: u64 = 1;
/// Insert or replace (BPF_ANY).
pub const ANY: u64 = 0;
/// What `bpf_map_update_elem` says where an entry is already (uapi/asm-generic/errno-base.h) …
const EEXIST: i32 = -17;
/// … and where a preallocated hash has none left.
const E2BIG: i32 = -7;

/// When an entry last went to [`OVERFLOW4`] (the table was full, or a flood was on), in seconds of the monotonic clock; 0 once the sweeper has found it empty. While it is 0, which is
/// nearly always, nobody pays for looking there.
#[inline(always)]
fn overflowed_s() -> u32 {
    OVERFLOWED.get(0).copied().unwrap_or(0)
}

/// By reference to the end: a copy on the stack would leave the entry's padding undefined.
#[inline(always)]
fn in_table(key: &FlowKey<Addr4>, flow: &Flow<Addr4>, flags: u64) -> Result<(), i32> {
    FLOWS4.insert(key, flow, flags)
}

#[inline(always)]
fn beside_table(key: &FlowKey<Addr4>, flow: &Flow<Addr4>, flags: u64) -> Result<(), i32> {
    OVERFLOW4.insert(key, flow, flags)
}

/// What this CPU has counted of new flows.
#[inline(always)]
pub fn flood() -> Option<&'static mut Flood> {
    // SAFETY: per-CPU slot, and the program is not preempted by another user of it on this CPU's path.
    FLOODS.get_ptr_mut(0).map(|flood| unsafe { &mut *flood })
}

/// Writes an entry while [`FLOWS4`] is or was full, or a flood is on: its flows live on untouched, and new ones get what room there is for those that
/// come now, the longest silent of them giving way. A real call, for it is rare.
#[inline(never)]
fn put_beside_overflow(key: &FlowKey<Addr4>, flow: &mut Flow<Addr4>, flags: u64) -> Result<(), i32> {
    if flags == NEW && OVERFLOW4.get_ptr(key).is_some() {
        return Err(EEXIST);
    }
    flow.flags &= !flow_flag::SPILLED;
    let flood = flood().filter(|flood| flood.is_on != 0);
    // In a flood the table takes what replaces an entry of its own only.
    if flood.is_none() || FLOWS4.get_ptr(key).is_some() {
        match in_table(key, flow, flags) {
            Err(E2BIG) => {}
            done => return done,
        }
    }
    if let Some(at) = OVERFLOWED.get_ptr_mut(0) {
        let now_s = flow.last_seen_s.max(1);
        // SAFETY: a live map value; a word, read and written whole. Written once a second: all CPUs share its cache line.
        unsafe {
            if *at != now_s {
                *at = now_s;
            }
        }
    }
    flow.flags |= flow_flag::SPILLED;
    beside_table(key, flow, flags)?;
    if let Some(flood) = flood {
        flood.spilled += 1;
    }
    Ok(())
}

impl Tables for V4 {
    #[inline(always)]
    fn address(addr: &Addr4) -> Option<&'static Address> {
        // SAFETY: the map is static; values change only as a whole, a torn read shows one of two valid addresses.
        unsafe { ADDRESSES4.get(addr) }
    }
    #[inline(always)]
    fn endpoint(addr: &Addr4) -> Option<&'static Endpoint<Addr4>> {
        // SAFETY: as above.
        unsafe { ENDPOINTS4.get(addr) }
    }
    #[inline(always)]
    fn frontend(key: &FrontendKey<Addr4>) -> Option<&'static Frontend<Addr4>> {
        // SAFETY: as above.
        unsafe { FRONTENDS4.get(key) }
    }
    #[inline(always)]
    fn affinity(key: &AffinityKey<Addr4>) -> Option<*mut Affinity> {
        AFFINITY4.get_ptr_mut(key)
    }
    #[inline(always)]
    fn keep_affinity(key: &AffinityKey<Addr4>, kept: &Affinity) {
        let _ = AFFINITY4.insert(key, kept, ANY); // the ring names the same one while it does not change
    }
    #[inline(always)]
    fn flow(key: &FlowKey<Addr4>) -> Option<*mut Flow<Addr4>> {
        match FLOWS4.get_ptr_mut(key) {
            None if overflowed_s() != 0 => OVERFLOW4.get_ptr_mut(key),
            found => found,
        }
    }
    #[inline(always)]
    fn put_flow(key: &FlowKey<Addr4>, flow: &mut Flow<Addr4>, flags: u64) -> Result<(), i32> {
        if overflowed_s() == 0 && flood().is_none_or(|flood| flood.is_on == 0) {
            match in_table(key, flow, flags) {
                Err(E2BIG) => {}
                done => return done,
            }
        }
        put_beside_overflow(key, flow, flags)
    }
    #[inline(always)]
    fn keep_flow(key: &FlowKey<Addr4>, flow: &mut Flow<Addr4>) {
        // The copy beside stays: other CPUs may be at it. Lookups find the table's first, and the sweeper tidies up.
        flow.flags &= !flow_flag::SPILLED;
        if in_table(key, flow, NEW) == Err(E2BIG) {
            flow.flags |= flow_flag::SPILLED;
        } else if let Some(flood) = self::flood() {
            flood.promoted += 1;
        }
    }
    #[inline(always)]
    fn remove_flow(key: &FlowKey<Addr4>) {
        let _ = FLOWS4.remove(key); // already gone is as good
        if overflowed_s() != 0 {
            let _ = OVERFLOW4.remove(key);
        }
    }
    #[inline(always)]
    fn tidy_flow(key: &FlowKey<Addr4>) -> bool {
        FLOWS4.get_ptr(key).is_some() && OVERFLOW4.remove(key).is_ok()
    }
    #[inline(always)]
    fn scratch() -> Option<*mut Scratch<Addr4>> {
        SCRATCH4.get_ptr_mut(0)
    }
    #[inline(always)]
    fn uplink_addr(uplink: &Uplink) -> Addr4 {
        uplink.addr4.into()
    }
    #[inline(always)]
    fn same_network(a: Addr4, b: Addr4, prefix_len: u8) -> bool {
        let differing = V4::fold(a) ^ V4::fold(b);
        prefix_len != 0 && differing.leading_zeros() >= prefix_len as u32
    }
    #[inline(always)]
    fn mss(config: &Config) -> u16 {
        config.mss4
    }
}
