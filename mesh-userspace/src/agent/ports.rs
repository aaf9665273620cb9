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
        let api = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), API_PORT);
        let api = TcpListener::bind(api).await.with_context(|| {
            format!("listen for other nodes on {API_PORT}/tcp: is it in use? `ss -lntp 'sport = {API_PORT}'` shows by whom; end that first")
        })?;
        let any = match advertise {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let gossip = GossipSockets::bind(SocketAddr::new(any, GOSSIP_PORT)).await?;
        Ok(Ports { api, gossip })
    }
}
