//! Published ports, kept from everybody else on the host by bound, silent sockets.
//!
//! The packet programs take the traffic of a published port before any socket sees it; these sockets only make `bind` of
//! another program fail. Callers that the programs let through (no service any more, ::1 without a v6 service) must be
//! refused at once, never left hanging:
//! - TCP: bound but not listening; the kernel answers a SYN with RST.
//! - UDP: an unread socket would swallow datagrams. So it is bound to the device `mesh0` as well: such a socket still conflicts
//!   with every socket that is bound to no device (udp_lib_lport_inuse), but no datagram from another device matches it, and
//!   the kernel answers with port unreachable. (What comes in by `mesh0` itself would be swallowed; the programs hand up
//!   nothing for a published port.)
//!
//! Invariant: no SO_REUSEADDR here, or another program with it could bind the port beside us.
//! Must not: read, listen, or outlive the agent – the port is tried again at its next start.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, setsockopt, socket, sockopt};

use super::error::NetError;
use crate::plan::net::{HeldPort, MESH0, Transport};

/// The sockets, by what they hold; dropping them gives the ports back.
#[derive(Default)]
pub(super) struct PlaceholderSockets {
    held: BTreeMap<HeldPort, Vec<OwnedFd>>,
}

impl PlaceholderSockets {
    pub fn held(&self) -> impl Iterator<Item = HeldPort> + '_ {
        self.held.keys().copied()
    }

    /// In the calling thread's namespace. IPv4 must succeed; where somebody has the port for IPv6 only, he keeps it: he is no
    /// hindrance to IPv4, and the programs serve IPv6 before his socket is asked.
    pub fn hold(&mut self, port: HeldPort) -> Result<(), NetError> {
        if self.held.contains_key(&port) {
            return Ok(());
        }
        let v4 = placeholder(port, AddressFamily::Inet).map_err(|errno| match errno {
            Errno::EADDRINUSE => NetError::PortInUse { port, owner: owner(port.transport, port.port) },
            errno => NetError::os(format!("hold the published port {port}"), errno.into()),
        })?;
        let mut sockets = vec![v4];
        match placeholder(port, AddressFamily::Inet6) {
            Ok(v6) => sockets.push(v6),
            Err(errno) => log::debug!("published port {port} is not held for IPv6: {errno}"),
        }
        self.held.insert(port, sockets);
        Ok(())
    }

    pub fn release(&mut self, port: HeldPort) {
        self.held.remove(&port);
    }
}

fn placeholder(port: HeldPort, family: AddressFamily) -> nix::Result<OwnedFd> {
    let kind = match port.transport {
        Transport::Tcp => SockType::Stream,
        Transport::Udp => SockType::Datagram,
    };
    let held = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if port.transport == Transport::Udp {
        setsockopt(&held, sockopt::BindToDevice, &OsString::from(MESH0))?;
    }
    match family {
        AddressFamily::Inet6 => {
            setsockopt(&held, sockopt::Ipv6V6Only, &true)?;
            let any = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port.port, 0, 0);
            bind(held.as_raw_fd(), &SockaddrIn6::from(any))?;
        }
        _ => {
            let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port.port);
            bind(held.as_raw_fd(), &SockaddrIn::from(any))?;
        }
    }
    Ok(held)
}

/// Binds a UDP port on all addresses of both families, and gives it back at once. A host without IPv6 has no second family.
pub(super) fn try_udp(port: u16) -> nix::Result<()> {
    let open = |family| socket(family, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None);
    let v4 = open(AddressFamily::Inet)?;
    bind(v4.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port)))?;
    let Ok(v6) = open(AddressFamily::Inet6) else { return Ok(()) };
    setsockopt(&v6, sockopt::Ipv6V6Only, &true)?;
    match bind(v6.as_raw_fd(), &SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, port, 0, 0))) {
        Err(Errno::EADDRNOTAVAIL) => Ok(()), // IPv6 is switched off
        bound => bound,
    }
}

/// Who has a port, as far as this namespace shows.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Holder {
    Nobody,
    /// Name and process number.
    Process(String, u32),
    /// A socket that no process shows: a kernel's, or a closed one.
    Unseen,
}

/// The process that listens on this port, as `name (pid 123)`; None where no process shows (a kernel socket, a closed one).
pub(super) fn owner(transport: Transport, port: u16) -> Option<String> {
    match holder(transport, port) {
        Holder::Process(name, pid) => Some(format!("{name} (pid {pid})")),
        Holder::Nobody | Holder::Unseen => None,
    }
}

/// Who listens on this port.
pub(super) fn holder(transport: Transport, port: u16) -> Holder {
    let tables = match transport {
        Transport::Tcp => ["tcp", "tcp6"],
        Transport::Udp => ["udp", "udp6"],
    };
    let inode = tables.iter().find_map(|table| {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok()?;
        text.lines().find_map(|line| inode_of(line, transport, port))
    });
    let Some(inode) = inode else { return Holder::Nobody };
    let link = format!("socket:[{inode}]");
    let entries = fs::read_dir("/proc").into_iter().flatten();
    let processes = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    for pid in processes {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        if descriptors.flatten().any(|fd| fs::read_link(fd.path()).is_ok_and(|to| to.as_os_str() == link.as_str())) {
            let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            return Holder::Process(name.trim().to_string(), pid);
        }
    }
    Holder::Unseen
}

/// From a line of `/proc/net/{tcp,udp}`: slot, local address:port, remote, state, queues, timer, retransmits, uid, timeout, inode.
fn inode_of(line: &str, transport: Transport, port: u16) -> Option<u64> {
    const LISTEN: &str = "0A";
    let words: Vec<&str> = line.split_whitespace().collect();
    let (_, local_port) = words.get(1)?.rsplit_once(':')?;
    let is_it = u16::from_str_radix(local_port, 16).ok()? == port;
    let is_open = transport == Transport::Udp || *words.get(3)? == LISTEN;
    if is_it && is_open { words.get(9)?.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000 100 0 0 10 0";

    #[test]
    fn a_listener_is_found_by_its_port() {
        assert_eq!(inode_of(LINE, Transport::Tcp, 8000), Some(4711));
        assert_eq!(inode_of(LINE, Transport::Tcp, 8001), None);
        assert_eq!(inode_of(&LINE.replace(" 0A ", " 06 "), Transport::Tcp, 8000), None);
    }

    #[test]
    fn the_owner_is_named() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let owner = owner(Transport::Tcp, listener.local_addr().unwrap().port()).unwrap();
        assert!(owner.ends_with(&format!("(pid {})", std::process::id())), "{owner}");
    }
}
