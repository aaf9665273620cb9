//! The oracle of [`Programmed`]: whatever changes, a round gives what planning everything gives, and looks at no more than what changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use proptest::prelude::*;

use super::{Facts, NextHop, Placed, Programmed, Tables, compile, diff, place};
use crate::model::{
    Addresses, Algorithm, Attachment, Availability, Cluster, EndpointMode, Id, Network, NetworkSpec, Node, Observed,
    PortSpec, Protocol, Role, Runtime, Service, ServiceSpec, Settings, Task, TaskSpec, TaskState, TaskStatus, Vip,
};

const NODES: u32 = 3;
const SERVICES: u32 = 5;
const SLOTS: u32 = 4;

fn id(kind: u8, number: u32) -> Id {
    let mut bytes = [kind; 16];
    bytes[..4].copy_from_slice(&number.wrapping_mul(0x9e37_79b1).to_be_bytes());
    Id::from_bytes(bytes)
}

fn addr(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0002 + n)
}

/// What may happen to the world; numbers are taken modulo what there is.
#[derive(Clone, Debug)]
enum Event {
    Service {
        service: u32,
        maglev: bool,
        vip: bool,
        port: bool,
    },
    ServiceGone(u32),
    Task {
        service: u32,
        slot: u32,
        node: u32,
    },
    TaskGone {
        service: u32,
        slot: u32,
    },
    Draining {
        service: u32,
        slot: u32,
    },
    State {
        service: u32,
        slot: u32,
        ready: bool,
        ended: bool,
    },
    Unheard {
        service: u32,
        slot: u32,
    },
    Link {
        service: u32,
        slot: u32,
        ifindex: u32,
    },
    Unreachable {
        node: u32,
        is: bool,
    },
    NodeGone(u32),
    Mtu(u32),
    PortTaken(bool),
    /// A task with the address of another service's.
    /// An interface of a node has this address.
    Interface {
        node: u32,
        link: usize,
        last: u32,
    },
    Overlap {
        service: u32,
        slot: u32,
    },
}

fn event() -> impl Strategy<Value = Event> {
    let at = || (0..SERVICES, 0..SLOTS);
    prop_oneof![
        4 => (0..SERVICES, any::<bool>(), any::<bool>(), any::<bool>())
            .prop_map(|(service, maglev, vip, port)| Event::Service { service, maglev, vip, port }),
        1 => (0..SERVICES).prop_map(Event::ServiceGone),
        8 => (at(), 1..=NODES).prop_map(|((service, slot), node)| Event::Task { service, slot, node }),
        2 => at().prop_map(|(service, slot)| Event::TaskGone { service, slot }),
        2 => at().prop_map(|(service, slot)| Event::Draining { service, slot }),
        8 => (at(), any::<bool>(), 0..8u8)
            .prop_map(|((service, slot), ready, ended)| Event::State { service, slot, ready, ended: ended == 0 }),
        1 => at().prop_map(|(service, slot)| Event::Unheard { service, slot }),
        3 => (at(), 5..9u32).prop_map(|((service, slot), ifindex)| Event::Link { service, slot, ifindex }),
        1 => (1..=NODES, any::<bool>()).prop_map(|(node, is)| Event::Unreachable { node, is }),
        1 => (2..=NODES).prop_map(Event::NodeGone),
        1 => (1_400..1_500u32).prop_map(Event::Mtu),
        1 => any::<bool>().prop_map(Event::PortTaken),
        1 => at().prop_map(|(service, slot)| Event::Overlap { service, slot }),
        2 => (1..=NODES, 0..2usize, 0..SERVICES + 2).prop_map(|(node, link, last)| Event::Interface { node, link, last }),
    ]
}

/// Interfaces that ports are published at.
const LINKS: [&str; 2] = ["eth1", "eth2"];

struct World {
    cluster: Cluster,
    observed: Observed,
    facts: Facts,
}

impl World {
    fn new() -> World {
        let settings = Settings {
            cluster_id: id(0, 1),
            address_pool: "10.0.0.0/8".parse().expect("a prefix"),
            subnet_len: 16,
            address_pool6: None,
            data_path_port: 4_789,
        };
        let mut cluster = Cluster { revision: 1, settings: Some(settings), ..Cluster::default() };
        let network = network();
        cluster.networks.insert(network.id.clone(), network);
        (1..=NODES).map(node).for_each(|node| drop(cluster.nodes.insert(node.id.clone(), node)));
        let facts = Facts {
            this_node: id(1, 1),
            mesh0: 7,
            netns_cookie: 1,
            addresses: BTreeMap::from([(Ipv4Addr::new(192, 0, 2, 1).into(), 2)]),
            uplinks: BTreeMap::new(),
            next_hops: BTreeMap::new(),
            protected: Default::default(),
            task_links: BTreeMap::new(),
            ports_not_taken: Default::default(),
            task_mtu: 1_450,
            underlay_mtu: 1_500,
            flood_threshold: 0,
        };
        World { cluster, observed: Observed::default(), facts }
    }

    fn happen(&mut self, event: &Event) {
        let task_id = |service: u32, slot: u32| id(4, service * SLOTS + slot);
        match event {
            Event::Service { service, maglev, vip, port } => {
                let service = service_of(*service, *maglev, *vip, *port);
                self.cluster.services.insert(service.id.clone(), service);
            }
            Event::ServiceGone(service) => drop(self.cluster.services.remove(&id(3, *service))),
            Event::Task { service, slot, node } => {
                let task = task(*service, *slot, *node);
                self.cluster.tasks.insert(task.id.clone(), task);
            }
            Event::TaskGone { service, slot } => drop(self.cluster.tasks.remove(&task_id(*service, *slot))),
            Event::Draining { service, slot } => {
                if let Some(task) = self.cluster.tasks.get_mut(&task_id(*service, *slot)) {
                    (task.draining, task.desired) = (true, TaskState::Shutdown);
                }
            }
            Event::State { service, slot, ready, ended } => {
                let state = if *ended { TaskState::Failed } else { TaskState::Running };
                self.observed.tasks.insert(task_id(*service, *slot), status(state, *ready && !ended));
            }
            Event::Unheard { service, slot } => drop(self.observed.tasks.remove(&task_id(*service, *slot))),
            Event::Link { service, slot, ifindex } => {
                self.facts.task_links.insert(task_id(*service, *slot), *ifindex);
            }
            Event::Unreachable { node, is: true } => drop(self.observed.unreachable_since.insert(id(1, *node), 1)),
            Event::Unreachable { node, is: false } => drop(self.observed.unreachable_since.remove(&id(1, *node))),
            Event::NodeGone(node) => drop(self.cluster.nodes.remove(&id(1, *node))),
            Event::Mtu(mtu) => self.facts.task_mtu = *mtu,
            Event::PortTaken(true) => drop(self.facts.ports_not_taken.insert((6, 8_000, None))),
            Event::PortTaken(false) => self.facts.ports_not_taken.clear(),
            Event::Interface { node, link, last } => {
                let status = self.observed.nodes.entry(id(1, *node)).or_default();
                let addr = Ipv4Addr::from(0xc000_0200 + last).into();
                status.interfaces.insert(LINKS[*link].to_string(), BTreeSet::from([addr]));
            }
            Event::Overlap { service, slot } => {
                let other = addrs((service * SLOTS + slot + SLOTS) % (SERVICES * SLOTS));
                if let Some(task) = self.cluster.tasks.get_mut(&task_id(*service, *slot)) {
                    task.attachments[0].addrs = other;
                }
            }
        }
    }
}

fn node(number: u32) -> Node {
    let addr = Ipv4Addr::from(0xc000_0200 + number).into();
    Node {
        id: id(1, number),
        number,
        name: format!("n{number}"),
        role: Role::Worker,
        availability: Availability::Active,
        labels: BTreeMap::new(),
        advertise_addr: addr,
        data_path_addr: addr,
        ports: Default::default(),
        cert_fingerprint: String::new(),
        renewed_fingerprint: None,
        holds_store: false,
        runtimes: vec![Runtime::Exec],
        routed_prefixes: Vec::new(),
        joined_at: 0,
    }
}

/// Of both families.
fn addrs(place: u32) -> Addresses {
    let v6 = Ipv6Addr::from(0xfd00 << 112 | u128::from(place + 2));
    Addresses { v4: Some(addr(place)), v6: Some(v6) }
}

fn network() -> Network {
    let spec = NetworkSpec::named("demo");
    Network {
        id: id(2, 1),
        spec,
        vni: 4_097,
        subnets: "10.0.0.0/16,fd00::/64".parse().expect("prefixes"),
        gateways: "10.0.0.1,fd00::1".parse().expect("addresses"),
        ingress: false,
        removing: false,
        created_at: 0,
    }
}

fn service_of(number: u32, maglev: bool, vip: bool, port: bool) -> Service {
    let allow = ["10.0.0.0/8", "192.0.2.7/32"].map(|net| net.parse().expect("a prefix"));
    // Its list changes with its algorithm.
    let allow = if maglev { allow.to_vec() } else { allow.into_iter().take(number as usize % 2).collect() };
    let published = PortSpec { allow, ..PortSpec::new(Protocol::Tcp, 8_000 + number as u16, 80) };
    // One number, of every service at an address of its own.
    let address = Some(Ipv4Addr::from(0xc000_0200 + number).into());
    let at_one = PortSpec { address, ..PortSpec::new(Protocol::Tcp, 9_000, 80) };
    // And two have it at interfaces, whose addresses may be those of others.
    let interface = LINKS.get(number as usize).map(|name| name.to_string());
    let on_link: Vec<PortSpec> = (interface.is_some())
        .then(|| PortSpec { interface, ..PortSpec::new(Protocol::Tcp, 9_000, 81) })
        .into_iter()
        .collect();
    let spec = ServiceSpec {
        lb: if maglev { Algorithm::Maglev } else { Algorithm::RoundRobin },
        endpoint_mode: if vip { EndpointMode::Vip } else { EndpointMode::Dnsrr },
        ..ServiceSpec::new(&format!("web{number}"), Runtime::Exec)
    };
    Service {
        id: id(3, number),
        vips: vec![Vip { network_id: id(2, 1), addrs: addrs(SERVICES * SLOTS + number), pool: number + 1 }],
        ports: if port { [vec![published, at_one], on_link].concat() } else { Vec::new() },
        version: 1,
        previous_spec: None,
        pending_reason: None,
        spec,
        created_at: 0,
        updated_at: 0,
    }
}

fn task(service: u32, slot: u32, node: u32) -> Task {
    let place = service * SLOTS + slot;
    Task {
        id: id(4, place),
        service_id: id(3, service),
        service_name: format!("web{service}"),
        slot: slot + 1,
        node_id: Some(id(1, node)),
        spec: TaskSpec::new(Runtime::Exec).into(),
        adopted: None,
        service_version: 1,
        attachments: vec![Attachment { network_id: id(2, 1), addrs: addrs(place), endpoint: place + 1 }],
        desired: TaskState::Running,
        draining: false,
        leader_state: None,
        message: String::new(),
        created_at: 0,
        not_before: 0,
    }
}

fn status(state: TaskState, ready: bool) -> TaskStatus {
    TaskStatus::new(state, ready, 0)
}

/// A world of ready tasks, `SLOTS` of each service, on other nodes.
fn whole_world() -> World {
    let mut world = World::new();
    for service in 0..SERVICES {
        world.happen(&Event::Service { service, maglev: false, vip: true, port: service == 0 });
        for slot in 0..SLOTS {
            world.happen(&Event::Task { service, slot, node: 2 });
            world.happen(&Event::State { service, slot, ready: true, ended: false });
        }
    }
    world
}

fn step(programmed: &mut Programmed, world: &World) -> super::Round {
    let (cluster, observed) = (Arc::new(world.cluster.clone()), Arc::new(world.observed.clone()));
    let round = programmed.round(&cluster, &observed, &world.facts);
    programmed.done(&round.ops);
    round
}

#[test]
fn a_backend_that_changes_costs_its_service_and_nothing_else() {
    let mut world = whole_world();
    let mut programmed = Programmed::from_tables(Tables::default(), 1 << 20);
    assert_eq!(step(&mut programmed, &world).services, None, "the first round looks at everything");
    let again = step(&mut programmed, &world);
    assert_eq!((again.services, again.ops.len()), (Some(0), 0), "the same facts are the same tables");
    world.happen(&Event::State { service: 1, slot: 2, ready: false, ended: false });
    let changed = step(&mut programmed, &world);
    // Its backend, two lists, its frontend of each family.
    assert_eq!((changed.services, changed.ops.len()), (Some(1), 5), "{:?}", changed.ops);
    world.happen(&Event::Link { service: 2, slot: 0, ifindex: 9 });
    assert_eq!(step(&mut programmed, &world).services, Some(1), "a link of a task's is its service's affair");
    world.happen(&Event::Mtu(1_400));
    let changed = step(&mut programmed, &world);
    assert_eq!((changed.services, changed.ops.len()), (Some(0), 1), "the configuration alone");
    world.happen(&Event::Unreachable { node: 2, is: true });
    assert_eq!(step(&mut programmed, &world).services, None, "a silent node may be anybody's");
}

#[test]
fn an_emptied_pool_leaves_no_list() {
    let mut world = World::new();
    world.happen(&Event::Service { service: 0, maglev: false, vip: true, port: false });
    world.happen(&Event::Task { service: 0, slot: 0, node: 2 });
    world.happen(&Event::State { service: 0, slot: 0, ready: true, ended: false });
    let mut programmed = Programmed::from_tables(Tables::default(), 1 << 20);
    step(&mut programmed, &world);
    assert!(programmed.tables().rings.contains_key(&0), "the first list is at the array's beginning");
    world.happen(&Event::State { service: 0, slot: 0, ready: false, ended: false });
    step(&mut programmed, &world);
    assert!(programmed.tables().rings.is_empty());
}

#[test]
fn what_failed_is_planned_anew() {
    let mut world = whole_world();
    let mut programmed = Programmed::from_tables(Tables::default(), 1 << 20);
    step(&mut programmed, &world);
    world.happen(&Event::State { service: 1, slot: 2, ready: false, ended: false });
    let (cluster, observed) = (Arc::new(world.cluster.clone()), Arc::new(world.observed.clone()));
    let lost = programmed.round(&cluster, &observed, &world.facts);
    programmed.forget();
    let again = step(&mut programmed, &world);
    assert_eq!((again.services, again.ops.len()), (None, lost.ops.len()));
}

#[test]
fn a_pool_without_room_gets_some_when_there_is_some() {
    let mut world = whole_world();
    // Lists and rings of two services fit: 4 and 61 slots each, and as much to rest.
    let mut programmed = Programmed::from_tables(Tables::default(), 130);
    assert_eq!(step(&mut programmed, &world).refused.len(), SERVICES as usize - 2);
    for service in 0..SERVICES - 1 {
        world.happen(&Event::ServiceGone(service));
    }
    // Given up in the first round, resting in the second.
    assert_eq!([(); 3].map(|()| step(&mut programmed, &world).refused.len()), [1, 1, 0]);
}

/// Nodes with addresses of IPv6 are peers over IPv6: told shorter by what its header has more, by a link of their own.
#[test]
fn a_cluster_over_ipv6_has_links_and_sizes_of_its_own() {
    let mut world = World::new();
    let addr = |number: u32| Ipv6Addr::from(0xfd99 << 112 | u128::from(number));
    for node in world.cluster.nodes.clone().values() {
        let addr = addr(node.number).into();
        world
            .cluster
            .nodes
            .insert(node.id.clone(), Node { advertise_addr: addr, data_path_addr: addr, ..node.clone() });
    }
    let hop = NextHop { ifindex: 2, link_mac: [2; 6], mac: [4; 6], mtu: 1_500 };
    world.facts.addresses = BTreeMap::from([(addr(1).into(), 2)]);
    world.facts.next_hops = BTreeMap::from([(addr(2).into(), hop), (addr(3).into(), NextHop { mtu: 1_400, ..hop })]);
    world.facts.protected = [addr(3).into()].into();
    let image = compile(&world.cluster, &world.observed, &world.facts);
    let config = image.config.expect("it is a member");
    assert_eq!((config.tunnel_addr4, config.tunnel_addr6, config.tunnel_link), ([0; 4], addr(1).octets(), 2));
    let by = |number: u32| {
        let peer = image.peers[&number];
        (peer.addr, peer.ifindex, peer.ifindex6, peer.next_hop, peer.mtu)
    };
    assert_eq!(by(2), (addr(2).octets(), 0, 2, [4; 6], 1_480));
    assert_eq!(by(3), (addr(3).octets(), 0, 0, [0; 6], 1_480), "IPsec is for it: mesh0's, with the underlay's size");
    let flags = |number: u32| image.addresses[&addr(number).into()].flags;
    assert_eq!((flags(1), flags(2), flags(3)), (1, 2, 2 | 4));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_round_gives_what_planning_everything_gives(
        rounds in proptest::collection::vec(proptest::collection::vec(event(), 0..6), 1..12),
    ) {
        let mut world = World::new();
        let mut programmed = Programmed::from_tables(Tables::default(), 1 << 20);
        let (mut tables, mut placed) = (Tables::default(), Placed::default());
        for events in &rounds {
            events.iter().for_each(|event| world.happen(event));
            let round = step(&mut programmed, &world);
            let image = compile(&world.cluster, &world.observed, &world.facts);
            let (wanted, _) = place(image, &mut placed);
            prop_assert_eq!(&round.ops, &diff(&tables, &wanted));
            prop_assert_eq!(programmed.tables(), &wanted);
            tables = wanted;
        }
    }
}
