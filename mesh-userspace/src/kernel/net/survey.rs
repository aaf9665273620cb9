//! What of the host's network may stand in our way: users of ports, routes of other links, other people's packet programs.
//!
//! For `mesh doctor`. Must not: change anything, or read the firewall (docs/decisions/0015-firewalls-by-behaviour.md).

use std::collections::BTreeMap;

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp};
use netlink_packet_route::tc::{TcAttribute, TcFilterBpfOption, TcMessage, TcOption};

use super::error::NetError;
use super::list::list;
use super::underlay::is_link_local;
use super::{HostNet, filters, link, ports};
use crate::plan::net::{HeldPort, Transport};

/// Who has a port of this host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortHolder {
    Process {
        name: String,
        pid: u32,
    },
    /// The tunnel device of ours.
    Mesh0,
    /// Another VXLAN device, by name.
    Device(String),
    /// A socket that belongs to no process that shows: the kernel's, or another container's.
    Kernel,
}

/// Somebody's program on a link, outside TCX; an XDP program may be ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkProgram {
    /// By number of the program.
    Xdp(u32),
    /// A filter of the kind `bpf` at `ingress` or `egress`, by its name.
    Filter(&'static str, String),
}

impl HostNet {
    /// Who has this port; None: it is free.
    pub async fn port_holder(&self, transport: Transport, port: u16) -> Option<PortHolder> {
        self.held_port_holder(HeldPort { transport, port, address: None }).await
    }

    /// The same where one address alone may be meant.
    pub async fn held_port_holder(&self, port: HeldPort) -> Option<PortHolder> {
        match ports::holder(port) {
            ports::Holder::Nobody => None,
            ports::Holder::Process(name, pid) => Some(PortHolder::Process { name, pid }),
            ports::Holder::Unseen if port.transport == Transport::Udp => Some(self.tunnel_device(port.port).await),
            ports::Holder::Unseen => Some(PortHolder::Kernel),
        }
    }

    /// The device whose socket has this port.
    async fn tunnel_device(&self, port: u16) -> PortHolder {
        let links = link::all(&self.handle).await.unwrap_or_default();
        match links.into_iter().find(|link| link.vxlan.is_some_and(|(its_port, _)| its_port == port)) {
            Some(device) if device.is_our_mesh0() => PortHolder::Mesh0,
            Some(device) => PortHolder::Device(device.name),
            None => PortHolder::Kernel,
        }
    }

    /// Prefixes that this host reaches by links of its own, each with the link's name; see [`HostNet::routed_prefixes`].
    pub async fn routes_elsewhere(&self) -> Result<Vec<(IpNet, String)>, NetError> {
        let links = link::all(&self.handle).await?;
        let names: BTreeMap<u32, &str> = links.iter().map(|link| (link.index, link.name.as_str())).collect();
        let is_ours = |index| links.iter().any(|link| link.index == index && link.is_ours());
        let mut routes: Vec<(IpNet, String)> = link::routes(&self.handle)
            .await?
            .iter()
            .filter(|route| !route.is_default() && !is_ours(route.link) && !is_link_local(&route.to.addr()))
            .map(|route| (route.to.trunc(), names.get(&route.link).unwrap_or(&"no single link").to_string()))
            .collect();
        routes.sort();
        routes.dedup();
        Ok(routes)
    }

    /// XDP programs and TC filters on these links, with the link's name.
    pub async fn link_programs(&self, on: &[(u32, String)]) -> Result<Vec<(String, LinkProgram)>, NetError> {
        let messages: Vec<LinkMessage> = list("links", || self.handle.link().get().execute()).await?;
        let mut found = Vec::new();
        for (index, name) in on {
            let message = messages.iter().find(|message| message.header.index == *index);
            found.extend(message.and_then(xdp_program).map(|id| (name.clone(), LinkProgram::Xdp(id))));
            let mut handle = self.handle.traffic_filter(*index as i32);
            for (direction, request) in [("ingress", handle.get().ingress()), ("egress", handle.get().egress())] {
                // A link without such a queueing discipline answers with an error: it has no filters.
                let there: Vec<TcMessage> = request.execute().try_collect().await.unwrap_or_default();
                let programs = there.iter().filter_map(filter_name).filter(|program| !filters::is_ours(program));
                found.extend(programs.map(|program| (name.clone(), LinkProgram::Filter(direction, program))));
            }
        }
        found.dedup();
        Ok(found)
    }
}

fn xdp_program(message: &LinkMessage) -> Option<u32> {
    message.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Xdp(infos) => infos.iter().find_map(|info| match info {
            LinkXdp::ProgId(id) if *id != 0 => Some(*id),
            _ => None,
        }),
        _ => None,
    })
}

/// The name of a filter's program; None for filters of other kinds, and for the head of a chain, which names none.
fn filter_name(message: &TcMessage) -> Option<String> {
    let is_bpf =
        message.attributes.iter().any(|attribute| matches!(attribute, TcAttribute::Kind(kind) if kind == "bpf"));
    let options = message.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => Some(options),
        _ => None,
    })?;
    let name = options.iter().find_map(|option| match option {
        TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => Some(name.clone()),
        _ => None,
    });
    is_bpf.then(|| name.unwrap_or_else(|| "a program without a name".into()))
}
