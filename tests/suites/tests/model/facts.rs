//! What a node's tables say: docs/reference/maps.md, in plain structures.

use std::collections::BTreeMap;
pub use std::net::IpAddr as Ip;
use std::net::{Ipv4Addr, Ipv6Addr};

pub type Mac = [u8; 6];

/// VNIs of docs/reference/wire.md.
pub mod vni {
    pub const REQUEST_WIRE: u32 = 2048;
    pub const REQUEST_NODE: u32 = 2049;
    pub const REPLY_WIRE: u32 = 2050;
    pub const REPLY_NODE: u32 = 2051;
    pub const SECOND_CHANCE_WIRE: u32 = 2052;
    pub const SECOND_CHANCE_NODE: u32 = 2053;
    pub const TURNED_BACK_WIRE: u32 = 2054;
    pub const TURNED_BACK_NODE: u32 = 2055;
    pub const TURNED_BACK_TASK: u32 = 2056;
    pub const ECHO: u32 = 2064;
    pub const ECHO_REPLY: u32 = 2065;
    pub const INGRESS: u32 = 4096;
    pub const LAST: u32 = (1 << 24) - 1;
}

/// MAC addresses of docs/reference/wire.md.
pub mod mac {
    use super::Mac;

    pub const GATEWAY: Mac = [0xe6, 0x10, 0, 0, 0, 0];
    pub const SECOND_CHANCE: Mac = [0xe6, 0x10, 0, 0, 0, 1];
    pub const HOST: Mac = [0xe6, 0x14, 0, 0, 0, 0];
    pub const KIND_ENDPOINT: u8 = 3;
    pub const KIND_HOST: u8 = 4;
    pub const KIND_CLIENT: u8 = 5;
    pub const KIND_ECHO: u8 = 6;

    pub fn of(kind: u8, number: u32) -> Mac {
        let [a, b, c, d] = number.to_be_bytes();
        [0xe6, 0x10 | kind, a, b, c, d]
    }

    /// Kind and number of one of ours, of version 1.
    pub fn read(mac: Mac) -> Option<(u8, u32)> {
        (mac[0] == 0xe6 && mac[1] >> 4 == 1)
            .then(|| (mac[1] & 15, u32::from_be_bytes([mac[2], mac[3], mac[4], mac[5]])))
    }
}

/// A direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    pub src: Ip,
    pub dst: Ip,
    pub sport: u16,
    pub dport: u16,
    pub protocol: u8,
}

impl Key {
    pub fn turned(self) -> Key {
        Key { src: self.dst, dst: self.src, sport: self.dport, dport: self.sport, ..self }
    }
}

/// No address in particular, of the family that this one is of.
pub fn none_like(addr: Ip) -> Ip {
    if addr.is_ipv4() { Ip::V4(Ipv4Addr::UNSPECIFIED) } else { Ip::V6(Ipv6Addr::UNSPECIFIED) }
}

/// Of an address of each family the one of this address's.
pub fn of_family([v4, v6]: [Ip; 2], addr: Ip) -> Ip {
    if addr.is_ipv4() { v4 } else { v6 }
}

/// The bytes of an address.
pub fn octets(addr: Ip) -> Vec<u8> {
    match addr {
        Ip::V4(addr) => addr.octets().to_vec(),
        Ip::V6(addr) => addr.octets().to_vec(),
    }
}

/// Both begin with the same so many bits; of two families none do.
pub fn share(a: Ip, b: Ip, bits: u32) -> bool {
    let differing = match (a, b) {
        (Ip::V4(a), Ip::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (Ip::V6(a), Ip::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => return false,
    };
    differing >= bits
}

/// What the fragments of one datagram have in common: source, destination, identification, protocol; and where they came from.
pub type Datagram = (Ip, Ip, u32, u8, Origin);

/// Where a flow's packets come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    Link(u32),
    Peer(u32),
    World,
    /// This node's stack.
    Stack,
}

/// Which side a flow replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    None,
    Source,
    Destination,
}

/// Where a flow's packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    Task,
    Tunnel,
    Uplink,
    Host,
    Outside,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flags {
    pub dead: bool,
    pub hairpin: bool,
    pub keep_mac: bool,
    pub reply: bool,
    pub from_host: bool,
    pub from_client: bool,
    pub port_changed: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seen {
    pub ack: bool,
    pub fin: bool,
    pub rst: bool,
}

/// One entry of the flow table.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    pub from: Origin,
    pub rewrite: Side,
    pub addr: Ip,
    pub port: u16,
    pub other_port: u16,
    pub way: Way,
    pub link: u32,
    pub node: u32,
    pub vni: u32,
    pub backend: u32,
    pub mac: Mac,
    pub seen: Seen,
    pub flags: Flags,
    pub packets: u32,
    pub bytes: u64,
}

#[derive(Clone, Debug)]
pub struct Endpoint {
    pub vni: u32,
    pub number: u32,
    pub node: u32,
    /// 0: not on this node.
    pub link: u32,
    pub gateway: Ip,
    pub mac: Mac,
    pub is_gateway: bool,
    pub is_internal: bool,
    pub prefix_len: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    RoundRobin,
    Maglev,
    Random,
    /// The ring's choice, remembered where a call enters: of a port with a list of callers.
    MaglevOfAllowed,
    /// By the client, which stays for so long: longer than any world lasts, and shorter than what is stale.
    Client,
}

/// Somebody in a list of backends: endpoint and node.
pub type Slot = (u32, u32);

#[derive(Clone, Debug)]
pub struct Frontend {
    pub pool: u32,
    pub vni: u32,
    pub vip: Ip,
    pub algorithm: Algorithm,
    /// Ready backends.
    pub turns: Vec<Slot>,
    pub ring: Vec<Slot>,
    pub target_port: u16,
    /// The host itself uses the port.
    pub not_taken: bool,
    /// The port is published at single addresses, which are to be asked; this entry is nobody's.
    pub by_address: bool,
    /// Who may call: prefixes of addresses. None: everybody.
    pub allow: Option<Vec<(Ip, u32)>>,
}

#[derive(Clone, Debug)]
pub struct Backend {
    pub addrs: [Ip; 2],
    pub vni: u32,
    pub pool: u32,
    pub node: u32,
    pub link: u32,
    pub mac: Mac,
    pub is_ready: bool,
}

#[derive(Clone, Debug)]
pub struct Address {
    pub node: u32,
    pub link: u32,
    pub is_own: bool,
    pub is_peer: bool,
    pub by_mesh0: bool,
}

#[derive(Clone, Debug)]
pub struct Peer {
    pub addr: Ip,
    /// 0: only through mesh0.
    pub link: u32,
    pub next_hop: Mac,
    pub link_mac: Mac,
    pub mtu: u16,
    pub is_unreachable: bool,
}

#[derive(Clone, Debug)]
pub struct Uplink {
    pub addrs: [Ip; 2],
    pub mac: Mac,
}

/// What a client keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    pub backend: u32,
    /// Its last new flow is not too long ago.
    pub is_fresh: bool,
}

/// All that a node's programs know.
#[derive(Clone, Debug, Default)]
pub struct World {
    pub is_set_up: bool,
    /// The kernel takes packets of one family out of those of the other (from Linux 6.3 on); else such a tunnel packet is mesh0's.
    pub crosses_families: bool,
    pub node: u32,
    pub mesh0: u32,
    pub mesh0_mac: Mac,
    /// The outer source of its tunnel packets.
    pub tunnel_addr: Option<Ip>,
    pub data_port: u16,
    /// Largest segments that SYNs from the world may speak of.
    pub mss4: u16,
    pub mss6: u16,
    pub endpoints: BTreeMap<Ip, Endpoint>,
    pub vips: BTreeMap<Ip, Frontend>,
    /// By address (unspecified: all of them), port and protocol.
    pub published: BTreeMap<(Ip, u16, u8), Frontend>,
    pub backends: BTreeMap<u32, Backend>,
    pub addresses: BTreeMap<Ip, Address>,
    pub peers: BTreeMap<u32, Peer>,
    pub uplinks: BTreeMap<u32, Uplink>,
    /// What the host's routes say: to these prefixes none leads, to all others one out by this link.
    pub unrouted: Vec<(Ip, u32)>,
    pub way_out: u32,
    pub flows: BTreeMap<Key, Flow>,
    pub turns: BTreeMap<u32, u64>,
    pub kept: BTreeMap<(Ip, u32), Kept>,
    /// The ports that the first fragment of a datagram had.
    pub datagrams: BTreeMap<Datagram, (u16, u16)>,
    /// Fragments that wait for the first one of their datagram (of IPv6 under protocol 0), in the order in which they came.
    pub early: BTreeMap<Datagram, Vec<Vec<u8>>>,
}
