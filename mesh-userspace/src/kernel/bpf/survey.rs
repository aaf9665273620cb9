//! What this kernel can do with BPF, and whose programs are on the hooks that we use.
//!
//! For `mesh doctor`. Must not: pin, attach or change anything; what is loaded for a trial is gone when the trial is over.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use aya::programs::{ProgramType, SchedClassifier, TcAttachType, loaded_programs};
use aya::{EbpfLoader, VerifierLogLevel};
use mesh_common::verdict::Hook;

use super::{BpfError, OBJECT, jumps, load, pin, xdp};

/// The socket hooks of a cgroup that we use: number in `enum bpf_attach_type` (linux/bpf.h), name.
const CGROUP_HOOKS: [(u32, &str); 8] = [
    (10, "connect4"),
    (11, "connect6"),
    (14, "sendmsg4"),
    (15, "sendmsg6"),
    (19, "recvmsg4"),
    (20, "recvmsg6"),
    (29, "getpeername4"),
    (30, "getpeername6"),
];
/// bpf(2).
const BPF_PROG_LOAD: libc::c_long = 5;
/// BPF_PROG_TYPE_SCHED_CLS.
const SCHED_CLS: u32 = 3;
const BPF_PROG_QUERY: libc::c_long = 16;
/// What runs there in the end, inherited programs included.
const BPF_F_QUERY_EFFECTIVE: u32 = 1;
/// More on one hook would be a sight.
const MOST_PROGRAMS: usize = 64;

/// Whether TCX is there; asked of the loopback device, where nothing of ours ever is.
pub fn tcx() -> Result<(), String> {
    SchedClassifier::query_tcx("lo", TcAttachType::Ingress).map(drop).map_err(|error| pin::chain(&error))
}

/// A TC program of two instructions that leaves every packet alone: for trying whether one can be attached.
pub fn trial_program() -> io::Result<OwnedFd> {
    // r0 = TC_ACT_UNSPEC; exit
    let instructions: [u64; 2] = [0xb7 | (u64::from(u32::MAX) << 32), 0x95];
    let request = ProgLoad {
        prog_type: SCHED_CLS,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    // SAFETY: the request is as long as said, and what it points at lives through the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const request, size_of::<ProgLoad>()) };
    // SAFETY: a new descriptor that nobody else has.
    if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) }) }
}

/// Whether XDP programs can be loaded; None where that can't be told.
pub fn has_xdp() -> Option<bool> {
    aya::sys::is_program_supported(ProgramType::Xdp).ok()
}

/// Whether the directory, or the nearest one above it that exists, is on a BPF file system.
pub fn is_on_bpffs(dir: &Path) -> bool {
    pin::is_on_bpffs(dir)
}

/// Loads all programs with maps of their own, and lets go of them.
pub fn try_load() -> Result<(), BpfError> {
    let mut loader = EbpfLoader::new();
    loader.verifier_log_level(VerifierLogLevel::STATS);
    let mut ebpf = loader.load(OBJECT).map_err(|error| BpfError::Load(pin::chain(&error)))?;
    load::all(&mut ebpf)?;
    jumps::fill(&mut ebpf)
}

/// Others' TCX programs on this interface: direction, name.
pub fn other_tcx_programs(interface: &str) -> Result<Vec<(&'static str, String)>, String> {
    let mut found = Vec::new();
    for (direction, kind) in [("ingress", TcAttachType::Ingress), ("egress", TcAttachType::Egress)] {
        let (_, programs) = SchedClassifier::query_tcx(interface, kind).map_err(|error| pin::chain(&error))?;
        let names = programs.iter().map(|program| String::from_utf8_lossy(program.name()).into_owned());
        found.extend(names.filter(|name| !is_ours(name)).map(|name| (direction, shown(name))));
    }
    Ok(found)
}

/// Others' programs on the socket hooks of this cgroup: hook, name.
pub fn other_socket_programs(cgroup: &Path) -> io::Result<Vec<(&'static str, String)>> {
    let dir = File::open(cgroup)?;
    let mut found = Vec::new();
    for (kind, hook) in CGROUP_HOOKS {
        for id in programs_of(&dir, kind)? {
            let name = program_name(id);
            if !is_ours(&name) {
                found.push((hook, shown(name)));
            }
        }
    }
    Ok(found)
}

/// Name of a loaded program; empty where it has none, or is gone.
pub fn program_name(id: u32) -> String {
    let found = loaded_programs().flatten().find(|program| program.id() == id);
    found.map(|program| String::from_utf8_lossy(program.name()).into_owned()).unwrap_or_default()
}

fn shown(name: String) -> String {
    if name.is_empty() { "a program without a name".into() } else { name }
}

/// By name: other agents of ours on this kernel are no strangers.
pub fn is_ours(name: &str) -> bool {
    name == xdp::PROGRAM
        || Hook::ALL.iter().any(|hook| hook.name() == name)
        || name.strip_prefix("host_").is_some_and(|rest| {
            CGROUP_HOOKS.iter().any(|(_, hook)| *hook == rest) || matches!(rest, "getpeer4" | "getpeer6")
        })
}

/// The part of `union bpf_attr` that BPF_PROG_LOAD needs at least.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
}

/// The part of `union bpf_attr` that BPF_PROG_QUERY reads and writes (linux/bpf.h).
#[repr(C)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    pad: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

fn programs_of(cgroup: &File, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = [0u32; MOST_PROGRAMS];
    let mut query = Query {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type,
        query_flags: BPF_F_QUERY_EFFECTIVE,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: MOST_PROGRAMS as u32,
        pad: 0,
        prog_attach_flags: 0,
        link_ids: 0,
        link_attach_flags: 0,
        revision: 0,
    };
    // SAFETY: the query is as long as said, and points at an array of as many ids as it says; both live through the call.
    let answer = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut query, size_of::<Query>()) };
    if answer < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(ids.into_iter().take(query.prog_cnt as usize).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ours_are_known_by_name() {
        for name in ["from_uplink", "from_overlay", "xdp_uplink", "host_connect4", "host_recvmsg6", "host_getpeer4"] {
            assert!(is_ours(name), "{name}");
        }
        for name in ["cil_from_netdev", "sock4_connect", "host_filter", ""] {
            assert!(!is_ours(name), "{name}");
        }
    }
}
