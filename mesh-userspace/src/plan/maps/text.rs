//! The maps as text: one line an entry, the same line in a listing of the tables and in the operations that make them.
//!
//! ```text
//!   frontend *:8000/tcp to 8000 vip 10.0.16.2 pool 1 vni 4097 round-robin turns 0+2 ring 2+251 generation 1
//!   ring 0+2 = 1@1 2@3
//! ```
//! Every field of an entry is in its line (they are taken apart by name, so that a new one is not forgotten), zeros left out; a Maglev
//! ring is told by its shares. A slot is `backend@node`. Pure: who wants to show them prints the lines. Must not: look anything up, so that the text is what the map holds and nothing else.

use std::collections::BTreeMap;
use std::fmt::{Display, Formatter, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mesh_common::schema::{
    Address, AllowKey, AllowPrefix, Backend, Config, Endpoint, Frontend, FrontendKey, Peer, RingSlot, Uplink,
    address_flag, algorithm, backend_state, endpoint, endpoint_flag, frontend_flag, peer_flag,
};

use super::{Entry, Key, MapOp, Tables};

/// Which table a line is of, in the order of a listing: what is asked first comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Frontend,
    Allow,
    Ring,
    Backend,
    Endpoint,
    Peer,
    Address,
    Uplink,
    Config,
}

impl Kind {
    /// All kinds, in the order of a listing.
    pub const ALL: [Kind; 9] = [
        Kind::Frontend,
        Kind::Allow,
        Kind::Ring,
        Kind::Backend,
        Kind::Endpoint,
        Kind::Peer,
        Kind::Address,
        Kind::Uplink,
        Kind::Config,
    ];

    /// The first word of its lines.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Frontend => "frontend",
            Kind::Allow => "allow",
            Kind::Ring => "ring",
            Kind::Backend => "backend",
            Kind::Endpoint => "endpoint",
            Kind::Peer => "peer",
            Kind::Address => "address",
            Kind::Uplink => "uplink",
            Kind::Config => "config",
        }
    }
}

impl Tables {
    /// The lines of one kind, in the order of their keys.
    pub fn lines(&self, kind: Kind) -> Vec<String> {
        fn each<K: Clone, V: Clone>(map: &BTreeMap<K, V>, entry: fn(K, V) -> Entry) -> Vec<String> {
            map.iter().map(|(key, value)| entry(key.clone(), value.clone()).to_string()).collect()
        }
        match kind {
            Kind::Frontend => each(&self.frontends, Entry::Frontend),
            Kind::Allow => self.allowed.iter().map(|prefix| Entry::Allow(*prefix).to_string()).collect(),
            Kind::Ring => each(&self.rings, Entry::Ring),
            Kind::Backend => each(&self.backends, Entry::Backend),
            Kind::Endpoint => each(&self.endpoints, Entry::Endpoint),
            Kind::Peer => each(&self.peers, Entry::Peer),
            Kind::Address => each(&self.addresses, Entry::Address),
            Kind::Uplink => each(&self.uplinks, Entry::Uplink),
            Kind::Config => self.config.iter().map(config).collect(),
        }
    }
}

impl Display for MapOp {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            MapOp::Config(None) => f.write_str("delete config"),
            MapOp::Config(Some(wanted)) => write!(f, "put {}", config(wanted)),
            MapOp::Put(entry) => write!(f, "put {entry}"),
            MapOp::Delete(key) => write!(f, "delete {key}"),
        }
    }
}

impl Display for Key {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Key::Address(addr) => write!(f, "address {addr}"),
            Key::Endpoint(addr) => write!(f, "endpoint {addr}"),
            Key::Frontend(key) => write!(f, "frontend {}", frontend_key(key)),
            Key::Allow(prefix) => f.write_str(&allow(prefix)),
            Key::Backend(number) => write!(f, "backend {number}"),
            Key::Peer(node) => write!(f, "peer {node}"),
            Key::Uplink(ifindex) => write!(f, "uplink {ifindex}"),
        }
    }
}

impl Display for Entry {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        match self {
            Entry::Address(addr, value) => f.write_str(&address(*addr, value)),
            Entry::Endpoint(addr, value) => f.write_str(&endpoint_line(*addr, value)),
            Entry::Frontend(key, value) => f.write_str(&frontend(key, value)),
            Entry::Allow(prefix) => f.write_str(&allow(prefix)),
            Entry::Backend(number, value) => f.write_str(&backend(*number, value)),
            Entry::Peer(node, value) => f.write_str(&peer(*node, value)),
            Entry::Uplink(ifindex, value) => f.write_str(&uplink(*ifindex, value)),
            Entry::Ring(at, slots) => write!(f, "ring {at}+{} = {}", slots.len(), shares(slots)),
        }
    }
}

fn config(config: &Config) -> String {
    // The watch words are not plan's.
    #[rustfmt::skip]
    let Config {
        netns_cookie, node, mesh0, tunnel_addr4, mesh0_mac, data_port, flood_threshold, mss4, mss6, tunnel_link, tunnel_addr6, ..
    } = config;
    let (mac, over4, over6) = (mac(mesh0_mac), Ipv4Addr::from(*tunnel_addr4), Ipv6Addr::from(*tunnel_addr6));
    let tunnel = SocketAddr::new(if over6.is_unspecified() { over4.into() } else { over6.into() }, *data_port);
    let mut line =
        format!("config node {node} mesh0 {mesh0} mac {mac} tunnel {tunnel} mss {mss4} {mss6} netns {netns_cookie}");
    field(&mut line, "link", *tunnel_link);
    field(&mut line, "flood", *flood_threshold);
    line
}

fn address(addr: IpAddr, value: &Address) -> String {
    let Address { node, ifindex, flags, pad: _ } = *value;
    let mut line = format!("address {addr} node {node}");
    field(&mut line, "ifindex", ifindex);
    bits(
        &mut line,
        flags,
        &[(address_flag::OWN, "own"), (address_flag::TUNNEL, "tunnel"), (address_flag::BY_MESH0, "by-mesh0")],
    );
    line
}

fn endpoint_line(addr: IpAddr, value: &Endpoint<IpAddr>) -> String {
    let Endpoint { vni, number, node, ifindex, gateway, mac: ref own_mac, kind, flags, prefix_len, pad: _ } = *value;
    let mut line = format!("endpoint {addr}/{prefix_len}");
    match kind {
        endpoint::TASK => line.push_str(" task"),
        endpoint::GATEWAY => line.push_str(" gateway"),
        other => line.push_str(&format!(" kind-{other}")),
    }
    field(&mut line, "number", number);
    field(&mut line, "vni", vni);
    field(&mut line, "node", node);
    field(&mut line, "ifindex", ifindex);
    line.push_str(&format!(" mac {}", mac(own_mac)));
    if gateway != addr {
        line.push_str(&format!(" via {gateway}"));
    }
    bits(&mut line, flags, &[(endpoint_flag::INTERNAL, "internal")]);
    line
}

/// `allow 1/2913 192.0.2.0/24`: pool and list of a frontend, and whom it lets in.
fn allow(prefix: &AllowPrefix<IpAddr>) -> String {
    let AllowPrefix { prefix_len, of: AllowKey { pool, list, addr } } = *prefix;
    let bits = prefix_len.saturating_sub(AllowPrefix::<IpAddr>::BEFORE);
    format!("allow {pool}/{list} {addr}/{bits}")
}

fn backend(number: u32, value: &Backend) -> String {
    let Backend { addr6, addr4, vni, pool, node, ifindex, mac: ref own_mac, state, pad: _ } = *value;
    let (addr6, addr4) = (Ipv6Addr::from(addr6), Ipv4Addr::from(addr4));
    let mut line = format!("backend {number}");
    if !addr4.is_unspecified() {
        line.push_str(&format!(" {addr4}"));
    }
    if !addr6.is_unspecified() {
        line.push_str(&format!(" {addr6}"));
    }
    match state {
        backend_state::READY => line.push_str(" ready"),
        backend_state::DRAINING => line.push_str(" draining"),
        other => line.push_str(&format!(" state-{other}")),
    }
    field(&mut line, "pool", pool);
    field(&mut line, "vni", vni);
    field(&mut line, "node", node);
    field(&mut line, "ifindex", ifindex);
    line.push_str(&format!(" mac {}", mac(own_mac)));
    line
}

fn peer(node: u32, value: &Peer) -> String {
    let Peer { addr, ifindex: _, next_hop, link_mac: _, mtu, flags, pad: _, ifindex6: _ } = *value;
    let mut line = format!("peer {node} {} mtu {mtu}", address_of_16(addr));
    if value.link() != 0 {
        line.push_str(&format!(" by {} on {}", mac(&next_hop), value.link()));
    }
    bits(&mut line, flags, &[(peer_flag::UNREACHABLE, "unreachable")]);
    line
}

fn uplink(ifindex: u32, value: &Uplink) -> String {
    let Uplink { addr4, mac: own_mac, pad: _, addr6 } = value;
    let mut line = format!("uplink {ifindex} addr {}", Ipv4Addr::from(*addr4));
    if *addr6 != [0; 16] {
        line.push_str(&format!(" {}", Ipv6Addr::from(*addr6)));
    }
    line.push_str(&format!(" mac {}", mac(own_mac)));
    line
}

/// A VIP stands for all its ports; a published port for all addresses of the node, of one family.
fn frontend_key(key: &FrontendKey<IpAddr>) -> String {
    match (key.addr, key.protocol) {
        (addr, 0) if key.port == 0 => addr.to_string(),
        (addr, number) if !addr.is_unspecified() => {
            format!("{}/{}", SocketAddr::new(addr, key.port), protocol(number))
        }
        (IpAddr::V4(_), number) => format!("*:{}/{}", key.port, protocol(number)),
        (IpAddr::V6(_), number) => format!("[*]:{}/{}", key.port, protocol(number)),
    }
}

fn protocol(number: u8) -> String {
    use mesh_common::parse::protocol::{SCTP, TCP, UDP};
    match number {
        TCP => "tcp".to_string(),
        UDP => "udp".to_string(),
        SCTP => "sctp".to_string(),
        other => other.to_string(),
    }
}

fn frontend(key: &FrontendKey<IpAddr>, value: &Frontend<IpAddr>) -> String {
    let Frontend {
        pool,
        vni,
        turns_at,
        turns_len,
        ring_at,
        ring_len,
        vip,
        target_port,
        algorithm: chosen,
        flags,
        affinity_s,
        generation,
        allow,
    } = *value;
    let mut line = format!("frontend {}", frontend_key(key));
    if flags == frontend_flag::BY_ADDRESS && pool == 0 {
        return line + " by-address";
    }
    field(&mut line, "to", target_port.into());
    if !vip.is_unspecified() && vip != key.addr {
        line.push_str(&format!(" vip {vip}"));
    }
    field(&mut line, "pool", pool);
    field(&mut line, "vni", vni);
    match chosen {
        algorithm::ROUND_ROBIN => line.push_str(" round-robin"),
        algorithm::MAGLEV => line.push_str(" maglev"),
        algorithm::RANDOM => line.push_str(" random"),
        algorithm::CLIENT => line.push_str(" client-ip"),
        algorithm::MAGLEV_OF_ALLOWED => line.push_str(" maglev-of-allowed"),
        other => line.push_str(&format!(" algorithm-{other}")),
    }
    if turns_len == 0 && ring_len == 0 {
        line.push_str(" empty");
    } else {
        line.push_str(&format!(" turns {turns_at}+{turns_len} ring {ring_at}+{ring_len}"));
    }
    field(&mut line, "affinity_s", affinity_s);
    field(&mut line, "allow", allow);
    field(&mut line, "generation", generation);
    bits(&mut line, flags, &[(frontend_flag::NOT_TAKEN, "not-taken"), (frontend_flag::BY_ADDRESS, "by-address")]);
    line
}

/// A list where nobody stands twice is told as it is; a ring by how many slots each has.
fn shares(slots: &[RingSlot]) -> String {
    let mut counts: BTreeMap<RingSlot, usize> = BTreeMap::new();
    slots.iter().for_each(|slot| *counts.entry(*slot).or_default() += 1);
    let words: Vec<String> = if counts.len() == slots.len() {
        slots.iter().map(slot).collect()
    } else {
        counts.iter().map(|(one, count)| format!("{count}×{}", slot(one))).collect()
    };
    words.join(" ")
}

fn slot(slot: &RingSlot) -> String {
    let RingSlot { backend, node } = slot;
    format!("{backend}@{node}")
}

/// ` name value`, where it is not zero.
fn field(line: &mut String, name: &str, value: u32) {
    if value != 0 {
        line.push_str(&format!(" {name} {value}"));
    }
}

/// The names of the bits that are set; bits without a name as a number.
fn bits(line: &mut String, set: u8, names: &[(u8, &str)]) {
    let mut rest = set;
    for (bit, name) in names.iter().filter(|(bit, _)| set & bit != 0) {
        line.push_str(&format!(" {name}"));
        rest &= !bit;
    }
    if rest != 0 {
        line.push_str(&format!(" flags-{rest:#x}"));
    }
}

fn mac(bytes: &[u8; 6]) -> String {
    bytes.map(|byte| format!("{byte:02x}")).join(":")
}

fn address_of_16(bytes: [u8; 16]) -> IpAddr {
    IpAddr::V6(Ipv6Addr::from(bytes)).to_canonical()
}

#[cfg(test)]
mod tests {
    use mesh_common::family::{Family, V4};

    use super::super::{published_key, vip_key};
    use super::*;

    #[test]
    fn a_frontend_names_what_it_matches_and_where_its_lists_are() {
        let key = published_key(Ipv4Addr::UNSPECIFIED.into(), 8000, 6);
        let value = Frontend {
            pool: 1,
            vni: 4097,
            turns_at: 0,
            turns_len: 2,
            ring_at: 2,
            ring_len: 251,
            vip: [10, 0, 16, 2].into(),
            target_port: 80,
            algorithm: algorithm::MAGLEV,
            flags: frontend_flag::NOT_TAKEN | 0x80,
            affinity_s: 60,
            generation: 3,
            allow: 9,
        };
        assert_eq!(
            MapOp::Put(Entry::Frontend(key, value)).to_string(),
            "put frontend *:8000/tcp to 80 vip 10.0.16.2 pool 1 vni 4097 maglev turns 0+2 ring 2+251 affinity_s 60 \
             allow 9 generation 3 not-taken flags-0x80"
        );
        let vip = vip_key([10, 0, 16, 2].into());
        assert_eq!(MapOp::Delete(Key::Frontend(vip)).to_string(), "delete frontend 10.0.16.2");
        let published = published_key(Ipv6Addr::UNSPECIFIED.into(), 53, 17);
        assert_eq!(MapOp::Delete(Key::Frontend(published)).to_string(), "delete frontend [*]:53/udp");
    }

    #[test]
    fn a_list_is_told_slot_by_slot_and_a_ring_by_its_shares() {
        let [one, three] = [RingSlot { backend: 1, node: 4 }, RingSlot { backend: 3, node: 2 }];
        assert_eq!(Entry::Ring(7, vec![three, one].into()).to_string(), "ring 7+2 = 3@2 1@4");
        assert_eq!(Entry::Ring(9, vec![three, one, three].into()).to_string(), "ring 9+3 = 1×1@4 2×3@2");
        assert_eq!(Entry::Ring(9, vec![one].into()).to_string(), "ring 9+1 = 1@4");
    }

    #[test]
    fn a_listing_has_one_line_an_entry() {
        let mut tables = Tables::default();
        assert!(Kind::ALL.iter().all(|kind| tables.lines(*kind).is_empty()));
        let peer =
            Peer { addr: V4::to_16([192, 0, 2, 2].into()), mtu: 1500, flags: peer_flag::UNREACHABLE, ..Peer::NONE };
        tables.peers.insert(2, peer);
        let peer =
            Peer { addr: V4::to_16([192, 0, 2, 3].into()), mtu: 1500, ifindex: 4, next_hop: [2; 6], ..Peer::NONE };
        tables.peers.insert(3, peer);
        let lines = ["peer 2 192.0.2.2 mtu 1500 unreachable", "peer 3 192.0.2.3 mtu 1500 by 02:02:02:02:02:02 on 4"];
        assert_eq!(tables.lines(Kind::Peer), lines);
    }
}
