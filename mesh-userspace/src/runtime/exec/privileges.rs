//! What a task may do on this machine: Docker's default capabilities and nothing gained by an exec.
//!
//! Two steps, because the first may be taken by the task's init and the second only by the command: [`restrict`] shrinks
//! what can ever be had, [`become_user`] takes the user's identity. Both act on the calling thread, which is the only one.

use std::io;

use nix::unistd::{setgroups, setresgid, setresuid};

use super::identity::Identity;

/// Numbers of include/uapi/linux/capability.h, in the order of Docker's default profile.
const DOCKER_DEFAULT: [u32; 14] = [
    0,  // CHOWN
    1,  // DAC_OVERRIDE
    3,  // FOWNER
    4,  // FSETID
    5,  // KILL
    6,  // SETGID
    7,  // SETUID
    8,  // SETPCAP
    10, // NET_BIND_SERVICE
    13, // NET_RAW
    18, // SYS_CHROOT
    27, // MKNOD
    29, // AUDIT_WRITE
    31, // SETFCAP
];

/// `_LINUX_CAPABILITY_VERSION_3`.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CapabilityWord {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// The default set as a bit mask.
pub fn docker_default_mask() -> u64 {
    DOCKER_DEFAULT.iter().fold(0, |mask, number| mask | 1 << number)
}

/// Drops every other capability for this process and all it will start, and turns set-user-ID programs off.
pub fn restrict() -> io::Result<()> {
    let mask = docker_default_mask();
    for number in 0..64u32 {
        if mask & (1 << number) == 0 && !drop_from_bounding_set(number)? {
            break;
        }
    }
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64)?;
    set_capabilities(mask)?;
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
}

/// Takes the user's identity; a user other than root is left without capabilities, as by the kernel's own rule.
pub fn become_user(identity: &Identity) -> io::Result<()> {
    setgroups(&identity.groups)?;
    setresgid(identity.gid, identity.gid, identity.gid)?;
    setresuid(identity.uid, identity.uid, identity.uid)?;
    set_capabilities(if identity.uid.is_root() { docker_default_mask() } else { 0 })
}

/// Dies with the process that made it, whatever that one dies of. Forgotten when the identity changes: call it after.
pub fn die_with_parent() -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as u64)
}

/// Nobody in the task may trace this process or look into its memory.
pub fn forbid_tracing() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0)
}

/// What `ps` and `top` show; the kernel cuts it at 15 bytes.
pub fn set_name(name: &std::ffi::CStr) -> io::Result<()> {
    // SAFETY: PR_SET_NAME reads a C string, which lives during the call.
    let result = unsafe { libc::prctl(libc::PR_SET_NAME, name.as_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// False where the kernel knows no capability of that number.
fn drop_from_bounding_set(number: u32) -> io::Result<bool> {
    match prctl(libc::PR_CAPBSET_DROP, u64::from(number)) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(false),
        Err(error) => Err(error),
    }
}

fn prctl(option: i32, argument: u64) -> io::Result<()> {
    // SAFETY: the options used here take integers only.
    let result = unsafe { libc::prctl(option, argument, 0u64, 0u64, 0u64) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Effective and permitted; nothing is inheritable.
fn set_capabilities(mask: u64) -> io::Result<()> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let word = |bits: u64| {
        let bits = (bits & u64::from(u32::MAX)) as u32;
        CapabilityWord { effective: bits, permitted: bits, inheritable: 0 }
    };
    let words = [word(mask), word(mask >> 32)];
    // SAFETY: version 3 reads one header and two words, which live until the call returns.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw const header, words.as_ptr()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_mask_is_the_one_docker_shows() {
        // CapBnd of /proc/1/status in a container without options.
        assert_eq!(super::docker_default_mask(), 0x0000_0000_a804_25fb);
    }
}
