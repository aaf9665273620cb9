//! The two families that packets are of. The same tests run both: `packet_*.rs` over IPv4, and once more inside `packet_over_ipv6.rs`; what goes
//! past mesh0 and by a driver's hook, in `packet_fast_over_ipv6.rs` and `packet_xdp_over_ipv6.rs`.
//!
//! Tests speak IPv4's words. Over IPv6 a rig's world is the same one with each address a.b.c.d as fd00::a.b.c.d: frames are translated on their way in and where they
//! are compared (`mesh_packet::Frame::over_ipv6`), maps where they are written and read. What a test gives as bytes stays as it is, so it makes them of
//! [`spoken`] frames. The tunnel's outer addresses are IPv4's in both.

use std::net::IpAddr;
use std::sync::OnceLock;

use aya::maps::lpm_trie;
use mesh_common::family::{V4, V6};
use mesh_common::hash;
use mesh_common::parse::protocol;
use mesh_common::schema::*;
use mesh_packet::{Frame, over_ipv6};

use super::way::this_binary;
use super::{Flows, Rig, Task};

/// What packets are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// That of the test binary that runs.
    pub fn of_this_test() -> Family {
        // Asked for each packet.
        static FAMILY: OnceLock<Family> = OnceLock::new();
        let of_name = || if this_binary().contains("_over_ipv6") { Family::V6 } else { Family::V4 };
        *FAMILY.get_or_init(of_name)
    }

    /// The family's map of this kind.
    fn map(self, name: &str) -> String {
        format!("{name}{}", if self == Family::V4 { 4 } else { 6 })
    }
}

/// An address in the family of this test.
pub fn address(addr: [u8; 4]) -> IpAddr {
    match Family::of_this_test() {
        Family::V4 => addr.into(),
        Family::V6 => over_ipv6(addr).into(),
    }
}

/// The same as what is of both families has it: IPv4 as ::ffff:a.b.c.d.
pub fn address_16(addr: [u8; 4]) -> [u8; 16] {
    match address(addr) {
        IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
        IpAddr::V6(addr) => addr.octets(),
    }
}

/// A frame in the family of this test.
pub fn spoken(frame: &Frame) -> Frame {
    match Family::of_this_test() {
        Family::V4 => frame.clone(),
        Family::V6 => frame.over_ipv6(),
    }
}

/// The fragments of a frame in the family of this test (`mesh_packet::fragments`).
pub fn cut(whole: &Frame, mtu: usize) -> Vec<Vec<u8>> {
    mesh_packet::fragments(&spoken(whole), mtu)
}

/// Bytes of an IP header without options.
pub fn header_len() -> usize {
    if Family::of_this_test() == Family::V4 { 20 } else { 40 }
}

/// What SYNs are clamped to: mesh0 takes 1450 bytes.
pub fn clamped_mss() -> u16 {
    1_450 - header_len() as u16 - 20
}

/// The flow hash of a tuple, as the programs make it of its packets.
pub fn flow_hash(key: &FlowKey<[u8; 4]>) -> u32 {
    match Family::of_this_test() {
        Family::V4 => hash::tuple::<V4>(key.src.into(), key.dst.into(), key.sport, key.dport, key.protocol),
        Family::V6 => {
            let key = key_over_ipv6(*key);
            hash::tuple::<V6>(key.src.into(), key.dst.into(), key.sport, key.dport, key.protocol)
        }
    }
}

/// The hash that services with affinity know a client by.
pub fn client_hash(addr: [u8; 4]) -> u32 {
    match Family::of_this_test() {
        Family::V4 => hash::client::<V4>(addr.into()),
        Family::V6 => hash::client::<V6>(over_ipv6(addr).into()),
    }
}

/// This test is IPv4's alone: None over IPv6, and the reason is told. Else a rig as [`Rig::new`].
pub fn of_ipv4_alone(reason: &str) -> Option<Rig> {
    if Family::of_this_test() == Family::V6 {
        eprintln!("IPv4 ALONE: {reason}");
        return None;
    }
    Rig::new()
}

/// Back from an address of a rig's world over IPv6.
#[track_caller]
fn back(addr: [u8; 16]) -> [u8; 4] {
    let [.., a, b, c, d] = addr;
    assert_eq!(over_ipv6([a, b, c, d]), addr, "no address of a rig's world");
    [a, b, c, d]
}

/// A flow's key over IPv6, and back.
pub(super) fn key_over_ipv6(key: FlowKey<[u8; 4]>) -> FlowKey<[u8; 16]> {
    let number = if key.protocol == protocol::ICMP { protocol::ICMPV6 } else { key.protocol };
    FlowKey { protocol: number, ..key.with(over_ipv6) }
}

/// A prefix of callers over IPv6. That of no bits is everybody in both.
fn prefix_over_ipv6(prefix: AllowPrefix<[u8; 4]>) -> AllowPrefix<[u8; 16]> {
    const EVERYBODY: u32 = AllowPrefix::<[u8; 4]>::BEFORE;
    let more = if prefix.prefix_len == EVERYBODY { 0 } else { 96 };
    AllowPrefix { prefix_len: prefix.prefix_len + more, ..prefix.with(over_ipv6) }
}

fn client_over_ipv6(key: &AffinityKey<[u8; 4]>) -> AffinityKey<[u8; 16]> {
    AffinityKey { addr: over_ipv6(key.addr), pool: key.pool }
}

/// A prefix as the kernel's trie has it.
pub(super) fn trie_key<A>(prefix: AllowPrefix<A>) -> lpm_trie::Key<AllowKey<A>>
where
    AllowKey<A>: aya::Pod,
{
    lpm_trie::Key::new(prefix.prefix_len, prefix.of)
}

fn key_back(key: FlowKey<[u8; 16]>) -> FlowKey<[u8; 4]> {
    let number = if key.protocol == protocol::ICMPV6 { protocol::ICMP } else { key.protocol };
    FlowKey { protocol: number, ..key.with(back) }
}

impl Rig {
    /// An entry of the endpoints of this test's family.
    pub fn put_endpoint(&mut self, addr: [u8; 4], endpoint: Endpoint<[u8; 4]>) {
        match self.family {
            Family::V4 => self.put("ENDPOINTS4", addr, endpoint),
            Family::V6 => {
                let prefix_len = endpoint.prefix_len + 96;
                self.put("ENDPOINTS6", over_ipv6(addr), Endpoint { prefix_len, ..endpoint.with(over_ipv6) });
            }
        }
    }

    /// Takes a task's away.
    pub(super) fn delete_endpoint(&mut self, task: &Task) {
        match self.family {
            Family::V4 => self.delete::<[u8; 4], Endpoint<[u8; 4]>>("ENDPOINTS4", task.addr),
            Family::V6 => self.delete::<[u8; 16], Endpoint<[u8; 16]>>("ENDPOINTS6", over_ipv6(task.addr)),
        }
    }

    /// An entry of the frontends.
    pub fn put_frontend(&mut self, key: FrontendKey<[u8; 4]>, frontend: Frontend<[u8; 4]>) {
        match self.family {
            Family::V4 => self.put("FRONTENDS4", key, frontend),
            // "Every address" is zeros in both.
            Family::V6 => self.put("FRONTENDS6", key.with(over_ipv6), frontend.with(over_ipv6)),
        }
    }

    /// Reads one.
    pub fn frontend(&self, key: &FrontendKey<[u8; 4]>) -> Frontend<[u8; 4]> {
        const THERE: &str = "the service is there";
        match self.family {
            Family::V4 => self.read::<FrontendKey<[u8; 4]>, Frontend<[u8; 4]>>("FRONTENDS4").get(key, 0).expect(THERE),
            Family::V6 => {
                let map = self.read::<FrontendKey<[u8; 16]>, Frontend<[u8; 16]>>("FRONTENDS6");
                map.get(&key.with(over_ipv6), 0).expect(THERE).with(back)
            }
        }
    }

    /// Takes one away.
    pub fn delete_frontend(&mut self, key: FrontendKey<[u8; 4]>) {
        match self.family {
            Family::V4 => self.delete::<FrontendKey<[u8; 4]>, Frontend<[u8; 4]>>("FRONTENDS4", key),
            Family::V6 => {
                self.delete::<FrontendKey<[u8; 16]>, Frontend<[u8; 16]>>("FRONTENDS6", key.with(over_ipv6));
            }
        }
    }

    /// A list of callers has this prefix.
    pub fn allow(&mut self, prefix: AllowPrefix<[u8; 4]>) {
        match self.family {
            Family::V4 => self.lists().insert(&trie_key(prefix), 1u32, 0).expect("the list takes it"),
            Family::V6 => self.allow6(prefix_over_ipv6(prefix)),
        }
    }

    /// It has it no more.
    pub fn disallow(&mut self, prefix: AllowPrefix<[u8; 4]>) {
        const THERE: &str = "the list had it";
        match self.family {
            Family::V4 => self.lists().remove(&trie_key(prefix)).expect(THERE),
            Family::V6 => self.lists6().remove(&trie_key(prefix_over_ipv6(prefix))).expect(THERE),
        }
    }

    /// What is remembered of a client.
    pub fn affinity(&self, key: &AffinityKey<[u8; 4]>) -> Option<Affinity> {
        match self.family {
            Family::V4 => self.read::<AffinityKey<[u8; 4]>, Affinity>("AFFINITY4").get(key, 0).ok(),
            Family::V6 => self.read::<AffinityKey<[u8; 16]>, Affinity>("AFFINITY6").get(&client_over_ipv6(key), 0).ok(),
        }
    }

    /// Writes it.
    pub fn put_affinity(&mut self, key: AffinityKey<[u8; 4]>, entry: Affinity) {
        match self.family {
            Family::V4 => self.put("AFFINITY4", key, entry),
            Family::V6 => self.put("AFFINITY6", client_over_ipv6(&key), entry),
        }
    }

    /// An address that a node has, beside what the tunnel's own are.
    pub fn put_address(&mut self, addr: [u8; 4], address: Address) {
        match self.family {
            Family::V4 => self.put("ADDRESSES4", addr, address),
            Family::V6 => self.put("ADDRESSES6", over_ipv6(addr), address),
        }
    }

    /// The flow table now.
    pub fn flows(&self) -> Flows {
        self.flows_of(&self.family.map("FLOWS"))
    }

    /// What is beside the flow table now.
    pub fn beside(&self) -> Flows {
        self.flows_of(&self.family.map("OVERFLOW"))
    }

    fn flows_of(&self, name: &str) -> Flows {
        const READ: &str = "the flow table can be read";
        match self.family {
            Family::V4 => self.read::<FlowKey<[u8; 4]>, Flow<[u8; 4]>>(name).iter().map(|it| it.expect(READ)).collect(),
            Family::V6 => {
                let map = self.read::<FlowKey<[u8; 16]>, Flow<[u8; 16]>>(name);
                map.iter().map(|it| it.expect(READ)).map(|(key, flow)| (key_back(key), flow.with(back))).collect()
            }
        }
    }

    /// The entry with this key.
    pub fn flow(&self, key: &FlowKey<[u8; 4]>) -> Option<Flow<[u8; 4]>> {
        match self.family {
            Family::V4 => self.read::<FlowKey<[u8; 4]>, Flow<[u8; 4]>>("FLOWS4").get(key, 0).ok(),
            Family::V6 => {
                let map = self.read::<FlowKey<[u8; 16]>, Flow<[u8; 16]>>("FLOWS6");
                map.get(&key_over_ipv6(*key), 0).ok().map(|flow| flow.with(back))
            }
        }
    }

    /// Writes an entry of the flow table.
    pub fn put_flow(&mut self, key: FlowKey<[u8; 4]>, flow: Flow<[u8; 4]>) {
        match self.family {
            Family::V4 => self.put("FLOWS4", key, flow),
            Family::V6 => self.put("FLOWS6", key_over_ipv6(key), flow.with(over_ipv6)),
        }
    }

    /// Takes one away.
    pub fn forget(&mut self, key: FlowKey<[u8; 4]>) {
        self.forget_in("FLOWS", key);
    }

    /// Takes one of those beside the table away.
    pub fn forget_beside(&mut self, key: FlowKey<[u8; 4]>) {
        self.forget_in("OVERFLOW", key);
    }

    fn forget_in(&mut self, name: &str, key: FlowKey<[u8; 4]>) {
        let name = self.family.map(name);
        match self.family {
            Family::V4 => self.delete::<FlowKey<[u8; 4]>, Flow<[u8; 4]>>(&name, key),
            Family::V6 => self.delete::<FlowKey<[u8; 16]>, Flow<[u8; 16]>>(&name, key_over_ipv6(key)),
        }
    }
}
