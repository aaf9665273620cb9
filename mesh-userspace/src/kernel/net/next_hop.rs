//! Where packets to a peer go first, so that the packet programs can send them there themselves, without the kernel's routing.
//!
//! The kernel is asked, nothing is computed: one RTM_GETROUTE a peer for a packet as `mesh0` would send it (policy rules and all), one
//! for the route entry behind the answer, and the neighbour table once. Invariant: every doubt is a [`Refusal`], and packets to that
//! peer go through `mesh0`, which is always right. Must not: resolve a neighbour; the echo between nodes keeps the entries fresh.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::TryStreamExt;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteType as Kind,
};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::HostNet;
use super::error::NetError;
use super::link::{self, Link};
use super::list::list;
use crate::plan::maps::NextHop;

/// A neighbour: index of its link, address.
pub(super) type Neighbour = (u32, IpAddr);

/// MAC addresses that packets to the neighbours can be sent to now.
type Macs = BTreeMap<Neighbour, [u8; 6]>;

/// The neighbours that next hops rest on, with the MAC by which they were last programmed; the watcher tells real news by it.
#[derive(Clone, Debug, Default)]
pub(super) struct Watched(Arc<Mutex<BTreeMap<Neighbour, Seen>>>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Seen {
    /// Being asked for: whatever comes is news.
    Not,
    Mac(Option<[u8; 6]>),
}

impl Watched {
    /// Before the neighbour table is read: a change between reading and [`Watched::saw`] must not be lost.
    fn asks(&self, neighbours: impl Iterator<Item = Neighbour>) {
        let mut watched = self.lock();
        let asked: BTreeMap<Neighbour, Seen> =
            neighbours.map(|neighbour| (neighbour, watched.get(&neighbour).copied().unwrap_or(Seen::Not))).collect();
        *watched = asked;
    }

    fn saw(&self, macs: &Macs) {
        for (neighbour, seen) in self.lock().iter_mut() {
            *seen = Seen::Mac(macs.get(neighbour).copied());
        }
    }

    /// Whether this neighbour's usable MAC differs from what was last seen. STALE after REACHABLE is no news.
    pub(super) fn is_news(&self, neighbour: Neighbour, mac: Option<[u8; 6]>) -> bool {
        self.lock().get(&neighbour).is_some_and(|seen| *seen != Seen::Mac(mac))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Neighbour, Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The kernel's answer for one destination.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Way {
    kind: Kind,
    link: u32,
    /// The neighbour on that link: the gateway, or the destination itself. None: a gateway of the other family.
    via: Option<IpAddr>,
    /// Named only where it is another than the packet's own. Of IPv6 the kernel names what it would choose by itself, which says nothing.
    source: Option<IpAddr>,
    /// Of the route; 0: the link's.
    mtu: u32,
    /// Told by ICMP: it expires.
    is_mtu_learnt: bool,
    has_carrier: bool,
    /// Several next hops, or one that puts packets into another header.
    is_plain: bool,
}

/// Why packets to a peer go through `mesh0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("no unicast route")]
    NotUnicast,
    #[error("the route has several next hops or an encapsulation")]
    NotPlain,
    #[error("the gateway has an address of another family")]
    OtherFamily,
    #[error("the route wants another source address")]
    OtherSource,
    #[error("the link is gone, down or without a carrier")]
    LinkDown,
    #[error("the link is one of ours")]
    OurLink,
    #[error("the link has no Ethernet header or no address of its own")]
    NoEthernet,
    #[error("the way's MTU, learnt just now, is below the link's")]
    MtuLearnt,
    #[error("the neighbour is not known")]
    NoNeighbour,
}

/// The next hop for packets from `from`, if there is no doubt.
fn choose(way: &Way, from: IpAddr, links: &[Link], macs: &Macs) -> Result<NextHop, Refusal> {
    if way.kind != Kind::Unicast {
        return Err(Refusal::NotUnicast);
    }
    if !way.is_plain {
        return Err(Refusal::NotPlain);
    }
    let via = way.via.ok_or(Refusal::OtherFamily)?;
    if way.source.is_some_and(|source| source != from) {
        return Err(Refusal::OtherSource);
    }
    let link = links.iter().find(|link| link.index == way.link).ok_or(Refusal::LinkDown)?;
    if !link.is_up || !way.has_carrier {
        return Err(Refusal::LinkDown);
    }
    if link.is_ours() {
        return Err(Refusal::OurLink);
    }
    let link_mac = link.mac6().filter(|mac| link.is_ethernet && is_station(mac)).ok_or(Refusal::NoEthernet)?;
    let mtu = if way.mtu == 0 { link.mtu } else { way.mtu.min(link.mtu) };
    if way.is_mtu_learnt && mtu < link.mtu {
        return Err(Refusal::MtuLearnt);
    }
    let mac = *macs.get(&(way.link, via)).ok_or(Refusal::NoNeighbour)?;
    Ok(NextHop { ifindex: way.link, link_mac, mac, mtu })
}

/// One station's address: neither zero nor a group's.
fn is_station(mac: &[u8; 6]) -> bool {
    *mac != [0; 6] && mac[0] & 1 == 0
}

impl HostNet {
    /// Next hops towards these addresses for tunnel packets (UDP to `port`) that come from `from`; absent are those that only `mesh0` can
    /// reach. From now on [`HostNet::changes`] tells when a neighbour's MAC address changes or can't be used any more.
    pub async fn next_hops(
        &self,
        from: IpAddr,
        port: u16,
        peers: &[IpAddr],
    ) -> Result<BTreeMap<IpAddr, NextHop>, NetError> {
        let links = link::all(&self.handle).await?;
        let mut ways: BTreeMap<IpAddr, Way> = BTreeMap::new();
        for peer in peers {
            // No route: no next hop.
            if let Ok(Some(way)) = way_to(&self.handle, from, port, *peer).await {
                ways.insert(*peer, way);
            }
        }
        self.watched.asks(ways.values().filter_map(|way| Some((way.link, way.via?))));
        let macs = neighbours(&self.handle, from).await?;
        self.watched.saw(&macs);
        let mut hops = BTreeMap::new();
        for (peer, way) in ways {
            match choose(&way, from, &links, &macs) {
                Ok(hop) => {
                    hops.insert(peer, hop);
                }
                Err(refusal) => log::trace!("packets to {peer} go through mesh0: {refusal}"),
            }
        }
        Ok(hops)
    }
}

async fn way_to(handle: &Handle, from: IpAddr, port: u16, to: IpAddr) -> Result<Option<Way>, rtnetlink::Error> {
    const UDP: u8 = libc::IPPROTO_UDP as u8;
    let question = match (to, from) {
        (IpAddr::V4(to), IpAddr::V4(from)) => {
            let question = RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(to, 32).source_prefix(from, 32);
            question.ip_protocol(UDP).dport(port).build()
        }
        (IpAddr::V6(to), IpAddr::V6(from)) => {
            let question = RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(to, 128).source_prefix(from, 128);
            question.ip_protocol(UDP).dport(port).build()
        }
        _ => return Ok(None),
    };
    // The route entry itself: what the kernel's answer for one packet leaves out (its other next hops).
    let mut entry = question.clone();
    entry.header.flags |= RouteFlags::FibMatch;
    let answer = handle.route().get(question).execute().try_next().await?;
    let entry = handle.route().get(entry).execute().try_next().await?;
    Ok(answer.zip(entry).map(|(answer, entry)| way_of(to, &answer, &entry)))
}

fn way_of(to: IpAddr, answer: &RouteMessage, entry: &RouteMessage) -> Way {
    let is_odd = |attribute: &RouteAttribute| {
        matches!(attribute, RouteAttribute::MultiPath(_) | RouteAttribute::Encap(_) | RouteAttribute::EncapType(_))
    };
    let mut way = Way {
        kind: answer.header.kind,
        link: 0,
        via: Some(to),
        source: None,
        mtu: 0,
        is_mtu_learnt: false,
        has_carrier: !answer.header.flags.intersects(RouteFlags::Dead | RouteFlags::Linkdown),
        is_plain: !answer.attributes.iter().chain(&entry.attributes).any(is_odd),
    };
    for attribute in &answer.attributes {
        match attribute {
            RouteAttribute::Oif(link) => way.link = *link,
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => way.via = of_family(to, (*gateway).into()),
            RouteAttribute::Gateway(RouteAddress::Inet6(gateway)) => way.via = of_family(to, (*gateway).into()),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => way.via = None,
            RouteAttribute::PrefSource(RouteAddress::Inet(source)) => way.source = Some((*source).into()),
            RouteAttribute::CacheInfo(info) => way.is_mtu_learnt = info.expires != 0,
            RouteAttribute::Metrics(metrics) => {
                let mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
                way.mtu = mtu.unwrap_or(0);
            }
            _ => {}
        }
    }
    way
}

/// The neighbour's address, if it is of the destination's family.
fn of_family(to: IpAddr, neighbour: IpAddr) -> Option<IpAddr> {
    (to.is_ipv4() == neighbour.is_ipv4()).then_some(neighbour)
}

/// Those of this address's family.
async fn neighbours(handle: &Handle, from: IpAddr) -> Result<Macs, NetError> {
    let family = if from.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let ask = || handle.neighbours().get().set_address_family(family).execute();
    let messages: Vec<NeighbourMessage> = list("neighbours", ask).await?;
    let usable = messages.iter().filter_map(|message| Some((neighbour_of(message)?, mac_of(message)?)));
    Ok(usable.collect())
}

/// Which neighbour a message is about.
pub(super) fn neighbour_of(message: &NeighbourMessage) -> Option<Neighbour> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(addr)) => Some((message.header.ifindex, (*addr).into())),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(addr)) => {
            Some((message.header.ifindex, (*addr).into()))
        }
        _ => None,
    })
}

/// The MAC address that packets may be sent to now (NUD_VALID in the kernel's words).
pub(super) fn mac_of(message: &NeighbourMessage) -> Option<[u8; 6]> {
    use NeighbourState::{Delay, Noarp, Permanent, Probe, Reachable, Stale};
    if !matches!(message.header.state, Reachable | Stale | Delay | Probe | Permanent | Noarp) {
        return None;
    }
    let mac = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(mac) => <[u8; 6]>::try_from(mac.as_slice()).ok(),
        _ => None,
    });
    mac.filter(is_station)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
    const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 254));
    const MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

    fn nic() -> Link {
        Link {
            index: 2,
            name: "eth0".into(),
            kind: String::new(),
            mac: vec![2, 0, 0, 0, 0, 1],
            mtu: 1500,
            alias: String::new(),
            is_up: true,
            is_loopback: false,
            is_noarp: false,
            is_ethernet: true,
            is_port: false,
            vxlan: None,
            peer_namespace: None,
        }
    }

    fn way() -> Way {
        Way {
            kind: Kind::Unicast,
            link: 2,
            via: Some(GATEWAY),
            source: None,
            mtu: 0,
            is_mtu_learnt: false,
            has_carrier: true,
            is_plain: true,
        }
    }

    fn chosen(way: Way, link: Link) -> Result<NextHop, Refusal> {
        choose(&way, FROM, &[link], &[((2, GATEWAY), MAC)].into())
    }

    #[test]
    fn a_gateway_on_ethernet_is_a_next_hop() {
        let hop = NextHop { ifindex: 2, link_mac: [2, 0, 0, 0, 0, 1], mac: MAC, mtu: 1500 };
        assert_eq!(chosen(way(), nic()), Ok(hop));
        assert_eq!(chosen(Way { source: Some(FROM), mtu: 1400, ..way() }, nic()), Ok(NextHop { mtu: 1400, ..hop }));
        assert_eq!(chosen(Way { mtu: 9000, ..way() }, nic()), Ok(hop), "the link carries no more");
        assert_eq!(chosen(way(), Link { kind: "vlan".into(), ..nic() }), Ok(hop));
    }

    #[test]
    fn every_doubt_is_a_refusal() {
        for (odd, refusal) in [
            (Way { kind: Kind::BlackHole, ..way() }, Refusal::NotUnicast),
            (Way { kind: Kind::Local, ..way() }, Refusal::NotUnicast),
            (Way { is_plain: false, ..way() }, Refusal::NotPlain),
            (Way { via: None, ..way() }, Refusal::OtherFamily),
            (Way { source: Some(GATEWAY), ..way() }, Refusal::OtherSource),
            (Way { link: 3, ..way() }, Refusal::LinkDown),
            (Way { has_carrier: false, ..way() }, Refusal::LinkDown),
            (Way { mtu: 1400, is_mtu_learnt: true, ..way() }, Refusal::MtuLearnt),
            (Way { via: Some(FROM), ..way() }, Refusal::NoNeighbour),
        ] {
            assert_eq!(chosen(odd, nic()), Err(refusal));
        }
        let ours = mesh_common::wire::mac::GATEWAY.to_vec();
        for (odd, refusal) in [
            (Link { is_up: false, ..nic() }, Refusal::LinkDown),
            (Link { name: "mvabababab".into(), kind: "veth".into(), mac: ours, ..nic() }, Refusal::OurLink),
            (Link { is_ethernet: false, ..nic() }, Refusal::NoEthernet),
            (Link { mac: Vec::new(), ..nic() }, Refusal::NoEthernet),
        ] {
            assert_eq!(chosen(way(), odd), Err(refusal));
        }
    }

    #[test]
    fn only_a_usable_mac_that_changed_is_news() {
        let (watched, gateway) = (Watched::default(), (2, GATEWAY));
        assert!(!watched.is_news(gateway, Some(MAC)), "nobody's next hop");
        watched.asks([gateway].into_iter());
        assert!(watched.is_news(gateway, None), "between asking and the answer everything is");
        watched.saw(&[(gateway, MAC)].into());
        watched.asks([gateway].into_iter());
        assert!(!watched.is_news(gateway, Some(MAC)));
        assert!(watched.is_news(gateway, None));
        assert!(watched.is_news(gateway, Some([2, 0, 0, 0, 0, 8])));
        watched.asks(std::iter::empty());
        assert!(!watched.is_news(gateway, None), "forgotten with its peer");
    }
}
