//! What was decided before for this tuple, and remembering what is decided now.

use aya_ebpf::helpers::generated::bpf_jiffies64;
use mesh_common::clock::Clock;
use mesh_common::parse::{self, Packet, protocol, tcp_flag};
use mesh_common::schema::{Flow, FlowKey, deliver, flow_flag, rewrite};
use mesh_common::snat;
use mesh_common::verdict::DropReason;
use mesh_common::{flood, flow as life};

use crate::maps::{self, Scratch, Tables};
pub use crate::maps::{ANY, NEW};
use crate::outcome::Stop;
use crate::packet::tc::Tc;

/// How long a tick is on this kernel: set by who loads the programs.
#[unsafe(no_mangle)]
static CLOCK: Clock = Clock::of_tick(0);

/// Seconds of the monotonic clock, at tick resolution.
#[inline(always)]
pub fn now_s() -> u32 {
    // SAFETY: no arguments. Not a call: the verifier puts the load of the counter in its place.
    let ticks = unsafe { bpf_jiffies64() };
    // SAFETY: live constants; volatile, for their values are only known when they are loaded.
    let (first, fraction) =
        unsafe { ((&raw const CLOCK.first).read_volatile(), (&raw const CLOCK.fraction).read_volatile()) };
    Clock { first, fraction, tick_ns: 0 }.seconds(ticks)
}

/// Reads the packet at hand; None: malformed. Into `room`, or, of a family whose addresses would fill the stack of who goes on, into the scratch.
#[inline(always)]
pub fn read<'a, F: Tables>(tc: &Tc, room: &'a mut parse::Room<F>) -> Option<&'a mut Packet<F>> {
    if F::ADDR_LEN == 4 {
        return parse::read(tc, room);
    }
    if !read_apart::<F>(tc) {
        return None;
    }
    // SAFETY: per-CPU scratch, not shared while this program runs; `read_apart` wrote it.
    F::room().map(|room| unsafe { (*room).assume_init_mut() })
}

/// A real call: what reading needs of the stack is free again when the packet is looked at.
#[inline(never)]
fn read_apart<F: Tables>(tc: &Tc) -> bool {
    match F::room() {
        // SAFETY: per-CPU scratch, not shared while this program runs.
        Some(room) => parse::read(tc, unsafe { &mut *room }).is_some(),
        None => false,
    }
}

/// A flow entry that does nothing yet.
#[inline(always)]
pub fn blank<F: Tables>(flow: &mut Flow<F::Addr>) {
    flow.addr = F::Addr::default();
    flow.from = 0;
    flow.port = 0;
    flow.other_port = 0;
    flow.rewrite = rewrite::NONE;
    flow.deliver = deliver::TASK;
    flow.seen = 0;
    flow.flags = 0;
    flow.ifindex = 0;
    flow.node = 0;
    flow.vni = 0;
    flow.backend = 0;
    flow.mac = [0; 6];
    flow.last_seen_s = now_s();
    flow.packets = 0;
    flow.bytes = 0;
}

/// Finds the flow of a packet that came from `from` (`origin::*`), and notes that it was seen. None: decide anew (also where a SYN re-opens a
/// closing tuple). An entry was judged when it was written, so what comes from the same place needs no second judgement; from any other
/// place the same tuple is somebody else's.
#[inline(always)]
pub fn lookup<F: Tables>(packet: &Packet<F>, len: u32, from: u32) -> Result<Option<&'static Flow<F::Addr>>, Stop> {
    match find(packet, from) {
        Found::Nothing => Ok(None),
        Found::Dead => {
            F::remove_flow(&packet.tuple);
            if packet.may_open() { Ok(None) } else { Err(Stop::refuse(DropReason::BackendGone)) }
        }
        Found::Alive(flow) => {
            if flow.flags & flow_flag::SPILLED != 0 {
                prove(packet, flow);
            }
            let now_s = now_s();
            if now_s.saturating_sub(flow.last_seen_s) >= life::SILENT_S && has_lost_answers(packet, flow) {
                return Ok(None);
            }
            note::<F>(flow, packet, len, now_s);
            Ok(Some(flow))
        }
    }
}

/// A connection's calling entry whose other one is gone: it is decided again, for the same backend (`balance::choose`), and both are written. A real
/// call, for it is rare. A hairpin's does not find its twin; a direct call's is not decided again, for then it would have another port.
#[inline(never)]
fn has_lost_answers<F: Tables>(packet: &Packet<F>, flow: &Flow<F::Addr>) -> bool {
    packet.protocol == protocol::TCP
        && !packet.may_open()
        && flow.rewrite == rewrite::DESTINATION
        && flow.addr != packet.dst
        && flow.flags & (flow_flag::REVERSE | flow_flag::HAIRPIN) == 0
        && life::twin(&packet.tuple, flow).is_some_and(|twin| F::flow(&twin).is_none())
}

/// What the flow table knows of a packet.
pub enum Found<A: 'static> {
    /// Decide anew.
    Nothing,
    /// Its backend is gone.
    Dead,
    /// How it goes.
    Alive(&'static mut Flow<A>),
}

/// Looks, and changes nothing: for who may yet leave the packet to others, who will look too.
#[inline(always)]
pub fn find<F: Tables>(packet: &Packet<F>, from: u32) -> Found<F::Addr> {
    let Some(flow) = F::flow(&packet.tuple) else { return Found::Nothing };
    // SAFETY: a live map value; concurrent writers touch counters only, whose loss is harmless.
    let flow = unsafe { &mut *flow };
    if flow.from != from {
        return Found::Nothing;
    }
    if flow.flags & flow_flag::DEAD != 0 {
        return Found::Dead;
    }
    if life::is_closing(flow.seen) && packet.protocol == protocol::TCP && packet.may_open() {
        return Found::Nothing;
    }
    Found::Alive(flow)
}

/// Counts a flow that is about to be decided; true while a flood is on. Whoever decides says it before he chooses and writes, for
/// [`Tables::put_flow`] goes by what was found here last on this CPU.
#[inline(always)]
pub fn begins() -> bool {
    match (maps::CONFIG.get(0), maps::flood()) {
        (Some(config), Some(flood)) => flood::arrives(flood, now_s(), config.flood_threshold),
        _ => false,
    }
}

/// A packet of a flow beside the table: where it proves that the flow is real, both its entries come into the table and stay. A real call, for it
/// is rare. Before [`note`].
#[inline(never)]
pub fn prove<F: Tables>(packet: &Packet<F>, flow: &mut Flow<F::Addr>) {
    let twin_key = life::twin(&packet.tuple, flow);
    // SAFETY: a live map value; concurrent writers touch counters only, whose loss is harmless.
    let twin = twin_key.as_ref().and_then(F::flow).map(|twin| unsafe { &mut *twin });
    // The forward entry of a hairpin does not find its twin, which finds it.
    if twin.is_none() && flow.rewrite != rewrite::NONE {
        return;
    }
    let other = twin.as_ref().map(|twin| (twin.seen, twin.packets));
    if !flood::is_proof(packet.protocol, packet.tcp_flags, flow.packets, other) {
        return;
    }
    F::keep_flow(&packet.tuple, flow);
    if let (Some(key), Some(twin)) = (twin_key, twin)
        && twin.flags & flow_flag::SPILLED != 0
    {
        F::keep_flow(&key, twin);
    }
}

/// Notes that a packet of `len` bytes goes by this entry now.
#[inline(always)]
pub fn note<F: Tables>(flow: &mut Flow<F::Addr>, packet: &Packet<F>, len: u32, now_s: u32) {
    flow.last_seen_s = now_s;
    flow.packets = flow.packets.wrapping_add(1);
    flow.bytes = flow.bytes.wrapping_add(len as u64);
    flow.seen = life::note(flow.seen, packet.tcp_flags);
}

/// Where an answer ends its connection, the node that the call entered by notes it: it sees nothing else of the answers, and its entry of the call is
/// kept for as long as there was no end.
#[inline(always)]
pub fn note_end<F: Tables>(answer: &Packet<F>) {
    if answer.tcp_flags & (tcp_flag::FIN | tcp_flag::RST) != 0 {
        note_end_of(answer);
    }
}

/// A real call, for it is rare.
#[inline(never)]
fn note_end_of<F: Tables>(answer: &Packet<F>) {
    if let Some(call) = F::flow(&answer.tuple.turned()) {
        // SAFETY: a live map value; concurrent writers touch counters only, whose loss is harmless.
        let call = unsafe { &mut *call };
        if call.rewrite == rewrite::NONE {
            call.seen = life::note(call.seen, answer.tcp_flags & (tcp_flag::FIN | tcp_flag::RST));
        }
    }
}

/// A new flow's first packet is noted in the entry that it will be.
#[inline(always)]
pub fn count_first<F: Tables>(packet: &Packet<F>, flow: &mut Flow<F::Addr>) {
    flow.packets = 1;
    flow.bytes = packet.frame_len() as u64;
    flow.seen = life::note(0, packet.tcp_flags);
}

/// Takes back that a first packet was counted: who decided it leaves it to the next hook, which finds the entry and counts.
#[inline(always)]
pub fn uncount_first<F: Tables>(packet: &Packet<F>) {
    if let Some(flow) = F::flow(&packet.tuple) {
        // SAFETY: a live map value; concurrent writers touch counters only, whose loss is harmless.
        let flow = unsafe { &mut *flow };
        flow.packets = flow.packets.wrapping_sub(1);
        flow.bytes = flow.bytes.wrapping_sub(packet.frame_len() as u64);
    }
}

/// The flow that a stage has just decided.
#[inline(always)]
pub fn decided<F: Tables>() -> Result<&'static Flow<F::Addr>, Stop> {
    match F::scratch() {
        // SAFETY: per-CPU scratch, not shared while this program runs.
        Some(scratch) => Ok(unsafe { &(*scratch).forward }),
        None => Err(Stop::PASS),
    }
}

/// The same, to change how this one packet goes; its entry is written already.
#[inline(always)]
pub fn decided_mut<F: Tables>() -> Result<&'static mut Flow<F::Addr>, Stop> {
    match F::scratch() {
        // SAFETY: per-CPU scratch, not shared while this program runs.
        Some(scratch) => Ok(unsafe { &mut (*scratch).forward }),
        None => Err(Stop::PASS),
    }
}

/// Source ports that are tried where a call's own is taken.
const OTHER_PORTS: u32 = 4;

/// Writes both entries of a new flow whose packets keep their source, as they and the reply's key stand in the scratch. A real call: keys of IPv6
/// would fill the frames of who decides.
///
/// Where a flow of another frontend has the reply's tuple already, the source port is changed: the task then sees the caller's address with another
/// port (decision 5a). Whether that flow lives is not asked: its entry of the call stands, too, and one side's end is not the other's. The key's `dport`
/// is the caller's port.
#[inline(never)]
pub fn remember_pair<F: Tables>(packet: &Packet<F>) -> Result<(), DropReason> {
    let Some(scratch) = F::scratch() else { return Err(DropReason::NotConfigured) };
    // SAFETY: per-CPU scratch, not shared while this program runs.
    let Scratch { forward, reply, reverse } = unsafe { &mut *scratch };
    count_first(packet, forward);
    reverse.flags |= flow_flag::REVERSE;
    if F::put_flow(reply, reverse, NEW).is_err() {
        let hash = packet.hash();
        let mut placed = false;
        for attempt in 0..=OTHER_PORTS {
            if !placed {
                if attempt > 0 {
                    reverse.other_port = packet.sport;
                    reply.dport = snat::candidate(hash, attempt - 1);
                }
                placed = F::put_flow(reply, reverse, way_of::<F>(reply, reverse)).is_ok();
            }
        }
        if !placed {
            return Err(DropReason::TableFull);
        }
        // What has no port keeps none.
        if reverse.other_port != 0 {
            forward.other_port = reply.dport;
            forward.flags |= flow_flag::PORT_CHANGED;
        }
    }
    F::put_flow(&packet.tuple, forward, ANY).map_err(|_| DropReason::TableFull)
}

/// The answers to this call are remembered under the port that [`remember_pair`] tries first where the call's own is taken; a second one is needed only
/// where a stranger has that at the same backend. `answers` is their key, of which the port is changed.
#[inline(always)]
pub fn has_another_port<F: Tables>(packet: &Packet<F>, answers: &mut FlowKey<F::Addr>) -> bool {
    answers.dport = snat::candidate(packet.hash(), 0);
    // SAFETY: a live map value, read only.
    let found = F::flow(answers).map(|found| unsafe { &*found });
    found.is_some_and(|found| found.other_port == packet.sport && answers_call(found, packet))
}

/// The entry is that of live answers to what was called here.
#[inline(always)]
pub fn answers_call<F: Tables>(flow: &Flow<F::Addr>, packet: &Packet<F>) -> bool {
    flow.flags & (flow_flag::REVERSE | flow_flag::DEAD) == flow_flag::REVERSE
        && flow.rewrite == rewrite::SOURCE
        && flow.addr == packet.dst
        && flow.port == packet.dport
}

/// How an answers' entry is put: over an older one of the same call, else where there is none.
#[inline(always)]
fn way_of<F: Tables>(key: &FlowKey<F::Addr>, call: &Flow<F::Addr>) -> u64 {
    let Some(other) = F::flow(key) else { return NEW };
    // SAFETY: a live map value, read only.
    let other = unsafe { &*other };
    let is_same = other.addr == call.addr && other.port == call.port && other.rewrite == call.rewrite;
    if is_same && other.other_port == call.other_port { ANY } else { NEW }
}
