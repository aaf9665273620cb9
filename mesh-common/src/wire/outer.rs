//! What stands before the inner frame between nodes: Ethernet, IPv4 or IPv6, UDP and VXLAN (RFC 7348) without options, 50 or 70 bytes.
//!
//! For senders that write it themselves (the fast way of TC, XDP); through mesh0 the kernel makes the same. Words are in memory order.

use crate::family::{Addr4, Addr6, Family, V4, V6};
use crate::parse::{Cursor, ETHERNET_LEN, Plain};
use crate::schema::{Config, Peer};
use crate::word;
use crate::{checksum, hash};

/// Bytes before the inner frame, over IPv4. What a path takes is told less the rest where the tunnel is IPv6 (`Peer::mtu`), so this is what
/// packets are measured with.
pub const LEN: usize = V4::OUTER_LEN;

const UDP_LEN: usize = 8;
const VXLAN_LEN: usize = 8;
/// "The VNI counts" (RFC 7348, section 5).
const FLAG_I: u8 = 0x08;
/// Of what follows, and time to live or hop limit.
const UDP: u8 = 17;
const HOPS: u8 = 64;
/// Both ECN bits: congestion experienced (RFC 3168, section 5).
const CONGESTED: u8 = 3;
/// Source ports (RFC 7348, section 5: the dynamic range, chosen by a hash of the inner packet).
const FIRST_PORT: u16 = 49_152;

/// A family that carries tunnel packets.
pub trait Carrier: Family {
    /// Bytes before the inner frame.
    const OUTER_LEN: usize = ETHERNET_LEN + Self::HEADER_LEN + UDP_LEN + VXLAN_LEN;
    /// These, as words of two bytes.
    type Headers: Plain;

    /// This node's data path address.
    fn own(config: &Config) -> Self::Addr;
    /// A peer's.
    fn of_peer(peer: &Peer) -> Self::Addr;
    /// Whom it came from, if a frame may be a peer's to this node that a program can take the headers off: a whole UDP packet to the data port of the
    /// data path address, without options, and not marked congested on its way, which must be told inside (RFC 6040, 4.2).
    fn tunnel_source(cursor: &impl Cursor, config: &Config) -> Option<Self::Addr>;
    /// Writes the headers where they belong, word by word: a program's stack has no room for them. Gives the sum of all behind the Ethernet
    /// header.
    fn write(outer: &Outer<Self::Addr>, to: &mut Self::Headers) -> u32;
}

/// What the headers say.
#[derive(Clone, Copy, Debug)]
pub struct Outer<A> {
    /// MAC addresses of the next hop and of the link it leaves by, as they lie in memory ([`macs`]).
    pub macs: [u32; 3],
    /// Data path address of this node.
    pub src: A,
    /// Data path address of the peer.
    pub dst: A,
    /// UDP port of VXLAN.
    pub port: u16,
    /// VNI.
    pub vni: u32,
    /// Hash of the inner packet: of a flow's packets all take one way through a network that spreads them.
    pub hash: u32,
    /// IPv4 identification in memory order, the inner packet's where it has one: who forwards may fragment. IPv6 says none.
    pub id: u16,
    /// The inner packet's type of service; its ECN bits are told outside too (RFC 6040, 4.1).
    pub tos: u8,
    /// Bytes of the inner frame.
    pub inner_len: u16,
}

/// Both MAC addresses as they lie in a frame, in words.
pub const fn macs(next_hop: [u8; 6], link_mac: [u8; 6]) -> [u32; 3] {
    let ([a, b, c, d, e, f], [g, h, i, j, k, l]) = (next_hop, link_mac);
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]), u32::from_ne_bytes([i, j, k, l])]
}

/// Two bytes and two more as a word of memory.
#[inline(always)]
const fn join(one: u16, other: u16) -> u32 {
    let ([a, b], [c, d]) = (one.to_ne_bytes(), other.to_ne_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

/// The datagram in a packet without options is for the data port.
#[inline(always)]
fn is_to_data_port<F: Family>(cursor: &impl Cursor, config: &Config) -> bool {
    let ports = cursor.load(ETHERNET_LEN + F::HEADER_LEN);
    ports.is_some_and(|[_, port]: [u16; 2]| u16::from_be(port) == config.data_port)
}

/// The sum of a word's halves.
#[inline(always)]
const fn halves(word: u32) -> u32 {
    (word & 0xffff) + (word >> 16)
}

impl<A: Copy> Outer<A> {
    #[inline(always)]
    fn udp_len(&self) -> u16 {
        self.inner_len.wrapping_add((UDP_LEN + VXLAN_LEN) as u16)
    }

    /// UDP without a checksum, as RFC 7348 (section 5) and over IPv6 RFC 6935 allow, and VXLAN, in words.
    #[inline(always)]
    fn datagram(&self) -> [u32; 4] {
        let source_port = (FIRST_PORT | (self.hash >> 18) as u16).to_be();
        let ports = join(source_port, self.port.to_be());
        [ports, join(self.udp_len().to_be(), 0), u32::from_ne_bytes([FLAG_I, 0, 0, 0]), (self.vni << 8).to_be()]
    }
}

impl Carrier for V4 {
    type Headers = [u16; Self::OUTER_LEN / 2];

    #[inline(always)]
    fn own(config: &Config) -> Addr4 {
        Addr4::of_word(config.tunnel_addr4_word())
    }

    #[inline(always)]
    fn of_peer(peer: &Peer) -> Addr4 {
        Addr4::of_word(peer.addr4_word())
    }

    #[inline(always)]
    fn tunnel_source(cursor: &impl Cursor, config: &Config) -> Option<Addr4> {
        let ip: [u16; 10] = cursor.load(ETHERNET_LEN)?;
        let [version_tos, ttl_protocol] = [ip[0], ip[4]].map(u16::to_ne_bytes);
        let is_ours = version_tos[0] == 0x45
            && ttl_protocol[1] == UDP
            && Addr4::of_words([ip[8], ip[9]]).word() == config.tunnel_addr4_word()
            && is_to_data_port::<Self>(cursor, config);
        // A fragment is not the whole frame.
        let is_plain = u16::from_be(ip[3]) & 0x3fff == 0 && version_tos[1] & 3 != CONGESTED;
        (is_ours && is_plain).then_some(Addr4::of_words([ip[6], ip[7]]))
    }

    /// The IPv4 header adds nothing to the sum: with its checksum in it, it sums up to zero.
    #[inline(always)]
    fn write(outer: &Outer<Addr4>, to: &mut Self::Headers) -> u32 {
        const TTL_AND_UDP: u16 = u16::from_ne_bytes([HOPS, UDP]);
        let total_len = outer.udp_len().wrapping_add(Self::HEADER_LEN as u16).to_be();
        let first = u16::from_ne_bytes([0x45, outer.tos & 3]);
        let [ports, udp_len, flags, vni] = outer.datagram();
        let rest = first as u32 + total_len as u32 + outer.id as u32 + TTL_AND_UDP as u32;
        let sum = outer.src.word() as u64 + outer.dst.word() as u64 + rest as u64;
        // Of 34 bits 33 become, of those 17 and of those 16 (RFC 1071, 2.A: sums of longer words fold to the same).
        let sum = (sum & 0xffff_ffff) + (sum >> 32);
        let checksum = checksum::finish(((sum & 0xffff) + (sum >> 16)) as u32);
        // SAFETY: each lies within what `to` refers to.
        unsafe {
            word::write::<_, 0>(to, outer.macs[0]);
            word::write::<_, 4>(to, outer.macs[1]);
            word::write::<_, 8>(to, outer.macs[2]);
            word::write::<_, 12>(to, join(Self::ETHERTYPE.to_be(), first));
            word::write::<_, 16>(to, join(total_len, outer.id));
            word::write::<_, 20>(to, join(0, TTL_AND_UDP));
            to[12] = checksum;
            word::write::<_, 26>(to, outer.src.word());
            word::write::<_, 30>(to, outer.dst.word());
            word::write::<_, 34>(to, ports);
            word::write::<_, 38>(to, udp_len);
            word::write::<_, 42>(to, flags);
            word::write::<_, 46>(to, vni);
        }
        halves(vni) + halves(flags) + halves(ports) + halves(udp_len)
    }
}

impl Carrier for V6 {
    type Headers = [u16; Self::OUTER_LEN / 2];

    #[inline(always)]
    fn own(config: &Config) -> Addr6 {
        Addr6::of_words(config.tunnel_addr6_words())
    }

    #[inline(always)]
    fn of_peer(peer: &Peer) -> Addr6 {
        Addr6::of_words(peer.addr_words())
    }

    #[inline(always)]
    fn tunnel_source(cursor: &impl Cursor, config: &Config) -> Option<Addr6> {
        let [first, _, _, next_hops, a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] =
            cursor.load::<[u16; 20]>(ETHERNET_LEN)?;
        let own = config.tunnel_addr6_words();
        let dst = [join(i, j), join(k, l), join(m, n), join(o, p)];
        let is_ours = next_hops.to_ne_bytes()[0] == UDP
            && own[0] != 0
            && Addr6::of_words(dst) == Addr6::of_words(own)
            && is_to_data_port::<Self>(cursor, config);
        let is_plain = first.to_ne_bytes()[0] >> 4 == 6 && Self::tos(first) & 3 != CONGESTED;
        let src = [join(a, b), join(c, d), join(e, f), join(g, h)];
        (is_ours && is_plain).then_some(Addr6::of_words(src))
    }

    #[inline(always)]
    fn write(outer: &Outer<Addr6>, to: &mut Self::Headers) -> u32 {
        const UDP_AND_HOPS: u16 = u16::from_ne_bytes([UDP, HOPS]);
        // Version, traffic class and flow label, four, eight and twenty bits (RFC 8200, section 3).
        let first = u16::from_ne_bytes([0x60, (outer.tos & 3) << 4]);
        let [ports, udp_len, flags, vni] = outer.datagram();
        // As long as the datagram is: both are there.
        let payload_len = outer.udp_len().to_be();
        let ([a, b, c, d], [e, f, g, h]) = (outer.src.words(), outer.dst.words());
        // SAFETY: each lies within what `to` refers to.
        unsafe {
            word::write::<_, 0>(to, outer.macs[0]);
            word::write::<_, 4>(to, outer.macs[1]);
            word::write::<_, 8>(to, outer.macs[2]);
            word::write::<_, 12>(to, join(Self::ETHERTYPE.to_be(), first));
            word::write::<_, 16>(to, join(0, payload_len));
            to[10] = UDP_AND_HOPS;
            word::write::<_, 22>(to, a);
            word::write::<_, 26>(to, b);
            word::write::<_, 30>(to, c);
            word::write::<_, 34>(to, d);
            word::write::<_, 38>(to, e);
            word::write::<_, 42>(to, f);
            word::write::<_, 46>(to, g);
            word::write::<_, 50>(to, h);
            word::write::<_, 54>(to, ports);
            word::write::<_, 58>(to, udp_len);
            word::write::<_, 62>(to, flags);
            word::write::<_, 66>(to, vni);
        }
        let header =
            first as u32 + payload_len as u32 + UDP_AND_HOPS as u32 + Self::sum(outer.src) + Self::sum(outer.dst);
        header + halves(vni) + halves(flags) + halves(ports) + halves(udp_len)
    }
}

/// The beginning of a tunnel packet of one family with a packet of another in it, or of the same.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Wrapped<O: Carrier, F: Family> {
    outer: O::Headers,
    /// The inner frame's Ethernet header.
    pub ethernet: [u16; ETHERNET_LEN / 2],
    packet: F::Start,
}

// SAFETY: words, without padding.
unsafe impl<O: Carrier, F: Family> Plain for Wrapped<O, F> {}

/// Shortest inner frame that [`Wrapped`] is a beginning of.
pub const fn shortest<F: Family>() -> usize {
    ETHERNET_LEN + size_of::<F::Start>()
}

impl<O: Carrier, F: Family> Wrapped<O, F> {
    /// Writes the outer headers before what stands there already: an inner frame of `inner_len` bytes, towards this peer. All that they take from it
    /// is read here, in one go with the writing: what programs keep from before they made room would be kept on the stack (docs/decisions/0006).
    /// `any` is an identification for a packet that has none of its own. Gives the sum of [`Carrier::write`].
    #[inline(always)]
    pub fn wrap(&mut self, config: &Config, peer: &Peer, vni: u32, inner_len: u16, any: impl FnOnce() -> u16) -> u32 {
        let packet = F::outline(&self.packet);
        let headers = Outer {
            macs: peer.macs(),
            src: O::own(config),
            dst: O::of_peer(peer),
            port: config.data_port,
            vni,
            // The same whichever hook sends: a flow has one source port outside.
            hash: hash::spread(packet.flow),
            id: if O::ADDR_LEN == 4 { packet.id.unwrap_or_else(any) } else { 0 },
            tos: packet.tos,
            inner_len,
        };
        O::write(&headers, &mut self.outer)
    }
}

#[repr(C)]
#[derive(Clone, Copy)]
struct VxlanHeader {
    flags: [u8; 2],
    reserved: [u8; 2],
    vni: [u16; 2],
}

// SAFETY: bytes and words at even offsets: no padding.
unsafe impl Plain for VxlanHeader {}

/// The VNI of a frame whose outer headers are those of [`Outer`]; None where the VXLAN header says anything else than a VNI.
#[inline(always)]
pub fn vni<O: Carrier>(cursor: &impl Cursor) -> Option<u32> {
    let header: VxlanHeader = cursor.load(O::OUTER_LEN - VXLAN_LEN)?;
    let ([high, low], flags) = (header.vni.map(u16::from_be), header.flags[0]);
    if flags == FLAG_I && low & 0xff == 0 { Some((high as u32) << 8 | low as u32 >> 8) } else { None }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::family::{V4, V6};
    use crate::parse;

    fn outer<A>(src: A, dst: A, vni: u32, hash: u32, id: u16, tos: u8, inner_len: u16) -> Outer<A> {
        let macs = macs([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
        Outer { macs, src, dst, port: 4789, vni, hash, id, tos, inner_len }
    }

    fn over_ipv4(vni: u32, hash: u32, id: u16, tos: u8, inner_len: u16) -> (Vec<u8>, u32) {
        let mut words = [0; V4::OUTER_LEN / 2];
        let outer = outer([192, 168, 7, 1].into(), [192, 168, 7, 2].into(), vni, hash, id, tos, inner_len);
        let sum = V4::write(&outer, &mut words);
        (words.into_iter().flat_map(u16::to_ne_bytes).collect(), sum)
    }

    const SRC6: [u8; 16] = [0xfd, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 1];
    const DST6: [u8; 16] = [0xfd, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 2];

    fn over_ipv6(vni: u32, hash: u32, tos: u8, inner_len: u16) -> (Vec<u8>, u32) {
        let mut words = [0; V6::OUTER_LEN / 2];
        let sum = V6::write(&outer(SRC6.into(), DST6.into(), vni, hash, 7, tos, inner_len), &mut words);
        (words.into_iter().flat_map(u16::to_ne_bytes).collect(), sum)
    }

    fn sum_of(bytes: &[u8]) -> u16 {
        let words = bytes.chunks_exact(2).map(|word| u32::from(u16::from_ne_bytes([word[0], word[1]])));
        checksum::fold(words.sum())
    }

    proptest! {
        #[test]
        fn the_headers_are_read_back(
            vni in 0u32..1 << 24, hash in any::<u32>(), id in any::<u16>(), tos in any::<u8>(), inner_len in 14u16..9_000,
        ) {
            let (bytes, sum) = over_ipv4(vni, hash, id, tos, inner_len);
            let frame = &bytes[..];
            prop_assert_eq!(super::vni::<V4>(&frame), Some(vni));
            let eth = parse::ethernet(&frame).unwrap();
            prop_assert_eq!((eth.dst, eth.src, eth.ethertype), ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2], 0x0800));
            let packet = parse::packet::<V4>(&frame).unwrap();
            prop_assert_eq!((packet.src.octets(), packet.dst.octets(), packet.dport, packet.l4), ([192, 168, 7, 1], [192, 168, 7, 2], 4789, 34));
            prop_assert_eq!(packet.l4_len, inner_len + 16);
            prop_assert!(packet.sport >= FIRST_PORT);
            prop_assert_eq!(checksum::fold(sum), sum_of(&bytes[34..]));
            // A header with its checksum sums up to all ones (RFC 791, 3.1).
            prop_assert_eq!(checksum::fold(checksum::add(0, &bytes[14..34])), 0xffff);
            prop_assert_eq!(bytes[15], tos & 3);
        }

        #[test]
        fn the_headers_over_ipv6_are_read_back(
            vni in 0u32..1 << 24, hash in any::<u32>(), tos in any::<u8>(), inner_len in 14u16..9_000,
        ) {
            let (bytes, sum) = over_ipv6(vni, hash, tos, inner_len);
            let frame = &bytes[..];
            prop_assert_eq!(super::vni::<V6>(&frame), Some(vni));
            prop_assert_eq!(parse::ethernet(&frame).unwrap().ethertype, 0x86dd);
            let packet = parse::packet::<V6>(&frame).unwrap();
            prop_assert_eq!((packet.src.octets(), packet.dst.octets(), packet.dport, packet.l4), (SRC6, DST6, 4789, 54));
            prop_assert_eq!((packet.l4_len, &bytes[58..62]), (inner_len + 16, &[(inner_len + 16).to_be_bytes(), [0, 0]].concat()[..]));
            prop_assert!(packet.sport >= FIRST_PORT);
            prop_assert_eq!(checksum::fold(sum), sum_of(&bytes[14..]));
            // Version 6, of the traffic class the ECN bits, no flow label; hop limit.
            prop_assert_eq!((&bytes[14..18], bytes[21]), (&[0x60, (tos & 3) << 4, 0, 0][..], 64));
        }
    }

    /// Wraps a frame as who sends it does; the outer headers and the identification that was asked for.
    fn wrapped<F: Family>(inner: &[u8], any: u16) -> Vec<u8> {
        let mut frame = vec![0u8; LEN];
        frame.extend_from_slice(inner);
        let config = Config { tunnel_addr4: [192, 168, 7, 1], data_port: 4789, ..Config::NONE };
        let peer = Peer { addr: V4::to_16([192, 168, 7, 2].into()), ..Peer::NONE };
        assert!(inner.len() >= shortest::<F>());
        // SAFETY: as many bytes are there, and any bytes are one.
        let mut there = unsafe { frame.as_ptr().cast::<Wrapped<V4, F>>().read_unaligned() };
        there.wrap(&config, &peer, 4097, inner.len() as u16, || any);
        there.outer.into_iter().flat_map(u16::to_ne_bytes).collect()
    }

    #[test]
    fn outside_says_what_the_inner_packet_says_of_either_family() {
        let mut v4 = vec![2; 12];
        v4.extend_from_slice(&[8, 0, 0x45, 0xb9, 0, 28, 0x12, 0x34, 0, 0, 64, 17, 0, 0, 10, 0, 16, 3, 10, 0, 16, 4]);
        v4.extend_from_slice(&[0x9c, 0x40, 0, 53, 0, 8, 0, 0]);
        // Traffic class b9, a flow label behind it.
        let mut v6 = vec![2; 12];
        v6.extend_from_slice(&[0x86, 0xdd, 0x6b, 0x91, 0x23, 0x45, 0, 8, 17, 64]);
        v6.extend((1..=32).chain([0x9c, 0x40, 0, 53, 0, 8, 0, 0]));
        let (of_4, of_6) = (wrapped::<V4>(&v4, 7), wrapped::<V6>(&v6, 0x0abcu16.to_be()));
        assert_eq!((of_4[15], &of_4[18..20]), (1, &[0x12, 0x34][..]), "ECN and identification of its own");
        assert_eq!((of_6[15], &of_6[18..20]), (1, &[0x0a, 0xbc][..]), "ECN, and an identification from elsewhere");
        assert_eq!((&of_4[16..18], &of_6[16..18]), (&[0, 78][..], &[0, 98][..]), "total length");
        let port = |frame: &[u8]| u16::from_be_bytes([frame[34], frame[35]]);
        // Another packet of the flow goes by the same port, one of another flow by another.
        let same = |at: usize, byte: u8| {
            let mut other = v6.clone();
            other[at] = byte;
            port(&wrapped::<V6>(&other, 9))
        };
        assert_eq!([same(18, 0x55), same(21, 255), same(17, 0x77)], [port(&of_6); 3], "length, hop limit, flow label");
        for at in [22, 37, 38, 53, 54, 57] {
            assert_ne!(same(at, 0xee), port(&of_6), "byte {at}");
        }
    }

    #[test]
    fn what_says_more_than_a_vni_is_not_read() {
        for (bytes, vni, at) in [
            (over_ipv4(4097, 0, 0, 0, 64).0, (|frame| vni::<V4>(&frame)) as fn(&[u8]) -> Option<u32>, 42),
            (over_ipv6(4097, 0, 0, 64).0, |frame| vni::<V6>(&frame), 62),
        ] {
            assert_eq!(vni(&bytes), Some(4097));
            for (at, value) in [(at, 0), (at, 0x0c), (at + 7, 1)] {
                let mut changed = bytes.clone();
                changed[at] = value;
                assert_eq!(vni(&changed), None, "byte {at}");
            }
        }
    }
}
