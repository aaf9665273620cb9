//! What a task's TCP sockets tell. Whether it listens yet: a command that was started a moment ago may not have bound its port, and a task
//! that is balanced to before would refuse its first callers. And whether somebody is still being served. Read from the task's own view of its
//! sockets, proc_net(5); nothing is connected to.

use std::net::{IpAddr, Ipv6Addr};

/// State LISTEN in /proc/net/tcp (include/net/tcp_states.h).
const LISTEN: &str = "0A";
/// ESTABLISHED, FIN_WAIT1, CLOSE_WAIT, LAST_ACK, CLOSING: bytes of this side may be to come or under way.
const OPEN: [&str; 5] = ["01", "04", "08", "09", "0B"];

/// True if every one of these TCP ports has a listener in the network namespace of process `pid`, or that can't be found out.
pub fn is_listening(pid: u32, ports: &[u16]) -> bool {
    let tables = tables(pid);
    let listens = |port: &u16| {
        tables
            .iter()
            .flat_map(|table| sockets(table))
            .any(|socket| socket.state == LISTEN && socket.port == Some(*port))
    };
    tables.is_empty() || ports.iter().all(listens)
}

/// True if a TCP connection is open at one of these addresses in the network namespace of process `pid`.
pub fn is_connected(pid: u32, addrs: &[IpAddr]) -> bool {
    tables(pid).iter().flat_map(|table| sockets(table)).any(|socket| socket.is_open_at(addrs))
}

/// Of both families, as far as they can be read.
fn tables(pid: u32) -> Vec<String> {
    let read = |table: &str| std::fs::read_to_string(format!("/proc/{pid}/net/{table}")).ok();
    ["tcp", "tcp6"].into_iter().filter_map(read).collect()
}

struct Socket<'a> {
    /// As the kernel prints it: 32-bit words of this machine's byte order, in hex.
    addr: &'a str,
    port: Option<u16>,
    state: &'a str,
}

impl Socket<'_> {
    fn is_open_at(&self, addrs: &[IpAddr]) -> bool {
        let words = self.addr.as_bytes().chunks(8).map(|word| std::str::from_utf8(word).ok());
        let words = words.map(|word| Some(u32::from_str_radix(word?, 16).ok()?.to_ne_bytes()));
        let addr = match words.collect::<Option<Vec<[u8; 4]>>>().as_deref() {
            Some([v4]) => Some(IpAddr::from(*v4)),
            // An IPv6 socket has IPv4 addresses mapped (RFC 4291, 2.5.5.2).
            Some([a, b, c, d]) => {
                <[u8; 16]>::try_from([*a, *b, *c, *d].concat()).ok().map(|all| Ipv6Addr::from(all).to_canonical())
            }
            _ => None,
        };
        OPEN.contains(&self.state) && addr.is_some_and(|addr| addrs.contains(&addr))
    }
}

/// Lines `sl  local_address rem_address st …`, addresses as `HEX:PORT`.
fn sockets(table: &str) -> impl Iterator<Item = Socket<'_>> {
    table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (addr, port) = fields.next()?.rsplit_once(':')?;
        Some(Socket { addr, port: u16::from_str_radix(port, 16).ok(), state: fields.nth(1)? })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_of_this_very_process_is_seen() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        assert!(is_listening(std::process::id(), &[port]));
        drop(listener);
        assert!(!is_listening(std::process::id(), &[port]));
    }

    #[test]
    fn only_listening_sockets_count() {
        let table = "  sl  local_address rem_address   st\n   0: 00000000:1F40 00000000:0000 0A x\n   1: 0100007F:0050 0100007F:9C40 01 x\n";
        let listening: Vec<_> =
            sockets(table).filter(|socket| socket.state == LISTEN).map(|socket| socket.port).collect();
        assert_eq!(listening, [Some(8000)]);
    }

    #[test]
    fn a_connection_is_seen_at_its_own_address_until_it_is_closed() {
        // An address of loopback that no other test uses, by an IPv6 socket as most servers have it.
        let v4 = IpAddr::from([127, 77, 3, 9]);
        for (any, addr) in [("[::]:0", v4), ("127.77.3.9:0", v4), ("[::]:0", Ipv6Addr::LOCALHOST.into())] {
            let listener = std::net::TcpListener::bind(any).expect("a port");
            let port = listener.local_addr().expect("bound").port();
            assert!(!is_connected(std::process::id(), &[addr]), "a listener is no connection");
            let caller = std::net::TcpStream::connect((addr, port)).expect("connected");
            let (callee, _) = listener.accept().expect("accepted");
            assert!(is_connected(std::process::id(), &[addr]));
            assert!(!is_connected(std::process::id(), &[IpAddr::from([127, 77, 3, 8])]));
            drop(caller);
            assert!(is_connected(std::process::id(), &[addr]), "the callee may still answer");
            drop(callee);
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
            while is_connected(std::process::id(), &[addr]) {
                assert!(std::time::Instant::now() < deadline, "both ends are closed");
                std::thread::yield_now();
            }
        }
    }
}
