//! IPv6 in a frame: its header (RFC 8200, 3), and the extension headers between that and the transport's (RFC 8200, 4).
//!
//! The usual packet has none, and is read without a look for them ([`crate::parse::plain`]). Invariant: what has more of them than are read here, or
//! some that contradict the packet's length, is malformed, and never taken for a packet with other ports than its receiver will see.

use crate::family::{Addr6, Family, V6};
use crate::parse::{Cursor, ETHERNET_LEN, Ip, ParseIp, Plain};
use crate::word;

/// An IPv6 header (RFC 8200, 3) as it lies in a packet.
#[repr(C)]
#[derive(Clone, Copy)]
struct Ipv6Header {
    version_class: [u8; 2],
    label: u16,
    payload_len: u16,
    next: u8,
    hop_limit: u8,
    src: [u32; 4],
    dst: [u32; 4],
}

// SAFETY: integers and byte arrays, each at a multiple of its alignment from the start, the size even: no padding. Words are read as such.
unsafe impl Plain for Ipv6Header {
    #[inline(always)]
    unsafe fn read(at: *const Self) -> Self {
        // SAFETY: fields of what the caller vouches for, bytes and two bytes at even addresses; the words are from 8 and from 24 bytes behind its
        // beginning on.
        unsafe {
            Ipv6Header {
                version_class: (&raw const (*at).version_class).read(),
                label: (&raw const (*at).label).read(),
                payload_len: (&raw const (*at).payload_len).read(),
                next: (&raw const (*at).next).read(),
                hop_limit: (&raw const (*at).hop_limit).read(),
                src: [
                    word::read::<_, 8>(at),
                    word::read::<_, 12>(at),
                    word::read::<_, 16>(at),
                    word::read::<_, 20>(at),
                ],
                dst: [
                    word::read::<_, 24>(at),
                    word::read::<_, 28>(at),
                    word::read::<_, 32>(at),
                    word::read::<_, 36>(at),
                ],
            }
        }
    }
}

const _: () = assert!(size_of::<Ipv6Header>() == V6::HEADER_LEN);

/// Offset of what follows an IPv6 header.
const BEHIND_IPV6: u8 = (ETHERNET_LEN + V6::HEADER_LEN) as u8;
/// So many extension headers are read, and as far as this offset in the frame; what has more is malformed to us.
const MOST_EXTENSIONS: usize = 4;
const LAST_L4: u16 = 200;
/// Extension headers (RFC 8200, section 4): hop-by-hop options, routing, fragment, destination options.
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const OPTIONS: u8 = 60;
/// Of a fragment header: the offset, and "more fragments" (RFC 8200, 4.5).
const OFFSET: u16 = 0xfff8;
const MORE: u16 = 1;

/// This header is one that [`extensions`] reads.
#[inline(always)]
const fn is_extension(next: u8) -> bool {
    matches!(next, HOP_BY_HOP | ROUTING | FRAGMENT | OPTIONS)
}

/// What stands behind the extension headers.
struct Behind {
    protocol: u8,
    l4: u8,
    later_fragment: bool,
    /// Offset of the fragment header in the frame, of one of several fragments; else 0.
    piece_at: u8,
}

impl Behind {
    /// In one register, as a real call gives it.
    #[inline(always)]
    const fn code(&self) -> u32 {
        self.l4 as u32 | (self.protocol as u32) << 8 | (self.later_fragment as u32) << 16 | (self.piece_at as u32) << 24
    }

    /// Back from there; None: headers that can't be read.
    #[inline(always)]
    const fn of_code(code: u32) -> Option<Behind> {
        let l4 = code as u8;
        if l4 < BEHIND_IPV6 {
            return None;
        }
        let (protocol, piece_at) = ((code >> 8) as u8, (code >> 24) as u8);
        Some(Behind { protocol, l4, later_fragment: code & 1 << 16 != 0, piece_at })
    }
}

/// Walks extension headers. A routing header that has places left to go is refused: the address that counts is not the destination (RFC 8200,
/// 4.4). A real call, for it is rare: 0 or [`Behind::code`].
#[inline(never)]
fn extensions(cursor: &impl Cursor, first: u8) -> u32 {
    let mut behind = Behind { protocol: first, l4: BEHIND_IPV6, later_fragment: false, piece_at: 0 };
    for _ in 0..MOST_EXTENSIONS {
        if !is_extension(behind.protocol) {
            break;
        }
        // Next header, length in eight bytes without the first eight; of a routing header its type and what is left; of a fragment the offset.
        let Some([next, len, high, low]) = cursor.load::<[u8; 4]>(behind.l4 as usize) else { return 0 };
        let mut step = (len as u16 + 1) * 8;
        match behind.protocol {
            ROUTING if low != 0 => return 0,
            FRAGMENT => {
                step = 8;
                let place = u16::from_be_bytes([high, low]);
                behind.later_fragment = place & OFFSET != 0;
                // A datagram in one fragment is whole (RFC 6946).
                if place & (OFFSET | MORE) != 0 {
                    behind.piece_at = behind.l4;
                }
            }
            _ => {}
        }
        let l4 = behind.l4 as u16 + step;
        if l4 > LAST_L4 {
            return 0;
        }
        (behind.protocol, behind.l4) = (next, l4 as u8);
        if behind.later_fragment {
            return behind.code();
        }
    }
    if is_extension(behind.protocol) { 0 } else { behind.code() }
}

impl ParseIp for V6 {
    #[inline(always)]
    fn ip(cursor: &impl Cursor) -> Option<Ip<V6>> {
        let header: Ipv6Header = cursor.load(ETHERNET_LEN)?;
        if header.version_class[0] >> 4 != 6 {
            return None;
        }
        let behind = u16::from_be(header.payload_len);
        let mut ip = Ip {
            src: Addr6::of_words(header.src),
            dst: Addr6::of_words(header.dst),
            protocol: header.next,
            l4: BEHIND_IPV6,
            l4_len: behind,
            later_fragment: false,
            is_piece: false,
        };
        if is_extension(header.next) {
            let found = Behind::of_code(extensions(cursor, header.next))?;
            ip.l4_len = behind.checked_sub((found.l4 - BEHIND_IPV6) as u16)?;
            (ip.protocol, ip.l4, ip.later_fragment) = (found.protocol, found.l4, found.later_fragment);
            ip.is_piece = found.piece_at != 0;
        }
        Some(ip)
    }

    #[inline(always)]
    fn plain(cursor: &impl Cursor) -> Option<Ip<V6>> {
        let header: Ipv6Header = cursor.peek(ETHERNET_LEN)?;
        let is_plain = header.version_class[0] >> 4 == 6;
        is_plain.then_some(Ip {
            src: Addr6::of_words(header.src),
            dst: Addr6::of_words(header.dst),
            protocol: header.next,
            l4: BEHIND_IPV6,
            l4_len: u16::from_be(header.payload_len),
            later_fragment: false,
            is_piece: false,
        })
    }

    #[inline(always)]
    fn fragment_id(cursor: &impl Cursor) -> Option<u32> {
        let header: Ipv6Header = cursor.load(ETHERNET_LEN)?;
        let at = Behind::of_code(extensions(cursor, header.next))?.piece_at;
        if at == 0 {
            return None;
        }
        cursor.load::<[u8; 4]>(at as usize + 4).map(u32::from_be_bytes)
    }

    #[inline(always)]
    fn is_extension(number: u8) -> bool {
        is_extension(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{Form, packet, protocol};

    /// 2001:db8::1 → 2001:db8::2 with these headers behind the IPv6 header, whose first is `next`, and a UDP datagram 40000 → 53 of 8 bytes.
    fn ipv6(next: u8, headers: &[u8]) -> Vec<u8> {
        let mut frame = vec![0xe6, 0x10, 0, 0, 0, 0, 0xe6, 0x11, 0, 0, 0, 7, 0x86, 0xdd, 0x60, 0, 0, 0];
        frame.extend_from_slice(&(headers.len() as u16 + 8).to_be_bytes());
        frame.extend_from_slice(&[next, 64]);
        for last in [1, 2] {
            frame.extend_from_slice(&[0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
        frame.extend_from_slice(headers);
        frame.extend_from_slice(&[0x9c, 0x40, 0, 53, 0, 8, 0, 0]);
        frame
    }

    #[test]
    fn extension_headers_are_walked_to_the_ports() {
        const PAD: [u8; 6] = [1, 4, 0, 0, 0, 0];
        let hop_by_hop = [&[OPTIONS, 0][..], &PAD].concat();
        let options = [&[FRAGMENT, 0][..], &PAD].concat();
        let first_fragment = [protocol::UDP, 0, 0, 1, 0, 0, 0, 7];
        for (next, headers) in [
            (protocol::UDP, Vec::new()),
            (HOP_BY_HOP, [&[protocol::UDP, 0][..], &PAD].concat()),
            (HOP_BY_HOP, [hop_by_hop, options, first_fragment.to_vec()].concat()),
            (ROUTING, vec![protocol::UDP, 0, 4, 0, 0, 0, 0, 0]),
        ] {
            let frame = ipv6(next, &headers);
            let p = packet::<V6>(&&frame[..]).expect("it is whole");
            assert_eq!((p.form, p.sport, p.dport, p.protocol, p.l4_len), (Form::Ports, 40_000, 53, protocol::UDP, 8));
            assert_eq!(p.l4 as usize, 54 + headers.len());
            let (src, dst) = (p.src.octets(), p.dst.octets());
            assert_eq!((src[15], dst[15], &src[..4]), (1, 2, &[0x20, 0x01, 0x0d, 0xb8][..]));
        }
    }

    #[test]
    fn of_a_later_fragment_the_ports_are_unknown_in_either_family() {
        let frame = ipv6(FRAGMENT, &[protocol::UDP, 0, 0, 8, 0, 0, 0, 7]);
        let p = packet::<V6>(&&frame[..]).unwrap();
        assert_eq!((p.form, p.sport, p.protocol), (Form::Fragment, 0, protocol::UDP));
    }

    #[test]
    fn a_fragment_is_a_piece_and_has_its_datagrams_number() {
        const PAD: [u8; 6] = [1, 4, 0, 0, 0, 0];
        // The first and a later one; behind options, too; one that is the whole datagram (RFC 6946).
        let fragment = |place: u16| {
            let [high, low] = place.to_be_bytes();
            [protocol::UDP, 0, high, low, 1, 2, 3, 4]
        };
        let behind_options = [&[FRAGMENT, 0][..], &PAD, &fragment(1)].concat();
        for (next, headers, form, id) in [
            (FRAGMENT, fragment(1).to_vec(), Form::Ports, Some(0x0102_0304)),
            (FRAGMENT, fragment(16).to_vec(), Form::Fragment, Some(0x0102_0304)),
            (OPTIONS, behind_options, Form::Ports, Some(0x0102_0304)),
            // Options behind it: only the first one has them.
            (
                FRAGMENT,
                [&[OPTIONS, 0, 0, 1, 1, 2, 3, 4, protocol::UDP, 0][..], &PAD].concat(),
                Form::Ports,
                Some(0x0102_0304),
            ),
            (FRAGMENT, vec![OPTIONS, 0, 0, 16, 1, 2, 3, 4], Form::Fragment, Some(0x0102_0304)),
            (FRAGMENT, fragment(0).to_vec(), Form::Ports, None),
            (protocol::UDP, Vec::new(), Form::Ports, None),
        ] {
            let frame = ipv6(next, &headers);
            let p = packet::<V6>(&&frame[..]).expect("it is whole");
            assert_eq!((p.form, p.is_piece, V6::fragment_id(&&frame[..])), (form, id.is_some(), id), "{headers:?}");
        }
    }

    #[test]
    fn extension_headers_without_an_end_are_malformed() {
        let endless = [HOP_BY_HOP, 0, 1, 4, 0, 0, 0, 0].repeat(MOST_EXTENSIONS + 1);
        let long = [&[protocol::UDP, 20][..], &[0; 166]].concat();
        let on_its_way = [protocol::UDP, 2, 4, 1, 0, 0, 0, 0].repeat(3);
        let beyond = [protocol::UDP, 5, 0, 0, 0, 0, 0, 0];
        for (next, headers) in
            [(HOP_BY_HOP, &endless[..]), (OPTIONS, &long), (ROUTING, &on_its_way), (OPTIONS, &beyond)]
        {
            assert_eq!(packet::<V6>(&&ipv6(next, headers)[..]), None, "{headers:?}");
        }
        assert_eq!(packet::<V6>(&&ipv6(HOP_BY_HOP, &[])[..56]), None, "cut short");
        // A first fragment without all of its headers (RFC 7112, section 5).
        let first = ipv6(FRAGMENT, &[OPTIONS, 0, 0, 1, 1, 2, 3, 4, protocol::UDP, 0, 1, 4, 0, 0, 0, 0]);
        assert_eq!(packet::<V6>(&&first[..70]), None);
    }
}
