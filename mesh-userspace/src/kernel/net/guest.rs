//! A guest's end of a link: an interface of ours beside those that a container has already.
//!
//! ```text
//! eth0    Docker's, with the container's default route
//! mesh0   ours: addresses and on-link routes as a task has them in table main, and
//!         from <our address> lookup 109     10.0.16.0/20 dev mesh0 · default via 10.0.16.1 dev mesh0
//! ```
//! By the rules, an answer to a caller from anywhere leaves by the interface it was called on, with the caller's own address; what the
//! container begins by itself goes as before. They also satisfy a strict rp_filter, which looks the way back up with our address as
//! source (fib_frontend.c, __fib_validate_source). docs/reference/labels.md has the numbers' reasons.
//! Invariant: what is not of protocol 109 is left as it is. Must not: read firewall tables, or take an `ethN`: Docker names the next
//! network's interface so without looking, and `docker network connect` would fail.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

use futures_util::{StreamExt, TryStreamExt};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::nsid::{NsidAttribute, NsidMessage};
use netlink_packet_route::route::{RouteAttribute, RouteScope};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::{Handle, IpVersion};

use super::error::{NetError, errno, unless};
use super::link::{self, Link, ROUTE_PROTOCOL};
use super::namespace;
use crate::plan::net::TaskLink;

/// Interfaces are `mesh0`, or the next number that is free.
const STEM: &str = "mesh";
/// The routing table of our addresses: the number of our routes' protocol, which iproute2's rt_tables gives to nobody.
const TABLE: u32 = 109;
/// Before table main (32766) and the rules of VPN clients (wg-quick: 32764), behind those that somebody put at the front on purpose.
const PRIORITY: u32 = 10_900;

/// A name that is free in the calling thread's namespace.
pub(super) async fn free_name(handle: &Handle) -> Result<String, NetError> {
    let taken: BTreeSet<String> = link::all(handle).await?.into_iter().map(|link| link.name).collect();
    let mut names = (0..).map(|number: u32| format!("{STEM}{number}"));
    Ok(names.find(|name| !taken.contains(name)).unwrap_or_default()) // there are fewer links than numbers
}

/// Routes and rules for packets from our addresses, in the calling thread's namespace; repeating it does no harm.
pub(super) async fn route_by_source(handle: &Handle, wanted: &TaskLink, index: u32) -> Result<(), NetError> {
    let words = |what: &str| format!("{what} in the namespace of task {}", wanted.task_id.short());
    for net in &wanted.addrs {
        let on_link = link::route_to(*net).table_id(TABLE).protocol(ROUTE_PROTOCOL).output_interface(index);
        let mut on_link = on_link.scope(RouteScope::Link).build();
        on_link.attributes.push(RouteAttribute::PrefSource(net.addr().into()));
        let done = handle.route().add(on_link).execute().await;
        unless(done, &[libc::EEXIST], || words(&format!("add the route to {}", net.trunc())))?;
    }
    for gateway in wanted.gateways.each() {
        let default = link::route_by(gateway).table_id(TABLE).protocol(ROUTE_PROTOCOL).output_interface(index).build();
        let done = handle.route().add(default).execute().await;
        unless(done, &[libc::EEXIST], || words(&format!("add the route by {gateway} of table {TABLE}")))?;
    }
    for net in &wanted.addrs {
        let rule = handle.rule().add().priority(PRIORITY).table_id(TABLE).action(RuleAction::ToTable);
        let ours = RuleAttribute::Protocol(ROUTE_PROTOCOL);
        let done = match net.addr() {
            IpAddr::V4(addr) => {
                let mut rule = rule.v4().source_prefix(addr, 32);
                rule.message_mut().attributes.push(ours);
                rule.execute().await
            }
            IpAddr::V6(addr) => {
                let mut rule = rule.v6().source_prefix(addr, 128);
                rule.message_mut().attributes.push(ours);
                rule.execute().await
            }
        };
        unless(done, &[libc::EEXIST], || words(&format!("add the rule for packets from {}", net.addr())))?;
    }
    Ok(())
}

/// Takes away what stays in the guest's namespace when the link goes: its rules. The kernel takes addresses and routes.
pub(super) async fn leave(handle: &Handle, host_end: &Link) -> Result<(), NetError> {
    let Some(number) = host_end.peer_namespace else { return Ok(()) };
    // Without a process in it there is nobody whose packets a rule could concern.
    let Some(netns) = numbered(handle, number).await? else { return Ok(()) };
    namespace::enter(netns, || async {
        let handle = namespace::connect()?;
        let words = || format!("take the rules for table {TABLE} out of a container's namespace");
        for family in [IpVersion::V4, IpVersion::V6] {
            let rules = handle.rule().get(family).execute().try_collect().await;
            let rules: Vec<RuleMessage> = match rules {
                // A kernel without IPv6 has no rules for it.
                Err(error) if [libc::EAFNOSUPPORT, libc::EOPNOTSUPP].contains(&errno(&error)) => continue,
                rules => rules.map_err(|error| NetError::netlink(words(), error))?,
            };
            for rule in rules.into_iter().filter(is_ours) {
                unless(handle.rule().del(rule).execute().await, &[libc::ENOENT], words)?;
            }
        }
        Ok(())
    })
    .await
}

fn is_ours(rule: &RuleMessage) -> bool {
    let has = |wanted| rule.attributes.contains(&wanted);
    has(RuleAttribute::Protocol(ROUTE_PROTOCOL)) && has(RuleAttribute::Priority(PRIORITY))
}

/// The namespace that the kernel knows here by this number, found among those of all processes: whoever removes a link (an agent that
/// was restarted, a purge) need not know whose it was.
async fn numbered(handle: &Handle, number: i32) -> Result<Option<OwnedFd>, NetError> {
    let mut seen: BTreeSet<PathBuf> = fs::read_link("/proc/thread-self/ns/net").into_iter().collect();
    let entries = fs::read_dir("/proc").map_err(|error| NetError::os("list processes", error))?;
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    for pid in pids.collect::<Vec<_>>() {
        // A process may end at any moment: then it is not the one.
        let Ok(namespace) = fs::read_link(format!("/proc/{pid}/ns/net")) else { continue };
        if !seen.insert(namespace) {
            continue;
        }
        let Ok(netns) = namespace::of_process(pid) else { continue };
        if number_of(handle, &netns).await? == Some(number) {
            return Ok(Some(netns));
        }
    }
    Ok(None)
}

/// RTM_GETNSID, see ip-netns(8), `list-id`. None: the kernel has had no reason yet to number it.
async fn number_of(handle: &Handle, netns: &OwnedFd) -> Result<Option<i32>, NetError> {
    let failed = |error| NetError::netlink("ask for the number of a network namespace", error);
    let mut message = NsidMessage::default();
    message.attributes.push(NsidAttribute::Fd(netns.as_raw_fd().cast_unsigned()));
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNsId(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let mut answers = handle.clone().request(request).map_err(failed)?;
    let mut number = None;
    while let Some(answer) = answers.next().await {
        match answer.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNsId(answer)) => {
                number = answer.attributes.iter().find_map(|attribute| match attribute {
                    NsidAttribute::Id(number) if *number >= 0 => Some(*number),
                    _ => None,
                });
            }
            NetlinkPayload::Error(error) if error.code.is_some() => {
                return Err(failed(rtnetlink::Error::NetlinkError(error)));
            }
            _ => {}
        }
    }
    Ok(number)
}
