//! What there is of ours in the host's network.
//!
//! Reads everything at once, so that the difference compares one moment. Must not: change anything, or list what is not ours.

use std::net::IpAddr;

use super::error::NetError;
use super::link::{self, Address, Link, ROUTE_PROTOCOL, RouteSeen};
use super::{HostNet, sysctl};
use crate::plan::net::{Mesh0, NetImage, Programmed, Route, TaskLinkEnd};

impl HostNet {
    /// `wanted` says which sysctls are of interest beside the recorded ones.
    pub async fn observe(&self, wanted: &NetImage) -> Result<Programmed, NetError> {
        let links = link::all(&self.handle).await?;
        let recorded = self.sysctls.recorded()?;
        let keys = wanted.sysctls.keys().chain(recorded.keys());
        let mut programmed = Programmed {
            task_links: links.iter().filter(|link| link.is_task_link()).map(task_link_end).collect(),
            held_ports: self.held_ports(),
            sysctls: keys.filter_map(|key| Some((key.clone(), sysctl::read(key)?))).collect(),
            recorded_sysctls: recorded.keys().cloned().collect(),
            ..Default::default()
        };
        let Some(mesh0) = links.iter().find(|link| link.is_our_mesh0()) else { return Ok(programmed) };
        programmed.mesh0 = mesh0_of(mesh0);
        programmed.mesh0_running = mesh0.is_up && mesh0.is_noarp;
        let addresses = link::addresses(&self.handle).await?;
        programmed.addrs = addresses.iter().filter_map(|address| own_of(address, mesh0.index)).collect();
        let routes = link::routes(&self.handle).await?;
        programmed.routes =
            routes.iter().filter(|route| is_ours(route, mesh0.index)).map(|route| route_of(route, mesh0)).collect();
        Ok(programmed)
    }
}

fn task_link_end(link: &Link) -> (String, TaskLinkEnd) {
    (link.name.clone(), TaskLinkEnd { task_id: link.task_id(), mtu: link.mtu, up: link.is_up })
}

fn mesh0_of(link: &Link) -> Option<Mesh0> {
    Some(Mesh0 { port: link.vxlan?.0, mac: link.mac6()?, mtu: link.mtu })
}

fn own_of(address: &Address, mesh0: u32) -> Option<IpAddr> {
    let net = address.net;
    (address.link == mesh0 && net.prefix_len() == net.max_prefix_len()).then_some(net.addr())
}

/// Somebody's own route on `mesh0` is his business.
fn is_ours(route: &RouteSeen, mesh0: u32) -> bool {
    route.link == mesh0 && route.protocol == ROUTE_PROTOCOL && route.is_in_main_table()
}

fn route_of(route: &RouteSeen, mesh0: &Link) -> (ipnet::IpNet, Route) {
    (route.to, Route { src: route.src, mtu: route.mtu.unwrap_or(mesh0.mtu) })
}
