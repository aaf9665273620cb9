//! Whether a task listens yet: a command that was started a moment ago may not have bound its port, and a task that is balanced to before
//! would refuse its first callers. Read from the task's own view of its sockets, proc_net(5); nothing is connected to.

use std::path::PathBuf;

/// State LISTEN in /proc/net/tcp (include/net/tcp_states.h).
const LISTEN: &str = "0A";

/// True if every one of these TCP ports has a listener in the network namespace of process `pid`, or that can't be found out.
pub fn is_listening(pid: u32, ports: &[u16]) -> bool {
    let tables: Vec<String> = ["tcp", "tcp6"]
        .iter()
        .filter_map(|table| std::fs::read_to_string(PathBuf::from(format!("/proc/{pid}/net/{table}"))).ok())
        .collect();
    tables.is_empty() || ports.iter().all(|port| tables.iter().any(|table| listens(table, *port)))
}

/// A line: `sl  local_address rem_address st …`, addresses as `HEX:PORT`.
fn listens(table: &str, port: u16) -> bool {
    table.lines().skip(1).any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (local, _, state) = (fields.next(), fields.next(), fields.next());
        let local_port =
            local.and_then(|local| local.rsplit(':').next()).and_then(|hex| u16::from_str_radix(hex, 16).ok());
        state == Some(LISTEN) && local_port == Some(port)
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
        assert!(listens(table, 8000));
        assert!(!listens(table, 80));
    }
}
