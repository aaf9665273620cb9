//! The maps of bare programs and wrappers; filled by tests/suites/src/bench/micro, which also sizes the large ones.

use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, ProgramArray};
use aya_ebpf::macros::btf_map;
use mesh_common::schema::{Flow, FlowKey, Frontend, FrontendKey};

/// `BPF_F_MMAPABLE` (include/uapi/linux/bpf.h).
const MMAPABLE: usize = 1 << 10;

/// The frames to go through, in the order they are visited.
#[btf_map]
pub static FRAMES: Array<[u64; 8], 1, MMAPABLE> = Array::new();
/// Number of the next frame; how many there are.
#[btf_map]
pub static NEXT: Array<[u32; 2], 1> = Array::new();
/// The `bpf_tunnel_key` of packets that come out of a tunnel.
#[btf_map]
pub static TUNNEL: Array<[u32; 11], 1> = Array::new();
/// The program under test. A program array takes programs of one type only.
#[btf_map]
pub static TARGET_XDP: ProgramArray<1> = ProgramArray::new();
#[btf_map]
pub static TARGET_TC: ProgramArray<1> = ProgramArray::new();

/// Services by address, port and protocol: few, as `FRONTENDS4` of a small cluster.
#[btf_map]
pub static BARE_FRONTENDS: HashMap<FrontendKey<[u8; 4]>, Frontend<[u8; 4]>, 64> = HashMap::new();
/// Flow entries, in a table as `FLOWS4` is one.
#[btf_map]
pub static BARE_FLOWS: HashMap<FlowKey<[u8; 4]>, Flow<[u8; 4]>, 1> = HashMap::new();
/// Flow entries in a table that forgets, as other balancers have it.
#[btf_map]
pub static BARE_LRU: LruHashMap<FlowKey<[u8; 4]>, Flow<[u8; 4]>, 1> = LruHashMap::new();
/// A consistent-hash ring: a tunnel address a slot.
#[btf_map]
pub static BARE_RING: Array<[u8; 4], RING_SLOTS> = Array::new();
/// Packets and bytes.
#[btf_map]
pub static BARE_COUNT: PerCpuArray<[u64; 2], 1> = PerCpuArray::new();

/// Slots of the ring: a prime, as Maglev wants it.
pub const RING_SLOTS: usize = 65_537;

/// A new entry is put together here, not on the stack.
#[btf_map]
pub static BARE_SCRATCH: PerCpuArray<Flow<[u8; 4]>, 1> = PerCpuArray::new();

/// This CPU's new entry: zeros but for what the last one had.
#[inline(always)]
pub fn blank() -> Option<&'static mut Flow<[u8; 4]>> {
    let at = BARE_SCRATCH.get_ptr_mut(0)?;
    // SAFETY: this CPU's own value, not shared while a program runs.
    Some(unsafe { &mut *at })
}
