//! What must hold of every frame that leaves, whatever the model says: read by etherparse, which shares no code with anybody here.
//!
//! Checksums are right where they were. An answer undoes what was done to the call. Nothing reaches a task of another network, but for calls to
//! published ports and their answers.

use std::collections::BTreeSet;

use etherparse::{Icmpv4Type, NetHeaders, PacketHeaders, TransportHeader};

use super::model::{Ip, Key, Mac, World, mac};

/// The tuple of a frame, as etherparse reads it.
pub fn tuple(frame: &[u8]) -> Option<Key> {
    let headers = PacketHeaders::from_ethernet_slice(frame).ok()?;
    let Some(NetHeaders::Ipv4(ip, _)) = &headers.net else { return None };
    let (sport, dport) = match &headers.transport {
        Some(TransportHeader::Tcp(tcp)) => (tcp.source_port, tcp.destination_port),
        Some(TransportHeader::Udp(udp)) => (udp.source_port, udp.destination_port),
        _ => return None,
    };
    Some(Key { src: ip.source, dst: ip.destination, sport, dport, protocol: ip.protocol.0 })
}

/// What is wrong with the checksums of a frame, if anything.
pub fn checksums(frame: &[u8]) -> Result<(), String> {
    let headers = PacketHeaders::from_ethernet_slice(frame).map_err(|error| format!("etherparse: {error}"))?;
    let Some(NetHeaders::Ipv4(ip, _)) = &headers.net else { return Ok(()) };
    let same = |what: &str, is: u16, wanted: u16| {
        // Both are the zero of ones' complement.
        let is_zero = |sum: u16| sum == 0 || sum == 0xffff;
        let is_right = is == wanted || (is_zero(is) && is_zero(wanted));
        if is_right { Ok(()) } else { Err(format!("{what}: its checksum is {is:#06x}, and should be {wanted:#06x}")) }
    };
    same("IPv4", ip.header_checksum, ip.calc_header_checksum())?;
    let payload = headers.payload.slice();
    let wrong = |error| format!("etherparse: {error:?}");
    match &headers.transport {
        Some(TransportHeader::Tcp(tcp)) => {
            same("TCP", tcp.checksum, tcp.calc_checksum_ipv4(ip, payload).map_err(wrong)?)
        }
        Some(TransportHeader::Udp(udp)) if udp.checksum != 0 => {
            same("UDP", udp.checksum, udp.calc_checksum_ipv4(ip, payload).map_err(wrong)?)
        }
        // Of other messages etherparse keeps no more than it understands.
        Some(TransportHeader::Icmpv4(icmp))
            if matches!(icmp.icmp_type, Icmpv4Type::EchoRequest(_) | Icmpv4Type::EchoReply(_)) =>
        {
            same("ICMP", icmp.checksum, icmp.icmp_type.calc_checksum(payload))
        }
        _ => Ok(()),
    }
}

/// How a frame came, as far as walls go.
pub struct Came<'a> {
    pub frame: &'a [u8],
    /// The sender's network; None: it has none, and what it may reach is what is published.
    pub network: Option<u32>,
    /// A peer says that it is a call to a port, or of its host.
    pub is_request: bool,
}

fn ip(frame: &[u8], at: usize) -> Option<Ip> {
    frame.get(at..at + 4)?.try_into().ok()
}

/// Who may reach whom.
#[derive(Default)]
pub struct Walls {
    /// Who has called a published port: answers reach them, from whatever network.
    callers: BTreeSet<Ip>,
    /// Callers and tasks of another network that speak because a peer said so.
    pairs: BTreeSet<(Ip, Ip)>,
}

impl Walls {
    /// A frame comes, whatever becomes of it.
    pub fn hear(&mut self, world: &World, came: &Came) {
        if let (Some(caller), Some(called)) = (ip(came.frame, 26), ip(came.frame, 30))
            && (came.is_request || world.addresses.contains_key(&called))
        {
            self.callers.insert(caller);
        }
    }

    /// A frame leaves for a task: of this node, or (`outer`: its VNI) of another.
    pub fn pass(&mut self, world: &World, came: &Came, left: &[u8], outer: Option<u32>) -> Result<(), String> {
        let to: Mac = left[..6].try_into().expect("six bytes");
        let Some((1, number)) = mac::read(to) else { return Ok(()) };
        let Some(task) = world.endpoints.values().find(|it| !it.is_gateway && it.number == number) else {
            return Ok(());
        };
        if let Some(id) = outer.filter(|id| *id >= 4_096 && *id != task.vni) {
            return Err(format!("VNI {id} for task {number} of network {}", task.vni));
        }
        let ends = (ip(came.frame, 26), ip(came.frame, 30), ip(left, 30));
        let (Some(network), (Some(caller), Some(called), Some(reached))) =
            (came.network.filter(|it| *it != task.vni), ends)
        else {
            return Ok(());
        };
        if came.is_request {
            self.pairs.insert((caller, reached));
        }
        let may = world.addresses.contains_key(&called)
            || self.callers.contains(&reached)
            || self.pairs.contains(&(caller, reached));
        if may { Ok(()) } else { Err(format!("from network {network} to task {number} of network {}", task.vni)) }
    }
}
