//! The builder: one chain from the outermost header to the payload, in the words of the field.
//!
//! A setter acts on the last layer it fits: `.ttl()` on the last IP header, `.syn()` on the last TCP header. A setter with
//! nothing to act on is a mistake in the test and panics with its name.

use crate::differ;
use crate::emit;
use crate::field::{Field, Mac};
use crate::layer::{Arp, Checksum, Fragment, Icmp, Ip, Layer, Most, Tcp, Udp};

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const PSH: u8 = 8;
const ACK: u8 = 16;

/// A frame said layer by layer: to send (with [`Frame::bytes`]) or to expect (with [`Frame::assert_matches`]).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub(crate) layers: Vec<Layer>,
}

/// Begins a frame with its Ethernet header.
pub fn eth(source: impl Into<Field<Mac>>, destination: impl Into<Field<Mac>>) -> Frame {
    Frame { layers: Vec::new() }.eth(source, destination)
}

impl Frame {
    /// An inner Ethernet header, after [`Frame::vxlan`].
    pub fn eth(self, source: impl Into<Field<Mac>>, destination: impl Into<Field<Mac>>) -> Self {
        self.with(Layer::Eth { source: source.into(), destination: destination.into() })
    }

    /// An 802.1Q tag.
    pub fn vlan(self, id: impl Into<Field<u16>>) -> Self {
        self.with(Layer::Vlan { id: id.into() })
    }

    /// Who has `target_ip`? Tell `sender_ip`.
    pub fn arp_request(
        self,
        sender_mac: impl Into<Field<Mac>>,
        sender_ip: impl Into<Field<[u8; 4]>>,
        target_ip: impl Into<Field<[u8; 4]>>,
    ) -> Self {
        self.with(Layer::Arp(Arp {
            operation: 1,
            sender_mac: sender_mac.into(),
            sender_ip: sender_ip.into(),
            target_mac: Field::Is(Mac::default()),
            target_ip: target_ip.into(),
        }))
    }

    /// `sender_ip` is at `sender_mac`.
    pub fn arp_reply(
        self,
        sender_mac: impl Into<Field<Mac>>,
        sender_ip: impl Into<Field<[u8; 4]>>,
        target_mac: impl Into<Field<Mac>>,
        target_ip: impl Into<Field<[u8; 4]>>,
    ) -> Self {
        self.with(Layer::Arp(Arp {
            operation: 2,
            sender_mac: sender_mac.into(),
            sender_ip: sender_ip.into(),
            target_mac: target_mac.into(),
            target_ip: target_ip.into(),
        }))
    }

    /// TTL 64, no options, may be fragmented, unless said otherwise.
    pub fn ipv4(self, source: impl Into<Field<[u8; 4]>>, destination: impl Into<Field<[u8; 4]>>) -> Self {
        self.with(Layer::Ipv4(ip(source.into(), destination.into())))
    }

    pub fn ipv6(self, source: impl Into<Field<[u8; 16]>>, destination: impl Into<Field<[u8; 16]>>) -> Self {
        self.with(Layer::Ipv6(ip(source.into(), destination.into())))
    }

    /// TTL, or hop limit.
    pub fn ttl(self, ttl: impl Into<Field<u8>>) -> Self {
        let ttl = ttl.into();
        self.on_ip("ttl", |ip| ip.ttl = ttl, |ip| ip.ttl = ttl)
    }

    /// Type of service, or traffic class.
    pub fn tos(self, tos: impl Into<Field<u8>>) -> Self {
        let tos = tos.into();
        self.on_ip("tos", |ip| ip.tos = tos, |ip| ip.tos = tos)
    }

    /// Identification of an IPv4 datagram (of IPv6: of its fragment header).
    pub fn id(self, id: impl Into<Field<u16>>) -> Self {
        let id = id.into();
        self.on_ip("id", |ip| ip.id = id, |ip| ip.id = id)
    }

    pub fn dont_fragment(self) -> Self {
        self.on_ip("dont_fragment", |ip| ip.dont_fragment = true, |_| panic!("dont_fragment: IPv6 has no such bit"))
    }

    /// Makes it a fragment: `offset` in bytes, a multiple of 8. Give what it carries as [`Frame::protocol`] and
    /// [`Frame::payload`]; or cut a whole frame with [`fragments`].
    pub fn fragment(self, offset: u16, more: bool) -> Self {
        assert!(offset.is_multiple_of(8), "fragment: an offset is a multiple of 8");
        let fragment = Some(Fragment { offset, more });
        self.on_ip("fragment", |ip| ip.fragment = fragment, |ip| ip.fragment = fragment)
    }

    /// IPv4 options, padded with zeros to a multiple of 4.
    pub fn ip_options(self, options: &[u8]) -> Self {
        let mut options = options.to_vec();
        options.resize(options.len().next_multiple_of(4), 0);
        self.on_ip(
            "ip_options",
            |ip| ip.options = options,
            |_| panic!("ip_options: IPv6 has extension headers instead"),
        )
    }

    /// Protocol (next header) of an IP packet, where the next layer does not say it.
    pub fn protocol(self, protocol: u8) -> Self {
        self.on_ip("protocol", |ip| ip.protocol = Some(protocol), |ip| ip.protocol = Some(protocol))
    }

    /// No flags, window 65535, no options, unless said otherwise.
    pub fn tcp(self, source: impl Into<Field<u16>>, destination: impl Into<Field<u16>>) -> Self {
        self.with(Layer::Tcp(Tcp {
            source: source.into(),
            destination: destination.into(),
            sequence: Field::Is(0),
            acknowledgement: Field::Is(0),
            flags: 0,
            window: Field::Is(65535),
            options: Vec::new(),
            checksum: Checksum::Right,
        }))
    }

    pub fn syn(self) -> Self {
        self.on_tcp("syn", |tcp| tcp.flags |= SYN)
    }

    pub fn fin(self) -> Self {
        self.on_tcp("fin", |tcp| tcp.flags |= FIN)
    }

    pub fn rst(self) -> Self {
        self.on_tcp("rst", |tcp| tcp.flags |= RST)
    }

    pub fn psh(self) -> Self {
        self.on_tcp("psh", |tcp| tcp.flags |= PSH)
    }

    pub fn seq(self, sequence: impl Into<Field<u32>>) -> Self {
        self.on_tcp("seq", |tcp| tcp.sequence = sequence.into())
    }

    /// Sets the flag and the number acknowledged.
    pub fn ack(self, acknowledgement: impl Into<Field<u32>>) -> Self {
        self.on_tcp("ack", |tcp| {
            tcp.flags |= ACK;
            tcp.acknowledgement = acknowledgement.into();
        })
    }

    pub fn window(self, window: impl Into<Field<u16>>) -> Self {
        self.on_tcp("window", |tcp| tcp.window = window.into())
    }

    /// The option with the largest segment the sender takes.
    pub fn mss(self, mss: u16) -> Self {
        let [high, low] = mss.to_be_bytes();
        self.tcp_option(&[2, 4, high, low])
    }

    /// A TCP option with its kind and length; padding is filled in.
    pub fn tcp_option(self, option: &[u8]) -> Self {
        self.on_tcp("tcp_option", |tcp| tcp.options.extend(option))
    }

    pub fn udp(self, source: impl Into<Field<u16>>, destination: impl Into<Field<u16>>) -> Self {
        self.with(Layer::Udp(Udp { source: source.into(), destination: destination.into(), checksum: Checksum::Right }))
    }

    /// An echo request of the family of the IP header.
    pub fn icmp_echo(self, id: impl Into<Field<u16>>, sequence: impl Into<Field<u16>>) -> Self {
        let kind = if self.is_ipv6() { 128 } else { 8 };
        self.icmp(kind, 0, [id.into(), sequence.into()])
    }

    pub fn icmp_echo_reply(self, id: impl Into<Field<u16>>, sequence: impl Into<Field<u16>>) -> Self {
        let kind = if self.is_ipv6() { 129 } else { 0 };
        self.icmp(kind, 0, [id.into(), sequence.into()])
    }

    /// An error message; `mtu` is that of "fragmentation needed" and "packet too big", 0 for others. The packet it is about
    /// comes as the payload.
    pub fn icmp_error(self, kind: u8, code: u8, mtu: u16) -> Self {
        self.icmp(kind, code, [Field::Is(0), Field::Is(mtu)])
    }

    /// Any message: its type, its code, the two words behind the checksum.
    pub fn icmp_message(self, kind: u8, code: u8, rest: [u16; 2]) -> Self {
        self.icmp(kind, code, rest.map(Field::Is))
    }

    fn icmp(self, kind: u8, code: u8, rest: [Field<u16>; 2]) -> Self {
        self.with(Layer::Icmp(Icmp { kind, code, rest, checksum: Checksum::Right }))
    }

    /// What an ICMP error quotes: another frame's IP packet, as far as `bytes` behind its header go.
    pub fn quoting(self, packet: &Frame, bytes: usize) -> Self {
        self.with(Layer::Quoted { layers: packet.layers.clone(), most: Most::Behind(bytes) })
    }

    /// The same, as much as who sends it on quotes: eight bytes behind IPv4's header; over IPv6 what leaves the error no longer than 1280 bytes.
    pub fn about(self, packet: &Frame) -> Self {
        self.with(Layer::Quoted { layers: packet.layers.clone(), most: Most::OfRouter })
    }

    /// A VXLAN header (RFC 7348) with only the VNI; an inner [`Frame::eth`] follows.
    pub fn vxlan(self, vni: impl Into<Field<u32>>) -> Self {
        self.with(Layer::Vxlan { vni: vni.into() })
    }

    /// All of another frame behind this one's layers: what a tunnel carries.
    pub fn carrying(mut self, inner: &Frame) -> Self {
        self.layers.extend(inner.layers.iter().cloned());
        self
    }

    pub fn payload(self, bytes: impl AsRef<[u8]>) -> Self {
        self.with(Layer::Payload { bytes: bytes.as_ref().to_vec(), any: false })
    }

    /// A payload of `size` bytes, each different from its neighbours.
    pub fn payload_of(self, size: usize) -> Self {
        self.payload((0..251u8).cycle().take(size).collect::<Vec<u8>>())
    }

    /// To expect: whatever payload, of whatever length.
    pub fn any_payload(self) -> Self {
        self.with(Layer::Payload { bytes: Vec::new(), any: true })
    }

    /// Breaks the checksum of the last layer that has one (TCP, UDP, ICMP, IPv4).
    pub fn bad_checksum(self) -> Self {
        self.on_checksum("bad_checksum", Checksum::Wrong)
    }

    /// UDP's checksum zero: not computed.
    pub fn no_checksum(self) -> Self {
        self.on_checksum("no_checksum", Checksum::None)
    }

    /// Only the pseudo-header's sum, as a program sees packets whose checksum the device is to fill in.
    pub fn unfinished_checksum(self) -> Self {
        self.on_checksum("unfinished_checksum", Checksum::Unfinished)
    }

    /// The bytes on the wire, without the frame check sequence. Fields that may be anything are zero.
    pub fn bytes(&self) -> Vec<u8> {
        emit::emit(&self.layers)
    }

    /// How `got` differs from this frame, field by field; None where it does not.
    pub fn differences(&self, got: &[u8]) -> Option<String> {
        differ::differences(self, got)
    }

    /// # Panics
    /// If `got` differs, with all differences.
    #[track_caller]
    pub fn assert_matches(&self, got: &[u8]) {
        if let Some(text) = self.differences(got) {
            panic!("{text}");
        }
    }

    fn with(mut self, layer: Layer) -> Self {
        self.layers.push(layer);
        self
    }

    fn is_ipv6(&self) -> bool {
        let last = self.layers.iter().rev().find(|layer| matches!(layer, Layer::Ipv4(_) | Layer::Ipv6(_)));
        matches!(last, Some(Layer::Ipv6(_)))
    }

    fn on_ip(mut self, what: &str, v4: impl FnOnce(&mut Ip<[u8; 4]>), v6: impl FnOnce(&mut Ip<[u8; 16]>)) -> Self {
        match self.layers.iter_mut().rev().find(|layer| matches!(layer, Layer::Ipv4(_) | Layer::Ipv6(_))) {
            Some(Layer::Ipv4(ip)) => v4(ip),
            Some(Layer::Ipv6(ip)) => v6(ip),
            _ => panic!("{what}: there is no IP header before"),
        }
        self
    }

    fn on_tcp(mut self, what: &str, set: impl FnOnce(&mut Tcp)) -> Self {
        match self.layers.last_mut() {
            Some(Layer::Tcp(tcp)) => set(tcp),
            _ => panic!("{what}: the last layer is not TCP"),
        }
        self
    }

    fn on_checksum(mut self, what: &str, wanted: Checksum) -> Self {
        let field = self.layers.iter_mut().rev().find_map(|layer| match layer {
            Layer::Tcp(tcp) => Some(&mut tcp.checksum),
            Layer::Udp(udp) => Some(&mut udp.checksum),
            Layer::Icmp(icmp) => Some(&mut icmp.checksum),
            Layer::Ipv4(ip) => Some(&mut ip.checksum),
            _ => None,
        });
        *field.unwrap_or_else(|| panic!("{what}: no layer before has a checksum")) = wanted;
        self
    }
}

fn ip<A>(source: Field<A>, destination: Field<A>) -> Ip<A> {
    Ip {
        source,
        destination,
        ttl: Field::Is(64),
        tos: Field::Is(0),
        id: Field::Is(0),
        dont_fragment: false,
        fragment: None,
        options: Vec::new(),
        protocol: None,
        checksum: Checksum::Right,
    }
}

/// Cuts a frame as a router with this MTU does (RFC 791), over IPv6 as its sender does (RFC 8200, 4.5): the message's checksum stays that of
/// the whole.
///
/// # Panics
/// If it is not plain Ethernet with an IP packet without options, or the MTU leaves no room: a mistake in the test.
pub fn fragments(whole: &Frame, mtu: usize) -> Vec<Vec<u8>> {
    let frame = &whole.bytes()[..];
    let id = whole.layers.iter().find_map(|layer| match layer {
        Layer::Ipv6(ip) => Some(u32::from(ip.id.value())),
        _ => None,
    });
    let is_ipv6 = frame.len() > 54 && frame[12..14] == [0x86, 0xdd];
    assert!(
        is_ipv6 || frame.len() > 34 && frame[12..14] == [8, 0] && frame[14] == 0x45,
        "fragments: wants IP without options"
    );
    let (header, extension) = if is_ipv6 { (40, 8) } else { (20, 0) };
    let room = (mtu - header - extension) / 8 * 8;
    assert!(room > 0, "fragments: an MTU of {mtu} leaves no room");
    let (head, message) = frame.split_at(14 + header);
    let count = message.len().div_ceil(room);
    let pieces = message.chunks(room).enumerate().map(|(place, piece)| {
        let offset = u16::try_from(place * room).expect("an IP packet has at most 65535 bytes");
        let is_last = place + 1 == count;
        let length = |bytes: usize| u16::try_from(bytes).expect("a piece fits the MTU").to_be_bytes();
        let mut cut = head.to_vec();
        if is_ipv6 {
            cut[18..20].copy_from_slice(&length(extension + piece.len()));
            cut.extend([head[20], 0]);
            cut[20] = 44;
            cut.extend((offset | u16::from(!is_last)).to_be_bytes());
            cut.extend(id.unwrap_or(0).to_be_bytes());
        } else {
            cut[16..18].copy_from_slice(&length(header + piece.len()));
            let more = if is_last { 0 } else { 0x2000 };
            cut[20..22].copy_from_slice(&((offset / 8) | more).to_be_bytes());
            cut[24..26].fill(0);
            let checksum = crate::checksum::complete(0, &cut[14..34]);
            cut[24..26].copy_from_slice(&checksum.to_be_bytes());
        }
        [cut, piece.to_vec()].concat()
    });
    pieces.collect()
}
