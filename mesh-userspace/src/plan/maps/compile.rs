//! Facts → image.
//!
//! A task is in the rings when its node says that it is ready, the leader wants it running and not draining, and its node answers; it is in
//! the endpoint and backend maps from its assignment to its end, so that the flows it has go on.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use mesh_common::family::{Family, V4, V6};
use mesh_common::hash;
use mesh_common::schema::{
    Address, AllowPrefix, Backend, Config, Endpoint, Frontend, FrontendKey, Peer, RingSlot, address_flag, algorithm,
    backend_state, endpoint, endpoint_flag, frontend_flag, peer_flag,
};
use mesh_common::wire::mac;

use super::{Facts, Image, published_key, vip_key, weights};
use crate::model::{
    Algorithm, Attachment, Cluster, EndpointMode, Id, Network, Observed, PortSpec, Protocol, PublishMode, Service,
    Task, TaskState,
};

/// Bytes that an outer IPv6 header has more than IPv4's.
const MORE_OF_IPV6: u32 = (V6::HEADER_LEN - V4::HEADER_LEN) as u32;

/// The image for this node.
pub fn compile(cluster: &Cluster, observed: &Observed, facts: &Facts) -> Image {
    let Some(config) = config(cluster, facts) else { return Image::default() };
    let mut image = Image { config: Some(config), uplinks: facts.uplinks.clone(), ..Image::default() };
    nodes(cluster, observed, facts, &mut image);
    gateways(cluster, &mut image);
    for task in cluster.tasks.values() {
        attach(cluster, observed, facts, task, &mut image);
    }
    for service in cluster.services.values() {
        publish(cluster, observed, facts, service, &mut image);
    }
    image
}

/// What does not depend on services and their tasks; None where there is no configuration.
pub(super) fn compile_base(cluster: &Cluster, observed: &Observed, facts: &Facts) -> Option<Image> {
    let mut image = Image { config: Some(config(cluster, facts)?), uplinks: facts.uplinks.clone(), ..Image::default() };
    nodes(cluster, observed, facts, &mut image);
    Some(image)
}

/// What one service puts into the image, by itself. `tasks` are those it has, others are passed over.
pub(super) fn compile_service<'a>(
    cluster: &Cluster,
    observed: &Observed,
    facts: &Facts,
    service: &Id,
    tasks: impl Iterator<Item = &'a Id>,
    image: &mut Image,
) {
    for task in tasks.filter_map(|task| cluster.tasks.get(task)).filter(|task| task.service_id == *service) {
        attach(cluster, observed, facts, task, image);
    }
    if let Some(service) = cluster.services.get(service) {
        publish(cluster, observed, facts, service, image);
    }
}

fn config(cluster: &Cluster, facts: &Facts) -> Option<Config> {
    let (settings, node) = (cluster.settings.as_ref()?, cluster.nodes.get(&facts.this_node)?);
    let (tunnel_addr4, tunnel_addr6) = match node.data_path_addr {
        IpAddr::V4(addr) => (addr.octets(), [0; 16]),
        IpAddr::V6(addr) => ([0; 4], addr.octets()),
    };
    Some(Config {
        netns_cookie: facts.netns_cookie,
        node: node.number,
        mesh0: facts.mesh0,
        tunnel_addr4,
        mesh0_mac: mac::of(mac::KIND_MESH0, node.number),
        data_port: settings.data_path_port,
        flood_threshold: facts.flood_threshold,
        watch_until_s: 0,
        watch_sample: 0,
        mss4: facts.task_mtu.saturating_sub(40) as u16,
        mss6: facts.task_mtu.saturating_sub(60) as u16,
        tunnel_link: facts.addresses.get(&node.data_path_addr).copied().unwrap_or(0),
        tunnel_addr6,
    })
}

/// This node's addresses, and every other node as tunnel target and as an address that published ports answer at.
fn nodes(cluster: &Cluster, observed: &Observed, facts: &Facts, image: &mut Image) {
    for node in cluster.nodes.values().filter(|node| node.id != facts.this_node) {
        let is_unreachable = observed.unreachable_since.contains_key(&node.id);
        let is_protected = facts.protected.contains(&node.data_path_addr);
        let tunnel = address_flag::TUNNEL | if is_protected { address_flag::BY_MESH0 } else { 0 };
        for (addr, flags) in [(node.advertise_addr, 0), (node.data_path_addr, tunnel)] {
            let entry = image.addresses.entry(addr);
            let address = entry.or_insert(Address { node: node.number, ifindex: 0, flags: 0, pad: [0; 3] });
            address.flags |= flags;
        }
        let flags = if is_unreachable { peer_flag::UNREACHABLE } else { 0 };
        let hop = facts.next_hops.get(&node.data_path_addr).filter(|_| !is_protected);
        let link = hop.map_or(0, |hop| hop.ifindex);
        let mtu = hop.map_or(facts.underlay_mtu, |hop| hop.mtu).min(u16::MAX.into());
        let (addr, [ifindex, ifindex6], mtu) = match node.data_path_addr {
            IpAddr::V4(addr) => (V4::to_16(addr.octets().into()), [link, 0], mtu),
            IpAddr::V6(addr) => (addr.octets(), [0, link], mtu.saturating_sub(MORE_OF_IPV6)),
        };
        let next_hop = hop.map_or([0; 6], |hop| hop.mac);
        let link_mac = hop.map_or([0; 6], |hop| hop.link_mac);
        let peer = Peer { addr, ifindex, next_hop, link_mac, mtu: mtu as u16, flags, pad: 0, ifindex6 };
        image.peers.insert(node.number, peer);
    }
    let this = cluster.nodes.get(&facts.this_node).map_or(0, |node| node.number);
    for (addr, ifindex) in facts.addresses.iter().filter(|(addr, _)| !addr.is_loopback()) {
        let address = Address { node: this, ifindex: *ifindex, flags: address_flag::OWN, pad: [0; 3] };
        image.addresses.insert(*addr, address);
    }
}

fn gateways(cluster: &Cluster, image: &mut Image) {
    for network in cluster.networks.values() {
        for (subnet, gateway) in network.subnets.each().zip(network.gateways.each()) {
            let entry = Endpoint {
                vni: network.vni,
                number: 0,
                node: 0,
                ifindex: 0,
                gateway,
                mac: mac::GATEWAY,
                kind: endpoint::GATEWAY,
                flags: 0,
                prefix_len: subnet.prefix_len(),
                pad: [0; 3],
            };
            image.endpoints.insert(gateway, entry);
        }
    }
}

/// Assigned, and its node has not reported its end.
fn is_alive(task: &Task, observed: &Observed) -> bool {
    match observed.tasks.get(&task.id) {
        Some(status) => !status.state.is_terminal(),
        None => task.desired == TaskState::Running && task.node_id.is_some(),
    }
}

fn is_ready(task: &Task, observed: &Observed) -> bool {
    let node_answers = task.node_id.as_ref().is_some_and(|node| !observed.unreachable_since.contains_key(node));
    task.desired == TaskState::Running
        && !task.draining
        && node_answers
        && observed.tasks.get(&task.id).is_some_and(|status| status.ready && status.state == TaskState::Running)
}

/// The attachments of a task that is alive as endpoints and backends, and in the pools where it is ready.
fn attach(cluster: &Cluster, observed: &Observed, facts: &Facts, task: &Task, image: &mut Image) {
    if !is_alive(task, observed) {
        return;
    }
    let Some(node) = task.node_id.as_ref().and_then(|id| cluster.nodes.get(id)) else { return };
    let ifindex = if node.id == facts.this_node {
        // Without its link it can't be delivered to yet.
        let Some(ifindex) = facts.task_links.get(&task.id) else { return };
        *ifindex
    } else {
        0
    };
    let Some(first) = task.attachments.first() else { return };
    let task_mac = mac::of(mac::KIND_TASK, first.endpoint);
    let networks: BTreeMap<_, &Network> = (task.attachments.iter())
        .filter_map(|at| Some((&at.network_id, cluster.networks.get(&at.network_id)?)))
        .collect();
    let is_internal = !networks.is_empty() && networks.values().all(|network| network.spec.internal);
    for Attachment { network_id, addrs, endpoint: number } in &task.attachments {
        let Some(network) = networks.get(network_id) else { continue };
        let places = network.subnets.each().zip(network.gateways.each());
        for (addr, (subnet, gateway)) in addrs.each().filter_map(|addr| Some((addr, of_family(addr, places.clone())?)))
        {
            let entry = Endpoint {
                vni: network.vni,
                number: *number,
                node: node.number,
                ifindex,
                gateway,
                mac: task_mac,
                kind: endpoint::TASK,
                flags: if is_internal { endpoint_flag::INTERNAL } else { 0 },
                prefix_len: subnet.prefix_len(),
                pad: [0; 3],
            };
            image.overlaps |= image.endpoints.insert(addr, entry).is_some();
        }
        let service = cluster.services.get(&task.service_id);
        let pool = service
            .and_then(|service| service.vips.iter().find(|vip| vip.network_id == *network_id))
            .map(|vip| vip.pool);
        let is_ready = is_ready(task, observed);
        let backend = Backend {
            addr6: addrs.v6.map_or([0; 16], |addr| addr.octets()),
            addr4: addrs.v4.map_or([0; 4], |addr| addr.octets()),
            vni: network.vni,
            pool: pool.unwrap_or(0),
            node: node.number,
            ifindex,
            mac: task_mac,
            state: if is_ready { backend_state::READY } else { backend_state::DRAINING },
            pad: 0,
        };
        image.overlaps |= image.backends.insert(*number, backend).is_some();
        if let (Some(pool), true) = (pool, is_ready) {
            let pool = image.pools.entry(pool).or_default();
            pool.backends.push(RingSlot { backend: *number, node: node.number });
            match service.map_or(1, |service| weights::of_node(service, node)) {
                1 => {}
                weight => drop(pool.weights.insert(*number, weight)),
            }
        }
    }
}

/// A service's frontends: its VIP on every network, and its published ports by the pool of its first network. After its tasks.
fn publish(cluster: &Cluster, observed: &Observed, facts: &Facts, service: &Service, image: &mut Image) {
    let has_vip = service.spec.endpoint_mode == EndpointMode::Vip;
    let published = || service.ports.iter().filter(|port| port.mode == PublishMode::Ingress && port.published != 0);
    for (place, vip) in service.vips.iter().enumerate() {
        let Some(network) = cluster.networks.get(&vip.network_id) else { continue };
        let has_ports = place == 0 && published().next().is_some();
        if !has_vip && !has_ports {
            // Names alone lead to its tasks: nobody would look at a list.
            image.pools.remove(&vip.pool);
            continue;
        }
        let pool = image.pools.entry(vip.pool).or_default();
        pool.backends.sort_unstable();
        if !pool.weights.is_empty() {
            pool.backends = weights::turns(&pool.backends, &pool.weights);
        }
        pool.maglev = service.spec.lb == Algorithm::Maglev || service.spec.affinity.is_some();
        for addr in vip.addrs.each().filter(|_| has_vip) {
            put_frontend(image, vip_key(addr), frontend(service, vip.pool, network.vni, addr, 0));
        }
    }
    let Some(first) = service.vips.first() else { return };
    let Some(network) = cluster.networks.get(&first.network_id) else { return };
    let mut lists = Lists::default();
    for port in published() {
        let protocol = match port.protocol {
            Protocol::Tcp => mesh_common::parse::protocol::TCP,
            Protocol::Udp => mesh_common::parse::protocol::UDP,
            Protocol::Sctp => mesh_common::parse::protocol::SCTP,
        };
        let list = if port.allow.is_empty() { 0 } else { lists.number(&port.allow) };
        image.allowed.extend(prefixes(first.pool, list, &port.allow));
        for unspecified in network.subnets.each().map(unspecified) {
            let is_ipv4 = unspecified.is_ipv4();
            if port.address.is_some_and(|addr| addr.is_ipv4() != is_ipv4) {
                continue;
            }
            let addresses = addresses_of(cluster, observed, port);
            let vip = first.addrs.each().find(|addr| has_vip && addr.is_ipv4() == is_ipv4);
            let vip = vip.unwrap_or(unspecified);
            let mut entry = frontend(service, first.pool, network.vni, vip, port.target);
            entry.allow = list;
            if list != 0 && entry.algorithm == algorithm::MAGLEV {
                entry.algorithm = algorithm::MAGLEV_OF_ALLOWED;
            }
            for address in addresses.iter().filter(|addr| addr.is_none_or(|addr| addr.is_ipv4() == is_ipv4)) {
                let is_taken = facts.ports_not_taken.contains(&(protocol, port.published, *address));
                let flags = entry.flags | if is_taken { frontend_flag::NOT_TAKEN } else { 0 };
                let key = published_key(address.unwrap_or(unspecified), port.published, protocol);
                put_frontend(image, key, Frontend { flags, ..entry });
            }
            if port.place() != (None, None) {
                ask_by_address(image, published_key(unspecified, port.published, protocol));
            }
        }
    }
}

/// Where a port is published: everywhere (None), at one address, or at those of an interface, whichever nodes have one of its name; but not at
/// an address that somebody names for the same port.
fn addresses_of(cluster: &Cluster, observed: &Observed, port: &PortSpec) -> Vec<Option<IpAddr>> {
    let Some(interface) = &port.interface else { return vec![port.address] };
    let same = |other: &&PortSpec| (other.protocol, other.published) == (port.protocol, port.published);
    let ports = cluster.services.values().flat_map(|service| &service.ports);
    let named: BTreeSet<IpAddr> = ports.filter(same).filter_map(|other| other.address).collect();
    let addresses = observed.addresses_of(interface, cluster.nodes.keys());
    addresses.into_iter().filter(|addr| !named.contains(addr)).map(Some).collect()
}

/// The address of this family that is none.
fn unspecified(subnet: IpNet) -> IpAddr {
    match subnet {
        IpNet::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpNet::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    }
}

/// The subnet, and its gateway, of this address' family.
fn of_family(addr: IpAddr, mut places: impl Iterator<Item = (IpNet, IpAddr)>) -> Option<(IpNet, IpAddr)> {
    places.find(|(_, gateway)| gateway.is_ipv4() == addr.is_ipv4())
}

/// Numbers of a service's lists of allowed callers.
#[derive(Default)]
struct Lists<'a>(BTreeMap<u32, &'a [IpNet]>);

impl<'a> Lists<'a> {
    /// Made of what the list says, so that every node and every round names it alike, and another list is another number; never 0. Two that
    /// would share one are told apart.
    fn number(&mut self, list: &'a [IpNet]) -> u32 {
        let mut number = list.iter().fold(0, |number, net| {
            let bytes = match net.addr() {
                IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
                IpAddr::V6(addr) => addr.octets(),
            };
            bytes.chunks_exact(4).fold(hash::words(number, net.prefix_len().into(), 0, 0), |number, word| {
                hash::words(number, u32::from_be_bytes(word.try_into().unwrap_or_default()), 0, 0)
            })
        });
        while number == 0 || self.0.get(&number).is_some_and(|other| *other != list) {
            number = number.wrapping_add(1);
        }
        self.0.insert(number, list);
        number
    }
}

/// The entries of a list.
fn prefixes(pool: u32, list: u32, nets: &[IpNet]) -> impl Iterator<Item = AllowPrefix<IpAddr>> {
    nets.iter().map(move |net| AllowPrefix::new(pool, list, net.network(), net.prefix_len().into()))
}

fn put_frontend(image: &mut Image, key: FrontendKey<IpAddr>, entry: Frontend<IpAddr>) {
    image.overlaps |= image.frontends.insert(key, entry).is_some();
}

/// Where the port of single addresses is looked for by address zero, the programs are told to look by the address.
fn ask_by_address(image: &mut Image, key: FrontendKey<IpAddr>) {
    let entry = Frontend { flags: frontend_flag::BY_ADDRESS, ..Frontend::none(key.addr) };
    // Every service that has the port at an address says the same.
    let there = image.frontends.entry(key).or_insert(entry);
    image.overlaps |= *there != entry;
}

fn frontend(service: &Service, pool: u32, vni: u32, vip: IpAddr, target_port: u16) -> Frontend<IpAddr> {
    Frontend {
        pool,
        vni,
        target_port,
        algorithm: match service.spec.lb {
            _ if service.spec.affinity.is_some() => algorithm::CLIENT,
            Algorithm::RoundRobin => algorithm::ROUND_ROBIN,
            Algorithm::Maglev => algorithm::MAGLEV,
            Algorithm::Random => algorithm::RANDOM,
        },
        affinity_s: service.spec.affinity.map_or(0, |affinity| affinity.timeout_s),
        ..Frontend::none(vip)
    }
}
