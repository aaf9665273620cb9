//! What the world and the peers send, before it is an sk_buff: calls to published ports whose task is elsewhere go on into the tunnel, and
//! their answers out of it.
//!
//! An accelerator and nothing else: whatever is not plainly one of those two is left to TC untouched and uncounted, which does all that is done
//! here, and the rest. So it decides by the same stages over the same tables, drops nothing and refuses nobody.
//! Invariant: a packet is counted once, and a turn taken once, whichever hook sends it on.
//! Must not: send by another link than the one the frame came in by (that one has a program, so its driver can send from here; another may
//! lose frames without a word).

use mesh_common::family::{Addr4, Family, V4};
use mesh_common::hash;
use mesh_common::parse::{self, Cursor, ETHERNET_LEN, Ethernet, Form, Packet, Plain, protocol, words_of_6};
use mesh_common::schema::{
    Config, Fields, Flow, Frontend, Peer, RingSlot, address_flag, algorithm, deliver as way, flow_flag, frontend_flag,
    origin, peer_flag,
};
use mesh_common::wire::{mac, outer, vni};

use crate::maps::{self, Maps};
use crate::packet::Rewrite;
use crate::packet::xdp::{ABORTED, PASS, Xdp};
use crate::stage::deliver::config;
use crate::stage::flow::{self, Found};
use crate::stage::ingress::{Call, Entry, enter};
use crate::stage::owner::WayBack;
use crate::stage::{balance, nat, reply};

/// "More fragments", and the offset (RFC 791, 3.1).
const FRAGMENT: u16 = 0x3fff;
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
    let eth = parse::ethernet(xdp)?;
    if eth.ethertype != V4::ETHERTYPE {
        return None;
    }
    let ip = Ip::of(xdp)?;
    let packet = parse::packet::<V4>(xdp)?;
    if packet.l4 as usize != ETHERNET_LEN + V4::HEADER_LEN || packet.form != Form::Ports || ip.is_fragment() {
        return None;
    }
    let len = xdp.len_of_at_least(packet.l4 as u32 + packet.l4_len as u32)?;
    if packet.protocol == protocol::UDP && packet.dport == config.data_port {
        answer(xdp, config, &eth, &ip, &packet)
    } else {
        call(xdp, config, &eth, &ip, &packet, len)
    }
}

/// What the parser does not tell of an IPv4 header without options.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ip {
    tos: [u8; 2],
    total_len: u16,
    id: u16,
    fragment: u16,
}

// SAFETY: bytes and words at even offsets: no padding.
unsafe impl Plain for Ip {}

impl Ip {
    #[inline(always)]
    fn of(cursor: &impl Cursor) -> Option<Ip> {
        cursor.load(ETHERNET_LEN)
    }

    #[inline(always)]
    fn tos(&self) -> u8 {
        self.tos[1]
    }

    #[inline(always)]
    fn is_fragment(&self) -> bool {
        u16::from_be(self.fragment) & FRAGMENT != 0
    }
}

/// A call to a published port of this node.
#[inline(always)]
fn call(xdp: &Xdp, config: &Config, eth: &Ethernet, ip: &Ip, packet: &Packet<V4>, len: u32) -> Option<u32> {
    if packet.dst != config.tunnel_addr4.into() && !is_links_own(xdp, packet) {
        return None;
    }
    let frontend = balance::published::<V4>(packet.dport, packet.protocol)?;
    if frontend.flags & frontend_flag::NOT_TAKEN != 0 {
        return None;
    }
    if frontend.algorithm == algorithm::MAGLEV {
        let RingSlot { backend, node } = balance::by_ring(frontend, packet)?;
        // No peer has this node's number: what is for a task here finds none.
        let peer = peer_here(xdp, node, len)?;
        return forward(xdp, config, ip, packet, peer, words_of_6(mac::of(mac::KIND_ENDPOINT, backend)), len);
    }
    let (flow, is_new) = match flow::find(packet, origin::WIRE) {
        Found::Alive(flow) => (flow, false),
        Found::Dead => return None,
        Found::Nothing if is_links_own(xdp, packet) => (first(xdp, config, eth, packet, frontend)?, true),
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
    forward(xdp, config, ip, packet, peer, flow.mac_words(), len)
}

/// The packet is for an address of this node that the link it came in by has.
#[inline(always)]
fn is_links_own(xdp: &Xdp, packet: &Packet<V4>) -> bool {
    let address = V4::address(&packet.dst);
    address.is_some_and(|address| address.flags & address_flag::OWN != 0 && address.ifindex == xdp.ifindex())
}

/// Decides a first packet, as from_uplink does.
#[inline(always)]
fn first(
    xdp: &Xdp,
    config: &Config,
    eth: &Ethernet,
    packet: &Packet<V4>,
    frontend: &Frontend<Addr4>,
) -> Option<&'static mut Flow<Addr4>> {
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
fn forward(
    xdp: &Xdp,
    config: &Config,
    ip: &Ip,
    packet: &Packet<V4>,
    peer: &Peer,
    to: [u16; 3],
    len: u32,
) -> Option<u32> {
    let _ = nat::clamp_mss(xdp, packet, V4::mss(config)); // fails only past the frame's end: there is no option
    if !xdp.grow_head(outer::LEN as i32) {
        return None;
    }
    let ([a, b], [c, d]) = (packet.src.words(), packet.dst.words());
    let headers = outer::Outer {
        next_hop: peer.next_hop_words(),
        link_mac: peer.link_mac_words(),
        src: config.tunnel_addr4_words(),
        dst: peer.addr4_words(),
        port: config.data_port,
        vni: vni::REQUEST_WIRE,
        // As TC does it: a flow has one source port outside, whichever hook sends.
        hash: hash::spread(a ^ c ^ packet.sport.to_be(), b ^ d ^ packet.dport.to_be()),
        id: ip.id,
        tos: ip.tos(),
        inner_len: len as u16,
    };
    let Some(room) = xdp.place(0) else { return Some(ABORTED) };
    headers.write(room);
    if xdp.store(outer::LEN, &to).is_err() {
        return Some(ABORTED);
    }
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
fn answer(xdp: &Xdp, config: &Config, eth: &Ethernet, ip: &Ip, outer: &Packet<V4>) -> Option<u32> {
    // Congestion met on the way has to be told inside (RFC 6040, 4.2).
    if outer.dst != config.tunnel_addr4.into() || ip.tos() & CE == CE {
        return None;
    }
    if outer::vni(xdp)? != vni::REPLY_WIRE {
        return None;
    }
    let way = address_flag::TUNNEL | address_flag::BY_MESH0;
    V4::address(&outer.src).filter(|address| address.flags & way == address_flag::TUNNEL)?;
    let inner = Inner(xdp);
    let frame = parse::ethernet(&inner)?;
    if frame.ethertype != V4::ETHERTYPE {
        return None;
    }
    let packet = parse::packet::<V4>(&inner)?;
    if reply::leaves_by(&packet).ok()? != xdp.ifindex() {
        return None;
    }
    if !xdp.grow_head(-(outer::LEN as i32)) {
        return None;
    }
    let ([d0, d1, d2], [s0, s1, s2]) = (words_of_6(frame.dst), words_of_6(eth.dst));
    if xdp.store(0, &[d0, d1, d2, s0, s1, s2]).is_err() {
        return Some(ABORTED);
    }
    Some(xdp.redirect(xdp.ifindex()))
}
