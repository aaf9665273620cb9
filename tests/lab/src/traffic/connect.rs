//! One connection attempt told apart by how it ended, and one datagram asked and answered.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How a connection attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Connection {
    Connected {
        local: SocketAddr,
        took: Duration,
    },
    /// A RST came back.
    Refused {
        took: Duration,
    },
    /// An ICMP message or the own stack said that there is no way.
    Unreachable {
        why: String,
        took: Duration,
    },
    /// Nothing came back.
    TimedOut {
        after: Duration,
    },
}

impl Connection {
    pub fn is_connected(&self) -> bool {
        matches!(self, Connection::Connected { .. })
    }

    pub fn is_refused(&self) -> bool {
        matches!(self, Connection::Refused { .. })
    }
}

/// Tries to connect to one address, for no longer than `limit`.
pub fn tcp_connect(to: SocketAddr, limit: Duration) -> Result<Connection> {
    let started = Instant::now();
    let attempt = TcpStream::connect_timeout(&to, limit);
    let took = started.elapsed();
    Ok(match attempt {
        Ok(stream) => Connection::Connected { local: stream.local_addr()?, took },
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Connection::Refused { took },
        Err(error) if error.kind() == ErrorKind::TimedOut => Connection::TimedOut { after: took },
        Err(error) => Connection::Unreachable { why: error.to_string(), took },
    })
}

/// Connects to `host`, trying its addresses in turn as curl does (for `localhost`: ::1, then 127.0.0.1).
pub(super) fn connect_any(host: &str, port: u16, limit: Duration) -> Result<TcpStream> {
    let mut last: Option<io::Error> = None;
    for address in (host, port).to_socket_addrs().with_context(|| format!("can't resolve {host}"))? {
        match TcpStream::connect_timeout(&address, limit) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = Some(error),
        }
    }
    let error = last.unwrap_or_else(|| ErrorKind::AddrNotAvailable.into());
    Err(error).with_context(|| format!("can't connect to {host}:{port}"))
}

/// Sends one datagram and waits for the answer: its text, and the address we asked from. The socket is connected, so an answer
/// from any other address than the one asked does not count.
pub fn datagram(to: SocketAddr, payload: &[u8], limit: Duration) -> Result<(String, SocketAddr)> {
    Talk::to(to, limit)?.ask(payload)
}

/// One socket that asks one address, again and again.
#[derive(Debug)]
pub struct Talk {
    socket: UdpSocket,
    to: SocketAddr,
}

impl Talk {
    /// Each answer has `limit` to come.
    pub fn to(to: SocketAddr, limit: Duration) -> Result<Talk> {
        let wildcard: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
        let socket = UdpSocket::bind(wildcard)?;
        socket.connect(to).with_context(|| format!("no way to {to}"))?;
        socket.set_read_timeout(Some(limit))?;
        Ok(Talk { socket, to })
    }

    /// As [`datagram`].
    pub fn ask(&self, payload: &[u8]) -> Result<(String, SocketAddr)> {
        self.socket.send(payload)?;
        let mut buffer = vec![0; 65536];
        let size = self.socket.recv(&mut buffer).with_context(|| format!("no answer from UDP {}", self.to))?;
        Ok((String::from_utf8_lossy(&buffer[..size]).into_owned(), self.socket.local_addr()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_closed_port_is_refused_and_an_open_one_connects() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        assert!(tcp_connect(address, Duration::from_secs(1)).unwrap().is_connected());
        drop(listener);
        assert!(tcp_connect(address, Duration::from_secs(1)).unwrap().is_refused());
    }

    #[test]
    fn a_datagram_is_answered() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        let answering = std::thread::spawn(move || {
            let mut buffer = [0; 16];
            let (size, from) = server.recv_from(&mut buffer).unwrap();
            server.send_to(&buffer[..size], from).unwrap();
        });
        let (text, local) = datagram(address, b"hello", Duration::from_secs(2)).unwrap();
        assert_eq!(text, "hello");
        assert_eq!(local.ip(), address.ip());
        answering.join().unwrap();
    }
}
