//! Work in another network namespace.
//!
//! A netlink socket, a path below `/proc/sys/net` and a new socket belong to the namespace of the thread that opens them.
//! Invariant: only threads made here for one piece of work change their namespace; a runtime's worker never does.

use std::fs::File;
use std::future::Future;
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sched::{CloneFlags, setns};
use rtnetlink::Handle;

use super::error::NetError;

/// From linux/socket.h on all architectures we run on; not in libc for every target.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The network namespace of a process.
pub fn of_process(pid: u32) -> Result<OwnedFd, NetError> {
    let path = format!("/proc/{pid}/ns/net");
    File::open(&path)
        .map(OwnedFd::from)
        .map_err(|error| NetError::os(format!("open the network namespace of process {pid} ({path})"), error))
}

/// Runs `work` in this network namespace, on a thread and a runtime of its own.
pub async fn enter<T, F, W>(netns: OwnedFd, work: F) -> Result<T, NetError>
where
    T: Send + 'static,
    F: FnOnce() -> W + Send + 'static,
    W: Future<Output = Result<T, NetError>>,
{
    let (answer, answered) = tokio::sync::oneshot::channel();
    let in_namespace = move || -> Result<T, NetError> {
        setns(&netns, CloneFlags::CLONE_NEWNET)
            .map_err(|errno| NetError::os("enter a task's network namespace", errno.into()))?;
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| NetError::os("start a runtime for work in a network namespace", error))?
            .block_on(work())
    };
    std::thread::Builder::new()
        .name("mesh-netns".into())
        .spawn(move || answer.send(in_namespace()))
        .map_err(|error| NetError::os("start a thread for work in a network namespace", error))?;
    match answered.await {
        Ok(result) => result,
        Err(_) => Err(NetError::os("work in a network namespace", io::Error::other("its thread panicked"))),
    }
}

/// A netlink connection of the calling thread's namespace, driven by the current runtime.
pub(super) fn connect() -> Result<Handle, NetError> {
    let (connection, handle, _) =
        rtnetlink::new_connection().map_err(|error| NetError::os("open a netlink socket", error))?;
    tokio::spawn(connection);
    Ok(handle)
}

/// The number by which BPF programs know the calling thread's network namespace (`bpf_get_netns_cookie`).
pub fn cookie() -> Result<u64, NetError> {
    let failed = |error| NetError::os("read the cookie of the network namespace", error);
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    let mut cookie = 0u64;
    let mut len = mem::size_of::<u64>() as libc::socklen_t;
    // SAFETY: `cookie` and `len` live through the call and `len` says how many bytes `cookie` has.
    let answer = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_NETNS_COOKIE, (&raw mut cookie).cast(), &raw mut len)
    };
    if answer == 0 { Ok(cookie) } else { Err(failed(io::Error::last_os_error())) }
}

/// Effective user id 0.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
