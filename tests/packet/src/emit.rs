//! From layers to bytes: what follows from the neighbours (types, lengths, checksums) is filled in here.
//!
//! Written from the inside out, because lengths and checksums need what they cover.

use crate::checksum::{complete, pseudo_header};
use crate::layer::{Arp, Checksum, Icmp, Ip, Layer, Most, Tcp, Udp};

const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMP6: u8 = 58;
const FRAGMENT_HEADER: u8 = 44;
const NO_NEXT_HEADER: u8 = 59;

pub(crate) fn emit(layers: &[Layer]) -> Vec<u8> {
    let mut inner = Vec::new();
    for (place, layer) in layers.iter().enumerate().rev() {
        let before = layers[..place].last();
        inner = match layer {
            Layer::Eth { source, destination } => {
                let types = ether_type(layers.get(place + 1)).to_be_bytes();
                [&destination.value().0[..], &source.value().0, &types, &inner].concat()
            }
            Layer::Vlan { id } => {
                let types = ether_type(layers.get(place + 1)).to_be_bytes();
                [&id.value().to_be_bytes()[..], &types, &inner].concat()
            }
            Layer::Arp(arp) => [emit_arp(arp), inner].concat(),
            Layer::Ipv4(ip) => emit_ipv4(ip, protocol(layers.get(place + 1), ICMP, ip.protocol, 255), &inner),
            Layer::Ipv6(ip) => {
                emit_ipv6(ip, protocol(layers.get(place + 1), ICMP6, ip.protocol, NO_NEXT_HEADER), &inner)
            }
            Layer::Tcp(tcp) => emit_tcp(tcp, before, &inner),
            Layer::Udp(udp) => emit_udp(udp, before, &inner),
            Layer::Icmp(icmp) => emit_icmp(icmp, before, &inner),
            Layer::Vxlan { vni } => [&[8, 0, 0, 0][..], &(vni.value() << 8).to_be_bytes(), &inner].concat(),
            Layer::Payload { bytes, .. } => [&bytes[..], &inner].concat(),
            Layer::Quoted { layers, most } => [quote(&emit(layers), *most), inner].concat(),
        };
    }
    inner
}

/// The beginning of a frame's IP packet.
fn quote(frame: &[u8], most: Most) -> Vec<u8> {
    let is_ipv6 = frame[12..14] == [0x86, 0xdd];
    let most = match most {
        Most::Behind(bytes) => bytes + if is_ipv6 { 40 } else { 20 },
        Most::OfRouter if is_ipv6 => 1_280 - 48,
        Most::OfRouter => 28,
    };
    frame[14..].iter().copied().take(most).collect()
}

fn ether_type(next: Option<&Layer>) -> u16 {
    match next {
        Some(Layer::Ipv4(_)) => 0x0800,
        Some(Layer::Ipv6(_)) => 0x86dd,
        Some(Layer::Arp(_)) => 0x0806,
        Some(Layer::Vlan { .. }) => 0x8100,
        // IEEE's number for local experiments: a payload of no protocol.
        _ => 0x88b5,
    }
}

fn protocol(next: Option<&Layer>, icmp: u8, said: Option<u8>, otherwise: u8) -> u8 {
    said.unwrap_or(match next {
        Some(Layer::Tcp(_)) => TCP,
        Some(Layer::Udp(_)) => UDP,
        Some(Layer::Icmp(_)) => icmp,
        _ => otherwise,
    })
}

fn emit_arp(arp: &Arp) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4];
    bytes.extend(arp.operation.to_be_bytes());
    bytes.extend(arp.sender_mac.value().0);
    bytes.extend(arp.sender_ip.value());
    bytes.extend(arp.target_mac.value().0);
    bytes.extend(arp.target_ip.value());
    bytes
}

fn emit_ipv4(ip: &Ip<[u8; 4]>, protocol: u8, inner: &[u8]) -> Vec<u8> {
    let size = 20 + ip.options.len();
    let fragment = ip.fragment.map_or(0, |fragment| (fragment.offset / 8) | (u16::from(fragment.more) << 13));
    let mut bytes = vec![0x40 | u8::try_from(size / 4).expect("at most 40 bytes of options"), ip.tos.value()];
    bytes.extend(length_of(size + inner.len()).to_be_bytes());
    bytes.extend(ip.id.value().to_be_bytes());
    bytes.extend((fragment | (u16::from(ip.dont_fragment) << 14)).to_be_bytes());
    bytes.extend([ip.ttl.value(), protocol, 0, 0]);
    bytes.extend(ip.source.value());
    bytes.extend(ip.destination.value());
    bytes.extend(&ip.options);
    let checksum = chosen(ip.checksum, 0, &bytes);
    bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    bytes.extend(inner);
    bytes
}

fn emit_ipv6(ip: &Ip<[u8; 16]>, protocol: u8, inner: &[u8]) -> Vec<u8> {
    let extension = ip.fragment.map_or_else(Vec::new, |fragment| {
        let place = (fragment.offset | u16::from(fragment.more)).to_be_bytes();
        let id = u32::from(ip.id.value()).to_be_bytes();
        [&[protocol, 0][..], &place, &id].concat()
    });
    let next = if extension.is_empty() { protocol } else { FRAGMENT_HEADER };
    let tos = u32::from(ip.tos.value()) << 20;
    let mut bytes = ((6u32 << 28) | tos).to_be_bytes().to_vec();
    bytes.extend(length_of(extension.len() + inner.len()).to_be_bytes());
    bytes.extend([next, ip.ttl.value()]);
    bytes.extend(ip.source.value());
    bytes.extend(ip.destination.value());
    bytes.extend(extension);
    bytes.extend(inner);
    bytes
}

fn emit_tcp(tcp: &Tcp, before: Option<&Layer>, inner: &[u8]) -> Vec<u8> {
    let mut options = tcp.options.clone();
    options.resize(options.len().next_multiple_of(4), 0);
    let words = u8::try_from(5 + options.len() / 4).ok().filter(|words| *words < 16);
    let mut bytes = Vec::with_capacity(60 + inner.len());
    bytes.extend(tcp.source.value().to_be_bytes());
    bytes.extend(tcp.destination.value().to_be_bytes());
    bytes.extend(tcp.sequence.value().to_be_bytes());
    bytes.extend(tcp.acknowledgement.value().to_be_bytes());
    bytes.extend([words.expect("at most 40 bytes of options") << 4, tcp.flags]);
    bytes.extend(tcp.window.value().to_be_bytes());
    bytes.extend([0; 4]);
    bytes.extend(options);
    bytes.extend(inner);
    let checksum = chosen(tcp.checksum, pseudo(before, TCP, bytes.len()), &bytes);
    bytes[16..18].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

fn emit_udp(udp: &Udp, before: Option<&Layer>, inner: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(8 + inner.len());
    bytes.extend(udp.source.value().to_be_bytes());
    bytes.extend(udp.destination.value().to_be_bytes());
    bytes.extend(length_of(8 + inner.len()).to_be_bytes());
    bytes.extend([0; 2]);
    bytes.extend(inner);
    let checksum = match chosen(udp.checksum, pseudo(before, UDP, bytes.len()), &bytes) {
        // Zero would say "not computed" (RFC 768).
        0 if udp.checksum == Checksum::Right => 0xffff,
        checksum => checksum,
    };
    bytes[6..8].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

fn emit_icmp(icmp: &Icmp, before: Option<&Layer>, inner: &[u8]) -> Vec<u8> {
    let mut bytes = vec![icmp.kind, icmp.code, 0, 0];
    bytes.extend(icmp.rest.iter().flat_map(|part| part.value().to_be_bytes()));
    bytes.extend(inner);
    // ICMP of IPv4 has no pseudo-header.
    let pseudo = if matches!(before, Some(Layer::Ipv6(_))) { pseudo(before, ICMP6, bytes.len()) } else { 0 };
    let checksum = chosen(icmp.checksum, pseudo, &bytes);
    bytes[2..4].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

fn pseudo(before: Option<&Layer>, protocol: u8, length: usize) -> u16 {
    match before {
        Some(Layer::Ipv4(ip)) => pseudo_header(&ip.source.value(), &ip.destination.value(), protocol, length),
        Some(Layer::Ipv6(ip)) => pseudo_header(&ip.source.value(), &ip.destination.value(), protocol, length),
        _ => panic!("a TCP or UDP header follows an IP header"),
    }
}

fn chosen(checksum: Checksum, pseudo: u16, message: &[u8]) -> u16 {
    match checksum {
        Checksum::Right => complete(pseudo, message),
        // Not all ones away: 0000 and ffff count the same.
        Checksum::Wrong => complete(pseudo, message) ^ 0x5555,
        Checksum::None => 0,
        Checksum::Unfinished => pseudo,
    }
}

fn length_of(size: usize) -> u16 {
    u16::try_from(size).expect("a packet has at most 65535 bytes")
}
