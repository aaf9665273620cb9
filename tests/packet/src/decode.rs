//! From bytes to named fields, read by etherparse: the independent witness.
//!
//! A checksum is shown as what it is worth (right, wrong, unfinished), not as a number: the number follows from the other fields
//! and would only repeat their differences. What can't be read as the header it should be becomes payload.

use etherparse::{
    Ethernet2Slice, IcmpEchoHeader, Icmpv4Slice, Icmpv4Type, Icmpv6Slice, Icmpv6Type, Ipv4HeaderSlice,
    Ipv6FragmentHeaderSlice, Ipv6HeaderSlice, SingleVlanSlice, TcpSlice, UdpSlice,
};

use crate::checksum::{complete, pseudo_header};
use crate::field::Mac;

/// VXLAN's port (RFC 7348).
const VXLAN: u16 = 4789;

/// One header of a frame, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    pub name: &'static str,
    pub fields: Vec<(&'static str, String)>,
}

/// Reads a frame from its Ethernet header to its payload, through VXLAN too.
pub fn decode(frame: &[u8]) -> Vec<Layer> {
    let mut layers = Vec::new();
    ethernet(frame, &mut layers);
    layers
}

/// The addresses around a transport header, for its checksum.
#[derive(Clone, Copy)]
enum Around {
    V4([u8; 4], [u8; 4]),
    V6([u8; 16], [u8; 16]),
}

impl Around {
    fn pseudo(self, protocol: u8, length: usize) -> u16 {
        match self {
            Around::V4(source, destination) => pseudo_header(&source, &destination, protocol, length),
            Around::V6(source, destination) => pseudo_header(&source, &destination, protocol, length),
        }
    }
}

fn ethernet(bytes: &[u8], layers: &mut Vec<Layer>) {
    let Ok(slice) = Ethernet2Slice::from_slice_without_fcs(bytes) else { return payload(bytes, layers) };
    layers.push(Layer {
        name: "eth",
        fields: vec![
            ("source", Mac(slice.source()).to_string()),
            ("destination", Mac(slice.destination()).to_string()),
            ("type", format!("{:#06x}", slice.ether_type().0)),
        ],
    });
    by_ether_type(slice.ether_type().0, slice.payload_slice(), layers);
}

fn by_ether_type(kind: u16, bytes: &[u8], layers: &mut Vec<Layer>) {
    match kind {
        0x0800 => ipv4(bytes, layers),
        0x86dd => ipv6(bytes, layers),
        0x0806 => arp(bytes, layers),
        0x8100 => vlan(bytes, layers),
        _ => payload(bytes, layers),
    }
}

fn vlan(bytes: &[u8], layers: &mut Vec<Layer>) {
    let Ok(slice) = SingleVlanSlice::from_slice(bytes) else { return payload(bytes, layers) };
    let kind = slice.ether_type().0;
    layers.push(Layer {
        name: "vlan",
        fields: vec![("id", slice.vlan_identifier().value().to_string()), ("type", format!("{kind:#06x}"))],
    });
    by_ether_type(kind, slice.payload_slice(), layers);
}

fn arp(bytes: &[u8], layers: &mut Vec<Layer>) {
    let read = etherparse::ArpPacketSlice::from_slice(bytes).ok().map(|slice| slice.to_packet());
    let Some(arp) = read.and_then(|packet| packet.try_eth_ipv4().ok()) else { return payload(bytes, layers) };
    layers.push(Layer {
        name: "arp",
        fields: vec![
            ("operation", arp.operation.0.to_string()),
            ("sender mac", Mac(arp.sender_mac).to_string()),
            ("sender ip", std::net::Ipv4Addr::from(arp.sender_ipv4).to_string()),
            ("target mac", Mac(arp.target_mac).to_string()),
            ("target ip", std::net::Ipv4Addr::from(arp.target_ipv4).to_string()),
        ],
    });
    trailer(&bytes[28..], layers);
}

fn ipv4(bytes: &[u8], layers: &mut Vec<Layer>) {
    let Ok(slice) = Ipv4HeaderSlice::from_slice(bytes) else { return payload(bytes, layers) };
    let header = slice.to_header();
    let (size, length) = (slice.slice().len(), usize::from(slice.total_len()));
    layers.push(Layer {
        name: "ipv4",
        fields: vec![
            ("source", slice.source_addr().to_string()),
            ("destination", slice.destination_addr().to_string()),
            ("ttl", slice.ttl().to_string()),
            ("tos", ((slice.dcp().value() << 2) | slice.ecn().value()).to_string()),
            ("id", slice.identification().to_string()),
            ("don't fragment", slice.dont_fragment().to_string()),
            ("fragment offset", (u32::from(slice.fragments_offset().value()) * 8).to_string()),
            ("more fragments", slice.more_fragments().to_string()),
            ("protocol", slice.protocol().0.to_string()),
            ("options", hex(slice.options())),
            ("length", length.to_string()),
            ("checksum", worth(slice.header_checksum() == header.calc_header_checksum()).to_owned()),
        ],
    });
    let end = length.clamp(size, bytes.len());
    let around = Around::V4(slice.source(), slice.destination());
    transport(slice.protocol().0, &bytes[size..end], around, slice.is_fragmenting_payload(), layers);
    trailer(&bytes[end..], layers);
}

fn ipv6(bytes: &[u8], layers: &mut Vec<Layer>) {
    let Ok(slice) = Ipv6HeaderSlice::from_slice(bytes) else { return payload(bytes, layers) };
    let end = (40 + usize::from(slice.payload_length())).min(bytes.len());
    let mut rest = &bytes[40..end];
    let mut next = slice.next_header().0;
    let mut fragment = None;
    if next == 44
        && let Ok(header) = Ipv6FragmentHeaderSlice::from_slice(rest)
    {
        next = header.next_header().0;
        fragment = Some((header.fragment_offset().value() * 8, header.more_fragments(), header.identification()));
        rest = &rest[8..];
    }
    let (offset, more, id) = fragment.unwrap_or_default();
    layers.push(Layer {
        name: "ipv6",
        fields: vec![
            ("source", slice.source_addr().to_string()),
            ("destination", slice.destination_addr().to_string()),
            ("ttl", slice.hop_limit().to_string()),
            ("tos", slice.traffic_class().to_string()),
            ("flow label", slice.flow_label().value().to_string()),
            ("id", id.to_string()),
            ("fragment offset", offset.to_string()),
            ("more fragments", more.to_string()),
            ("protocol", next.to_string()),
            ("length", slice.payload_length().to_string()),
        ],
    });
    transport(next, rest, Around::V6(slice.source(), slice.destination()), offset > 0 || more, layers);
    trailer(&bytes[end..], layers);
}

fn transport(protocol: u8, bytes: &[u8], around: Around, fragmented: bool, layers: &mut Vec<Layer>) {
    // The checksum of a fragment covers the whole datagram: no reader of one fragment can judge it.
    let judged = |text: String| if fragmented { "of the whole datagram".to_owned() } else { text };
    match (protocol, around) {
        _ if fragmented && layers.last().is_some_and(|ip| ip.fields.iter().any(is_later_fragment)) => {
            payload(bytes, layers)
        }
        (6, _) => tcp(bytes, around, judged, layers),
        (17, _) => udp(bytes, around, judged, layers),
        (1, Around::V4(..)) => icmp4(bytes, judged, layers),
        (58, Around::V6(..)) => icmp6(bytes, around, judged, layers),
        _ => payload(bytes, layers),
    }
}

fn is_later_fragment((name, value): &(&'static str, String)) -> bool {
    *name == "fragment offset" && value != "0"
}

fn tcp(bytes: &[u8], around: Around, judged: impl Fn(String) -> String, layers: &mut Vec<Layer>) {
    let Ok(slice) = TcpSlice::from_slice(bytes) else { return payload(bytes, layers) };
    let right = match around {
        Around::V4(source, destination) => slice.calc_checksum_ipv4(source, destination).ok(),
        Around::V6(source, destination) => slice.calc_checksum_ipv6(source, destination).ok(),
    };
    let state = message_checksum(slice.checksum(), right, around.pseudo(6, bytes.len()));
    layers.push(Layer {
        name: "tcp",
        fields: vec![
            ("source port", slice.source_port().to_string()),
            ("destination port", slice.destination_port().to_string()),
            ("flags", flags(&slice)),
            ("sequence", slice.sequence_number().to_string()),
            ("acknowledgement", slice.acknowledgment_number().to_string()),
            ("window", slice.window_size().to_string()),
            ("options", hex(slice.options())),
            ("urgent", slice.urgent_pointer().to_string()),
            ("checksum", judged(state)),
        ],
    });
    payload(slice.payload(), layers);
}

fn flags(tcp: &TcpSlice) -> String {
    let all = [
        (tcp.syn(), "SYN"),
        (tcp.fin(), "FIN"),
        (tcp.rst(), "RST"),
        (tcp.psh(), "PSH"),
        (tcp.ack(), "ACK"),
        (tcp.urg(), "URG"),
        (tcp.ece(), "ECE"),
        (tcp.cwr(), "CWR"),
    ];
    all.iter().filter(|(set, _)| *set).map(|(_, name)| *name).collect::<Vec<_>>().join(" ")
}

fn udp(bytes: &[u8], around: Around, judged: impl Fn(String) -> String, layers: &mut Vec<Layer>) {
    let Ok(slice) = UdpSlice::from_slice_lax(bytes) else { return payload(bytes, layers) };
    let right = match around {
        Around::V4(source, destination) => {
            slice.to_header().calc_checksum_ipv4_raw(source, destination, slice.payload()).ok()
        }
        Around::V6(source, destination) => {
            slice.to_header().calc_checksum_ipv6_raw(source, destination, slice.payload()).ok()
        }
    };
    let state = match slice.checksum() {
        0 => "none".to_owned(),
        checksum => message_checksum(checksum, right, around.pseudo(17, bytes.len())),
    };
    layers.push(Layer {
        name: "udp",
        fields: vec![
            ("source port", slice.source_port().to_string()),
            ("destination port", slice.destination_port().to_string()),
            ("length", slice.length().to_string()),
            ("checksum", judged(state)),
        ],
    });
    match slice.payload() {
        inner if slice.destination_port() == VXLAN && inner.len() >= 8 => {
            layers.push(Layer {
                name: "vxlan",
                fields: vec![
                    ("flags", format!("{:#04x}", inner[0])),
                    ("vni", u32::from_be_bytes([0, inner[4], inner[5], inner[6]]).to_string()),
                    ("reserved", hex(&[inner[1], inner[2], inner[3], inner[7]])),
                ],
            });
            ethernet(&inner[8..], layers);
        }
        inner => payload(inner, layers),
    }
}

fn icmp4(bytes: &[u8], judged: impl Fn(String) -> String, layers: &mut Vec<Layer>) {
    let Ok(slice) = Icmpv4Slice::from_slice(bytes) else { return payload(bytes, layers) };
    let right = slice.icmp_type().calc_checksum(slice.payload());
    let echo = match slice.icmp_type() {
        Icmpv4Type::EchoRequest(echo) | Icmpv4Type::EchoReply(echo) => Some(echo),
        _ => None,
    };
    let state = judged(worth(is_same(slice.checksum(), right)).to_owned());
    layers.push(icmp(slice.type_u8(), slice.code_u8(), echo, slice.bytes5to8(), state));
    payload(slice.payload(), layers);
}

fn icmp6(bytes: &[u8], around: Around, judged: impl Fn(String) -> String, layers: &mut Vec<Layer>) {
    let Ok(slice) = Icmpv6Slice::from_slice(bytes) else { return payload(bytes, layers) };
    let echo = match slice.icmp_type() {
        Icmpv6Type::EchoRequest(echo) | Icmpv6Type::EchoReply(echo) => Some(echo),
        _ => None,
    };
    // Summing a message with its own checksum gives zero where that is right.
    let state = judged(worth(complete(around.pseudo(58, bytes.len()), bytes) == 0).to_owned());
    layers.push(icmp(slice.type_u8(), slice.code_u8(), echo, slice.bytes5to8(), state));
    payload(slice.payload(), layers);
}

/// Errors show the same four bytes as two numbers: unused, and the MTU where there is one.
fn icmp(kind: u8, code: u8, echo: Option<IcmpEchoHeader>, rest: [u8; 4], checksum: String) -> Layer {
    let [a, b, c, d] = rest;
    let (id, sequence) =
        echo.map_or((u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])), |echo| (echo.id, echo.seq));
    Layer {
        name: "icmp",
        fields: vec![
            ("type", kind.to_string()),
            ("code", code.to_string()),
            ("id", id.to_string()),
            ("sequence", sequence.to_string()),
            ("checksum", checksum),
        ],
    }
}

fn payload(bytes: &[u8], layers: &mut Vec<Layer>) {
    bytes_layer("payload", bytes, layers);
}

/// Bytes beyond the length that the IP header says, as on frames padded to 60 bytes.
fn trailer(bytes: &[u8], layers: &mut Vec<Layer>) {
    bytes_layer("trailer", bytes, layers);
}

fn bytes_layer(name: &'static str, bytes: &[u8], layers: &mut Vec<Layer>) {
    if !bytes.is_empty() {
        layers.push(Layer { name, fields: vec![("length", bytes.len().to_string()), ("bytes", hex(bytes))] });
    }
}

fn message_checksum(found: u16, right: Option<u16>, pseudo: u16) -> String {
    match found {
        found if right.is_some_and(|right| is_same(found, right)) => "right".to_owned(),
        found if found == pseudo => "unfinished".to_owned(),
        _ => "wrong".to_owned(),
    }
}

/// Both zeros of one's complement are one sum to every receiver. Linux writes ffff where a checksum that a device was to finish comes
/// out as zero, also for TCP (net/core/dev.c, skb_checksum_help); who sums anew gets zero there.
fn is_same(found: u16, right: u16) -> bool {
    found == right || [(0, 0xffff), (0xffff, 0)].contains(&(found, right))
}

fn worth(right: bool) -> &'static str {
    if right { "right" } else { "wrong" }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}
