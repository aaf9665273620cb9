//! Published ports as people write them: short and long form, ranges. Used by `-p` and by manifests alike.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{PortSpec, Protocol, PublishMode};

/// Most ports of one service: each node holds a socket for each.
pub(super) const MAX_PORTS: usize = 4_096;

/// `8000:8000`, `8000:80/udp`, `9000-9009:9000-9009`, `80`, `192.0.2.1:80:80`, or `published=,target=,protocol=,mode=,address=,interface=,allow=CIDR[;CIDR…]`.
pub fn parse_publish(text: &str) -> Result<Vec<PortSpec>, String> {
    if text.contains('=') { parse_long(text) } else { parse_short(text) }
}

fn parse_short(text: &str) -> Result<Vec<PortSpec>, String> {
    let (ports, protocol) = match text.split_once('/') {
        Some((ports, protocol)) => (ports, parse_protocol(protocol)?),
        None => (text, Protocol::Tcp),
    };
    let split = split_address(ports);
    let address = split.map(|(address, _)| parse_address(address)).transpose()?.flatten();
    let ports = split.map_or(ports, |(_, ports)| ports);
    let (published, target) = match ports.split_once(':') {
        None => (None, parse_range(ports)?),
        Some(("", target)) if split.is_some() => (None, parse_range(target)?),
        Some((published, target)) => (Some(parse_range(published)?), parse_range(target)?),
    };
    let ports = spread(text, published, target, protocol, PublishMode::Ingress)?;
    Ok(ports.into_iter().map(|port| PortSpec { address, ..port }).collect())
}

/// `192.0.2.1:80:80` and `[2001:db8::1]:80:80`: what stands before the ports, without brackets.
fn split_address(ports: &str) -> Option<(&str, &str)> {
    match ports.strip_prefix('[') {
        Some(rest) => rest.split_once("]:"),
        None if ports.matches(':').count() < 2 => None,
        // An IPv6 address without its brackets, or ports too many, are told of as an address.
        None => {
            let (rest, _) = ports.rsplit_once(':')?;
            let (address, _) = rest.rsplit_once(':')?;
            Some((address, &ports[address.len() + 1..]))
        }
    }
}

/// The address that a port is published at; None: all of every node.
pub(super) fn parse_address(text: &str) -> Result<Option<IpAddr>, String> {
    let instead =
        "write one that a node has, or 127.0.0.1 or ::1 for processes of the nodes themselves, or leave it out";
    if ["", "0.0.0.0"].contains(&text) {
        return Ok(None);
    }
    let told = |what: &str| Err(format!("'{text}' is {what}: {instead}"));
    match text.trim_matches(['[', ']']).parse() {
        Err(_) => told("not an address that a port can be published at"),
        Ok(IpAddr::V6(addr)) if addr.to_ipv4_mapped().is_some() => told("an IPv4 address written as IPv6"),
        Ok(addr) if addr.is_multicast() => told("a multicast address"),
        Ok(addr) if addr.is_unspecified() => told("no address of its own"),
        Ok(IpAddr::V4(addr)) if addr.is_broadcast() => told("a broadcast address"),
        Ok(addr) => Ok(Some(addr)),
    }
}

fn parse_long(text: &str) -> Result<Vec<PortSpec>, String> {
    let (mut published, mut target) = (None, None);
    let (mut protocol, mut mode) = (Protocol::Tcp, PublishMode::Ingress);
    let (mut address, mut interface, mut allow) = (None, None, Vec::new());
    for field in text.split(',') {
        let (key, value) = field.split_once('=').unwrap_or((field, ""));
        match key.trim() {
            "published" | "host-port" => published = Some(parse_range(value)?),
            "target" | "container-port" => target = Some(parse_range(value)?),
            "protocol" => protocol = parse_protocol(value)?,
            "mode" => {
                mode = match value {
                    "ingress" => PublishMode::Ingress,
                    "host" => PublishMode::Host,
                    _ => return Err(format!("mode '{value}' in '{text}': allowed are ingress, host")),
                }
            }
            "address" => address = parse_address(value)?,
            "interface" => interface = Some(parse_interface(value)?),
            "allow" => allow = parse_allow(value.split(';'))?,
            _ => {
                return Err(format!(
                    "'{key}' in '{text}': allowed are published, target, protocol, mode, address, interface, allow"
                ));
            }
        }
    }
    let target = target.ok_or_else(|| format!("'{text}' lacks target=PORT"))?;
    if address.is_some() && interface.is_some() {
        return Err(format!("'{text}': {ONE_PLACE}"));
    }
    let ports = spread(text, published, target, protocol, mode)?;
    let with = |port| PortSpec { address, interface: interface.clone(), allow: allow.clone(), ..port };
    Ok(ports.into_iter().map(with).collect())
}

/// Said where both are named.
pub(super) const ONE_PLACE: &str =
    "a port is published at an address or at an interface's addresses: name one of the two";

/// The interface that a port is published at, on each node that has one of this name (IFNAMSIZ, include/uapi/linux/if.h).
pub(super) fn parse_interface(text: &str) -> Result<String, String> {
    const MOST: usize = 15;
    let is_name = (1..=MOST).contains(&text.len()) && ![".", ".."].contains(&text);
    if !is_name || text.contains(|c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control()) {
        return Err(format!("'{text}' is no name of an interface: write one as 'ip link' shows it, such as eth1"));
    }
    if text == "lo" {
        return Err("'lo' is each node's loopback: write address=127.0.0.1 or address=::1 instead".to_string());
    }
    Ok(text.to_string())
}

/// Most prefixes of callers of one port.
const MAX_ALLOWED: usize = 256;

/// Whom a published port lets in: prefixes, or addresses, of both families.
pub(super) fn parse_allow<'a>(words: impl Iterator<Item = &'a str>) -> Result<Vec<IpNet>, String> {
    let mut nets = BTreeSet::new();
    for word in words.map(str::trim) {
        let net = word.parse().or_else(|_| word.parse().map(|addr: IpAddr| IpNet::from(addr)));
        let net: IpNet =
            net.map_err(|_| format!("'{word}' is not whom a port can allow: write a prefix such as 192.0.2.0/24"))?;
        if net.trunc() != net {
            return Err(format!("'{word}' is an address in its network: write {} for all of it", net.trunc()));
        }
        if matches!(net, IpNet::V6(net) if net.addr().to_ipv4_mapped().is_some()) {
            return Err(format!("'{word}' is an IPv4 address written as IPv6: write it as IPv4"));
        }
        nets.insert(net);
    }
    if nets.len() > MAX_ALLOWED {
        return Err(format!("{} prefixes: {MAX_ALLOWED} are the most that a port can allow", nets.len()));
    }
    Ok(nets.into_iter().collect())
}

fn spread(
    text: &str,
    published: Option<(u16, u16)>,
    target: (u16, u16),
    protocol: Protocol,
    mode: PublishMode,
) -> Result<Vec<PortSpec>, String> {
    let count = target.1 - target.0;
    if let Some((first, last)) = published
        && last - first != count
    {
        return Err(format!("'{text}': both ranges must have the same number of ports"));
    }
    if usize::from(count) >= MAX_PORTS {
        return Err(format!("'{text}' is more than {MAX_PORTS} ports, which is the most that a service can publish"));
    }
    let port = |offset: u16| PortSpec {
        protocol,
        target: target.0 + offset,
        published: published.map_or(0, |(first, _)| first + offset),
        mode,
        address: None,
        interface: None,
        allow: Vec::new(),
    };
    Ok((0..=count).map(port).collect())
}

pub fn parse_protocol(word: &str) -> Result<Protocol, String> {
    match word.to_ascii_lowercase().as_str() {
        "tcp" => Ok(Protocol::Tcp),
        "udp" => Ok(Protocol::Udp),
        "sctp" => Ok(Protocol::Sctp),
        _ => Err(format!("'{word}' is not a protocol: allowed are tcp, udp, sctp")),
    }
}

/// `80` or `9000-9009`, each 1–65535.
fn parse_range(text: &str) -> Result<(u16, u16), String> {
    let port = |word: &str| match word.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("'{word}' is not a port: 1 to 65535 are allowed")),
    };
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (port(first)?, port(last)?),
        None => (port(text)?, port(text)?),
    };
    if first > last { Err(format!("'{text}' is not a range: it ends before it begins")) } else { Ok((first, last)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> String {
        let port = |port: &PortSpec| {
            let at = match port.place() {
                (Some(addr), _) => format!(" at {addr}"),
                (_, Some(interface)) => format!(" at {interface}"),
                _ => String::new(),
            };
            format!("{}:{} {:?} {:?}{at}", port.published, port.target, port.protocol, port.mode)
        };
        let ports = |ports: Vec<PortSpec>| ports.iter().map(port).collect::<Vec<_>>().join(", ");
        parse_publish(text).map_or_else(|error| error, ports)
    }

    #[test]
    fn both_spellings_and_ranges() {
        assert_eq!(told("8000:8000"), "8000:8000 Tcp Ingress");
        assert_eq!(told("8000:80/udp"), "8000:80 Udp Ingress");
        assert_eq!(told("9000-9001:80-81"), "9000:80 Tcp Ingress, 9001:81 Tcp Ingress");
        assert_eq!(told("80"), "0:80 Tcp Ingress");
        assert_eq!(told("0.0.0.0:8000:80"), "8000:80 Tcp Ingress");
        assert_eq!(told("192.0.2.1:8000:80/udp"), "8000:80 Udp Ingress at 192.0.2.1");
        assert_eq!(told("127.0.0.1::80"), "0:80 Tcp Ingress at 127.0.0.1");
        assert_eq!(told("[::1]:80:80"), "80:80 Tcp Ingress at ::1");
        assert_eq!(
            told("[2001:db8::1]:8000-8001:80-81"),
            "8000:80 Tcp Ingress at 2001:db8::1, 8001:81 Tcp Ingress at 2001:db8::1"
        );
        assert_eq!(told("published=80,target=80,address=192.0.2.1"), "80:80 Tcp Ingress at 192.0.2.1");
        assert_eq!(told("published=80,target=80,interface=eth1"), "80:80 Tcp Ingress at eth1");
        assert_eq!(told("published=53,target=5353,protocol=udp,mode=host"), "53:5353 Udp Host");
    }

    #[test]
    fn callers_that_are_let_in_are_prefixes_or_addresses() {
        let allow = |text: &str| {
            let ports = parse_publish(&format!("published=8000-8001,target=80-81,allow={text}"))?;
            let told = |port: &PortSpec| port.allow.iter().map(IpNet::to_string).collect::<Vec<_>>().join(" ");
            assert_eq!(told(&ports[0]), told(&ports[1]), "every port of a range");
            Ok(told(&ports[0]))
        };
        let sorted = Ok("10.0.0.0/8 192.0.2.7/32 2001:db8::/32".to_string());
        assert_eq!(allow("192.0.2.7;2001:db8::/32;10.0.0.0/8;10.0.0.0/8"), sorted);
        for (text, told) in [
            ("", "'' is not whom a port can allow: write a prefix such as 192.0.2.0/24"),
            ("office", "'office' is not whom a port can allow: write a prefix such as 192.0.2.0/24"),
            ("192.0.2.0/33", "'192.0.2.0/33' is not whom a port can allow: write a prefix such as 192.0.2.0/24"),
            ("192.0.2.7/24", "'192.0.2.7/24' is an address in its network: write 192.0.2.0/24 for all of it"),
            ("::ffff:192.0.2.7", "'::ffff:192.0.2.7' is an IPv4 address written as IPv6: write it as IPv4"),
        ] {
            assert_eq!(allow(text), Err(told.to_string()));
        }
        let many: Vec<String> = (0..257).map(|n| format!("10.{}.{}.0/24", n / 256, n % 256)).collect();
        assert_eq!(allow(&many.join(";")), Err("257 prefixes: 256 are the most that a port can allow".to_string()));
    }

    #[test]
    fn wrong_ones_are_told() {
        assert_eq!(told("0:80"), "'0' is not a port: 1 to 65535 are allowed");
        assert_eq!(told("8000-8001:80"), "'8000-8001:80': both ranges must have the same number of ports");
        assert!(told("1-65535:1-65535").contains("is more than 4096 ports"));
        assert_eq!(told("80/icmp"), "'icmp' is not a protocol: allowed are tcp, udp, sctp");
        for (text, what) in [
            ("eth0:80:80", "'eth0' is not an address"),
            ("1:2:3:4", "'1:2' is not an address"),
            ("224.0.0.1:80:80", "'224.0.0.1' is a multicast address"),
            ("[::]:80:80", "'::' is no address of its own"),
            ("[::ffff:192.0.2.1]:80:80", "an IPv4 address written as IPv6"),
            ("published=80,target=80,address=eth0", "'eth0' is not an address"),
            ("published=80,target=80,interface=a-name-too-long-for-one", "is no name of an interface"),
            ("published=80,target=80,interface=", "'' is no name of an interface"),
            ("published=80,target=80,interface=lo", "address=127.0.0.1"),
            ("published=80,target=80,interface=eth1,address=192.0.2.1", "name one of the two"),
            ("[2001:db8::1:80:80", "is not a port"),
            (":80", "'' is not a port"),
        ] {
            assert!(told(text).contains(what), "{text}: {}", told(text));
        }
        assert_eq!(told("published=80"), "'published=80' lacks target=PORT");
    }
}
