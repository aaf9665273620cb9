//! Wire format of SWIM messages. Fixed and bounds-checked: what arrives here is authentic, but may be of another version.
//!
//! ```text
//! peer    id 16 | port 2 | life 8 | 4 and IPv4, or 6 and IPv6
//! member  peer | incarnation 2 | state 1 (0 alive, 1 suspect, 2 down)
//! header  peer (source) | incarnation 2 | peer (destination) | kind 1 | what the kind needs
//! ```
//! Big endian throughout.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use bytes::{Buf, BufMut};
use foca::{Codec, Header, Member, Message, State};

use super::Peer;
use crate::membership::wire::RawId;

/// The bytes are no SWIM message of this version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a SWIM message of this version")]
pub struct Malformed;

/// Without state; foca wants a value.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerCodec;

impl Codec<Peer> for PeerCodec {
    type Error = Malformed;

    fn encode_header(&mut self, header: &Header<Peer>, mut buf: impl BufMut) -> Result<(), Malformed> {
        put_peer(&header.src, &mut buf)?;
        put_u16(header.src_incarnation, &mut buf)?;
        put_peer(&header.dst, &mut buf)?;
        let (kind, peer, number) = match &header.message {
            Message::Ping(number) => (0, None, Some(*number)),
            Message::Ack(number) => (1, None, Some(*number)),
            Message::PingReq { target, probe_number } => (2, Some(target), Some(*probe_number)),
            Message::IndirectPing { origin, probe_number } => (3, Some(origin), Some(*probe_number)),
            Message::IndirectAck { target, probe_number } => (4, Some(target), Some(*probe_number)),
            Message::ForwardedAck { origin, probe_number } => (5, Some(origin), Some(*probe_number)),
            Message::Announce => (6, None, None),
            Message::Feed => (7, None, None),
            Message::Gossip => (8, None, None),
            Message::Broadcast => (9, None, None),
            Message::TurnUndead => (10, None, None),
        };
        put_u8(kind, &mut buf)?;
        if let Some(peer) = peer {
            put_peer(peer, &mut buf)?;
        }
        number.map_or(Ok(()), |number| put_u8(number, &mut buf))
    }

    fn decode_header(&mut self, mut buf: impl Buf) -> Result<Header<Peer>, Malformed> {
        let src = take_peer(&mut buf)?;
        let src_incarnation = take_u16(&mut buf)?;
        let dst = take_peer(&mut buf)?;
        let kind = take_u8(&mut buf)?;
        let message = match kind {
            0 => Message::Ping(take_u8(&mut buf)?),
            1 => Message::Ack(take_u8(&mut buf)?),
            2..=5 => {
                let (peer, probe_number) = (take_peer(&mut buf)?, take_u8(&mut buf)?);
                match kind {
                    2 => Message::PingReq { target: peer, probe_number },
                    3 => Message::IndirectPing { origin: peer, probe_number },
                    4 => Message::IndirectAck { target: peer, probe_number },
                    _ => Message::ForwardedAck { origin: peer, probe_number },
                }
            }
            6 => Message::Announce,
            7 => Message::Feed,
            8 => Message::Gossip,
            9 => Message::Broadcast,
            10 => Message::TurnUndead,
            _ => return Err(Malformed),
        };
        Ok(Header { src, src_incarnation, dst, message })
    }

    fn encode_member(&mut self, member: &Member<Peer>, mut buf: impl BufMut) -> Result<(), Malformed> {
        put_peer(member.id(), &mut buf)?;
        put_u16(member.incarnation(), &mut buf)?;
        let state = match member.state() {
            State::Alive => 0,
            State::Suspect => 1,
            State::Down => 2,
        };
        put_u8(state, &mut buf)
    }

    fn decode_member(&mut self, mut buf: impl Buf) -> Result<Member<Peer>, Malformed> {
        let peer = take_peer(&mut buf)?;
        let incarnation = take_u16(&mut buf)?;
        let state = match take_u8(&mut buf)? {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Down,
            _ => return Err(Malformed),
        };
        Ok(Member::new(peer, incarnation, state))
    }
}

/// foca offers a full buffer and takes an error for "no room": writing must never panic.
fn room(buf: &impl BufMut, bytes: usize) -> Result<(), Malformed> {
    if buf.remaining_mut() >= bytes { Ok(()) } else { Err(Malformed) }
}

fn put_u8(value: u8, buf: &mut impl BufMut) -> Result<(), Malformed> {
    room(buf, 1)?;
    buf.put_u8(value);
    Ok(())
}

fn put_u16(value: u16, buf: &mut impl BufMut) -> Result<(), Malformed> {
    room(buf, 2)?;
    buf.put_u16(value);
    Ok(())
}

fn put_peer(peer: &Peer, buf: &mut impl BufMut) -> Result<(), Malformed> {
    room(buf, 16 + 2 + 8 + 1 + 16)?;
    buf.put_slice(&peer.id.0);
    buf.put_u16(peer.addr.port());
    buf.put_u64(peer.life);
    match peer.addr.ip() {
        IpAddr::V4(ip) => {
            buf.put_u8(4);
            buf.put_slice(&ip.octets());
        }
        IpAddr::V6(ip) => {
            buf.put_u8(6);
            buf.put_slice(&ip.octets());
        }
    }
    Ok(())
}

fn take<const N: usize>(buf: &mut impl Buf) -> Result<[u8; N], Malformed> {
    if buf.remaining() < N {
        return Err(Malformed);
    }
    let mut bytes = [0; N];
    buf.copy_to_slice(&mut bytes);
    Ok(bytes)
}

fn take_u8(buf: &mut impl Buf) -> Result<u8, Malformed> {
    take::<1>(buf).map(|[byte]| byte)
}

fn take_u16(buf: &mut impl Buf) -> Result<u16, Malformed> {
    take(buf).map(u16::from_be_bytes)
}

fn take_peer(buf: &mut impl Buf) -> Result<Peer, Malformed> {
    let id = RawId(take(buf)?);
    let port = take_u16(buf)?;
    let life = u64::from_be_bytes(take(buf)?);
    let ip = match take_u8(buf)? {
        4 => IpAddr::V4(Ipv4Addr::from(take::<4>(buf)?)),
        6 => IpAddr::V6(Ipv6Addr::from(take::<16>(buf)?)),
        _ => return Err(Malformed),
    };
    Ok(Peer { id, addr: SocketAddr::new(ip, port), life })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn peer(byte: u8, addr: &str) -> Peer {
        Peer { id: RawId([byte; 16]), addr: addr.parse().unwrap(), life: u64::from(byte) << 40 }
    }

    #[test]
    fn every_message_survives_the_wire() {
        let (src, dst) = (peer(1, "192.0.2.1:7946"), peer(2, "[2001:db8::2]:7946"));
        let other = peer(3, "192.0.2.3:1");
        let messages = [
            Message::Ping(7),
            Message::Ack(255),
            Message::PingReq { target: other.clone(), probe_number: 1 },
            Message::IndirectPing { origin: other.clone(), probe_number: 2 },
            Message::IndirectAck { target: other.clone(), probe_number: 3 },
            Message::ForwardedAck { origin: other, probe_number: 4 },
            Message::Announce,
            Message::Feed,
            Message::Gossip,
            Message::Broadcast,
            Message::TurnUndead,
        ];
        for message in messages {
            let header = Header { src: src.clone(), src_incarnation: 513, dst: dst.clone(), message };
            let mut bytes = Vec::new();
            PeerCodec.encode_header(&header, &mut bytes).unwrap();
            assert_eq!(PeerCodec.decode_header(bytes.as_slice()).unwrap(), header);
            for length in 0..bytes.len() {
                assert_eq!(PeerCodec.decode_header(&bytes[..length]), Err(Malformed), "cut to {length}");
            }
        }
        for state in [State::Alive, State::Suspect, State::Down] {
            let member = Member::new(dst.clone(), 9, state);
            let mut bytes = Vec::new();
            PeerCodec.encode_member(&member, &mut bytes).unwrap();
            assert_eq!(PeerCodec.decode_member(bytes.as_slice()).unwrap(), member);
        }
    }

    #[test]
    fn a_full_buffer_is_an_error_and_no_panic() {
        let mut small = [0u8; 20];
        let member = Member::alive(peer(1, "192.0.2.1:7946"));
        assert_eq!(PeerCodec.encode_member(&member, small.as_mut_slice()), Err(Malformed));
    }

    proptest! {
        #[test]
        fn garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = PeerCodec.decode_header(bytes.as_slice());
            let _ = PeerCodec.decode_member(bytes.as_slice());
        }
    }
}
