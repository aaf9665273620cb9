//! A cluster of so many services with so many tasks each, all on other nodes, as leader and gossip would show it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use mesh_userspace::model::{
    Attachment, Availability, Change, Cluster, Id, Mode, Network, NetworkAttachment, NetworkSpec, Node, Observed, Role,
    Runtime, Service, ServiceSpec, Settings, Task, TaskSpec, TaskState, TaskStatus, Vip,
};
use mesh_userspace::plan::maps::Facts;

/// Number and gateway of the network that everything is in.
pub const VNI: u32 = 4_097;
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
/// Nodes besides this one.
const PEERS: u32 = 10;
const KIND_NODE: u8 = 1;
const KIND_NETWORK: u8 = 2;
const KIND_SERVICE: u8 = 3;
const KIND_TASK: u8 = 4;

pub struct World {
    pub cluster: Cluster,
    pub observed: Observed,
    backends: u32,
}

/// Ids as random as real ones look: their order is not that of their numbers.
fn id(kind: u8, number: u32) -> Id {
    let mut bytes = [kind; 16];
    bytes[..4].copy_from_slice(&number.wrapping_mul(0x9e37_79b1).to_be_bytes());
    bytes[12..].copy_from_slice(&number.to_be_bytes());
    Id::from_bytes(bytes)
}

/// Address `n` of the network 10.0.0.0/8, after its gateway.
fn address(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 0, 0, 2)) + n)
}

impl World {
    pub fn new(services: u32, backends: u32) -> World {
        let mut cluster = Cluster {
            revision: 1,
            settings: Some(Settings {
                cluster_id: id(0, 1),
                address_pool: "10.0.0.0/8".parse().expect("a prefix"),
                subnet_len: 8,
                address_pool6: None,
                data_path_port: 4_789,
            }),
            ..Cluster::default()
        };
        let mut observed = Observed::default();
        for number in 1..=PEERS + 1 {
            let node = node(number);
            cluster.nodes.insert(node.id.clone(), node);
        }
        let network = network();
        for number in 0..services {
            let (service, tasks) = service(number, backends, services, &network.id);
            for task in tasks {
                observed.tasks.insert(task.id.clone(), running());
                cluster.apply(&[Change::PutTask(Box::new(task))]);
            }
            cluster.services.insert(service.id.clone(), service);
        }
        cluster.networks.insert(network.id.clone(), network);
        World { cluster, observed, backends }
    }

    /// What this node is: it has no task.
    pub fn facts(&self) -> Facts {
        Facts {
            this_node: id(KIND_NODE, 1),
            mesh0: 7,
            netns_cookie: 1,
            addresses: BTreeMap::from([(Ipv4Addr::new(192, 0, 2, 1).into(), 2)]),
            uplinks: BTreeMap::new(),
            next_hops: BTreeMap::new(),
            protected: Default::default(),
            task_links: BTreeMap::new(),
            ports_not_taken: Default::default(),
            flood_threshold: 0,
            task_mtu: 1_450,
            underlay_mtu: 1_500,
        }
    }

    /// Where the services are called.
    pub fn vips(&self) -> impl Iterator<Item = Ipv4Addr> {
        self.cluster.services.values().flat_map(|service| &service.vips).filter_map(|vip| vip.addrs.v4)
    }

    /// A task becomes ready, or ceases to be: the gossip's word of another node.
    pub fn toggle(&mut self, service: u32, backend: u32) {
        let task = id(KIND_TASK, service * self.backends + backend);
        let status = self.observed.tasks.get_mut(&task).expect("the world has this task");
        status.ready = !status.ready;
    }
}

fn node(number: u32) -> Node {
    let addr = Ipv4Addr::from(u32::from(Ipv4Addr::new(192, 0, 2, 0)) + number).into();
    Node {
        id: id(KIND_NODE, number),
        number,
        name: format!("n{number}"),
        role: Role::Worker,
        availability: Availability::Active,
        labels: BTreeMap::new(),
        advertise_addr: addr,
        ports: Default::default(),
        data_path_addr: addr,
        cert_fingerprint: String::new(),
        renewed_fingerprint: None,
        holds_store: false,
        runtimes: vec![Runtime::Exec],
        routed_prefixes: Vec::new(),
        joined_at: 0,
    }
}

fn network() -> Network {
    Network {
        id: id(KIND_NETWORK, 1),
        spec: NetworkSpec::named("bench"),
        vni: VNI,
        subnets: "10.0.0.0/8".parse().expect("a prefix"),
        gateways: GATEWAY.into(),
        ingress: false,
        removing: false,
        created_at: 0,
    }
}

fn service(number: u32, backends: u32, services: u32, network: &Id) -> (Service, Vec<Task>) {
    let task_spec = TaskSpec {
        command: ["/usr/local/bin/server", "--port", "8000"].map(str::to_owned).to_vec(),
        ..TaskSpec::new(Runtime::Exec)
    };
    let spec = ServiceSpec {
        mode: Mode::Replicated { replicas: backends },
        networks: vec![NetworkAttachment { network: network.to_string(), aliases: Vec::new() }],
        task: task_spec.clone(),
        ..ServiceSpec::new(&format!("service-{number}"), Runtime::Exec)
    };
    let name = spec.name.clone();
    let service = Service {
        id: id(KIND_SERVICE, number),
        vips: vec![Vip {
            network_id: network.clone(),
            addrs: address(services * backends + number).into(),
            pool: services * backends + number + 1,
        }],
        ports: Vec::new(),
        version: 1,
        previous_spec: None,
        pending_reason: None,
        spec,
        created_at: 0,
        updated_at: 0,
    };
    let task = |slot: u32| {
        let place = number * backends + slot;
        Task {
            id: id(KIND_TASK, place),
            service_id: service.id.clone(),
            service_name: name.clone(),
            slot: slot + 1,
            node_id: Some(id(KIND_NODE, 2 + place % PEERS)),
            spec: task_spec.clone().into(),
            adopted: None,
            service_version: 1,
            attachments: vec![Attachment {
                network_id: network.clone(),
                addrs: address(place).into(),
                endpoint: place + 1,
            }],
            desired: TaskState::Running,
            draining: false,
            leader_state: None,
            message: String::new(),
            created_at: 0,
            not_before: 0,
        }
    };
    let tasks = (0..backends).map(task).collect();
    (service, tasks)
}

fn running() -> TaskStatus {
    TaskStatus {
        state: TaskState::Running,
        ready: true,
        message: "started".to_owned(),
        error: None,
        exit_code: None,
        pid: None,
        health: None,
        since: 0,
    }
}
