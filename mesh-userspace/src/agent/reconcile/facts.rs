//! What a round is told of this host: its links, addresses, peers' ways, and what could not be had.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mesh_common::schema;

use super::{Kernel, Troubles, lock};
use crate::agent::member::Member;
use crate::kernel::net::NetError;
use crate::model::Cluster;
use crate::plan::maps::{Facts, NextHop};
use crate::plan::net::{self, MESH0, NetImage, Underlay, Uplink};

impl Kernel {
    /// The underlay, or what it was: an address that went with its cable must not keep the maps from being written.
    pub(super) async fn underlay(
        &self,
        data_path: IpAddr,
        peers: &[IpAddr],
        troubles: &mut Troubles,
    ) -> anyhow::Result<Underlay> {
        // Not in the match's head: its guard would live as long as the match.
        let last = *lock(&self.underlay);
        match (self.net.underlay(data_path, peers).await, last) {
            (Ok(underlay), _) => {
                *lock(&self.underlay) = Some(underlay);
                Ok(underlay)
            }
            (Err(error), Some(last)) => {
                troubles.warnings.push(error.to_string());
                Ok(last)
            }
            (Err(error), None) => Err(error.into()),
        }
    }

    pub(super) async fn facts(
        &self,
        member: &Member,
        image: &NetImage,
        underlay: &Underlay,
        not_taken: &[net::HeldPort],
    ) -> anyhow::Result<Facts> {
        let mesh0 = self
            .net
            .ifindex(MESH0)
            .await?
            .ok_or_else(|| anyhow::anyhow!("mesh0 is not there (see the other warnings)"))?;
        let uplinks = self.uplinks().await?;
        let own = self.net.local_addresses().await?.into_iter().filter(names_one_link);
        let mut addresses: BTreeMap<IpAddr, u32> = own.map(|addr| (addr, 0)).collect();
        for uplink in &uplinks {
            let own = uplink.addrs.iter().map(|net| net.addr()).filter(names_one_link);
            addresses.extend(own.map(|addr| (addr, uplink.ifindex)));
        }
        // On mesh0, whose addresses are no others' to call.
        addresses.extend(image.own_addr.map(|addr| (addr, 0)));
        let mut task_links = BTreeMap::new();
        for link in image.task_links.values() {
            if let Some(ifindex) = self.net.ifindex(&link.name).await? {
                task_links.insert(link.task_id.clone(), ifindex);
            }
        }
        let mtu = image.mesh0.map_or(underlay.mtu, |mesh0| mesh0.mtu);
        Ok(Facts {
            this_node: member.id.clone(),
            mesh0,
            netns_cookie: self.netns_cookie,
            addresses,
            uplinks: uplinks.iter().map(|uplink| (uplink.ifindex, as_map_value(uplink))).collect(),
            next_hops: BTreeMap::new(),
            protected: Default::default(),
            task_links,
            ports_not_taken: not_taken.iter().map(net::HeldPort::key).collect(),
            flood_threshold: self.flood_threshold,
            task_mtu: mtu,
            underlay_mtu: underlay.mtu,
        })
    }

    /// Where the programs may send tunnel packets by themselves; what is not known goes through mesh0.
    pub(super) async fn next_hops(
        &self,
        data_path: IpAddr,
        image: &NetImage,
        peers: &[IpAddr],
        troubles: &mut Troubles,
    ) -> BTreeMap<IpAddr, NextHop> {
        let (true, Some(mesh0)) = (self.fast_path, image.mesh0) else {
            return BTreeMap::new();
        };
        self.net.next_hops(data_path, mesh0.port, peers).await.unwrap_or_else(|error| {
            troubles.warnings.push(format!("{error}; packets to other nodes go the slower way, through {MESH0}"));
            BTreeMap::new()
        })
    }

    /// Peers whose tunnel packets the host's IPsec policies are for: programs leave those to mesh0 and the host's stack, both ways.
    pub(super) fn protected(
        &self,
        data_path: IpAddr,
        image: &NetImage,
        peers: &[IpAddr],
        troubles: &mut Troubles,
    ) -> BTreeSet<IpAddr> {
        let Some(mesh0) = image.mesh0 else { return BTreeSet::new() };
        match self.net.protected(data_path, mesh0.port, peers) {
            Ok(protected) => protected.into_keys().collect(),
            Err(error) => {
                troubles.warnings.push(format!("{error}; packets to other nodes go the slower way, through {MESH0}"));
                peers.iter().copied().collect()
            }
        }
    }

    /// Addresses of the links that ports are published at by name: for all nodes to know.
    pub(super) async fn interfaces(&self, cluster: &Cluster) -> Result<BTreeMap<String, BTreeSet<IpAddr>>, NetError> {
        let ports = cluster.services.values().flat_map(|service| &service.ports);
        let named: BTreeSet<&String> = ports.filter_map(|port| port.interface.as_ref()).collect();
        if named.is_empty() {
            return Ok(BTreeMap::new());
        }
        let uplinks = self.uplinks().await?.into_iter().filter(|uplink| named.contains(&uplink.name));
        let addresses = |uplink: &Uplink| uplink.addrs.iter().map(|net| net.addr()).filter(names_one_link).collect();
        Ok(uplinks.map(|uplink| (uplink.name.clone(), addresses(&uplink))).collect())
    }

    /// Links that published ports answer on: those with an Ethernet header.
    pub(super) async fn uplinks(&self) -> Result<Vec<Uplink>, NetError> {
        let uplinks = self.net.uplinks(&self.publish_interfaces).await?;
        Ok(uplinks.into_iter().filter(|uplink| uplink.has_ethernet).collect())
    }
}

fn as_map_value(uplink: &Uplink) -> schema::Uplink {
    let own = || uplink.addrs.iter().map(|net| net.addr()).filter(names_one_link);
    let of_ipv4 = own().find_map(|addr| if let IpAddr::V4(addr) = addr { Some(addr.octets()) } else { None });
    let of_ipv6 = own().find_map(|addr| if let IpAddr::V6(addr) = addr { Some(addr.octets()) } else { None });
    let (addr4, addr6) = (of_ipv4.unwrap_or_default(), of_ipv6.unwrap_or_default());
    schema::Uplink { addr4, mac: uplink.mac, pad: [0; 2], addr6 }
}

/// Whether an address is the host's wherever it is called. A link-local one of IPv6 may be on another of its links, too, and is nobody's beyond.
fn names_one_link(addr: &IpAddr) -> bool {
    !matches!(addr, IpAddr::V6(addr) if addr.is_unicast_link_local())
}
