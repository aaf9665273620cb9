//! Datagrams in one go: many of one size are handed to the kernel as one packet, which it, or a device, cuts as late as it can
//! (UDP_SEGMENT, udp(7)). Video and QUIC are sent so.
//!
//! Both ways, between us and a `whoami`: what we send comes back datagram by datagram, and what it sends comes in one go. Every byte is judged.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt};

/// A burst there and one back, of `count` datagrams of `size` bytes each; all must have come after `limit`.
pub fn burst(to: SocketAddr, count: u32, size: u16, limit: Duration) -> Result<()> {
    let wildcard: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(wildcard)?;
    socket.connect(to).with_context(|| format!("no way to {to}"))?;
    let echo = |n: u32| -> Vec<u8> {
        let head = b"echo".iter().copied().chain(n.to_be_bytes());
        head.chain((0..251u8).cycle().skip(n as usize % 251)).take(usize::from(size)).collect()
    };
    setsockopt(&socket, sockopt::UdpGsoSegment, &i32::from(size)).context("asking for UDP_SEGMENT")?;
    let all: Vec<u8> = (0..count).flat_map(echo).collect();
    socket.send(&all).with_context(|| format!("sending {count} datagrams at once to {to}"))?;
    gather(&socket, count, 4, &echo, limit).with_context(|| format!("a burst to {to}, echoed"))?;
    setsockopt(&socket, sockopt::UdpGsoSegment, &0).context("doing without UDP_SEGMENT")?;
    socket.send(format!("burst {count} {size}").as_bytes())?;
    let pattern =
        |n: u32| -> Vec<u8> { n.to_be_bytes().into_iter().chain((0..251u8).cycle()).take(usize::from(size)).collect() };
    gather(&socket, count, 0, &pattern, limit).with_context(|| format!("a burst from {to}"))
}

/// Until each datagram has come, in any order; its number stands at `number_at`.
fn gather(
    socket: &UdpSocket,
    count: u32,
    number_at: usize,
    wanted: &dyn Fn(u32) -> Vec<u8>,
    limit: Duration,
) -> Result<()> {
    let deadline = Instant::now() + limit;
    let mut missing: Vec<u32> = (0..count).collect();
    let mut buffer = vec![0; 1 << 16];
    while !missing.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        socket.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
        let received = socket.recv(&mut buffer);
        let size = received.with_context(|| format!("{} of {count} datagrams are missing", missing.len()))?;
        let datagram = &buffer[..size];
        let number = datagram.get(number_at..number_at + 4).and_then(|bytes| bytes.try_into().ok());
        let number = u32::from_be_bytes(number.with_context(|| format!("a datagram of {size} bytes"))?);
        ensure!(number < count && datagram == wanted(number), "datagram {number} of {size} bytes arrived wrong");
        missing.retain(|one| *one != number);
    }
    Ok(())
}
