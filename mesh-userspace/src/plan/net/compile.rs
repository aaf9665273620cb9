//! Facts → wanted image of the host's network.
//!
//! Every network of the cluster gets a route, so that the host's own processes reach any task; a gateway address is taken only
//! where a task of that network lives, since only such a task asks the resolver there. The ingress network's is always there: Linux
//! takes all routes of a device away with its last address (fib_frontend.c, fib_disable_ip), and calls would fail until they are back.
//! Invariant: a node that is in no cluster (or has left it) wants nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use mesh_common::wire::mac;

use super::{HeldPort, MESH0, Mesh0, NetImage, Route, TaskLink, Transport, Underlay, overhead};
use crate::model::{Cluster, Id, Network, Node, Observed, Protocol, PublishMode, Task, TaskState};

/// The smallest MTU an IPv4 link may have (RFC 791), with room to be of use; protects against an absurd underlay.
const MIN_MTU: u32 = 576;
/// The smallest MTU of a link with IPv6 (RFC 8200, 5): Linux takes IPv6 off a link that has less.
const MIN_MTU_OF_IPV6: u32 = 1280;

/// The image of this node.
pub fn compile(cluster: &Cluster, observed: &Observed, this_node: &Id, underlay: &Underlay) -> NetImage {
    let (Some(settings), Some(node)) = (&cluster.settings, cluster.nodes.get(this_node)) else {
        return NetImage::default();
    };
    let mtu = overlay_mtu(node, underlay);
    let device_mtu = device_mtu(cluster, mtu);
    let is_asked_for = cluster.networks.values().any(|network| network.subnets.v6.is_some());
    let families = Families { has_ipv6: is_asked_for && underlay.has_ipv6 && device_mtu >= MIN_MTU_OF_IPV6 };
    let local: Vec<&Task> = cluster.tasks.values().filter(|task| lives_here(task, observed, this_node)).collect();
    let gateways = networks_of(cluster, &local).chain(ingress(cluster)).flat_map(|network| network.gateways.each());
    NetImage {
        mesh0: Some(Mesh0 {
            port: settings.data_path_port,
            mac: mac::of(mac::KIND_MESH0, node.number),
            mtu: device_mtu,
        }),
        gateways: gateways.filter(|gateway| families.has(gateway)).collect(),
        own_addr: own_addr(cluster, node).filter(|addr| families.has(addr)),
        routes: routes(cluster, node, mtu, families),
        task_links: local
            .iter()
            .filter_map(|task| task_link(cluster, task, mtu, families))
            .map(|link| (link.name.clone(), link))
            .collect(),
        held_ports: held_ports(cluster, observed, this_node, &local),
        sysctls: sysctls(families),
    }
}

/// What networks ask for, and the host and its devices can carry.
#[derive(Clone, Copy)]
struct Families {
    has_ipv6: bool,
}

impl Families {
    fn has(self, addr: &IpAddr) -> bool {
        addr.is_ipv4() || self.has_ipv6
    }
}

/// Only where it was not given by anybody else.
fn own_addr(cluster: &Cluster, node: &Node) -> Option<IpAddr> {
    match node.advertise_addr {
        IpAddr::V4(_) => cluster.overlay_addr6(node).map(IpAddr::V6),
        IpAddr::V6(_) => cluster.overlay_addr4(node).map(IpAddr::V4),
    }
}

/// Largest inner IP packet that fits the underlay.
fn overlay_mtu(node: &Node, underlay: &Underlay) -> u32 {
    underlay.mtu.saturating_sub(overhead(node.data_path_addr)).max(MIN_MTU)
}

/// `mesh0` must carry the largest packet of any network; a user may ask for more than the underlay's share (jumbo frames
/// between the nodes only), which is then his word against ours.
fn device_mtu(cluster: &Cluster, mtu: u32) -> u32 {
    cluster.networks.values().filter_map(|network| network.spec.mtu).fold(mtu, u32::max)
}

fn network_mtu(network: &Network, mtu: u32) -> u32 {
    network.spec.mtu.unwrap_or(mtu)
}

fn routes(cluster: &Cluster, node: &Node, mtu: u32, families: Families) -> BTreeMap<IpNet, Route> {
    let src = |subnet: &IpNet| match subnet {
        IpNet::V4(_) => cluster.overlay_addr4(node).map(IpAddr::V4),
        IpNet::V6(_) => cluster.overlay_addr6(node).map(IpAddr::V6),
    };
    let of_network = |network: &Network| {
        let mtu = network_mtu(network, mtu);
        network.subnets.each().map(move |subnet| (subnet.trunc(), mtu)).collect::<Vec<_>>()
    };
    let subnets = cluster.networks.values().flat_map(of_network);
    let subnets = subnets.filter(|(subnet, _)| families.has(&subnet.addr()));
    subnets.map(|(subnet, mtu)| (subnet, Route { src: src(&subnet), mtu })).collect()
}

/// A task lives here from its assignment until this node has reported its end: a task that shall shut down keeps its link
/// while it still runs.
fn lives_here(task: &Task, observed: &Observed, this_node: &Id) -> bool {
    task.node_id.as_ref() == Some(this_node)
        && match observed.tasks.get(&task.id) {
            Some(status) => !status.state.is_terminal(),
            None => task.desired == TaskState::Running,
        }
}

fn ingress(cluster: &Cluster) -> impl Iterator<Item = &Network> {
    cluster.networks.values().filter(|network| network.ingress)
}

fn networks_of<'a>(cluster: &'a Cluster, tasks: &'a [&Task]) -> impl Iterator<Item = &'a Network> + 'a {
    tasks
        .iter()
        .flat_map(|task| &task.attachments)
        .filter_map(|attachment| cluster.networks.get(&attachment.network_id))
}

/// None for a task without a network, or of a network that this node has not heard of yet.
fn task_link(cluster: &Cluster, task: &Task, mtu: u32, families: Families) -> Option<TaskLink> {
    let first = task.attachments.first()?;
    let networks: Vec<&Network> =
        task.attachments.iter().map(|at| cluster.networks.get(&at.network_id)).collect::<Option<_>>()?;
    let mtu = networks.iter().map(|network| network_mtu(network, mtu)).min()?;
    let families = Families { has_ipv6: families.has_ipv6 && mtu >= MIN_MTU_OF_IPV6 };
    let addrs = task.attachments.iter().zip(&networks).flat_map(|(at, network)| at.addrs.within(&network.subnets));
    // In reverse, so that those of the first network stand.
    let gateways = networks.iter().rev().flat_map(|network| network.gateways.each());
    Some(TaskLink {
        name: task.interface(),
        task_id: task.id.clone(),
        mac: mac::of(mac::KIND_TASK, first.endpoint),
        mtu,
        addrs: addrs.filter(|addr| families.has(&addr.addr())).collect(),
        gateways: gateways.filter(|gateway| families.has(gateway)).collect(),
        guest: task.adopted.is_some(),
    })
}

/// Ingress ports are held on every node, host ports where a task of the service lives.
fn held_ports(cluster: &Cluster, observed: &Observed, this_node: &Id, local: &[&Task]) -> BTreeSet<HeldPort> {
    let services_here: BTreeSet<&Id> = local.iter().map(|task| &task.service_id).collect();
    cluster
        .services
        .values()
        .flat_map(|service| service.ports.iter().map(move |port| (service, port)))
        .filter(|(service, port)| port.mode == PublishMode::Ingress || services_here.contains(&service.id))
        .filter(|(_, port)| port.published != 0)
        .flat_map(|(_, port)| {
            let transport = match port.protocol {
                Protocol::Tcp => Some(Transport::Tcp),
                Protocol::Udp => Some(Transport::Udp),
                Protocol::Sctp => None,
            };
            // Of an interface only this node's own addresses: another node's are nobody's here.
            let addresses = match &port.interface {
                Some(interface) => {
                    observed.addresses_of(interface, [this_node].into_iter()).into_iter().map(Some).collect()
                }
                None => vec![port.address],
            };
            let held = move |address| Some(HeldPort { transport: transport?, port: port.published, address });
            addresses.into_iter().filter_map(held)
        })
        .collect()
}

/// On `mesh0` only; the rest of the host stays as it is.
fn sysctls(families: Families) -> BTreeMap<String, String> {
    let wanted = [
        // bpf_fib_lookup and packets handed up by the programs enter at mesh0; ip_forward of the host may be 0.
        (format!("net/ipv4/conf/{MESH0}/forwarding"), "1"),
        // The kernel uses the larger of this and `all`; with `all` = 1 the routes on mesh0 satisfy the check.
        (format!("net/ipv4/conf/{MESH0}/rp_filter"), "0"),
        // Nobody is to be told of better ways through the overlay.
        (format!("net/ipv4/conf/{MESH0}/send_redirects"), "0"),
    ];
    let of_ipv6 = [
        // No link-local address, and so no router solicitations into a tunnel without peers. Before the next one, by its name.
        (format!("net/ipv6/conf/{MESH0}/addr_gen_mode"), "1"),
        // Also on a host that has it switched off for all its links.
        (format!("net/ipv6/conf/{MESH0}/disable_ipv6"), "0"),
        (format!("net/ipv6/conf/{MESH0}/accept_ra"), "0"),
        (format!("net/ipv6/conf/{MESH0}/forwarding"), "1"),
    ];
    // Without it: no router solicitations and multicast reports into a tunnel without peers.
    let without = [(format!("net/ipv6/conf/{MESH0}/disable_ipv6"), "1")];
    let of_ipv6 = if families.has_ipv6 { of_ipv6.to_vec() } else { without.to_vec() };
    wanted.into_iter().chain(of_ipv6).map(|(key, value)| (key, value.to_string())).collect()
}

#[cfg(test)]
mod tests {
    use super::super::DEFAULT_UNDERLAY_MTU;
    use super::super::properties::{facts, id};
    use super::*;

    const UNDERLAY: Underlay = Underlay { mtu: DEFAULT_UNDERLAY_MTU, has_ipv6: true };

    #[test]
    fn a_node_of_no_cluster_wants_nothing() {
        let (cluster, observed) = facts();
        assert_eq!(compile(&Cluster::default(), &observed, &id(1), &UNDERLAY), NetImage::default());
        assert_eq!(compile(&cluster, &observed, &id(99), &UNDERLAY), NetImage::default());
    }

    #[test]
    fn every_network_has_a_route_and_gateways_are_where_tasks_live() {
        let (cluster, observed) = facts();
        let image = compile(&cluster, &observed, &id(1), &UNDERLAY);
        let src = Some("192.168.7.1".parse().unwrap());
        assert_eq!(image.routes[&"10.0.0.0/20".parse().unwrap()], Route { src, mtu: 1450 });
        assert_eq!(image.routes[&"10.0.16.0/20".parse().unwrap()], Route { src, mtu: 1450 });
        let ingress = "10.0.0.1".parse().unwrap();
        assert_eq!(image.gateways, BTreeSet::from([ingress, "10.0.16.1".parse().unwrap()]));
        let elsewhere = compile(&cluster, &observed, &id(2), &UNDERLAY);
        assert_eq!(
            (elsewhere.routes.len(), elsewhere.gateways),
            (2, BTreeSet::from([ingress])),
            "routes need an address"
        );
    }

    #[test]
    fn a_network_of_both_families_has_routes_addresses_and_gateways_of_both() {
        let (mut cluster, observed) = facts();
        for (network, subnets, gateways) in
            [(20, "10.0.0.0/20,fd00::/64", "10.0.0.1,fd00::1"), (21, "fd00:0:0:1::/64", "fd00:0:0:1::1")]
        {
            let network = cluster.networks.get_mut(&id(network)).unwrap();
            (network.subnets, network.gateways) = (subnets.parse().unwrap(), gateways.parse().unwrap());
        }
        cluster.tasks.get_mut(&id(7)).unwrap().attachments[0].addrs = "fd00:0:0:1::5".parse().unwrap();
        let image = compile(&cluster, &observed, &id(1), &UNDERLAY);
        let subnets: Vec<String> = image.routes.keys().map(ToString::to_string).collect();
        assert_eq!(subnets, ["10.0.0.0/20", "fd00::/64", "fd00:0:0:1::/64"]);
        let own = "fd00::6d65:7368:0:1".parse().ok();
        assert_eq!((image.own_addr, image.routes[&"fd00:0:0:1::/64".parse().unwrap()].src), (own, own));
        assert_eq!(image.gateways, ["10.0.0.1", "fd00::1", "fd00:0:0:1::1"].map(|addr| addr.parse().unwrap()).into());
        let link = &image.task_links["mv07070707"];
        assert_eq!(link.addrs, ["fd00:0:0:1::5/64".parse().unwrap()]);
        assert_eq!(link.gateways.to_string(), "fd00:0:0:1::1");
        assert_eq!(image.sysctls["net/ipv6/conf/mesh0/disable_ipv6"], "0");

        // A host that can't carry it goes on with IPv4.
        for underlay in [Underlay { has_ipv6: false, ..UNDERLAY }, Underlay { mtu: 1300, ..UNDERLAY }] {
            let image = compile(&cluster, &observed, &id(1), &underlay);
            assert_eq!(image.routes.keys().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.0/20"]);
            assert_eq!((image.own_addr, image.gateways), (None, ["10.0.0.1".parse().unwrap()].into()));
            assert!(image.task_links["mv07070707"].addrs.is_empty());
            assert_eq!(image.sysctls["net/ipv6/conf/mesh0/disable_ipv6"], "1");
        }
    }

    #[test]
    fn a_node_reached_over_ipv6_has_smaller_packets_and_an_ipv4_address_for_its_own_calls() {
        let (mut cluster, observed) = facts();
        let addr: IpAddr = "fd99::1".parse().unwrap();
        let node = cluster.nodes.get_mut(&id(1)).unwrap();
        (node.advertise_addr, node.data_path_addr) = (addr, addr);
        let image = compile(&cluster, &observed, &id(1), &UNDERLAY);
        // The pool's last /20, and the node's number.
        let own = "10.255.240.1".parse().ok();
        let route = image.routes[&"10.0.16.0/20".parse().unwrap()];
        assert_eq!((image.own_addr, route), (own, Route { src: own, mtu: 1430 }));
        assert_eq!(image.mesh0.unwrap().mtu, 1430);
        cluster.networks.get_mut(&id(21)).unwrap().subnets = "10.255.240.0/20".parse().unwrap();
        assert_eq!(compile(&cluster, &observed, &id(1), &UNDERLAY).own_addr, None, "a network's");
    }

    #[test]
    fn mesh0_has_a_mac_of_its_own_on_every_node() {
        let (cluster, observed) = facts();
        let mesh0 = compile(&cluster, &observed, &id(1), &UNDERLAY).mesh0.unwrap();
        assert_eq!(mesh0, Mesh0 { port: 4789, mac: [0xe6, 0x12, 0, 0, 0, 1], mtu: 1450 });
        assert_eq!(compile(&cluster, &observed, &id(2), &UNDERLAY).mesh0.unwrap().mac[5], 2);
    }

    #[test]
    fn a_task_has_one_link_with_an_address_per_network() {
        let (cluster, observed) = facts();
        let image = compile(&cluster, &observed, &id(1), &UNDERLAY);
        let link = &image.task_links["mv07070707"];
        assert_eq!(link.addrs, vec!["10.0.16.5/20".parse::<IpNet>().unwrap()]);
        assert_eq!((link.gateways.to_string().as_str(), link.mtu), ("10.0.16.1", 1450));
        assert_eq!((link.mac, link.guest), (mac::of(mac::KIND_TASK, 77), false));
    }

    #[test]
    fn a_container_that_joined_is_a_guest() {
        let (mut cluster, observed) = facts();
        cluster.tasks.get_mut(&id(7)).unwrap().adopted = Some("ab".repeat(32));
        assert!(compile(&cluster, &observed, &id(1), &UNDERLAY).task_links["mv07070707"].guest);
    }

    #[test]
    fn a_stopping_task_keeps_its_link_until_its_end_is_reported() {
        let (mut cluster, mut observed) = facts();
        cluster.tasks.get_mut(&id(7)).unwrap().desired = TaskState::Shutdown;
        assert_eq!(compile(&cluster, &observed, &id(1), &UNDERLAY).task_links.len(), 1);
        observed.tasks.get_mut(&id(7)).unwrap().state = TaskState::Shutdown;
        let image = compile(&cluster, &observed, &id(1), &UNDERLAY);
        assert!(image.task_links.is_empty() && image.gateways.len() == 1);
    }

    #[test]
    fn ingress_ports_are_held_everywhere_and_host_ports_where_the_task_is() {
        let (cluster, observed) = facts();
        let tcp = |port| HeldPort { transport: Transport::Tcp, port, address: None };
        assert_eq!(
            compile(&cluster, &observed, &id(1), &UNDERLAY).held_ports,
            BTreeSet::from([tcp(8000), tcp(9000), HeldPort { transport: Transport::Udp, port: 5353, address: None }])
        );
        assert_eq!(
            compile(&cluster, &observed, &id(2), &UNDERLAY).held_ports,
            BTreeSet::from([tcp(8000), HeldPort { transport: Transport::Udp, port: 5353, address: None }])
        );
    }

    #[test]
    fn a_network_may_ask_for_an_mtu_of_its_own() {
        let (mut cluster, observed) = facts();
        cluster.networks.get_mut(&id(21)).unwrap().spec.mtu = Some(1300);
        let image = compile(&cluster, &observed, &id(1), &UNDERLAY);
        assert_eq!(image.routes[&"10.0.16.0/20".parse().unwrap()].mtu, 1300);
        assert_eq!(image.task_links["mv07070707"].mtu, 1300);
        assert_eq!(image.mesh0.unwrap().mtu, 1450);
    }
}
