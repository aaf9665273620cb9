//! The last step: to a task, through the tunnel, out of an uplink, up the host's stack.
//!
//! Between nodes there are two ways with the same frames on the wire: through mesh0, where the kernel writes the outer headers, and the fast
//! way, where we do. mesh0 is for everything that the fast way can't carry.

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::helpers::generated::bpf_get_prandom_u32;
use aya_ebpf::programs::TcContext;
use mesh_common::checksum;
use mesh_common::family::{Family, Of, V4, V6};
use mesh_common::parse::{Cursor, ETHERNET_LEN, Packet, protocol};
use mesh_common::schema::{Config, Flow, Peer, deliver, flow_flag, peer_flag};
use mesh_common::verdict::{DropReason, Hook};
use mesh_common::wire::mac;
use mesh_common::wire::outer::{self, Carrier, Wrapped, shortest};

use crate::maps::{self, CONFIG, Tables, UPLINKS};
use crate::outcome::{Code, Stop, encode};
use crate::packet::tc::{OK, Tc};
use crate::stage::too_big;

/// Mark of packets that carry a tunnel key already when they reach mesh0's egress ("mesh"); from_host takes it off.
pub const KEYED: u32 = 0x6d65_7368;

/// Longest packet that the kernel takes for one (IPv4's total length).
const LONGEST: u32 = 0xffff;
/// Beyond every MTU.
const TOO_LONG: u32 = 1 << 17;
/// Of a UDP segment.
const UDP_HEADER: u32 = 8;

/// This node's facts.
#[inline(always)]
pub fn config() -> Result<&'static Config, Stop> {
    match CONFIG.get(0) {
        Some(config) if config.mesh0 != 0 => Ok(config),
        _ => Err(Stop::PASS),
    }
}

/// The peer with this number, if it answers.
#[inline(always)]
pub fn reachable(node: u32) -> Result<&'static Peer, Stop> {
    match maps::peer(node) {
        Some(peer) if peer.flags & peer_flag::UNREACHABLE != 0 => Err(Stop::refuse(DropReason::PeerUnreachable)),
        Some(peer) => Ok(peer),
        None => Err(Stop::drop(DropReason::NotConfigured)),
    }
}

/// Where a packet goes through the tunnel, if it does. No `Option` of both: every register that is carried along must be defined.
#[derive(Clone, Copy)]
pub struct Target {
    peer: Option<&'static Peer>,
    /// Length of the packet, or of its longest segment. Compared with the path's when it is asked for and when it is sent: of an answer that is
    /// carried along the verifier would go through all that lies between once for yes and once for no.
    longest: u32,
}

impl Target {
    /// Of a packet that came out of the tunnel and is rarely met: nobody is told that it is too big, and mesh0 takes any.
    #[inline(always)]
    pub fn through_mesh0(peer: Option<&'static Peer>) -> Target {
        Target { peer, longest: TOO_LONG }
    }
}

/// The peer that a flow goes to, where it goes through the tunnel.
#[inline(always)]
pub fn next<A>(flow: &Flow<A>) -> Result<Option<&'static Peer>, Stop> {
    if flow.deliver == deliver::TUNNEL { reachable(flow.node as u32).map(Some) } else { Ok(None) }
}

/// The same as the target of a packet. Asked before the packet is rewritten: who is refused must be
/// refused by the address that was called.
#[inline(always)]
pub fn peer_of<F: Tables>(tc: &Tc, hook: Hook, packet: &Packet<F>, flow: &Flow<F::Addr>) -> Result<Target, Stop> {
    if flow.deliver == deliver::TUNNEL {
        target(tc, hook, packet, flow.node as u32)
    } else {
        Ok(Target { peer: None, longest: 0 })
    }
}

/// The peer with this number as the target of a packet: it answers, and takes one of this size.
#[inline(always)]
pub fn target<F: Tables>(tc: &Tc, hook: Hook, packet: &Packet<F>, node: u32) -> Result<Target, Stop> {
    let peer = reachable(node)?;
    let longest = longest(tc, packet);
    if !fits::<F>(longest, peer) && hook as u8 != Hook::FromOverlay as u8 {
        let code = too_big::judge(tc, packet, peer);
        if code != too_big::GOES {
            return Err(Stop::said(code));
        }
    }
    Ok(Target { peer: Some(peer), longest })
}

/// Sends a packet as its flow says; `to` is what [`peer_of`] gave. `sender` is the endpoint number of the task that sent it
/// (from_task only).
#[inline(always)]
pub fn deliver<A: Of>(
    tc: &Tc,
    hook: Hook,
    config: &Config,
    flow: &Flow<A>,
    to: Target,
    sender: u32,
) -> Result<i32, Stop> {
    match flow.deliver {
        deliver::TASK => to_task(tc, hook, flow.ifindex, flow.mac),
        deliver::TUNNEL => {
            let src = if flow.flags & flow_flag::FROM_HOST != 0 {
                Some(mac::HOST)
            } else if flow.flags & flow_flag::FROM_CLIENT != 0 {
                Some(mac::of(mac::KIND_CLIENT, sender))
            } else if flow.flags & flow_flag::KEEP_MAC != 0 {
                None
            } else {
                Some(mac::GATEWAY)
            };
            to_peer::<A>(tc, hook, config, to, flow.vni, flow.mac, src)
        }
        deliver::UPLINK => to_uplink(tc, flow.ifindex, flow.mac),
        deliver::HOST => to_host(tc, hook, config),
        deliver::OUTSIDE => Ok(tc.redirect_neighbour(flow.ifindex)),
        _ => Err(Stop::drop(DropReason::NotConfigured)),
    }
}

/// Into a task of this node.
#[inline(always)]
pub fn to_task(tc: &Tc, hook: Hook, ifindex: u32, task_mac: [u8; 6]) -> Result<i32, Stop> {
    tc.set_macs(task_mac, mac::GATEWAY)?;
    if hook as u8 == Hook::FromHost as u8 {
        // Egress hooks can't jump into another namespace; the veth's other end is one queue away.
        return Ok(tc.redirect(ifindex));
    }
    tc.set_for_host()?;
    Ok(tc.redirect_peer(ifindex))
}

/// Through the tunnel, a packet between addresses of this type. `src` None keeps the frame's source MAC.
#[inline(always)]
pub fn to_peer<A: Of>(
    tc: &Tc,
    hook: Hook,
    config: &Config,
    to: Target,
    vni: u32,
    dst: [u8; 6],
    src: Option<[u8; 6]>,
) -> Result<i32, Stop> {
    let Some(peer) = to.peer else { return Err(Stop::drop(DropReason::NotConfigured)) };
    match src {
        Some(src) => tc.set_macs(dst, src)?,
        None => tc.set_dst_mac(dst)?,
    }
    if peer.ifindex != 0 && fits::<A::Family>(to.longest, peer) {
        return Ok(send_fast::<V4, A::Family>(tc, config, peer, peer.ifindex, vni));
    }
    if peer.ifindex6 != 0 && fits::<A::Family>(to.longest, peer) {
        return Ok(send_fast::<V6, A::Family>(tc, config, peer, peer.ifindex6, vni));
    }
    send_tunnel(tc, hook, config, peer, vni)
}

/// Length of a packet, or of each frame that one of several segments becomes.
#[inline(always)]
fn longest<F: Family>(tc: &Tc, packet: &Packet<F>) -> u32 {
    match tc.gso_size() {
        // All fragments of a datagram take one way, or the last one, which is short, would overtake those that mesh0 has to cut.
        0 if packet.is_piece => TOO_LONG,
        0 => tc.len(),
        size => segment_len(tc.skb(), size, packet.l4 as u32, packet.protocol as u32),
    }
}

/// Whether a packet goes over the path to the peer as it is, at first sight. One that is too large is mesh0's, unless [`too_big`] says otherwise. So is
/// one with next to nothing behind its IP header, of which [`Wrapped`] is too long a beginning. A path over IPv6 is told shorter by what its header has
/// more.
#[inline(always)]
fn fits<F: Family>(longest: u32, peer: &Peer) -> bool {
    longest >= shortest::<F>() as u32 && longest + outer::LEN as u32 <= peer.mtu as u32 + ETHERNET_LEN as u32
}

/// Length of each frame that a packet of several segments becomes, without the tunnel's headers: all of them have the first one's. Beyond every
/// MTU where those are not known, or the packet has no room for the tunnel's. A global function, as `nat::lower_mss`: bulk
/// pays for it once in many segments.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn segment_len(skb: *mut __sk_buff, size: u32, l4: u32, number: u32) -> u32 {
    let (tc, l4) = (&Tc::new(TcContext::new(skb)), l4 as u8);
    if tc.len() + V6::OUTER_LEN as u32 > LONGEST {
        return TOO_LONG;
    }
    let header = match number as u8 {
        protocol::UDP => UDP_HEADER,
        protocol::TCP => match tc.load::<[u8; 2]>(l4 as usize + 12) {
            // The upper half of the byte counts words (RFC 9293, 3.1).
            Some([words, _]) => (words >> 4) as u32 * 4,
            None => return TOO_LONG,
        },
        _ => return TOO_LONG,
    };
    l4 as u32 + header + size
}

/// The fast way: writes the outer headers and sends the frame out of the uplink, past mesh0 and the host's stack (docs/decisions/0020). A real
/// call: its buffers get a stack frame of their own.
#[inline(never)]
fn send_fast<O: Carrier, F: Family>(tc: &Tc, config: &Config, peer: &Peer, link: u32, vni: u32) -> Code {
    encode(wrap::<O, F>(tc, config, peer, link, vni))
}

#[inline(always)]
fn wrap<O: Carrier, F: Family>(tc: &Tc, config: &Config, peer: &Peer, link: u32, vni: u32) -> Result<i32, Stop> {
    const SHORT: Stop = Stop::drop(DropReason::Malformed);
    let Some(ethernet) = tc.load::<[u16; ETHERNET_LEN / 2]>(0) else { return Err(SHORT) };
    let inner_len = tc.len() as u16;
    tc.make_outer_room::<O>()?;
    let Ok(to) = tc.place::<Wrapped<O, F>>(0) else { return Err(SHORT) };
    to.ethernet = ethernet;
    let added = to.wrap(config, peer, vni, inner_len, any_id);
    tc.add_to_sum(checksum::sum(added, &ethernet));
    Ok(tc.redirect(link))
}

/// An identification for the outer packet where the inner one has none (IPv6): who forwards may fragment, and pieces of two packets must not
/// be taken for one's.
#[inline(always)]
pub fn any_id() -> u16 {
    // SAFETY: no arguments.
    unsafe { bpf_get_prandom_u32() as u16 }
}

/// Sets the tunnel key and hands the frame to mesh0.
#[inline(always)]
pub fn send_tunnel(tc: &Tc, hook: Hook, config: &Config, peer: &Peer, vni: u32) -> Result<i32, Stop> {
    tc.set_tunnel(config, &peer.addr, vni)?;
    if hook as u8 == Hook::FromHost as u8 {
        return Ok(OK); // already on its way out of mesh0
    }
    tc.set_mark(KEYED);
    Ok(tc.redirect(config.mesh0))
}

/// Out of an uplink to a neighbour whose MAC is known.
#[inline(always)]
pub fn to_uplink(tc: &Tc, ifindex: u32, neighbour: [u8; 6]) -> Result<i32, Stop> {
    // SAFETY: values change only as a whole.
    let Some(uplink) = (unsafe { UPLINKS.get(ifindex) }) else { return Err(Stop::drop(DropReason::NotConfigured)) };
    tc.set_macs(neighbour, uplink.mac)?;
    Ok(tc.redirect(ifindex))
}

/// Up this node's own stack, through mesh0, so that the route back leads there too.
#[inline(always)]
pub fn to_host(tc: &Tc, hook: Hook, config: &Config) -> Result<i32, Stop> {
    tc.set_macs(config.mesh0_mac, mac::GATEWAY)?;
    if hook as u8 == Hook::FromOverlay as u8 && tc.ifindex() == config.mesh0 {
        tc.set_for_host()?;
        return Ok(OK); // already at mesh0's ingress
    }
    Ok(tc.redirect_ingress(config.mesh0))
}
