//! Addresses and routes on `mesh0`.
//!
//! Must not: replace a route of the host. Linux lets a request replace whatever has the same prefix and metric, whoever made
//! it, and a route of ours with metric 0 would win over a NIC's own with a higher one; so we look before we write.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressScope, CacheInfo};
use netlink_packet_route::route::{RouteAttribute, RouteMessage, RouteMetric, RouteScope};
use rtnetlink::{AddressMessageBuilder, Handle};

use super::error::{NetError, errno, unless};
use super::link::{self, Link, ROUTE_PROTOCOL, RouteSeen};
use crate::plan::net::{MESH0, Route};

pub(super) async fn add_address(handle: &Handle, addr: IpAddr) -> Result<(), NetError> {
    let (index, net) = (mesh0_index(handle).await?, IpNet::from(addr));
    let mut request = handle.address().add(index, addr, net.prefix_len());
    let message = request.message_mut();
    // The resolver binds here, but the kernel never picks it as the source of the host's other packets: by its scope, or as it is deprecated
    // (RFC 4862, 5.5.4) from the beginning.
    match addr {
        IpAddr::V4(_) => message.header.scope = AddressScope::Link,
        IpAddr::V6(_) => {
            message.header.flags |= AddressHeaderFlags::Nodad;
            let mut life = CacheInfo::default();
            life.ifa_valid = u32::MAX;
            message.attributes.push(AddressAttribute::CacheInfo(life));
        }
    }
    unless(request.execute().await, &[libc::EEXIST], || format!("add address {net} to {MESH0}"))
}

pub(super) async fn remove_address(handle: &Handle, addr: IpAddr) -> Result<(), NetError> {
    let (index, net) = (mesh0_index(handle).await?, IpNet::from(addr));
    let message = match addr {
        IpAddr::V4(addr) => {
            AddressMessageBuilder::<Ipv4Addr>::new().index(index).address(addr, net.prefix_len()).build()
        }
        IpAddr::V6(addr) => {
            AddressMessageBuilder::<Ipv6Addr>::new().index(index).address(addr, net.prefix_len()).build()
        }
    };
    let gone = handle.address().del(message).execute().await;
    unless(gone, &[libc::EADDRNOTAVAIL, libc::ENODEV], || format!("remove address {net} from {MESH0}"))
}

pub(super) async fn set_route(handle: &Handle, subnet: IpNet, route: Route) -> Result<(), NetError> {
    let index = mesh0_index(handle).await?;
    refuse_if_taken(handle, subnet, index).await?;
    let done = handle.route().add(route_message(subnet, route, index)).replace().execute().await;
    match (done, route.src) {
        // The kernel takes as source only an address that the host has.
        (Err(error), Some(src)) if errno(&error) == libc::EINVAL => {
            let addresses = link::addresses(handle).await?;
            match addresses.iter().any(|address| address.net.addr() == src) {
                true => Err(NetError::netlink(format!("add the route to {subnet} by {MESH0}"), error)),
                false => Err(NetError::SourceNotLocal { subnet, src }),
            }
        }
        (done, _) => unless(done, &[], || format!("add the route to {subnet} by {MESH0}")),
    }
}

pub(super) async fn remove_route(handle: &Handle, subnet: IpNet) -> Result<(), NetError> {
    let index = mesh0_index(handle).await?;
    let message =
        link::route_to(subnet).output_interface(index).protocol(ROUTE_PROTOCOL).scope(RouteScope::Link).build();
    let gone = handle.route().del(message).execute().await;
    unless(gone, &[libc::ESRCH, libc::ENODEV], || format!("remove the route to {subnet} by {MESH0}"))
}

fn route_message(subnet: IpNet, route: Route, index: u32) -> RouteMessage {
    let builder = link::route_to(subnet).output_interface(index).protocol(ROUTE_PROTOCOL).scope(RouteScope::Link);
    let mut message = builder.build();
    message.attributes.extend(route.src.map(|src| RouteAttribute::PrefSource(src.into())));
    message.attributes.push(RouteAttribute::Metrics(vec![RouteMetric::Mtu(route.mtu)]));
    message
}

/// The same prefix elsewhere is an error; a part of it elsewhere is worth a word, since the host's processes go there.
async fn refuse_if_taken(handle: &Handle, subnet: IpNet, mesh0: u32) -> Result<(), NetError> {
    let routes = link::routes(handle).await?;
    let elsewhere = |route: &&RouteSeen| route.link != mesh0 && route.is_in_main_table();
    let Some(route) = routes.iter().filter(elsewhere).find(|route| subnet.contains(&route.to)) else {
        return Ok(());
    };
    let by = name_of(handle, route.link).await?;
    if route.to == subnet {
        return Err(NetError::RouteTaken { subnet, by });
    }
    log::warn!("this host reaches {} by {by}: its own processes don't reach tasks of {subnet} there", route.to);
    Ok(())
}

async fn name_of(handle: &Handle, index: u32) -> Result<String, NetError> {
    let links = link::all(handle).await?;
    Ok(links.into_iter().find(|link| link.index == index).map_or("a blackhole".into(), |link| link.name))
}

async fn mesh0_index(handle: &Handle) -> Result<u32, NetError> {
    match link::named(handle, MESH0).await?.filter(Link::is_our_mesh0) {
        Some(link) => Ok(link.index),
        None => Err(NetError::os(
            format!("find {MESH0} (an earlier step failed, or somebody removed it)"),
            std::io::Error::from_raw_os_error(libc::ENODEV),
        )),
    }
}
