//! A task's way to the outside: source address and port become the node's, the kernel's routes and neighbours find the way.
//!
//! Needs no ip_forward and does not meet the FORWARD chain: the packet never enters the host's IP input. The route lookup asks
//! as if the packet came from mesh0, our own device, on which forwarding is enabled (docs/decisions/0002).

use aya_ebpf::bindings::bpf_fib_lookup;
use aya_ebpf::helpers::generated as raw;
use mesh_common::checksum;
use mesh_common::family::Family;
use mesh_common::parse::{Cursor, ETHERNET_LEN, Form, Packet, protocol};
use mesh_common::schema::{Config, Endpoint, FlowKey, deliver, flow_flag, origin, rewrite};
use mesh_common::snat;
use mesh_common::verdict::DropReason;

use crate::maps::{Tables, UPLINKS};
use crate::outcome::{Code, Stop, encode};
use crate::packet::tc::Tc;
use crate::stage::flow;

/// Route found, neighbour known.
const FIB_SUCCESS: i64 = 0;
/// Route found, neighbour not yet known: the kernel will ask.
const FIB_NO_NEIGHBOUR: i64 = 7;
/// The packet is larger than the route's MTU; the route itself is good.
const FIB_FRAG_NEEDED: i64 = 8;
/// AF_INET, AF_INET6.
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The uplink towards `dst`.
#[inline(always)]
fn route<F: Tables>(tc: &Tc, config: &Config, packet: &Packet<F>) -> Result<u32, Stop> {
    // SAFETY: all-zero is a valid request.
    let mut request: bpf_fib_lookup = unsafe { core::mem::zeroed() };
    let dst = F::to_16(packet.dst);
    request.ifindex = config.mesh0;
    let word = |i: usize| u32::from_ne_bytes([dst[i], dst[i + 1], dst[i + 2], dst[i + 3]]);
    if F::ADDR_LEN == 4 {
        request.family = AF_INET;
        request.__bindgen_anon_4.ipv4_dst = word(12);
    } else {
        request.family = AF_INET6;
        request.__bindgen_anon_4.ipv6_dst = [word(0), word(4), word(8), word(12)];
    }
    // SAFETY: the helper reads and writes the size given.
    let result = unsafe { raw::bpf_fib_lookup(tc.as_ptr(), &mut request, size_of::<bpf_fib_lookup>() as i32, 0) };
    match result {
        FIB_SUCCESS | FIB_NO_NEIGHBOUR | FIB_FRAG_NEEDED => Ok(request.ifindex),
        _ => Err(Stop::refuse(DropReason::NoRoute)),
    }
}

/// Where the time to live (hop limit) stands, in its word: in IPv4 before the protocol, in IPv6 behind the next header.
#[inline(always)]
fn hops_at<F: Family>() -> usize {
    ETHERNET_LEN + if F::ADDR_LEN == 4 { 8 } else { 6 }
}

/// A packet outlives this hop. Asked before anything is remembered of a flow to the outside: a probe that ends here (traceroute) takes no port.
#[inline(always)]
fn outlives<F: Family>(tc: &Tc) -> Result<(), Stop> {
    match tc.load::<[u8; 2]>(hops_at::<F>()) {
        Some([a, b]) if (if F::ADDR_LEN == 4 { a } else { b }) > 1 => Ok(()),
        Some(_) => Err(Stop::refuse(DropReason::HopLimit)),
        None => Err(Stop::drop(DropReason::Malformed)),
    }
}

/// Takes one from the time to live (hop limit) of a packet that leaves: out of the overlay this node is the router that the task's default route names,
/// and does as one (RFC 1812, 5.3.1; docs/decisions/0027).
#[inline(always)]
pub fn hop<F: Tables>(tc: &Tc) -> Result<(), Stop> {
    let at = hops_at::<F>();
    let Some([a, b]) = tc.load::<[u8; 2]>(at) else { return Err(Stop::drop(DropReason::Malformed)) };
    let (left, after) = if F::ADDR_LEN == 4 { (a, [a.wrapping_sub(1), b]) } else { (b, [a, b.wrapping_sub(1)]) };
    if left <= 1 {
        return Err(Stop::refuse(DropReason::HopLimit));
    }
    let change = checksum::difference_of_word(u16::from_be_bytes([a, b]), u16::from_be_bytes(after));
    match F::HEADER_CHECKSUM_OFFSET {
        Some(field) => tc.replace_header(ETHERNET_LEN + field, change)?,
        None => tc.add_to_sum(change),
    }
    Ok(tc.store(at, &after)?)
}

/// Decides a new flow from a task to the outside; it stands in the scratch then. A real call, as `nat::apply_apart`.
#[inline(never)]
pub fn leave<F: Tables>(tc: &Tc, config: &Config, packet: &Packet<F>, source: &Endpoint<F::Addr>) -> Code {
    encode(decide(tc, config, packet, source).map(|()| 0))
}

#[inline(always)]
fn decide<F: Tables>(tc: &Tc, config: &Config, packet: &Packet<F>, source: &Endpoint<F::Addr>) -> Result<(), Stop> {
    if !matches!(packet.form, Form::Ports | Form::EchoRequest) {
        return Err(Stop::drop(match packet.form {
            Form::Fragment => DropReason::Fragment,
            Form::IcmpError => DropReason::IcmpError,
            _ => DropReason::Unsupported,
        }));
    }
    // It would leave with this node's address: no task speaks to anybody's data port, known as a node or not.
    if packet.protocol == protocol::UDP && packet.dport == config.data_port {
        return Err(Stop::drop(DropReason::DataPort));
    }
    if F::is_link_local(packet.dst) {
        return Err(Stop::refuse(DropReason::NoRoute));
    }
    let ifindex = route(tc, config, packet)?;
    // SAFETY: values change only as a whole.
    let Some(uplink) = (unsafe { UPLINKS.get(ifindex) }) else { return Err(Stop::refuse(DropReason::NoRoute)) };
    let Some(scratch) = F::scratch() else { return Err(Stop::PASS) };
    // SAFETY: per-CPU scratch, not shared while this program runs.
    let scratch = unsafe { &mut *scratch };
    let asks_echo = packet.form == Form::EchoRequest;
    scratch.reply =
        FlowKey::new(packet.dst, F::uplink_addr(uplink), if asks_echo { 0 } else { packet.dport }, 0, packet.protocol);
    if scratch.reply.dst == F::Addr::default() {
        return Err(Stop::refuse(DropReason::NoRoute));
    }
    outlives::<F>(tc)?;

    flow::blank::<F>(&mut scratch.reverse);
    scratch.reverse.addr = packet.src;
    scratch.reverse.from = origin::WIRE;
    scratch.reverse.port = packet.sport;
    scratch.reverse.rewrite = rewrite::DESTINATION;
    scratch.reverse.deliver = deliver::TASK;
    scratch.reverse.flags = flow_flag::REVERSE;
    scratch.reverse.ifindex = source.ifindex;
    scratch.reverse.mac = source.mac;
    scratch.reverse.backend = source.number; // both entries go with the task

    flow::begins();
    let hash = packet.hash();
    let mut port = 0;
    for attempt in 0..snat::TRIES {
        if port == 0 {
            scratch.reply.dport = snat::candidate(hash, attempt);
            if F::put_flow(&scratch.reply, &mut scratch.reverse, flow::NEW).is_ok() {
                port = scratch.reply.dport;
            }
        }
    }
    if port == 0 {
        return Err(Stop::drop(DropReason::NoSnatPort));
    }

    flow::blank::<F>(&mut scratch.forward);
    scratch.forward.addr = scratch.reply.dst;
    scratch.forward.from = source.ifindex;
    scratch.forward.port = port;
    scratch.forward.rewrite = rewrite::SOURCE;
    scratch.forward.deliver = deliver::OUTSIDE;
    scratch.forward.ifindex = ifindex;
    scratch.forward.backend = source.number;
    flow::count_first(packet, &mut scratch.forward);
    F::put_flow(&packet.tuple, &mut scratch.forward, flow::ANY).map_err(|_| DropReason::TableFull)?;
    Ok(())
}
