//! The ports of the control plane, taken before anything else is begun: where one is in use by another, nothing has to be taken back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Context;
use tokio::net::TcpListener;

use super::doctor;
use crate::api::tls::API_PORT;
use crate::doctor::clash;
use crate::kernel::net::HostNet;
use crate::membership::{GOSSIP_PORT, GossipSockets};

/// 2377/tcp and 7946/tcp+udp.
pub struct Ports {
    pub api: TcpListener,
    pub gossip: GossipSockets,
}

impl Ports {
    /// For a node that is reached at `advertise`; on all its addresses. Where one is in use, all that are are named, by whom, and what to do;
    /// `data_port` is only looked at.
    pub async fn take(net: &HostNet, data_port: u16, advertise: IpAddr) -> anyhow::Result<Self> {
        match Self::bind(advertise).await {
            Ok(ports) => Ok(ports),
            Err(error) => Err(match clash(&doctor::ports(net, data_port).await) {
                Some(clash) => error.context(clash),
                None => error,
            }),
        }
    }

    async fn bind(advertise: IpAddr) -> anyhow::Result<Self> {
        let any = all_addresses(advertise);
        let api = TcpListener::bind(SocketAddr::new(any, API_PORT)).await.with_context(|| {
            format!("listen for other nodes on {API_PORT}/tcp: is it in use? `ss -lntp 'sport = {API_PORT}'` shows by whom; end that first")
        })?;
        let gossip = GossipSockets::bind(SocketAddr::new(any, GOSSIP_PORT)).await?;
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

    #[tokio::test]
    async fn a_node_is_reached_at_the_address_it_advertises() {
        for advertise in [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            let api = TcpListener::bind(SocketAddr::new(all_addresses(advertise), 0)).await.unwrap();
            let port = api.local_addr().unwrap().port();
            TcpStream::connect(SocketAddr::new(advertise, port)).await.unwrap();
        }
    }
}
