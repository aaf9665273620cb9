//! A name server outside, at the address that this machine's resolv.conf names: tasks' questions about the world are forwarded there.
//!
//! Agents forward to the machine's own resolvers, which the lab's namespaces can't reach. So `outside` takes their addresses and
//! answers A questions about a few names of the lab's own; everything else does not exist. A thread of this process: it ends with it.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::sync::mpsc;

use anyhow::{Context, Result, ensure};

use crate::lab::Lab;
use crate::namespace::Namespace;
use crate::wiring::OUTSIDE;

const HEADER: usize = 12;

impl Lab {
    /// Answers `name` with `address` to whoever asks this machine's resolvers from inside the lab. An error where resolv.conf
    /// names none but a loopback address: nobody could be reached there.
    pub fn serve_name(&self, name: &str, address: Ipv4Addr) -> Result<()> {
        let text = std::fs::read_to_string("/etc/resolv.conf").context("no /etc/resolv.conf")?;
        let servers = text.lines().filter_map(|line| line.strip_prefix("nameserver")?.trim().parse().ok());
        let servers: Vec<Ipv4Addr> = servers.filter(|server: &Ipv4Addr| !server.is_loopback()).collect();
        ensure!(!servers.is_empty(), "/etc/resolv.conf names no server that a lab could stand in for");
        for server in servers {
            self.outside().namespace().ip(&format!("address replace {server}/32 dev lo"))?;
            self.switch().ip(&format!("route replace {server}/32 via {OUTSIDE}"))?;
            serve_name_at(self.outside().namespace(), server, name, address)?;
        }
        Ok(())
    }
}

/// Answers `name` with `address` at port 53 of `server`, an address of this namespace; tells who asked.
pub fn serve_name_at(
    namespace: &Namespace,
    server: Ipv4Addr,
    name: &str,
    address: Ipv4Addr,
) -> Result<mpsc::Receiver<IpAddr>> {
    let socket = namespace.run(|| UdpSocket::bind((server, 53)))?;
    let socket = socket.with_context(|| format!("can't answer at {server}"))?;
    let (told, askers) = mpsc::channel();
    let name = name.to_ascii_lowercase();
    std::thread::spawn(move || answer(&socket, &name, address, &told));
    Ok(askers)
}

fn answer(socket: &UdpSocket, name: &str, address: Ipv4Addr, told: &mpsc::Sender<IpAddr>) {
    let mut buffer = [0; 1500];
    while let Ok((size, asker)) = socket.recv_from(&mut buffer) {
        let _ = told.send(asker.ip()); // nobody need listen
        if let Some(reply) = reply(&buffer[..size], name, address) {
            // Who asked and went away misses nothing.
            let _ = socket.send_to(&reply, asker);
        }
    }
}

/// RFC 1035: the question comes back, with an answer for an A question about our name, NXDOMAIN for other names.
fn reply(question: &[u8], name: &str, address: Ipv4Addr) -> Option<Vec<u8>> {
    let (asked, end) = question_name(question)?;
    let kind = question.get(end..end + 4)?;
    let known = asked.eq_ignore_ascii_case(name);
    let with_answer = known && kind == [0, 1, 0, 1];
    let mut reply = question[..2].to_vec();
    // Response, recursion desired and available; NOERROR or NXDOMAIN; one question, no authority, no additional.
    reply.extend([0x81, if known { 0x80 } else { 0x83 }, 0, 1, 0, u8::from(with_answer), 0, 0, 0, 0]);
    reply.extend(&question[HEADER..end + 4]);
    if with_answer {
        // The name as a pointer to the question, A, IN, 60 s, four bytes.
        reply.extend([0xc0, HEADER as u8, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend(address.octets());
    }
    Some(reply)
}

fn question_name(message: &[u8]) -> Option<(String, usize)> {
    let (mut name, mut place) = (String::new(), HEADER);
    loop {
        let length = usize::from(*message.get(place)?);
        place += 1;
        if length == 0 {
            return Some((name, place));
        }
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(&String::from_utf8_lossy(message.get(place..place + length)?));
        place += length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1035's header with one question, then outside.test IN with this type.
    fn question(kind: u8) -> Vec<u8> {
        [&[0xab, 0xcd, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 7][..], b"outside", &[4], b"test", &[0, 0, kind, 0, 1]].concat()
    }

    #[test]
    fn an_a_question_is_answered_and_others_are_not() {
        let address = Ipv4Addr::new(203, 0, 113, 10);
        let reply_to = |kind, name| reply(&question(kind), name, address).unwrap();
        let good = reply_to(1, "outside.test");
        assert_eq!(good[..8], [0xab, 0xcd, 0x81, 0x80, 0, 1, 0, 1]);
        assert!(good.ends_with(&[0, 4, 203, 0, 113, 10]));
        assert_eq!(reply_to(28, "outside.test")[2..8], [0x81, 0x80, 0, 1, 0, 0]);
        assert_eq!(reply_to(1, "other.test")[2..8], [0x81, 0x83, 0, 1, 0, 0]);
        assert_eq!(reply(&[0; 5], "x", address), None);
    }
}
