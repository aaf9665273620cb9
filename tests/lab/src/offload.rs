//! Offloads of a device, by the ethtool ioctl: whether checksums are filled in and segments cut before the cable or after.
//!
//! On a veth pair unfinished checksums and 64 KB segments cross the "cable" unless they are switched off, and a wrong checksum
//! goes unseen. The checksum tests need all three shapes of prototype.md.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};

/// What a device leaves to whoever comes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offloads {
    /// The kernel's usual: everything on.
    On,
    /// Checksums complete and segments cut when a frame leaves, as on a real cable. Received frames may be merged.
    TransmitOff,
    /// As `TransmitOff`, and nothing merged on arrival.
    AllOff,
}

// Commands of linux/ethtool.h.
const SET_RX_CHECKSUM: u32 = 0x15;
const SET_TX_CHECKSUM: u32 = 0x17;
const SET_SCATTER_GATHER: u32 = 0x19;
const SET_TSO: u32 = 0x1f;
const SET_GSO: u32 = 0x24;
const SET_GRO: u32 = 0x2c;
const SET_FLAGS: u32 = 0x26;
/// ETH_FLAG_TXVLAN and ETH_FLAG_RXVLAN there.
const TAGS_BESIDE: u32 = 1 << 7 | 1 << 8;
const SIOCETHTOOL: libc::c_ulong = 0x8946;

/// Sets the offloads of `device` in the namespace of the calling thread.
pub fn set(device: &str, offloads: Offloads) -> Result<()> {
    let transmit = u32::from(offloads == Offloads::On);
    let receive = u32::from(offloads != Offloads::AllOff);
    for (command, value) in [
        (SET_SCATTER_GATHER, transmit),
        (SET_TX_CHECKSUM, transmit),
        (SET_TSO, transmit),
        (SET_GSO, transmit),
        (SET_RX_CHECKSUM, receive),
        (SET_GRO, receive),
    ] {
        one(device, command, value).with_context(|| format!("can't set offloads of {device} to {offloads:?}"))?;
    }
    Ok(())
}

/// Leaves VLAN tags in the frames of `device`, where a veth would hand them over beside the frame, out of XDP's sight.
pub fn keep_tags_in_frames(device: &str) -> Result<()> {
    // ETH_FLAG_TXVLAN and ETH_FLAG_RXVLAN off; a veth has none of the other flags.
    one(device, SET_FLAGS, 0).with_context(|| format!("can't leave VLAN tags in the frames of {device}"))
}

/// Hands VLAN tags of what `device` sends over beside the frames, as a veth does by itself: the receiver's XDP program sees none.
pub fn put_tags_beside_frames(device: &str) -> Result<()> {
    one(device, SET_FLAGS, TAGS_BESIDE).with_context(|| format!("can't put VLAN tags beside the frames of {device}"))
}

fn one(device: &str, command: u32, value: u32) -> Result<()> {
    ensure!(device.len() < libc::IFNAMSIZ, "device name {device} is too long");
    // SAFETY: socket(2) with constants; the result is checked before use.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    ensure!(fd >= 0, "no socket: {}", io::Error::last_os_error());
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // struct ethtool_value of linux/ethtool.h: the command, then its value.
    let mut argument = [command, value];
    // SAFETY: ifreq is plain numbers and a pointer, for which zero is a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = argument.as_mut_ptr().cast();
    // SAFETY: the kernel reads and writes one ethtool_value behind the pointer, which lives through the call.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result < 0 {
        let error = io::Error::last_os_error();
        // A device that can't change a feature that is already as wanted says EOPNOTSUPP.
        ensure!(error.raw_os_error() == Some(libc::EOPNOTSUPP), "ethtool command {command:#x}: {error}");
    }
    Ok(())
}
