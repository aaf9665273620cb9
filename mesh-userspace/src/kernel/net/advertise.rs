//! Which of the host's addresses the other nodes shall use: a pure choice from links, addresses and routes.
//!
//! As Swarm: `IP|IFACE`, and an error that names the candidates where a guess could be wrong. Beyond Swarm: without an option the
//! source of the default route is taken, so a host with docker0 or a second NIC need not say it.

use std::net::IpAddr;

use super::error::NetError;
use super::link::{Address, Link, RouteSeen};
use super::underlay::is_link_local;

/// The host's own, without ours.
pub(super) struct Facts {
    pub links: Vec<Link>,
    pub addresses: Vec<Address>,
    pub routes: Vec<RouteSeen>,
}

/// An address with the name of its link.
type Candidate<'a> = (IpAddr, &'a str);

pub(super) fn choose(facts: &Facts, option: &str, given: Option<&str>) -> Result<IpAddr, NetError> {
    match given {
        None => by_default(facts, option),
        Some(text) => match text.parse::<IpAddr>() {
            Ok(addr) => of_this_host(facts, option, addr),
            Err(_) => of_interface(facts, option, text),
        },
    }
    .map_err(NetError::Advertise)
}

fn of_this_host(facts: &Facts, option: &str, addr: IpAddr) -> Result<IpAddr, String> {
    let candidates = usable(facts);
    if candidates.iter().any(|(candidate, _)| *candidate == addr) {
        return Ok(addr);
    }
    Err(format!("{option} {addr}: this host has no such address that others can reach; it has {}", list(&candidates)))
}

fn of_interface(facts: &Facts, option: &str, name: &str) -> Result<IpAddr, String> {
    if !facts.links.iter().any(|link| link.name == name) {
        let names: Vec<&str> = facts.links.iter().map(|link| link.name.as_str()).collect();
        return Err(format!("{option} {name}: neither an IP address nor an interface; there are {}", names.join(", ")));
    }
    let here: Vec<Candidate> = usable(facts).into_iter().filter(|(_, link)| *link == name).collect();
    only_one(&here).ok_or_else(|| match here.as_slice() {
        [] => {
            format!("{option} {name}: the interface has no usable IPv4 or IPv6 address; give it one, or name another")
        }
        several => format!("{option} {name}: the interface has more than one address ({}): name one", list(several)),
    })
}

fn by_default(facts: &Facts, option: &str) -> Result<IpAddr, String> {
    let candidates = usable(facts);
    for is_v4 in [true, false] {
        if let Some(addr) = source_of_default_route(facts, &candidates, is_v4) {
            return Ok(addr);
        }
    }
    only_one(&candidates).ok_or_else(|| match candidates.as_slice() {
        [] => "this host has no IP address that others can reach: configure its network first".into(),
        several => format!(
            "could not choose an IP address to advertise since this system has multiple addresses ({}) and no default \
             route: specify one with {option}",
            list(several)
        ),
    })
}

/// None without a default route, or with two equal ones by different links: then the kernel's choice says nothing.
fn source_of_default_route(facts: &Facts, candidates: &[Candidate], is_v4: bool) -> Option<IpAddr> {
    let defaults = || {
        facts
            .routes
            .iter()
            .filter(|route| route.is_default() && route.is_in_main_table() && route.to.addr().is_ipv4() == is_v4)
    };
    let best = defaults().map(|route| route.metric).min()?;
    let mut routes = defaults().filter(|route| route.metric == best);
    let route = routes.next()?;
    if routes.any(|other| other.link != route.link) {
        return None;
    }
    let link = facts.links.iter().find(|link| link.index == route.link)?;
    // The kernel lists a link's primary address first, which is what it uses as source.
    let first = candidates.iter().find(|(addr, name)| *name == link.name && addr.is_ipv4() == is_v4);
    route.src.or(first.map(|(addr, _)| *addr))
}

/// Addresses that another machine can reach, IPv4 first.
fn usable(facts: &Facts) -> Vec<Candidate<'_>> {
    let mut candidates: Vec<Candidate> = facts
        .addresses
        .iter()
        .filter(|address| !address.net.addr().is_loopback() && !is_link_local(&address.net.addr()))
        .filter_map(|address| {
            let link = facts.links.iter().find(|link| link.index == address.link && !link.is_loopback)?;
            Some((address.net.addr(), link.name.as_str()))
        })
        .collect();
    candidates.sort_by_key(|(addr, _)| addr.is_ipv6());
    candidates
}

/// The only IPv4 address, or without any the only IPv6 address.
fn only_one(candidates: &[Candidate]) -> Option<IpAddr> {
    let v4: Vec<IpAddr> = candidates.iter().map(|(addr, _)| *addr).filter(IpAddr::is_ipv4).collect();
    match (v4.as_slice(), candidates) {
        ([addr], _) => Some(*addr),
        ([], [(addr, _)]) => Some(*addr),
        _ => None,
    }
}

fn list(candidates: &[Candidate]) -> String {
    if candidates.is_empty() {
        return "none".into();
    }
    candidates.iter().map(|(addr, link)| format!("{addr} on {link}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::route::RouteProtocol;

    use super::*;

    fn facts(addresses: &[(&str, &str)], defaults: &[(&str, u32)]) -> Facts {
        let mut links: Vec<Link> = Vec::new();
        for (name, _) in addresses {
            if !links.iter().any(|link| link.name == *name) {
                let index = links.len() as u32 + 1;
                links.push(Link {
                    index,
                    name: name.to_string(),
                    kind: String::new(),
                    mac: vec![2, 0, 0, 0, 0, 1],
                    mtu: 1500,
                    alias: String::new(),
                    is_up: true,
                    is_loopback: *name == "lo",
                    is_noarp: false,
                    is_ethernet: true,
                    is_port: false,
                    vxlan: None,
                    peer_namespace: None,
                });
            }
        }
        let index = |name: &str| links.iter().find(|link| link.name == name).unwrap().index;
        let addresses: Vec<Address> =
            addresses.iter().map(|(name, net)| Address { link: index(name), net: net.parse().unwrap() }).collect();
        let routes = defaults
            .iter()
            .map(|(name, metric)| RouteSeen {
                to: "0.0.0.0/0".parse().unwrap(),
                link: index(name),
                table: 254,
                metric: *metric,
                src: None,
                mtu: None,
                protocol: RouteProtocol::Static,
            })
            .collect();
        Facts { links, addresses, routes }
    }

    fn chosen(facts: &Facts, given: Option<&str>) -> String {
        match choose(facts, "--advertise-addr", given) {
            Ok(addr) => addr.to_string(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn the_only_address_needs_no_option() {
        let facts = facts(&[("lo", "127.0.0.1/8"), ("eth0", "192.168.7.1/24"), ("eth0", "fe80::1/64")], &[]);
        assert_eq!(chosen(&facts, None), "192.168.7.1");
        assert_eq!(chosen(&facts, Some("eth0")), "192.168.7.1");
    }

    #[test]
    fn the_default_route_decides_between_several() {
        let two = [("docker0", "172.17.0.1/16"), ("eth0", "192.168.7.1/24"), ("eth0", "192.168.7.9/24")];
        assert_eq!(chosen(&facts(&two, &[("eth0", 100)]), None), "192.168.7.1");
        assert_eq!(chosen(&facts(&two, &[("eth0", 100), ("docker0", 50)]), None), "172.17.0.1");
    }

    #[test]
    fn a_guess_that_could_be_wrong_is_refused() {
        let two = facts(&[("eth0", "192.168.7.1/24"), ("eth1", "10.9.0.1/24")], &[("eth0", 0), ("eth1", 0)]);
        let words = chosen(&two, None);
        assert!(words.contains("192.168.7.1 on eth0, 10.9.0.1 on eth1"), "{words}");
        assert!(words.contains("--advertise-addr"), "{words}");
        assert!(chosen(&facts(&[("lo", "127.0.0.1/8")], &[]), None).contains("no IP address"));
    }

    #[test]
    fn an_interface_with_two_addresses_is_ambiguous() {
        let facts = facts(&[("eth0", "192.168.7.1/24"), ("eth0", "192.168.7.2/24")], &[]);
        assert!(chosen(&facts, Some("eth0")).contains("more than one address"));
        assert_eq!(chosen(&facts, Some("192.168.7.2")), "192.168.7.2");
    }

    #[test]
    fn strangers_are_named_as_such() {
        let facts = facts(&[("lo", "127.0.0.1/8"), ("eth0", "192.168.7.1/24")], &[]);
        assert!(chosen(&facts, Some("192.168.7.3")).contains("it has 192.168.7.1 on eth0"));
        assert!(chosen(&facts, Some("127.0.0.1")).contains("no such address that others can reach"));
        assert!(chosen(&facts, Some("eth7")).contains("there are lo, eth0"));
    }
}
