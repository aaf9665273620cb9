//! ICMP errors about flows: what is quoted finds the flow, and the error goes where answers to the quoted packet go.
//!
//! Both the error's own addresses and the quoted packet are put back as its sender knows them, with the checksums of the quoted headers and the
//! error's own (RFC 5508, 4.2; RFC 4443, 2.4). Flows are asked, never touched: an error proves nothing, keeps nothing alive and ends nothing.
//! Invariant: who may send the answers of a flow, from where the flow says, may send errors about it, and nobody else; a task, a host or a
//! peer's task only about packets that it was sent itself. Errors of routers come from the world alone.
//! Must not: be on any path but that of an error, so all is in real calls.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::programs::TcContext;
use mesh_common::checksum;
use mesh_common::family::{V4, V6};
use mesh_common::hash;
use mesh_common::parse::{self, Cursor, ETHERNET_LEN, Packet, protocol, words_of_4};
use mesh_common::quoted::{Quoted, as_sent};
use mesh_common::schema::{
    Config, Flow, FlowKey, address_flag, algorithm, deliver, endpoint, endpoint_flag, flow_flag, frontend_flag, rewrite,
};
use mesh_common::verdict::{DropReason, Hook};
use mesh_common::wire::{mac, vni};

use crate::maps::Tables;
use crate::outcome::{Code, Stop, encode};
use crate::packet::tc::Tc;
use crate::stage::arrival::Arrival;
use crate::stage::deliver::{config, deliver as send, peer_of};
use crate::stage::{balance, flow, outside, reply};

impl Arrival {
    #[inline(always)]
    fn is_at(&self, hook: Hook) -> bool {
        self.hook as u8 == hook as u8
    }

    /// Routers on the way may have sent it: it came in by the wire, here or at a peer.
    #[inline(always)]
    fn is_from_afar(&self) -> bool {
        self.is_at(Hook::FromUplink) || self.id == vni::REQUEST_WIRE || self.id == vni::SECOND_CHANCE_WIRE
    }
}

/// Carries an error that was handed on.
#[inline(always)]
pub fn carry<F: Tables>(tc: &Tc, arrival: &Arrival) -> Code {
    if arrival.id == vni::REPLY_WIRE || arrival.id == vni::REPLY_NODE {
        return if F::ADDR_LEN == 4 { answer4(tc.skb(), arrival.id) } else { answer6(tc.skb(), arrival.id) };
    }
    by_quoted::<F>(tc, arrival)
}

/// A real call: what it needs of the stack is free again when somebody is refused.
#[inline(never)]
fn by_quoted<F: Tables>(tc: &Tc, arrival: &Arrival) -> Code {
    encode(steps::<F>(tc, arrival))
}

/// Each step is a call of its own, and leaves its word in the scratch, where the packets are, too: together they would not fit the stack.
#[inline(always)]
fn steps<F: Tables>(tc: &Tc, arrival: &Arrival) -> Result<i32, Stop> {
    let config = config()?;
    let mut room = parse::Room::<F>::uninit();
    let Some(packet) = flow::read(tc, &mut room) else { return Err(Stop::drop(DropReason::Malformed)) };
    let code = find(tc, config, packet, arrival);
    if code != 0 {
        return Ok(code);
    }
    let way = flow::decided::<F>()?;
    if way.deliver == deliver::OUTSIDE {
        outside::hop::<F>(tc)?;
    }
    let to = peer_of(tc, arrival.hook, packet, way)?;
    if way.rewrite != rewrite::NONE {
        put_back(packet, way)?;
        let changed = requote::<F>(tc);
        if changed >> 32 != 0 {
            return Err(Stop::drop(DropReason::HelperFailed));
        }
        translate(tc, packet, way, changed as u32)?;
    }
    let sender = match F::endpoint(&packet.src) {
        Some(source) if arrival.is_at(Hook::FromTask) => source.number,
        _ => 0,
    };
    send(tc, arrival.hook, config, way, to, sender)
}

/// The packet that the error at hand quotes, read into the scratch.
#[inline(always)]
fn quoted_by<F: Tables>(tc: &Tc, packet: &Packet<F>) -> Option<&'static Quoted<F>> {
    if read_quoted::<F>(tc, packet.l4) { quoted() } else { None }
}

/// A real call: what reading needs of the stack is free again afterwards.
#[inline(never)]
fn read_quoted<F: Tables>(tc: &Tc, l4: u8) -> bool {
    let Some(room) = F::quoted() else { return false };
    let Some(quoted) = Quoted::<F>::of(tc, l4) else { return false };
    // SAFETY: per-CPU scratch, not shared while this program runs.
    unsafe { (*room).write(quoted) };
    true
}

/// The same once it was read.
#[inline(always)]
fn quoted<F: Tables>() -> Option<&'static Quoted<F>> {
    // SAFETY: as above; it was written. All bytes of a map value are defined, and any make one.
    F::quoted().map(|room| unsafe { (*room).assume_init_ref() })
}

/// A tuple's place in the scratch: that of the quoted packet in another form.
#[inline(always)]
fn tuple<F: Tables>() -> Result<&'static mut FlowKey<F::Addr>, Stop> {
    match F::scratch() {
        // SAFETY: per-CPU scratch, not shared while this program runs.
        Some(scratch) => Ok(unsafe { &mut (*scratch).reply }),
        None => Err(Stop::PASS),
    }
}

/// Finds how the error goes; it stands in the scratch then. A real call.
#[inline(never)]
fn find<F: Tables>(tc: &Tc, config: &Config, packet: &Packet<F>, arrival: &Arrival) -> Code {
    encode(way(tc, config, packet, arrival).map(|()| 0))
}

#[inline(always)]
fn way<F: Tables>(tc: &Tc, config: &Config, packet: &Packet<F>, arrival: &Arrival) -> Result<(), Stop> {
    let way = flow::decided_mut::<F>()?;
    flow::blank::<F>(way);
    // It is for whoever sent the quoted packet, or it is forged.
    let quoted = quoted_by(tc, packet).filter(|quoted| quoted.tuple.src == packet.dst);
    let Some(quoted) = quoted else { return unrelated(packet, config, arrival, way) };
    if !arrival.is_from_afar() && quoted.tuple.dst != packet.src {
        return Err(Stop::drop(DropReason::IcmpError));
    }
    let answer = tuple::<F>()?;
    *answer = quoted.tuple.turned();
    match told::<F>(answer, arrival) {
        Some(told) => {
            *way = *told;
            Ok(())
        }
        None if arrival.is_at(Hook::FromUplink) => by_ring::<F>(config, answer, way),
        None => unrelated(packet, config, arrival, way),
    }
}

/// The entry of this tuple, if it is for what comes from there.
#[inline(always)]
fn told<F: Tables>(tuple: &FlowKey<F::Addr>, arrival: &Arrival) -> Option<&'static Flow<F::Addr>> {
    // SAFETY: a live map value, read only.
    let told: &Flow<F::Addr> = F::flow(tuple).map(|told| unsafe { &*told })?;
    if told.from == arrival.from && told.flags & flow_flag::DEAD == 0 { Some(told) } else { None }
}

/// How an error goes that is about no flow: between tasks of a network, and between a host and its tasks, there need not be any; from the world it may be
/// about a connection of the host's own.
#[inline(always)]
fn unrelated<F: Tables>(
    packet: &Packet<F>,
    config: &Config,
    arrival: &Arrival,
    way: &mut Flow<F::Addr>,
) -> Result<(), Stop> {
    const FITS_NOTHING: Stop = Stop::drop(DropReason::IcmpError);
    if arrival.is_at(Hook::FromUplink) {
        return Err(Stop::PASS);
    }
    let is_of_task = arrival.is_at(Hook::FromTask);
    match (F::endpoint(&packet.dst), F::endpoint(&packet.src)) {
        (Some(target), source) if target.kind == endpoint::TASK => {
            let vni = match source {
                Some(source) if is_of_task => source.vni,
                _ if arrival.is_at(Hook::FromHost) => target.vni,
                _ => arrival.id,
            };
            if target.vni != vni {
                return Err(if is_of_task { Stop::drop(DropReason::OtherNetwork) } else { FITS_NOTHING });
            }
            way.ifindex = target.ifindex;
            way.mac = target.mac;
            if target.node != config.node {
                if !is_of_task {
                    return Err(FITS_NOTHING);
                }
                way.deliver = deliver::TUNNEL;
                way.node = target.node as u16;
                way.vni = target.vni;
            }
        }
        (None, Some(source)) if is_of_task && source.flags & endpoint_flag::INTERNAL == 0 => {
            match F::address(&packet.dst) {
                Some(address) if address.flags & address_flag::OWN != 0 => way.deliver = deliver::HOST,
                _ => return Err(FITS_NOTHING),
            }
        }
        _ => return Err(FITS_NOTHING),
    }
    Ok(())
}

/// How an error from the world goes that is about an answer of a published port whose `call` left no entry here: to the owner that the ring names for
/// that, as any packet of it (the services with algorithm `maglev` are entered without one).
#[inline(always)]
fn by_ring<F: Tables>(config: &Config, call: &FlowKey<F::Addr>, way: &mut Flow<F::Addr>) -> Result<(), Stop> {
    let frontend = match balance::published::<F>(&call.dst, call.dport, call.protocol) {
        Some(frontend) if frontend.flags & frontend_flag::NOT_TAKEN == 0 => frontend,
        _ => return Err(Stop::PASS),
    };
    let hash = if frontend.algorithm == algorithm::CLIENT {
        hash::client::<F>(call.src)
    } else {
        hash::tuple::<F>(call.src, call.dst, call.sport, call.dport, call.protocol)
    };
    let chosen = match balance::of_hash(frontend, hash) {
        Some(chosen) if chosen.node != config.node => chosen,
        _ => return Err(Stop::PASS),
    };
    way.deliver = deliver::TUNNEL;
    way.flags = flow_flag::KEEP_MAC;
    way.node = chosen.node as u16;
    way.vni = vni::REQUEST_WIRE;
    way.mac = mac::of(mac::KIND_ENDPOINT, chosen.backend);
    Ok(())
}

/// An error that a peer sent among the answers is judged as the answer that it stands for: the same source, frontend and destination. A global
/// function, as `nat::lower_mss`.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn answer4(skb: *mut __sk_buff, id: u32) -> Code {
    encode(stand_for_answer::<V4>(&Tc::new(TcContext::new(skb)), id))
}

/// The same of IPv6.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn answer6(skb: *mut __sk_buff, id: u32) -> Code {
    encode(stand_for_answer::<V6>(&Tc::new(TcContext::new(skb)), id))
}

#[inline(always)]
fn stand_for_answer<F: Tables>(tc: &Tc, id: u32) -> Result<i32, Stop> {
    let config = config()?;
    let Some(eth) = parse::ethernet(tc) else { return Err(Stop::drop(DropReason::Malformed)) };
    let mut room = parse::Room::<F>::uninit();
    let Some(packet) = flow::read(tc, &mut room) else { return Err(Stop::drop(DropReason::Malformed)) };
    let quoted = quoted_by(tc, packet)
        .filter(|quoted| quoted.tuple.src == packet.dst && quoted.tuple.dst == packet.src)
        .ok_or(Stop::drop(DropReason::IcmpError))?;
    packet.tuple = quoted.tuple.turned();
    if id == vni::REPLY_WIRE {
        reply::to_wire(tc, &eth, config, packet)
    } else {
        reply::to_node(tc, &eth, config, packet)
    }
}

/// Finds the quoted tuple as its sender knows it; it stands in the scratch then. A real call.
#[inline(never)]
fn put_back<F: Tables>(packet: &Packet<F>, told: &Flow<F::Addr>) -> Result<(), DropReason> {
    let (Some(quoted), Ok(is)) = (quoted::<F>(), tuple::<F>()) else { return Err(DropReason::NotConfigured) };
    // What a task that calls itself has seen as its caller.
    let gateway = F::endpoint(&packet.src).map_or(packet.src, |source| source.gateway);
    *is = as_sent(&quoted.tuple, told, gateway);
    Ok(())
}

/// Puts the error as the sender of the quoted packet knows it, which is so already; the sum over that changed by `inside`. Every change has its
/// counterpart in a checksum, so a receive checksum over the whole stays true. A real call.
#[inline(never)]
fn translate<F: Tables>(tc: &Tc, packet: &Packet<F>, told: &Flow<F::Addr>, mut inside: u32) -> Result<(), DropReason> {
    let (Some(quoted), Ok(is)) = (quoted::<F>(), tuple::<F>()) else { return Err(DropReason::NotConfigured) };
    let (dst, is_told_as_called) = (&is.src, told.rewrite == rewrite::SOURCE || packet.src == quoted.tuple.dst);
    // A router's address stays, where the world is told of it; a task's is never shown.
    let src = if is_told_as_called { &is.dst } else { &packet.src };
    let outside = checksum::join(F::difference(packet.src, *src), F::difference(packet.dst, *dst));
    if F::ADDR_LEN == 16 {
        inside = checksum::join(inside, outside); // ICMPv6 covers the addresses (RFC 4443, 2.3)
    }
    let at = packet.l4 as usize + 2;
    let [field] = tc.load::<[u16; 1]>(at).ok_or(DropReason::Malformed)?;
    tc.store(at, &[checksum::apply(field, inside)])?;

    if let Some(at) = F::HEADER_CHECKSUM_OFFSET {
        tc.replace_header(ETHERNET_LEN + at, outside)?;
    }
    let at = ETHERNET_LEN + F::SRC_OFFSET;
    store_addr::<F>(tc, at, src)?;
    store_addr::<F>(tc, at + F::ADDR_LEN, dst)
}

/// Rewrites the quoted packet as its sender knows it; gives what the sum over it changed by, or with a bit above that it could not. A real call, and so
/// one register.
#[inline(never)]
fn requote<F: Tables>(tc: &Tc) -> u64 {
    let (Some(quoted), Ok(is)) = (quoted::<F>(), tuple::<F>()) else { return 1 << 32 };
    match rewrite_quoted(tc, quoted, is) {
        Ok(changed) => changed as u64,
        Err(_) => 1 << 32,
    }
}

#[inline(always)]
fn rewrite_quoted<F: Tables>(tc: &Tc, quoted: &Quoted<F>, is: &FlowKey<F::Addr>) -> Result<u32, DropReason> {
    let (was, ip, l4) = (&quoted.tuple, quoted.ip as usize, quoted.l4 as usize);
    let addresses = checksum::join(F::difference(was.src, is.src), F::difference(was.dst, is.dst));
    let mut sum = addresses;
    if let Some(at) = F::HEADER_CHECKSUM_OFFSET {
        let [field] = tc.load::<[u16; 1]>(ip + at).ok_or(DropReason::Malformed)?;
        let changed = checksum::apply(field, addresses);
        tc.store(ip + at, &[changed])?;
        sum = checksum::join(sum, change(field, changed));
    }
    store_addr::<F>(tc, ip + F::SRC_OFFSET, &is.src)?;
    store_addr::<F>(tc, ip + F::SRC_OFFSET + F::ADDR_LEN, &is.dst)?;

    let ports = if was.sport == is.sport && was.dport == is.dport {
        0
    } else if was.protocol == F::ICMP {
        // One of the two is the identifier, the other one is 0 before and after.
        let (old, new) = (was.sport | was.dport, is.sport | is.dport);
        tc.store(l4 + 4, &[new.to_be()])?;
        checksum::difference_of_word(old, new)
    } else {
        tc.store(l4, &[is.sport.to_be(), is.dport.to_be()])?;
        checksum::join(
            checksum::difference_of_word(was.sport, is.sport),
            checksum::difference_of_word(was.dport, is.dport),
        )
    };
    sum = checksum::join(sum, ports);

    // Eight bytes need not reach as far as TCP's.
    let Some((at, covers_addresses)) = quoted.checksum() else { return Ok(sum) };
    let Some([field]) = tc.load::<[u16; 1]>(at) else { return Ok(sum) };
    let is_udp = was.protocol == protocol::UDP;
    if is_udp && field == 0 {
        return Ok(sum);
    }
    let covered = if covers_addresses { checksum::join(addresses, ports) } else { ports };
    let pseudo = F::sum(was.src) + F::sum(was.dst) + (was.protocol as u16).to_be() as u32;
    let is_unfinished = covers_addresses && field == checksum::fold(pseudo + quoted.l4_len.to_be() as u32);
    let changed = if is_unfinished {
        // A stack of this machine quotes what it was given: the bare sum over the pseudo header, without ports.
        checksum::fold(field as u32 + checksum::fold(addresses) as u32)
    } else {
        match checksum::apply(field, covered) {
            0 if is_udp => 0xffff,
            changed => changed,
        }
    };
    tc.store(at, &[changed])?;
    Ok(checksum::join(sum, change(field, changed)))
}

/// Writes an address where it belongs.
#[inline(always)]
fn store_addr<F: Tables>(tc: &Tc, offset: usize, addr: &F::Addr) -> Result<(), DropReason> {
    let b = F::to_16(*addr);
    if F::ADDR_LEN == 4 { tc.store(offset, &words_of_4([b[12], b[13], b[14], b[15]])) } else { tc.store(offset, &b) }
}

/// What a sum changes by when a word of it, in memory order, becomes another.
#[inline(always)]
fn change(old: u16, new: u16) -> u32 {
    (!old) as u32 + new as u32
}
