//! The law of the funnel on arbitrary images, and the facts that this room's tests share.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proptest::collection::{btree_map, btree_set};
use proptest::prelude::*;

use super::*;
use crate::model::*;

/// Programmed state after one operation: what the kernel does, in values.
fn apply(state: &mut Programmed, op: NetOp) {
    match op {
        NetOp::AddMesh0(mesh0) => {
            assert!(state.mesh0.is_none(), "mesh0 exists already");
            (state.mesh0, state.mesh0_running) = (Some(mesh0), false);
        }
        NetOp::SetMesh0(mesh0) => {
            assert_eq!(state.mesh0.expect("mesh0 exists").port, mesh0.port, "the port of a device can't change");
            (state.mesh0, state.mesh0_running) = (Some(mesh0), true);
        }
        NetOp::RemoveMesh0 => {
            (state.mesh0, state.mesh0_running) = (None, false);
            state.addrs.clear();
            state.routes.clear();
            state.sysctls.retain(|key, _| !dies_with_our_link(key));
        }
        NetOp::AddAddress(addr) => {
            assert!(state.mesh0.is_some() && state.addrs.insert(addr));
        }
        NetOp::RemoveAddress(addr) => assert!(state.addrs.remove(&addr)),
        NetOp::SetRoute(subnet, route) => {
            assert!(state.mesh0_running, "a route needs a device that is up");
            state.routes.insert(subnet, route);
        }
        NetOp::RemoveRoute(subnet) => assert!(state.routes.remove(&subnet).is_some()),
        NetOp::AddTaskLink(link) => {
            assert!(state.task_links.insert(link.name.clone(), link.end()).is_none(), "the name is taken");
        }
        NetOp::SetTaskLink(link) => {
            assert!(state.task_links.insert(link.name.clone(), link.end()).is_some());
        }
        NetOp::RemoveTaskLink(name) => assert!(state.task_links.remove(&name).is_some()),
        NetOp::HoldPort(port) => assert!(state.held_ports.insert(port)),
        NetOp::ReleasePort(port) => assert!(state.held_ports.remove(&port)),
        NetOp::SetSysctl { key, value } => {
            assert!(!dies_with_our_link(&key) || state.mesh0.is_some(), "the key exists with the device only");
            if !dies_with_our_link(&key) {
                state.recorded_sysctls.insert(key.clone());
            }
            state.sysctls.insert(key, value);
        }
        NetOp::RestoreSysctl(key) => {
            assert!(state.recorded_sysctls.remove(&key));
            state.sysctls.remove(&key);
        }
    }
}

fn subnet() -> impl Strategy<Value = IpNet> {
    (0u8..6, any::<bool>()).prop_map(|(n, is_v4)| {
        let text = if is_v4 { format!("10.0.{}.0/20", n * 16) } else { format!("fd00:0:0:{n}::/64") };
        text.parse().unwrap()
    })
}

fn gateway() -> impl Strategy<Value = IpAddr> {
    subnet().prop_map(|net| net.hosts().next().unwrap())
}

fn link() -> impl Strategy<Value = TaskLink> {
    // Ids share their first 8 digits pairwise, so that names collide.
    (0u8..4, 0u8..2, 1400u32..1402, any::<bool>()).prop_map(|(name, tail, mtu, guest)| {
        let mut bytes = [name; 16];
        bytes[15] = tail;
        TaskLink {
            name: format!("mv{}", &Id::from_bytes(bytes).as_str()[..8]),
            task_id: Id::from_bytes(bytes),
            mac: [0xe6, 0x11, 0, 0, 0, name],
            mtu,
            addrs: vec![],
            gateways: Addresses::default(),
            guest,
        }
    })
}

fn held_port() -> impl Strategy<Value = HeldPort> {
    (8000u16..8004, any::<bool>(), proptest::option::of(1u8..3)).prop_map(|(port, tcp, addr)| HeldPort {
        transport: if tcp { Transport::Tcp } else { Transport::Udp },
        port,
        address: addr.map(|last| [192, 0, 2, last].into()),
    })
}

fn image() -> impl Strategy<Value = NetImage> {
    let mesh0 = (4789u16..4791, 1u8..3, 1400u32..1402).prop_map(|(port, node, mtu)| Mesh0 {
        port,
        mac: [0xe6, 0x12, 0, 0, 0, node],
        mtu,
    });
    let route = (proptest::option::of(Just(IpAddr::from([192, 168, 0, 1]))), 1400u32..1402);
    let routes = btree_map(subnet(), route.prop_map(|(src, mtu)| Route { src, mtu }), 0..4);
    let gateways = btree_set(gateway(), 0..3);
    let own = proptest::option::of(Just("fd00::6d65:7368:0:1".parse::<IpAddr>().unwrap()));
    let sysctls = btree_map("net/ipv4/[ab]".prop_map(String::from), "[01]".prop_map(String::from), 0..2);
    let links = proptest::collection::vec(link(), 0..4);
    (proptest::option::of(mesh0), routes, (gateways, own), sysctls, links, btree_set(held_port(), 0..4)).prop_map(
        |(mesh0, mut routes, mut addrs, mut sysctls, links, held_ports)| {
            if mesh0.is_some() {
                sysctls.insert("net/ipv4/conf/mesh0/forwarding".into(), "1".into());
            } else {
                (routes, addrs) = Default::default();
            }
            let task_links = links.into_iter().map(|link| (link.name.clone(), link)).collect();
            let (gateways, own_addr) = addrs;
            NetImage { mesh0, gateways, own_addr, routes, task_links, held_ports, sysctls }
        },
    )
}

proptest! {
    #[test]
    fn applying_the_difference_gives_what_was_wanted(before in image(), wanted in image(), running in any::<bool>()) {
        let mut state = before.footprint();
        if !running && state.mesh0.is_some() {
            // A device that was set down has lost its routes.
            state.mesh0_running = false;
            state.routes.clear();
        }
        for op in diff(&state.clone(), &wanted) {
            apply(&mut state, op);
        }
        prop_assert_eq!(&state, &wanted.footprint());
        prop_assert_eq!(diff(&state, &wanted), vec![]);
    }

    #[test]
    fn nothing_is_done_for_what_is_as_wanted(image in image()) {
        prop_assert_eq!(diff(&image.footprint(), &image), vec![]);
    }

    #[test]
    fn a_half_made_link_is_made_anew(image in image()) {
        let mut state = image.footprint();
        for end in state.task_links.values_mut() {
            end.task_id = None;
        }
        for op in diff(&state.clone(), &image) {
            apply(&mut state, op);
        }
        prop_assert_eq!(&state, &image.footprint());
    }
}

/// An id whose 32 digits are this byte again and again.
pub(super) fn id(n: u8) -> Id {
    Id::from_bytes([n; 16])
}

/// Two nodes, two networks, one service on `demo` with a task on node 1.
pub(super) fn facts() -> (Cluster, Observed) {
    let network = |n: u8, name: &str, vni, subnets: &str, gateways: &str| Network {
        id: id(n),
        spec: NetworkSpec::named(name),
        vni,
        subnets: subnets.parse().unwrap(),
        gateways: gateways.parse().unwrap(),
        ingress: vni == 4096,
        removing: false,
        created_at: 0,
    };
    let node = |n: u8| Node {
        id: id(n),
        number: n.into(),
        name: format!("n{n}"),
        role: Role::Manager,
        availability: Availability::Active,
        labels: BTreeMap::new(),
        advertise_addr: IpAddr::from([192, 168, 7, n]),
        ports: Default::default(),
        data_path_addr: IpAddr::from([192, 168, 7, n]),
        cert_fingerprint: String::new(),
        renewed_fingerprint: None,
        holds_store: n == 1,
        runtimes: vec![Runtime::Exec],
        routed_prefixes: vec![],
        joined_at: 0,
    };
    let settings = Settings {
        cluster_id: id(200),
        address_pool: "10.0.0.0/8".parse().unwrap(),
        subnet_len: 20,
        address_pool6: None,
        data_path_port: 4789,
    };
    let cluster = Cluster {
        revision: 1,
        settings: Some(settings),
        nodes: [1, 2].map(|n| (id(n), node(n))).into(),
        networks: [
            (id(20), network(20, "ingress", 4096, "10.0.0.0/20", "10.0.0.1")),
            (id(21), network(21, "demo", 4097, "10.0.16.0/20", "10.0.16.1")),
        ]
        .into(),
        services: vec![(id(30), service())].into(),
        tasks: vec![(id(7), task())].into(),
        ..Cluster::default()
    };
    let running = TaskStatus::new(TaskState::Running, true, 0);
    (cluster, Observed { tasks: vec![(id(7), running)].into(), ..Default::default() })
}

fn service() -> Service {
    let port = |protocol, published, mode| PortSpec { mode, ..PortSpec::new(protocol, published, 80) };
    let ports = vec![
        port(Protocol::Tcp, 8000, PublishMode::Ingress),
        port(Protocol::Udp, 5353, PublishMode::Ingress),
        port(Protocol::Tcp, 9000, PublishMode::Host),
        port(Protocol::Sctp, 7000, PublishMode::Ingress),
    ];
    Service {
        id: id(30),
        spec: ServiceSpec {
            name: "whoami".into(),
            labels: BTreeMap::new(),
            mode: Mode::Replicated { replicas: 1 },
            task: task_spec(),
            networks: vec![],
            ports: ports.clone(),
            endpoint_mode: EndpointMode::Vip,
            lb: Algorithm::RoundRobin,
            affinity: None,
            weight_by: None,
            update: UpdateConfig::default(),
            rollback: UpdateConfig::default(),
        },
        previous_spec: None,
        version: 1,
        vips: vec![],
        ports,
        pending_reason: None,
        created_at: 0,
        updated_at: 0,
    }
}

fn task() -> Task {
    Task {
        id: id(7),
        service_id: id(30),
        service_name: "whoami".into(),
        slot: 1,
        node_id: Some(id(1)),
        spec: task_spec().into(),
        service_version: 1,
        attachments: vec![Attachment { network_id: id(21), addrs: "10.0.16.5".parse().unwrap(), endpoint: 77 }],
        desired: TaskState::Running,
        draining: false,
        leader_state: None,
        message: String::new(),
        created_at: 0,
        not_before: 0,
        adopted: None,
    }
}

fn task_spec() -> TaskSpec {
    TaskSpec { command: vec!["whoami".into()], ..TaskSpec::new(Runtime::Exec) }
}
