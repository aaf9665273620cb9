//! The PORTS column and the names of protocols and publish modes.

use std::net::IpAddr;

use crate::model::{PortSpec, Protocol, PublishMode};

pub(super) fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

pub(super) fn mode_name(mode: PublishMode) -> &'static str {
    match mode {
        PublishMode::Ingress => "ingress",
        PublishMode::Host => "host",
    }
}

/// `*:8000->8000/tcp`, or with the address in place of `*`, neighbours joined to ranges, as Docker has it.
pub(super) fn column(ports: &[PortSpec]) -> String {
    let mut sorted = ports.to_vec();
    let order = |port: &PortSpec| (port.protocol, port.address, port.interface.clone(), port.published, port.target);
    sorted.sort_by_key(order);
    let mut runs: Vec<(PortSpec, u16)> = Vec::new();
    for port in sorted {
        match runs.last_mut() {
            Some((first, more))
                if (first.protocol, first.place()) == (port.protocol, port.place())
                    && first.published > 0
                    && port.published == first.published + *more + 1
                    && port.target == first.target + *more + 1 =>
            {
                *more += 1;
            }
            _ => runs.push((port, 0)),
        }
    }
    let range = |first: u16, more: u16| match more {
        0 => first.to_string(),
        more => format!("{first}-{}", first + more),
    };
    let words = runs.iter().map(|(first, more)| {
        let published = if first.published == 0 { "?".into() } else { range(first.published, *more) };
        let at = match first.place() {
            (Some(IpAddr::V6(addr)), _) => format!("[{addr}]"),
            (Some(addr), _) => addr.to_string(),
            (None, Some(interface)) => interface.to_string(),
            (None, None) => "*".to_string(),
        };
        format!("{at}:{published}->{}/{}", range(first.target, *more), protocol_name(first.protocol))
    });
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::parse_publish;

    #[test]
    fn neighbours_join() {
        let told = |text: &str| column(&parse_publish(text).expect("a port"));
        assert_eq!(told("8000:8000"), "*:8000->8000/tcp");
        assert_eq!(told("9000-9009:9000-9009/udp"), "*:9000-9009->9000-9009/udp");
        assert_eq!(told("80"), "*:?->80/tcp");
        assert_eq!(told("192.0.2.1:80-81:80-81"), "192.0.2.1:80-81->80-81/tcp");
        assert_eq!(told("published=80-81,target=80-81,interface=eth1"), "eth1:80-81->80-81/tcp");
        assert_eq!(told("[2001:db8::1]:80:80"), "[2001:db8::1]:80->80/tcp");
    }
}
