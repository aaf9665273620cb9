//! What the world and the peers send, before it is an sk_buff: calls to published ports whose task is elsewhere go on into the tunnel, and
//! their answers out of it.
//!
//! An accelerator and nothing else: whatever is not plainly one of those two is left to TC untouched and uncounted, which does all that is done
//! here, and the rest. So it decides by the same stages over the same tables, drops nothing and refuses nobody.
//! Invariant: a packet is counted once, and a turn taken once, whichever hook sends it on.
//! Must not: send by another link than the one the frame came in by (that one has a program, so its driver can send from here; another may
//! lose frames without a word).

use core::marker::PhantomData;

use mesh_common::family::{Family, V4, V6};
use mesh_common::parse::{self, Cursor, ETHERNET_LEN, Packet, Plain, protocol, tcp_flag, words_of_6};
use mesh_common::schema::{
    Config, Flow, Frontend, Peer, RingSlot, address_flag, algorithm, deliver as way, flow_flag, frontend_flag, origin,
    peer_flag,
};
use mesh_common::wire::outer::{self, Carrier, Wrapped};
use mesh_common::wire::{mac, vni};

use crate::maps::{self, Maps, Tables};
use crate::packet::Rewrite;
use crate::packet::xdp::{ABORTED, PASS, Xdp};
use crate::stage::deliver::{any_id, config};
use crate::stage::flow::{self, Found};
use crate::stage::ingress::{Call, Entry, enter};
use crate::stage::owner::WayBack;
use crate::stage::{balance, nat, reply, too_big, watch};

/// Both ECN bits: congestion experienced (RFC 3168, section 5).
const CE: u8 = 3;

#[inline(always)]
pub fn run(xdp: &Xdp) -> u32 {
    let Ok(config) = config() else { return PASS };
    // Asked before there is anything to keep meanwhile.
    let is_left = watch::is_left(config);
    let Some(code) = walk(xdp, config, is_left) else { return PASS };
    watch::passed(config);
    code
}

/// None: left to TC, as it came.
#[inline(always)]
fn walk(xdp: &Xdp, config: &Config, is_left: bool) -> Option<u32> {
    match parse::ethertype(xdp)? {
        V4::ETHERTYPE => {
            let mut room = parse::Room::<V4>::uninit();
            let packet = parse::plain(xdp, &mut room)?;
            let len = xdp.len_of_at_least(packet.l4 as u32 + packet.l4_len as u32)?;
            either(xdp, config, packet, len, is_left)
        }
        V6::ETHERTYPE => {
            let packet = read(xdp)?;
            let len = xdp.len_of_at_least(packet.l4 as u32 + packet.l4_len as u32)?;
            either(xdp, config, packet, len, is_left)
        }
        _ => None,
    }
}

#[inline(always)]
fn either<F: Tables + Carrier>(xdp: &Xdp, config: &Config, packet: &Packet<F>, len: u32, is_left: bool) -> Option<u32> {
    if packet.protocol == protocol::UDP && packet.dport == config.data_port {
        if is_left { None } else { answer(xdp, config, packet) }
    } else {
        call(xdp, config, packet, len, is_left)
    }
}

/// Reads an IPv6 packet into the scratch, for its addresses would fill the stack (docs/decisions/0029).
#[inline(always)]
fn read(cursor: &impl Cursor) -> Option<&'static Packet<V6>> {
    // SAFETY: per-CPU scratch, not shared while this program runs.
    parse::plain(cursor, unsafe { &mut *V6::room()? })
}

/// What the parser does not tell of the packet at hand: its type of service.
#[inline(always)]
fn tos<F: Family>(xdp: &Xdp) -> Option<u8> {
    xdp.load(ETHERNET_LEN).map(|[first]: [u16; 1]| F::tos(first))
}

/// A call to a published port of this node.
#[inline(always)]
fn call<F: Tables>(xdp: &Xdp, config: &Config, packet: &Packet<F>, len: u32, is_left: bool) -> Option<u32> {
    if !F::is_data_path(config, &packet.dst) && !is_links_own(xdp, config, packet) {
        return None;
    }
    let frontend = balance::published::<F>(&packet.dst, packet.dport, packet.protocol)?;
    if frontend.flags & frontend_flag::NOT_TAKEN != 0 {
        return None;
    }
    if frontend.algorithm == algorithm::MAGLEV {
        let RingSlot { backend, node } = balance::by_ring(frontend, packet)?;
        // No peer has this node's number: what is for a task here finds none.
        let peer = peer_here(xdp, node, len)?;
        return forward(xdp, config, packet, peer, words_of_6(mac::of(mac::KIND_ENDPOINT, backend)), len);
    }
    // Not so one that goes by the ring: TC would write the entry that it does without.
    if is_left {
        return None;
    }
    let (flow, is_new) = match flow::find(packet, origin::WIRE) {
        Found::Alive(flow) => (flow, false),
        Found::Dead => return None,
        Found::Nothing if is_links_own(xdp, config, packet) => (first(xdp, config, packet, frontend)?, true),
        Found::Nothing => return None,
    };
    // A frame of a VLAN, whose tag the device took off, looks like one of this link; the entry says where its flow came in.
    let peer = if flow.deliver == way::TUNNEL && flow.vni == vni::REQUEST_WIRE && flow.ifindex == xdp.ifindex() {
        peer_here(xdp, flow.node as u32, len)
    } else {
        None
    };
    let Some(peer) = peer else {
        if is_new {
            flow::uncount_first(packet);
        }
        return None;
    };
    if !is_new {
        if flow.flags & flow_flag::SPILLED != 0 {
            flow::prove(packet, flow);
        }
        flow::note::<F>(flow, packet, len, flow::now_s());
    }
    forward(xdp, config, packet, peer, flow.mac_words(), len)
}

/// The packet is for an address of this node that the link it came in by has.
///
/// Most calls are for the data path address, whose link CONFIG names: that saves a new flow a hash lookup.
#[inline(always)]
fn is_links_own<F: Tables>(xdp: &Xdp, config: &Config, packet: &Packet<F>) -> bool {
    if config.tunnel_link != 0 && F::is_data_path(config, &packet.dst) {
        return config.tunnel_link == xdp.ifindex();
    }
    let address = F::address(&packet.dst);
    address.is_some_and(|address| address.flags & address_flag::OWN != 0 && address.ifindex == xdp.ifindex())
}

/// Decides a first packet, as from_uplink does.
#[inline(always)]
fn first<F: Tables>(
    xdp: &Xdp,
    config: &Config,
    packet: &Packet<F>,
    frontend: &Frontend<F::Addr>,
) -> Option<&'static mut Flow<F::Addr>> {
    let eth = parse::ethernet(xdp)?;
    let back = WayBack { deliver: way::UPLINK, ifindex: xdp.ifindex(), node: 0, vni: 0, mac: eth.src };
    let call = Call {
        entry: Entry::Wire,
        from: origin::WIRE,
        target_port: frontend.target_port,
        node: config.node,
        back,
        gateway: F::Addr::default(),
        gone: 0,
    };
    if enter(packet, frontend, &call) != 0 {
        return None;
    }
    flow::decided_mut::<F>().ok()
}

/// The peer with this number, if a frame of `len` bytes can go to it from here: by the link that it came in by, in one piece.
#[inline(always)]
fn peer_here(xdp: &Xdp, node: u32, len: u32) -> Option<&'static Peer> {
    maps::peer(node).filter(|peer| {
        (peer.ifindex == xdp.ifindex() || peer.ifindex6 == xdp.ifindex())
            && peer.flags & peer_flag::UNREACHABLE == 0
            && len + outer::LEN as u32 <= peer.mtu as u32 + ETHERNET_LEN as u32
    })
}

/// Into the tunnel, unmodified but for the choice in its destination MAC and a SYN's segment size. The last hop is its source MAC already.
#[inline(always)]
fn forward<F: Tables>(
    xdp: &Xdp,
    config: &Config,
    packet: &Packet<F>,
    peer: &Peer,
    to: [u16; 3],
    len: u32,
) -> Option<u32> {
    nat::clamp_mss_early(xdp, packet, F::mss(config));
    if peer.ifindex != 0 {
        wrap::<V4, F>(xdp, config, peer, to, len)
    } else {
        wrap::<V6, F>(xdp, config, peer, to, len)
    }
}

#[inline(always)]
fn wrap<O: Carrier, F: Family>(xdp: &Xdp, config: &Config, peer: &Peer, to: [u16; 3], len: u32) -> Option<u32> {
    if !xdp.grow_head(O::OUTER_LEN as i32) {
        return None;
    }
    let Some(there) = xdp.place::<Wrapped<O, F>>(0) else { return Some(ABORTED) };
    there.wrap(config, peer, vni::REQUEST_WIRE, len as u16, any_id);
    let [a, b, c, ..] = &mut there.ethernet;
    [*a, *b, *c] = to;
    Some(xdp.redirect(xdp.ifindex()))
}

/// The frame in a tunnel packet of this family.
struct Inner<'a, O>(&'a Xdp, PhantomData<O>);

impl<O: Carrier> Cursor for Inner<'_, O> {
    #[inline(always)]
    fn load<T: Plain>(&self, offset: usize) -> Option<T> {
        self.0.load(O::OUTER_LEN + offset)
    }
}

/// An answer that a peer sends back through this node.
#[inline(always)]
fn answer<O: Tables + Carrier>(xdp: &Xdp, config: &Config, outer: &Packet<O>) -> Option<u32> {
    // Congestion met on the way has to be told inside (RFC 6040, 4.2).
    if !O::is_data_path(config, &outer.dst) || tos::<O>(xdp)? & CE == CE {
        return None;
    }
    if outer::vni::<O>(xdp)? != vni::REPLY_WIRE {
        return None;
    }
    let way = address_flag::TUNNEL | address_flag::BY_MESH0;
    let peer = O::address(&outer.src).filter(|address| address.flags & way == address_flag::TUNNEL)?.node;
    let inner = Inner::<O>(xdp, PhantomData);
    match parse::ethertype(&inner)? {
        V4::ETHERTYPE => {
            let mut room = parse::Room::<V4>::uninit();
            leave::<O, V4>(xdp, peer, parse::plain(&inner, &mut room)?)
        }
        // Where the outer packet stood, which is read by now.
        V6::ETHERTYPE => leave::<O, V6>(xdp, peer, read(&inner)?),
        _ => None,
    }
}

/// Out of the tunnel, for the neighbour that its destination MAC names.
#[inline(always)]
fn leave<O: Carrier, F: Tables>(xdp: &Xdp, peer: u32, packet: &Packet<F>) -> Option<u32> {
    // What ends a connection is noted in the entry of its call (`flow::note_end`), for which this program has no stack left: TC does both.
    if packet.tcp_flags & (tcp_flag::FIN | tcp_flag::RST) != 0 {
        return None;
    }
    if reply::leaves_by(packet).ok()? != xdp.ifindex() {
        return None;
    }
    let link_mac = parse::ethernet(xdp)?.dst;
    if !xdp.grow_head(-(O::OUTER_LEN as i32)) {
        return None;
    }
    // The destination is the last hop already.
    if xdp.store(6, &words_of_6(link_mac)).is_err() {
        return Some(ABORTED);
    }
    if packet.tcp_flags & tcp_flag::SYN != 0
        && let Some(path) = maps::peer(peer)
    {
        nat::clamp_mss_early(xdp, packet, too_big::mss::<F>(path));
    }
    Some(xdp.redirect(xdp.ifindex()))
}
