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
//! A port of one address is held there alone, and on every node: IP_FREEBIND binds an address before it is there, so that nobody has the port
//! when it comes.
//!
//! Invariant: no SO_REUSEADDR here, or another program with it could bind the port beside us.
//! Must not: read, listen, or outlive the agent – the port is tried again at its next start.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, SockaddrIn6, SockaddrStorage, bind, setsockopt, socket, sockopt,
};

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
    /// False: there is nothing to hold, so far.
    pub fn hold(&mut self, port: HeldPort) -> Result<bool, NetError> {
        if self.held.contains_key(&port) {
            return Ok(true);
        }
        let in_use = |errno| match errno {
            Errno::EADDRINUSE => NetError::PortInUse { port, owner: owner(port) },
            errno => NetError::os(format!("hold the published port {port}"), errno.into()),
        };
        let sockets = match port.address {
            Some(addr) => match placeholder(port, addr) {
                // Whoever has the port of all addresses here has no use for that one, unless it comes here.
                Err(Errno::EADDRINUSE) if !is_here(addr) => return Ok(false),
                socket => vec![socket.map_err(in_use)?],
            },
            None => {
                let mut sockets = vec![placeholder(port, Ipv4Addr::UNSPECIFIED.into()).map_err(in_use)?];
                match placeholder(port, Ipv6Addr::UNSPECIFIED.into()) {
                    Ok(v6) => sockets.push(v6),
                    Err(errno) => log::debug!("published port {port} is not held for IPv6: {errno}"),
                }
                sockets
            }
        };
        self.held.insert(port, sockets);
        Ok(true)
    }

    pub fn release(&mut self, port: HeldPort) {
        self.held.remove(&port);
    }
}

/// This host has the address. Its links are asked: where net.ipv4.ip_nonlocal_bind is set, as keepalived has it, every address can be bound. Where they
/// don't tell, it may be here.
fn is_here(addr: IpAddr) -> bool {
    let has_it = |of: SockaddrStorage| match (of.as_sockaddr_in(), of.as_sockaddr_in6()) {
        (Some(v4), _) => IpAddr::V4(v4.ip()) == addr,
        (_, Some(v6)) => IpAddr::V6(v6.ip()) == addr,
        _ => false,
    };
    getifaddrs().map_or(true, |mut links| links.any(|link| link.address.is_some_and(has_it)))
}

fn placeholder(port: HeldPort, addr: IpAddr) -> nix::Result<OwnedFd> {
    let kind = match port.transport {
        Transport::Tcp => SockType::Stream,
        Transport::Udp => SockType::Datagram,
    };
    let family = if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let held = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    if port.transport == Transport::Udp {
        setsockopt(&held, sockopt::BindToDevice, &OsString::from(MESH0))?;
    }
    if !addr.is_unspecified() {
        setsockopt(&held, sockopt::IpFreebind, &true)?;
    }
    if family == AddressFamily::Inet6 {
        setsockopt(&held, sockopt::Ipv6V6Only, &true)?;
    }
    bind(held.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(addr, port.port)))?;
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
fn owner(port: HeldPort) -> Option<String> {
    match holder(port) {
        Holder::Process(name, pid) => Some(format!("{name} (pid {pid})")),
        Holder::Nobody | Holder::Unseen => None,
    }
}

/// The same of a UDP port of any address.
pub(super) fn owner_of_udp(port: u16) -> Option<String> {
    owner(HeldPort { transport: Transport::Udp, port, address: None })
}

/// Who listens on this port, at its address if it has one.
pub(super) fn holder(port: HeldPort) -> Holder {
    let tables = match port.transport {
        Transport::Tcp => ["tcp", "tcp6"],
        Transport::Udp => ["udp", "udp6"],
    };
    let inode = tables.iter().find_map(|table| {
        let text = fs::read_to_string(format!("/proc/thread-self/net/{table}")).ok()?;
        text.lines().find_map(|line| inode_of(line, port))
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
fn inode_of(line: &str, wanted: HeldPort) -> Option<u64> {
    const LISTEN: &str = "0A";
    let words: Vec<&str> = line.split_whitespace().collect();
    let (local_addr, local_port) = words.get(1)?.rsplit_once(':')?;
    let is_it = u16::from_str_radix(local_port, 16).ok()? == wanted.port;
    // A socket of all addresses has this one, too; IPv6's may have IPv4's.
    let is_there = wanted.address.is_none_or(|addr| local_addr.bytes().all(|b| b == b'0') || local_addr == hex(addr));
    let is_open = wanted.transport == Transport::Udp || *words.get(3)? == LISTEN;
    if is_it && is_there && is_open { words.get(9)?.parse().ok() } else { None }
}

/// An address as those tables have it: word by word, each as this machine reads its bytes.
fn hex(addr: IpAddr) -> String {
    let words = |bytes: &[u8]| -> String {
        bytes
            .chunks_exact(4)
            .map(|word| format!("{:08X}", u32::from_ne_bytes([word[0], word[1], word[2], word[3]])))
            .collect()
    };
    match addr {
        IpAddr::V4(addr) => words(&addr.octets()),
        IpAddr::V6(addr) => words(&addr.octets()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "   0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0000 100 0 0 10 0";

    fn tcp(port: u16, addr: Option<&str>) -> HeldPort {
        HeldPort { transport: Transport::Tcp, port, address: addr.map(|addr| addr.parse().unwrap()) }
    }

    #[test]
    fn a_listener_is_found_by_its_port() {
        assert_eq!(inode_of(LINE, tcp(8000, None)), Some(4711));
        assert_eq!(inode_of(LINE, tcp(8001, None)), None);
        assert_eq!(inode_of(&LINE.replace(" 0A ", " 06 "), tcp(8000, None)), None);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn a_listener_of_another_address_is_another_one() {
        assert_eq!(inode_of(LINE, tcp(8000, Some("127.0.0.1"))), Some(4711));
        assert_eq!(inode_of(LINE, tcp(8000, Some("192.0.2.1"))), None);
        let of_all = LINE.replace("0100007F", "00000000");
        assert_eq!(inode_of(&of_all, tcp(8000, Some("192.0.2.1"))), Some(4711));
        let v6 = LINE.replace("0100007F", "B80D0120000000000000000001000000");
        assert_eq!(inode_of(&v6, tcp(8000, Some("2001:db8::1"))), Some(4711));
        assert_eq!(inode_of(&v6, tcp(8000, Some("2001:db8::2"))), None);
    }

    #[test]
    fn the_owner_is_named() {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let owner = owner(tcp(listener.local_addr().unwrap().port(), None)).unwrap();
        assert!(owner.ends_with(&format!("(pid {})", std::process::id())), "{owner}");
    }
}
