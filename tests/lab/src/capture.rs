//! Frames of a device, recorded in memory and in a pcap file, without tcpdump.
//!
//! A packet socket sees what tcpdump sees, and also whether a frame's checksum was still to be filled in, which a pcap file can't
//! say. Invariant: a capture never slows the traffic; frames that come faster than they are read are lost and counted nowhere.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};

/// A frame as the device had it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub bytes: Vec<u8>,
    /// False: the transport checksum holds only the pseudo-header's sum; whoever comes later fills it in.
    pub checksum_complete: bool,
    /// Sent by this device (true) or received by it.
    pub outgoing: bool,
}

/// A capture that runs until it is dropped.
#[derive(Debug)]
pub struct Capture {
    frames: Arc<Mutex<Vec<Frame>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    /// Starts on `device` of the calling thread's namespace.
    pub fn start(device: &str, file: &Path) -> Result<Capture> {
        let socket = open(device)?;
        let mut pcap = BufWriter::new(File::create(file).with_context(|| format!("can't write {}", file.display()))?);
        write_pcap_head(&mut pcap)?;
        let (frames, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (kept, stopped) = (Arc::clone(&frames), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                match receive(&socket) {
                    Some(frame) => {
                        // A full disk costs the file, not the capture.
                        let _ = write_pcap_frame(&mut pcap, &frame.bytes);
                        kept.lock().unwrap_or_else(PoisonError::into_inner).push(frame);
                    }
                    None => drop(pcap.flush()),
                }
            }
        });
        Ok(Capture { frames, stop, thread: Some(thread) })
    }

    /// What was seen so far.
    pub fn frames(&self) -> Vec<Frame> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // The thread looks at `stop` at least every 100 ms; if it panicked, its frames so far stand.
            let _ = thread.join();
        }
    }
}

/// Sends a frame, Ethernet header included, from `device` of the calling thread's namespace.
pub(crate) fn send(device: &str, frame: &[u8]) -> Result<()> {
    let socket = open(device)?;
    // SAFETY: the frame is as long as said and lives through the call.
    let sent = unsafe { libc::send(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
    ensure!(sent == frame.len() as isize, "can't send a frame from {device}: {}", std::io::Error::last_os_error());
    Ok(())
}

const EVERY_PROTOCOL: u16 = libc::ETH_P_ALL as u16;

fn open(device: &str) -> Result<OwnedFd> {
    let name = std::ffi::CString::new(device)?;
    // SAFETY: the name is a C string that lives through the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    ensure!(index != 0, "no device {device}");
    let flags = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: socket(2) with constants; the result is checked before use.
    let fd = unsafe { libc::socket(libc::AF_PACKET, flags, i32::from(EVERY_PROTOCOL.to_be())) };
    ensure!(fd >= 0, "no packet socket: {}; the lab needs root", std::io::Error::last_os_error());
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: sockaddr_ll is plain numbers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = EVERY_PROTOCOL.to_be();
    address.sll_ifindex = i32::try_from(index)?;
    // SAFETY: the address lives through the call and its length is right.
    let bound =
        unsafe { libc::bind(fd, (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t) };
    ensure!(bound == 0, "can't listen on {device}: {}", std::io::Error::last_os_error());
    set(&socket, libc::SOL_PACKET, libc::PACKET_AUXDATA, &1i32)?;
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, &(16i32 << 20))?;
    set(&socket, libc::SOL_SOCKET, libc::SO_RCVTIMEO, &libc::timeval { tv_sec: 0, tv_usec: 100_000 })?;
    Ok(socket)
}

fn set<T>(socket: &OwnedFd, level: i32, option: i32, value: &T) -> Result<()> {
    let size = size_of::<T>() as libc::socklen_t;
    // SAFETY: the value lives through the call and its length is right.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, std::ptr::from_ref(value).cast(), size) };
    ensure!(result == 0, "socket option {option}: {}", std::io::Error::last_os_error());
    Ok(())
}

/// The next frame; None where none came for a moment.
fn receive(socket: &OwnedFd) -> Option<Frame> {
    let mut bytes = vec![0u8; 65_536 + 256];
    // Room for one control message with tpacket_auxdata, aligned as the kernel's macros want it.
    let mut control = [0u64; 16];
    // SAFETY: both structures are plain numbers and pointers, for which zero is a value.
    let (mut from, mut message): (libc::sockaddr_ll, libc::msghdr) = unsafe { std::mem::zeroed() };
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    message.msg_name = (&raw mut from).cast();
    message.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: every pointer in the message is to a buffer that lives through the call, with its true length.
    let size = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    bytes.truncate(usize::try_from(size).ok()?);
    Some(Frame {
        bytes,
        checksum_complete: status_of(&message) & libc::TP_STATUS_CSUMNOTREADY == 0,
        outgoing: from.sll_pkttype == libc::PACKET_OUTGOING,
    })
}

fn status_of(message: &libc::msghdr) -> u32 {
    // SAFETY: the kernel filled the control buffer, and the macros walk it within msg_controllen.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while let Some(here) = header.as_ref() {
            if here.cmsg_level == libc::SOL_PACKET && here.cmsg_type == libc::PACKET_AUXDATA {
                return libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>().read_unaligned().tp_status;
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    0
}

/// Head of a classic pcap file: magic for microseconds, version 2.4, no limit, Ethernet.
fn write_pcap_head(out: &mut impl Write) -> std::io::Result<()> {
    for word in [0xa1b2_c3d4u32, 0x0004_0002, 0, 0, 262_144, 1] {
        out.write_all(&word.to_ne_bytes())?;
    }
    Ok(())
}

fn write_pcap_frame(out: &mut impl Write, bytes: &[u8]) -> std::io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let length = bytes.len() as u32;
    for word in [now.as_secs() as u32, now.subsec_micros(), length, length] {
        out.write_all(&word.to_ne_bytes())?;
    }
    out.write_all(bytes)
}
