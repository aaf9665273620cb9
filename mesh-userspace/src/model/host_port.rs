//! `IP|IFACE[:PORT]`, as `--listen-addr` and `--advertise-addr` take it. What an interface's address is, is not known here.

use std::net::IpAddr;
use std::str::FromStr;

/// A host, by address or by interface, and perhaps a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// An IP address or the name of an interface.
    pub host: String,
    /// None: not said.
    pub port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseHostPortError {
    #[error("'{0}' has no port from 1 to 65535 behind the colon; write IP or IFACE, with :PORT if need be")]
    Port(String),
    #[error(
        "'{0}' is no address; write IP or IFACE, with :PORT if need be, and an IPv6 address with a port as [IP]:PORT"
    )]
    Host(String),
}

impl FromStr for HostPort {
    type Err = ParseHostPortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.parse::<IpAddr>().is_ok() {
            return Ok(HostPort { host: text.into(), port: None });
        }
        let bad_host = || ParseHostPortError::Host(text.into());
        let (host, port) = match text.strip_prefix('[') {
            Some(bracketed) => {
                let (host, rest) = bracketed.split_once(']').ok_or_else(bad_host)?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| bad_host())?;
                match rest.strip_prefix(':') {
                    None if rest.is_empty() => (host, None),
                    None => return Err(bad_host()),
                    port => (host, port),
                }
            }
            None => match text.split_once(':') {
                None => (text, None),
                Some((host, port)) => (host, Some(port)),
            },
        };
        if host.is_empty() || (host.contains(':') && host.parse::<IpAddr>().is_err()) {
            return Err(bad_host());
        }
        let port = port.map(|port| match port.parse() {
            Ok(port) if port != 0 => Ok(port),
            _ if port.contains(':') => Err(bad_host()),
            _ => Err(ParseHostPortError::Port(text.into())),
        });
        Ok(HostPort { host: host.into(), port: port.transpose()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_stands_alone_or_with_a_port() {
        let good = [
            ("10.0.0.1", "10.0.0.1", None),
            ("10.0.0.1:12377", "10.0.0.1", Some(12377)),
            ("eth0", "eth0", None),
            ("eth0:2377", "eth0", Some(2377)),
            ("2001:db8::1", "2001:db8::1", None),
            ("[2001:db8::1]", "2001:db8::1", None),
            ("[::]:2377", "::", Some(2377)),
        ];
        for (text, host, port) in good {
            assert_eq!(text.parse(), Ok(HostPort { host: host.into(), port }), "{text}");
        }
    }

    #[test]
    fn what_is_neither_says_what_to_write() {
        for text in ["10.0.0.1:", "10.0.0.1:0", "10.0.0.1:70000", "eth0:http"] {
            assert_eq!(text.parse::<HostPort>(), Err(ParseHostPortError::Port(text.into())));
        }
        for text in ["", ":2377", "[::1", "[::1]2377", "[10.0.0.1]:1", "2001:db8::1::2", "[eth0]:1"] {
            assert_eq!(text.parse::<HostPort>(), Err(ParseHostPortError::Host(text.into())));
        }
    }
}
