//! ICMP echo without ping(8), which a bare machine may not have.

use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Echo requests sent, and the round trips of those answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Echoes {
    pub sent: usize,
    pub round_trips: Vec<Duration>,
}

impl Echoes {
    pub fn all_answered(&self) -> bool {
        self.round_trips.len() == self.sent
    }

    pub fn none_answered(&self) -> bool {
        self.round_trips.is_empty()
    }
}

/// Sends `count` echo requests one after the other, each with `limit` to be answered.
pub fn echo(to: Ipv4Addr, count: usize, limit: Duration) -> Result<Echoes> {
    // SAFETY: socket(2) with constants; the result is checked before use.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_ICMP) };
    if fd < 0 {
        return Err(std::io::Error::last_os_error()).context("can't open an ICMP socket; the lab needs root");
    }
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    let id = u16::try_from(fd).unwrap_or(0) ^ (std::process::id() as u16);
    let mut echoes = Echoes { sent: count, round_trips: Vec::new() };
    for sequence in 0..count {
        let sequence = u16::try_from(sequence).context("at most 65535 echoes")?;
        if let Some(took) = one(&socket, to, id, sequence, limit)? {
            echoes.round_trips.push(took);
        }
    }
    Ok(echoes)
}

fn one(socket: &OwnedFd, to: Ipv4Addr, id: u16, sequence: u16, limit: Duration) -> Result<Option<Duration>> {
    let mut request = [8, 0, 0, 0, 0, 0, 0, 0];
    request[4..6].copy_from_slice(&id.to_be_bytes());
    request[6..8].copy_from_slice(&sequence.to_be_bytes());
    // The sum of the four words, complemented (RFC 1071).
    let sum = (0x0800 + u32::from(id)) + u32::from(sequence);
    let folded = (sum & 0xffff) + (sum >> 16);
    request[2..4].copy_from_slice(&(!((folded & 0xffff) + (folded >> 16)) as u16).to_be_bytes());

    let started = Instant::now();
    let address = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from(to).to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: both buffers live through the call and their lengths are right.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            request.as_ptr().cast(),
            request.len(),
            0,
            (&raw const address).cast(),
            size_of::<libc::sockaddr_in>() as libc::socklen_t,
        )
    };
    if sent < 0 {
        // No route, or the cable is cut: an echo that is not answered, not a broken lab.
        return Ok(None);
    }
    loop {
        let left = limit.saturating_sub(started.elapsed());
        if left.is_zero() {
            return Ok(None);
        }
        set_receive_timeout(socket, left)?;
        let mut buffer = [0u8; 256];
        // SAFETY: the buffer lives through the call and its length is right.
        let size = unsafe { libc::recv(socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
        let Ok(size) = usize::try_from(size) else { continue };
        let Some(reply) = buffer.get((usize::from(buffer[0] & 15) * 4)..size) else { continue };
        if reply.len() >= 8 && reply[0] == 0 && reply[4..8] == request[4..8] {
            return Ok(Some(started.elapsed()));
        }
    }
}

fn set_receive_timeout(socket: &OwnedFd, limit: Duration) -> Result<()> {
    // SAFETY: timeval is plain numbers, for which zero is a value.
    let mut value: libc::timeval = unsafe { MaybeUninit::zeroed().assume_init() };
    value.tv_sec = limit.as_secs() as libc::time_t;
    value.tv_usec = (limit.subsec_micros().max(1)).into();
    // SAFETY: the option's type is timeval, and the size given is its size.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVTIMEO,
            (&raw const value).cast(),
            size_of::<libc::timeval>() as libc::socklen_t,
        )
    };
    if result < 0 { Err(std::io::Error::last_os_error()).context("can't set a time limit") } else { Ok(()) }
}
