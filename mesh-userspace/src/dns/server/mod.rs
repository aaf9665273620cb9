//! The resolver's sockets: one UDP and one TCP listener on each gateway that has a task here.
//!
//! In a walk: task → its gateway's port 53 → [`handler`] → zone, or [`forward`] to the host's resolvers.
//! Listeners come and go with the zone. They are bound with IP_FREEBIND (IPV6_FREEBIND), so it does not matter whether the gateway's
//! address is on `mesh0` already; one address that can't be taken leaves the others alone and is tried again.
//!
//! Must not decide about names: that is [`crate::dns::zone`].

mod counts;
mod forward;
mod handler;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use futures_util::FutureExt;
use hickory_server::Server;
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
    sockopt,
};
use tokio::net::{TcpListener, UdpSocket};

use crate::dns::zone::Zone;
use handler::Handler;

pub use counts::QueryCounts;
pub use forward::ForwardOptions;

/// A TCP client that says nothing for this long is hung up on.
const TCP_IDLE: Duration = Duration::from_secs(5);
/// Responses that may wait for one TCP client to read them.
const TCP_RESPONSES: usize = 32;

/// Why a gateway has no listener.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "{protocol} port {port} on gateway {addr} is used by another program (a name server on all addresses?): tasks of \
         this network can't resolve names here until it listens on its own addresses only"
    )]
    Busy { protocol: &'static str, addr: IpAddr, port: u16 },
    #[error("{protocol} port {port} on gateway {addr} can't be listened on: {source}")]
    Other { protocol: &'static str, addr: IpAddr, port: u16, source: io::Error },
}

/// What all listeners share: what they answer from and what they count.
pub(super) struct Shared {
    zone: RwLock<Arc<Zone>>,
    forwarder: forward::Forwarder,
    counters: counts::Counters,
}

impl Shared {
    fn zone(&self) -> Arc<Zone> {
        // Held for an assignment alone: what a panic left behind is whole.
        self.zone.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The DNS server of one node.
pub struct DnsServer {
    port: u16,
    shared: Arc<Shared>,
    listeners: BTreeMap<IpAddr, Listener>,
    errors: BTreeMap<IpAddr, String>,
}

impl DnsServer {
    /// A server without listeners and names; `port` is 53 but in tests.
    pub fn new(port: u16, options: ForwardOptions) -> Self {
        let shared = Shared {
            zone: RwLock::default(),
            forwarder: forward::Forwarder::new(options),
            counters: counts::Counters::default(),
        };
        DnsServer { port, shared: Arc::new(shared), listeners: BTreeMap::new(), errors: BTreeMap::new() }
    }

    /// Answers from this zone from now on, and listens where it says.
    pub async fn apply(&mut self, zone: Zone) {
        self.shared.forwarder.exclude(zone.gateways());
        let zone = Arc::new(zone);
        *self.shared.zone.write().unwrap_or_else(PoisonError::into_inner) = zone.clone();
        let wanted = zone.listen_addrs();
        self.errors.retain(|addr, _| wanted.contains(addr));
        let gone: Vec<IpAddr> = self.listeners.keys().filter(|addr| !wanted.contains(addr)).copied().collect();
        for addr in gone {
            if let Some(mut listener) = self.listeners.remove(&addr) {
                listener.close(addr).await;
                log::info!("no longer listening on gateway {addr}");
            }
        }
        self.listen();
    }

    /// Binds what is wanted and not bound yet: after a new zone, and now and then for addresses that were busy.
    pub fn listen(&mut self) {
        for addr in self.shared.zone().listen_addrs() {
            if let Some(listener) = self.listeners.get_mut(&addr) {
                if !listener.has_ended() {
                    continue;
                }
                log::warn!("the listener on gateway {addr} ended by itself and is opened again");
                self.listeners.remove(&addr);
            }
            match Listener::bind(addr, self.port, &self.shared) {
                Ok(listener) => {
                    log::info!("listening on gateway {addr}, port {}", self.port);
                    self.errors.remove(&addr);
                    self.listeners.insert(addr, listener);
                }
                // Without IPv6 in the kernel nobody can ask there; `mesh doctor` has a word about it.
                Err(BindError::Other { source, .. }) if source.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
                Err(error) => {
                    let error = error.to_string();
                    // Said once, not at each attempt.
                    if self.errors.insert(addr, error.clone()).as_ref() != Some(&error) {
                        log::error!("{error}");
                    }
                }
            }
        }
    }

    /// Gateways that are listened on.
    pub fn gateways(&self) -> BTreeSet<IpAddr> {
        self.listeners.keys().copied().collect()
    }

    /// Gateways that are not, and why.
    pub fn errors(&self) -> &BTreeMap<IpAddr, String> {
        &self.errors
    }

    pub fn counts(&self) -> QueryCounts {
        self.shared.counters.read()
    }

    /// The host's resolvers that are asked, and what is wrong with them.
    pub fn upstreams(&self) -> (Vec<IpAddr>, Option<String>) {
        self.shared.forwarder.status()
    }
}

/// Both protocols of one gateway. Two servers, so that the end of either is seen.
struct Listener {
    udp: Server<Handler>,
    tcp: Server<Handler>,
}

impl Listener {
    /// Both protocols or none: a client that got a truncated answer must find TCP.
    fn bind(addr: IpAddr, port: u16, shared: &Arc<Shared>) -> Result<Self, BindError> {
        let failed = |protocol| {
            move |source: io::Error| match source.kind() {
                io::ErrorKind::AddrInUse => BindError::Busy { protocol, addr, port },
                _ => BindError::Other { protocol, addr, port, source },
            }
        };
        let udp_socket = bind_udp(SocketAddr::new(addr, port)).map_err(failed("UDP"))?;
        let tcp_socket = bind_tcp(SocketAddr::new(addr, port)).map_err(failed("TCP"))?;
        let mut udp = Server::new(Handler(shared.clone()));
        udp.register_socket(udp_socket);
        let mut tcp = Server::new(Handler(shared.clone()));
        tcp.register_listener(tcp_socket, TCP_IDLE, TCP_RESPONSES);
        Ok(Listener { udp, tcp })
    }

    /// The accept and receive loops end by themselves on socket errors they hold to be final.
    fn has_ended(&mut self) -> bool {
        let ended = |server: &mut Server<Handler>| server.block_until_done().now_or_never().is_some();
        ended(&mut self.udp) || ended(&mut self.tcp)
    }

    async fn close(&mut self, addr: IpAddr) {
        for server in [&mut self.udp, &mut self.tcp] {
            if let Err(error) = server.shutdown_gracefully().await {
                log::warn!("the listener on gateway {addr} ended with: {error}");
            }
        }
    }
}

fn bind_udp(addr: SocketAddr) -> io::Result<UdpSocket> {
    let fd = unbound(addr, SockType::Datagram, SockProtocol::Udp)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(addr))?;
    UdpSocket::from_std(fd.into())
}

fn bind_tcp(addr: SocketAddr) -> io::Result<TcpListener> {
    let fd = unbound(addr, SockType::Stream, SockProtocol::Tcp)?;
    // Connections of a resolver before us may be in TIME_WAIT; a listener that is alive still conflicts.
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), &SockaddrStorage::from(addr))?;
    listen(&fd, Backlog::MAXCONN)?;
    TcpListener::from_std(fd.into())
}

/// A socket that may be bound to an address that is not there yet.
fn unbound(addr: SocketAddr, kind: SockType, protocol: SockProtocol) -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let family = if addr.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, kind, flags, protocol)?;
    match addr {
        SocketAddr::V4(_) => setsockopt(&fd, sockopt::IpFreebind, &true)?,
        SocketAddr::V6(_) => freebind6(&fd)?,
    }
    Ok(fd)
}

/// `IPV6_FREEBIND`, which nix has no word for.
fn freebind6(fd: &OwnedFd) -> nix::Result<()> {
    let yes: libc::c_int = 1;
    let (value, len) = ((&raw const yes).cast(), size_of_val(&yes) as libc::socklen_t);
    // SAFETY: the value is an integer that lives during the call, and its length is told.
    let done = unsafe { libc::setsockopt(fd.as_raw_fd(), libc::IPPROTO_IPV6, libc::IPV6_FREEBIND, value, len) };
    Errno::result(done).map(drop)
}
