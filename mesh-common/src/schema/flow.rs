//! Flows: what they are looked up by, what their entries say, and how many begin.

use core::mem::{MaybeUninit, offset_of};

use super::words;

/// A flow direction as the hook sees it: `FLOWS4`, `FLOWS6`. Made by [`FlowKey::new`].
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Source port.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

impl<A> FlowKey<A> {
    /// The key of such packets; ports in host order.
    ///
    /// Written word by word: the kernel hashes a key by words of four bytes as soon as it was made, and a processor that has just stored parts of
    /// a word waits until they have left its store buffer before it can load the whole.
    #[inline(always)]
    pub const fn new(src: A, dst: A, sport: u16, dport: u16, protocol: u8) -> Self {
        const { assert!(offset_of!(Self, sport) % 4 == 0 && offset_of!(Self, sport) + 8 == size_of::<Self>()) };
        let ([a, b], [c, d]) = (sport.to_ne_bytes(), dport.to_ne_bytes());
        let mut key = MaybeUninit::<Self>::uninit();
        let at = key.as_mut_ptr();
        // SAFETY: both addresses are fields of `key`. Each of the two words covers the fields behind it as far as the next one or the end, with the
        // bytes that those fields have by themselves, and is as aligned as a key is: addresses are multiples of four bytes (checked below).
        unsafe {
            (&raw mut (*at).src).write(src);
            (&raw mut (*at).dst).write(dst);
            (&raw mut (*at).sport).cast::<u32>().write(u32::from_ne_bytes([a, b, c, d]));
            (&raw mut (*at).protocol).cast::<u32>().write(u32::from_ne_bytes([protocol, 0, 0, 0]));
            key.assume_init()
        }
    }
}

impl<A: Copy> FlowKey<A> {
    /// The same tuple the other way round.
    #[inline(always)]
    pub const fn turned(&self) -> Self {
        FlowKey::new(self.dst, self.src, self.dport, self.sport, self.protocol)
    }
}

/// What to do with packets of one direction; written by the programs, deleted by the sweeper. Self-contained: one lookup a packet.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flow<A> {
    /// Replaces the side that `rewrite` names.
    pub addr: A,
    /// Where its packets come from, `origin::*`: to one of elsewhere the entry says nothing.
    pub from: u32,
    /// Interface to deliver to; with `deliver::TUNNEL` the uplink that the call came in by (0: none), for its replies.
    pub ifindex: u32,
    /// VNI to tunnel with.
    pub vni: u32,
    /// Endpoint number of the backend, or of the task that went outside: the entry dies with it.
    pub backend: u32,
    /// Replaces that side's port; 0 keeps it.
    pub port: u16,
    /// Replaces the other side's port; 0 keeps it.
    pub other_port: u16,
    /// Peer to tunnel to.
    pub node: u16,
    /// Destination MAC of the frame delivered.
    pub mac: [u8; 6],
    /// One of `rewrite::*`.
    pub rewrite: u8,
    /// One of `deliver::*`.
    pub deliver: u8,
    /// Bits of `flow::seen`.
    pub seen: u8,
    /// Bits of `flow_flag::*`.
    pub flags: u8,
    /// Time of the last packet, seconds of the monotonic clock.
    pub last_seen_s: u32,
    /// Packets so far.
    pub packets: u32,
    /// Bytes so far (frames as the hook sees them).
    pub bytes: u64,
}

/// Values of `Flow::from`: who may send the packets that an entry speaks of. Any other value is the interface index of a task's link.
pub mod origin {
    /// A peer, by the tunnel: this and its node number.
    pub const PEER: u32 = 0x8000_0000;
    /// The world, by any uplink.
    pub const WIRE: u32 = 0xc000_0000;
    /// This node's own stack.
    pub const HOST: u32 = 0xc000_0001;

    /// The peer with this number.
    #[inline(always)]
    pub const fn peer(node: u32) -> u32 {
        PEER | node
    }

    /// It is a peer: an interface's index has not this bit, the world and the stack have another one besides.
    pub const fn is_peer(from: u32) -> bool {
        from & WIRE == PEER
    }

    /// The number of a peer, where it is one.
    #[inline(always)]
    pub const fn number(from: u32) -> u32 {
        from & !PEER
    }
}

/// Values of `Flow::rewrite`.
pub mod rewrite {
    /// Addresses stay.
    pub const NONE: u8 = 0;
    /// `addr`, `port` replace the source.
    pub const SOURCE: u8 = 1;
    /// `addr`, `port` replace the destination.
    pub const DESTINATION: u8 = 2;
}

/// Values of `Flow::deliver`: the last step.
pub mod deliver {
    /// To the task behind `ifindex`, with destination MAC `mac`.
    pub const TASK: u8 = 1;
    /// Through the tunnel to peer `node` with `vni` and inner destination MAC `mac`.
    pub const TUNNEL: u8 = 2;
    /// Out of uplink `ifindex` to the neighbour `mac`.
    pub const UPLINK: u8 = 3;
    /// Up this node's own stack.
    pub const HOST: u8 = 4;
    /// Out of uplink `ifindex`; the kernel finds the neighbour.
    pub const OUTSIDE: u8 = 5;
}

/// Bits of `Flow::flags`.
pub mod flow_flag {
    /// The backend is gone: refuse, then forget. Set by user space.
    pub const DEAD: u8 = 0x01;
    /// A task reached itself through its VIP: source and destination both change, the source is the gateway.
    pub const HAIRPIN: u8 = 0x02;
    /// The tunnel frame keeps the source MAC it came with (last hop); else it gets the gateway's.
    pub const KEEP_MAC: u8 = 0x04;
    /// The entry of the reply direction.
    pub const REVERSE: u8 = 0x08;
    /// The frame's source MAC names this node's host as last hop.
    pub const FROM_HOST: u8 = 0x10;
    /// The frame's source MAC names the sending task as last hop.
    pub const FROM_CLIENT: u8 = 0x20;
    /// The source port was changed because the tuple was taken.
    pub const PORT_CHANGED: u8 = 0x40;
    /// The entry is beside its table (`OVERFLOW4`, `OVERFLOW6`) and has not been proven yet.
    pub const SPILLED: u8 = 0x80;
}

impl<A> FlowKey<A> {
    /// The same key with its addresses written in another way.
    pub fn with<B>(self, to: impl Fn(A) -> B) -> FlowKey<B> {
        let FlowKey { src, dst, sport, dport, protocol, pad } = self;
        FlowKey { src: to(src), dst: to(dst), sport, dport, protocol, pad }
    }
}

impl<A> Flow<A> {
    /// The same entry with its address written in another way.
    #[rustfmt::skip]
    pub fn with<B>(self, to: impl Fn(A) -> B) -> Flow<B> {
        let Flow {
            addr, from, ifindex, vni, backend, port, other_port, node, mac, rewrite, deliver, seen, flags, last_seen_s, packets, bytes,
        } = self;
        let addr = to(addr);
        Flow {
            addr, from, ifindex, vni, backend, port, other_port, node, mac, rewrite, deliver, seen, flags, last_seen_s, packets, bytes,
        }
    }

    /// Destination MAC of the frame delivered.
    #[inline(always)]
    pub fn mac_words(&self) -> [u16; 3] {
        words(&self.mac)
    }
}

/// Which datagram a fragment belongs to: `FRAGMENTS4`, `FRAGMENTS6`.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FragmentKey<A> {
    /// Source address.
    pub src: A,
    /// Destination address.
    pub dst: A,
    /// Where its fragments come from, `origin::*`: those of elsewhere are another datagram's.
    pub from: u32,
    /// The datagram's identification.
    pub id: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// What the first fragment of a datagram says of all; written by the programs, given up when there are many others.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragmented {
    /// When its first fragment came, in seconds of the monotonic clock.
    pub came_s: u32,
    /// Source port, or an echo's identifier.
    pub sport: u16,
    /// Destination port, or an echo's identifier.
    pub dport: u16,
}

/// A fragment that came before the first one of its datagram: `EARLY`.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EarlyKey {
    /// Source address; IPv4 as ::ffff:a.b.c.d.
    pub src: [u8; 16],
    /// Destination address, likewise.
    pub dst: [u8; 16],
    /// Where it came from, `origin::*`.
    pub from: u32,
    /// The datagram's identification.
    pub id: u32,
    /// IP protocol number; of IPv6 0, for a later fragment may name a header before it.
    pub protocol: u8,
    /// Which of those that wait for the same one, from 0 on.
    pub place: u8,
    /// Zero.
    pub pad: [u8; 2],
}

impl EarlyKey {
    /// So many of a datagram may wait.
    pub const PLACES: u8 = 4;
}

/// Seconds for which fragments of one datagram are brought together: networks turn the order of what is milliseconds apart, and identifications come
/// again (RFC 6864), after 20 s at 3,300 datagrams a second. A third of what Linux waits for one that is missing (`net.ipv4.ipfrag_time`).
pub const FRAGMENTS_MEET_S: u32 = 10;

/// Most bytes of a frame that waits, Ethernet header and all.
pub const EARLY_BYTES: usize = 2_048;

/// The fragment as it came.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Early {
    /// When, in seconds of the monotonic clock.
    pub came_s: u32,
    /// Bytes of the frame.
    pub len: u32,
    /// The link that it came by.
    pub ifindex: u32,
    /// Zero.
    pub pad: u32,
    /// The frame, from its Ethernet header on, and what was there before.
    pub frame: [u64; EARLY_BYTES / 8],
}

/// How many flows begin on one CPU: `FLOODS`, written by the programs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flood {
    /// The second of the monotonic clock that is being counted.
    pub second: u32,
    /// New flows in it so far.
    pub count: u32,
    /// New flows in the one before.
    pub before: u32,
    /// 1: a flood was on when the last of them came.
    pub is_on: u32,
    /// Entries written beside the table for that reason, ever.
    pub spilled: u64,
    /// Entries that were moved into the table since, ever.
    pub promoted: u64,
}
