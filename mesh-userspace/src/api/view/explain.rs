//! From the words of `mesh explain` to addresses, and names for what the maps have numbers for.

use std::net::IpAddr;

use mesh_common::parse::protocol;

use super::Facts;
use crate::api::ApiError;
use crate::api::explain::{ExplainQuery, ExplainRequest};
use crate::explain::Names;
use crate::model::{EndpointMode, Id, Protocol, Service, Task, Vip};

/// Whom a word means.
enum End<'f> {
    /// This host.
    Host,
    /// One of these addresses, each on its network.
    Addrs(Vec<(IpAddr, Option<Id>)>),
    Service(&'f Service),
}

/// Finds what a request names.
pub fn explain_query(facts: &Facts, request: &ExplainRequest) -> Result<ExplainQuery, ApiError> {
    let me = facts.member()?.clone();
    let from = Word::parse(&request.from)?;
    let to = Word::parse(&request.to)?;
    if from.protocol.is_some() {
        return Err(ApiError::bad_request(format!(
            "a protocol stands behind the destination, not behind {}",
            request.from
        )));
    }
    let sources = match facts.end(from.name)? {
        End::Host => None,
        End::Addrs(addrs) => Some(addrs),
        End::Service(service) => Some(task_of(facts, service, &me)?),
    };
    let targets = match facts.end(to.name)? {
        // `::1` is itself, whatever else means this host is 127.0.0.1.
        End::Host => vec![(to.name.parse().ok().filter(IpAddr::is_ipv6).unwrap_or(IpAddr::from([127, 0, 0, 1])), None)],
        End::Addrs(addrs) => addrs,
        End::Service(service) => {
            let is_outside = sources
                .as_ref()
                .is_some_and(|addrs| addrs.iter().all(|(addr, network)| network.is_none() && !facts.has_addr(*addr)));
            return facts.to_service(service, &from, &to, sources.as_deref(), is_outside, request.later);
        }
    };
    let (src, dst) = pair(sources.as_deref(), &targets);
    let (number, dport) = match (to.protocol, to.port) {
        (None, None) => (protocol::ICMP, 0),
        (None, Some(port)) => (protocol::TCP, port),
        (Some(number), port) if number == protocol::ICMP => (number, port.unwrap_or(0)),
        (Some(_), None) => return Err(ApiError::bad_request(format!("say a port: {}:PORT", request.to))),
        (Some(number), Some(port)) => (number, port),
    };
    facts.query(src, &from, dst, dport, number, request.later)
}

/// A word of the command line: name or address, port, protocol.
struct Word<'w> {
    name: &'w str,
    port: Option<u16>,
    protocol: Option<u8>,
}

impl<'w> Word<'w> {
    fn parse(word: &'w str) -> Result<Self, ApiError> {
        let (rest, protocol) = match word.rsplit_once('/') {
            None => (word, None),
            Some((rest, name)) => (rest, Some(number_of(name)?)),
        };
        let port_of = |text: &str| {
            text.parse::<u16>().map_err(|_| ApiError::bad_request(format!("{text} in {word} is no port: 1 to 65535")))
        };
        let (name, port) = match (rest.strip_prefix('['), rest.rsplit_once(':')) {
            // An IPv6 address with a port stands in brackets.
            (Some(inner), _) => match inner.split_once(']') {
                Some((name, "")) => (name, None),
                Some((name, port)) => (name, Some(port_of(port.trim_start_matches(':'))?)),
                None => return Err(ApiError::bad_request(format!("{word} lacks a ']'"))),
            },
            (None, _) if rest.parse::<IpAddr>().is_ok() => (rest, None),
            (None, Some((name, port))) => (name, Some(port_of(port)?)),
            (None, None) => (rest, None),
        };
        Ok(Word { name, port, protocol })
    }
}

fn number_of(name: &str) -> Result<u8, ApiError> {
    match name {
        "tcp" => Ok(protocol::TCP),
        "udp" => Ok(protocol::UDP),
        "sctp" => Ok(protocol::SCTP),
        "icmp" | "ping" => Ok(protocol::ICMP),
        other => Err(ApiError::bad_request(format!("{other} is no protocol that is carried: tcp, udp, sctp or icmp"))),
    }
}

fn task_of(facts: &Facts, service: &Service, me: &Id) -> Result<Vec<(IpAddr, Option<Id>)>, ApiError> {
    let here = |id: &Option<Id>| id.as_ref() == Some(me);
    let tasks = facts.cluster.tasks_of(&service.id).filter(|task| !task.attachments.is_empty());
    let task = tasks.max_by_key(|task| (here(&task.node_id), task.created_at)).ok_or_else(|| {
        let name = &service.spec.name;
        ApiError::conflict(format!("service {name} has no task to send from: 'mesh service ps {name}' says why"))
    })?;
    Ok(addrs_of(task).collect())
}

/// Where a task is, and on which network.
fn addrs_of(task: &Task) -> impl Iterator<Item = (IpAddr, Option<Id>)> + '_ {
    task.attachments.iter().flat_map(|at| at.addrs.each().map(|addr| (addr, Some(at.network_id.clone()))))
}

/// A source and a destination on one network, if there are such; else the first of each.
fn pair(sources: Option<&[(IpAddr, Option<Id>)]>, targets: &[(IpAddr, Option<Id>)]) -> (Option<IpAddr>, IpAddr) {
    let first = targets.first().map_or(IpAddr::from([0, 0, 0, 0]), |(addr, _)| *addr);
    let Some(sources) = sources else { return (None, first) };
    for (src, network) in sources {
        for (dst, other) in targets {
            let is_near = network.is_some() && network == other && src.is_ipv4() == dst.is_ipv4();
            if is_near {
                return (Some(*src), *dst);
            }
        }
    }
    let same_family = sources.iter().find(|(src, _)| src.is_ipv4() == first.is_ipv4());
    (same_family.or(sources.first()).map(|(src, _)| *src), first)
}

impl Facts {
    fn end(&self, word: &str) -> Result<End<'_>, ApiError> {
        if word == "host" || word == "localhost" {
            return Ok(End::Host);
        }
        if let Ok(addr) = word.parse::<IpAddr>() {
            return Ok(if addr.is_loopback() { End::Host } else { End::Addrs(vec![(addr, self.network_of(addr))]) });
        }
        if let Ok(task) = self.find_task(word) {
            if task.attachments.is_empty() {
                return Err(ApiError::conflict(format!("task {word} has no address: it is on no network")));
            }
            return Ok(End::Addrs(addrs_of(task).collect()));
        }
        if let Ok(service) = self.find_service(word) {
            return Ok(End::Service(service));
        }
        match self.find_node(word) {
            Ok(node) if self.me.as_ref() == Some(&node.id) => Ok(End::Host),
            Ok(node) => Ok(End::Addrs(vec![(node.advertise_addr, None)])),
            Err(_) => Err(ApiError::not_found(format!(
                "no task, service or node is called {word}, and it is no address; 'mesh ps', 'mesh service ls' and 'mesh node ls' list them"
            ))),
        }
    }

    /// The network that an address is in.
    fn network_of(&self, addr: IpAddr) -> Option<Id> {
        let networks = self.cluster.networks.values();
        networks.filter(|network| network.subnets.contain(addr)).map(|network| network.id.clone()).next()
    }

    /// A node has this address.
    fn has_addr(&self, addr: IpAddr) -> bool {
        self.cluster.nodes.values().any(|node| node.advertise_addr == addr || node.data_path_addr == addr)
    }

    /// A service is called at its VIP; from outside at a published port of this node.
    fn to_service(
        &self,
        service: &Service,
        from: &Word<'_>,
        to: &Word<'_>,
        sources: Option<&[(IpAddr, Option<Id>)]>,
        is_outside: bool,
        later: bool,
    ) -> Result<ExplainQuery, ApiError> {
        let name = &service.spec.name;
        let port = service
            .ports
            .iter()
            .find(|port| to.port.is_none_or(|wanted| wanted == if is_outside { port.published } else { port.target }));
        let named = |protocol: Protocol| match protocol {
            Protocol::Tcp => protocol::TCP,
            Protocol::Udp => protocol::UDP,
            Protocol::Sctp => protocol::SCTP,
        };
        let number = to.protocol.or(port.map(|port| named(port.protocol)));
        if is_outside {
            let (Some(port), Some(me)) = (port, self.self_node()) else {
                return Err(ApiError::conflict(format!(
                    "service {name} publishes no such port: nobody outside reaches it; 'mesh service inspect {name}' lists its ports"
                )));
            };
            let src = sources.and_then(|addrs| addrs.first()).map(|(addr, _)| *addr);
            let of_interface = port.interface.as_ref().and_then(|interface| {
                let here = self.observed.addresses_of(interface, [&me.id].into_iter());
                here.into_iter()
                    .find(|addr| sources.is_none_or(|of| of.iter().all(|(src, _)| src.is_ipv4() == addr.is_ipv4())))
            });
            let called = port.address.or(of_interface).unwrap_or(me.advertise_addr);
            return self.query(src, from, called, port.published, number.unwrap_or(protocol::TCP), later);
        }
        if service.spec.endpoint_mode == EndpointMode::Dnsrr {
            return Err(ApiError::conflict(format!(
                "service {name} has no VIP (endpoint mode dnsrr): its name leads to its tasks; name one of them"
            )));
        }
        let of_network =
            |vip: &Vip| vip.addrs.each().map(|addr| (addr, Some(vip.network_id.clone()))).collect::<Vec<_>>();
        let vips: Vec<(IpAddr, Option<Id>)> = service.vips.iter().flat_map(of_network).collect();
        if vips.is_empty() {
            return Err(ApiError::conflict(format!(
                "service {name} has no VIP yet: 'mesh service ps {name}' says why"
            )));
        }
        let (src, dst) = pair(sources, &vips);
        // A VIP forwards every port alike: any will do where none is known.
        let dport = to.port.or(port.map(|port| port.target));
        match (number, dport) {
            (None, None) => self.query(src, from, dst, 0, protocol::ICMP, later),
            (number, dport) => self.query(src, from, dst, dport.unwrap_or(80), number.unwrap_or(protocol::TCP), later),
        }
    }

    fn query(
        &self,
        src: Option<IpAddr>,
        from: &Word<'_>,
        dst: IpAddr,
        dport: u16,
        protocol: u8,
        is_later: bool,
    ) -> Result<ExplainQuery, ApiError> {
        let own = self.self_node().and_then(|node| match dst {
            IpAddr::V4(_) => [node.advertise_addr, node.data_path_addr].into_iter().find(IpAddr::is_ipv4),
            IpAddr::V6(_) => self.cluster.overlay_addr6(node).map(IpAddr::V6),
        });
        let protocol = if protocol == protocol::ICMP && dst.is_ipv6() { protocol::ICMPV6 } else { protocol };
        Ok(ExplainQuery {
            src,
            own,
            sport: from.port.unwrap_or(0),
            dst,
            dport,
            protocol,
            is_later,
            me: self.self_node().map_or(0, |node| node.number),
            names: self.map_names(),
        })
    }

    /// Names of what the maps have numbers for.
    pub fn map_names(&self) -> Names {
        let cluster = &self.cluster;
        let mut names = Names::default();
        for node in cluster.nodes.values() {
            names.nodes.insert(node.number, node.name.clone());
        }
        for network in cluster.networks.values() {
            names.networks.insert(network.vni, network.spec.name.clone());
        }
        for service in cluster.services.values() {
            for vip in &service.vips {
                names.services.insert(vip.pool, service.spec.name.clone());
            }
        }
        for task in cluster.tasks.values() {
            for at in &task.attachments {
                names.tasks.insert(at.endpoint, task.name());
            }
        }
        names
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::facts;
    use super::*;

    fn query(from: &str, to: &str) -> Result<ExplainQuery, String> {
        let request = ExplainRequest { from: from.into(), to: to.into(), later: false };
        explain_query(&facts(), &request).map_err(|error| error.message)
    }

    /// Source and port, destination and port, protocol.
    fn tuple(from: &str, to: &str) -> (String, u16, String, u16, u8) {
        let query = query(from, to).unwrap_or_else(|error| panic!("{from} {to}: {error}"));
        let src = query.src.map_or("host".into(), |addr| addr.to_string());
        (src, query.sport, query.dst.to_string(), query.dport, query.protocol)
    }

    fn wanted(src: &str, sport: u16, dst: &str, dport: u16, protocol: u8) -> (String, u16, String, u16, u8) {
        (src.into(), sport, dst.into(), dport, protocol)
    }

    #[test]
    fn words_become_addresses() {
        assert_eq!(tuple("whoami.1", "whoami"), wanted("10.0.16.17", 0, "10.0.16.2", 8000, 6));
        assert_eq!(tuple("whoami.1:4000", "whoami:9/udp"), wanted("10.0.16.17", 4000, "10.0.16.2", 9, 17));
        assert_eq!(tuple("whoami", "whoami.2"), wanted("10.0.16.17", 0, "10.0.16.18", 0, 1));
        assert_eq!(tuple("host", "127.0.0.1:8000"), wanted("host", 0, "127.0.0.1", 8000, 6));
        assert_eq!(tuple("n1", "whoami:80"), wanted("host", 0, "10.0.16.2", 80, 6));
        assert_eq!(tuple("198.51.100.7", "whoami"), wanted("198.51.100.7", 0, "192.168.99.1", 8000, 6));
        assert_eq!(tuple("whoami.1", "n2:8000"), wanted("10.0.16.17", 0, "192.168.99.2", 8000, 6));
        assert_eq!(tuple("host", "[::1]:8000"), wanted("host", 0, "::1", 8000, 6));
        assert_eq!(tuple("2001:db8::7", "2001:db8::1"), wanted("2001:db8::7", 0, "2001:db8::1", 0, 58));
        assert_eq!(tuple("[2001:db8::7]:9", "[2001:db8::1]:80"), wanted("2001:db8::7", 9, "2001:db8::1", 80, 6));
    }

    #[test]
    fn this_host_calls_from_an_address_of_the_family() {
        let own = |to: &str| query("host", to).unwrap_or_else(|error| panic!("{to}: {error}")).own;
        assert_eq!(own("127.0.0.1:8000"), Some(IpAddr::from([192, 168, 99, 1])));
        assert!(own("[::1]:8000").is_none_or(|addr| addr.is_ipv6()));
    }

    #[test]
    fn what_makes_no_sense_is_told() {
        assert!(
            query("nobody", "whoami")
                .is_err_and(|error| error.starts_with("no task, service or node is called nobody"))
        );
        assert!(query("host", "whoami:80/gre").is_err_and(|error| error.contains("gre is no protocol")));
        assert!(query("host", "n2/udp").is_err_and(|error| error == "say a port: n2/udp:PORT"));
        assert!(query("host", "whoami:99999").is_err_and(|error| error.contains("is no port")));
        assert!(query("198.51.100.7", "whoami:81").is_err_and(|error| error.contains("publishes no such port")));
    }
}
