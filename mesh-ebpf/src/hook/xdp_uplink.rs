//! What the world and the peers send, before it is an sk_buff: calls to published ports whose task is elsewhere go on into the tunnel, and
//! their answers out of it.
//!
//! An accelerator and nothing else: whatever is not plainly one of those two is left to TC untouched and uncounted, which does all that is done
//! here, and the rest. So it decides by the same stages over the same tables, drops nothing and refuses nobody.
//! Invariant: a packet is counted once, and a turn taken once, whichever hook sends it on.
//! Must not: send by another link than the one the frame came in by (that one has a program, so its driver can send from here; another may
//! lose frames without a word).

use mesh_common::family::{Addr4, Family, V4};
use mesh_common::parse::{self, Cursor, ETHERNET_LEN, Packet, Plain, protocol, tcp_flag, words_of_6};
use mesh_common::schema::{
    Config, Fields, Flow, Frontend, Peer, RingSlot, address_flag, algorithm, deliver as way, flow_flag, frontend_flag,
    origin, peer_flag,
};
use mesh_common::wire::outer::{self, Wrapped};
use mesh_common::wire::{mac, vni};

use crate::maps::{self, Maps};
use crate::packet::Rewrite;
use crate::packet::xdp::{ABORTED, PASS, Xdp};
use crate::stage::deliver::config;
use crate::stage::flow::{self, Found};
use crate::stage::ingress::{Call, Entry, enter};
use crate::stage::owner::WayBack;
use crate::stage::{balance, nat, reply, too_big};

/// Both ECN bits: congestion experienced (RFC 3168, section 5).
const CE: u8 = 3;

#[inline(always)]
pub fn run(xdp: &Xdp) -> u32 {
    walk(xdp).unwrap_or(PASS)
}

/// None: left to TC, as it came.
#[inline(always)]
fn walk(xdp: &Xdp) -> Option<u32> {
    let config = config().ok()?;
    if parse::ethertype(xdp)? != V4::ETHERTYPE {
        return None;
    }
    let mut room = parse::Room::<V4>::uninit();
    let packet = parse::plain(xdp, &mut room)?;
    let len = xdp.len_of_at_least(packet.l4 as u32 + packet.l4_len as u32)?;
    if packet.protocol == protocol::UDP && packet.dport == config.data_port {
        answer(xdp, config, packet)
    } else {
        call(xdp, config, packet, len)
    }
}

/// What the parser does not tell of the packet at hand: its type of service.
#[inline(always)]
fn tos(xdp: &Xdp) -> Option<u8> {
    xdp.load(ETHERNET_LEN).map(|[_, tos]: [u8; 2]| tos)
}

/// A call to a published port of this node.
#[inline(always)]
fn call(xdp: &Xdp, config: &Config, packet: &Packet<V4>, len: u32) -> Option<u32> {
    if packet.dst.word() != config.tunnel_addr4_word() && !is_links_own(xdp, config, packet) {
        return None;
    }
    let frontend = balance::published::<V4>(&packet.dst, packet.dport, packet.protocol)?;
    if frontend.flags & frontend_flag::NOT_TAKEN != 0 {
        return None;
    }
    if frontend.algorithm == algorithm::MAGLEV {
        let RingSlot { backend, node } = balance::by_ring(frontend, packet)?;
        // No peer has this node's number: what is for a task here finds none.
        let peer = peer_here(xdp, node, len)?;
        return forward(xdp, config, packet, peer, words_of_6(mac::of(mac::KIND_ENDPOINT, backend)), len);
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
        flow::note::<V4>(flow, packet, len);
    }
    forward(xdp, config, packet, peer, flow.mac_words(), len)
}

/// The packet is for an address of this node that the link it came in by has.
///
/// Most calls are for the data path address, whose link CONFIG names: that saves a new flow a hash lookup.
#[inline(always)]
fn is_links_own(xdp: &Xdp, config: &Config, packet: &Packet<V4>) -> bool {
    if config.tunnel_link4 != 0 && packet.dst.word() == config.tunnel_addr4_word() {
        return config.tunnel_link4 == xdp.ifindex();
    }
    let address = V4::address(&packet.dst);
    address.is_some_and(|address| address.flags & address_flag::OWN != 0 && address.ifindex == xdp.ifindex())
}

/// Decides a first packet, as from_uplink does.
#[inline(always)]
fn first(
    xdp: &Xdp,
    config: &Config,
    packet: &Packet<V4>,
    frontend: &Frontend<Addr4>,
) -> Option<&'static mut Flow<Addr4>> {
    let eth = parse::ethernet(xdp)?;
    let back = WayBack { deliver: way::UPLINK, ifindex: xdp.ifindex(), node: 0, vni: 0, mac: eth.src };
    let call = Call {
        entry: Entry::Wire,
        from: origin::WIRE,
        target_port: frontend.target_port,
        node: config.node,
        back,
        gateway: Addr4::default(),
        gone: 0,
    };
    if enter(packet, frontend, &call) != 0 {
        return None;
    }
    flow::decided_mut::<V4>().ok()
}

/// The peer with this number, if a frame of `len` bytes can go to it from here: by the link that it came in by, in one piece.
#[inline(always)]
fn peer_here(xdp: &Xdp, node: u32, len: u32) -> Option<&'static Peer> {
    maps::peer(node).filter(|peer| {
        peer.ifindex == xdp.ifindex()
            && peer.flags & peer_flag::UNREACHABLE == 0
            && len + outer::LEN as u32 <= peer.mtu as u32 + ETHERNET_LEN as u32
    })
}

/// Into the tunnel, unmodified but for the choice in its destination MAC and a SYN's segment size. The last hop is its source MAC already.
#[inline(always)]
fn forward(xdp: &Xdp, config: &Config, packet: &Packet<V4>, peer: &Peer, to: [u16; 3], len: u32) -> Option<u32> {
    nat::clamp_mss_early(xdp, packet, V4::mss(config));
    if !xdp.grow_head(outer::LEN as i32) {
        return None;
    }
    let Some(there) = xdp.place::<Wrapped>(0) else { return Some(ABORTED) };
    there.wrap(config, peer, vni::REQUEST_WIRE, len as u16);
    let [a, b, c, ..] = &mut there.ethernet;
    [*a, *b, *c] = to;
    Some(xdp.redirect(peer.ifindex))
}

/// The frame in a tunnel packet.
struct Inner<'a>(&'a Xdp);

impl Cursor for Inner<'_> {
    #[inline(always)]
    fn load<T: Plain>(&self, offset: usize) -> Option<T> {
        self.0.load(outer::LEN + offset)
    }
}

/// An answer that a peer sends back through this node.
#[inline(always)]
fn answer(xdp: &Xdp, config: &Config, outer: &Packet<V4>) -> Option<u32> {
    // Congestion met on the way has to be told inside (RFC 6040, 4.2).
    if outer.dst.word() != config.tunnel_addr4_word() || tos(xdp)? & CE == CE {
        return None;
    }
    if outer::vni(xdp)? != vni::REPLY_WIRE {
        return None;
    }
    let way = address_flag::TUNNEL | address_flag::BY_MESH0;
    let peer = V4::address(&outer.src).filter(|address| address.flags & way == address_flag::TUNNEL)?.node;
    let inner = Inner(xdp);
    if parse::ethertype(&inner)? != V4::ETHERTYPE {
        return None;
    }
    let mut room = parse::Room::<V4>::uninit();
    let packet = parse::plain(&inner, &mut room)?;
    if reply::leaves_by(packet).ok()? != xdp.ifindex() {
        return None;
    }
    let link_mac = parse::ethernet(xdp)?.dst;
    if !xdp.grow_head(-(outer::LEN as i32)) {
        return None;
    }
    // The destination is the last hop already.
    if xdp.store(6, &words_of_6(link_mac)).is_err() {
        return Some(ABORTED);
    }
    if packet.tcp_flags & tcp_flag::SYN != 0
        && let Some(path) = maps::peer(peer)
    {
        nat::clamp_mss_early(xdp, packet, too_big::mss::<V4>(path));
    }
    Some(xdp.redirect(xdp.ifindex()))
}
