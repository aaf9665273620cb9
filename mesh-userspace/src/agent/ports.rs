//! Where this node is reached: chosen at init and join from what the user asked for, bound from then on. And its ports, taken before
//! anything else is begun: where one is in use by another, nothing has to be taken back.
//!
//! Invariant: a node is reached where its record in the store says; a restart takes the same again, whatever the flags say by then.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Context;
use tokio::net::TcpListener;

use super::{Settings, doctor};
use crate::api::ApiError;
use crate::doctor::{Occasion, clash};
use crate::kernel::net::{HostNet, NetError};
use crate::membership::GossipSockets;
use crate::model::{API_PORT, ControlPorts, GOSSIP_PORT, HostPort, Node};

/// What a command asks for, as it was written; None: what the agent was told at start.
#[derive(Default)]
pub struct Asked<'a> {
    pub advertise: Option<&'a str>,
    pub listen: Option<&'a str>,
    pub gossip_port: Option<u16>,
}

/// Where a node is reached.
#[derive(Clone, Debug)]
pub struct Place {
    pub advertise_addr: IpAddr,
    pub data_path_addr: IpAddr,
    pub ports: ControlPorts,
}

/// Addresses and ports as the user named them, or as the host has them. `IP|IFACE[:PORT]` as with Swarm: the port of `--listen-addr` is
/// advertised unless `--advertise-addr` has one, and the other way round.
pub async fn choose(net: &HostNet, args: &Settings, asked: &Asked<'_>) -> Result<Place, ApiError> {
    const ADVERTISE: &str = "--advertise-addr";
    let bad = |error: NetError| ApiError::bad_request(error.to_string());
    let advertise = host_port(ADVERTISE, asked.advertise.or(args.advertise_addr.as_deref()))?;
    let listen = host_port("--listen-addr", asked.listen.or(args.listen_addr.as_deref()))?;
    let advertise_host = advertise.as_ref().map(|of| of.host.as_str());
    let advertise_addr = net.resolve_address(ADVERTISE, advertise_host).await.map_err(bad)?;
    let data_path_addr = match args.data_path_addr.as_deref() {
        Some(given) => net.resolve_address("--data-path-addr", Some(given)).await.map_err(bad)?,
        None => advertise_addr,
    };
    let listen_at = match listen.as_ref().map(|of| (of.host.as_str(), of.host.parse::<IpAddr>())) {
        None => None,
        Some((_, Ok(any))) if any.is_unspecified() => None,
        Some((_, Ok(loopback))) if loopback.is_loopback() => {
            let why = format!(
                "--listen-addr {loopback}: other nodes can't call there; name an address they reach, or 0.0.0.0"
            );
            return Err(ApiError::bad_request(why));
        }
        Some((host, _)) => Some(net.resolve_address("--listen-addr", Some(host)).await.map_err(bad)?),
    };
    let ports = [advertise, listen].map(|of| of.and_then(|of| of.port));
    let gossip = asked.gossip_port.or(args.gossip_port).unwrap_or(GOSSIP_PORT);
    let place = Place { advertise_addr, data_path_addr, ports: ports_of(advertise_addr, listen_at, ports, gossip) };
    if place.listened()[0] == gossip {
        let why =
            format!("API and gossip can't both have port {gossip}: give --listen-addr or --gossip-port another one");
        return Err(ApiError::bad_request(why));
    }
    Ok(place)
}

/// `listen_at` is None for all addresses; `ports` are those of `--advertise-addr` and `--listen-addr`.
fn ports_of(advertise: IpAddr, listen_at: Option<IpAddr>, ports: [Option<u16>; 2], gossip: u16) -> ControlPorts {
    let [advertised, listened] = ports;
    let api = advertised.or(listened).unwrap_or(API_PORT);
    let listen = SocketAddr::new(listen_at.unwrap_or(all_addresses(advertise)), listened.unwrap_or(api));
    let is_plain = listen_at.is_none() && listen.port() == api;
    ControlPorts { api, gossip, listen: (!is_plain).then_some(listen) }
}

fn host_port(option: &str, given: Option<&str>) -> Result<Option<HostPort>, ApiError> {
    let parse = |text: &str| text.parse().map_err(|error| ApiError::bad_request(format!("{option}: {error}")));
    given.map(parse).transpose()
}

impl Place {
    /// Of a member, as its record has it.
    pub fn of(node: &Node) -> Self {
        let Node { advertise_addr, data_path_addr, ports, .. } = node;
        Place { advertise_addr: *advertise_addr, data_path_addr: *data_path_addr, ports: ports.clone() }
    }

    /// Flags of `mesh agent` don't move a member.
    pub fn warn_of_others(&self, args: &Settings) {
        let is_asked = args.listen_addr.is_some() || args.gossip_port.is_some();
        if is_asked && listened(args) != self.listened() {
            let ([api, gossip], [asked_api, asked_gossip]) = (self.listened(), listened(args));
            log::warn!(
                "this node entered its cluster with ports {api} and {gossip} for API and gossip and keeps them, not {asked_api} and \
                 {asked_gossip} (--listen-addr, --gossip-port): let it leave and join again to change them"
            );
        }
    }

    pub fn api_addr(&self) -> SocketAddr {
        SocketAddr::new(self.advertise_addr, self.ports.api)
    }

    pub fn gossip_addr(&self) -> SocketAddr {
        SocketAddr::new(self.advertise_addr, self.ports.gossip)
    }

    /// Where API and gossip listen.
    pub fn sockets(&self) -> (SocketAddr, SocketAddr) {
        let everywhere = SocketAddr::new(all_addresses(self.advertise_addr), self.ports.api);
        let api = self.ports.listen.unwrap_or(everywhere);
        (api, SocketAddr::new(api.ip(), self.ports.gossip))
    }

    /// The ports of these.
    pub fn listened(&self) -> [u16; 2] {
        let (api, gossip) = self.sockets();
        [api.port(), gossip.port()]
    }
}

/// The ports of API and gossip that an agent with these settings would listen at, as far as they can be told without looking at the host.
pub fn listened(args: &Settings) -> [u16; 2] {
    let port = |given: &Option<String>| given.as_ref()?.parse::<HostPort>().ok()?.port;
    let api = port(&args.listen_addr).or(port(&args.advertise_addr)).unwrap_or(API_PORT);
    [api, args.gossip_port.unwrap_or(GOSSIP_PORT)]
}

/// The listeners of API and gossip.
pub struct Ports {
    pub api: TcpListener,
    pub gossip: GossipSockets,
}

impl Ports {
    /// Where one is in use, all that are are named, by whom, and what to do on this occasion; `data_port` is only looked at.
    pub async fn take(net: &HostNet, place: &Place, data_port: u16, occasion: Occasion) -> anyhow::Result<Self> {
        match Self::bind(place).await {
            Ok(ports) => Ok(ports),
            Err(error) => Err(match clash(&doctor::ports(net, place.listened(), data_port).await, occasion) {
                Some(clash) => error.context(clash),
                None => error,
            }),
        }
    }

    async fn bind(place: &Place) -> anyhow::Result<Self> {
        let (api, gossip) = place.sockets();
        let port = api.port();
        let api = TcpListener::bind(api).await.with_context(|| {
            format!("listen for other nodes at {api}/tcp: is it in use? `ss -lntp 'sport = {port}'` shows by whom; end that first")
        })?;
        let gossip = GossipSockets::bind(gossip).await?;
        Ok(Ports { api, gossip })
    }
}

/// All addresses of this node, for one that is reached at `advertise`. The IPv6 one takes calls to IPv4 addresses, too (RFC 3493, 3.7).
fn all_addresses(advertise: IpAddr) -> IpAddr {
    match advertise {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    const HERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    #[tokio::test]
    async fn a_node_is_reached_at_the_address_it_advertises() {
        for advertise in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            let api = TcpListener::bind(SocketAddr::new(all_addresses(advertise), 0)).await.unwrap();
            let port = api.local_addr().unwrap().port();
            TcpStream::connect(SocketAddr::new(advertise, port)).await.unwrap();
        }
    }

    #[test]
    fn a_port_of_either_flag_is_listened_at_and_advertised() {
        let place = |listen_at, ports| {
            let ports = ports_of(HERE, listen_at, ports, 7946);
            let place = Place { advertise_addr: HERE, data_path_addr: HERE, ports };
            (place.sockets().0.to_string(), place.api_addr().to_string())
        };
        let is = |listens: &str, advertises: &str| (listens.to_string(), advertises.to_string());
        assert_eq!(place(None, [None, None]), is("0.0.0.0:2377", "192.0.2.1:2377"));
        assert_eq!(place(None, [None, Some(12377)]), is("0.0.0.0:12377", "192.0.2.1:12377"));
        assert_eq!(place(None, [Some(12377), None]), is("0.0.0.0:12377", "192.0.2.1:12377"));
        assert_eq!(place(Some(HERE), [None, None]), is("192.0.2.1:2377", "192.0.2.1:2377"));
        assert_eq!(place(None, [Some(443), Some(12377)]), is("0.0.0.0:12377", "192.0.2.1:443"));
    }

    #[test]
    fn gossip_listens_at_the_address_of_the_api() {
        let ports = ports_of(HERE, Some(HERE), [None, None], 17946);
        let place = Place { advertise_addr: HERE, data_path_addr: HERE, ports };
        assert_eq!(place.sockets().1, SocketAddr::new(HERE, 17946));
        let place = Place { ports: ControlPorts::default(), ..place };
        assert_eq!(place.sockets().1.to_string(), "0.0.0.0:7946");
        assert_eq!(place.gossip_addr().to_string(), "192.0.2.1:7946");
    }
}
