//! Links, addresses and routes as the kernel lists them, in the few words this room needs.
//!
//! Ours are known by the MAC address, which is set in the very request that creates a link: there is no moment in which a link
//! of ours can't be told from somebody else's. The alias adds the task's id, for us and for people who type `ip link`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use mesh_common::wire::mac;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoPortKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteProtocol, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::error::{NetError, errno};
use super::list::list;
use crate::model::Id;
use crate::plan::net::{MESH0, TaskLink};

/// Alias of `mesh0`.
pub(super) const ALIAS_MESH0: &str = "mesh";
/// Alias of a task's link, followed by the task's id.
const ALIAS_TASK: &str = "mesh task ";
/// The same for a guest: taking it away leaves rules in its namespace, unless they are taken first.
const ALIAS_GUEST: &str = "mesh guest ";
/// Marks our routes (`ip route show proto 109`). Not assigned to anybody in iproute2's rt_protos.
pub(super) const ROUTE_PROTOCOL: RouteProtocol = RouteProtocol::Other(109);

#[derive(Clone, Debug)]
pub(super) struct Link {
    pub index: u32,
    pub name: String,
    /// As `ip link add type` has it; empty for a NIC.
    pub kind: String,
    pub mac: Vec<u8>,
    pub mtu: u32,
    pub alias: String,
    pub is_up: bool,
    pub is_loopback: bool,
    pub is_noarp: bool,
    pub is_ethernet: bool,
    /// Port of a bridge, bond or the like: packets show up at its master instead. (A VRF's member is none.)
    pub is_port: bool,
    /// VXLAN only: UDP port and external mode.
    pub vxlan: Option<(u16, bool)>,
    /// The namespace that the other end is in, by the kernel's number for it here; None: this one.
    pub peer_namespace: Option<i32>,
}

impl Link {
    fn from_message(message: LinkMessage) -> Link {
        let mut link = Link {
            index: message.header.index,
            name: String::new(),
            kind: String::new(),
            mac: Vec::new(),
            mtu: 0,
            alias: String::new(),
            is_up: message.header.flags.contains(LinkFlags::Up),
            is_loopback: message.header.flags.contains(LinkFlags::Loopback),
            is_noarp: message.header.flags.contains(LinkFlags::Noarp),
            is_ethernet: message.header.link_layer_type == LinkLayerType::Ether,
            is_port: false,
            vxlan: None,
            peer_namespace: None,
        };
        let mut is_vrf_member = false;
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Address(mac) => link.mac = mac,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::IfAlias(alias) => link.alias = alias,
                LinkAttribute::Controller(_) => link.is_port = true,
                LinkAttribute::LinkNetNsId(number) => link.peer_namespace = Some(number),
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::Kind(kind) => link.kind = kind.to_string(),
                            LinkInfo::PortKind(InfoPortKind::Vrf) => is_vrf_member = true,
                            LinkInfo::Data(InfoData::Vxlan(infos)) => link.vxlan = Some(vxlan_of(&infos)),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        link.is_port &= !is_vrf_member;
        link
    }

    /// `mesh0`, made by us.
    pub fn is_our_mesh0(&self) -> bool {
        self.name == MESH0
            && self.kind == InfoKind::Vxlan.to_string()
            && matches!(self.vxlan, Some((_, true)))
            && matches!(self.mac6().and_then(mac::split), Some((mac::KIND_MESH0, _)))
    }

    /// The host's end of a task's veth.
    pub fn is_task_link(&self) -> bool {
        let digits = self.name.strip_prefix("mv").unwrap_or_default();
        digits.len() == 8
            && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
            && self.kind == InfoKind::Veth.to_string()
            && self.mac6() == Some(mac::GATEWAY)
    }

    pub fn is_ours(&self) -> bool {
        self.is_our_mesh0() || self.is_task_link()
    }

    /// The task whose link this is; None where the alias is not written yet.
    pub fn task_id(&self) -> Option<Id> {
        let id = self.alias.strip_prefix(ALIAS_TASK).or_else(|| self.alias.strip_prefix(ALIAS_GUEST))?;
        Id::try_from(id.to_string()).ok()
    }

    /// Nothing of ours stays in the other end's namespace when the link goes: it is a task's of our own, and finished.
    pub fn goes_without_trace(&self) -> bool {
        self.alias.starts_with(ALIAS_TASK)
    }

    pub fn mac6(&self) -> Option<[u8; 6]> {
        self.mac.as_slice().try_into().ok()
    }
}

pub(super) fn alias_of(wanted: &TaskLink) -> String {
    format!("{}{}", if wanted.guest { ALIAS_GUEST } else { ALIAS_TASK }, wanted.task_id)
}

fn vxlan_of(infos: &[InfoVxlan]) -> (u16, bool) {
    infos.iter().fold((0, false), |(port, external), info| match info {
        InfoVxlan::Port(port) => (*port, external),
        InfoVxlan::CollectMetadata(external) => (port, *external),
        _ => (port, external),
    })
}

/// All links of the namespace.
pub(super) async fn all(handle: &Handle) -> Result<Vec<Link>, NetError> {
    let messages: Vec<LinkMessage> = list("links", || handle.link().get().execute()).await?;
    Ok(messages.into_iter().map(Link::from_message).collect())
}

/// The link of this name, if there is one.
pub(super) async fn named(handle: &Handle, name: &str) -> Result<Option<Link>, NetError> {
    let mut links = handle.link().get().match_name(name).execute();
    match links.try_next().await {
        Ok(message) => Ok(message.map(Link::from_message)),
        Err(error) if errno(&error) == libc::ENODEV => Ok(None),
        Err(error) => Err(NetError::netlink(format!("look up link {name}"), error)),
    }
}

/// An address of a link.
#[derive(Clone, Copy, Debug)]
pub(super) struct Address {
    pub link: u32,
    pub net: IpNet,
}

/// All addresses of the namespace, both families.
pub(super) async fn addresses(handle: &Handle) -> Result<Vec<Address>, NetError> {
    let messages: Vec<AddressMessage> = list("addresses", || handle.address().get().execute()).await?;
    Ok(messages.into_iter().filter_map(address_of).collect())
}

fn address_of(message: AddressMessage) -> Option<Address> {
    let (mut local, mut address) = (None, None);
    for attribute in message.attributes {
        match attribute {
            AddressAttribute::Local(addr) => local = Some(addr),
            AddressAttribute::Address(addr) => address = Some(addr),
            _ => {}
        }
    }
    // On a point-to-point link "address" is the other end's.
    let net = IpNet::new(local.or(address)?, message.header.prefix_len).ok()?;
    Some(Address { link: message.header.index, net })
}

/// A route of any table but `local`.
#[derive(Clone, Copy, Debug)]
pub(super) struct RouteSeen {
    pub to: IpNet,
    /// 0: none (blackhole, several next hops).
    pub link: u32,
    pub table: u32,
    pub metric: u32,
    pub src: Option<IpAddr>,
    pub mtu: Option<u32>,
    pub protocol: RouteProtocol,
}

impl RouteSeen {
    pub fn is_default(&self) -> bool {
        self.to.prefix_len() == 0
    }

    pub fn is_in_main_table(&self) -> bool {
        self.table == u32::from(RouteHeader::RT_TABLE_MAIN)
    }
}

/// All routes of the namespace, both families, without the kernel's own tables and multicast.
pub(super) async fn routes(handle: &Handle) -> Result<Vec<RouteSeen>, NetError> {
    let mut seen = Vec::new();
    for message in [RouteMessageBuilder::<Ipv4Addr>::new().build(), RouteMessageBuilder::<Ipv6Addr>::new().build()] {
        let messages: Vec<RouteMessage> = list("routes", || handle.route().get(message.clone()).execute()).await?;
        seen.extend(messages.into_iter().filter_map(route_of));
    }
    Ok(seen)
}

/// None for what no packet of a task or the host is routed by.
pub(super) fn route_of(message: RouteMessage) -> Option<RouteSeen> {
    const RT_TABLE_LOCAL: u32 = 255;
    if matches!(
        message.header.kind,
        RouteType::Local | RouteType::Broadcast | RouteType::Multicast | RouteType::Anycast
    ) {
        return None;
    }
    let mut destination: IpAddr = match message.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let mut route = RouteSeen {
        to: IpNet::default(),
        link: 0,
        table: u32::from(message.header.table),
        metric: 0,
        src: None,
        mtu: None,
        protocol: message.header.protocol,
    };
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Destination(addr) => destination = ip_of(&addr)?,
            RouteAttribute::PrefSource(addr) => route.src = ip_of(&addr),
            RouteAttribute::Oif(link) => route.link = link,
            RouteAttribute::Table(table) => route.table = table,
            RouteAttribute::Priority(metric) => route.metric = metric,
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.into_iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    route.to = IpNet::new(destination, message.header.destination_prefix_length).ok()?;
    (route.table != RT_TABLE_LOCAL).then_some(route)
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(addr) => Some((*addr).into()),
        RouteAddress::Inet6(addr) => Some((*addr).into()),
        _ => None,
    }
}

/// The beginning of a route to this prefix, of whichever family.
pub(super) fn route_to(net: IpNet) -> RouteMessageBuilder<IpAddr> {
    let route = RouteMessageBuilder::<IpAddr>::new().destination_prefix(net.network(), net.prefix_len());
    route.expect("a prefix is no longer than its family's addresses")
}

/// The beginning of a default route by this gateway.
pub(super) fn route_by(gateway: IpAddr) -> RouteMessageBuilder<IpAddr> {
    let mut route = RouteMessageBuilder::<IpAddr>::new();
    route.get_mut().header.address_family = match gateway {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    route.gateway(gateway).expect("the gateway is of the route's family")
}
