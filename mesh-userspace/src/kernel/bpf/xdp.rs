//! `xdp_uplink` in the drivers of uplinks: attached, pinned, swapped under its links.
//!
//! An accelerator, so nothing here stops the agent: what a driver or the kernel refuses is told, and TC serves that uplink alone.
//! Links are made by bpf(2) itself: where the kernel says EINVAL, aya attaches by netlink instead, which can't be pinned and stays when
//! this process dies. Invariant: our program is on a device by a pinned link or not at all. Must not: choose devices, or replace a program
//! of somebody else's.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use aya::programs::Xdp;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::xdp::XdpLink;

use super::Dataplane;
use super::attach::{interface_name, pins};
use super::pin::{chain, replace};

/// Name of the program, in the object and under `progs/`.
pub const PROGRAM: &str = "xdp_uplink";
/// Pins of links: this, a dash, the interface's index. The kernel does not tell a link's mode, so the name does.
const NATIVE: &str = "xdp_uplink";
const GENERIC: &str = "xdp_uplink_generic";
/// A driver that refused may have stopped its queues to find out: it is not asked again sooner.
const ASK_AGAIN: Duration = Duration::from_secs(60);

// linux/bpf.h and linux/if_link.h.
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_DETACH: libc::c_long = 34;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_SKB_MODE: u32 = 2;
const XDP_FLAGS_DRV_MODE: u32 = 4;

/// The program on an uplink.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct XdpAttachment {
    pub interface: String,
    pub ifindex: u32,
    /// In the driver; else generic: by the stack, for every device, as slow as TC.
    pub is_native: bool,
}

/// Why an uplink is left to TC.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum XdpError {
    /// EBUSY, EEXIST.
    #[error("another XDP program is on {interface}, or on the bond it belongs to")]
    Taken { interface: String },
    /// EOPNOTSUPP.
    #[error("the driver of {interface} runs no XDP programs")]
    NoDriverSupport { interface: String },
    /// Whatever else attaching ended with.
    #[error("{interface} refused the XDP program: {reason}")]
    Refused { interface: String, reason: String },
    /// The kernel did not load it.
    #[error("the kernel refused to load the XDP program: {reason}")]
    NotLoaded { reason: String },
    /// The link could not be pinned, or its pin not be taken away.
    #[error("the XDP link of {interface}: {reason}")]
    Pin { interface: String, reason: String },
}

impl XdpError {
    /// What its reader can do.
    pub fn remedy(&self) -> String {
        match self {
            XdpError::Taken { interface } => format!(
                "it stays; `bpftool net show dev {interface}` tells whose it is: take it away, or start the agent with --xdp off"
            ),
            XdpError::NoDriverSupport { .. } => "start the agent with --xdp off or --xdp auto".to_string(),
            XdpError::Refused { interface, .. } => format!(
                "the kernel's log may tell why; often the MTU of {interface} is too large for its driver, or it has too few free queues \
                 (`ethtool -L`). Or start the agent with --xdp off"
            ),
            XdpError::NotLoaded { .. } => "use a newer kernel, or start the agent with --xdp off".to_string(),
            XdpError::Pin { .. } => "look whether --bpf-dir can be written, and restart the agent".to_string(),
        }
    }
}

/// What is attached, and what was refused.
#[derive(Default)]
pub(super) struct XdpState {
    /// Why there is no program to attach.
    not_loaded: Option<String>,
    attached: BTreeMap<String, XdpAttachment>,
    refused: BTreeMap<String, (Instant, XdpError)>,
}

impl XdpAttachment {
    fn pin_name(&self) -> String {
        format!("{}-{}", if self.is_native { NATIVE } else { GENERIC }, self.ifindex)
    }

    /// None for pins of other hooks.
    fn from_pin_name(name: &str) -> Option<(u32, bool)> {
        let (kind, index) = name.rsplit_once('-')?;
        let is_native = match kind {
            NATIVE => true,
            GENERIC => false,
            _ => return None,
        };
        Some((index.parse().ok()?, is_native))
    }
}

impl Dataplane {
    /// Loads the program, pins it, and puts it under the links that an earlier agent pinned. What can't be adopted is detached, and attached
    /// anew by the first round: TC carries on between.
    pub(super) fn adopt_xdp(&mut self) {
        if let Err(reason) = self.load_xdp() {
            log::warn!("load the XDP program: {reason}; published ports are served at TC alone");
            self.xdp.not_loaded = Some(reason);
        }
        for path in pins(&self.dir.join("links")).unwrap_or_default() {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let Some((ifindex, is_native)) = XdpAttachment::from_pin_name(&name) else { continue };
            let swapped = match interface_name(ifindex) {
                Some(interface) => self.swap_under(&path).map(|()| XdpAttachment { interface, ifindex, is_native }),
                None => Err("its device is gone".to_string()),
            };
            match swapped {
                Ok(attachment) => drop(self.xdp.attached.insert(name, attachment)),
                Err(reason) => {
                    log::info!("the XDP link {name} of an earlier agent is taken away: {reason}");
                    if let Err(error) = take_away(&path) {
                        log::warn!("unpin {}: {error}", path.display());
                    }
                }
            }
        }
    }

    /// Makes the attachments exactly these; gives those that could not be made, and why.
    pub fn attach_xdp(&mut self, wanted: &BTreeSet<XdpAttachment>) -> Vec<(XdpAttachment, XdpError)> {
        let wanted: BTreeMap<String, &XdpAttachment> = wanted.iter().map(|one| (one.pin_name(), one)).collect();
        let mut errors = Vec::new();
        // First: a device has room for one program, and may be wanted in the other mode now. Links that were cut off by force, or that went
        // with a device whose number another one has now, are made anew.
        let unwanted: Vec<String> =
            self.xdp.attached.keys().filter(|name| !wanted.contains_key(*name) || !self.is_on(name)).cloned().collect();
        for name in unwanted {
            match take_away(&self.dir.join("links").join(&name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    let attachment = self.xdp.attached[&name].clone();
                    let (interface, reason) = (attachment.interface.clone(), format!("unpin it: {error}"));
                    errors.push((attachment, XdpError::Pin { interface, reason }));
                }
                _ => drop(self.xdp.attached.remove(&name)),
            }
        }
        self.xdp.refused.retain(|name, _| wanted.contains_key(name));
        for (name, attachment) in wanted {
            if self.xdp.attached.contains_key(&name) {
                continue;
            }
            let last = self.xdp.refused.get(&name).filter(|(at, _)| at.elapsed() < ASK_AGAIN);
            let outcome = match last {
                Some((_, error)) => Err(error.clone()),
                None => self.attach_driver(attachment, &self.dir.join("links").join(&name)),
            };
            match outcome {
                Ok(()) => {
                    self.xdp.refused.remove(&name);
                    self.xdp.attached.insert(name, attachment.clone());
                }
                Err(error) => {
                    if last.is_none() && matches!(error, XdpError::Refused { .. }) {
                        self.xdp.refused.insert(name, (Instant::now(), error.clone()));
                    }
                    errors.push((attachment.clone(), error));
                }
            }
        }
        errors
    }

    /// The kernel's word on a link of ours.
    fn is_on(&self, name: &str) -> bool {
        link_device(&self.dir.join("links").join(name)).is_ok_and(|ifindex| ifindex != 0)
    }

    fn load_xdp(&mut self) -> Result<(), String> {
        let path = self.dir.join("progs").join(PROGRAM);
        let program = program(&mut self.ebpf)?;
        program.load().map_err(|error| chain(&error))?;
        let pinned = replace(&path, |path| program.pin(path)).map_err(|error| error.to_string())?;
        pinned.map_err(|error| chain(&error))
    }

    fn swap_under(&mut self, path: &Path) -> Result<(), String> {
        let old = PinnedLink::from_pin(path).map_err(|error| chain(&error))?;
        let link = XdpLink::try_from(FdLink::from(old)).map_err(|error: LinkError| chain(&error))?;
        let program = program(&mut self.ebpf)?;
        let id = program.attach_to_link(link).map_err(|error| chain(&error))?;
        // Still pinned: letting go of the file descriptor does not detach.
        program.take_link(id).map(drop).map_err(|error| chain(&error))
    }

    fn attach_driver(&self, attachment: &XdpAttachment, path: &Path) -> Result<(), XdpError> {
        if let Some(reason) = &self.xdp.not_loaded {
            return Err(XdpError::NotLoaded { reason: reason.clone() });
        }
        let loaded = self.ebpf.program(PROGRAM).ok_or("the object has no such program".to_string());
        let program: Result<&Xdp, String> = loaded.and_then(|one| one.try_into().map_err(|error| chain(&error)));
        let fd = program.and_then(|program| program.fd().map_err(|error| chain(&error)));
        let fd = fd.map_err(|reason| XdpError::NotLoaded { reason })?;
        let interface = attachment.interface.clone();
        let mode = if attachment.is_native { XDP_FLAGS_DRV_MODE } else { XDP_FLAGS_SKB_MODE };
        let link = create_link(fd.as_fd(), attachment.ifindex, mode).map_err(|error| match error.raw_os_error() {
            Some(libc::EBUSY | libc::EEXIST) => XdpError::Taken { interface: interface.clone() },
            Some(libc::EOPNOTSUPP) => XdpError::NoDriverSupport { interface: interface.clone() },
            _ => XdpError::Refused { interface: interface.clone(), reason: error.to_string() },
        })?;
        // Where pinning fails the link ends with its descriptor.
        pin_link(link.as_fd(), path).map_err(|error| XdpError::Pin { interface, reason: format!("pin it: {error}") })
    }
}

fn program(ebpf: &mut aya::Ebpf) -> Result<&mut Xdp, String> {
    let program = ebpf.program_mut(PROGRAM).ok_or_else(|| format!("the object has no program {PROGRAM}"))?;
    program.try_into().map_err(|error: aya::programs::ProgramError| chain(&error))
}

/// The part of `union bpf_attr` that BPF_LINK_CREATE reads.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that BPF_LINK_DETACH reads.
#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

/// The part of `union bpf_attr` that BPF_OBJ_PIN and BPF_OBJ_GET read.
#[repr(C)]
struct ObjPin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The part of `union bpf_attr` that BPF_OBJ_GET_INFO_BY_FD reads.
#[repr(C)]
struct GetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The beginning of `struct bpf_link_info`, of an XDP link.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    pad: u32,
    ifindex: u32,
    end: u32,
}

fn create_link(program: BorrowedFd<'_>, ifindex: u32, flags: u32) -> io::Result<OwnedFd> {
    let request =
        LinkCreate { prog_fd: program.as_raw_fd() as u32, target_ifindex: ifindex, attach_type: BPF_XDP, flags };
    bpf(BPF_LINK_CREATE, &request).map(descriptor)
}

/// Detaches a link, then unpins it. The other way round the device would stay taken for a while: the kernel ends a link whose last
/// reference went with a pin later, on a work queue (`bpf_link_put`, kernel/bpf/syscall.c).
fn take_away(path: &Path) -> io::Result<()> {
    let detached = open_link(path).and_then(|link| {
        let request = LinkDetach { link_fd: link.as_raw_fd() as u32 };
        bpf(BPF_LINK_DETACH, &request)
    });
    if let Err(error) = detached {
        // Its pin goes all the same, and the link with it.
        log::debug!("detach {}: {error}", path.display());
    }
    std::fs::remove_file(path)
}

fn open_link(path: &Path) -> io::Result<OwnedFd> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let request = ObjPin { pathname: name.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    bpf(BPF_OBJ_GET, &request).map(descriptor)
}

/// The device that a pinned link is on; 0: it is on none any more.
fn link_device(path: &Path) -> io::Result<u32> {
    let link = open_link(path)?;
    let mut info = LinkInfo::default();
    let request = GetInfo {
        bpf_fd: link.as_raw_fd() as u32,
        info_len: size_of::<LinkInfo>() as u32,
        info: (&raw mut info) as u64,
    };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &request)?;
    Ok(info.ifindex)
}

fn descriptor(fd: i32) -> OwnedFd {
    // SAFETY: a new descriptor that nobody else has.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn pin_link(link: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    let request = ObjPin { pathname: name.as_ptr() as u64, bpf_fd: link.as_raw_fd() as u32, file_flags: 0 };
    bpf(BPF_OBJ_PIN, &request).map(drop)
}

fn bpf<T>(command: libc::c_long, request: &T) -> io::Result<i32> {
    // SAFETY: the request is as long as said, and what it points at lives through the call.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(request), size_of::<T>()) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer as i32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_tells_device_and_mode() {
        for is_native in [true, false] {
            let attachment = XdpAttachment { interface: "eth0".into(), ifindex: 17, is_native };
            assert_eq!(XdpAttachment::from_pin_name(&attachment.pin_name()), Some((17, is_native)));
        }
        for other in ["from_uplink-17", "xdp_uplink", "xdp_uplink-17_next", "host_connect4"] {
            assert_eq!(XdpAttachment::from_pin_name(other), None, "{other}");
        }
    }
}
