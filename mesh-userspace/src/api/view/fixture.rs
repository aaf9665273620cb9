//! A small cluster for tests of views, routes and tables: n1 (manager, store, here), n2 (worker); network `demo`;
//! service `whoami` with two tasks and one failed predecessor.

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::Facts;
use crate::api::FlowFact;
use crate::model::*;

pub fn id(byte: u8) -> Id {
    Id::from_bytes([byte; 16])
}

pub const NOW: UnixMs = 1_000_000_000;

pub fn exec_spec(command: &[&str]) -> TaskSpec {
    TaskSpec { command: command.iter().map(|word| word.to_string()).collect(), ..TaskSpec::new(Runtime::Exec) }
}

pub fn service_spec(name: &str, replicas: u32) -> ServiceSpec {
    ServiceSpec {
        name: name.into(),
        labels: Default::default(),
        mode: Mode::Replicated { replicas },
        task: exec_spec(&["/usr/local/bin/whoami", "--port", "8000"]),
        networks: vec![NetworkAttachment { network: id(0xd0).to_string(), aliases: Vec::new() }],
        ports: vec![PortSpec::new(Protocol::Tcp, 8000, 8000)],
        endpoint_mode: EndpointMode::Vip,
        lb: Algorithm::RoundRobin,
        affinity: None,
        weight_by: None,
        update: UpdateConfig::default(),
        rollback: UpdateConfig::default(),
    }
}

pub fn node(byte: u8, number: u32, name: &str, role: Role) -> Node {
    let addr = Ipv4Addr::new(192, 168, 99, number as u8).into();
    Node {
        id: id(byte),
        number,
        name: name.into(),
        role,
        availability: Availability::Active,
        labels: Default::default(),
        advertise_addr: addr,
        ports: Default::default(),
        data_path_addr: addr,
        cert_fingerprint: String::new(),
        renewed_fingerprint: None,
        holds_store: number == 1,
        runtimes: vec![Runtime::Exec],
        routed_prefixes: Vec::new(),
        joined_at: NOW - 3_600_000,
    }
}

pub fn task(byte: u8, slot: u32, node: u8, age_ms: u64) -> Task {
    Task {
        id: id(byte),
        service_id: id(0x5e),
        service_name: "whoami".into(),
        slot,
        node_id: Some(id(node)),
        spec: exec_spec(&["/usr/local/bin/whoami", "--port", "8000"]).into(),
        service_version: 1,
        attachments: vec![Attachment {
            network_id: id(0xd0),
            addrs: Ipv4Addr::new(10, 0, 16, byte).into(),
            endpoint: byte.into(),
        }],
        desired: TaskState::Running,
        draining: false,
        leader_state: None,
        message: String::new(),
        created_at: NOW - age_ms,
        not_before: 0,
        adopted: None,
    }
}

fn report(state: TaskState, error: Option<&str>, age_ms: u64) -> TaskStatus {
    TaskStatus {
        message: "started".into(),
        error: error.map(str::to_string),
        exit_code: error.map(|_| 1),
        ..TaskStatus::new(state, state == TaskState::Running, NOW - age_ms)
    }
}

pub fn facts() -> Facts {
    let mut cluster = Cluster { revision: 7, ..Cluster::default() };
    for node in [node(0xa1, 1, "n1", Role::Manager), node(0xb2, 2, "n2", Role::Worker)] {
        cluster.nodes.insert(node.id.clone(), node);
    }
    let spec = NetworkSpec::named("demo");
    let demo = Network {
        id: id(0xd0),
        spec,
        vni: 4097,
        subnets: "10.0.16.0/20".parse().expect("a subnet"),
        gateways: Ipv4Addr::new(10, 0, 16, 1).into(),
        ingress: false,
        removing: false,
        created_at: NOW - 600_000,
    };
    cluster.networks.insert(demo.id.clone(), demo);
    let spec = service_spec("whoami", 2);
    let service = Service {
        id: id(0x5e),
        ports: spec.ports.clone(),
        spec,
        previous_spec: None,
        version: 1,
        vips: vec![Vip { network_id: id(0xd0), addrs: Ipv4Addr::new(10, 0, 16, 2).into(), pool: 1 }],
        pending_reason: None,
        created_at: NOW - 300_000,
        updated_at: NOW - 300_000,
    };
    cluster.services.insert(service.id.clone(), service);
    let failed = Task { desired: TaskState::Shutdown, ..task(0x13, 1, 0xb2, 120_000) };
    for task in [task(0x11, 1, 0xa1, 60_000), task(0x12, 2, 0xb2, 60_000), failed] {
        cluster.tasks.insert(task.id.clone(), task);
    }
    let mut observed = Observed::default();
    observed.tasks.insert(id(0x11), report(TaskState::Running, None, 59_000));
    observed.tasks.insert(id(0x12), report(TaskState::Running, None, 5_000));
    observed.tasks.insert(id(0x13), report(TaskState::Failed, Some("task: exit code 1"), 61_000));
    observed.agent_alive.insert(id(0xb2), true);
    Facts {
        cluster: Arc::new(cluster),
        observed: Arc::new(observed),
        me: Some(id(0xa1)),
        node_name: "n1".into(),
        agent_version: "0.1.0".into(),
        xdp: None,
        drops: Vec::new(),
        warnings: Vec::new(),
        now: NOW,
    }
}

/// A call to whoami.1 with its answer's entry, a datagram to whoami.2 that nobody answered, and a call to a task that is gone.
pub fn flows() -> Vec<FlowFact> {
    use mesh_common::family::Bytes;
    use mesh_common::schema::{Flow, FlowKey, flow_flag, rewrite};
    let addr = |last| [10, 0, 16, last].to_16();
    let (caller, vip) = (addr(9), addr(2));
    let call = Flow {
        addr: addr(0x11),
        from: 7,
        vni: 4097,
        backend: 0x11,
        rewrite: rewrite::DESTINATION,
        deliver: 1,
        seen: 1,
        packets: 6,
        bytes: 600,
        ..Flow::default()
    };
    let answer =
        Flow { addr: vip, rewrite: rewrite::SOURCE, flags: flow_flag::REVERSE, packets: 4, bytes: 4_000, ..call };
    let asked = Flow { backend: 0x12, addr: addr(0x12), seen: 0, packets: 1, bytes: 70, ..call };
    let gone = Flow { backend: 99, flags: flow_flag::DEAD, ..call };
    let fact = |key, flow, twin, silent_s| FlowFact { key, flow, twin, is_beside: false, silent_s };
    vec![
        fact(FlowKey::new(caller, vip, 40_000, 8_000, 6), call, Some(answer), 3),
        fact(FlowKey::new(addr(0x11), caller, 8_000, 40_000, 6), answer, Some(call), 3),
        fact(FlowKey::new(caller, vip, 5_353, 53, 17), asked, Some(Flow { packets: 0, bytes: 0, ..answer }), 12),
        fact(FlowKey::new(caller, vip, 40_001, 8_000, 6), gone, None, 4_000),
    ]
}
