//! What the host's own network is like: its links to the outside, addresses, routes, MTU, and the address to be known by.
//!
//! Everything here leaves ours out: `mesh0` and tasks' links are no way to the outside and their addresses not the host's.
//! Must not: change anything.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::route::{RouteAttribute, RouteMetric};
use rtnetlink::RouteMessageBuilder;

use super::error::NetError;
use super::link::{self, Address, Link};
use super::{HostNet, advertise, sysctl};
use crate::plan::net::{Underlay, Uplink};

impl HostNet {
    /// Links that packets for published ports may come in by: not ours, with an address, no loopback, no port of a bridge or
    /// bond. With names in `only` (--publish-interface) just those, with or without an address.
    pub async fn uplinks(&self, only: &[String]) -> Result<Vec<Uplink>, NetError> {
        let links = link::all(&self.handle).await?;
        let addresses = link::addresses(&self.handle).await?;
        Ok(uplinks_of(links, &addresses, only))
    }

    /// The host's own addresses, loopback's included.
    pub async fn local_addresses(&self) -> Result<BTreeSet<IpAddr>, NetError> {
        let ours = self.our_links().await?;
        let addresses = link::addresses(&self.handle).await?;
        Ok(addresses.iter().filter(|address| !ours.contains(&address.link)).map(|address| address.net.addr()).collect())
    }

    /// Prefixes that this host reaches by links of its own, in any table: a network there would be out of its reach. Default
    /// routes and link-local prefixes are no claim to a prefix.
    pub async fn routed_prefixes(&self) -> Result<BTreeSet<IpNet>, NetError> {
        let ours = self.our_links().await?;
        let routes = link::routes(&self.handle).await?;
        Ok(routes
            .iter()
            .filter(|route| !route.is_default() && !ours.contains(&route.link) && !is_link_local(&route.to.addr()))
            .map(|route| route.to.trunc())
            .collect())
    }

    /// Largest IP packet that the first link on the way to `peer` carries: the link's MTU, or the route's where someone set one.
    pub async fn mtu_towards(&self, peer: IpAddr) -> Result<u32, NetError> {
        self.mtu_among(&link::all(&self.handle).await?, peer).await
    }

    /// The same with the links that the caller has read already.
    async fn mtu_among(&self, links: &[Link], peer: IpAddr) -> Result<u32, NetError> {
        let attempt = || format!("find the way to {peer}");
        let message = match peer {
            IpAddr::V4(addr) => RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(addr, 32).build(),
            IpAddr::V6(addr) => RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(addr, 128).build(),
        };
        let route = self.handle.route().get(message).execute().try_next().await;
        let route = route.map_err(|error| NetError::netlink(attempt(), error))?;
        let attributes = route.map(|route| route.attributes).unwrap_or_default();
        let mut index = 0;
        let mut set = None;
        // A path MTU that ICMP told expires; the tasks' MTU must not follow it up and down.
        let mut is_learnt = false;
        for attribute in attributes {
            match attribute {
                RouteAttribute::Oif(oif) => index = oif,
                RouteAttribute::CacheInfo(info) => is_learnt = info.expires != 0,
                RouteAttribute::Metrics(metrics) => {
                    set = metrics.into_iter().find_map(|metric| match metric {
                        RouteMetric::Mtu(mtu) => Some(mtu),
                        _ => None,
                    });
                }
                _ => {}
            }
        }
        let link = links.iter().find(|link| link.index == index);
        let link = link.ok_or_else(|| NetError::os(attempt(), std::io::Error::from_raw_os_error(libc::ENETUNREACH)))?;
        Ok(set.filter(|_| !is_learnt).map_or(link.mtu, |set| set.min(link.mtu)))
    }

    /// The smallest MTU of the link that has `data_path` and of the ways to the peers. Peers without a way don't count: nothing
    /// goes there anyway.
    pub async fn underlay(&self, data_path: IpAddr, peers: &[IpAddr]) -> Result<Underlay, NetError> {
        let addresses = link::addresses(&self.handle).await?;
        let links = link::all(&self.handle).await?;
        let own = addresses
            .iter()
            .find(|address| address.net.addr() == data_path)
            .and_then(|address| links.iter().find(|link| link.index == address.link))
            .ok_or_else(|| {
                NetError::Advertise(format!(
                    "this host does not have the address {data_path} (any more), which carries its tunnel packets: give it \
                     back, or leave the cluster and join again with --data-path-addr"
                ))
            })?;
        let mut mtu = own.mtu;
        for peer in peers.iter().filter(|peer| **peer != data_path) {
            mtu = mtu.min(self.mtu_among(&links, *peer).await.unwrap_or(mtu));
        }
        Ok(Underlay { mtu, has_ipv6: sysctl::has_ipv6() })
    }

    /// The address that `--advertise-addr` or `--data-path-addr` (named by `option`) means: an address of this host, the only
    /// address of an interface, or where `given` is absent the one that the host itself uses towards the outside.
    pub async fn resolve_address(&self, option: &str, given: Option<&str>) -> Result<IpAddr, NetError> {
        let facts = advertise::Facts {
            links: link::all(&self.handle).await?.into_iter().filter(|link| !link.is_ours()).collect(),
            addresses: link::addresses(&self.handle).await?,
            routes: link::routes(&self.handle).await?,
        };
        advertise::choose(&facts, option, given)
    }

    async fn our_links(&self) -> Result<BTreeSet<u32>, NetError> {
        let links = link::all(&self.handle).await?;
        Ok(links.iter().filter(|link| link.is_ours()).map(|link| link.index).collect())
    }
}

fn uplinks_of(links: Vec<Link>, addresses: &[Address], only: &[String]) -> Vec<Uplink> {
    let uplink = |link: Link| {
        let addrs: Vec<IpNet> =
            addresses.iter().filter(|address| address.link == link.index).map(|address| address.net).collect();
        let is_candidate = !link.is_ours() && !link.is_loopback;
        let is_chosen = match only {
            [] => !link.is_port && !addrs.is_empty(),
            names => names.contains(&link.name),
        };
        (is_candidate && is_chosen).then(|| Uplink {
            ifindex: link.index,
            mac: link.mac6().filter(|_| link.is_ethernet).unwrap_or_default(),
            mtu: link.mtu,
            addrs,
            has_ethernet: link.is_ethernet,
            up: link.is_up,
            name: link.name,
            kind: link.kind,
        })
    };
    links.into_iter().filter_map(uplink).collect()
}

pub(super) fn is_link_local(addr: &IpAddr) -> bool {
    match addr {
        IpAddr::V4(addr) => addr.is_link_local(),
        IpAddr::V6(addr) => addr.is_unicast_link_local() || addr.is_multicast(),
    }
}
