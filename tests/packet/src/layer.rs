//! The layers a frame is built of, outermost first, as plain data.
//!
//! Type fields (EtherType, protocol), lengths and checksums are not here: they follow from the neighbours and are filled in by
//! `emit`. A name given to a field in [`Layer::wildcards`] is the one `decode` uses; a test compares them.

use crate::field::{Field, Mac};

/// What stands in a checksum field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Checksum {
    #[default]
    Right,
    Wrong,
    /// Zero: UDP's "not computed".
    None,
    /// The pseudo-header's sum only: what a program sees of a packet whose checksum the device is to fill in.
    Unfinished,
}

/// A piece of a larger datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// In bytes, a multiple of 8.
    pub offset: u16,
    pub more: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ip<A> {
    pub source: Field<A>,
    pub destination: Field<A>,
    /// TTL, or hop limit.
    pub ttl: Field<u8>,
    /// DSCP and ECN.
    pub tos: Field<u8>,
    pub id: Field<u16>,
    pub dont_fragment: bool,
    pub fragment: Option<Fragment>,
    /// IPv4 options, padded to a multiple of 4.
    pub options: Vec<u8>,
    /// Said where the next layer does not say it.
    pub protocol: Option<u8>,
    pub checksum: Checksum,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    pub source: Field<u16>,
    pub destination: Field<u16>,
    pub sequence: Field<u32>,
    pub acknowledgement: Field<u32>,
    pub flags: u8,
    pub window: Field<u16>,
    pub options: Vec<u8>,
    pub checksum: Checksum,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Udp {
    pub source: Field<u16>,
    pub destination: Field<u16>,
    pub checksum: Checksum,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Icmp {
    pub kind: u8,
    pub code: u8,
    /// The four bytes after the checksum: id and sequence of an echo, MTU of a "too big".
    pub rest: [Field<u16>; 2],
    pub checksum: Checksum,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arp {
    /// 1 request, 2 reply.
    pub operation: u16,
    pub sender_mac: Field<Mac>,
    pub sender_ip: Field<[u8; 4]>,
    pub target_mac: Field<Mac>,
    pub target_ip: Field<[u8; 4]>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Layer {
    Eth {
        source: Field<Mac>,
        destination: Field<Mac>,
    },
    Vlan {
        id: Field<u16>,
    },
    Arp(Arp),
    Ipv4(Ip<[u8; 4]>),
    Ipv6(Ip<[u8; 16]>),
    Tcp(Tcp),
    Udp(Udp),
    /// Of the family of the layer before it.
    Icmp(Icmp),
    Vxlan {
        vni: Field<u32>,
    },
    Payload {
        bytes: Vec<u8>,
        any: bool,
    },
    /// The beginning of a frame's IP packet, as an ICMP error has it.
    Quoted {
        layers: Vec<Layer>,
        most: Most,
    },
}

/// How much of a packet is quoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Most {
    /// So many bytes behind the IP header.
    Behind(usize),
    /// As much as a router quotes at least (RFC 792: eight bytes) or at most (RFC 4443: as long as the error has 1280).
    OfRouter,
}

impl Layer {
    /// Names of the fields that may have any value.
    pub fn wildcards(&self) -> Vec<&'static str> {
        let fields: Vec<(&'static str, bool)> = match self {
            Layer::Eth { source, destination } => {
                vec![("source", source.is_any()), ("destination", destination.is_any())]
            }
            Layer::Vlan { id } => vec![("id", id.is_any())],
            Layer::Arp(arp) => vec![
                ("sender mac", arp.sender_mac.is_any()),
                ("sender ip", arp.sender_ip.is_any()),
                ("target mac", arp.target_mac.is_any()),
                ("target ip", arp.target_ip.is_any()),
            ],
            Layer::Ipv4(ip) => ip_wildcards(ip),
            Layer::Ipv6(ip) => ip_wildcards(ip),
            Layer::Tcp(tcp) => vec![
                ("source port", tcp.source.is_any()),
                ("destination port", tcp.destination.is_any()),
                ("sequence", tcp.sequence.is_any()),
                ("acknowledgement", tcp.acknowledgement.is_any()),
                ("window", tcp.window.is_any()),
            ],
            Layer::Udp(udp) => {
                vec![("source port", udp.source.is_any()), ("destination port", udp.destination.is_any())]
            }
            Layer::Icmp(icmp) => vec![("id", icmp.rest[0].is_any()), ("sequence", icmp.rest[1].is_any())],
            Layer::Vxlan { vni } => vec![("vni", vni.is_any())],
            Layer::Payload { any, .. } => vec![("bytes", *any), ("length", *any)],
            Layer::Quoted { .. } => Vec::new(),
        };
        fields.into_iter().filter(|(_, any)| *any).map(|(name, _)| name).collect()
    }
}

fn ip_wildcards<A: Copy + Default>(ip: &Ip<A>) -> Vec<(&'static str, bool)> {
    vec![
        ("source", ip.source.is_any()),
        ("destination", ip.destination.is_any()),
        ("ttl", ip.ttl.is_any()),
        ("tos", ip.tos.is_any()),
        ("id", ip.id.is_any()),
    ]
}
