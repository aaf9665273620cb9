//! A task's veth pair: made with its far end inside the task's namespace, set up on both sides, taken away by name.
//!
//! The host's end has the gateway's MAC, no address and no IPv6: all that comes in there is the programs' business. The task's
//! end is `eth0` with one address and on-link route per network and family and a default route for each family; the programs answer its ARP
//! and neighbour solicitations. For a guest see
//! `guest`; whatever it is called, the task's end is known by its MAC.
//! Invariant: a link without a task id in its alias is half-made and is made anew.

use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

use mesh_common::wire::mac;
use netlink_packet_route::address::AddressHeaderFlags;
use netlink_packet_route::link::{InfoData, InfoVeth, LinkMessage};
use netlink_packet_route::route::RouteAttribute;
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::error::{NetError, errno, unless};
use super::link::{self, Link};
use super::{guest, namespace, sysctl};
use crate::plan::net::TaskLink;

const ETH0: &str = "eth0";

/// Makes the link, or completes the one that is there.
pub(super) async fn add(handle: &Handle, wanted: &TaskLink, netns: BorrowedFd<'_>) -> Result<(), NetError> {
    if let Some(there) = link::named(handle, &wanted.name).await? {
        if there.task_id().as_ref() == Some(&wanted.task_id) && is_set_up_inside(wanted, netns).await? {
            return set(handle, wanted).await;
        }
        remove(handle, &wanted.name).await?;
    }
    let done = create(handle, wanted, netns).await;
    if done.is_err() {
        remove(handle, &wanted.name).await?;
    }
    done
}

async fn create(handle: &Handle, wanted: &TaskLink, netns: BorrowedFd<'_>) -> Result<(), NetError> {
    let inside = name_inside(wanted, netns).await?;
    match handle.link().add(creation(wanted, &inside, netns)).execute().await {
        Ok(()) => {}
        Err(error) if errno(&error) == libc::EEXIST => {
            return Err(NetError::TaskInterfaceTaken { task: wanted.task_id.short().to_string(), name: inside });
        }
        Err(error) => {
            return Err(NetError::netlink(
                format!("create {} for task {}", wanted.name, wanted.task_id.short()),
                error,
            ));
        }
    }
    set_up_inside(wanted, netns).await?;
    // Before the link goes up, so that it never has a link-local address.
    sysctl::write(&format!("net/ipv6/conf/{}/disable_ipv6", wanted.name), "1")?;
    // The alias last: it says that all the rest is done.
    set(handle, wanted).await
}

/// What the task's end shall be called.
async fn name_inside(wanted: &TaskLink, netns: BorrowedFd<'_>) -> Result<String, NetError> {
    if !wanted.guest {
        return Ok(ETH0.to_string());
    }
    namespace::enter(duplicate(netns)?, || async { guest::free_name(&namespace::connect()?).await }).await
}

/// Both ends in one request: the far end is born in the task's namespace, where no `eth0` of the host can be in its way.
fn creation(wanted: &TaskLink, inside: &str, netns: BorrowedFd<'_>) -> LinkMessage {
    let inside_end = LinkUnspec::new_with_name(inside)
        .address(wanted.mac.to_vec())
        .mtu(wanted.mtu)
        .setns_by_fd(netns.as_raw_fd())
        .build();
    LinkVeth::new(&wanted.name, inside)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(inside_end)))
        .address(mac::GATEWAY.to_vec())
        .mtu(wanted.mtu)
        .build()
}

/// The host's end: MTU, alias, up.
pub(super) async fn set(handle: &Handle, wanted: &TaskLink) -> Result<(), NetError> {
    let message = LinkUnspec::new_with_name(&wanted.name).mtu(wanted.mtu).alias(link::alias_of(wanted)).up().build();
    let done = handle.link().set(message).execute().await;
    unless(done, &[], || format!("set up {} of task {}", wanted.name, wanted.task_id.short()))
}

/// The task's end follows the host's MTU.
pub(super) async fn set_mtu_inside(wanted: &TaskLink, netns: BorrowedFd<'_>) -> Result<(), NetError> {
    let (mac, mtu) = (wanted.mac, wanted.mtu);
    let attempt = format!("set the MTU of task {} to {mtu}", wanted.task_id.short());
    namespace::enter(duplicate(netns)?, move || async move {
        let handle = namespace::connect()?;
        let Some(inside) = with_mac(&handle, mac).await? else { return Ok(()) };
        let message = LinkUnspec::new_with_index(inside.index).mtu(mtu).build();
        unless(handle.link().set(message).execute().await, &[], || attempt)
    })
    .await
}

/// Takes the pair away by its host's end, and what it left in a guest; nothing to do where there is none.
pub(super) async fn remove(handle: &Handle, name: &str) -> Result<(), NetError> {
    match link::named(handle, name).await? {
        Some(there) if there.is_task_link() => {
            if !there.goes_without_trace()
                && let Err(error) = guest::leave(handle, &there).await
            {
                // A rule for a table without routes does nothing; the link would.
                log::warn!("{name}: {error}");
            }
            let gone = handle.link().del(there.index).execute().await;
            unless(gone, &[libc::ENODEV], || format!("remove {name}"))
        }
        _ => Ok(()),
    }
}

/// The far end of the link we found is in this very namespace. A guest's rules are put back where somebody took them.
async fn is_set_up_inside(wanted: &TaskLink, netns: BorrowedFd<'_>) -> Result<bool, NetError> {
    let wanted = wanted.clone();
    namespace::enter(duplicate(netns)?, move || async move {
        let handle = namespace::connect()?;
        let inside = with_mac(&handle, wanted.mac).await?.filter(|link| link.is_up);
        if let (true, Some(link)) = (wanted.guest, &inside) {
            guest::route_by_source(&handle, &wanted, link.index).await?;
        }
        Ok(inside.is_some())
    })
    .await
}

async fn set_up_inside(wanted: &TaskLink, netns: BorrowedFd<'_>) -> Result<(), NetError> {
    let wanted = wanted.clone();
    namespace::enter(duplicate(netns)?, move || async move {
        let handle = namespace::connect()?;
        let words = |what: &str| format!("{what} in the namespace of task {}", wanted.task_id.short());
        if !wanted.guest {
            let lo = handle.link().set(LinkUnspec::new_with_name("lo").up().build()).execute().await;
            unless(lo, &[], || words("set lo up"))?;
        }
        let Some(Link { index, name, .. }) = with_mac(&handle, wanted.mac).await? else {
            return Err(NetError::os(words("find the interface"), std::io::Error::from_raw_os_error(libc::ENODEV)));
        };
        // IPv6 stays on, so that ::1 answers; but no link-local address: nobody is there to hear router solicitations. Where the task has
        // IPv6 addresses, its namespace may have been born with it switched off (an Engine's are).
        sysctl::write(&format!("net/ipv6/conf/{name}/addr_gen_mode"), "1")?;
        if wanted.addrs.iter().any(|net| net.addr().is_ipv6()) {
            for (key, value) in [("accept_ra", "0"), ("autoconf", "0"), ("disable_ipv6", "0")] {
                sysctl::write(&format!("net/ipv6/conf/{name}/{key}"), value)?;
            }
        }
        let up = handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await;
        unless(up, &[], || words(&format!("set {name} up")))?;
        for net in &wanted.addrs {
            let mut request = handle.address().add(index, net.addr(), net.prefix_len());
            if net.addr().is_ipv6() {
                // It is given to nobody else, and no neighbour would object (RFC 4862, 5.4): it counts at once.
                request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
            }
            unless(request.execute().await, &[libc::EEXIST], || words(&format!("add address {net}")))?;
        }
        if wanted.guest {
            return guest::route_by_source(&handle, &wanted, index).await;
        }
        for gateway in wanted.gateways.each() {
            let default = default_route(&wanted, gateway, index).build();
            let done = handle.route().add(default).execute().await;
            unless(done, &[libc::EEXIST], || words(&format!("add the default route by {gateway}")))?;
        }
        Ok(())
    })
    .await
}

/// With the task's address on the gateway's network as source: by IPv4's rules it is that one anyway, by IPv6's (RFC 6724, 5) it might be another
/// network's.
pub(super) fn default_route(wanted: &TaskLink, gateway: IpAddr, index: u32) -> RouteMessageBuilder<IpAddr> {
    let mut route = link::route_by(gateway).output_interface(index);
    let own = wanted.addrs.iter().find(|net| net.addr().is_ipv6() && net.contains(&gateway));
    route.get_mut().attributes.extend(own.map(|net| RouteAttribute::PrefSource(net.addr().into())));
    route
}

async fn with_mac(handle: &Handle, mac: [u8; 6]) -> Result<Option<Link>, NetError> {
    Ok(link::all(handle).await?.into_iter().find(|link| link.mac6() == Some(mac)))
}

fn duplicate(netns: BorrowedFd<'_>) -> Result<std::os::fd::OwnedFd, NetError> {
    netns.try_clone_to_owned().map_err(|error| NetError::os("duplicate a namespace's descriptor", error))
}
