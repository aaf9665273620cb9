//! Somebody else's packet program: two instructions that let everything pass, attached by a link that ends with its value. The wire shape of
//! the lab has it on its switch as well, for as long as the device lives.
//!
//! By bpf(2) itself: the loader that mesh uses must not vouch for what mesh finds. Affects nothing: it passes what others would pass.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};

// linux/bpf.h: commands, program types, attach types.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_LINK_CREATE: libc::c_long = 28;
const SCHED_CLS: u32 = 3;
const XDP: u32 = 6;
const CGROUP_SOCK_ADDR: u32 = 18;
const CGROUP_INET4_CONNECT: u32 = 10;
const ATTACH_XDP: u32 = 37;
const TCX_INGRESS: u32 = 46;
/// The generic mode, which every device has.
const XDP_FLAGS_SKB_MODE: u32 = 2;
/// The driver's own.
const XDP_FLAGS_DRV_MODE: u32 = 4;
/// The program takes frames of several buffers, so that it does not limit the MTU.
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
/// Verdicts: "the next one decides", "pass", "allowed".
const TCX_NEXT: i32 = -1;
const XDP_PASS: i32 = 2;
const ALLOWED: i32 = 1;

/// Attached while this lives.
#[derive(Debug)]
pub struct Stranger {
    _link: OwnedFd,
}

impl Stranger {
    /// At the ingress of a device of the calling thread's network namespace, by TCX.
    pub fn at_tcx(name: &str, ifindex: u32) -> Result<Stranger> {
        attach(name, (SCHED_CLS, 0, TCX_NEXT), ifindex, TCX_INGRESS, 0)
    }

    /// As the XDP program of such a device.
    pub fn at_xdp(name: &str, ifindex: u32) -> Result<Stranger> {
        attach(name, (XDP, 0, XDP_PASS), ifindex, ATTACH_XDP, XDP_FLAGS_SKB_MODE)
    }

    /// The same in the device's driver.
    pub fn in_driver(name: &str, ifindex: u32) -> Result<Stranger> {
        attach(name, (XDP, 0, XDP_PASS), ifindex, ATTACH_XDP, XDP_FLAGS_DRV_MODE)
    }

    /// At connect(2) of the processes in a cgroup.
    pub fn at_connect(name: &str, cgroup: &Path) -> Result<Stranger> {
        let dir = File::open(cgroup).with_context(|| cgroup.display().to_string())?;
        let kind = (CGROUP_SOCK_ADDR, CGROUP_INET4_CONNECT, ALLOWED);
        attach(name, kind, dir.as_raw_fd() as u32, CGROUP_INET4_CONNECT, 0)
    }
}

#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log: [u64; 2],
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
struct ObjPin {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target: u32,
    attach_type: u32,
    flags: u32,
    more: [u64; 4],
}

/// Pins a passing XDP program at `path`, for a tool that attaches it for good.
pub(crate) fn pin_xdp_pass(name: &str, path: &Path) -> Result<()> {
    let program = load(name, (XDP, 0, XDP_PASS))?;
    let pathname = CString::new(path.as_os_str().as_bytes())?;
    let pin = ObjPin { pathname: pathname.as_ptr() as u64, bpf_fd: program.as_raw_fd() as u32, file_flags: 0 };
    bpf(BPF_OBJ_PIN, &pin).map(drop).with_context(|| format!("pin {name} at {}", path.display()))
}

/// `kind`: program type, expected attach type, what it answers.
fn attach(name: &str, kind: (u32, u32, i32), target: u32, attach_type: u32, flags: u32) -> Result<Stranger> {
    let program = load(name, kind)?;
    let create = LinkCreate { prog_fd: program.as_raw_fd() as u32, target, attach_type, flags, more: [0; 4] };
    let link = bpf(BPF_LINK_CREATE, &create).with_context(|| format!("attach {name}"))?;
    Ok(Stranger { _link: descriptor(link) })
}

fn load(name: &str, kind: (u32, u32, i32)) -> Result<OwnedFd> {
    let (prog_type, expected_attach_type, verdict) = kind;
    // r0 = verdict; exit
    let program: [u64; 2] = [0xb7 | (u64::from(verdict as u32) << 32), 0x95];
    let mut prog_name = [0; 16];
    prog_name[..name.len()].copy_from_slice(name.as_bytes());
    let load = Load {
        prog_type,
        insn_cnt: program.len() as u32,
        insns: program.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        log: [0; 2],
        kern_version: 0,
        prog_flags: if prog_type == XDP { BPF_F_XDP_HAS_FRAGS } else { 0 },
        prog_name,
        prog_ifindex: 0,
        expected_attach_type,
    };
    Ok(descriptor(bpf(BPF_PROG_LOAD, &load).with_context(|| format!("load {name}"))?))
}

fn descriptor(fd: i32) -> OwnedFd {
    // SAFETY: a new descriptor that nobody else has.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Gives a descriptor, where the command makes one.
fn bpf<T>(command: libc::c_long, request: &T) -> io::Result<i32> {
    // SAFETY: the request is as long as said, and what it points at lives through the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(request), size_of::<T>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(fd as i32)
}
