//! What must hold of every frame that leaves, whatever the model says: read by etherparse, which shares no code with anybody here.
//!
//! Checksums are right where they were. An answer undoes what was done to the call. Nothing reaches a task of another network, but for calls to
//! published ports and their answers.

use std::collections::BTreeSet;

use etherparse::{Icmpv4Type, Ipv6Header, NetHeaders, PacketHeaders, TransportHeader};

use super::model::read::SCTP;
use super::model::sums::crc32c;
use super::model::{Ip, Key, Mac, World, mac};

/// The tuple of a frame, as etherparse reads it.
pub fn tuple(frame: &[u8]) -> Option<Key> {
    let headers = PacketHeaders::from_ethernet_slice(frame).ok()?;
    let (src, dst, protocol) = match &headers.net {
        Some(NetHeaders::Ipv4(ip, _)) => (ip.source.into(), ip.destination.into(), ip.protocol),
        Some(NetHeaders::Ipv6(ip, extensions)) => {
            let protocol = extensions.next_header(ip.next_header).ok()?;
            (ip.source.into(), ip.destination.into(), protocol)
        }
        _ => return None,
    };
    let (sport, dport) = match &headers.transport {
        Some(TransportHeader::Tcp(tcp)) => (tcp.source_port, tcp.destination_port),
        Some(TransportHeader::Udp(udp)) => (udp.source_port, udp.destination_port),
        _ => return None,
    };
    Some(Key { src, dst, sport, dport, protocol: protocol.0 })
}

/// What is wrong with the checksums of a frame, if anything.
pub fn checksums(frame: &[u8]) -> Result<(), String> {
    let headers = PacketHeaders::from_ethernet_slice(frame).map_err(|error| format!("etherparse: {error}"))?;
    let ip = match &headers.net {
        Some(NetHeaders::Ipv4(ip, _)) => ip,
        Some(NetHeaders::Ipv6(ip, _)) => return checksums6(ip, &headers),
        _ => return Ok(()),
    };
    same("IPv4", ip.header_checksum, ip.calc_header_checksum())?;
    let payload = headers.payload.slice();
    if ip.protocol.0 == SCTP {
        return crc(payload);
    }
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

fn checksums6(ip: &Ipv6Header, headers: &PacketHeaders) -> Result<(), String> {
    let payload = headers.payload.slice();
    let wrong = |error| format!("etherparse: {error:?}");
    match &headers.transport {
        Some(TransportHeader::Tcp(tcp)) => {
            same("TCP", tcp.checksum, tcp.calc_checksum_ipv6(ip, payload).map_err(wrong)?)
        }
        Some(TransportHeader::Udp(udp)) if udp.checksum != 0 => {
            same("UDP", udp.checksum, udp.calc_checksum_ipv6(ip, payload).map_err(wrong)?)
        }
        Some(TransportHeader::Icmpv6(icmp)) => {
            let wanted = icmp.icmp_type.calc_checksum(ip.source, ip.destination, payload).map_err(wrong)?;
            same("ICMPv6", icmp.checksum, wanted)
        }
        None if ip.next_header.0 == SCTP => crc(payload),
        _ => Ok(()),
    }
}

fn same(what: &str, is: u16, wanted: u16) -> Result<(), String> {
    // Both are the zero of ones' complement.
    let is_zero = |sum: u16| sum == 0 || sum == 0xffff;
    let is_right = is == wanted || (is_zero(is) && is_zero(wanted));
    if is_right { Ok(()) } else { Err(format!("{what}: its checksum is {is:#06x}, and should be {wanted:#06x}")) }
}

/// SCTP is not etherparse's: its CRC is computed over the whole, where there is one.
fn crc(sctp: &[u8]) -> Result<(), String> {
    let Some(field) = sctp.get(8..12).filter(|field| **field != [0; 4]) else { return Ok(()) };
    let blank = [&sctp[..8], &[0; 4], &sctp[12..]].concat();
    let wanted = crc32c(&blank).to_le_bytes();
    if field == wanted { Ok(()) } else { Err(format!("SCTP: its CRC is {field:02x?}, and should be {wanted:02x?}")) }
}

/// How a frame came, as far as walls go.
pub struct Came<'a> {
    pub frame: &'a [u8],
    /// The sender's network; None: it has none, and what it may reach is what is published.
    pub network: Option<u32>,
    /// A peer says that it is a call to a port, or of its host.
    pub is_request: bool,
}

/// Source and destination of a packet, whatever else it is.
pub fn ends(frame: &[u8]) -> Option<(Ip, Ip)> {
    let four = |at: usize| Some(<[u8; 4]>::try_from(frame.get(at..at + 4)?).ok()?.into());
    let sixteen = |at: usize| Some(<[u8; 16]>::try_from(frame.get(at..at + 16)?).ok()?.into());
    if frame.get(12..14)? == [0x86, 0xdd] { Some((sixteen(22)?, sixteen(38)?)) } else { Some((four(26)?, four(30)?)) }
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
        if let Some((caller, called)) = ends(came.frame)
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
        let (Some(network), Some((caller, called)), Some((_, reached))) =
            (came.network.filter(|it| *it != task.vni), ends(came.frame), ends(left))
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
