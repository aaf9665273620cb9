//! A task's veth pair: made with its far end inside the task's namespace, set up on both sides, taken away by name.
//!
//! The host's end has the gateway's MAC, no address and no IPv6: all that comes in there is the programs' business. The task's
//! end is `eth0` with one address and on-link route per network and a default route; the programs answer its ARP.
//! Invariant: a link without a task id in its alias is half-made and is made anew.

use std::os::fd::{AsRawFd, BorrowedFd};

use mesh_common::wire::mac;
use netlink_packet_route::link::{InfoData, InfoVeth, LinkMessage};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder};

use super::error::{NetError, errno, unless};
use super::link::{self, Link};
use super::{namespace, sysctl};
use crate::plan::net::TaskLink;

const ETH0: &str = "eth0";

/// Makes the link, or completes the one that is there.
pub(super) async fn add(handle: &Handle, wanted: &TaskLink, netns: BorrowedFd<'_>) -> Result<(), NetError> {
    if let Some(there) = link::named(handle, &wanted.name).await? {
        if there.task_id().as_ref() == Some(&wanted.task_id) && has_eth0(wanted, netns).await? {
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
    match handle.link().add(creation(wanted, netns)).execute().await {
        Ok(()) => {}
        Err(error) if errno(&error) == libc::EEXIST => {
            return Err(NetError::TaskInterfaceTaken { task: wanted.task_id.short().to_string() });
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

/// Both ends in one request: the far end is born in the task's namespace, where no `eth0` of the host can be in its way.
fn creation(wanted: &TaskLink, netns: BorrowedFd<'_>) -> LinkMessage {
    let eth0 = LinkUnspec::new_with_name(ETH0)
        .address(wanted.mac.to_vec())
        .mtu(wanted.mtu)
        .setns_by_fd(netns.as_raw_fd())
        .build();
    LinkVeth::new(&wanted.name, ETH0)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(eth0)))
        .address(mac::GATEWAY.to_vec())
        .mtu(wanted.mtu)
        .build()
}

/// The host's end: MTU, alias, up.
pub(super) async fn set(handle: &Handle, wanted: &TaskLink) -> Result<(), NetError> {
    let message = LinkUnspec::new_with_name(&wanted.name)
        .mtu(wanted.mtu)
        .alias(link::alias_of_task(&wanted.task_id))
        .up()
        .build();
    let done = handle.link().set(message).execute().await;
    unless(done, &[], || format!("set up {} of task {}", wanted.name, wanted.task_id.short()))
}

/// The task's end follows the host's MTU.
pub(super) async fn set_mtu_inside(wanted: &TaskLink, netns: BorrowedFd<'_>) -> Result<(), NetError> {
    let message = LinkUnspec::new_with_name(ETH0).mtu(wanted.mtu).build();
    let attempt = format!("set the MTU of task {} to {}", wanted.task_id.short(), wanted.mtu);
    namespace::enter(duplicate(netns)?, || async move {
        let done = namespace::connect()?.link().set(message).execute().await;
        unless(done, &[], || attempt)
    })
    .await
}

/// Takes the pair away by its host's end; nothing to do where there is none.
pub(super) async fn remove(handle: &Handle, name: &str) -> Result<(), NetError> {
    match link::named(handle, name).await? {
        Some(there) if there.is_task_link() => {
            let gone = handle.link().del(there.index).execute().await;
            unless(gone, &[libc::ENODEV], || format!("remove {name}"))
        }
        _ => Ok(()),
    }
}

/// The far end of the link we found is in this very namespace.
async fn has_eth0(wanted: &TaskLink, netns: BorrowedFd<'_>) -> Result<bool, NetError> {
    let mac = wanted.mac;
    namespace::enter(duplicate(netns)?, move || async move {
        let eth0 = link::named(&namespace::connect()?, ETH0).await?;
        Ok(eth0.is_some_and(|link: Link| link.mac6() == Some(mac) && link.is_up))
    })
    .await
}

async fn set_up_inside(wanted: &TaskLink, netns: BorrowedFd<'_>) -> Result<(), NetError> {
    let wanted = wanted.clone();
    namespace::enter(duplicate(netns)?, move || async move {
        let handle = namespace::connect()?;
        let words = |what: &str| format!("{what} in the namespace of task {}", wanted.task_id.short());
        let lo = handle.link().set(LinkUnspec::new_with_name("lo").up().build()).execute().await;
        unless(lo, &[], || words("set lo up"))?;
        // IPv6 stays on, so that ::1 answers; but no link-local address: nobody is there to hear router solicitations.
        sysctl::write(&format!("net/ipv6/conf/{ETH0}/addr_gen_mode"), "1")?;
        let eth0 = handle.link().set(LinkUnspec::new_with_name(ETH0).up().build()).execute().await;
        unless(eth0, &[], || words("set eth0 up"))?;
        let index = match link::named(&handle, ETH0).await? {
            Some(link) => link.index,
            None => return Err(NetError::os(words("find eth0"), std::io::Error::from_raw_os_error(libc::ENODEV))),
        };
        for net in &wanted.addrs {
            let done = handle.address().add(index, net.addr().into(), net.prefix_len()).execute().await;
            unless(done, &[libc::EEXIST], || words(&format!("add address {net}")))?;
        }
        let default = RouteMessageBuilder::<std::net::Ipv4Addr>::new().gateway(wanted.gateway).output_interface(index);
        let done = handle.route().add(default.build()).execute().await;
        unless(done, &[libc::EEXIST], || words(&format!("add the default route by {}", wanted.gateway)))
    })
    .await
}

fn duplicate(netns: BorrowedFd<'_>) -> Result<std::os::fd::OwnedFd, NetError> {
    netns.try_clone_to_owned().map_err(|error| NetError::os("duplicate a namespace's descriptor", error))
}
